//! Reads and verifies the whole ledger in one pass: the chain, the keys, every signature.
//!
//! Reported is the first entry that does not hold; nothing after it is believed. What follows the last
//! checkpoint is in the chain and not signed yet. A last line that is not whole is what an appender was
//! writing, or was when it was killed: the next one cuts it off.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, BufRead};

use serde::Serialize;

use super::anchor::Anchors;
use super::entry::{
    self, Entry, LedgerEvent, LogHead, LogPruned, LogState, Unsealed, checkpoint_message,
    rotation_message,
};
use super::key::PublicKey;
use crate::audit::chain::ChainHash;
use crate::audit::reader::{Ending, Lines};
use crate::audit::verify::SegmentEnd;
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
    /// The sessions that are held: of their logs nothing is removed.
    pub holds: BTreeSet<LogName>,
    /// Segments that were removed, as is said and not signed yet.
    unsigned: Vec<LogName>,
    /// Holds that were lifted, as is said and not signed yet.
    released: Vec<LogName>,
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
    /// The segments that were removed, from the first on: the log begins behind the last of them. Signed, all of them.
    pub pruned: Vec<SegmentEnd>,
}

impl Bound {
    /// The hash that a record must have.
    pub fn head(&self, record: u64) -> Option<ChainHash> {
        let pruned = || self.pruned.iter().find(|end| end.records == record);
        let head = self.heads.get(&record).copied();
        head.or_else(|| pruned().map(|end| end.head))
    }

    /// A head that was bound; answers whether it can be.
    fn bind(&mut self, head: &LogHead) -> bool {
        let last = self.heads.last_key_value();
        let repeats = last == Some((&head.records, &head.head));
        let backwards = last.is_some_and(|(records, _)| *records >= head.records);
        let contradicts = self
            .head(head.records)
            .is_some_and(|known| known != head.head);
        if contradicts || (backwards || self.ended) && !repeats {
            return false;
        }
        self.heads.insert(head.records, head.head);
        self.ended |= head.state == LogState::Ended;
        true
    }

    /// A segment that was removed: it follows the one before it, or says the same again. `None`: it contradicts what
    /// was said before; otherwise, whether it is new.
    fn prune(&mut self, pruned: &LogPruned) -> Option<bool> {
        let end = SegmentEnd {
            segment: pruned.segment,
            records: pruned.last,
            head: pruned.head,
        };
        let before = self.pruned.last();
        if before == Some(&end) {
            // Whoever was to remove it was killed.
            return Some(false);
        }
        let (segment, records) = before.map_or((0, 0), |end| (end.segment, end.records));
        let follows = segment.checked_add(1) == Some(pruned.segment)
            && records.checked_add(1) == Some(pruned.first)
            && pruned.first <= pruned.last;
        let agrees = |head: &ChainHash| *head == pruned.head;
        let holds = follows && self.heads.get(&pruned.last).is_none_or(agrees);
        holds.then(|| {
            self.pruned.push(end);
            true
        })
    }
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
    /// A segment that was removed contradicts what was said before.
    #[error(
        "removes a segment that does not follow the one removed before it, or is not as it was bound"
    )]
    Pruned,
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
        contents.drop_unsigned();
        Ok(contents)
    }

    /// That something was removed counts only where it is signed: who can write the file alone could say so.
    fn drop_unsigned(&mut self) {
        for name in self.unsigned.drain(..) {
            if let Some(bound) = self.sessions.get_mut(&name) {
                bound.pruned.pop();
            }
        }
        self.released.clear();
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
                self.unsigned.clear();
                for name in self.released.drain(..) {
                    self.holds.remove(&name);
                }
            }
            LedgerEvent::LogHead(head) => {
                let bound = self.sessions.entry((head.uid, head.session)).or_default();
                if !bound.bind(head) {
                    return Err(EntryFlaw::Backwards);
                }
            }
            LedgerEvent::LogPruned(pruned) => {
                let name = (pruned.uid, pruned.session);
                let bound = self.sessions.entry(name).or_default();
                if bound.prune(pruned).ok_or(EntryFlaw::Pruned)? {
                    self.unsigned.push(name);
                }
            }
            LedgerEvent::HoldSet { session, uid, .. } => {
                let name = (*uid, *session);
                self.released.retain(|released| *released != name);
                self.holds.insert(name);
            }
            LedgerEvent::HoldReleased { session, uid, .. } => self.released.push((*uid, *session)),
            LedgerEvent::LogBroken {
                session,
                uid,
                record,
                flaw,
            } => {
                let bound = self.sessions.entry((*uid, *session)).or_default();
                bound.broken.get_or_insert_with(|| (*record, flaw.clone()));
            }
            LedgerEvent::BodiesPruned { .. } | LedgerEvent::Unknown => {}
        }
        Ok(())
    }
}
