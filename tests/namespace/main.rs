//! Sessions in a user namespace that root made, as the daemon starts them: they need no permission to make one
//! themselves, nobody outside gets into it, and for the command nothing is different.
#![expect(
    clippy::unwrap_used,
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
mod insiders;
mod network;
mod outsiders;
#[path = "../support/probe.rs"]
mod probe;
mod scene;
#[path = "../support/upstream.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod upstream;
