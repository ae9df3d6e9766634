//! Carries a plan out: the ledger says, signed, what is removed; then it is removed.
//!
//! Whatever ends it in between leaves what was to be removed where it was, and the next run removes it without
//! saying so again. A log that does not verify, by itself or by what the ledger says of it, is evidence: it stays,
//! and that is told.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::files::{self, Gone};
use super::inventory::{InventoryError, Stored, inventory, now};
use super::plan::{Removal, plan};
use super::rules::Keep;
use super::{Retention, hold, pack};
use crate::audit::bodies;
use crate::audit::folder::LogFolder;
use crate::audit::ledger::compare::Comparison;
use crate::audit::ledger::entry::{LedgerEvent, LogPruned};
use crate::audit::ledger::read::Contents;
use crate::audit::ledger::{Ledger, LedgerError};
use crate::audit::segment::SegmentName;
use crate::audit::verify::{Begins, SegmentEnd, State, verify_log_seen, verify_segment};
use crate::ids::SessionId;

/// How long the lock of the ledger is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Tombstones that are written together.
const BATCH: usize = 64;

/// What is to be done with a folder of logs. Whoever does it holds it [`alone`], since before the ledger was read.
#[derive(Debug)]
pub struct Prune<'a> {
    /// The folder.
    pub folder: &'a LogFolder,
    /// What its ledger says, if all of that holds; where there is none, nothing is removed.
    pub contents: Option<&'a Contents>,
    /// The same, to be appended to; without it nothing is removed either, unless it is a dry run.
    pub ledger: Option<&'a Ledger>,
    /// In whose name the ledger speaks of the folder; `None`: it lies in the folder itself.
    pub uid: Option<u32>,
    /// By which rules.
    pub retention: Retention,
    /// Whether it is only said what would be done.
    pub dry_run: bool,
}

/// What was done, or would be.
#[derive(Debug)]
pub enum Step {
    /// A segment was removed.
    Removed(Removal),
    /// These segments of a log should have gone and stay: the log does not verify, as these words say.
    Broken(SessionId, u64, String),
    /// Bodies were removed.
    Bodies(Gone),
    /// A segment was packed: how many bytes it took, and takes.
    Packed(Stored, Option<pack::Packed>),
    /// It should have been packed and stays as it is.
    NotPacked(Stored, io::Error),
}

/// Nothing more was done. One line with cause and cure.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// Two at once.
    #[error("{0}: somebody else is removing or packing logs there; try again")]
    Busy(String),
    /// The folder.
    #[error(transparent)]
    Inventory(#[from] InventoryError),
    /// The holds.
    #[error("{0}: what is held cannot be told: {1}; nothing was removed")]
    Holds(String, io::Error),
    /// A segment.
    #[error("{0}: {1}; nothing more was removed")]
    Segment(String, io::Error),
    /// No tombstone can be written.
    #[error(
        "{0}: it has no ledger, so nobody could tell removal from tampering; nothing was removed"
    )]
    NoLedger(String),
    /// The tombstone was not written.
    #[error("{0}; nothing more was removed")]
    Ledger(#[from] LedgerError),
}

/// Two that pack the same segment, or go by the same ledger, could undo each other's work: flock(2) on the folder,
/// until it is closed.
pub fn alone(folder: &LogFolder) -> Result<OwnedFd, PruneError> {
    let path = || folder.path().display().to_string();
    let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let own = rustix::fs::openat(folder, ".", flags, rustix::fs::Mode::empty())
        .map_err(|errno| PruneError::Segment(path(), errno.into()))?;
    match rustix::fs::flock(own.as_fd(), FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(own),
        Err(Errno::WOULDBLOCK) => Err(PruneError::Busy(path())),
        Err(errno) => Err(PruneError::Segment(path(), errno.into())),
    }
}

/// Segments whose tombstones are written together.
#[derive(Default)]
struct Batch {
    tombstones: Vec<LedgerEvent>,
    removals: Vec<Removal>,
}

impl Prune<'_> {
    /// Does it, and calls `tell` with every step. Where nothing can be removed, what can be packed is packed all the
    /// same.
    pub fn run(&self, tell: &mut dyn FnMut(Step)) -> Result<(), PruneError> {
        let stored = inventory(self.folder)?;
        let held = self.held()?;
        let removals = plan(&stored, &held, self.retention.logs, now());
        let planned: BTreeSet<SegmentName> =
            removals.iter().map(|removal| removal.stored.name).collect();
        let removed = self.remove(&removals, tell);
        let removed = removed.and_then(|()| self.bodies(&held, tell));
        if !matches!(removed, Ok(()) | Err(PruneError::NoLedger(_))) {
            return removed;
        }
        // What stays though it should go is evidence, and is left alone.
        let left = stored.into_iter().filter(|stored| {
            !planned.contains(&stored.name) && !held.contains(&stored.name.session)
        });
        self.pack(&left.collect::<Vec<_>>(), tell)?;
        removed
    }

    /// What is held, by a file or by what the ledger says: who removed the file did not lift the hold.
    pub fn held(&self) -> Result<BTreeSet<SessionId>, PruneError> {
        let mut held = hold::held(self.folder).map_err(|error| self.holds_failed(error))?;
        let signed = self.contents.iter().flat_map(|contents| &contents.holds);
        held.extend(
            signed
                .filter(|(uid, _)| *uid == self.uid)
                .map(|(_, session)| *session),
        );
        Ok(held)
    }

    /// Verifies the logs of these, says in the ledger that they go, and removes them.
    fn remove(&self, removals: &[Removal], tell: &mut dyn FnMut(Step)) -> Result<(), PruneError> {
        let mut logs: BTreeMap<SessionId, Vec<Removal>> = BTreeMap::new();
        for removal in removals {
            let log = logs.entry(removal.stored.name.session).or_default();
            log.push(*removal);
        }
        if logs.is_empty() {
            return Ok(());
        }
        let contents = self.contents();
        let contents = contents.ok_or_else(|| self.no_ledger())?;
        let mut batch = Batch::default();
        for (session, removals) in logs {
            match self.verify(contents, session)? {
                Ok(ends) => {
                    for removal in removals {
                        batch
                            .tombstones
                            .extend(self.tombstone(&ends, contents, removal));
                        batch.removals.push(removal);
                        if batch.tombstones.len() >= BATCH {
                            self.flush(std::mem::take(&mut batch), tell)?;
                        }
                    }
                }
                Err(why) => tell(Step::Broken(session, removals.len() as u64, why)),
            }
        }
        self.flush(batch, tell)
    }

    /// Where the segments of a log end, or why it is evidence.
    fn verify(
        &self,
        contents: &Contents,
        session: SessionId,
    ) -> Result<Result<Vec<SegmentEnd>, String>, PruneError> {
        let bound = contents.sessions.get(&(self.uid, session));
        let pruned = bound.map_or(&[][..], |bound| bound.pruned.as_slice());
        let mut comparison = Comparison::new(bound);
        let mut seen = |record, hash| comparison.see(record, hash);
        let report = verify_log_seen(self.folder, session, Begins::Behind(pruned), &mut seen);
        let report = report.map_err(|error| self.failed(SegmentName::first(session), error))?;
        let broken = report.broken.as_ref().map(ToString::to_string);
        let ends = report.ends.clone();
        let flaw = comparison.finish(&report).flaw;
        let why = broken.or_else(|| flaw.map(|flaw| flaw.to_string()));
        Ok(why.map_or(Ok(ends), Err))
    }

    /// What the ledger says of a segment that goes; `None`: it says so already, or the segment has no record.
    fn tombstone(
        &self,
        ends: &[SegmentEnd],
        contents: &Contents,
        removal: Removal,
    ) -> Option<LedgerEvent> {
        let name = removal.stored.name;
        let bound = contents.sessions.get(&(self.uid, name.session));
        let before = bound.and_then(|bound| bound.pruned.last());
        if before.is_some_and(|before| before.segment >= name.number) {
            return None;
        }
        let end = ends.iter().find(|end| end.segment == name.number)?;
        let earlier = ends.iter().chain(before);
        let first = earlier
            .filter(|earlier| earlier.segment < name.number)
            .map(|earlier| earlier.records)
            .max()
            .unwrap_or_default()
            .saturating_add(1);
        // Plain and packed, where a packer was killed: one segment all the same.
        let again = name.packed
            && self
                .folder
                .open_segment(SegmentName {
                    packed: false,
                    ..name
                })
                .is_ok();
        (first <= end.records && !again).then_some(LedgerEvent::LogPruned(LogPruned {
            session: name.session,
            uid: self.uid,
            segment: name.number,
            first,
            last: end.records,
            head: end.head,
            why: removal.why,
        }))
    }

    /// Says what goes, and removes it.
    fn flush(&self, batch: Batch, tell: &mut dyn FnMut(Step)) -> Result<(), PruneError> {
        if batch.removals.is_empty() {
            return Ok(());
        }
        if let Some(ledger) = self.ledger.filter(|_| !self.dry_run) {
            if !batch.tombstones.is_empty() {
                ledger.append(&batch.tombstones, PATIENCE)?;
            }
            for removal in &batch.removals {
                let name = removal.stored.name;
                let removed = pack::remove(self.folder, &name.file_name());
                removed.map_err(|error| self.failed(name, error))?;
            }
            // The tombstones are on the disk; names that come back after a power cut are removed by the next run.
            rustix::fs::fsync(self.folder).map_err(|errno| {
                PruneError::Segment(self.folder.path().display().to_string(), errno.into())
            })?;
        }
        for removal in batch.removals {
            tell(Step::Removed(removal));
        }
        Ok(())
    }

    /// Removes bodies that no held log speaks of.
    fn bodies(
        &self,
        held: &BTreeSet<SessionId>,
        tell: &mut dyn FnMut(Step),
    ) -> Result<(), PruneError> {
        if self.retention.bodies == Keep::default() {
            return Ok(());
        }
        let path = || {
            self.folder
                .path()
                .join(bodies::FOLDER)
                .display()
                .to_string()
        };
        let failed = |error| PruneError::Segment(path(), error);
        let Some(folder) = files::open(self.folder, Path::new(bodies::FOLDER)).map_err(failed)?
        else {
            return Ok(());
        };
        let stay = files::bodies_of(self.folder, held);
        let stay = stay.map_err(|error| self.holds_failed(error))?;
        let takes = |name: &str| files::body(name).is_some_and(|body| !stay.contains(body));
        let surplus = files::surplus(&folder, self.retention.bodies, takes).map_err(failed)?;
        let Some(newest) = surplus.last() else {
            return Ok(());
        };
        self.contents().ok_or_else(|| self.no_ledger())?;
        let gone = Gone::of(&surplus);
        if let Some(ledger) = self.ledger.filter(|_| !self.dry_run) {
            let since = i128::try_from(newest.modified.as_nanos()).unwrap_or(i128::MAX);
            let pruned = LedgerEvent::BodiesPruned {
                uid: self.uid,
                count: gone.count,
                bytes: gone.bytes,
                before: Timestamp::from_nanosecond(since).unwrap_or(Timestamp::MAX),
            };
            ledger.append(&[pruned], PATIENCE)?;
            files::unlink(&folder, &surplus).map_err(failed)?;
        }
        tell(Step::Bodies(gone));
        Ok(())
    }

    /// Packs what is closed and old enough.
    fn pack(&self, stored: &[Stored], tell: &mut dyn FnMut(Step)) -> Result<(), PruneError> {
        let Some(after) = self.retention.pack_after else {
            return Ok(());
        };
        for (at, one) in stored.iter().enumerate() {
            let next = stored.get(at + 1);
            let is_last = next.is_none_or(|next| next.name.session != one.name.session);
            let old = now().saturating_sub(one.modified) > after;
            if one.name.packed || !one.closed || !old {
                continue;
            }
            let opened = self.folder.open_segment(one.name);
            let report = opened.and_then(|file| verify_segment(file, one.name));
            let report = report.map_err(|error| self.failed(one.name, error))?;
            // A log without its end may be gone on with.
            if report.broken.is_some() || (is_last && report.state != State::Complete) {
                continue;
            }
            if self.dry_run {
                tell(Step::Packed(*one, None));
                continue;
            }
            tell(match pack::pack(self.folder, one.name) {
                Ok(packed) => Step::Packed(*one, Some(packed)),
                Err(error) => Step::NotPacked(*one, error),
            });
        }
        Ok(())
    }

    /// What the ledger says, if it can be appended to or need not be.
    fn contents(&self) -> Option<&Contents> {
        self.contents
            .filter(|_| self.dry_run || self.ledger.is_some())
    }

    fn no_ledger(&self) -> PruneError {
        PruneError::NoLedger(self.folder.path().display().to_string())
    }

    fn holds_failed(&self, error: io::Error) -> PruneError {
        PruneError::Holds(self.folder.path().display().to_string(), error)
    }

    fn failed(&self, name: SegmentName, error: io::Error) -> PruneError {
        let path = self.folder.path().join(name.file_name());
        PruneError::Segment(path.display().to_string(), error)
    }
}
