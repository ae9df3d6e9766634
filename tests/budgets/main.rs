//! Budgets as a user meets them: in profiles, in sessions that they end, at another terminal.
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
mod limits;
mod profiles;
mod running;
#[path = "../ask/scene.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod scene;
