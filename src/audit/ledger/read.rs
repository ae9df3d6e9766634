//! Reads and verifies the whole ledger in one pass: the chain, the keys, every signature.
//!
//! Reported is the first entry that does not hold; nothing after it is believed. What follows the last
//! checkpoint is in the chain and not signed yet. A last line that is not whole is what an appender was
//! writing, or was when it was killed: the next one cuts it off.

use std::collections::{BTreeSet, HashMap};
use std::io::{self, BufRead};
use std::os::fd::AsFd;

use super::anchor::Anchors;
pub use super::bound::{Bound, LogName};
use super::entry::{self, Entry, LedgerEvent, Unsealed, checkpoint_message, rotation_message};
pub use super::flaw::{BrokenEntry, EntryFlaw};
use super::key::PublicKey;
use super::segment::{self, LedgerSegment};
use crate::audit::chain::ChainHash;
use crate::audit::reader::{Ending, Lines};

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
    /// Reads the ledger in this folder, all of its segments, and holds it to these anchors. `None`: there is none.
    pub fn of(folder: impl AsFd, anchors: &mut Anchors) -> io::Result<Option<Self>> {
        let segments = segment::list(&folder)?;
        let several = segments.len() > 1;
        let mut contents = Self::default();
        for (segment, number) in segments.iter().zip(1..) {
            if segment.number != number {
                let missing = LedgerSegment::plain(number).file_name();
                contents.break_at(Some(missing), EntryFlaw::SegmentMissing);
                break;
            }
            let (opened, file) = segment.open_either(&folder)?;
            let name = (several || opened.packed).then(|| opened.file_name());
            let taken = opened.lines(file).and_then(|mut lines| {
                contents.take_lines(&mut lines, segments.last() == Some(segment), anchors)
            });
            match taken {
                Ok(Ok(())) => {}
                Ok(Err(flaw)) => contents.break_at(name, flaw),
                // The disk's own errors look the same; either way it cannot be read as it should.
                Err(error) if opened.packed => {
                    contents.break_at(name, EntryFlaw::Packing(error.to_string()));
                }
                Err(error) => return Err(error),
            }
            if contents.broken.is_some() {
                break;
            }
        }
        contents.drop_unsigned();
        Ok((!segments.is_empty()).then_some(contents))
    }

    /// Reads a ledger of one segment and holds it to these anchors.
    pub fn read(source: impl BufRead, anchors: &mut Anchors) -> io::Result<Self> {
        let mut contents = Self::default();
        if let Err(flaw) = contents.take_lines(&mut Lines::new(source), true, anchors)? {
            contents.break_at(None, flaw);
        }
        contents.drop_unsigned();
        Ok(contents)
    }

    /// Goes on with a segment.
    fn take_lines(
        &mut self,
        lines: &mut Lines<impl BufRead>,
        is_last: bool,
        anchors: &mut Anchors,
    ) -> io::Result<Result<(), EntryFlaw>> {
        while let Some(line) = lines.next_line()? {
            if line.ending == Ending::Cut {
                if !is_last {
                    return Ok(Err(EntryFlaw::Truncated));
                }
                self.torn = line.bytes.len();
                break;
            }
            if let Err(flaw) = self.extend(line.bytes) {
                return Ok(Err(flaw));
            }
            anchors.meet(self.entries, line.bytes);
        }
        Ok(Ok(()))
    }

    /// The entry that must stand next does not hold.
    fn break_at(&mut self, file: Option<String>, flaw: EntryFlaw) {
        let entry = self.entries + 1;
        self.broken = Some(BrokenEntry { entry, file, flaw });
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
                let mut new = Bound::default();
                let known = self.sessions.get_mut(&name);
                let is_known = known.is_some();
                let is_new = known.unwrap_or(&mut new).prune(pruned);
                if is_new.ok_or(EntryFlaw::Pruned)? {
                    self.unsigned.push(name);
                }
                // Only what holds leaves a trace.
                if !is_known {
                    self.sessions.insert(name, new);
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
