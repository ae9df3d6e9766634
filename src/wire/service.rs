//! `portcullisd` ↔ a session process that it started, over a socket that is that process's descriptor
//! [`CHANNEL_FD`].
//!
//! The daemon sends [`ToSession::Boot`] first. The session sends [`Ask`]s, each answered by one [`ToSession::Given`] or
//! [`ToSession::Refused`], in order, if it does not say otherwise. [`ToSession::Visitor`] comes at any time after the boot. When the channel
//! closes, the daemon is being restarted or is gone: the session goes on with what it has.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::SessionId;
use crate::policy::{Durability, OnFailure, Resource};

/// The session process's descriptor of the channel.
pub const CHANNEL_FD: i32 = 3;

/// The longest message of a session, in bytes.
pub const MAX_ASK: usize = 4 << 10;

/// What the daemon says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ToSession {
    /// Whose session this is. Brings the channel to whoever asked for it, who says there what to run
    /// ([`super::detached`]): the daemon never has a descriptor of theirs.
    Boot(Box<SessionBoot>),
    /// What was asked for under this number is done; its descriptors came with this frame.
    Given {
        /// [`Asked::number`].
        number: u32,
    },
    /// A control group. Brings its folder, a socket, and its `cgroup.kill` if it has one. A process of the session
    /// that writes a byte to the socket is moved into the group, and then gets a byte.
    Group {
        /// [`Asked::number`].
        number: u32,
        /// What is said of it.
        words: GroupWords,
    },
    /// There are no more groups.
    Grouped {
        /// [`Asked::number`].
        number: u32,
        /// The limits that none of them holds.
        missing: Vec<MissingGroup>,
    },
    /// It could not be done.
    Refused {
        /// [`Asked::number`].
        number: u32,
        /// One line.
        why: String,
    },
    /// Another daemon is there. What the one before had taken and not answered is to be asked again, under the same
    /// number.
    Renewed,
    /// Somebody who may speak with this session does, over the channel that came with this frame.
    Visitor(Visitor),
}

impl ToSession {
    /// To which request this belongs.
    pub fn number(&self) -> Option<u32> {
        match self {
            Self::Given { number }
            | Self::Group { number, .. }
            | Self::Grouped { number, .. }
            | Self::Refused { number, .. } => Some(*number),
            Self::Boot(_) | Self::Renewed | Self::Visitor(_) => None,
        }
    }
}

/// A session that the daemon has admitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionBoot {
    /// Its identifier.
    pub session: SessionId,
    /// The caller's name, as it stands in the records.
    pub user: String,
    /// The profile that was asked for, and judged.
    pub profile: String,
    /// The limits of the caller's, as the kernel says (setrlimit(2)).
    pub caller_limits: Vec<CallerLimit>,
    /// The profiles that the caller may use, the host's own alone; `None`: any, the caller's own too.
    pub profiles: Option<Vec<String>>,
    /// The most of the machine that it may take, in the units of [`Resource`].
    pub limits: BTreeMap<Resource, u64>,
    /// Whether the session is to go on without whoever asked for it.
    pub detached: bool,
}

/// A limit that a process has (setrlimit(2)); `None`: unlimited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallerLimit {
    /// As the kernel calls it (proc_pid_limits(5)).
    pub name: String,
    /// What is in force.
    pub soft: Option<u64>,
    /// What it can be raised to.
    pub hard: Option<u64>,
}

/// Who it is that visits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Visitor {
    /// Their name, for the record.
    pub user: String,
    /// What they may do.
    pub may: May,
}

/// What somebody may do with a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum May {
    /// Look: describe, counters, questions.
    See,
    /// Look, answer questions, stop it.
    Operate,
    /// Everything: type at its terminal, reach its ports.
    Own,
}

/// One request of a session's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// Counts from 1. One that was answered is not answered again.
    pub number: u32,
    /// What for.
    pub ask: Ask,
}

/// What a session asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Ask {
    /// The audit writer and the gate. Given: the lane to the writer, the gate's control channel.
    Companions {
        /// When a record counts as kept.
        durability: Durability,
        /// What happens to records that cannot be kept. The gate holds it to what the host's admin insists on.
        on_failure: OnFailure,
    },
    /// Another gate: the one before died, or is to die. Given: its control channel.
    Gate,
    /// Another audit writer: the one before died, or is to die. Given: the lane to it.
    Writer,
    /// Another witness: the one that the session itself had started died, and it has given up the right to start one.
    /// Given: the channel to it ([`super::witness`]).
    Witness,
    /// Control groups that hold these limits, in the units of [`Resource`]. Answered by a [`ToSession::Group`]
    /// for each that there is, then [`ToSession::Grouped`].
    Groups {
        /// The limits.
        limits: BTreeMap<Resource, u64>,
    },
}

/// A control group of the session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupWords {
    /// Of which version of control groups it is.
    pub version: u8,
    /// What it holds.
    pub resources: Vec<Resource>,
}

/// A limit that no group holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MissingGroup {
    /// Which.
    pub resource: Resource,
    /// Why, for a person.
    pub cause: String,
}
