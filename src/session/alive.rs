//! By what one session knows that another lives, without waking it: a lock on a byte of a file that all
//! sessions of a folder share (fcntl(2), open file description locks).
//!
//! The lock is gone when the process is, whatever ended it, and it is there before the session's socket is: a
//! socket without it, on which nobody listens, is a dead session's.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use rustix::fs::{Mode, OFlags, openat};

use crate::ids::SessionId;

/// The file. It stays: it is one for all.
pub(super) const FILE: &str = "sessions.lock";

/// Shows that a session lives, for as long as the file is open.
pub(super) fn hold(folder: impl AsFd, session: SessionId) -> io::Result<File> {
    let file = open(folder)?;
    fcntl(&file, FcntlArg::F_OFD_SETLK(&byte_of(session)))?;
    Ok(file)
}

/// The same file, to ask by.
pub(super) fn open(folder: impl AsFd) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(folder, FILE, flags, Mode::RUSR | Mode::WUSR)?;
    Ok(file.into())
}

/// Whether a session lives. One that could not lock is not known.
pub(super) fn is_held(file: &File, session: SessionId) -> io::Result<bool> {
    let mut lock = byte_of(session);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock))?;
    // What would be in our way, or "unlocked".
    Ok(i32::from(lock.l_type) != libc::F_UNLCK)
}

/// One of 2^60, by the last of the identifier's random digits. Two sessions with the same would only be in
/// each other's way.
fn byte_of(session: SessionId) -> libc::flock {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "small constants of fcntl(2)"
    )]
    let (kind, from) = (
        libc::F_WRLCK as libc::c_short,
        libc::SEEK_SET as libc::c_short,
    );
    let text = session.to_string();
    let digits = text.get(17..).unwrap_or_default();
    libc::flock {
        l_type: kind,
        l_whence: from,
        l_start: i64::from_str_radix(digits, 16).unwrap_or_default(),
        l_len: 1,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_known_to_live_until_its_file_is_closed() {
        let folder = tempfile::tempdir().unwrap();
        let opened = File::open(folder.path()).unwrap();
        let (one, other) = (SessionId::generate(), SessionId::generate());
        let asked = open(&opened).unwrap();
        assert!(!is_held(&asked, one).unwrap());
        let lock = hold(&opened, one).unwrap();
        let _other = hold(&opened, other).unwrap();
        assert!(is_held(&asked, one).unwrap() && is_held(&asked, other).unwrap());
        drop(lock);
        assert!(!is_held(&asked, one).unwrap() && is_held(&asked, other).unwrap());
    }
}
