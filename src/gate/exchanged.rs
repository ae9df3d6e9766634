//! What is told of one request once it and its answer are over: `http.exchanged`, and before it what became of the
//! bodies that the profile has kept. Owned by the request's [`Tally`], which tells it when it is dropped: no
//! way of ending goes unseen.
//!
//! What it tells is the jail's claim or the origin's, and taken only where it has the form of what it should be.

use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName};
use hyper::http::request::Parts;
use hyper::{Response, Version};
use serde::Deserialize;
use tokio::time::Instant;

use crate::audit::http::{BodySide, BodySkipped, HttpExchange, HttpVersion, SkipReason};
use crate::audit::{AuditEvent, EndedBy};
use crate::policy::Transport;

use super::authorize::Permit;
use super::bodies::Capture;
use super::relay::Direction;
use super::state::Gate;
use super::tally::Tally;

/// The longest media type or list of codings that is recorded.
const MAX_WORD: usize = 127;

/// The longest metadata of a turn that is looked into: Codex sends about 1 KiB.
const MAX_METADATA: usize = 16 << 10;

/// What is known so far.
#[derive(Debug)]
pub(super) struct Story {
    /// The record, its last fields still open.
    record: HttpExchange,
    since: Instant,
    up: Side,
    down: Side,
}

/// One direction.
#[derive(Debug)]
struct Side {
    which: BodySide,
    /// `None`: the profile has none of it kept.
    capture: Option<Capture>,
    /// Whether all of it went by.
    complete: bool,
}

/// How it ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ended {
    pub(super) bytes_up: u64,
    pub(super) bytes_down: u64,
    pub(super) ms: u64,
    pub(super) by: EndedBy,
}

impl Story {
    /// Of a permitted request, its head as it came.
    pub(super) fn of(gate: &Gate, permit: &Permit, head: &Parts) -> Box<Self> {
        let to = permit.destination();
        let (thread, turn) = if to.transport == Transport::Inspected {
            of_codex(&head.headers)
        } else {
            (None, None)
        };
        let side = |which| Side {
            which,
            capture: gate.bodies.capture(&to.host, which),
            complete: false,
        };
        Box::new(Self {
            record: HttpExchange {
                conn: to.conn,
                method: head.method.as_str().to_owned(),
                version: match head.version {
                    Version::HTTP_2 => HttpVersion::Http2,
                    Version::HTTP_10 | Version::HTTP_09 => HttpVersion::Http10,
                    _ => HttpVersion::Http11,
                },
                status: None,
                request_type: media_type(&head.headers),
                response_type: None,
                request_encoding: codings(&head.headers),
                response_encoding: None,
                request_bytes: 0,
                response_bytes: 0,
                first_byte_ms: None,
                ms: 0,
                upgraded: false,
                ended_by: EndedBy::Gate,
                thread,
                turn,
            },
            since: permit.since(),
            up: side(BodySide::Request),
            down: side(BodySide::Response),
        })
    }

    fn side(&mut self, direction: Direction) -> &mut Side {
        match direction {
            Direction::Up => &mut self.up,
            Direction::Down => &mut self.down,
        }
    }

    /// Tells it.
    pub(super) fn end(self: Box<Self>, gate: &Gate, ended: Ended) {
        let Self {
            mut record,
            up,
            down,
            ..
        } = *self;
        let encodings = [&record.request_encoding, &record.response_encoding];
        for (side, encoding) in [up, down].into_iter().zip(encodings) {
            let Some(capture) = side.capture else {
                continue;
            };
            if record.upgraded {
                skip(gate, &record, side.which, SkipReason::Upgraded);
            } else if let Err(reason) = capture.offer(
                gate,
                (record.conn, side.which),
                encoding.as_deref(),
                side.complete,
            ) {
                skip(gate, &record, side.which, reason);
            }
        }
        record.request_bytes = ended.bytes_up;
        record.response_bytes = ended.bytes_down;
        record.ms = ended.ms;
        record.ended_by = ended.by;
        gate.reporter
            .note(AuditEvent::HttpExchanged(Box::new(record)));
    }
}

fn skip(gate: &Gate, record: &HttpExchange, direction: BodySide, reason: SkipReason) {
    gate.reporter.note(AuditEvent::BodySkipped(BodySkipped {
        conn: record.conn,
        direction,
        reason,
    }));
}

/// What those who carry a request tell of it.
impl Tally {
    /// From here on this is told at the end.
    pub(super) fn tells(&self, story: Box<Story>) {
        self.story.replace(Some(story));
    }

    /// The head of an answer is here.
    pub(super) fn answered<B>(&self, response: &Response<B>) {
        if let Some(story) = &mut *self.story.borrow_mut() {
            let waited = story.since.elapsed().as_millis();
            story.record.first_byte_ms = Some(u64::try_from(waited).unwrap_or(u64::MAX));
            story.record.status = Some(response.status().as_u16());
            story.record.response_type = media_type(response.headers());
            story.record.response_encoding = codings(response.headers());
        }
    }

    /// It is a WebSocket from here on.
    pub(super) fn upgraded(&self) {
        if let Some(story) = &mut *self.story.borrow_mut() {
            story.record.upgraded = true;
        }
    }

    /// Content goes by.
    pub(super) fn saw(&self, direction: Direction, part: &[u8]) {
        if let Some(story) = &mut *self.story.borrow_mut()
            && let Some(capture) = &mut story.side(direction).capture
        {
            capture.take(part);
        }
    }

    /// All content of this direction has gone by.
    pub(super) fn saw_all(&self, direction: Direction) {
        if let Some(story) = &mut *self.story.borrow_mut() {
            story.side(direction).complete = true;
        }
    }
}

/// The media type without its parameters, if it is one.
fn media_type(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    let essence = text.split(';').next()?.trim().to_ascii_lowercase();
    let (kind, subtype) = essence.split_once('/')?;
    let fits = is_token(kind) && is_token(subtype) && essence.len() <= MAX_WORD;
    fits.then_some(essence)
}

/// The codings in their order, if there are any but `identity`.
fn codings(headers: &HeaderMap) -> Option<String> {
    let mut all = Vec::new();
    for value in headers.get_all(CONTENT_ENCODING) {
        let text = value.to_str().ok()?.to_ascii_lowercase();
        all.extend(text.split(',').map(|coding| coding.trim().to_owned()));
    }
    all.retain(|coding| coding != "identity" && !coding.is_empty());
    let joined = all.join(", ");
    let fits = all.iter().all(|coding| is_token(coding)) && joined.len() <= MAX_WORD;
    // What is none is told as one that nobody undoes.
    match joined.as_str() {
        "" => None,
        _ if fits => Some(joined),
        _ => Some("unknown".to_owned()),
    }
}

/// RFC 9110 section 5.6.2.
fn is_token(text: &str) -> bool {
    let of_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(of_token)
}

// === Codex ===

/// What Codex says of a turn in `x-codex-turn-metadata`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TurnMetadata {
    #[serde(rename = "thread_id")]
    thread: Option<String>,
    #[serde(rename = "session_id")]
    session: Option<String>,
    #[serde(rename = "turn_id")]
    turn: Option<String>,
}

/// The thread and the turn that a request of Codex names. 0.118 has `session_id` and no thread of its own;
/// 0.169 has `thread-id` beside `session-id`, and both have the turn in `x-codex-turn-metadata`.
fn of_codex(headers: &HeaderMap) -> (Option<String>, Option<String>) {
    let field = |name: &'static str| {
        let value = headers.get(HeaderName::from_static(name))?;
        value.to_str().ok()
    };
    let metadata = field("x-codex-turn-metadata").filter(|text| text.len() <= MAX_METADATA);
    let metadata: TurnMetadata = metadata
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    let named = [
        field("thread-id"),
        field("thread_id"),
        metadata.thread.as_deref(),
        field("conversation-id"),
        field("conversation_id"),
        field("session-id"),
        field("session_id"),
        metadata.session.as_deref(),
    ];
    let thread = named.into_iter().flatten().find_map(uuid);
    (thread, metadata.turn.as_deref().and_then(uuid))
}

/// A UUID in the form of RFC 9562 section 4, in small letters.
fn uuid(text: &str) -> Option<String> {
    let form = |(at, byte): (usize, u8)| match at {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    };
    (text.len() == 36 && text.bytes().enumerate().all(form)).then(|| text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let fields = fields.iter();
        fields
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn types_and_codings_are_recorded_as_far_as_they_are_some() {
        for (value, expected) in [
            ("Application/JSON; charset=utf-8", Some("application/json")),
            ("text/event-stream", Some("text/event-stream")),
            ("nonsense", None),
            ("a b/c", None),
            ("", None),
        ] {
            let found = media_type(&headers(&[("content-type", value)]));
            assert_eq!(found.as_deref(), expected, "{value}");
        }
        for (value, expected) in [
            ("gzip", Some("gzip")),
            ("identity", None),
            ("GZIP,br", Some("gzip, br")),
            ("a b", Some("unknown")),
        ] {
            let found = codings(&headers(&[("content-encoding", value)]));
            assert_eq!(found.as_deref(), expected, "{value}");
        }
    }

    #[test]
    fn threads_and_turns_are_those_of_either_codex_and_nothing_but_uuids() {
        let (a, b, c) = (
            "01a208e7-35a5-7161-9e76-1d6548ef9400",
            "01a208e7-35c4-76f1-8ee6-ef03a64c16ea",
            "01a208e7-385f-76d3-893e-6c4957fd2d7e",
        );
        let old = format!(r#"{{"session_id":"{a}","turn_id":"{b}","sandbox":"seccomp"}}"#);
        let new = format!(r#"{{"session_id":"{a}","thread_id":"{c}","turn_id":"{b}","more":[1]}}"#);
        let some = |text: &str| Some(text.to_owned());
        for (fields, thread, turn) in [
            (
                vec![("session_id", a), ("x-codex-turn-metadata", &old)],
                some(a),
                some(b),
            ),
            (
                vec![
                    ("session-id", a),
                    ("thread-id", c),
                    ("x-codex-turn-metadata", &new),
                ],
                some(c),
                some(b),
            ),
            (vec![("x-codex-turn-metadata", &new)], some(c), some(b)),
            (
                vec![("thread-id", "not one"), ("session-id", a)],
                some(a),
                None,
            ),
            (
                vec![("thread-id", "x"), ("x-codex-turn-metadata", "{}")],
                None,
                None,
            ),
            (vec![("x-codex-turn-metadata", "[")], None, None),
            (vec![], None, None),
        ] {
            assert_eq!(of_codex(&headers(&fields)), (thread, turn), "{fields:?}");
        }
    }
}
