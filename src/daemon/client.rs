//! A connection to the control socket, until its one request has been read. Never waits for a peer: one that
//! says nothing, or half a frame, is cut off.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::sys::peer::{self, Peer};
use crate::wire::control::{ControlReply, ControlRequest, MAX_REQUEST, Refusal};
use crate::wire::frame::Received;
use crate::wire::{Channel, Inbox, WireError};

/// For a peer to say what it wants.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connections at once, and of one user. The next is closed unheard.
pub const MOST: usize = 256;
/// See [`MOST`].
pub const MOST_OF_ONE: usize = 64;

/// Somebody who has connected.
#[derive(Debug)]
pub struct Client {
    /// Who the kernel says it is.
    pub peer: Peer,
    channel: Channel,
    inbox: Inbox,
    came: Vec<OwnedFd>,
    /// When it is cut off.
    pub until: Instant,
}

impl Client {
    /// Takes a connection in. `None`: it is not known who it is, or it comes out of a network namespace of
    /// its own, as everything in a jail would.
    pub fn new(stream: UnixStream) -> Option<Self> {
        let peer = peer::of(&stream).ok()?;
        shares_our_network(&peer).then(|| Self {
            peer,
            channel: Channel::new(stream),
            inbox: Inbox::new(MAX_REQUEST),
            came: Vec::new(),
            until: Instant::now() + PATIENCE,
        })
    }

    /// Its request, once all of it is there.
    pub fn request(&mut self) -> Result<Option<Received<ControlRequest>>, WireError> {
        let request = self.inbox.next_with(&self.channel, &mut self.came)?;
        if request.is_some() && !self.inbox.is_empty() {
            // The rest would be lost, or taken for somebody else's.
            let why = std::io::Error::other("more than one request");
            return Err(WireError::Io(why));
        }
        Ok(request)
    }

    /// Answers. A peer that does not read goes without.
    pub fn answer(&self, reply: &ControlReply, fds: &[BorrowedFd<'_>]) {
        self.channel.send_now(reply, fds).ok();
    }

    /// Answers no.
    pub fn refuse(&self, kind: Refusal, message: String) {
        self.answer(&ControlReply::Refused { kind, message }, &[]);
    }

    /// Lets go of it: somebody else speaks with it from now on.
    pub fn into_socket(self) -> OwnedFd {
        self.channel.into()
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
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
