//! Who is at the other end of a Unix socket, as the kernel says (unix(7)).

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::process::Pid;

/// The process that connected, as it was when it did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its number, in our process namespace. May be somebody else's by now.
    pub pid: Pid,
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// As many groups as a process can have (NGROUPS_MAX).
const MOST_GROUPS: usize = 65_536;

/// Asks the kernel.
pub fn of(socket: &impl AsFd) -> io::Result<Peer> {
    let peer = socket_peercred(socket)?;
    Ok(Peer {
        pid: peer.pid,
        uid: peer.uid.as_raw(),
        gid: peer.gid.as_raw(),
        groups: groups(socket)?,
    })
}

/// SO_PEERGROUPS (Linux 4.13).
fn groups(socket: &impl AsFd) -> io::Result<Vec<u32>> {
    // Most processes have a few; where there is no room the kernel says how much is needed.
    let mut groups = vec![0_u32; 64];
    loop {
        let mut length = nix::libc::socklen_t::try_from(groups.len() * size_of::<u32>())
            .map_err(io::Error::other)?;
        #[expect(unsafe_code, reason = "this option has no safe wrapper")]
        // SAFETY: the kernel writes at most `length` bytes to the buffer, which has that many, and the number
        // of bytes to `length`; both outlive the call.
        let result = unsafe {
            nix::libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                nix::libc::SOL_SOCKET,
                nix::libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let count = length as usize / size_of::<u32>();
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(Errno::RANGE.raw_os_error())
            || count <= groups.len()
            || count > MOST_GROUPS
        {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn the_other_end_of_a_pair_is_ourselves() {
        let (a, _b) = UnixStream::pair().unwrap();
        let peer = of(&a).unwrap();
        let mut ours: Vec<u32> = nix::unistd::getgroups()
            .unwrap()
            .into_iter()
            .map(nix::unistd::Gid::as_raw)
            .collect();
        let mut theirs = peer.groups.clone();
        ours.sort_unstable();
        theirs.sort_unstable();
        assert_eq!(theirs, ours);
        assert_eq!(peer.pid, rustix::process::getpid());
        assert_eq!(
            (peer.uid, peer.gid),
            (
                nix::unistd::geteuid().as_raw(),
                nix::unistd::getegid().as_raw()
            )
        );
    }
}
