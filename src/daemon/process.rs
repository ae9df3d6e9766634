//! A process that the daemon, or the daemon before it, started: known by a descriptor that is never
//! anybody else's (pidfd_open(2)).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};

/// For the kernel to end a process that was killed, in seconds.
const DEATH: i64 = 2;

/// The process.
#[derive(Debug)]
pub struct Process(OwnedFd);

impl Process {
    /// Knows a process by its descriptor.
    pub fn new(pidfd: OwnedFd) -> Self {
        Self(pidfd)
    }

    /// Whether it has ended; reaps it if it was ours.
    pub fn has_ended(&self) -> bool {
        let now = Timespec::default();
        let ended = poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&now));
        if !matches!(ended, Ok(1)) {
            return false;
        }
        // Not our child after a restart of the daemon: then somebody else reaps it.
        waitid(
            WaitId::PidFd(self.0.as_fd()),
            WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
        )
        .ok();
        true
    }

    /// Kills it and waits until it is dead, which takes no time but where the kernel is stuck: whatever takes
    /// its place finds the log unlocked, and the memory of the gates written by nobody. Ended already is as
    /// good.
    pub fn kill(&self) -> io::Result<()> {
        match pidfd_send_signal(&self.0, Signal::KILL) {
            Ok(()) => {}
            Err(Errno::SRCH) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
        let patience = Timespec {
            tv_sec: DEATH,
            tv_nsec: 0,
        };
        match poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&patience)) {
            Ok(0) | Err(Errno::INTR) => Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Whether this process is in this user namespace.
pub(super) fn is_within(pid: Pid, namespace: BorrowedFd<'_>) -> bool {
    let found = rustix::fs::stat(format!("/proc/{}/ns/user", pid.as_raw_nonzero()));
    match (found, rustix::fs::fstat(namespace)) {
        (Ok(found), Ok(wanted)) => (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino),
        _ => false,
    }
}

/// The processes in a user namespace. Each is one of them still when its descriptor is open: the namespace is
/// asked for again then.
pub(super) fn within(namespace: BorrowedFd<'_>) -> io::Result<Vec<Process>> {
    let wanted = rustix::fs::fstat(namespace)?;
    let is_within = |pid: Pid| {
        let found = rustix::fs::stat(format!("/proc/{}/ns/user", pid.as_raw_nonzero()));
        found.is_ok_and(|found| (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino))
    };
    let mut processes = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.parse().ok());
        let Some(pid) = number.and_then(Pid::from_raw).filter(|pid| is_within(*pid)) else {
            continue;
        };
        // Ended meanwhile is as good.
        if let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty())
            && is_within(pid)
        {
            processes.push(Process(pidfd));
        }
    }
    Ok(processes)
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
