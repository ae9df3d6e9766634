//! Signals, read as data (signalfd(2)) instead of interrupting.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// The signals that ask a session to end, and the death of a child.
const WATCHED: [Signal; 5] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGCHLD,
];

/// One signal that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrived {
    /// Which.
    pub signal: Signal,
    /// Whether the kernel sent it to the whole foreground process group, as a terminal does on Ctrl-C:
    /// then the command, which shares the group, has received it already.
    pub from_terminal: bool,
}

/// The watched signals, blocked and queued. Children start with an empty mask (std resets it).
#[derive(Debug)]
pub struct Signals {
    queue: SignalFd,
}

impl Signals {
    /// Blocks the watched signals in this thread; call before any other thread exists.
    pub fn watch() -> io::Result<Self> {
        let mut set = SigSet::empty();
        for signal in WATCHED {
            set.add(signal);
        }
        set.thread_block()?;
        Ok(Self {
            queue: SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?,
        })
    }

    /// The next signal, if one has arrived.
    pub fn take(&mut self) -> io::Result<Option<Arrived>> {
        let Some(info) = self.queue.read_signal()? else {
            return Ok(None);
        };
        let number = i32::try_from(info.ssi_signo).unwrap_or(i32::MAX);
        let signal = Signal::try_from(number).map_err(io::Error::from)?;
        Ok(Some(Arrived {
            signal,
            from_terminal: info.ssi_code == nix::libc::SI_KERNEL,
        }))
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}
