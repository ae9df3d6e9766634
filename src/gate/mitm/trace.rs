//! What is known of the bytes within a terminated TLS connection: when one last moved, whether any
//! came, and how the client broke off.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::server::TlsStream;

use crate::gate::half_close::Peer;

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
#[derive(Debug)]
pub(super) struct Traced<S> {
    stream: S,
    trace: Rc<Trace>,
}

impl<S> Traced<S> {
    pub(super) fn new(stream: S, trace: Rc<Trace>) -> Self {
        Self { stream, trace }
    }
}

impl<S: Peer> Peer for TlsStream<S> {
    fn socket(&self) -> &TcpStream {
        self.get_ref().0.socket()
    }
}

impl<S: Peer> Peer for Traced<S> {
    fn socket(&self) -> &TcpStream {
        self.stream.socket()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Traced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        match &polled {
            Poll::Ready(Ok(())) if buffer.filled().len() > before => {
                self.trace.received.set(true);
                self.trace.touch();
            }
            Poll::Ready(Err(error)) => {
                *self.trace.broken.borrow_mut() = Some(tls_failure(error));
            }
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Traced<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        if polled.is_ready() {
            self.trace.touch();
        }
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        if polled.is_ready() {
            self.trace.touch();
        }
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
