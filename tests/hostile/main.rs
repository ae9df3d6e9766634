//! A hostile client against each known mechanism by which filters and jails were broken. Every mechanism has
//! an identifier, a letter and two digits, which stands as a comment above the tests that cover it, here or
//! in the suite where the feature is at home; `coverage` holds the list.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests may panic"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "tests start real programs and connect to the gate as the jail does"
)]

mod addresses;
mod coverage;
mod environment;
mod framing;
mod ground;
mod hosts;
mod names;
mod socks5;
mod tls;

#[path = "../support/cli.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod cli;
#[path = "../gate/client.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod client;
#[path = "../support/dns.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod dns_stub;
#[path = "../inspect/client.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod inside;
#[path = "../inspect/scene.rs"]
mod scene;
#[path = "../support/gate.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod test_gate;
#[path = "../support/tls_origin.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod tls_origin;
#[path = "../support/upstream.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod upstream;
