//! Real sessions whose gate, audit writer or witness dies: another one takes its place, nothing leaves meanwhile that
//! would not have left before, nothing that was acknowledged is lost, and nothing that was used up is back.
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
mod disk;
#[path = "../support/dns.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod dns;
mod ends;
mod gate;
mod late;
#[path = "../ask/scene.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod scene;
mod state;
mod support;
#[path = "../support/tls_origin.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod tls_origin;
#[path = "../support/upstream.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod upstream;
mod witness;
mod writer;
