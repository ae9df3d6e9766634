//! Retention: how long and how much of the logs is kept, what is packed meanwhile, and what is not touched.
//!
//! Owns: the rules ([`rules`]), what a folder holds ([`inventory`]), which of it has to go ([`plan`], pure), legal
//! holds ([`hold`]), packing closed segments ([`pack`]), and doing all of it ([`prune`]), also with what lies beside
//! logs ([`files`]) and with the ledger ([`ledger`]), of which nothing is removed. Never: removes what
//! is written, held, or does not verify (that is evidence), and nothing of a log without a tombstone: the ledger
//! says, signed, what is removed before it is.
//!
//! Reading order: [`rules`] → [`inventory`] → [`plan`] → [`hold`] → [`pack`] → [`files`] → [`prune`] → [`ledger`].

pub mod files;
pub mod hold;
pub mod inventory;
pub mod ledger;
pub mod pack;
pub mod plan;
pub mod prune;
pub mod rules;

pub use hold::Hold;
pub use inventory::Stored;
pub use plan::{Removal, Why};
pub use prune::{Prune, PruneError, Step};
pub use rules::{Keep, Retention};
