//! Session and gate ↔ audit writer.
//!
//! The writer is started with its log folder (a descriptor), the session's channel and a supply channel
//! ([`super::supply`]), by which it learns whose log it is and gets the gate's channel. It answers [`AuditReply::Ready`] once on the session's channel. From then on each
//! [`Append`] is answered by exactly one [`AuditReply::Recorded`] or [`AuditReply::Failed`], in order
//! within a channel; a record counts only when `Recorded` has been read. When the session's channel
//! closes without a `session.ended`, the writer appends that itself and ends; when it closes after
//! one, the writer ends.
//!
//! A record that cannot be kept is answered [`AuditReply::Failed`], and so are the next ones, until the writer has told of
//! the loss in a record of its own; or, where the profile says that the session goes on, [`AuditReply::Held`], as always what
//! tells of a death or a loss ([`AuditEvent::tells_of_a_loss`]). The gate is
//! told unasked when that begins ([`AuditReply::Blocked`]) and when it is over ([`AuditReply::Writing`]).
//!
//! A record that was not acknowledged when a writer died is sent again to the next one. So each record is
//! kept at least once: one whose acknowledgement was lost stands twice in the log.
//!
//! Each side reports its own events ([`AuditEvent::source`]). A gate that reports another's, or sends
//! what is no frame, is cut off; the session's records go on.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Channel, WireError};
use crate::audit::AuditEvent;
use crate::audit::http::BodySide;
use crate::audit::roll::Segments;
use crate::ids::{ConnId, SessionId};
use crate::policy::{Durability, OnFailure};

/// What the writer is for ([`super::supply::WriterSupply`]).
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
    /// Whether it binds the log into the ledger beside it; under the service the notary does.
    pub ledger: bool,
    /// What happens to records that cannot be kept.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// When a log, and the ledger, go on in another segment. `None`: by `audit.toml`, which comes as a descriptor if there is
    /// one: the user's own, or under the service the host's.
    #[serde(default)]
    pub segments: Option<Segments>,
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

/// "Keep this body, write down where, then tell me." From a gate alone; answered as an [`Append`] is. What is
/// recorded is `body.kept`, or `body.skipped` with the reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeepBody {
    /// The body. Stands first, which tells this message from an [`Append`]: see [`KEEP_BODY`].
    pub body: BodyOffer,
    /// Chosen by the sender, repeated in the answer.
    pub id: u64,
}

/// What a [`KeepBody`] begins with, and an [`Append`] does not.
pub const KEEP_BODY: &[u8] = b"{\"body\":";

/// A body as the gate has it: decoded, its secrets replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BodyOffer {
    /// The request that it belongs to.
    pub conn: ConnId,
    /// Whose it is.
    pub direction: BodySide,
    /// Whether there was more.
    pub truncated: bool,
    /// The coding that was undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
    /// How many secrets were replaced.
    pub redactions: u32,
    /// Its bytes, in base64 (RFC 4648 section 4), at most 1 MiB of them.
    pub content: String,
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
    /// It is not kept yet: it waits in the writer's memory, or is counted there, until the disk takes records again. Only
    /// where [`OnFailure::Continue`] is asked for, or what tells of a loss.
    Held {
        /// The id of the [`Append`].
        id: u64,
    },
    /// Unasked, to the gate: nothing can be kept for now. Cause and cure, one line.
    Blocked {
        /// The cause.
        error: String,
    },
    /// Unasked, to the gate: records are kept again, and what was held is.
    Writing,
    /// It is not kept: what it would have recorded must not happen.
    Failed {
        /// The id of the [`Append`]; 0 when starting failed.
        id: u64,
        /// Cause and cure, one line.
        error: String,
    },
}

/// A record is not kept: what it would have recorded must not happen.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The writer is gone or does not keep to the protocol.
    #[error("audit writer: {0}; start a new session")]
    Wire(#[from] WireError),
    /// The writer could not keep it; its own line, cause and cure.
    #[error("{0}")]
    Failed(String),
    /// The answer is to something else.
    #[error("audit writer answered something else: {0:?}; are all processes of one version?")]
    Unexpected(AuditReply),
}

/// Has an event recorded and waits until it is. Answers its place in the chain.
pub fn append(channel: &Channel, id: u64, event: AuditEvent) -> Result<u64, AppendError> {
    channel.send(&Append { id, event })?;
    loop {
        match channel.recv()? {
            AuditReply::Blocked { .. } | AuditReply::Writing => {}
            reply => return kept(reply, id),
        }
    }
}

/// What an answer says of the record with this id: its place in the chain (0: one that waits has none yet), or that it is
/// not kept.
pub fn kept(reply: AuditReply, id: u64) -> Result<u64, AppendError> {
    match reply {
        AuditReply::Recorded { id: answered, seq } if answered == id => Ok(seq),
        AuditReply::Held { id: answered } if answered == id => Ok(0),
        AuditReply::Failed { error, .. } => Err(AppendError::Failed(error)),
        other => Err(AppendError::Unexpected(other)),
    }
}

/// Waits until the writer has its log open.
pub fn ready(channel: &Channel) -> Result<(), AppendError> {
    match channel.recv()? {
        AuditReply::Ready => Ok(()),
        AuditReply::Failed { error, .. } => Err(AppendError::Failed(error)),
        other => Err(AppendError::Unexpected(other)),
    }
}
