//! Who made a connection: real jails of real sessions, as root and as an ordinary user, under the service, and the
//! witness by itself. What the log says is compared whole, with what the programs say of themselves.
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
#[path = "../support/dns.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod dns;
mod doors;
#[path = "../support/fd_store.rs"]
mod fd_store;
mod hiding;
mod lives;
mod place;
#[path = "../transparent/scene.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod scene;
mod served;
#[path = "../support/service.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod service;
mod shown;
#[path = "../support/upstream.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod upstream;
mod witness;
