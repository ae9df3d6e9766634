//! A placeholder that somebody holds: its sweeper, and beside it the session, so that neither's death lets
//! another session take it away from under a jail. Both have one lock (flock(2) belongs to the open file).

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock, fstat, openat, statat, unlinkat};

use super::placeholder::{is_empty, is_placeholder};

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
    /// What stands there, if it is a placeholder: one that was asked for, of whose making nobody has told.
    pub(super) fn find(folder: Arc<OwnedFd>, name: Vec<u8>) -> Option<Self> {
        let path = Path::new(OsStr::from_bytes(&name));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let placeholder = openat(&*folder, path, flags, Mode::empty()).ok()?;
        let stat = fstat(&placeholder).ok()?;
        is_placeholder(&placeholder, &stat).then_some(Self {
            folder,
            name,
            placeholder,
        })
    }

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

#[cfg(test)]
mod tests {
    use std::fs::{self, File, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_stands_there_is_swept_only_if_it_is_a_placeholder_that_nobody_holds() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Arc::new(OwnedFd::from(File::open(folder.path()).unwrap()));
        for (name, mode, is_one) in [("empty", 0o555, true), ("a-persons", 0o755, false)] {
            let path = folder.path().join(name);
            fs::create_dir(&path).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let found = Held::find(open(), name.into());
            assert_eq!(found.is_some(), is_one, "{name}");
            // Somebody else's sweeper has it.
            let other = File::open(&path).unwrap();
            flock(&other, FlockOperation::LockShared).unwrap();
            found.iter().for_each(Held::sweep);
            assert!(path.exists());
            drop(other);
            found.iter().for_each(Held::sweep);
            assert_eq!(path.exists(), !is_one, "{name}");
        }
        assert!(Held::find(open(), b"nothing".to_vec()).is_none());
    }
}
