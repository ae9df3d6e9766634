//! The gate against real clients and hostile ones. The test plays the session and the audit writer.
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

mod ask;
mod audit;
mod budgets;
mod client;
mod confinement;
mod connect;
mod credentials;
mod dns;
mod half_close;
mod http;
mod lifecycle;
mod limits;
mod live;
mod malformed;
mod origins;
mod socks5;
mod socks5_udp;
mod via;
mod via_absolute;
mod via_tls;
mod websocket;

#[path = "../support/dns.rs"]
mod dns_stub;
#[path = "../support/proxy.rs"]
mod proxy;
#[path = "../support/gate.rs"]
mod test_gate;
#[path = "../support/tls_origin.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod tls_origin;
#[path = "../support/tls_proxy.rs"]
mod tls_proxy;
#[path = "../support/upstream.rs"]
mod upstream;
