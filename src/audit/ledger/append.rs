//! Appends to the ledger, under a lock that nobody waits for long.
//!
//! Everything that an appender must know stands at the end of the file: the last entry and, at most a
//! batch before it, the key that signs. It opens nothing after [`Ledger::open`], so that a process that is
//! confined can append. A batch is one write(2) and ends with a checkpoint. A last line that is not whole
//! was never answered for: the next appender cuts it off. Anything else that does not hold ends it.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use memchr::memmem;
use rustix::event::{Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags};

use super::entry::{self, Entry, LedgerEvent, Place, checkpoint_message, rotation_message};
use super::key::{self, KeyError, KeyFile, PublicKey, SigningKey};
use super::read::LogName;
use super::{FILE, FOLDER};
use crate::audit::chain::ChainHash;
use crate::audit::lock;
use crate::audit::reader::Lines;
use crate::audit::verify::SegmentEnd;
use crate::policy::Durability;

/// How much of the end is looked at, the second and third where the one before did not hold a key.
const WINDOWS: [u64; 3] = [8 << 10, 128 << 10, 4 << 20];

/// How many entries a batch has at most, its checkpoint not counted: so that a key is within a window.
pub const MAX_BATCH: usize = 64;

/// How long is slept between two looks at the lock.
const NAP: Duration = Duration::from_millis(2);

/// How long the start of a session waits for another one that makes the key.
const START: Duration = Duration::from_secs(2);

/// The open ledger.
#[derive(Debug)]
pub struct Ledger {
    file: File,
    key: KeyFile,
    /// Begins a ledger that is empty.
    host_id: String,
    /// For messages only.
    path: PathBuf,
    durability: Durability,
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

/// Why nothing was appended. One line with cause and cure.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The file or its folder failed.
    #[error("audit ledger {}: {error}; check its folder, and the disk", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The key is of no use.
    #[error("audit ledger {}: its key: {error}", path.display())]
    Key {
        /// Where.
        path: PathBuf,
        /// Why.
        error: KeyError,
    },
    /// The end of the ledger cannot be continued.
    #[error(
        "audit ledger {}: {why}; it is not continued: see portcullis audit verify, and move its folder away to begin \
         another",
        path.display()
    )]
    NotContinued {
        /// Where.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Somebody else has the lock.
    #[error("audit ledger {}: somebody else is writing it; try again", path.display())]
    Busy {
        /// Where.
        path: PathBuf,
    },
}

/// The end of the ledger.
struct Tail {
    host_id: String,
    seq: u64,
    head: ChainHash,
    /// The key that signs; `None`: the ledger is empty.
    key: Option<PublicKey>,
    /// Where the next line begins. What stands there is cut off.
    length: u64,
    size: u64,
}

/// The open file, read from its start whatever its place is.
struct FromStart<'a> {
    file: &'a File,
    offset: u64,
}

impl Read for FromStart<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

/// The lock, until it is dropped.
struct Locked<'a>(&'a File);

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // If this fails it is gone with the descriptor.
        drop(lock::release(self.0));
    }
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
    /// end must hold, if nobody is writing it right now.
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
        let file = open_file(&folder).map_err(io_failed)?;
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
            let _locked = locked(&file, START).map_err(io_failed)?;
            let is_empty = file.metadata().map_err(io_failed)?.len() == 0;
            // Another session may have made it while we waited.
            match KeyFile::open(keys, key::FILE).map_err(key_failed)? {
                Some(key) => (key, false),
                None if is_empty => {
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
        let ledger = Self {
            file,
            key,
            host_id,
            path,
            durability,
        };
        if !is_new {
            match ledger.lock(Duration::ZERO) {
                Ok(_locked) => drop(ledger.current(&ledger.tail()?)?),
                Err(LedgerError::Busy { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(ledger)
    }

    /// Appends these, in batches, each with a checkpoint. Waits no longer than this for the lock.
    pub fn append(&self, events: &[LedgerEvent], patience: Duration) -> Result<(), LedgerError> {
        let _locked = self.lock(patience)?;
        for events in events.chunks(MAX_BATCH) {
            let tail = self.tail()?;
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
            self.write(&tail, &batch.lines, self.durability == Durability::Each)?;
        }
        Ok(())
    }

    /// Has another key sign from here on, and answers both public halves. `folder` is that of the ledger.
    pub fn rotate(&self, folder: impl AsFd) -> Result<(PublicKey, PublicKey), LedgerError> {
        let _locked = self.lock(START)?;
        let tail = self.tail()?;
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
        self.write(&tail, &batch.lines, true)?;
        self.key.settle(&new).map_err(key_failed)?;
        publish(&folder, is).map_err(|error| self.io_failed(error))?;
        Ok((was, is))
    }

    /// The key that signs now.
    pub fn public(&self) -> Result<PublicKey, LedgerError> {
        let _locked = self.lock(START)?;
        Ok(self.current(&self.tail()?)?.public())
    }

    /// Puts its public half beside the entries: of a key that was given nobody else has. `folder` is that of the ledger.
    pub fn publish(&self, folder: impl AsFd) -> Result<(), LedgerError> {
        publish(folder, self.public()?).map_err(|error| self.io_failed(error))
    }

    /// Behind which segment a log begins by now, as the entries say: for who appends to them, and so trusts them.
    pub fn pruned(&self, (uid, session): LogName) -> io::Result<Option<SegmentEnd>> {
        let session_text = session.to_string();
        let mut lines = Lines::new(BufReader::new(FromStart {
            file: &self.file,
            offset: 0,
        }));
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
        Ok(end)
    }

    /// The open file, to be watched.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn lock(&self, patience: Duration) -> Result<Locked<'_>, LedgerError> {
        locked(&self.file, patience).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::PermissionDenied => LedgerError::Busy {
                path: self.path.clone(),
            },
            _ => self.io_failed(error),
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

    fn tail(&self) -> Result<Tail, LedgerError> {
        let stat = rustix::fs::fstat(&self.file).map_err(|errno| self.io_failed(errno.into()))?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        for window in WINDOWS {
            let from = size.saturating_sub(window);
            let text = self.end_from(from, size);
            let text = text.map_err(|error| self.io_failed(error))?;
            let whole = memchr::memrchr(b'\n', &text).map_or(0, |newline| newline + 1);
            let lines = text.get(..whole).unwrap_or_default();
            let length = from + whole as u64;
            if from == 0 && lines.is_empty() {
                let host_id = self.host_id.clone();
                let head = entry::genesis(&host_id);
                return Ok(Tail {
                    host_id,
                    seq: 0,
                    head,
                    key: None,
                    length,
                    size,
                });
            }
            if let Some((last, key)) = self.end(lines, from == 0)? {
                return Ok(Tail {
                    host_id: last.host_id,
                    seq: last.seq,
                    head: last.hash,
                    key: Some(key),
                    length,
                    size,
                });
            }
            if from == 0 {
                break;
            }
        }
        Err(self.not_continued("no key and no checkpoint stands at its end"))
    }

    /// The last entry of these lines and the key that signs, if they hold both.
    fn end(
        &self,
        lines: &[u8],
        from_start: bool,
    ) -> Result<Option<(Entry, PublicKey)>, LedgerError> {
        let mut last = None;
        let lines = lines.strip_suffix(b"\n").unwrap_or(lines);
        let count = lines.split(|byte| *byte == b'\n').count();
        for (place, line) in lines.rsplit(|byte| *byte == b'\n').enumerate() {
            if place + 1 == count && !from_start {
                // The first one is a part of a line.
                break;
            }
            let entry = entry::parse(line)
                .map_err(|_| self.not_continued("an entry at its end was changed"))?;
            let key = match &entry.event {
                LedgerEvent::KeyCreated { key } | LedgerEvent::Checkpoint { key, .. } => Some(*key),
                LedgerEvent::KeyRotated { new, .. } => Some(*new),
                LedgerEvent::LogHead(_)
                | LedgerEvent::LogBroken { .. }
                | LedgerEvent::LogPruned(_)
                | LedgerEvent::BodiesPruned { .. }
                | LedgerEvent::HoldSet { .. }
                | LedgerEvent::HoldReleased { .. }
                | LedgerEvent::Unknown => None,
            };
            let last: &Entry = last.get_or_insert(entry);
            if let Some(key) = key {
                return Ok(Some((last.clone(), key)));
            }
        }
        Ok(None)
    }

    fn end_from(&self, start: u64, size: u64) -> io::Result<Vec<u8>> {
        let length = usize::try_from(size - start).map_err(io::Error::other)?;
        let mut text = vec![0; length];
        self.file.read_exact_at(&mut text, start)?;
        Ok(text)
    }

    /// One write(2) where the whole lines end. What fails is taken back.
    fn write(&self, tail: &Tail, lines: &[u8], durably: bool) -> Result<(), LedgerError> {
        let cut = |length| rustix::fs::ftruncate(&self.file, length).map_err(io::Error::from);
        let written = || -> io::Result<()> {
            if tail.size != tail.length {
                cut(tail.length)?;
            }
            let mut rest = lines;
            while !rest.is_empty() {
                match rustix::io::write(&self.file, rest) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                    Err(rustix::io::Errno::INTR) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
            if durably {
                rustix::fs::fdatasync(&self.file)?;
            }
            Ok(())
        };
        written().map_err(|error| {
            // If that fails too, the next appender cuts it.
            drop(cut(tail.length));
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

/// Lines that follow one another.
struct Batch {
    host_id: String,
    seq: u64,
    head: ChainHash,
    lines: Vec<u8>,
}

impl Batch {
    fn new(tail: &Tail) -> Self {
        Self {
            host_id: tail.host_id.clone(),
            seq: tail.seq,
            head: tail.head,
            lines: Vec::new(),
        }
    }

    fn push(
        &mut self,
        event: impl FnOnce(Place<'_>) -> Result<LedgerEvent, KeyError>,
    ) -> Result<(), KeyError> {
        let (seq, ts) = (self.seq + 1, entry::now());
        let place = Place {
            host_id: &self.host_id,
            seq,
            ts: &ts,
            prev: self.head,
        };
        let event = event(place)?;
        let sealed = entry::seal(&mut self.lines, place, &event);
        self.head = sealed.map_err(io::Error::other)?;
        self.seq = seq;
        Ok(())
    }

    fn sign(&mut self, key: &SigningKey) -> Result<(), KeyError> {
        self.push(|place| {
            let message = checkpoint_message(place, &key.public());
            let (key, signature) = (key.public(), key.sign(&message)?);
            Ok(LedgerEvent::Checkpoint { key, signature })
        })
    }
}

fn open_file(folder: impl AsFd) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::APPEND | OFlags::NONBLOCK;
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    // As the logs: for the folder's group to read, which is the owner's own without the service.
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP;
    let file = File::from(rustix::fs::openat(folder, FILE, flags, mode)?);
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode);
    if kind != FileType::RegularFile {
        return Err(io::Error::other("not a regular file"));
    }
    Ok(file)
}

/// Puts the public half beside the entries. Nobody trusts it who does not trust the folder.
fn publish(folder: impl AsFd, key: PublicKey) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
    let file = File::from(rustix::fs::openat(folder, key::PUBLIC_FILE, flags, mode)?);
    // In place and of one length: whoever reads it meanwhile reads a key.
    file.write_all_at(format!("{key}\n").as_bytes(), 0)
}

/// Takes the lock, looking for it until the patience is over.
fn locked(file: &File, patience: Duration) -> io::Result<Locked<'_>> {
    let deadline = Instant::now() + patience;
    loop {
        match lock::hold(file) {
            Ok(()) => return Ok(Locked(file)),
            Err(error)
                if Instant::now() < deadline
                    && matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::PermissionDenied
                    ) =>
            {
                let nap = Timespec::try_from(NAP).map_err(io::Error::other)?;
                match poll(&mut [], Some(&nap)) {
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
            Err(error) => return Err(error),
        }
    }
}
