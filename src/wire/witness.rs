//! Session ↔ `portcullis-init witness` ↔ gate: which process of the jail made a connection.
//!
//! The witness is started once the jail stands and lives as long as the session. The session sends it
//! [`Order::Jail`], then [`Order::Gate`] for each gate, with one end of a new channel; the gate gets the other
//! end. On that channel the gate sends [`Asked`] and is answered one [`Told`] each, in order. Nothing else can be
//! asked there: a gate that was taken over learns which programs of its own jail made connections, and no more.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::audit::process::{Process, ProcessUnknown};

/// After so long nobody waits for an answer any more: the record is written without.
pub const PATIENCE: Duration = Duration::from_millis(300);

/// The longest body of an [`Asked`], in bytes.
pub const MAX_ASKED: usize = 1 << 10;

/// The longest body of a [`Told`], in bytes: what a process shows, each byte of it escaped.
pub const MAX_TOLD: usize = 256 << 10;

/// Session → witness.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Order {
    /// First: the jail. Brings init's folder under `/proc`, and, where the kernel has one, a socket of the jail's
    /// network namespace that asks about its sockets (sock_diag(7)).
    Jail,
    /// The channel of a gate; a later one replaces the one before, whose gate died.
    Gate,
}

/// Session → gate, on the channel that came with [`GateCommand::Witness`](super::gate::GateCommand::Witness).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Introduction {
    /// The witness died, and this is the channel to another one.
    Witness,
}

/// The transport of what was accepted or received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// A connection.
    Tcp,
    /// A datagram.
    Udp,
}

/// Gate → witness: whose is the socket in the jail with these addresses?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// Comes back with the answer.
    pub id: u64,
    /// What it is.
    pub protocol: Protocol,
    /// Its own address: the peer's, for the gate.
    pub client: SocketAddr,
    /// Where it leads, as the program in the jail has it.
    pub server: SocketAddr,
}

/// Witness → gate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Told {
    /// Of which question.
    pub id: u64,
    /// Who, or why not.
    pub maker: Maker,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Maker {
    /// This process.
    Process(Box<Process>),
    /// Nobody can be named.
    Unknown(ProcessUnknown),
}
