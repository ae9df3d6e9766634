//! A session: one confined run, from its command line to its last record.
//!
//! Owns: who calls ([`caller`]), what is settled first ([`plan`]), the companions it starts
//! ([`companions`], by its [`starter`]), the launch and the end ([`launch`]), the wait between
//! ([`watch`]) and what is done meanwhile ([`desk`]: [`approvals`], a [`live`] profile, the [`socket`],
//! a [`terminal`] of its own if it is detached). Trusts: the caller, whose rights it has and never exceeds; of the
//! jail nothing but that it can end. Never: reads or judges traffic (the gate does), writes the log
//! (the audit writer does).
//!
//! Reading order: [`launch`] is the numbered list; the other files are what its steps lean on.
#![forbid(unsafe_code)]

use crate::ids::SessionId;

mod alive;
pub mod approvals;
pub mod caller;
mod changes;
pub mod command;
pub mod companions;
mod credentials;
pub mod desk;
pub mod environment;
pub mod error;
mod folders;
pub mod forward;
pub mod jail_trust;
pub mod java_keystore;
pub mod known_bwrap;
mod launch;
pub mod limits;
pub mod live;
pub mod observer;
mod plan;
pub mod profiles;
mod project_file;
pub mod registries;
pub mod requester;
pub mod resources;
pub mod restarts;
pub mod running;
pub mod service;
pub mod signals;
pub mod socket;
pub mod starter;
pub mod terminal;
pub mod trust;
pub mod trust_store;
pub mod upstream;
pub mod watch;

pub use approvals::Ask;
pub use error::LaunchError;
pub use launch::{Report, run};
pub use plan::LaunchRequest;
pub use watch::Notice;

/// What a session leans on that it did not make itself.
#[derive(Debug, Default)]
pub struct Backing {
    /// The service that started it; `None`: it starts gate and audit writer itself.
    pub service: Option<service::Shared>,
    /// Whoever asked for it, where that is another process that waits for its end.
    pub requester: Option<requester::Requester>,
}

/// What a person should hear before the command ends.
#[derive(Debug, Clone)]
pub enum Progress<'a> {
    /// Something about the launch that the caller may not expect.
    Note(&'a str),
    /// Something happened while the command ran.
    Notice(Notice),
    /// The start is on record and the command is executed.
    Started(SessionId),
}
