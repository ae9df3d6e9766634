//! A stream with somebody beside it, who sees every byte on its way and may end it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Who stands beside a stream.
pub(super) trait Tap: Unpin {
    /// Gives what is to be read before the stream's own; false: nothing is.
    fn give(&mut self, _buffer: &mut ReadBuf<'_>) -> bool {
        false
    }

    /// What has just come, and how reading went. An error ends the stream: then nobody gets these bytes.
    fn has_read(&mut self, _new: &[u8], _polled: &Poll<io::Result<()>>) -> io::Result<()> {
        Ok(())
    }

    /// How writing went.
    fn has_written(&mut self, _polled: &Poll<io::Result<usize>>) {}
}

/// The two together.
#[derive(Debug)]
pub(super) struct Tapped<S, T> {
    stream: S,
    tap: T,
}

impl<S, T> Tapped<S, T> {
    pub(super) fn new(stream: S, tap: T) -> Self {
        Self { stream, tap }
    }

    /// Gives the stream back.
    pub(super) fn into_stream(self) -> S {
        self.stream
    }
}

impl<S: AsyncRead + Unpin, T: Tap> AsyncRead for Tapped<S, T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.tap.give(buffer) {
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        let new = buffer.filled().get(before..).unwrap_or_default();
        if let Err(error) = self.tap.has_read(new, &polled) {
            buffer.set_filled(before);
            return Poll::Ready(Err(error));
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin, T: Tap> AsyncWrite for Tapped<S, T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.tap.has_written(&polled);
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.tap.has_written(&polled);
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
