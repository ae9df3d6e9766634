//! The service: `portcullisd` on a host of its own, started by hand, with real users, jails and gates.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests may panic and start programs"
)]

#[path = "../support/cli.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod cli;
#[path = "../support/fd_store.rs"]
mod fd_store;
#[path = "../support/linger.rs"]
mod linger;
#[path = "../support/service.rs"]
mod service;
#[path = "../support/terminal.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod terminal;

mod bodies;
mod frames;
mod full;
mod launch;
mod ledger;
mod others;
mod segments;
mod surviving;
mod terminals;
