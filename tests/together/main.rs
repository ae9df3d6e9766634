//! Features that meet: inspected TLS with questions, budgets, upstream proxies, credentials, a live policy,
//! the other doors, and all of them at the end. Gates with the test as session and audit writer, and real
//! sessions.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests may panic, start programs and connect to the gate as the jail does"
)]

mod asks;
mod budgets;
mod doors;
mod ends;
mod live;
mod proxies;
mod sessions;
mod support;

#[path = "../support/cli.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod cli;
#[path = "../inspect/client.rs"]
#[expect(dead_code, reason = "shared with another suite")]
mod client;
#[path = "../support/dns.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod dns;
#[path = "../transparent/scene.rs"]
#[expect(dead_code, reason = "shared with another suite")]
mod jail;
#[path = "../support/proxy.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod proxy;
#[path = "../gate/client.rs"]
#[expect(dead_code, reason = "shared with another suite")]
mod raw;
#[path = "../inspect/scene.rs"]
mod scene;
#[path = "../support/gate.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod test_gate;
#[path = "../support/tls_origin.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod tls_origin;
#[path = "../support/tls_proxy.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod tls_proxy;
#[path = "../support/upstream.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod upstream;
