//! Session ↔ `portcullis-init intercept`, and what both and the gate know of a jail whose programs need know
//! no proxy.
//!
//! init, in the jail, sends the session its network namespace beside the listeners. The session passes it
//! on with [`Intercept`]; the helper, which runs outside with the caller's own rights, makes every address
//! of that namespace lead to a listener, and answers [`Intercepted`] with the sockets, in this order:
//! transparent TCP over IPv4, DNS over UDP, DNS over TCP, and, where the jail has IPv6, transparent TCP over
//! IPv6. In this order the gate takes them, after HTTP and SOCKS5.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// The address of the jail's own network beside 127.0.0.1. From the block for benchmarks (RFC 2544), which
/// is routed nowhere; the gate's pool of addresses for names begins above it.
pub const OWN_V4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);

/// The same for IPv6, from the block for benchmarks (RFC 5180).
pub const OWN_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 1);

/// The order to take over the connections of the network namespace that came with this frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Intercept {}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Intercepted {
    /// Every connection leads to the sockets that came with this frame.
    Done,
    /// It could not be done: step, cause and cure, one line.
    Failed(String),
}
