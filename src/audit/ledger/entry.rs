//! An entry of the ledger: one JSON object a line, its fields in one order, sealed by its hash.
//!
//! `{"v":1,"seq":…,"ts":…,"host_id":…,"event":…,…,"prev":…,"hash":…}`, with the hash of [`ChainHash`]:
//! SHA-256 over the 32 bytes of the hash before and the line without its `hash`, closed by `}`. What is
//! signed is text of fixed lines, see [`checkpoint_message`] and [`rotation_message`].

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::key::{PublicKey, Signature};
use crate::audit::chain::ChainHash;
use crate::audit::retention::Why;
use crate::ids::SessionId;

/// The version of the entry's form.
pub const VERSION: u8 = 1;

/// The longest line that is made, in bytes: nothing in an entry is long but [`MAX_FLAW`].
pub const MAX_ENTRY: usize = 4 << 10;

/// The longest words on a flaw, in bytes.
pub const MAX_FLAW: usize = 512;

/// An entry as it is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The version of the form, [`VERSION`].
    pub v: u8,
    /// The place in the chain, from 1.
    pub seq: u64,
    /// When it was made, RFC 3339 UTC with microseconds; as text, because it is signed as it stands.
    pub ts: String,
    /// The host on which the ledger was begun, see [`crate::audit::record::host_id`].
    pub host_id: String,
    /// What it says.
    #[serde(flatten)]
    pub event: LedgerEvent,
    /// The hash of the entry before.
    pub prev: ChainHash,
    /// The hash of this entry.
    pub hash: ChainHash,
}

/// What an entry says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event")]
pub enum LedgerEvent {
    /// The ledger begins, with this key. Always the first entry, and no other.
    #[serde(rename = "key.created")]
    KeyCreated {
        /// The key that signs from here on.
        key: PublicKey,
    },
    /// Another key signs from here on. Both have signed that, see [`rotation_message`].
    #[serde(rename = "key.rotated")]
    KeyRotated {
        /// The key until here.
        old: PublicKey,
        /// The key from here on.
        new: PublicKey,
        /// By the old key.
        old_signature: Signature,
        /// By the new key.
        new_signature: Signature,
    },
    /// How far a session's log is, and the hash of its last record.
    #[serde(rename = "log.head")]
    LogHead(LogHead),
    /// A log does not go on as it was bound. It is not bound any more.
    #[serde(rename = "log.broken")]
    LogBroken {
        /// Whose log.
        session: SessionId,
        /// In whose folder; absent: the ledger's own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        uid: Option<u32>,
        /// The first record that does not hold.
        record: u64,
        /// What is wrong with it; at most [`MAX_FLAW`] bytes.
        flaw: String,
    },
    /// A segment of a log is removed, by the rules of retention. It counts once a checkpoint follows.
    #[serde(rename = "log.pruned")]
    LogPruned(LogPruned),
    /// Bodies beside the logs are removed, by the rules of retention.
    #[serde(rename = "bodies.pruned")]
    BodiesPruned {
        /// In whose folder; absent: the ledger's own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        uid: Option<u32>,
        /// How many files.
        count: u64,
        /// How many bytes they had together.
        bytes: u64,
        /// None of them was written after this.
        before: Timestamp,
    },
    /// Nothing of a session's log is removed from here on.
    #[serde(rename = "hold.set")]
    HoldSet {
        /// What is held.
        session: SessionId,
        /// In whose folder; absent: the ledger's own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        uid: Option<u32>,
        /// Who holds it.
        by: String,
        /// Why.
        reason: String,
    },
    /// It may be again. It counts once a checkpoint follows.
    #[serde(rename = "hold.released")]
    HoldReleased {
        /// What was held.
        session: SessionId,
        /// In whose folder; absent: the ledger's own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        uid: Option<u32>,
        /// Who lifted it.
        by: String,
        /// Why.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Everything before it is signed, see [`checkpoint_message`].
    #[serde(rename = "checkpoint")]
    Checkpoint {
        /// The key that signs.
        key: PublicKey,
        /// Its signature.
        signature: Signature,
    },
    /// Something that a later version says. It is in the chain and nothing follows from it.
    #[serde(other)]
    Unknown,
}

/// How far a log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogHead {
    /// Whose log.
    pub session: SessionId,
    /// In whose folder; absent: the ledger's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// How many records it has.
    pub records: u64,
    /// The hash of the last of them.
    pub head: ChainHash,
    /// Whether that is `session.ended`.
    pub state: LogState,
}

/// A segment that is removed: what its log goes on from is known, and signed, without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPruned {
    /// Whose log.
    pub session: SessionId,
    /// In whose folder; absent: the ledger's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Its number.
    pub segment: u32,
    /// The place of its first record. The last one of the segment before is the one before this.
    pub first: u64,
    /// The place of its last record.
    pub last: u64,
    /// The hash of that one.
    pub head: ChainHash,
    /// By which rule.
    pub why: Why,
}

/// Whether a log can have more records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogState {
    /// It can.
    Open,
    /// Its last record is `session.ended`.
    Ended,
}

/// Where an entry stands: what it has in common with all others.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The host on which the ledger was begun.
    pub host_id: &'a str,
    /// The place in the chain.
    pub seq: u64,
    /// The time, as it is written.
    pub ts: &'a str,
    /// The hash of the entry before.
    pub prev: ChainHash,
}

/// The time as it is written.
pub fn now() -> String {
    format!("{:.6}", Timestamp::now())
}

/// What a checkpoint signs: `portcullis checkpoint v1`, host_id, seq, ts, key and prev, each closed by a
/// newline. None of them can hold one.
pub fn checkpoint_message(place: Place<'_>, key: &PublicKey) -> Vec<u8> {
    let Place {
        host_id,
        seq,
        ts,
        prev,
    } = place;
    format!("portcullis checkpoint v1\n{host_id}\n{seq}\n{ts}\n{key}\n{prev}\n").into_bytes()
}

/// What both keys sign when one replaces the other: `portcullis rotation v1`, host_id, seq, ts, old, new and
/// prev, each closed by a newline.
pub fn rotation_message(place: Place<'_>, old: &PublicKey, new: &PublicKey) -> Vec<u8> {
    let Place {
        host_id,
        seq,
        ts,
        prev,
    } = place;
    format!("portcullis rotation v1\n{host_id}\n{seq}\n{ts}\n{old}\n{new}\n{prev}\n").into_bytes()
}

/// What the first entry names as its predecessor: SHA-256 over `portcullis ledger v1` and the host_id.
pub fn genesis(host_id: &str) -> ChainHash {
    ChainHash::of(&[b"portcullis ledger v1", host_id.as_bytes()])
}

/// Appends one line to `buffer` and answers its hash.
pub fn seal(
    buffer: &mut Vec<u8>,
    place: Place<'_>,
    event: &LedgerEvent,
) -> Result<ChainHash, serde_json::Error> {
    let Place {
        host_id,
        seq,
        ts,
        prev,
    } = place;
    let mut open = format!(r#"{{"v":{VERSION},"seq":{seq},"ts":"{ts}","host_id":"#);
    open.push_str(&serde_json::to_string(host_id)?);
    // The event serialises as an object of its own: its opening brace becomes the comma, its closing one goes.
    let event = serde_json::to_string(event)?;
    open.push(',');
    let fields = event.strip_prefix('{').unwrap_or(&event);
    open.push_str(fields.strip_suffix('}').unwrap_or(fields));
    open = format!(r#"{open},"prev":"{prev}""#);
    let hash = prev.follow(open.as_bytes());
    buffer.extend_from_slice(open.as_bytes());
    buffer.extend_from_slice(format!(",\"hash\":\"{hash}\"}}\n").as_bytes());
    Ok(hash)
}

/// What is wrong with the form of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsealed {
    /// It is no entry.
    NotAnEntry,
    /// Its hash is not that of its bytes.
    Hash,
}

/// Reads a line without its newline, and holds it to its own hash.
pub fn parse(line: &[u8]) -> Result<Entry, Unsealed> {
    let entry: Entry = serde_json::from_slice(line).map_err(|_| Unsealed::NotAnEntry)?;
    if entry.v != VERSION {
        return Err(Unsealed::NotAnEntry);
    }
    let tail = format!(r#","hash":"{}"}}"#, entry.hash);
    let open = line.strip_suffix(tail.as_bytes());
    let open = open.ok_or(Unsealed::NotAnEntry)?;
    let prev = format!(r#","prev":"{}""#, entry.prev);
    if !open.ends_with(prev.as_bytes()) {
        return Err(Unsealed::NotAnEntry);
    }
    if entry.prev.follow(open) != entry.hash {
        return Err(Unsealed::Hash);
    }
    Ok(entry)
}

impl Entry {
    /// Where it stands.
    pub fn place(&self) -> Place<'_> {
        Place {
            host_id: &self.host_id,
            seq: self.seq,
            ts: &self.ts,
            prev: self.prev,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_reads_back_and_an_unknown_one_is_still_one() {
        let host_id = "0123456789abcdef";
        let (seq, ts, prev) = (1, now(), genesis(host_id));
        let place = Place {
            host_id,
            seq,
            ts: &ts,
            prev,
        };
        let event = LedgerEvent::LogHead(LogHead {
            session: SessionId::generate(),
            uid: None,
            records: 7,
            head: prev,
            state: LogState::Open,
        });
        let mut line = Vec::new();
        let hash = seal(&mut line, place, &event).unwrap();
        assert_eq!(line.pop(), Some(b'\n'));
        let entry = parse(&line).unwrap();
        assert_eq!((entry.event, entry.hash), (event, hash));
        assert_eq!(ts.len(), 27);

        let text = String::from_utf8(line).unwrap();
        assert_eq!(
            parse(text.replace(":7,", ":8,").as_bytes()),
            Err(Unsealed::Hash)
        );
        assert_eq!(
            parse(format!("{text} ").as_bytes()),
            Err(Unsealed::NotAnEntry)
        );
        let (open, _) = text.split_once(r#","hash""#).unwrap();
        let open = open.replace("log.head", "log.later");
        let hash = prev.follow(open.as_bytes());
        let entry = parse(format!(r#"{open},"hash":"{hash}"}}"#).as_bytes()).unwrap();
        assert_eq!(entry.event, LedgerEvent::Unknown);
    }
}
