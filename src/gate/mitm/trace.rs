//! What is known of the bytes within a terminated TLS connection: when one last moved, whether any
//! came, and how the client broke off.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::task::Poll;

use tokio::time::Instant;

use crate::gate::tap::{Tap, Tapped};

use super::accept::tls_failure;

/// Shared by a stream and those who time it.
#[derive(Debug)]
pub(super) struct Trace {
    active: Cell<Instant>,
    received: Cell<bool>,
    broken: RefCell<Option<String>>,
}

impl Trace {
    pub(super) fn new() -> Self {
        Self {
            active: Cell::new(Instant::now()),
            received: Cell::new(false),
            broken: RefCell::default(),
        }
    }

    /// When a byte last moved.
    pub(super) fn active(&self) -> Instant {
        self.active.get()
    }

    /// How the client broke off after the handshake without having said anything: it did not like what
    /// it had been shown. A client that says goodbye as TLS has it is not meant.
    pub(super) fn rejected(&self) -> Option<String> {
        if self.received.get() {
            return None;
        }
        self.broken.borrow().clone()
    }

    fn touch(&self) {
        self.active.set(Instant::now());
    }
}

/// A stream that keeps a [`Trace`].
pub(super) type Traced<S> = Tapped<S, Rc<Trace>>;

impl Tap for Rc<Trace> {
    fn has_read(&mut self, new: &[u8], polled: &Poll<io::Result<()>>) -> io::Result<()> {
        if !new.is_empty() {
            self.received.set(true);
            self.touch();
        }
        if let Poll::Ready(Err(error)) = polled {
            *self.broken.borrow_mut() = Some(tls_failure(error));
        }
        Ok(())
    }

    fn has_written(&mut self, polled: &Poll<io::Result<usize>>) {
        if polled.is_ready() {
            self.touch();
        }
    }
}
