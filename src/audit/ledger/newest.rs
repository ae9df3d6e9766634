//! The segment that is appended to, and its lock.
//!
//! Many processes append to one ledger, and those that are confined list no folder. So each keeps the segment that it
//! knows open and, under that one's lock, looks whether the next is there, before it appends: whoever begins the next
//! one holds the lock of the one before until it has the other's. A newest segment may be empty, or lack the key that
//! signs, if who began it was killed: then the one before says what it follows.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::segment::{LedgerSegment, list, regular};
use crate::audit::lock;

/// How a segment is opened that is there.
pub const THERE: OFlags = OFlags::RDWR
    .union(OFlags::APPEND)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// How one is made.
pub const NEW: OFlags = THERE.union(OFlags::CREATE).union(OFlags::EXCL);

/// Who may do what with it, as with the logs: the folder's group reads it, which is the owner's own without the service.
pub const MODE: Mode = Mode::RUSR.union(Mode::WUSR).union(Mode::RGRP);

/// How long is slept between two looks at the lock.
const NAP: Duration = Duration::from_millis(2);

/// How often it is looked again at a folder that changes meanwhile.
const LOOKS: usize = 16;

/// The newest segment, as far as is known.
#[derive(Debug, Clone)]
pub(super) struct Newest {
    /// Its number.
    pub(super) number: u32,
    pub(super) file: Rc<File>,
    /// The one before it, if it is plain.
    pub(super) before: Option<Rc<File>>,
}

/// The lock of a segment, until it is dropped.
#[derive(Debug)]
pub(super) struct Locked(Rc<File>);

impl Drop for Locked {
    fn drop(&mut self) {
        // If this fails it is gone with the descriptor.
        drop(lock::release(&self.0));
    }
}

impl Newest {
    /// Opens the newest segment of this folder, or makes the first one.
    pub(super) fn open(folder: impl AsFd) -> io::Result<Self> {
        for _ in 0..LOOKS {
            let newest = list(&folder)?.last().copied();
            if newest.is_some_and(|newest| newest.packed) {
                return Err(io::Error::other(
                    "the segment after the last packed one is missing",
                ));
            }
            let number = newest.map_or(1, |newest| newest.number);
            let flags = newest.map_or(NEW, |_| THERE);
            match open(&folder, LedgerSegment::plain(number), flags) {
                // Somebody else was first, or has packed it by now.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound
                    ) => {}
                opened => {
                    let before = LedgerSegment::plain(number.saturating_sub(1));
                    let before = open(&folder, before, THERE).ok();
                    return Ok(Self {
                        number,
                        file: opened?,
                        before,
                    });
                }
            }
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// The segment after this one, or after those that were packed since; `None`: this is the newest.
    pub(super) fn next(&self, folder: impl AsFd) -> io::Result<Option<Self>> {
        let mut number = self.number;
        loop {
            number = number.checked_add(1).ok_or_else(too_many)?;
            let plain = LedgerSegment::plain(number);
            if let Some(file) = there(&folder, plain)? {
                let before = (number == self.number + 1).then(|| Rc::clone(&self.file));
                return Ok(Some(Self {
                    number,
                    file,
                    before,
                }));
            }
            if there(&folder, plain.twin())?.is_none() {
                return Ok(None);
            }
        }
    }

    /// Makes the segment after this one, which is closed by that: call it under the lock.
    pub(super) fn begin_next(&self, folder: impl AsFd) -> io::Result<Self> {
        let number = self.number.checked_add(1).ok_or_else(too_many)?;
        let file = open(folder, LedgerSegment::plain(number), NEW)?;
        let before = Some(Rc::clone(&self.file));
        Ok(Self {
            number,
            file,
            before,
        })
    }

    /// Takes its lock, looking for it until this time; `None`: somebody else has it.
    pub(super) fn locked(&self, until: Instant) -> io::Result<Option<Locked>> {
        loop {
            match lock::hold(&self.file) {
                Ok(()) => return Ok(Some(Locked(Rc::clone(&self.file)))),
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::PermissionDenied
                    ) =>
                {
                    if Instant::now() >= until {
                        return Ok(None);
                    }
                    let nap = Timespec::try_from(NAP).map_err(io::Error::other)?;
                    match poll(&mut [], Some(&nap)) {
                        Ok(_) | Err(Errno::INTR) => {}
                        Err(errno) => return Err(errno.into()),
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }
}

fn too_many() -> io::Error {
    io::Error::other("too many segments")
}

fn there(folder: impl AsFd, segment: LedgerSegment) -> io::Result<Option<Rc<File>>> {
    match open(folder, segment, THERE) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some),
    }
}

fn open(folder: impl AsFd, segment: LedgerSegment, flags: OFlags) -> io::Result<Rc<File>> {
    // As of a file that is made; the kernel looks at it for no other. The confined writer may use no other.
    let file = rustix::fs::openat(folder, segment.file_name(), flags, MODE)?;
    regular(file.into()).map(Rc::new)
}
