//! What HTTP/2 refuses by itself. The library resets a stream, or ends the connection, for what RFC 9113
//! calls malformed, and answers a head that is too long; none of it becomes a request that is judged. So
//! the frames are watched on their way: their heads alone (RFC 9113 section 4.1), beside the library.
//!
//! Nothing of it leaves; but what was refused is on record. The records of one connection are bounded:
//! [`RECORDED`] as they happen, then one with how many more there were.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::policy::DenyReason;

use super::Tunnel;
use super::cutter::{Cutter, DATA, END_STREAM, Frame, GOAWAY, HEADERS, PREFACE, RST_STREAM};

/// Refusals of one connection that get a record each.
const RECORDED: u64 = 8;

/// Answers that are remembered after their end: as many as a client can be reading at once, or nearly.
const REMEMBERED: usize = 16;

/// What one connection was refused by the library.
#[derive(Debug)]
pub(super) struct Refused {
    tunnel: Rc<Tunnel>,
    /// Streams that the client opened.
    opened: Cell<u64>,
    /// Those that became a request.
    asked: Cell<u64>,
    /// Resets and the like.
    errors: Cell<u64>,
    /// Whether the stream failed, or the client closed it: no error of HTTP/2.
    ended: Cell<bool>,
}

impl Refused {
    pub(super) fn new(tunnel: &Rc<Tunnel>) -> Rc<Self> {
        Rc::new(Self {
            tunnel: Rc::clone(tunnel),
            opened: Cell::new(0),
            asked: Cell::new(0),
            errors: Cell::new(0),
            ended: Cell::new(false),
        })
    }

    /// A stream became a request.
    pub(super) fn asked(&self) {
        add_one(&self.asked);
    }

    /// The connection ended by an error, which may not have got out in a frame.
    pub(super) fn failed(&self) {
        if self.errors.get() == 0 && !self.ended.get() {
            self.error(DenyReason::Malformed, "HTTP/2: what came is not HTTP/2");
        }
    }

    /// The connection is over: records what has no record yet.
    pub(super) fn finish(&self) {
        let errors = self.errors.get();
        let unread = self.opened.get().saturating_sub(self.asked.get());
        let more = errors.saturating_sub(RECORDED) + unread.saturating_sub(errors);
        if more > 0 {
            let detail = format!(
                "HTTP/2: {more} without a record of their own: malformed, too long a head, or given up at once"
            );
            self.record(DenyReason::Malformed, detail);
        }
    }

    fn error(&self, reason: DenyReason, detail: &str) {
        add_one(&self.errors);
        if self.errors.get() <= RECORDED {
            self.record(reason, detail.to_owned());
        }
    }

    fn record(&self, reason: DenyReason, detail: String) {
        // There is nobody to answer: the library has.
        drop(
            self.tunnel
                .destination
                .fail(&self.tunnel.gate, reason, detail),
        );
    }

    /// A frame went to the client. `answered`: the stream that was answered, and ended, last.
    fn sent(&self, frame: &Frame, answered: u32) {
        match frame.kind {
            RST_STREAM => match frame.word(0) {
                // The answer was a 431.
                PROTOCOL_ERROR if frame.stream == answered => {
                    self.error(DenyReason::Malformed, "HTTP/2: the head is too long");
                }
                REFUSED_STREAM => {
                    let detail = "HTTP/2: more requests at once than were offered";
                    self.error(DenyReason::TooManyConnections, detail);
                }
                code => {
                    if let Some(word) = error_of_a_client(code) {
                        let detail = format!("HTTP/2: a malformed request: {word}");
                        self.error(DenyReason::Malformed, &detail);
                    }
                }
            },
            GOAWAY => {
                if let Some(word) = error_of_a_client(frame.word(4)) {
                    let detail = format!("HTTP/2: the connection is malformed: {word}");
                    self.error(DenyReason::Malformed, &detail);
                }
            }
            _ => {}
        }
    }
}

fn add_one(count: &Cell<u64>) {
    count.set(count.get().saturating_add(1));
}

const PROTOCOL_ERROR: u32 = 1;
const REFUSED_STREAM: u32 = 7;

/// Error codes (RFC 9113 section 7) by which the library refuses what a client sent. The others end what
/// was judged: a request that is over, that its client gave up, whose origin broke off, or frames that were
/// under way when its stream was closed.
fn error_of_a_client(code: u32) -> Option<&'static str> {
    Some(match code {
        PROTOCOL_ERROR => "PROTOCOL_ERROR",
        3 => "FLOW_CONTROL_ERROR",
        6 => "FRAME_SIZE_ERROR",
        9 => "COMPRESSION_ERROR",
        11 => "ENHANCE_YOUR_CALM",
        _ => return None,
    })
}

/// A stream whose frames are watched.
#[derive(Debug)]
pub(super) struct Watched<S> {
    stream: S,
    refused: Rc<Refused>,
    incoming: Cutter,
    outgoing: Cutter,
    /// The latest stream that the client opened.
    latest: u32,
    /// The stream that was answered, and ended, last, of those whose answer was a head alone.
    answered: u32,
    /// The streams whose answer's content ended last. A client that hears of a refusal while it sends may
    /// give its content up by an early end, which the library calls malformed: that request was judged.
    finished: VecDeque<u32>,
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S, refused: Rc<Refused>) -> Self {
        Self {
            stream,
            refused,
            incoming: Cutter::after(PREFACE),
            outgoing: Cutter::default(),
            latest: 0,
            answered: 0,
            finished: VecDeque::with_capacity(REMEMBERED),
        }
    }

    fn received(&mut self, bytes: &[u8]) {
        let (latest, refused) = (&mut self.latest, &self.refused);
        self.incoming.push(bytes, |frame| {
            if frame.kind == HEADERS && frame.stream > *latest {
                *latest = frame.stream;
                add_one(&refused.opened);
            }
        });
    }

    fn sent(&mut self, bytes: &[u8]) {
        let (answered, refused) = (&mut self.answered, &self.refused);
        let finished = &mut self.finished;
        self.outgoing.push(bytes, |frame| {
            match (frame.kind, frame.flags & END_STREAM != 0) {
                (HEADERS, true) => *answered = frame.stream,
                (DATA, true) => {
                    finished.truncate(REMEMBERED - 1);
                    finished.push_front(frame.stream);
                }
                (RST_STREAM, _) if finished.contains(&frame.stream) => return,
                _ => {}
            }
            refused.sent(frame, *answered);
        });
    }

    fn broke_off(&self, polled: &Poll<io::Result<()>>) {
        if matches!(polled, Poll::Ready(Err(_))) {
            self.refused.ended.set(true);
        }
    }

    fn wrote<'a>(
        &mut self,
        polled: &Poll<io::Result<usize>>,
        slices: impl IntoIterator<Item = &'a [u8]>,
    ) {
        match polled {
            Poll::Ready(Ok(written)) => {
                let mut left = *written;
                for slice in slices {
                    let taken = left.min(slice.len());
                    self.sent(slice.get(..taken).unwrap_or_default());
                    left -= taken;
                }
            }
            Poll::Ready(Err(_)) => self.refused.ended.set(true),
            Poll::Pending => {}
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        let new = buffer.filled().get(before..).unwrap_or_default();
        if !new.is_empty() {
            self.received(new);
        } else if polled.is_ready() {
            self.refused.ended.set(true);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.wrote(&polled, [bytes]);
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.wrote(&polled, slices.iter().map(|slice| &**slice));
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    // TLS keeps what is written until it is flushed: a client that has left is often found out here.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(context);
        self.broke_off(&polled);
        polled
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(context);
        self.broke_off(&polled);
        polled
    }
}
