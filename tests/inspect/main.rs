//! TLS that ends at the gate: real clients and hostile ones, judged request by request. The test plays
//! the session and the audit writer.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests may panic"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "tests start real clients and connect to the gate as the jail does"
)]

mod certificates;
mod client;
mod clients;
mod credentials;
mod exchanged;
mod fronting;
mod handshake;
mod http1;
mod http2;
mod plain;
mod policy;
mod scene;
mod websocket;

#[path = "../support/gate.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod test_gate;
#[path = "../support/tls_origin.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod tls_origin;
