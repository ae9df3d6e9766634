//! Who answers where a policy asks, and policies that change: real sessions, real programs, a second
//! process of the same user.
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
mod live;
mod others;
mod program;
mod scene;
