//! Session ↔ init, the first process in the jail.
//!
//! init reads its [`InitPlan`] from a sealed memfd, does its numbered list up to and including
//! Landlock, and sends [`InitReport::Confined`] with the listening sockets. The session has the start
//! recorded and sends [`Go`]. init applies seccomp and executes the command: the channel then closes
//! (close-on-exec). [`InitReport::Failed`] at any time means that the command was not executed.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::audit::Isolation;

/// Everything init needs to know; nothing in it is secret, and the command can read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InitPlan {
    /// What comes first where init is started as uid 0 of a namespace that root made.
    pub takeover: Option<Takeover>,
    /// Loopback ports to listen on, in the order the gate expects the sockets.
    pub listen: Vec<u16>,
    /// The loopback port for datagrams of SOCKS5 clients; its socket comes behind the listeners.
    pub datagrams: Option<u16>,
    /// Whether the jail's network namespace is to come with [`InitReport::Confined`], after the sockets: for
    /// helpers that work in it from outside (see [`super::transparent`] and [`super::reach`]). After it comes, where
    /// the kernel has one, a socket that asks about the sockets there (see [`super::witness`]).
    pub network: bool,
    /// Paths in the jail that Landlock lets be read and executed.
    pub readable: Vec<PathBuf>,
    /// Paths in the jail that Landlock lets be written as well.
    pub writable: Vec<PathBuf>,
    /// Sockets of the host that Landlock lets be connected to.
    pub sockets: Vec<PathBuf>,
    /// The most that the command's processes get.
    pub rlimits: Rlimits,
    /// The lowest Landlock ABI that the profile accepts.
    pub landlock_floor: u8,
    /// Which bubblewrap built the jail, for the report.
    pub bwrap: String,
    /// The command and its arguments; the first is looked up in `PATH` of `env` unless it has a slash.
    pub argv: Vec<String>,
    /// The whole environment of the command.
    pub env: Vec<(String, String)>,
}

/// How uid 0 of the jail's user namespace becomes the user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Takeover {
    /// The user, by the number that they have inside and outside.
    pub uid: u32,
    /// What is theirs of what bubblewrap has made in memory, in this order.
    pub give: Vec<PathBuf>,
    /// The working directory.
    pub folder: PathBuf,
}

/// What setrlimit(2) limits; what is not there stays as the caller has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rlimits {
    /// Open files of one process.
    pub open_files: Option<u64>,
    /// Bytes of one file that is written.
    pub file_size: Option<u64>,
    /// Processes and threads in the jail, where no control group counts them.
    pub processes: Option<u64>,
}

/// The session's word that the start is recorded and the gate serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Go {}

/// What init says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum InitReport {
    /// Confined but for seccomp; the listening sockets came with this frame, in the plan's order, and after
    /// them the network namespace if the plan asks for it.
    Confined(Isolation),
    /// The command will not be executed.
    Failed(InitFailure),
}

/// Why init gave up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InitFailure {
    /// The step of the list in `jail::init`, as `bind 127.0.0.1:3128`.
    pub step: String,
    /// Cause and cure, one line.
    pub error: String,
    /// Which exit code it means.
    pub kind: FailureKind,
}

/// Maps to the exit code of `run`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::enum_variant_names, reason = "the words of the exit codes")]
pub enum FailureKind {
    /// 125.
    NotStarted,
    /// 126.
    NotExecutable,
    /// 127.
    NotFound,
}
