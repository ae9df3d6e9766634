//! Somebody at another terminal ↔ a running session, over the session's own Unix socket.
//!
//! The session takes it from its own user and from root alone, and the jail never sees the socket. Each
//! [`SessionRequest`] is answered by one [`SessionReply`], in order; [`SessionRequest::Watch`] by one at
//! once and one at every change after it, until the peer closes.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::gate::{Counters, Question};
use crate::audit::Isolation;
use crate::ids::{PolicyGeneration, QuestionId, SessionId, SessionName};
use crate::policy::{Answered, Port, Resource, Scope};

/// The longest request, in bytes: a word and a few numbers.
pub const MAX_REQUEST: usize = 4 << 10;

/// The longest reply, in bytes: 32 questions with 512 characters of path each fit many times.
pub const MAX_REPLY: usize = 1 << 20;

/// What is asked of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum SessionRequest {
    /// Which questions wait? Answered by [`SessionReply::Questions`].
    Questions,
    /// The same, and again whenever it changes.
    Watch,
    /// The answer to one. Answered by [`SessionReply::Done`].
    Answer {
        /// Which.
        question: QuestionId,
        /// Yes or no.
        verdict: Answered,
        /// How far it reaches.
        scope: Scope,
    },
    /// How far has it come? Answered by [`SessionReply::Counters`].
    Counters,
    /// Read the profile again. Answered by [`SessionReply::Done`].
    ReloadPolicy,
    /// What is it? Answered by [`SessionReply::Session`].
    Describe,
    /// End it: the command is asked to, and killed with its jail when it takes too long. Answered by
    /// [`SessionReply::Done`] at once; the channel closes when the session is over.
    Stop {
        /// Do not ask first.
        kill: bool,
    },
    /// Connect me to this TCP port of the jail's loopback. Answered by [`SessionReply::Reached`].
    Reach {
        /// Which.
        port: Port,
    },
    /// Show its terminal. Answered by [`SessionReply::Attached`], which brings a stream socket: what the
    /// command prints comes out of it, a part of what it has printed already first, and keys go into it.
    /// Its end without [`SessionReply::Ended`] means that the peer read too slowly.
    Attach {
        /// The peer's own terminal.
        size: Size,
        /// Keys are not wanted, and the size does not count.
        read_only: bool,
    },
    /// The terminal of a peer that is attached has another size. Answered by [`SessionReply::Done`].
    Resize(Size),
}

/// How much a terminal shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Characters in each.
    pub columns: u16,
}

/// A running session, as whoever started it may know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// The session.
    pub session: SessionId,
    /// What its caller calls it.
    pub name: Option<SessionName>,
    /// Whose it is.
    pub user: String,
    /// The command's process, as the host counts.
    pub pid: u32,
    /// When the command was started.
    pub started: Timestamp,
    /// Name of the profile.
    pub profile: String,
    /// The policy in force.
    pub generation: PolicyGeneration,
    /// How much of the file system the command may change.
    pub mode: String,
    /// The working directory.
    pub workspace: String,
    /// The command and its arguments, credentials sealed.
    pub argv: Vec<String>,
    /// What confinement was achieved.
    pub isolation: Isolation,
    /// The most of the machine that it may take, in the units of [`Resource`].
    pub limits: BTreeMap<Resource, u64>,
    /// Why records cannot be kept at the moment, and whether the session goes on: `blocked: …` or `behind: …`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<String>,
}

/// What a session answers; instead of any, [`SessionReply::Failed`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum SessionReply {
    /// The questions that wait, oldest first.
    Questions(Vec<Question>),
    /// It is done; what exactly, one line.
    Done(String),
    /// What was reached and refused so far.
    Counters(Box<Counters>),
    /// What the session is.
    Session(Box<Description>),
    /// The connected socket came with this frame.
    Reached,
    /// A stream came with this frame.
    Attached,
    /// Unasked, to a peer that is attached: the command has ended, with this status.
    Ended(u8),
    /// It could not be done; cause and cure, one line.
    Failed(String),
}
