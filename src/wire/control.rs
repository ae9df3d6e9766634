//! Anybody on the host ↔ `portcullisd`, over [`SOCKET`].
//!
//! A peer sends one [`ControlRequest`] a connection and reads one [`ControlReply`]. Who it is the kernel says
//! (SO_PEERCRED, unix(7)), never the frame. After [`ControlReply::Launching`] the connection is the session
//! process's: it speaks [`super::detached`] from then on, and the daemon has let go of it. Who sends a descriptor
//! to the daemon is cut off.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::{SessionId, SessionName};

/// Where the daemon listens.
pub const SOCKET: &str = "/run/portcullis/control.sock";

/// The longest request, in bytes: a command line and an environment (execve(2) has room for 2 MiB of both).
pub const MAX_REQUEST: usize = 4 << 20;

/// The longest reply, in bytes: some thousand sessions.
pub const MAX_REPLY: usize = 4 << 20;

/// What is asked of the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ControlRequest {
    /// Start a session as me. Answered by [`ControlReply::Launching`]; the descriptors then go to the session
    /// ([`super::detached::FromStarter::Place`]).
    Launch(Box<Launch>),
    /// Which sessions run that I may know of? Answered by [`ControlReply::Sessions`].
    List,
    /// Connect me to this session. Answered by [`ControlReply::Connected`], which brings a channel on which
    /// [`super::session`] is spoken.
    Connect {
        /// Which.
        session: SessionId,
    },
    /// Of which sessions are there logs that I may read? Answered by [`ControlReply::Logs`].
    Logs,
    /// Let me read this session's log. Answered by [`ControlReply::Log`], which brings the open file.
    OpenLog {
        /// Which.
        session: SessionId,
    },
}

/// A session that somebody wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Launch {
    /// Name of the profile; the daemon judges whether the peer may use it.
    pub profile: String,
    /// What the peer calls the session.
    pub name: Option<SessionName>,
    /// It outlives the peer.
    pub detached: bool,
    /// The peer's file mode creation mask (umask(2)).
    pub umask: u32,
    /// How many files the peer may have open (`RLIMIT_NOFILE`, the soft one).
    pub open_files: u64,
    /// The peer's variables, as far as they are UTF-8. The daemon only hands them on.
    pub environment: Vec<(String, String)>,
    /// The session's launch request, as JSON text (`session::LaunchRequest`). The daemon only hands it on.
    pub request: String,
}

/// What the daemon answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ControlReply {
    /// The session process is there; it speaks from now on.
    Launching(SessionId),
    /// The sessions, oldest first.
    Sessions(Vec<Listed>),
    /// The channel came with this frame.
    Connected,
    /// Sessions with a log, oldest first.
    Logs(Vec<SessionId>),
    /// The file came with this frame.
    Log,
    /// No; cause and cure, one line.
    Refused {
        /// Why.
        kind: Refusal,
        /// For a person.
        message: String,
    },
}

/// Why the daemon says no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// The peer may not.
    NotPermitted,
    /// There is no such session.
    NotFound,
    /// It could not be done now.
    Failed,
}

/// A session as the daemon knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listed {
    /// The session.
    pub session: SessionId,
    /// Whose it is.
    pub user: String,
    /// The same as a number.
    pub uid: u32,
    /// What its caller calls it.
    pub name: Option<SessionName>,
    /// Name of the profile.
    pub profile: String,
    /// When the daemon started it.
    pub since: Timestamp,
}
