//! A record: one JSON object a line, its fields in one order, sealed by its hash.
//!
//! `{"v":1,"seq":…,"ts":…,"host_id":…,"session":…,"user":…,"event":…,…,"prev":…,"hash":…}`
//!
//! Written by [`Form::seal`] into a reused buffer; read back as an [`AuditRecord`]. Verification uses
//! neither: [`SealedLine`] finds the few fields it needs at their fixed places.

use std::io::Write;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::chain::ChainHash;
use super::event::AuditEvent;
use crate::ids::SessionId;

/// The version of the record's form.
pub const VERSION: u8 = 1;

/// The longest line the writer makes, its newline included. Exceeds the caps of [`super::cap`] with
/// everything else a record holds; a reader can rely on it.
pub const MAX_RECORD: usize = 128 << 10;

/// A record as it is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// The version of the form, [`VERSION`].
    pub v: u8,
    /// The place in the session's chain, from 1.
    pub seq: u64,
    /// When the writer took it, UTC.
    pub ts: Timestamp,
    /// Which host, see [`host_id`].
    pub host_id: String,
    /// Which session.
    pub session: SessionId,
    /// Whose session.
    pub user: String,
    /// What happened.
    #[serde(flatten)]
    pub event: AuditEvent,
    /// The hash of the record before.
    pub prev: ChainHash,
    /// The hash of this record.
    pub hash: ChainHash,
}

/// Names a host without telling which it is: the first 16 hex digits of the SHA-256 over a constant
/// and the machine's identifier (machine-id(5) asks for that), or its name where it has none.
pub fn host_id(machine: &str) -> String {
    let digest = Sha256::digest(format!("portcullis host{}", machine.trim()));
    let (first, _) = digest.split_first_chunk().unwrap_or((&[0; 8], &[]));
    format!("{:016x}", u64::from_be_bytes(*first))
}

/// The fields that are the same in every record of a session, serialised once.
#[derive(Debug)]
pub struct Form {
    /// `","host_id":"…","session":"…","user":"…"`: from the end of `ts` to the event.
    fixed: Vec<u8>,
}

/// A record cannot be written in its form.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// It does not serialise (a bug).
    #[error("record cannot be serialised: {0}")]
    Serialise(#[from] serde_json::Error),
    /// The buffer did not take it (a bug: it is memory).
    #[error("record cannot be buffered: {0}")]
    Buffer(#[from] std::io::Error),
    /// It is longer than [`MAX_RECORD`].
    #[error("record of {0} bytes is over the cap of {MAX_RECORD}")]
    TooLong(usize),
}

impl Form {
    /// The form of this session's records.
    pub fn new(host_id: &str, session: SessionId, user: &str) -> Result<Self, SealError> {
        let mut fixed = b"\",\"host_id\":".to_vec();
        serde_json::to_writer(&mut fixed, host_id)?;
        write!(fixed, r#","session":"{session}","user":"#)?;
        serde_json::to_writer(&mut fixed, user)?;
        Ok(Self { fixed })
    }

    /// Appends one line to `buffer` and answers its hash. On an error the buffer is as before.
    pub fn seal(
        &self,
        buffer: &mut Vec<u8>,
        (seq, ts): (u64, Timestamp),
        event: &AuditEvent,
        prev: ChainHash,
    ) -> Result<ChainHash, SealError> {
        let start = buffer.len();
        let sealed = self.write(buffer, (seq, ts), event, prev);
        if sealed.is_err() {
            buffer.truncate(start);
        }
        sealed
    }

    fn write(
        &self,
        buffer: &mut Vec<u8>,
        (seq, ts): (u64, Timestamp),
        event: &AuditEvent,
        prev: ChainHash,
    ) -> Result<ChainHash, SealError> {
        let start = buffer.len();
        write!(buffer, r#"{{"v":{VERSION},"seq":{seq},"ts":"{ts:.6}"#)?;
        buffer.extend_from_slice(&self.fixed);
        // The event serialises as an object of its own: its opening brace becomes the comma, its
        // closing one goes.
        let event_start = buffer.len();
        serde_json::to_writer(&mut *buffer, event)?;
        if let Some(brace) = buffer.get_mut(event_start) {
            *brace = b',';
        }
        buffer.pop();
        buffer.extend_from_slice(br#","prev":""#);
        buffer.extend_from_slice(&prev.to_hex());
        buffer.push(b'"');
        let hash = prev.follow(buffer.get(start..).unwrap_or_default());
        buffer.extend_from_slice(br#","hash":""#);
        buffer.extend_from_slice(&hash.to_hex());
        buffer.extend_from_slice(b"\"}\n");
        let length = buffer.len() - start;
        if length > MAX_RECORD {
            return Err(SealError::TooLong(length));
        }
        Ok(hash)
    }
}

/// A line in the form of [`Form::seal`], without its newline: the fields that the chain needs, found
/// at their places. Says nothing about the rest of the line.
#[derive(Debug, Clone, Copy)]
pub struct SealedLine<'a> {
    /// The line without its `hash` field and closing brace.
    pub open_record: &'a [u8],
    /// The place in the chain.
    pub seq: u64,
    /// RFC 3339 UTC with microseconds, so that the order of texts is the order of times.
    pub ts: &'a [u8; 27],
    /// The session, as text.
    pub session: &'a [u8; 32],
    /// The name of the event.
    pub event: &'a [u8],
    /// The hash of the record before, as hex digits.
    pub prev: &'a [u8; 64],
    /// The hash of this record, as hex digits.
    pub hash: &'a [u8; 64],
}

impl<'a> SealedLine<'a> {
    /// `None` when the line is not in the form.
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let (rest, hash) = before(line, b"\"}")?.split_last_chunk()?;
        let open_record = before(rest, br#","hash":""#)?;
        let (rest, prev) = before(open_record, b"\"")?.split_last_chunk()?;
        let rest = before(rest, br#","prev":""#)?;

        let rest = after(rest, br#"{"v":1,"seq":"#)?;
        let (seq, rest) = leading_number(rest)?;
        let (ts, rest) = after(rest, br#","ts":""#)?.split_first_chunk()?;
        let (_host_id, rest) = after(rest, br#"","host_id":""#)?.split_first_chunk::<16>()?;
        let (session, rest) = after(rest, br#"","session":""#)?.split_first_chunk()?;
        let rest = after(rest, br#"","user":""#)?;
        let rest = rest.get(string_length(rest)?..)?;
        let rest = after(rest, br#"","event":""#)?;
        let event = rest.get(..string_length(rest)?)?;
        Some(Self {
            open_record,
            seq,
            ts,
            session,
            event,
            prev,
            hash,
        })
    }
}

/// What follows this literal. Its length is known when this is compiled, so it is compared in registers.
fn after<'a, const N: usize>(text: &'a [u8], literal: &[u8; N]) -> Option<&'a [u8]> {
    let (start, rest) = text.split_first_chunk()?;
    (start == literal).then_some(rest)
}

/// What stands before this literal.
fn before<'a, const N: usize>(text: &'a [u8], literal: &[u8; N]) -> Option<&'a [u8]> {
    let (rest, end) = text.split_last_chunk()?;
    (end == literal).then_some(rest)
}

/// A decimal number without leading zero, and what follows it.
fn leading_number(text: &[u8]) -> Option<(u64, &[u8])> {
    let length = text.iter().position(|byte| !byte.is_ascii_digit())?;
    let (digits, rest) = text.split_at_checked(length)?;
    if digits.first().is_none_or(|first| *first == b'0') {
        return None;
    }
    let number = digits.iter().try_fold(0_u64, |number, digit| {
        number.checked_mul(10)?.checked_add(u64::from(digit - b'0'))
    });
    Some((number?, rest))
}

/// How long a JSON string is whose opening quote is behind us.
fn string_length(text: &[u8]) -> Option<usize> {
    let mut escaped = false;
    text.iter().position(|byte| {
        let ends = *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        ends
    })
}
