//! The audit log: what happened, in an order nobody can change unseen.
//!
//! Owns: the events ([`event`]) and their caps ([`cap`]), the form of a record ([`record`]), the hash
//! chain ([`chain`]), the folder ([`folder`]), the segments ([`segment`]) and the open file ([`log`]) it is kept in, the process that
//! writes it ([`writer`]), reading ([`reader`]; leniently, [`facts`]), verification ([`verify`]), a session's
//! story ([`summary`]), and finding records: what is looked for ([`filter`]) and an index ([`index`]). Trusts: the writer trusts no client further than its frames; a client names neither
//! sequence, time nor hashes. Never: a secret in a record, a network.
//!
//! Reading order: [`event`] → [`record`] → [`chain`] → [`log`] → [`writer`]; [`reader`] → [`verify`].
//! [`writer`] is a process and stands above `wire`; everything else here stands below it.
#![forbid(unsafe_code)]

mod cap;
pub mod chain;
pub mod event;
pub mod facts;
pub mod filter;
pub mod folder;
pub mod index;
pub mod limit;
pub mod lock;
pub mod log;
pub mod reader;
pub mod record;
pub mod segment;
pub mod summary;
pub mod verify;
mod words;
pub mod writer;

pub use chain::ChainHash;
pub use event::{AuditEvent, DnsAnswer, EndedBy, Isolation, Shortfall, Source, Status};
pub use limit::{Counted, LimitAction};
pub use record::AuditRecord;
