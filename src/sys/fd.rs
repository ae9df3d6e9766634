//! Descriptors: the ones that were inherited, and files that exist only as descriptors.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Mutex;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

/// Descriptors that [`inherit`] has given out, so that none has two owners.
static TAKEN: Mutex<Vec<RawFd>> = Mutex::new(Vec::new());

/// Takes ownership of a descriptor that the parent process passed by number. Each number above 2 can
/// be taken once; it is close-on-exec from then on.
pub fn inherit(number: RawFd) -> io::Result<OwnedFd> {
    let mut taken = TAKEN
        .lock()
        .map_err(|_| io::Error::other("descriptor list is poisoned"))?;
    if number <= 2 || taken.contains(&number) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // Also proves that the number is open: fcntl(2) answers EBADF otherwise.
    set_cloexec(number)?;
    taken.push(number);
    #[expect(unsafe_code, reason = "a number becomes an owner here")]
    // SAFETY: the descriptor is open (above) and nothing in this process owns it: the callers are the
    // first statements of a process whose parent passed it, and TAKEN refuses a second taker.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Marks one descriptor close-on-exec.
fn set_cloexec(number: RawFd) -> io::Result<()> {
    #[expect(unsafe_code, reason = "fcntl(2) on a bare number")]
    // SAFETY: F_SETFD takes an int and touches no memory of ours; a closed number is EBADF.
    let result = unsafe { libc_fcntl_setfd(number) };
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[expect(unsafe_code, reason = "one foreign call, see the caller")]
unsafe fn libc_fcntl_setfd(number: RawFd) -> i32 {
    // SAFETY: as the caller states; the arguments are plain integers.
    unsafe { nix::libc::fcntl(number, nix::libc::F_SETFD, nix::libc::FD_CLOEXEC) }
}

/// Marks every descriptor from `first` on close-on-exec (close_range(2), Linux 5.11): whatever the
/// caller's shell left open does not reach our children.
pub fn cloexec_from(first: u32) -> io::Result<()> {
    close_range(first, nix::libc::CLOSE_RANGE_CLOEXEC)
}

fn close_range(first: u32, flags: u32) -> io::Result<()> {
    let arguments = (
        nix::libc::c_long::from(first),
        nix::libc::c_long::from(u32::MAX),
        nix::libc::c_long::from(flags),
    );
    #[expect(unsafe_code, reason = "close_range(2) has no safe wrapper")]
    // SAFETY: with CLOSE_RANGE_CLOEXEC the call changes a flag only; no descriptor is closed, so no
    // owner in this process is left dangling.
    let result = unsafe {
        nix::libc::syscall(
            nix::libc::SYS_close_range,
            arguments.0,
            arguments.1,
            arguments.2,
        )
    };
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// An empty file in memory that has no name and is gone with its last descriptor (memfd_create(2)), for
/// reading and writing, close-on-exec. The word is for who looks at `/proc/*/fd`.
pub fn unnamed(word: &str) -> io::Result<File> {
    Ok(File::from(memfd_create(word, MemfdFlags::CLOEXEC)?))
}

/// An anonymous file with this content that nobody can change any more (memfd_create(2), F_ADD_SEALS),
/// positioned at its start, close-on-exec.
pub fn sealed(name: &str, content: &[u8]) -> io::Result<File> {
    let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = File::from(fd);
    file.write_all(content)?;
    file.rewind()?;
    fcntl_add_seals(
        &file,
        SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE,
    )?;
    Ok(file)
}

/// The path under which a child that inherited this descriptor finds what it refers to.
pub fn proc_path(fd: &impl AsRawFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_sealed_file_reads_back_and_refuses_writes() {
        let mut file = sealed("test", b"plan").unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "plan");
        assert!(file.write_all(b"x").is_err());
    }

    #[test]
    fn standard_streams_and_closed_numbers_cannot_be_inherited() {
        assert!(inherit(1).is_err());
        assert!(inherit(9_999).is_err());
    }
}
