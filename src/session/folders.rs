//! Tells when one of some files changes, whether it is there or not: by watching the folders that they are in.
//!
//! Owns: an instance of inotify(7), or, where this user has no more of them (128 for all processes of a user, by
//! default), the same by signals ([`folder_signal`]). Never: wakes while nothing happens in these folders.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signalfd::SignalFd;
use rustix::fs::{Mode, OFlags, fstat};

use crate::sys::folder_signal;

/// The folders of some files.
#[derive(Debug)]
pub(super) enum Folders {
    /// The kernel says what changed.
    Told {
        inotify: Inotify,
        /// Names of the files that matter, in any of the folders.
        names: BTreeSet<OsString>,
    },
    /// The kernel says that something changed: the files are looked at.
    Woken {
        queue: SignalFd,
        /// By device and inode.
        folders: BTreeMap<(u64, u64), OwnedFd>,
        files: BTreeMap<PathBuf, Option<Stamp>>,
    },
    /// Neither can be had.
    Blind,
}

/// What of a file is another after a change: device, inode, size, and times of change.
type Stamp = (u64, u64, u64, (i64, i64), (i64, i64));

impl Folders {
    /// None yet.
    pub(super) fn new() -> Self {
        let flags = InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC;
        if let Ok(inotify) = Inotify::init(flags) {
            return Self::Told {
                inotify,
                names: BTreeSet::new(),
            };
        }
        folder_signal::queue().map_or(Self::Blind, |queue| Self::Woken {
            queue,
            folders: BTreeMap::new(),
            files: BTreeMap::new(),
        })
    }

    /// What becomes readable when a file may have changed.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Told { inotify, .. } => Some(inotify.as_fd()),
            Self::Woken { queue, .. } => Some(queue.as_fd()),
            Self::Blind => None,
        }
    }

    /// Watches a file. One whose folder is not there yet is to be tried again some time.
    pub(super) fn watch(&mut self, file: &Path) {
        let (Some(folder), Some(name)) = (file.parent(), file.file_name()) else {
            return;
        };
        match self {
            Self::Told { inotify, names } => {
                let flags = AddWatchFlags::IN_CLOSE_WRITE
                    | AddWatchFlags::IN_MOVED_TO
                    | AddWatchFlags::IN_MOVED_FROM
                    | AddWatchFlags::IN_DELETE
                    | AddWatchFlags::IN_ONLYDIR;
                inotify.add_watch(folder, flags).ok();
                names.insert(OsStr::to_owned(name));
            }
            Self::Woken { folders, files, .. } => {
                if let Some((identity, opened)) = opened(folder)
                    && !folders.contains_key(&identity)
                    && folder_signal::watch(&opened).is_ok()
                {
                    folders.insert(identity, opened);
                }
                files.entry(file.to_owned()).or_insert_with(|| stamp(file));
            }
            Self::Blind => {}
        }
    }

    /// Whether a file has changed since the last call.
    pub(super) fn have_changed(&mut self) -> bool {
        let mut changed = false;
        match self {
            Self::Told { inotify, names } => {
                while let Ok(events) = inotify.read_events() {
                    changed |= events.iter().any(|event| match &event.name {
                        Some(name) => names.contains(name),
                        // More than fits the queue, or the folder itself.
                        None => true,
                    });
                }
            }
            Self::Woken { queue, files, .. } => {
                let mut woken = false;
                while let Ok(Some(_)) = queue.read_signal() {
                    woken = true;
                }
                if woken {
                    for (file, known) in files {
                        let now = stamp(file);
                        changed |= now != *known;
                        *known = now;
                    }
                }
            }
            Self::Blind => {}
        }
        changed
    }
}

fn opened(folder: &Path) -> Option<((u64, u64), OwnedFd)> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(folder, flags, Mode::empty()).ok()?;
    let stat = fstat(&opened).ok()?;
    Some(((stat.st_dev, stat.st_ino), opened))
}

fn stamp(file: &Path) -> Option<Stamp> {
    let file = std::fs::metadata(file).ok()?;
    let modified = (file.mtime(), file.mtime_nsec());
    let changed = (file.ctime(), file.ctime_nsec());
    Some((file.dev(), file.ino(), file.size(), modified, changed))
}
