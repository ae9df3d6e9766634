//! The way into a control group, for the processes of one session alone. Root's own descriptor of `cgroup.procs`
//! stays here: the kernel judges whoever writes to it by who opened it (cgroups(7)), so with it a session could
//! move any process of the host.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::operation::{Operation, OperationError, Others};
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

    /// Moves whoever asks, one at a time: the process that the kernel says has asked. Where one cannot be, nobody
    /// comes any more.
    pub(super) fn attend(
        &mut self,
        others: &Others,
        namespace: BorrowedFd<'_>,
    ) -> Result<(), OperationError> {
        let Some(channel) = &self.channel else {
            return Ok(());
        };
        let asked = match channel.knock() {
            Ok(None) => return Ok(()),
            Ok(Some(process)) => process,
            Err(_) => {
                self.close();
                return Ok(());
            }
        };
        let moved = Operation::MoveInto {
            procs: self.procs.as_fd(),
            process: asked,
            namespace,
        }
        .perform(others);
        if moved.is_err() || channel.admit().is_err() {
            self.close();
        }
        moved.map(drop)
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
