//! What one session may take of the machine: profiles, real jails that want more, what is left behind.
//!
//! Control groups are made by root here; what needs none is tested as an ordinary user as well.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests may panic and start programs"
)]

#[path = "../support/cli.rs"]
mod cli;
mod ends;
mod enforced;
mod floor;
mod profiles;
mod scene;
