//! A process that the daemon, or the daemon before it, started: known by a descriptor that is never
//! anybody else's (pidfd_open(2)).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

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

    /// Kills it. Ended already is as good.
    pub fn kill(&self) -> io::Result<()> {
        match pidfd_send_signal(&self.0, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
