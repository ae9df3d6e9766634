//! Whoever asked for a session that another process runs, for as long as the session is theirs: their signals
//! are the session's, and so is their end.

use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, Signal, kill, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

use crate::wire::detached::FromStarter;
use crate::wire::{Channel, Inbox};

/// The longest message, in bytes: a word and a number.
const LONGEST: usize = 256;

/// The channel to them.
#[derive(Debug)]
pub struct Requester {
    channel: Channel,
    inbox: Inbox,
    gone: bool,
}

impl Requester {
    /// Listens on a channel.
    pub fn new(channel: Channel) -> Self {
        Self {
            channel,
            inbox: Inbox::new(LONGEST),
            gone: false,
        }
    }

    /// What may become readable.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        (!self.gone).then(|| self.channel.as_fd())
    }

    /// Takes what they say as signals of our own: they are blocked, and so wait in the queue for whoever
    /// watches it.
    pub fn attend(&mut self) {
        while !self.gone {
            match self.inbox.next::<FromStarter>(&self.channel) {
                Ok(Some(FromStarter::Signal(number))) => {
                    // What asks to end, and nothing else.
                    let asks = [
                        Signal::SIGINT,
                        Signal::SIGTERM,
                        Signal::SIGHUP,
                        Signal::SIGQUIT,
                    ];
                    if let Some(signal) = asks.into_iter().find(|one| *one as i32 == number) {
                        raise(signal).ok();
                    }
                }
                Ok(Some(FromStarter::Interrupt)) => interrupt(),
                Ok(None) => return,
                Err(_) => {
                    self.gone = true;
                    raise(Signal::SIGTERM).ok();
                }
            }
        }
    }
}

/// Does what a terminal does on Ctrl-C where we are one of its processes: SIGINT for all of our process group, which is
/// the command and what it has in the foreground. For us it is no order (`watch`): our own is taken at once.
fn interrupt() {
    let mut set = SigSet::empty();
    set.add(Signal::SIGINT);
    let Ok(own) = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK) else {
        return;
    };
    kill(Pid::from_raw(0), Signal::SIGINT).ok();
    own.read_signal().ok();
}
