//! An index over logs, to find records by what they say. Made from the logs, and at any time made anew.
//!
//! Owns: its file ([`store`]), what is looked up ([`term`]), taking logs in ([`build`], [`take_in`], [`chunk`]), looking up
//! ([`plan`], [`find`]), reading back ([`read_back`]) and sums ([`stats`]). Never: trusted over a log. Every
//! record that is answered is read where the index says that it stands, its hash is checked, and it is
//! held to the filter itself; an index that disagrees is dropped and built anew.
//!
//! Rows have numbers in the order of their times, as far as they were there together. 65 536 of them are
//! a block. For each value and block there is a set of rows ([`bits`]); a search combines those sets, so that
//! every combination of filters costs the same few milliseconds. Where a row's record stands is kept in
//! pages of 256 rows ([`page`]), and how many bytes connections had beside it ([`sum`]).

mod bits;
mod build;
mod chunk;
mod codec;
mod find;
mod page;
mod plan;
mod read_back;
mod stats;
mod store;
mod sum;
mod take_in;
mod term;

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::filter::Filter;
use super::folder::LogFolder;
use super::segment::SegmentName;
use crate::ids::SessionId;

pub use find::{Found, Order};
pub use stats::{By, Group, Stats};
use store::{Hold, Store};

/// Where the logs are that an index is of.
pub trait Source {
    /// The segments that there are.
    fn segments(&self) -> io::Result<Vec<SegmentName>>;

    /// What a segment's file is like. `None`: whoever has it need not be asked again, once the session is over.
    fn stamp(&self, segment: SegmentName, ended: bool) -> io::Result<Option<Stamp>>;

    /// Opens a segment to read.
    fn open(&self, segment: SegmentName) -> io::Result<File>;
}

/// By what a file is known again, and whether something was written to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stamp {
    /// Its file system.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
    /// Its length in bytes.
    pub size: u64,
    /// When it was last written, in nanoseconds since 1970.
    pub written: i128,
}

impl Stamp {
    /// Of an open file.
    pub fn of(file: &File) -> io::Result<Self> {
        let stat = file.metadata()?;
        Ok(Self {
            device: stat.dev(),
            inode: stat.ino(),
            size: stat.len(),
            written: i128::from(stat.mtime()) * 1_000_000_000 + i128::from(stat.mtime_nsec()),
        })
    }
}

impl Source for LogFolder {
    fn segments(&self) -> io::Result<Vec<SegmentName>> {
        self.all_segments().map_err(io::Error::other)
    }

    fn stamp(&self, segment: SegmentName, _ended: bool) -> io::Result<Option<Stamp>> {
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        let stat = rustix::fs::statat(self, segment.file_name(), flags)?;
        Ok(Some(Stamp {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or_default(),
            written: i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec),
        }))
    }

    fn open(&self, segment: SegmentName) -> io::Result<File> {
        self.open_segment(segment)
    }
}

/// Something that whoever asked should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// The index was dropped, for this reason, and built anew.
    Rebuilt(String),
    /// Records are taken in; it takes a while. Bytes of logs.
    Building(u64),
    /// A log does not hold from some record on: what follows was not searched.
    Broken(SessionId, String),
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The index's file.
    #[error("audit index {}: {error}; remove the file, or set XDG_CACHE_HOME to a folder that you can write", path.display())]
    File {
        /// Where.
        path: PathBuf,
        /// Why.
        error: String,
    },
    /// A log.
    #[error("audit log {log}: {error}")]
    Log {
        /// The name of its file.
        log: String,
        /// Why.
        error: io::Error,
    },
    /// The index was made anew and disagrees again.
    #[error("audit index {}: {why}, though it has just been built from the logs; do they change? try again", path.display())]
    Unsteady {
        /// Where.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

/// Why something within did not work.
#[derive(Debug)]
enum Trouble {
    /// The index says what is not so.
    Disagrees(String),
    Sql(rusqlite::Error),
    Io(io::Error),
    Log(SegmentName, io::Error),
}

impl Trouble {
    fn disagrees(why: impl Into<String>) -> Self {
        Self::Disagrees(why.into())
    }
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode as Code;
        match error.sqlite_error_code() {
            Some(
                Code::DiskFull
                | Code::CannotOpen
                | Code::PermissionDenied
                | Code::ReadOnly
                | Code::SystemIoFailure
                | Code::DatabaseBusy
                | Code::DatabaseLocked
                | Code::OutOfMemory
                | Code::OperationInterrupted,
            ) => Self::Sql(error),
            // Damaged, or of other types than were put in.
            _ => Self::Disagrees(error.to_string()),
        }
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// An index and the logs that it is of.
#[derive(Debug)]
pub struct Index<'a, S> {
    /// Its file.
    path: &'a Path,
    /// Names the logs: an index of others is not taken.
    folder: &'a str,
    source: &'a S,
}

impl<'a, S: Source> Index<'a, S> {
    /// The index of these logs, kept in this file.
    pub fn new(path: &'a Path, folder: &'a str, source: &'a S) -> Self {
        Self {
            path,
            folder,
            source,
        }
    }

    /// Builds it anew; answers how many records it has.
    pub fn rebuild(&self, tell: &mut dyn FnMut(Note)) -> Result<u64, IndexError> {
        let rows = |store: &Store| find::rows(store);
        self.ask(true, tell, rows)
    }

    /// The records that a filter takes, at most so many.
    pub fn find(
        &self,
        filter: &Filter,
        (order, limit): (Order, usize),
        tell: &mut dyn FnMut(Note),
    ) -> Result<Vec<Found>, IndexError> {
        self.ask(false, tell, |store| {
            find::find(store, self.source, filter, (order, limit))
        })
    }

    /// How many records a filter takes.
    pub fn count(&self, filter: &Filter, tell: &mut dyn FnMut(Note)) -> Result<u64, IndexError> {
        self.ask(false, tell, |store| find::count(store, self.source, filter))
    }

    /// Sums over the records that a filter takes.
    pub fn stats(
        &self,
        filter: &Filter,
        by: By,
        tell: &mut dyn FnMut(Note),
    ) -> Result<Stats, IndexError> {
        self.ask(false, tell, |store| {
            stats::stats(store, self.source, filter, by)
        })
    }

    /// Brings the index up to date and asks it; once more from the start, where it disagrees with a log.
    fn ask<T>(
        &self,
        rebuild: bool,
        tell: &mut dyn FnMut(Note),
        work: impl Fn(&Store) -> Result<T, Trouble>,
    ) -> Result<T, IndexError> {
        let first = self
            .opened(rebuild, tell)
            .and_then(|store| Ok((work(&store)?, store)));
        let answer = match first {
            Err(Trouble::Disagrees(why)) => {
                tell(Note::Rebuilt(why));
                self.opened(true, tell)
                    .and_then(|store| Ok((work(&store)?, store)))
            }
            other => other,
        };
        let (answer, store) = answer.map_err(|trouble| self.failed(trouble))?;
        let broken = build::broken(&store).map_err(|trouble| self.failed(trouble))?;
        for (session, why) in broken {
            tell(Note::Broken(session, why));
        }
        Ok(answer)
    }

    fn opened(&self, rebuild: bool, tell: &mut dyn FnMut(Note)) -> Result<Store, Trouble> {
        if !rebuild {
            let lock = store::lock(self.path, Hold::Shared)?;
            if let Some(store) = Store::open(self.path, self.folder, lock)?
                && build::Work::find(&store, self.source)?.is_none()
            {
                return Ok(store);
            }
        }
        let lock = store::lock(self.path, Hold::Exclusive)?;
        let old = if rebuild {
            None
        } else {
            Store::open(self.path, self.folder, lock.try_clone()?)?
        };
        if let Some(mut store) = old {
            if let Some(work) = build::Work::find(&store, self.source)? {
                work.take_in(&mut store, self.source, tell)?;
            }
            return Ok(store);
        }
        let mut store = Store::create(self.path, self.folder, lock)?;
        if let Some(work) = build::Work::find(&store, self.source)? {
            work.take_in(&mut store, self.source, tell)?;
        }
        store.put_in_place(self.path)
    }

    fn failed(&self, trouble: Trouble) -> IndexError {
        let path = self.path.to_owned();
        match trouble {
            Trouble::Disagrees(why) => IndexError::Unsteady { path, why },
            Trouble::Sql(error) => IndexError::File {
                path,
                error: error.to_string(),
            },
            Trouble::Io(error) => IndexError::File {
                path,
                error: error.to_string(),
            },
            Trouble::Log(segment, error) => IndexError::Log {
                log: segment.file_name(),
                error,
            },
        }
    }
}
