//! Reads and verifies the whole ledger in one pass: the chain, the keys, every signature.
//!
//! Reported is the first entry that does not hold; nothing after it is believed. What follows the last
//! checkpoint is in the chain and not signed yet. A last line that is not whole is what an appender was
//! writing, or was when it was killed: the next one cuts it off.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufRead};

use serde::Serialize;

use super::anchor::Anchors;
use super::entry::{
    self, Entry, LedgerEvent, LogState, Unsealed, checkpoint_message, rotation_message,
};
use super::key::PublicKey;
use crate::audit::chain::ChainHash;
use crate::audit::reader::{Ending, Lines};
use crate::ids::SessionId;

/// What the ledger says, as far as it holds.
#[derive(Debug, Default)]
pub struct Contents {
    /// The host on which it was begun.
    pub host_id: Option<String>,
    /// How many entries hold.
    pub entries: u64,
    /// The hash of the last of them.
    pub head: Option<ChainHash>,
    /// The keys, in their order, and how many checkpoints each has signed.
    pub keys: Vec<(PublicKey, u64)>,
    /// Place and time of the last checkpoint.
    pub signed: Option<(u64, String)>,
    /// Bytes of a last line that is not whole.
    pub torn: usize,
    /// The first entry that does not hold.
    pub broken: Option<BrokenEntry>,
    /// What it says of each session.
    pub sessions: HashMap<LogName, Bound>,
}

/// In whose folder a log is (`None`: in the ledger's own), and whose it is.
pub type LogName = (Option<u32>, SessionId);

/// What it says of one session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bound {
    /// Heads by the number of records.
    pub heads: BTreeMap<u64, ChainHash>,
    /// Whether the last of them is the end.
    pub ended: bool,
    /// The log was found to be broken: first record and flaw.
    pub broken: Option<(u64, String)>,
}

/// An entry that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("entry {entry}: {flaw}")]
pub struct BrokenEntry {
    /// Which, counted from 1 in the file.
    pub entry: u64,
    /// What is wrong with it.
    pub flaw: EntryFlaw,
}

/// What is wrong with an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum EntryFlaw {
    /// It is no entry.
    #[error("not an entry of this form")]
    NotAnEntry,
    /// Its bytes are not those that were sealed.
    #[error("hash does not match its content: it was changed")]
    Hash,
    /// Entries before it are missing, moved or doubled.
    #[error(
        "sequence is {found} where {expected} must stand: entries were removed, moved or added"
    )]
    Sequence {
        /// The number that must stand there.
        expected: u64,
        /// The number that stands there.
        found: u64,
    },
    /// It does not follow the entry before.
    #[error("does not follow the entry before it: one of the two was changed")]
    Prev,
    /// It names another host than the first entry.
    #[error("names another host")]
    OtherHost,
    /// The first entry makes no key, or a later one makes another.
    #[error("a ledger begins with its first key, and has no other beginning")]
    Beginning,
    /// It is signed with a key that is not the ledger's.
    #[error("signed with another key than the one that was in use")]
    OtherKey,
    /// The signature does not hold.
    #[error("its signature does not hold: it was forged or changed")]
    Signature,
    /// The sessions' heads contradict one another.
    #[error("a log that had more records by then, or had ended")]
    Backwards,
}

/// What a key that somebody noted says of the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pinned {
    /// It is one of the ledger's, and has signed.
    Holds,
    /// It is none of the ledger's.
    Unknown,
    /// Nothing is signed with it.
    Unused,
}

impl Contents {
    /// Reads a ledger and holds it to these anchors.
    pub fn read(source: impl BufRead, anchors: &mut Anchors) -> io::Result<Self> {
        let mut lines = Lines::new(source);
        let mut contents = Self::default();
        while let Some(line) = lines.next_line()? {
            if line.ending == Ending::Cut {
                contents.torn = line.bytes.len();
                break;
            }
            if let Err(flaw) = contents.extend(line.bytes) {
                let entry = line.number;
                contents.broken = Some(BrokenEntry { entry, flaw });
                break;
            }
            anchors.meet(contents.entries, line.bytes);
        }
        Ok(contents)
    }

    /// What this key says of it.
    pub fn pinned(&self, key: &PublicKey) -> Pinned {
        match self.keys.iter().find(|(known, _)| known == key) {
            None => Pinned::Unknown,
            Some((_, 0)) => Pinned::Unused,
            Some(_) => Pinned::Holds,
        }
    }

    fn extend(&mut self, line: &[u8]) -> Result<(), EntryFlaw> {
        let entry = entry::parse(line).map_err(|error| match error {
            Unsealed::NotAnEntry => EntryFlaw::NotAnEntry,
            Unsealed::Hash => EntryFlaw::Hash,
        })?;
        let expected = self.entries + 1;
        if entry.seq != expected {
            let found = entry.seq;
            return Err(EntryFlaw::Sequence { expected, found });
        }
        let prev = self.head.unwrap_or_else(|| entry::genesis(&entry.host_id));
        if entry.prev != prev {
            return Err(EntryFlaw::Prev);
        }
        if self.host_id.get_or_insert_with(|| entry.host_id.clone()) != &entry.host_id {
            return Err(EntryFlaw::OtherHost);
        }
        self.take(&entry)?;
        self.entries = expected;
        self.head = Some(entry.hash);
        Ok(())
    }

    fn take(&mut self, entry: &Entry) -> Result<(), EntryFlaw> {
        let is_beginning = matches!(entry.event, LedgerEvent::KeyCreated { .. });
        if is_beginning != self.keys.is_empty() {
            return Err(EntryFlaw::Beginning);
        }
        match &entry.event {
            LedgerEvent::KeyCreated { key } => self.keys.push((*key, 0)),
            LedgerEvent::KeyRotated {
                old,
                new,
                old_signature,
                new_signature,
            } => {
                if self.keys.last().is_none_or(|(key, _)| key != old) {
                    return Err(EntryFlaw::OtherKey);
                }
                let message = rotation_message(entry.place(), old, new);
                if !old.verifies(&message, old_signature) || !new.verifies(&message, new_signature)
                {
                    return Err(EntryFlaw::Signature);
                }
                self.keys.push((*new, 0));
            }
            LedgerEvent::Checkpoint { key, signature } => {
                let current = self.keys.last_mut().filter(|(current, _)| current == key);
                let Some((_, count)) = current else {
                    return Err(EntryFlaw::OtherKey);
                };
                if !key.verifies(&checkpoint_message(entry.place(), key), signature) {
                    return Err(EntryFlaw::Signature);
                }
                *count += 1;
                self.signed = Some((entry.seq, entry.ts.clone()));
            }
            LedgerEvent::LogHead(head) => {
                let bound = self.sessions.entry((head.uid, head.session)).or_default();
                let last = bound.heads.last_key_value();
                let repeats = last == Some((&head.records, &head.head));
                if last.is_some_and(|(records, _)| *records >= head.records && !repeats)
                    || bound.ended && !repeats
                {
                    return Err(EntryFlaw::Backwards);
                }
                bound.heads.insert(head.records, head.head);
                bound.ended |= head.state == LogState::Ended;
            }
            LedgerEvent::LogBroken {
                session,
                uid,
                record,
                flaw,
            } => {
                let bound = self.sessions.entry((*uid, *session)).or_default();
                bound.broken.get_or_insert_with(|| (*record, flaw.clone()));
            }
            LedgerEvent::Unknown => {}
        }
        Ok(())
    }
}
