//! The way into a control group, for the processes of one session alone. Root's own descriptor of `cgroup.procs`
//! stays here: the kernel judges whoever writes to it by who opened it (cgroups(7)), so with it a session could
//! move any process of the host.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::process;
use crate::sys::close;
use crate::wire::Channel;

/// Of one group of one session.
#[derive(Debug)]
pub(super) struct Door {
    /// `None`: nobody comes any more.
    channel: Option<Channel>,
    procs: OwnedFd,
}

impl Door {
    /// Gives the session's end as well.
    pub(super) fn new(procs: OwnedFd) -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = Channel::pair()?;
        // Before there is anybody who could say a word without their number.
        ours.learn_sender()?;
        let channel = Some(ours);
        Ok((Self { channel, procs }, theirs.into()))
    }

    /// What may become readable.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.channel.as_ref().map(AsFd::as_fd)
    }

    /// Moves whoever asks, one at a time: a process that the kernel says has asked, and that is in the session's
    /// user namespace.
    pub(super) fn attend(&mut self, namespace: BorrowedFd<'_>) {
        let Some(channel) = &self.channel else {
            return;
        };
        let moved = match channel.knock() {
            Ok(None) => return,
            Ok(Some(pid)) if process::is_within(pid, namespace) => {
                let number = pid.as_raw_nonzero().to_string();
                let moved = rustix::io::write(&self.procs, number.as_bytes());
                moved.is_ok() && channel.admit().is_ok()
            }
            Ok(Some(_)) | Err(_) => false,
        };
        if !moved {
            self.close();
        }
    }

    fn close(&mut self) {
        if let Some(channel) = self.channel.take() {
            close::without_waiting(channel);
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.close();
    }
}
