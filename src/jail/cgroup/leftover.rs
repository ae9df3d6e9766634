//! Groups of sessions that are dead: a session and its sweeper that were killed together leave an empty one.
//!
//! A session that lives holds a shared lock (flock(2)) on the folder of each of its groups. Whoever gets the
//! exclusive lock knows that nobody does, and removes the folder under that lock, so that one that is just
//! being made is not lost either: its maker looks again once it has its own lock. Only folders with the name
//! of a session's group are looked at, and the kernel removes none that has a process in it.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, FlockOperation, Mode, OFlags, RawDir, flock, fstat, openat, statat, unlinkat,
};
use rustix::io::Errno;

use super::Groups;
use crate::ids::SessionId;

/// Takes the lock of one that lives on a group that was just made. False: it was taken for a dead one's and
/// removed meanwhile.
pub(super) fn hold(parent: impl AsFd, name: &str, folder: &OwnedFd) -> Result<bool, Errno> {
    match flock(folder, FlockOperation::NonBlockingLockShared) {
        Err(Errno::WOULDBLOCK) => return Ok(false),
        other => other?,
    }
    let ours = fstat(folder)?;
    match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(named) => Ok((named.st_dev, named.st_ino) == (ours.st_dev, ours.st_ino)),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Removes what dead sessions left in a folder. Gives the sessions whose groups stay: they live, or the next
/// time is theirs.
pub(super) fn sweep(parent: impl AsFd) -> Vec<SessionId> {
    let names = names(&parent).unwrap_or_default().into_iter();
    names
        .filter(|(_, name)| remove(&parent, name).is_err())
        .map(|(session, _)| session)
        .collect()
}

fn remove(parent: impl AsFd, name: &str) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = openat(&parent, name, flags, Mode::empty())?;
    flock(&folder, FlockOperation::NonBlockingLockExclusive)?;
    unlinkat(parent, name, AtFlags::REMOVEDIR)
}

/// The groups of sessions in a folder.
fn names(parent: impl AsFd) -> Result<Vec<(SessionId, String)>, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = openat(parent, ".", flags, Mode::empty())?;
    let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
    let mut entries = RawDir::new(folder, &mut buffer);
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_str().unwrap_or_default();
        let session = name.strip_prefix(Groups::PREFIX).unwrap_or_default();
        if entry.file_type() == FileType::Directory
            && let Ok(session) = session.parse()
        {
            names.push((session, name.to_owned()));
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    // On a plain file system, where folders are locked and removed alike.
    #[test]
    fn folders_of_dead_sessions_alone_are_removed() {
        let parent = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            std::fs::create_dir(parent.path().join(name)).unwrap();
            OwnedFd::from(File::open(parent.path().join(name)).unwrap())
        };
        let name = || Groups::name_of(&SessionId::generate().to_string());
        let (living, dead, busy) = (name(), name(), name());
        let above = File::open(parent.path()).unwrap();
        let lock = make(&living);
        assert_eq!(hold(&above, &living, &lock), Ok(true));
        drop((
            make(&dead),
            make(&busy),
            make("portcullis-other"),
            make("else"),
        ));
        std::fs::create_dir(parent.path().join(&busy).join("inside")).unwrap();
        sweep(&above);
        let left = |name: &str| parent.path().join(name).exists();
        assert!(left(&living) && left(&busy) && left("portcullis-other") && left("else"));
        assert!(!left(&dead));
        drop(lock);
        sweep(&above);
        assert!(!left(&living));
    }

    #[test]
    fn one_that_was_taken_for_a_dead_ones_is_made_again() {
        let parent = tempfile::tempdir().unwrap();
        let above = File::open(parent.path()).unwrap();
        let name = Groups::name_of(&SessionId::generate().to_string());
        let path = parent.path().join(&name);
        let open = || OwnedFd::from(File::open(&path).unwrap());
        std::fs::create_dir(&path).unwrap();
        let (sweeping, making) = (open(), open());
        flock(&sweeping, FlockOperation::NonBlockingLockExclusive).unwrap();
        assert_eq!(hold(&above, &name, &making), Ok(false));
        std::fs::remove_dir(&path).unwrap();
        drop(sweeping);
        assert_eq!(hold(&above, &name, &making), Ok(false));
        std::fs::create_dir(&path).unwrap();
        assert_eq!(hold(&above, &name, &making), Ok(false));
        assert_eq!(hold(&above, &name, &open()), Ok(true));
    }
}
