//! Appends to the ledger, under a lock that nobody waits for long.
//!
//! Everything that an appender must know stands at the end of the newest segment ([`super::tail`]): the history is never
//! read. After [`Ledger::open`] it opens nothing but the segments that follow ([`super::newest`]), so that a process
//! that is confined can append. A batch is one write(2) into one segment and ends with a checkpoint. A last line that is not whole
//! was never answered for: the next appender cuts it off. Anything else that does not hold ends it.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use memchr::memmem;
use rustix::fs::{Mode, OFlags};

use super::batch::Batch;
use super::entry::{self, LedgerEvent, rotation_message};
use super::error::LedgerError;
use super::key::{self, KeyError, KeyFile, PublicKey, SigningKey};
use super::newest::{Locked, Newest};
use super::read::LogName;
use super::segment::{self, LedgerSegment};
use super::tail::{Tail, TailError};
use super::{FILE, FOLDER};
use crate::audit::roll::Roll;
use crate::audit::verify::SegmentEnd;
use crate::policy::Durability;

/// How many entries a batch has at most, its checkpoint not counted: so that a key is within a window.
pub const MAX_BATCH: usize = 64;

/// How long the start of a session waits for another one that makes the key.
const START: Duration = Duration::from_secs(2);

/// The open ledger.
#[derive(Debug)]
pub struct Ledger {
    folder: OwnedFd,
    /// The newest segment when it was last looked at.
    newest: RefCell<Newest>,
    key: KeyFile,
    /// Begins a ledger that is empty.
    host_id: String,
    /// For messages only.
    path: PathBuf,
    durability: Durability,
    roll: Roll,
}

/// Where the key is.
#[derive(Debug)]
pub enum KeyPlace {
    /// Beside the entries, made at first use.
    Beside,
    /// In a folder of its own, made at first use.
    In(OwnedFd),
    /// In this file, which is never written.
    Given(KeyFile),
}

/// The newest segment, which nobody else writes.
struct Held {
    newest: Newest,
    lock: Locked,
}

/// Opens the folder of the ledger in a folder of logs; makes it where it is missing, for its owner alone.
pub fn folder(logs: impl AsFd) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    let open = || rustix::fs::openat(&logs, FOLDER, flags, Mode::empty());
    match open() {
        Err(rustix::io::Errno::NOENT) => {}
        opened => return Ok(opened?),
    }
    match rustix::fs::mkdirat(&logs, FOLDER, Mode::RWXU) {
        // Another session's writer was first.
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(open()?),
        Err(errno) => Err(errno.into()),
    }
}

impl Ledger {
    /// Opens the ledger in its folder; makes it, and the key, where they are missing. Of one that exists the
    /// end must hold, if nobody is writing it right now. It begins no further segment: see [`Self::rolling`].
    pub fn open(
        folder: impl AsFd,
        shown: &Path,
        place: KeyPlace,
        durability: Durability,
        host_id: String,
    ) -> Result<Self, LedgerError> {
        let path = shown.join(FILE);
        let io_failed = |error: io::Error| LedgerError::Io {
            path: path.clone(),
            error,
        };
        let key_failed = |error: KeyError| LedgerError::Key {
            path: path.clone(),
            error,
        };
        let newest = Newest::open(&folder).map_err(io_failed)?;
        let (own, given) = match place {
            KeyPlace::Beside => (None, None),
            KeyPlace::In(own) => (Some(own), None),
            KeyPlace::Given(key) => (None, Some(key)),
        };
        let keys = own.as_ref().map_or(folder.as_fd(), AsFd::as_fd);
        let key = match given {
            Some(key) => Some(key),
            None => KeyFile::open(keys, key::FILE).map_err(key_failed)?,
        };
        let (key, is_new) = if let Some(key) = key {
            (key, false)
        } else {
            let locked = newest.locked(Instant::now() + START).map_err(io_failed)?;
            let _locked = locked.ok_or_else(|| LedgerError::Busy { path: path.clone() })?;
            let length = newest.file.metadata().map_err(io_failed)?.len();
            // Another session may have made it while we waited.
            match KeyFile::open(keys, key::FILE).map_err(key_failed)? {
                Some(key) => (key, false),
                None if length == 0 && newest.number == 1 => {
                    let (key, public) = KeyFile::create(keys, key::FILE).map_err(key_failed)?;
                    publish(&folder, public).map_err(io_failed)?;
                    (key, true)
                }
                None => {
                    let why = "its key is gone";
                    return Err(LedgerError::NotContinued { path, why });
                }
            }
        };
        let folder = folder.as_fd().try_clone_to_owned().map_err(io_failed)?;
        let ledger = Self {
            folder,
            newest: newest.into(),
            key,
            host_id,
            path,
            durability,
            roll: Roll::NEVER,
        };
        if !is_new {
            match ledger.hold(Duration::ZERO) {
                Ok(held) => drop(ledger.current(&ledger.tail(&held)?)?),
                Err(LedgerError::Busy { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(ledger)
    }

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
        let new = SigningKey::generate().map_err(key_failed)?;
        // From here on the file holds the key that signs, whatever the ledger says.
        self.key.write(&[&old, &new]).map_err(key_failed)?;
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
        self.key.write(&[&new]).map_err(key_failed)?;
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
    fn hold(&self, patience: Duration) -> Result<Held, LedgerError> {
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
    fn current(&self, tail: &Tail) -> Result<SigningKey, LedgerError> {
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

    fn tail(&self, held: &Held) -> Result<Tail, LedgerError> {
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

/// Puts the public half beside the entries. Nobody trusts it who does not trust the folder.
fn publish(folder: impl AsFd, key: PublicKey) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
    let file = std::fs::File::from(rustix::fs::openat(folder, key::PUBLIC_FILE, flags, mode)?);
    // In place and of one length: whoever reads it meanwhile reads a key.
    file.write_all_at(format!("{key}\n").as_bytes(), 0)
}
