//! Opens the ledger to append to it; makes it, its folder and its key at first use.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};

use super::append::{Ledger, START};
use super::error::LedgerError;
use super::key::{self, KeyError, KeyFile, PublicKey};
use super::newest::Newest;
use super::{FILE, FOLDER};
use crate::audit::roll::Roll;
use crate::policy::Durability;

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
}

/// Puts the public half beside the entries. Nobody trusts it who does not trust the folder.
pub(super) fn publish(folder: impl AsFd, key: PublicKey) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
    let file = File::from(rustix::fs::openat(folder, key::PUBLIC_FILE, flags, mode)?);
    // In place and of one length: whoever reads it meanwhile reads a key.
    file.write_all_at(format!("{key}\n").as_bytes(), 0)
}
