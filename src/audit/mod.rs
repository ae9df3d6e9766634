//! The audit log: what happened, in an order nobody can change unseen.
//!
//! Owns: the records ([`event`], [`record`]), the hash chain ([`chain`]), the process that writes it
//! ([`writer`]) and the reader ([`reader`]). Trusts: the writer trusts no client further than its
//! frames; a client names neither sequence, time nor hashes. Never: a secret in a record, a network.
//!
//! Reading order: [`event`] → [`record`] → [`chain`] → [`writer`] → [`reader`].
#![forbid(unsafe_code)]

pub mod event;
pub mod writer;

pub use event::{AuditEvent, EndedBy, Isolation, Shortfall, Status};
