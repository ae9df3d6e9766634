//! A placeholder that somebody holds: its sweeper, and beside it the session, so that neither's death lets
//! another session take it away from under a jail. Both have one lock (flock(2) belongs to the open file).

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, FlockOperation, flock, fstat, statat, unlinkat};

use super::placeholder::is_empty;

/// A placeholder that is held.
#[derive(Debug)]
pub(super) struct Held {
    /// Where it stands.
    pub(super) folder: Arc<OwnedFd>,
    /// Its name there.
    pub(super) name: Vec<u8>,
    /// Open and share-locked.
    pub(super) placeholder: OwnedFd,
}

impl Held {
    /// Removes the placeholder unless another session uses it, somebody put something into it, or
    /// something else has its name by now.
    pub(super) fn sweep(&self) {
        let path = Path::new(OsStr::from_bytes(&self.name));
        let last = flock(&self.placeholder, FlockOperation::NonBlockingLockExclusive);
        let same = fstat(&self.placeholder).and_then(|ours| {
            let named = statat(&*self.folder, path, AtFlags::SYMLINK_NOFOLLOW)?;
            Ok((ours.st_dev, ours.st_ino) == (named.st_dev, named.st_ino))
        });
        let empty = is_empty(&self.placeholder).unwrap_or(false);
        if last.is_ok() && same == Ok(true) && empty {
            // A failure leaves an empty folder, which the next session adopts.
            unlinkat(&*self.folder, path, AtFlags::REMOVEDIR).ok();
        }
    }
}
