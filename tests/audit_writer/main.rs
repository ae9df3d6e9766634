//! The real `portcullis-audit` over real sockets: what it takes, what it refuses, how it ends.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests may panic")]
#![expect(clippy::disallowed_methods, reason = "tests start mount(8)")]

mod binding;
mod bodies;
mod clients;
mod confined;
mod ending;
mod outage;
mod resuming;
mod segments;
mod start;
mod support;
