//! What HTTP/2 refuses by itself. The library resets a stream, or ends the connection, for what RFC 9113
//! calls malformed, and answers a head that is too long; none of it becomes a request that is judged. So
//! the frames are watched on their way: their heads alone (RFC 9113 section 4.1), beside the library.
//!
//! Nothing of it leaves; but what was refused is on record. The records of one connection are bounded:
//! [`RECORDED`] as they happen, then one with how many more there were.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::policy::DenyReason;

use super::Tunnel;

/// Refusals of one connection that get a record each.
const RECORDED: u64 = 8;

/// What a client says first (RFC 9113 section 3.4).
const PREFACE: usize = 24;

/// A frame's head.
const HEAD: usize = 9;

/// Of a frame's payload: the stream and the code of GOAWAY, the code of `RST_STREAM`.
const START: usize = 8;

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;

/// Flag of HEADERS.
const END_STREAM: u8 = 1;

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

/// What is looked at of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    /// The start of its payload; zeros where it is shorter.
    start: [u8; START],
}

impl Frame {
    /// The number at this place of the payload's start.
    fn word(&self, at: usize) -> u32 {
        let bytes = self.start.get(at..).and_then(<[u8]>::first_chunk);
        bytes.copied().map_or(0, u32::from_be_bytes)
    }
}

/// Finds frames in bytes that come in pieces.
#[derive(Debug, Default)]
struct Cutter {
    /// What is read of the frame so far: its head, and the start of its payload if that is wanted.
    seen: [u8; HEAD + START],
    have: usize,
    /// Bytes up to the next frame.
    skip: usize,
}

impl Cutter {
    fn after(skip: usize) -> Self {
        Self {
            skip,
            ..Self::default()
        }
    }

    fn push(&mut self, mut bytes: &[u8], mut found: impl FnMut(&Frame)) {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            let wanted = self.wanted();
            let taken = wanted.saturating_sub(self.have).min(bytes.len());
            let (now, rest) = bytes.split_at(taken);
            if let Some(into) = self.seen.get_mut(self.have..self.have + taken) {
                into.copy_from_slice(now);
            }
            self.have += taken;
            bytes = rest;
            // With its head complete, more of the frame may be wanted.
            if self.have >= HEAD && self.have >= self.wanted() {
                found(&self.frame());
                self.skip = (HEAD + self.length()).saturating_sub(self.have);
                self.have = 0;
                self.seen = [0; HEAD + START];
            }
        }
    }

    /// So many bytes of the frame are looked at.
    fn wanted(&self) -> usize {
        let has_code = self.have >= HEAD && matches!(self.kind(), RST_STREAM | GOAWAY);
        if has_code {
            HEAD + self.length().min(START)
        } else {
            HEAD
        }
    }

    fn length(&self) -> usize {
        let [high, middle, low, ..] = self.seen;
        usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low)
    }

    fn kind(&self) -> u8 {
        let [_, _, _, kind, ..] = self.seen;
        kind
    }

    fn frame(&self) -> Frame {
        let [_, _, _, kind, flags, a, b, c, d, start @ ..] = self.seen;
        Frame {
            kind,
            flags,
            // The first bit is reserved.
            stream: u32::from_be_bytes([a, b, c, d]) & (u32::MAX >> 1),
            start,
        }
    }
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
    /// The stream that was answered, and ended, last.
    answered: u32,
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
        self.outgoing.push(bytes, |frame| {
            if frame.kind == HEADERS && frame.flags & END_STREAM != 0 {
                *answered = frame.stream;
            }
            refused.sent(frame, *answered);
        });
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

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [
            &length[1..],
            &[kind, END_STREAM],
            &stream.to_be_bytes(),
            payload,
        ]
        .concat()
    }

    #[test]
    fn frames_are_found_however_they_are_cut() {
        let bytes = [
            frame(HEADERS, 5, &[RST_STREAM; 300]),
            frame(RST_STREAM, 1 << 31 | 5, &[0, 0, 0, 7]),
            frame(0, 5, &[]),
            frame(GOAWAY, 0, &[0, 0, 0, 5, 0, 0, 0, 11, b'x', b'y']),
            // Shorter than it may be.
            frame(RST_STREAM, 9, &[1]),
            frame(6, 0, &[0; 8]),
        ]
        .concat();
        for step in [1, 2, 7, 9, 10, 13, 1000] {
            let mut found = Vec::new();
            let mut cutter = Cutter::default();
            for part in bytes.chunks(step) {
                cutter.push(part, |frame| {
                    found.push((frame.kind, frame.stream, frame.word(0), frame.word(4)));
                });
            }
            let expected = [
                (HEADERS, 5, 0, 0),
                (RST_STREAM, 5, 7, 0),
                (0, 5, 0, 0),
                (GOAWAY, 0, 5, 11),
                (RST_STREAM, 9, 1 << 24, 0),
                (6, 0, 0, 0),
            ];
            assert_eq!(found, expected, "in steps of {step}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic_and_cuts_do_not_matter(
            bytes in proptest::collection::vec(prop_oneof![Just(0_u8), any::<u8>()], 0..300),
            skip in 0_usize..30,
            step in 1_usize..20,
        ) {
            let (mut whole, mut cut) = (Cutter::after(skip), Cutter::after(skip));
            let (mut at_once, mut in_steps) = (Vec::new(), Vec::new());
            whole.push(&bytes, |frame| at_once.push(*frame));
            for part in bytes.chunks(step) {
                cut.push(part, |frame| in_steps.push(*frame));
            }
            prop_assert_eq!(at_once, in_steps);
        }
    }
}
