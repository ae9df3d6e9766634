//! The ledger: the hash chain of a host. It binds the heads of the sessions' logs and is signed.
//!
//! Owns: the form of an entry ([`entry`]), the keys ([`key`]), the files that follow one another ([`segment`]),
//! appending under a lock ([`append`]), reading and verifying ([`read`]), comparing logs ([`compare`]) and
//! checkpoints kept elsewhere ([`anchor`]) with it.
//! It lies in the folder [`FOLDER`] beside the logs. Who appends: without the service each session's audit
//! writer, under it the notary alone. Trusts: whoever can read the key. Never: judges what stands in a log,
//! writes one.
//!
//! A log alone shows any change to a part of it; with the ledger also that its tail is gone, that it was
//! written anew or removed. A ledger alone that lost its own tail looks like a younger one: that only a
//! checkpoint tells that was kept elsewhere.

pub mod anchor;
pub mod append;
mod batch;
mod bound;
pub mod compare;
pub mod entry;
mod error;
mod flaw;
pub mod key;
pub mod newest;
mod open;
pub mod read;
pub mod segment;
mod tail;

pub use append::Ledger;
pub use entry::{LedgerEvent, LogHead, LogState};
pub use error::LedgerError;
pub use key::PublicKey;

/// Name of the folder, beside the logs.
pub const FOLDER: &str = "ledger";
/// Name of the file that the entries begin in, in that folder: see [`segment`].
pub const FILE: &str = "ledger.jsonl";

/// After how many records a log is bound at the latest.
pub const RECORDS: u64 = 1000;
/// After how long a record is bound at the latest.
pub const INTERVAL: std::time::Duration = std::time::Duration::from_secs(10);
