//! Whoever asks for a session ↔ the session process that runs it, where that is another: of `portcullis run
//! --detach` over a socket that is the session process's descriptor [`CHANNEL_FD`], under the service over
//! the channel that the daemon gives to both ([`super::control`]).
//!
//! `run --detach` sends one launch request first (`session::LaunchRequest`, which is no matter of this module), under
//! the service as a part of [`Start`]. The session answers with [`Launched`] frames. With [`Launched::Failed`], or with [`Launched::Started`] of a detached
//! session, the channel ends. That of one that is not detached goes on until [`Launched::Ended`]; meanwhile the
//! starter may say [`FromStarter`], and its end asks the session to end as well.

use serde::{Deserialize, Serialize};

use crate::ids::SessionId;

/// The session process's descriptor of the channel.
pub const CHANNEL_FD: i32 = 3;

/// What to run, and as the starter would: the first frame under the service. Brings descriptors: the folder to start
/// in and, unless the session is to have a terminal of its own, standard input, output and error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// The starter's file mode creation mask (umask(2)).
    pub umask: u32,
    /// The starter's variables, as far as they are UTF-8.
    pub environment: Vec<(String, String)>,
    /// `session::LaunchRequest`, as JSON text.
    pub request: String,
}

/// What the session process says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Launched {
    /// A line for the person who started it. May hold text of the jail's: escape it.
    Said(String),
    /// The same, also for one who wants to hear of errors alone.
    Warned(String),
    /// `session.started` is on record and the command is executed.
    Started(SessionId),
    /// It will not be.
    Failed {
        /// The code to exit with.
        code: u8,
        /// Cause and cure, one line.
        message: String,
    },
    /// It is over; the code to exit with.
    Ended(u8),
}

/// What the starter says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FromStarter {
    /// It was sent this signal, which is the session's.
    Signal(i32),
    /// Ctrl-C was typed at the terminal that it shares with the session: a question to all that the command has in
    /// the foreground.
    Interrupt,
}
