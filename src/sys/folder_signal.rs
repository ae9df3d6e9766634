//! Changes in a folder as a signal (fcntl(2), `F_NOTIFY`): what inotify(7) replaced, but nobody counts it, while
//! a user has 128 instances of inotify in all.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::libc;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// The signal, which says that something changed, and neither what nor where.
const SIGNAL: Signal = Signal::SIGIO;

/// `DN_MODIFY`, `DN_CREATE`, `DN_DELETE` and `DN_RENAME` of linux/fcntl.h.
const CHANGES: libc::c_ulong = 0x2 | 0x4 | 0x8 | 0x10;

/// `DN_MULTISHOT`: without it one signal would be all.
const AGAIN: libc::c_ulong = 0x8000_0000;

/// Blocks the signal in this thread, and gives what becomes readable when it comes. Call before another
/// thread exists, and before [`watch`]: unblocked it ends the process.
pub fn queue() -> io::Result<SignalFd> {
    let set = SigSet::from(SIGNAL);
    set.thread_block()?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    Ok(SignalFd::with_flags(&set, flags)?)
}

/// Has this process sent the signal whenever an entry of a folder is made, removed, renamed or written to, for
/// as long as the folder is open.
pub fn watch(folder: &OwnedFd) -> io::Result<()> {
    #[expect(unsafe_code, reason = "F_NOTIFY has no safe wrapper")]
    // SAFETY: F_NOTIFY takes a number and touches no memory of ours; the descriptor is open.
    let result = unsafe { libc::fcntl(folder.as_raw_fd(), libc::F_NOTIFY, CHANGES | AGAIN) };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
