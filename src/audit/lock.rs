//! The lock by which a log's writer shows that it lives (fcntl(2), open file description locks).
//!
//! It is gone when the writer is, whatever ended it. Readers only ask: they never hold it themselves,
//! so none can be in a writer's way.

use std::fs::File;
use std::io;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

/// Takes the lock until the file is closed; fails at once where somebody has it.
pub fn hold(file: &File) -> io::Result<()> {
    fcntl(file, FcntlArg::F_OFD_SETLK(&whole_file()))?;
    Ok(())
}

/// Gives it back.
pub fn release(file: &File) -> io::Result<()> {
    let mut lock = whole_file();
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a small constant of fcntl(2)"
    )]
    let unlocked = libc::F_UNLCK as libc::c_short;
    lock.l_type = unlocked;
    fcntl(file, FcntlArg::F_OFD_SETLK(&lock))?;
    Ok(())
}

/// Whether a writer holds the lock.
pub fn is_held(file: &File) -> io::Result<bool> {
    let mut lock = whole_file();
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock))?;
    // What would be in our way, or "unlocked".
    Ok(i32::from(lock.l_type) != libc::F_UNLCK)
}

fn whole_file() -> libc::flock {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "small constants of fcntl(2)"
    )]
    let (kind, from) = (
        libc::F_WRLCK as libc::c_short,
        libc::SEEK_SET as libc::c_short,
    );
    libc::flock {
        l_type: kind,
        l_whence: from,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}
