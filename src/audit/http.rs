//! What is recorded of a request that the gate can read: one [`HttpExchange`] when it is over, and what became of
//! its bodies where the profile has some kept. Every text in it is a claim of the jail or of an origin.

use serde::{Deserialize, Serialize};

use super::event::EndedBy;
use crate::ids::ConnId;

/// A request and its answer, told when both are over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpExchange {
    /// The connection, or the request within one that is looked into: host, port and path are in its
    /// `egress.decided`.
    pub conn: ConnId,
    /// The method, as it went to the origin.
    pub method: String,
    /// What the client speaks.
    pub version: HttpVersion,
    /// The status of the answer; none: there was no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The media type of the request's content (RFC 9110 section 8.3.1), without parameters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_type: Option<String>,
    /// The media type of the answer's content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_type: Option<String>,
    /// The codings of the request's content (RFC 9110 section 8.4).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_encoding: Option<String>,
    /// The codings of the answer's content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_encoding: Option<String>,
    /// Bytes of content that went to the origin, as they were coded; of an upgraded one all that was sent.
    pub request_bytes: u64,
    /// Bytes of content that came from the origin.
    pub response_bytes: u64,
    /// Milliseconds from the decision to the head of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_byte_ms: Option<u64>,
    /// Milliseconds from the decision to the end.
    pub ms: u64,
    /// Whether it became a WebSocket, whose frames are not looked into.
    #[serde(default, skip_serializing_if = "is_false")]
    pub upgraded: bool,
    /// Who ended it.
    pub ended_by: EndedBy,
    /// The thread of Codex that it says it belongs to. Only of requests within TLS that is looked into; a
    /// claim of the jail, checked for its form (a UUID) and nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread: Option<String>,
    /// The turn of that thread, in the same way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<String>,
}

/// Which HTTP a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HttpVersion {
    /// RFC 1945.
    #[serde(rename = "HTTP/1.0")]
    Http10,
    /// RFC 9112.
    #[serde(rename = "HTTP/1.1")]
    Http11,
    /// RFC 9113.
    #[serde(rename = "HTTP/2")]
    Http2,
}

impl HttpVersion {
    /// The word that stands in records.
    pub fn word(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }
}

/// Whose body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BodySide {
    /// The jail's.
    Request,
    /// The origin's.
    Response,
}

impl BodySide {
    /// The word that stands in records.
    pub fn word(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Response => "response",
        }
    }
}

/// A body that is kept: decoded, without the secrets that were found in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BodyKept {
    /// The request, as in its [`HttpExchange`].
    pub conn: ConnId,
    /// Whose body.
    pub direction: BodySide,
    /// The SHA-256 of what is kept, which is the name of its file in `bodies/`, in hex digits.
    pub sha256: String,
    /// How many bytes are kept.
    pub bytes: u64,
    /// Whether there was more: the cap, or an exchange that broke off.
    pub truncated: bool,
    /// The coding that was undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
    /// How many secrets were replaced.
    pub redactions: u32,
}

/// A body that is not kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BodySkipped {
    /// The request, as in its [`HttpExchange`].
    pub conn: ConnId,
    /// Whose body.
    pub direction: BodySide,
    /// Why.
    pub reason: SkipReason,
}

/// Why a body is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SkipReason {
    /// Its coding is none that the gate undoes: gzip, deflate, zstd.
    Encoding,
    /// It does not decode.
    Corrupt,
    /// It became a WebSocket.
    Upgraded,
    /// Too many bodies were on their way at once.
    Busy,
    /// The bodies of the session are as large as they may be together.
    Limit,
    /// The writer could not keep it: a full disk, or a `bodies` that is no folder of its own.
    Storage,
}

impl SkipReason {
    /// The word that stands in records.
    pub fn word(self) -> &'static str {
        match self {
            Self::Encoding => "encoding",
            Self::Corrupt => "corrupt",
            Self::Upgraded => "upgraded",
            Self::Busy => "busy",
            Self::Limit => "limit",
            Self::Storage => "storage",
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_false(flag: &bool) -> bool {
    !*flag
}
