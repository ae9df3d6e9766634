//! The log of one session, as its writer holds it: an open file and the head of the chain.
//!
//! Records are staged in a buffer and committed together, with one write(2) a batch. A record counts
//! only when [`Log::commit`] has answered `Ok`. After a failed commit the file is cut back to the last
//! record that counts, and nothing is taken any more: a chain with a hole is worth nothing.

use std::fs::File;
use std::io::{self, BufReader};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::{FileType, Mode, OFlags};

use super::chain::ChainHash;
use super::event::AuditEvent;
use super::record::{Form, SealError};
use super::verify::{Flaw, State, verify};
use super::{cap, folder, lock};
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
    /// The file did not take a batch, now or earlier.
    #[error("audit log {}: {cause}; {cure}; the session can do nothing more", path.display())]
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

const FREE_SPACE: &str = "free space or raise the quota, then start a new session";

/// The open log.
#[derive(Debug)]
pub struct Log {
    file: File,
    /// For messages only.
    path: PathBuf,
    form: Form,
    durability: Durability,
    /// Hash of the last staged record.
    head: ChainHash,
    /// Sequence number of the last staged record.
    seq: u64,
    /// Length of the file up to the last record that counts: what a failed write is cut back to.
    length: u64,
    /// Staged lines; kept between batches for its capacity.
    staged: Vec<u8>,
    /// Set by the first failure, repeated for everything after it.
    failed: Option<Failed>,
}

/// What a log was like that is continued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resumed {
    /// Bytes of an incomplete last line that were cut off.
    pub lost_bytes: u64,
    /// The place of `session.ended`, if it stands there already: nothing follows.
    pub ended: Option<u64>,
}

#[derive(Debug, Clone)]
struct Failed {
    cause: String,
    cure: &'static str,
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
        let name = folder::file_name(session);
        let path = shown.join(&name);
        let form = Form::new(host_id, session, &cap::user(user))?;
        let open = || -> io::Result<File> {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::APPEND;
            let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP;
            let fd = rustix::fs::openat(&folder, &name, flags, mode)?;
            let file = File::from(fd);
            lock::hold(&file)?;
            if durability == Durability::Each {
                // fdatasync(2) of the file does not keep its name: that is in the folder.
                rustix::fs::fsync(&folder)?;
            }
            Ok(file)
        };
        let file = open().map_err(|error| LogError::Open {
            path: path.clone(),
            error,
        })?;
        Ok(Self {
            file,
            path,
            form,
            durability,
            head: ChainHash::genesis(session),
            seq: 0,
            length: 0,
            staged: Vec::new(),
            failed: None,
        })
    }

    /// Goes on with the log of a writer that died, at its last whole record. A last line that was written
    /// only in part is cut off: it was never acknowledged. Anything else that does not verify ends it
    /// here, because what would follow could not be told from what was forged.
    pub fn resume(
        folder: impl AsFd,
        shown: &Path,
        (session, user): (SessionId, &str),
        durability: Durability,
        host_id: &str,
    ) -> Result<(Self, Resumed), LogError> {
        let name = folder::file_name(session);
        let path = shown.join(&name);
        let form = Form::new(host_id, session, &cap::user(user))?;
        let failed = |error: io::Error| LogError::Open {
            path: path.clone(),
            error,
        };
        let open = || -> io::Result<(File, u64)> {
            let flags = OFlags::RDWR | OFlags::APPEND | OFlags::NONBLOCK;
            let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let file = File::from(rustix::fs::openat(&folder, &name, flags, Mode::empty())?);
            let found = rustix::fs::fstat(&file)?;
            if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
                return Err(io::Error::other("not a file"));
            }
            // Whoever wrote it before is gone, or this fails.
            lock::hold(&file)?;
            let length = u64::try_from(found.st_size).map_err(io::Error::other)?;
            Ok((file, length))
        };
        let (file, found) = open().map_err(failed)?;
        let source = BufReader::with_capacity(256 << 10, &file);
        let report = verify(source, Some(session)).map_err(failed)?;
        let length = match report.broken {
            None => found,
            Some(broken) if broken.flaw == Flaw::Truncated => {
                rustix::fs::ftruncate(&file, broken.offset)
                    .map_err(|errno| failed(errno.into()))?;
                broken.offset
            }
            Some(broken) => {
                let why = broken.to_string();
                return Err(LogError::NotContinued { path, why });
            }
        };
        let ended = (report.state == State::Complete).then_some(report.records);
        let log = Self {
            file,
            path,
            form,
            durability,
            head: report.head.unwrap_or_else(|| ChainHash::genesis(session)),
            seq: report.records,
            length,
            staged: Vec::new(),
            failed: None,
        };
        let lost_bytes = found.saturating_sub(length);
        Ok((log, Resumed { lost_bytes, ended }))
    }

    /// Puts a record into the next batch and answers its place in the chain.
    pub fn stage(&mut self, event: AuditEvent) -> Result<u64, LogError> {
        self.usable()?;
        let place = (self.seq + 1, Timestamp::now());
        self.head = self
            .form
            .seal(&mut self.staged, place, &event.capped(), self.head)?;
        self.seq += 1;
        Ok(self.seq)
    }

    /// Writes the batch. `Ok` means that every staged record is kept, as durably as was asked for.
    pub fn commit(&mut self) -> Result<(), LogError> {
        self.usable()?;
        if self.staged.is_empty() {
            return Ok(());
        }
        let kept = self.write_staged().and_then(|()| match self.durability {
            Durability::Batch => Ok(()),
            Durability::Each => self.sync(),
        });
        if let Err(error) = kept {
            self.fail(&error);
            return self.usable();
        }
        self.length += self.staged.len() as u64;
        self.staged.clear();
        Ok(())
    }

    /// How many records there are, and the hash of the last one: what is committed, right after a commit.
    pub fn place(&self) -> (u64, ChainHash) {
        (self.seq, self.head)
    }

    /// Brings everything committed to the disk (fdatasync(2)).
    pub fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fdatasync(&self.file)?)
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

    fn fail(&mut self, error: &io::Error) {
        let cut_back = rustix::fs::ftruncate(&self.file, self.length);
        self.staged = Vec::new();
        self.failed = Some(Failed {
            cause: match cut_back {
                Ok(()) => error.to_string(),
                Err(cut) => format!("{error} (and its last line is incomplete: {cut})"),
            },
            cure: match error.kind() {
                io::ErrorKind::StorageFull
                | io::ErrorKind::QuotaExceeded
                | io::ErrorKind::FileTooLarge => FREE_SPACE,
                _ => "check the disk and its file system, then start a new session",
            },
        });
    }

    fn usable(&self) -> Result<(), LogError> {
        self.failed
            .clone()
            .map_or(Ok(()), |Failed { cause, cure }| {
                Err(LogError::Failed {
                    path: self.path.clone(),
                    cause,
                    cure,
                })
            })
    }
}
