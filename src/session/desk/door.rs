//! Visitors whom the service lets in: they are at the desk as those are who come by the session's own socket,
//! with what the service says that they may do.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::Desk;
use crate::session::service::Shared;
use crate::wire::service::May;
use crate::wire::session::SessionRequest;

/// Where they come in.
#[derive(Debug)]
pub(super) struct Door {
    service: Shared,
    bell: OwnedFd,
}

impl Door {
    /// `None`: there is no descriptor left.
    pub(super) fn new(service: Shared) -> Option<Self> {
        let bell = service.borrow().bell().ok()?;
        Some(Self { service, bell })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

impl Desk {
    /// Lets in who has come, and hears whoever waits for the end.
    pub(super) fn open_the_door(&mut self) {
        if let Some(requester) = &mut self.requester {
            requester.attend();
        }
        let Some(door) = &self.service else {
            return;
        };
        let visitors = door.service.borrow_mut().visitors();
        if door.service.borrow().is_gone() {
            self.service = None;
        }
        if let Some(socket) = &mut self.socket {
            for (visitor, channel) in visitors {
                socket.admit_visitor(visitor, channel);
            }
        }
    }
}

/// What somebody must be allowed to ask for this.
pub(super) fn needs(request: &SessionRequest) -> May {
    match request {
        SessionRequest::Questions
        | SessionRequest::Watch
        | SessionRequest::Counters
        | SessionRequest::Describe
        | SessionRequest::Attach {
            read_only: true, ..
        } => May::See,
        SessionRequest::Answer { .. }
        | SessionRequest::ReloadPolicy
        | SessionRequest::Stop { .. } => May::Operate,
        SessionRequest::Attach { .. }
        | SessionRequest::Resize(_)
        | SessionRequest::Reach { .. } => May::Own,
    }
}
