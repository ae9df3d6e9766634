//! What a process takes from itself before it touches anything hostile.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
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

/// Open files of one process (`RLIMIT_NOFILE`), bytes of one file (`RLIMIT_FSIZE`), and processes of this
/// user in this user namespace (`RLIMIT_NPROC`, which counts by namespace since Linux 5.14): no more than
/// these, and never more than before.
pub fn limit(
    open_files: Option<u64>,
    file_size: Option<u64>,
    processes: Option<u64>,
) -> io::Result<()> {
    for (resource, most) in [
        (Resource::RLIMIT_NOFILE, open_files),
        (Resource::RLIMIT_FSIZE, file_size),
        (Resource::RLIMIT_NPROC, processes),
    ] {
        if let Some(most) = most {
            let (soft, hard) = getrlimit(resource)?;
            // "Infinity" is the largest number.
            setrlimit(resource, soft.min(most), hard.min(most))?;
        }
    }
    Ok(())
}

/// `RLIMIT_NOFILE`: as many open files as we may have.
pub fn raise_open_files() -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

/// `RLIMIT_CORE` 0: a crash writes no memory to disk, nor to a `core_pattern` pipe.
pub fn no_core_dumps() -> io::Result<()> {
    Ok(setrlimit(Resource::RLIMIT_CORE, 0, 0)?)
}
