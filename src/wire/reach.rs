//! Session ↔ `portcullis-init reach`, the helper that connects to the jail's own ports.
//!
//! The helper is given the jail's network namespace when it starts. The session sends a [`Reach`] a
//! connection; each is answered by one [`Reached`], in order, the connected socket with it.

use serde::{Deserialize, Serialize};

use crate::policy::Port;

/// The order to connect to a TCP port of the jail's loopback.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reach {
    /// Which.
    pub port: Port,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Reached {
    /// The connected socket came with this frame.
    Connected,
    /// The kernel refused it: the errno.
    Refused(i32),
    /// The helper is of no use, and ends: step and cause, one line.
    Unable(String),
}
