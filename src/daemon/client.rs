//! A connection to the control socket, until its one request has been read. Never waits for a peer: one that
//! says nothing, or half a frame, is cut off.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::sys::close;
use crate::sys::peer::{self, Peer};
use crate::wire::control::{ControlReply, ControlRequest, MAX_REQUEST, Refusal};
use crate::wire::{Channel, Inbox, WireError};

/// For a peer to say what it wants.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connections at once, and of one user. The next is closed unheard.
pub(super) const MOST: usize = 256;
/// See [`MOST`].
pub(super) const MOST_OF_ONE: usize = 64;

/// Somebody who has connected.
#[derive(Debug)]
pub(super) struct Client {
    /// Who the kernel says it is.
    pub peer: Peer,
    channel: Option<Channel>,
    inbox: Inbox,
    /// When it is cut off.
    pub until: Instant,
}

impl Client {
    /// Takes a connection in. `None`: it is not known who it is, or it comes out of a network namespace of
    /// its own, as everything in a jail would.
    pub(super) fn new(stream: UnixStream) -> Option<Self> {
        match peer::of(&stream) {
            Ok(peer) if shares_our_network(&peer) => Some(Self {
                peer,
                channel: Some(Channel::new(stream)),
                inbox: Inbox::new(MAX_REQUEST),
                until: Instant::now() + PATIENCE,
            }),
            _ => {
                close::without_waiting(stream);
                None
            }
        }
    }

    /// Its request, once all of it is there.
    pub(super) fn request(&mut self) -> Result<Option<ControlRequest>, WireError> {
        let Some(channel) = &self.channel else {
            return Err(WireError::Closed);
        };
        let request = self.inbox.next_alone(channel)?;
        if request.is_some() && !self.inbox.is_empty() {
            // The rest would be lost, or taken for somebody else's.
            let why = std::io::Error::other("more than one request");
            return Err(WireError::Io(why));
        }
        Ok(request)
    }

    /// Answers. A peer that does not read goes without.
    pub(super) fn answer(&self, reply: &ControlReply, fds: &[BorrowedFd<'_>]) {
        if let Some(channel) = &self.channel {
            channel.send_now(reply, fds).ok();
        }
    }

    /// Answers no.
    pub(super) fn refuse(&self, kind: Refusal, message: String) {
        self.answer(&ControlReply::Refused { kind, message }, &[]);
    }

    /// What may become readable.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.channel.as_ref().map(AsFd::as_fd)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(channel) = self.channel.take() {
            close::without_waiting(channel);
        }
    }
}

/// Whether the peer is in our network namespace. One that cannot be looked at has ended.
fn shares_our_network(peer: &Peer) -> bool {
    let network = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net"));
    match (network(&peer.pid.to_string()), network("self")) {
        (Ok(theirs), Ok(ours)) => theirs == ours,
        _ => false,
    }
}
