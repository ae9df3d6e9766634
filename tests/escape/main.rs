//! Escapes, tried from inside real jails by a probe: one module a layer, each case as root, as an
//! ordinary user and as one whose session the daemon has started, each with a twin that shows that the same act works where nothing forbids it.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests may panic and start real programs"
)]

#[path = "../support/act.rs"]
mod act;
mod acts;
mod bench;
mod confinement;
mod crash;
mod filesystem;
mod network;
#[path = "../support/order.rs"]
mod order;
#[path = "../support/probe.rs"]
mod probe;
mod process;
mod protected;
mod replaced;
mod syscalls;
mod terminal;
mod unix_sockets;
