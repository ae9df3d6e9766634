//! `portcullis run --detach` ↔ the session process that it starts, over a socket that is that process's
//! descriptor [`CHANNEL_FD`].
//!
//! The starter sends one launch request (`session::LaunchRequest`, which is no matter of this module). The
//! session answers with [`Launched`] frames; the last is [`Launched::Started`] or [`Launched::Failed`], and
//! with it the channel ends.

use serde::{Deserialize, Serialize};

use crate::ids::SessionId;

/// The session process's descriptor of the channel.
pub const CHANNEL_FD: i32 = 3;

/// What the session process says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Launched {
    /// A line for the person who started it. May hold text of the jail's: escape it.
    Said(String),
    /// `session.started` is on record and the command is executed.
    Started(SessionId),
    /// It will not be.
    Failed {
        /// The code to exit with.
        code: u8,
        /// Cause and cure, one line.
        message: String,
    },
}
