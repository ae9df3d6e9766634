//! Real clients in real jails of real sessions, under profiles that look into TLS or need no proxy variable:
//! each gets what the policy allows, unchanged, and hears of it when it is refused the rest.
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
mod curl;
#[path = "../support/dns.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod dns;
mod forge;
mod go;
mod node;
mod openssl;
mod python;
mod scene;
mod ssh;
#[path = "../support/tls_origin.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod tls_origin;
