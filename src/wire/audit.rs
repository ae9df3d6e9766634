//! Session and gate ↔ audit writer.
//!
//! The writer is started with its log folder (a descriptor), the session's channel and the gate's
//! channel. It answers [`AuditReply::Ready`] once on the session's channel. From then on each
//! [`Append`] is answered by exactly one [`AuditReply::Recorded`] or [`AuditReply::Failed`], in order
//! within a channel; a record counts only when `Recorded` has been read. When the session's channel
//! closes without a `session.ended`, the writer appends that itself and ends; when it closes after
//! one, the writer ends.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::audit::AuditEvent;
use crate::ids::SessionId;
use crate::policy::Durability;

/// First frame on the session's channel: what the writer is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditBoot {
    /// The session, which names the file `<session>.jsonl`.
    pub session: SessionId,
    /// The user's name, for the records.
    pub user: String,
    /// Where the log is kept, for messages only: the folder itself comes as a descriptor.
    pub folder: PathBuf,
    /// When a record counts as kept.
    pub durability: Durability,
}

/// "Write this down, then tell me."
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Append {
    /// Chosen by the sender, repeated in the answer.
    pub id: u64,
    /// What happened.
    pub event: AuditEvent,
}

/// What the writer answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum AuditReply {
    /// The log is open and its first bytes can be written.
    Ready,
    /// Record `seq` is kept.
    Recorded {
        /// The id of the [`Append`].
        id: u64,
        /// Its place in the chain.
        seq: u64,
    },
    /// It is not kept, and nothing after it will be: stop the traffic.
    Failed {
        /// The id of the [`Append`]; 0 when starting failed.
        id: u64,
        /// Cause and cure, one line.
        error: String,
    },
}
