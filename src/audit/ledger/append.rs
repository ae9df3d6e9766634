//! Appends to the ledger, under a lock that nobody waits for long.
//!
//! Everything that an appender must know stands at the end of the newest segment ([`super::tail`]): the history is never
//! read. After [`Ledger::open`] it opens nothing but the segments that follow ([`super::newest`]), so that a process
//! that is confined can append. A batch is one write(2) into one segment and ends with a checkpoint. A last line that is not whole
//! was never answered for: the next appender cuts it off. Anything else that does not hold ends it.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use memchr::memmem;

use super::batch::Batch;
use super::entry::{self, LedgerEvent, rotation_message};
use super::error::LedgerError;
use super::key::{KeyError, KeyFile, PublicKey, SigningKey};
use super::newest::{Locked, Newest};
use super::open::publish;
pub use super::open::{KeyPlace, folder};
use super::read::LogName;
use super::segment::{self, LedgerSegment};
use super::tail::{Tail, TailError};
use crate::audit::roll::Roll;
use crate::audit::verify::SegmentEnd;
use crate::policy::Durability;

/// How many entries a batch has at most, its checkpoint not counted: so that a key is within a window.
pub const MAX_BATCH: usize = 64;

/// How long the start of a session waits for another one that makes the key.
pub(super) const START: Duration = Duration::from_secs(2);

/// The open ledger.
#[derive(Debug)]
pub struct Ledger {
    pub(super) folder: OwnedFd,
    /// The newest segment when it was last looked at.
    pub(super) newest: RefCell<Newest>,
    pub(super) key: KeyFile,
    /// Begins a ledger that is empty.
    pub(super) host_id: String,
    /// For messages only.
    pub(super) path: PathBuf,
    pub(super) durability: Durability,
    pub(super) roll: Roll,
}

/// The newest segment, which nobody else writes.
pub(super) struct Held {
    newest: Newest,
    lock: Locked,
}

impl Ledger {
    /// Begins the next segment by this rule. Who appends only now and then leaves that to the others.
    #[must_use]
    pub fn rolling(mut self, roll: Roll) -> Self {
        self.roll = roll;
        self
    }

    /// The folder in which further segments are opened and made.
    pub fn folder(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }

    /// Appends these, in batches, each with a checkpoint. Waits no longer than this for the lock.
    pub fn append(&self, events: &[LedgerEvent], patience: Duration) -> Result<(), LedgerError> {
        let mut held = self.hold(patience)?;
        for events in events.chunks(MAX_BATCH) {
            let tail = self.tail(&held)?;
            let key = self.current(&tail)?;
            let mut batch = Batch::new(&tail);
            if tail.key.is_none() {
                let key = key.public();
                batch
                    .push(|_| Ok(LedgerEvent::KeyCreated { key }))
                    .map_err(|error| self.key_failed(error))?;
            }
            for event in events {
                let pushed = batch.push(|_| Ok(event.clone()));
                pushed.map_err(|error| self.key_failed(error))?;
            }
            let signed = batch.sign(&key);
            signed.map_err(|error| self.key_failed(error))?;
            let durably = self.durability == Durability::Each;
            self.write(&mut held, &tail, &batch.lines, durably)?;
        }
        Ok(())
    }

    /// Has another key sign from here on, and answers both public halves. `folder` is that of the ledger.
    pub fn rotate(&self, folder: impl AsFd) -> Result<(PublicKey, PublicKey), LedgerError> {
        let mut held = self.hold(START)?;
        let tail = self.tail(&held)?;
        let old = self.current(&tail)?;
        let key_failed = |error| self.key_failed(error);
        // From here on the file holds the key that signs, whatever the ledger says.
        let new = self.key.next(&old).map_err(key_failed)?;
        let (was, is) = (old.public(), new.public());
        let mut batch = Batch::new(&tail);
        if tail.key.is_none() {
            let created = LedgerEvent::KeyCreated { key: was };
            batch.push(|_| Ok(created)).map_err(key_failed)?;
        }
        let rotated = batch.push(|place| {
            let message = rotation_message(place, &was, &is);
            Ok(LedgerEvent::KeyRotated {
                old: was,
                new: is,
                old_signature: old.sign(&message)?,
                new_signature: new.sign(&message)?,
            })
        });
        rotated.map_err(key_failed)?;
        batch.sign(&new).map_err(key_failed)?;
        self.write(&mut held, &tail, &batch.lines, true)?;
        self.key.settle(&new).map_err(key_failed)?;
        publish(&folder, is).map_err(|error| self.io_failed(error))?;
        Ok((was, is))
    }

    /// The key that signs now.
    pub fn public(&self) -> Result<PublicKey, LedgerError> {
        let held = self.hold(START)?;
        Ok(self.current(&self.tail(&held)?)?.public())
    }

    /// The plain segments that nobody will ever append to, nor needs to append: these can be packed.
    pub fn closed(&self, patience: Duration) -> Result<Vec<LedgerSegment>, LedgerError> {
        let held = self.hold(patience)?;
        let is_settled = self.tail(&held)?.settled;
        let mut closed = segment::list(&self.folder).map_err(|error| self.io_failed(error))?;
        closed.retain(|one| is_settled && !one.packed && one.number < held.newest.number);
        Ok(closed)
    }

    /// Puts its public half beside the entries: of a key that was given nobody else has. `folder` is that of the ledger.
    pub fn publish(&self, folder: impl AsFd) -> Result<(), LedgerError> {
        publish(folder, self.public()?).map_err(|error| self.io_failed(error))
    }

    /// Behind which segment a log begins by now, as the entries say: for who appends to them, and so trusts them.
    pub fn pruned(&self, (uid, session): LogName) -> io::Result<Option<SegmentEnd>> {
        let session_text = session.to_string();
        // The last word on it counts.
        for segment in segment::list(&self.folder)?.into_iter().rev() {
            let (segment, file) = segment.open_either(&self.folder)?;
            let mut lines = segment.lines(file)?;
            let mut end = None;
            while let Some(line) = lines.next_line()? {
                if memmem::find(line.bytes, session_text.as_bytes()).is_none() {
                    continue;
                }
                if let Ok(entry) = entry::parse(line.bytes)
                    && let LedgerEvent::LogPruned(pruned) = entry.event
                    && (pruned.uid, pruned.session) == (uid, session)
                {
                    end = Some(SegmentEnd {
                        segment: pruned.segment,
                        records: pruned.last,
                        head: pruned.head,
                    });
                }
            }
            if end.is_some() {
                return Ok(end);
            }
        }
        Ok(None)
    }

    /// Locks the newest segment, which may be another one than it was.
    pub(super) fn hold(&self, patience: Duration) -> Result<Held, LedgerError> {
        let until = Instant::now() + patience;
        let mut newest = self.newest.borrow().clone();
        let mut lock = self.locked(&newest, until)?;
        loop {
            let next = newest.next(&self.folder);
            let Some(next) = next.map_err(|error| self.io_failed(error))? else {
                break;
            };
            lock = self.locked(&next, until)?;
            newest = next;
        }
        self.newest.replace(newest.clone());
        Ok(Held { newest, lock })
    }

    fn locked(&self, newest: &Newest, until: Instant) -> Result<Locked, LedgerError> {
        let locked = newest.locked(until);
        let locked = locked.map_err(|error| self.io_failed(error))?;
        locked.ok_or_else(|| LedgerError::Busy {
            path: self.path.clone(),
        })
    }

    /// The key that the ledger says signs.
    pub(super) fn current(&self, tail: &Tail) -> Result<SigningKey, LedgerError> {
        let keys = self.key.keys().map_err(|error| self.key_failed(error))?;
        let mut keys = keys.into_iter();
        let current = match tail.key {
            None => keys.next(),
            Some(public) => keys.find(|key| key.public() == public),
        };
        current.ok_or_else(|| {
            self.not_continued("another key signed it last than the one in its key file")
        })
    }

    pub(super) fn tail(&self, held: &Held) -> Result<Tail, LedgerError> {
        Tail::read(&held.newest, &self.host_id).map_err(|error| match error {
            TailError::Io(error) => self.io_failed(error),
            TailError::NotContinued(why) => self.not_continued(why),
        })
    }

    /// Where a batch of so many bytes begins: where the whole lines end, or in the next segment.
    fn begin(&self, held: &mut Held, tail: &Tail, bytes: u64) -> Result<u64, LedgerError> {
        let failed = |errno: rustix::io::Errno| self.io_failed(errno.into());
        if tail.size != tail.length {
            rustix::fs::ftruncate(&held.newest.file, tail.length).map_err(failed)?;
        }
        let is_due = |ts: &String| self.roll.is_due(tail.length, bytes, ts, &entry::now());
        let rolls = tail.ts.as_ref().is_some_and(is_due);
        if rolls {
            // What is closed is whole on the disk before anything follows it.
            rustix::fs::fdatasync(&held.newest.file).map_err(failed)?;
            let next = held.newest.begin_next(&self.folder);
            let next = next.map_err(|error| self.io_failed(error))?;
            // Somebody who has just come may be faster, and writes it.
            held.lock = self.locked(&next, Instant::now())?;
            self.newest.replace(next.clone());
            held.newest = next;
        }
        let start = if rolls { 0 } else { tail.length };
        if start == 0 {
            rustix::fs::fsync(&self.folder).map_err(failed)?;
        }
        Ok(start)
    }

    /// One write(2). What fails is taken back.
    fn write(
        &self,
        held: &mut Held,
        tail: &Tail,
        lines: &[u8],
        durably: bool,
    ) -> Result<(), LedgerError> {
        let start = self.begin(held, tail, lines.len() as u64)?;
        let file = &held.newest.file;
        let written = || -> io::Result<()> {
            let mut rest = lines;
            while !rest.is_empty() {
                match rustix::io::write(file, rest) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                    Err(rustix::io::Errno::INTR) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
            if durably {
                rustix::fs::fdatasync(file)?;
            }
            Ok(())
        };
        written().map_err(|error| {
            // If that fails too, the next appender cuts it.
            rustix::fs::ftruncate(file, start).ok();
            self.io_failed(error)
        })
    }

    fn io_failed(&self, error: io::Error) -> LedgerError {
        LedgerError::Io {
            path: self.path.clone(),
            error,
        }
    }

    fn key_failed(&self, error: KeyError) -> LedgerError {
        LedgerError::Key {
            path: self.path.clone(),
            error,
        }
    }

    fn not_continued(&self, why: &'static str) -> LedgerError {
        LedgerError::NotContinued {
            path: self.path.clone(),
            why,
        }
    }
}
