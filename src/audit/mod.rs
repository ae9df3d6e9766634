//! The audit log: what happened, in an order nobody can change unseen.
//!
//! Owns: the events ([`event`], [`http`], [`limit`], [`changes`]), their caps ([`cap`]) and what is taken out of them ([`redact`]), kept
//! bodies ([`bodies`]), the form of a record ([`record`]), the hash
//! chain ([`chain`]), the folder ([`folder`]), the segments ([`segment`]; when the next begins, [`roll`]) and the open file ([`log`]) it is kept in, the process that
//! writes it ([`writer`]), reading ([`reader`]; leniently, [`facts`]), verification ([`verify`]) against a signed ledger
//! ([`ledger`]; of a host, [`notary`]), the forms of other tools ([`export`], [`forward`]), finding records (what is looked for,
//! [`filter`], and an [`index`]), a session's story ([`summary`]) and how long all is kept ([`retention`], [`settings`]);
//! [`process`] is who made a connection. Trusts: the writer trusts no client further than its frames; a client names neither
//! sequence, time nor hashes. Never: a secret in a record, a network.
//!
//! Reading order: [`event`] → [`record`] → [`chain`] → [`log`] → [`writer`]; [`reader`] → [`verify`].
//! [`writer`] is a process and stands above `wire`; everything else here stands below it.
#![forbid(unsafe_code)]

pub mod bodies;
mod cap;
pub mod chain;
pub mod changes;
pub mod event;
pub mod export;
pub mod facts;
pub mod filter;
pub mod folder;
pub mod forward;
pub mod host;
pub mod http;
pub mod index;
pub mod ledger;
pub mod limit;
pub mod lock;
pub mod log;
pub mod loss;
pub mod notary;
pub mod process;
pub mod reader;
pub mod record;
pub mod redact;
pub mod retention;
pub mod roll;
pub mod segment;
pub mod settings;
pub mod summary;
pub mod verify;
mod words;
pub mod writer;

pub use chain::ChainHash;
pub use event::{AuditEvent, DnsAnswer, EndedBy, Isolation, LostBy, Shortfall, Source, Status};
pub use limit::{Counted, LimitAction};
pub use process::{Process, ProcessUnknown};
pub use record::AuditRecord;
