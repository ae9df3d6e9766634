//! What a process takes from itself before it touches anything hostile.

use std::io;

use nix::sys::resource::{Resource, setrlimit};
use rustix::thread::set_no_new_privs;

/// No new privileges by execve(2) (`PR_SET_NO_NEW_PRIVS`), no core dump and no reading of our memory
/// by others of the same uid (`PR_SET_DUMPABLE` 0, `RLIMIT_CORE` 0).
pub fn harden() -> io::Result<()> {
    set_no_new_privs(true)?;
    no_core_dumps()?;
    nix::sys::prctl::set_dumpable(false)?;
    Ok(())
}

/// No core dump of us and no reading of our memory by others of the same uid. Ends with the next
/// execve(2), so that children are what they would be without it.
pub fn unreadable() -> io::Result<()> {
    Ok(nix::sys::prctl::set_dumpable(false)?)
}

/// `RLIMIT_CORE` 0: a crash writes no memory to disk, nor to a `core_pattern` pipe.
pub fn no_core_dumps() -> io::Result<()> {
    Ok(setrlimit(Resource::RLIMIT_CORE, 0, 0)?)
}
