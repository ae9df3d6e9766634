//! The log of one session, as its writer holds it: the newest segment and the head of the chain.
//!
//! Records are staged in a buffer and committed together, with one write(2) a batch. A record counts
//! only when [`Log::commit`] has answered `Ok`. After a failed commit the file is cut back to the last
//! record that counts, and so is the chain: what is staged next follows that one.
//!
//! Where the disk fails late, which fdatasync(2) tells, nothing of the segment after the last record that counts is relied
//! on again: the kernel may have dropped those pages, and a second fdatasync(2) of the same file answers `Ok` all the same.
//! What follows goes into the next segment, whose first record says so (`log.sync_failed`).
//!
//! A segment that is full, or of another day (UTC), is followed by the next: a new file in the same folder,
//! which is the only thing that is opened after the start.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use super::chain::ChainHash;
use super::event::AuditEvent;
use super::folder::LogFolder;
use super::record::{Form, SealError};
use super::roll::Roll;
use super::segment::SegmentName;
use super::verify::{Chain, Flaw};
use super::{cap, lock};
use crate::ids::SessionId;
use crate::policy::Durability;

/// Why a record is not kept. Each message is one line with cause and cure.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file could not be made.
    #[error("audit log {}: {error}; {}", path.display(), open_cure(error))]
    Open {
        /// Where.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// What stands in the file cannot be continued.
    #[error("audit log {}: {why}; it is not continued: see portcullis audit verify", path.display())]
    NotContinued {
        /// Where.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The file did not take a batch. A later one may be taken.
    #[error("audit log {}: {cause}; {cure}", path.display())]
    Failed {
        /// Where.
        path: PathBuf,
        /// Why.
        cause: String,
        /// What helps.
        cure: &'static str,
    },
    /// A record cannot be written in its form.
    #[error(transparent)]
    Seal(#[from] SealError),
}

fn open_cure(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AlreadyExists => "a session writes its log once: start a new session",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FREE_SPACE,
        io::ErrorKind::ReadOnlyFilesystem => "choose a folder on a writable file system",
        _ => "check that its folder exists and can be written",
    }
}

const FREE_SPACE: &str = "free space or raise the quota";

/// How a segment is opened that is begun: it never was there, it is no link, it is only ever added to.
pub const NEW_SEGMENT: OFlags = OFlags::WRONLY
    .union(OFlags::CREATE)
    .union(OFlags::EXCL)
    .union(OFlags::APPEND)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Who may do what with it: its owner, and the folder's group reads it.
pub const NEW_SEGMENT_MODE: Mode = Mode::RUSR.union(Mode::WUSR).union(Mode::RGRP);

const DAY_SECONDS: i64 = 24 * 60 * 60;

/// The open log.
#[derive(Debug)]
pub struct Log {
    /// Where the next segment is made.
    folder: OwnedFd,
    /// The same, for messages only.
    shown: PathBuf,
    /// The newest segment, which is written.
    segment: SegmentName,
    file: File,
    /// When the next segment is begun.
    roll: Roll,
    /// The day of the segment's last record, counted from 1970; `None`: it has none yet.
    day: Option<i64>,
    form: Form,
    durability: Durability,
    /// Hash and place of the last staged record.
    staged_link: Link,
    /// The same of the last record that counts.
    kept_link: Link,
    /// Length of the file up to the last record that counts: what a failed write is cut back to.
    length: u64,
    /// Staged lines; kept between batches for its capacity.
    staged: Vec<u8>,
    /// The day of the last of them.
    staged_day: i64,
    /// What is to be made good before anything is written.
    owed: Owed,
    /// A segment that the disk did not take, until that is on record in another.
    doubted: Option<Doubted>,
    /// Segments that were given up before anything was in them.
    given_up: u32,
}

/// A segment that nothing is added to any more, because the disk failed to take what was written to it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Doubted {
    segment: u32,
    /// The last record in it that the disk is known to have taken.
    records: u64,
    why: String,
}

impl Doubted {
    fn told(&self) -> AuditEvent {
        AuditEvent::LogSyncFailed {
            segment: self.segment,
            records: self.records,
            why: self.why.clone(),
        }
    }
}

/// Segments in a row whose names the disk does not take: more are not tried.
const GIVEN_UP: u32 = 8;

/// A link of the chain.
#[derive(Debug, Clone, Copy)]
struct Link {
    hash: ChainHash,
    /// Its place, from 1; 0: before the first.
    seq: u64,
}

/// Whether the disk has the name of the segment that is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Name {
    /// It has, or nobody wants to know.
    #[default]
    Kept,
    /// It is to be asked.
    Owed,
    /// It failed to take it. What it says of the same folder next is not about that name: another is needed.
    Failed,
}

/// What failed and has to be done first.
#[derive(Debug, Clone, Copy, Default)]
struct Owed {
    /// The file may have more than what counts.
    cut: bool,
    /// The file is not locked.
    lock: bool,
    /// Whether the folder has the file's name on the disk.
    name: Name,
}

/// What a log was like that is continued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resumed {
    /// Bytes of an incomplete last line that were cut off.
    pub lost_bytes: u64,
    /// The place of `session.ended`, if it stands there already: nothing follows.
    pub ended: Option<u64>,
}

impl Log {
    /// Makes the file `<session>.jsonl` in a folder, for its owner and the folder's group to read, and locks it: the lock
    /// tells a reader that the writer lives. A file that exists is never continued. The name
    /// is 32 hex digits and a suffix, and `O_EXCL` follows no symbolic link, so the file is in the folder.
    pub fn create(
        folder: impl AsFd,
        shown: &Path,
        (session, user): (SessionId, &str),
        durability: Durability,
        host_id: &str,
    ) -> Result<Self, LogError> {
        let segment = SegmentName::first(session);
        let form = Form::new(host_id, session, &cap::user(user))?;
        let open = || -> io::Result<(OwnedFd, File)> {
            let folder = folder.as_fd().try_clone_to_owned()?;
            let file = begin(&folder, segment)?;
            lock::hold(&file)?;
            if durability == Durability::Each {
                // fdatasync(2) of the file does not keep its name: that is in the folder.
                rustix::fs::fsync(&folder)?;
            }
            Ok((folder, file))
        };
        let (folder, file) = open().map_err(|error| LogError::Open {
            path: shown.join(segment.file_name()),
            error,
        })?;
        let link = Link {
            hash: ChainHash::genesis(session),
            seq: 0,
        };
        Ok(Self {
            folder,
            shown: shown.to_owned(),
            segment,
            file,
            roll: Roll::default(),
            day: None,
            form,
            durability,
            staged_link: link,
            kept_link: link,
            length: 0,
            staged: Vec::new(),
            staged_day: 0,
            owed: Owed::default(),
            doubted: None,
            given_up: 0,
        })
    }

    /// Goes on with the log of a writer that died, at its last whole record. A last line that was written
    /// only in part is cut off: it was never acknowledged. Anything else that does not verify ends it
    /// here, because what would follow could not be told from what was forged.
    ///
    /// Looked at are the newest segment, which may be empty, and the one before it, so that a long log is not in the way of
    /// going on: `audit verify` looks at all of them.
    pub fn resume(
        folder: impl AsFd,
        shown: &Path,
        (session, user): (SessionId, &str),
        durability: Durability,
        host_id: &str,
    ) -> Result<(Self, Resumed), LogError> {
        let form = Form::new(host_id, session, &cap::user(user))?;
        let failed_at = |segment: SegmentName| {
            let path = shown.join(segment.file_name());
            move |error| LogError::Open { path, error }
        };
        let first = SegmentName::first(session);
        let own = folder.as_fd().try_clone_to_owned();
        let own = own.map_err(failed_at(first))?;
        let folder = LogFolder::from_fd(own, shown);
        let segments = folder.segments(session);
        let segments = segments.map_err(|error| failed_at(first)(io::Error::other(error)))?;
        let Some((newest, earlier)) = segments.split_last() else {
            return Err(failed_at(first)(io::ErrorKind::NotFound.into()));
        };
        let newest = *newest;
        let before = with_records(&folder, earlier);
        let broken_at = |segment: SegmentName, why: String| LogError::NotContinued {
            path: shown.join(segment.file_name()),
            why,
        };
        let (file, found) = open_to_continue(&folder, newest).map_err(failed_at(newest))?;
        let mut chain = Chain::new(Some(session));
        chain.begins_anywhere = before.first().unwrap_or(&newest).number > 1;
        let follow = |one: &SegmentName, next: &SegmentName| one.number + 1 == next.number;
        let all = [before, &[newest]].concat();
        if !all.is_sorted_by(follow) {
            return Err(broken_at(
                newest,
                "the segment before it is missing".to_owned(),
            ));
        }
        for before in before {
            let taken = folder.open_segment(*before);
            let taken = taken.and_then(|file| chain.take_segment(*before, file, false));
            if let Some(broken) = taken.map_err(failed_at(*before))? {
                return Err(broken_at(*before, broken.to_string()));
            }
        }
        let known = chain.seq;
        let again = file.try_clone().map_err(failed_at(newest))?;
        let taken = chain.take_segment(newest, again, false);
        let length = match taken.map_err(failed_at(newest))? {
            None => found.length,
            Some(broken) if broken.flaw == Flaw::Truncated => {
                rustix::fs::ftruncate(&file, broken.offset)
                    .map_err(|errno| failed_at(newest)(errno.into()))?;
                broken.offset
            }
            Some(broken) => return Err(broken_at(newest, broken.to_string())),
        };
        if chain.begins_anywhere && chain.head().is_none() {
            return Err(broken_at(newest, "what it follows is not there".to_owned()));
        }
        let link = Link {
            hash: chain.head().unwrap_or_else(|| ChainHash::genesis(session)),
            seq: chain.seq,
        };
        let mut log = Self {
            folder: folder.into(),
            shown: shown.to_owned(),
            segment: newest,
            file,
            roll: Roll::default(),
            day: (length > 0).then_some(found.day),
            form,
            durability,
            staged_link: link,
            kept_link: link,
            length,
            staged: Vec::new(),
            staged_day: 0,
            owed: Owed {
                // The writer before may have died in between.
                name: name_of_new(durability),
                ..Owed::default()
            },
            doubted: None,
            given_up: 0,
        };
        // What the writer before had not heard of: this is the last time that the disk may say so.
        if durability == Durability::Each
            && let Err(error) = log.sync()
        {
            log.doubt(known, &error);
        }
        let resumed = Resumed {
            lost_bytes: found.length.saturating_sub(length),
            ended: chain.ended.then_some(chain.seq),
        };
        Ok((log, resumed))
    }

    /// Begins the next segment by this rule.
    #[must_use]
    pub fn rolling(mut self, roll: Roll) -> Self {
        self.roll = roll;
        self
    }

    /// Lets segments become so long, in bytes.
    #[must_use]
    pub fn with_segments_of(mut self, bytes: u64) -> Self {
        self.roll.bytes = bytes;
        self
    }

    /// The folder in which the next segment is made.
    pub fn folder(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }

    /// How many records count, and the hash of the last of them.
    pub fn place(&self) -> (u64, ChainHash) {
        (self.kept_link.seq, self.kept_link.hash)
    }

    /// How many records count.
    pub fn kept(&self) -> u64 {
        self.kept_link.seq
    }

    /// Puts a record into the next batch and answers its place in the chain.
    pub fn stage(&mut self, event: AuditEvent) -> Result<u64, LogError> {
        self.stage_capped(&event.capped(), Timestamp::now())
    }

    /// The same with an event that has been cut to its caps, as of this time.
    pub fn stage_capped(&mut self, event: &AuditEvent, at: Timestamp) -> Result<u64, LogError> {
        if let Some(doubted) = &self.doubted
            && self.staged.is_empty()
        {
            let told = doubted.told().capped();
            self.seal(&told, at)?;
        }
        self.seal(event, at)
    }

    fn seal(&mut self, event: &AuditEvent, at: Timestamp) -> Result<u64, LogError> {
        let Link { hash, seq } = self.staged_link;
        let seq = seq + 1;
        let hash = self.form.seal(&mut self.staged, (seq, at), event, hash)?;
        self.staged_link = Link { hash, seq };
        self.staged_day = day_of(at.as_second());
        Ok(seq)
    }

    /// Writes the batch. `Ok` means that every staged record is kept, as durably as was asked for; an error that none
    /// of them is, and that the next batch may be.
    pub fn commit(&mut self) -> Result<(), LogError> {
        if self.staged.is_empty() {
            return Ok(());
        }
        let written = self
            .make_good()
            .and_then(|()| self.roll_if_due())
            .and_then(|()| self.write_staged());
        if let Err(error) = written {
            return Err(self.take_back(&error));
        }
        if self.durability == Durability::Each
            && let Err(error) = self.sync()
        {
            self.doubt(self.kept_link.seq, &error);
            return Err(self.take_back(&error));
        }
        self.doubted = None;
        self.given_up = 0;
        self.length += self.staged.len() as u64;
        self.staged.clear();
        self.kept_link = self.staged_link;
        self.day = Some(self.staged_day);
        Ok(())
    }

    /// Brings everything committed to the disk (fdatasync(2)).
    pub fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fdatasync(&self.file)?)
    }

    /// The disk failed to take what was written. Of a segment with nothing else in it all is cut off and written anew, so
    /// that the next answer is about all of it; another is not added to any more.
    fn doubt(&mut self, records: u64, error: &io::Error) {
        if self.length > 0 {
            self.doubted.get_or_insert(Doubted {
                segment: self.segment.number,
                records,
                why: error.to_string(),
            });
        }
    }

    /// What an earlier batch could not do.
    fn make_good(&mut self) -> io::Result<()> {
        if self.owed.cut {
            rustix::fs::ftruncate(&self.file, self.length)?;
            self.owed.cut = false;
        }
        if self.owed.lock {
            lock::hold(&self.file)?;
            self.owed.lock = false;
        }
        if self.owed.name == Name::Owed {
            self.owed.name = Name::Failed;
            rustix::fs::fsync(&self.folder)?;
            self.owed.name = Name::Kept;
        }
        Ok(())
    }

    /// Begins the next segment if this one is full, or of another day.
    fn roll_if_due(&mut self) -> io::Result<()> {
        let full = self.length + self.staged.len() as u64 > self.roll.bytes;
        let of_another_day = self.roll.daily && self.day.is_some_and(|day| day != self.staged_day);
        let doubted = self.doubted.as_ref();
        let doubted = doubted.is_some_and(|one| one.segment == self.segment.number);
        let due = self.length > 0 && (full || of_another_day || doubted);
        let nameless = self.owed.name == Name::Failed;
        if !(due || nameless) {
            return Ok(());
        }
        if doubted {
            // So that what was cut off stays off. It is read no more than the rest of this file if it fails.
            self.sync().ok();
        }
        if nameless {
            if self.given_up >= GIVEN_UP {
                return Err(io::Error::other(
                    "the disk does not take the names of new segments",
                ));
            }
            self.given_up += 1;
        }
        let too_many = || io::Error::other("too many segments");
        let number = self.segment.number.checked_add(1).ok_or_else(too_many)?;
        let segment = SegmentName {
            number,
            ..self.segment
        };
        let file = begin(&self.folder, segment)?;
        // Locked before the one before is let go, so that a reader never sees a log that nobody writes.
        self.owed.lock = true;
        self.owed.name = name_of_new(self.durability);
        let locked = lock::hold(&file);
        self.owed.lock = locked.is_err();
        self.file = file;
        self.segment = segment;
        self.length = 0;
        self.day = None;
        locked?;
        self.make_good()
    }

    /// One write(2) for the batch. A regular file takes all of it unless it cannot take the rest, which
    /// the next attempt then names.
    fn write_staged(&self) -> io::Result<()> {
        let mut rest = self.staged.as_slice();
        while !rest.is_empty() {
            match rustix::io::write(&self.file, rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Everything as it was after the last record that counts.
    fn take_back(&mut self, error: &io::Error) -> LogError {
        self.owed.cut = rustix::fs::ftruncate(&self.file, self.length).is_err();
        self.staged.clear();
        self.staged_link = self.kept_link;
        LogError::Failed {
            path: self.shown.join(self.segment.file_name()),
            cause: error.to_string(),
            cure: match error.kind() {
                io::ErrorKind::StorageFull
                | io::ErrorKind::QuotaExceeded
                | io::ErrorKind::FileTooLarge => FREE_SPACE,
                io::ErrorKind::AlreadyExists => {
                    "move the file away that has the next segment's name"
                }
                _ => "check the disk and its file system",
            },
        }
    }
}

/// What is to be asked about a name that may not be on the disk.
fn name_of_new(durability: Durability) -> Name {
    match durability {
        Durability::Each => Name::Owed,
        Durability::Batch => Name::Kept,
    }
}

/// Makes the file of a segment.
fn begin(folder: &OwnedFd, segment: SegmentName) -> io::Result<File> {
    let name = segment.file_name();
    let fd = rustix::fs::openat(folder, name, NEW_SEGMENT, NEW_SEGMENT_MODE)?;
    Ok(fd.into())
}

/// The last of these segments with a record in it, and those after it: they have none.
fn with_records<'a>(folder: &LogFolder, segments: &'a [SegmentName]) -> &'a [SegmentName] {
    let has = |segment: &SegmentName| {
        segment.packed
            || rustix::fs::statat(folder, segment.file_name(), AtFlags::SYMLINK_NOFOLLOW)
                .is_ok_and(|found| found.st_size > 0)
    };
    let last = segments.iter().rposition(has).unwrap_or_default();
    segments.get(last..).unwrap_or_default()
}

/// A segment that is continued.
#[derive(Debug, Clone, Copy)]
struct Found {
    length: u64,
    /// When it was last written.
    day: i64,
}

fn open_to_continue(folder: &LogFolder, segment: SegmentName) -> io::Result<(File, Found)> {
    if segment.packed {
        return Err(io::Error::other("packed, so it is over"));
    }
    let flags = OFlags::RDWR | OFlags::APPEND | OFlags::NONBLOCK;
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let name = segment.file_name();
    let file = File::from(rustix::fs::openat(folder, name, flags, Mode::empty())?);
    let found = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("not a file"));
    }
    // Whoever wrote it before is gone, or this fails.
    lock::hold(&file)?;
    let length = u64::try_from(found.st_size).map_err(io::Error::other)?;
    let day = day_of(found.st_mtime);
    Ok((file, Found { length, day }))
}

/// The day of a time in seconds since 1970, UTC.
fn day_of(seconds: i64) -> i64 {
    seconds.div_euclid(DAY_SECONDS)
}
