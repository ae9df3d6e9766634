//! Anybody on the host ↔ `portcullisd`, over [`SOCKET`].
//!
//! A peer sends one [`ControlRequest`] a connection and reads one [`ControlReply`]. Who it is the kernel says
//! (SO_PEERCRED, unix(7)), never the frame. Who sends a descriptor is cut off: what a peer and a session have for
//! one another goes over a channel that the daemon gives to both.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::audit::bodies::BodyPlace;
use crate::ids::{SessionId, SessionName};

/// Where the daemon listens.
pub const SOCKET: &str = "/run/portcullis/control.sock";

/// The longest request, in bytes: names, and no list.
pub const MAX_REQUEST: usize = 4 << 10;

/// The longest reply, in bytes: some thousand sessions.
pub const MAX_REPLY: usize = 4 << 20;

/// What is asked of the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ControlRequest {
    /// Start a session as me. Answered by [`ControlReply::Launching`], which brings a channel to the session
    /// process; on it goes first what to run, and where ([`super::detached::Start`]).
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
    /// Of which segments is this session's log? Answered by [`ControlReply::Segments`].
    Segments {
        /// Which session's.
        session: SessionId,
    },
    /// Let me read a segment of this session's log. Answered by [`ControlReply::Log`], which brings the open file.
    OpenLog {
        /// Which session's.
        session: SessionId,
        /// Which segment.
        segment: Segment,
    },
    /// Let me read a body that is kept beside a log that I may read. Answered by [`ControlReply::Log`], which brings the
    /// open file.
    OpenBody(BodyPlace),
}

/// A segment of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    /// Which part, from 1.
    pub number: u32,
    /// Whether it is packed.
    pub packed: bool,
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
}

/// What the daemon answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ControlReply {
    /// The session process is there; the channel to it came with this frame.
    Launching(SessionId),
    /// The sessions, oldest first.
    Sessions(Vec<Listed>),
    /// The channel came with this frame.
    Connected,
    /// Sessions with a log, oldest first.
    Logs(Vec<SessionId>),
    /// The segments of the log that was asked for, in their order; none: there is no such log.
    Segments(Vec<Segment>),
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
