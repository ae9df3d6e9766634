//! Programs that know no proxy, in real jails of real sessions, as root and as an ordinary user: what the
//! policy allows works as if there were no gate, and anything else fails at once and is on record.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests may panic and start programs"
)]

#[path = "../support/cli.rs"]
mod cli;
mod clients;
mod confinement;
#[path = "../support/dns.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod dns;
mod inspected;
mod literals;
mod names;
mod scene;
#[path = "../support/upstream.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod upstream;
