//! The log of one session, as its writer holds it: an open file and the head of the chain.
//!
//! Records are staged in a buffer and committed together, with one write(2) a batch. A record counts
//! only when [`Log::commit`] has answered `Ok`. After a failed commit the file is cut back to the last
//! record that counts, and nothing is taken any more: a chain with a hole is worth nothing.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::{Mode, OFlags};

use super::chain::ChainHash;
use super::event::AuditEvent;
use super::record::{Form, SealError};
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

#[derive(Debug, Clone)]
struct Failed {
    cause: String,
    cure: &'static str,
}

impl Log {
    /// Makes the file `<session>.jsonl` in a folder, only readable by its owner, and locks it: the lock
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
            let fd = rustix::fs::openat(&folder, &name, flags, Mode::RUSR | Mode::WUSR)?;
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
