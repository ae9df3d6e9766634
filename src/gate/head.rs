//! Reads every request head raw, before hyper does. hyper answers some ambiguous heads by choosing one
//! reading (it drops Content-Length when Transfer-Encoding is there, takes equal repeated lengths and
//! a bare LF, cuts the fragment off a target); here they end the connection, so that no reading is
//! chosen. Bytes of a head that fails are never handed on.
//!
//! Owns: the limits of a head in size and time; when the end of what a client sends is told. Trusts
//! nothing. Never changes a byte.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep_until};

use crate::policy::Transport;

use super::half_close::{HeldEnd, Peer};
use super::head_grammar::{CONNECT, Framing, check, is_token_byte};
use super::state::Limits;

/// A stream whose incoming heads are checked: a client's socket, or what comes out of its TLS.
#[derive(Debug)]
pub(super) struct Guarded<S> {
    stream: S,
    watch: Rc<Watch>,
    /// Set once the client has closed its side while it is being answered.
    end: Option<HeldEnd>,
}

impl<S> Guarded<S> {
    pub(super) fn new(stream: S, watch: Rc<Watch>) -> Self {
        Self {
            stream,
            watch,
            end: None,
        }
    }

    /// Gives the stream back.
    pub(super) fn into_stream(self) -> S {
        self.stream
    }
}

/// What is known of one connection's incoming bytes; shared with those who time it.
#[derive(Debug)]
pub(super) struct Watch {
    limits: Limits,
    /// The door, where it is not to be seen in the head.
    door: Option<Transport>,
    /// The head being read.
    head: RefCell<Vec<u8>>,
    expect: Cell<Expect>,
    /// When the head being read began; at first, when the connection did.
    head_since: Cell<Option<Instant>>,
    /// When a byte last moved on this socket.
    active: Cell<Instant>,
    /// Whether a request is being answered.
    answering: Cell<bool>,
    /// Whether the socket refused to take all of an answer.
    blocked: Cell<bool>,
    /// Why the connection is over.
    fault: Cell<Option<&'static str>>,
    /// The last bytes of a body whose length is not known.
    tail: Cell<[u8; 4]>,
    /// Who waits to be told that the client has closed its side.
    reader: RefCell<Option<Waker>>,
}

/// What the next bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    Head,
    Body(u64),
    /// A chunked body or a request for a WebSocket, after which the connection closes, or a tunnel.
    Rest,
}

/// Why a connection has run out of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expired {
    /// A head had begun and was not complete in time.
    Head,
    /// Nothing was going on, or nothing moved.
    Idle,
}

impl Watch {
    /// For the proxy door.
    pub(super) fn new(limits: Limits) -> Self {
        Self::with(limits, None)
    }

    /// For what comes out of a tunnel that ends here: requests of this door.
    pub(super) fn inspecting(limits: Limits, door: Transport) -> Self {
        Self::with(limits, Some(door))
    }

    fn with(limits: Limits, door: Option<Transport>) -> Self {
        Self {
            limits,
            door,
            head: RefCell::default(),
            expect: Cell::new(Expect::Head),
            head_since: Cell::new(Some(Instant::now())),
            active: Cell::new(Instant::now()),
            answering: Cell::new(false),
            blocked: Cell::new(false),
            fault: Cell::new(None),
            tail: Cell::default(),
            reader: RefCell::default(),
        }
    }

    /// Why the connection is over, if a head was at fault.
    pub(super) fn fault(&self) -> Option<&'static str> {
        self.fault.get()
    }

    /// The door that the head at fault, or late, was for.
    pub(super) fn transport(&self) -> Transport {
        if let Some(door) = self.door {
            door
        } else if self.head.borrow().starts_with(CONNECT) {
            Transport::Connect
        } else {
            Transport::Forward
        }
    }

    /// Whether a response of ours would reach the client as a response: none is under way.
    pub(super) fn may_answer(&self) -> bool {
        !self.answering.get() && !self.blocked.get()
    }

    /// Marks the connection as answering a request until the returned value is dropped.
    pub(super) fn answer(self: &Rc<Self>) -> Answering {
        self.answering.set(true);
        Answering(Rc::clone(self))
    }

    /// Resolves when the connection has run out of time.
    pub(super) async fn expired(&self) -> Expired {
        loop {
            let deadline = self.deadline();
            if deadline <= Instant::now() {
                return if self.head.borrow().is_empty() {
                    Expired::Idle
                } else {
                    Expired::Head
                };
            }
            sleep_until(deadline).await;
        }
    }

    fn deadline(&self) -> Instant {
        let limits = &self.limits;
        match self.head_since.get() {
            // Resolution, dial and the origin have limits of their own; this is for a client that
            // does not take its answer.
            _ if self.answering.get() => {
                self.active.get() + limits.dial + limits.idle + limits.head
            }
            Some(since) => since + limits.head,
            None => self.active.get() + limits.idle,
        }
    }

    /// Checks bytes as they come in.
    fn inspect(&self, mut bytes: &[u8]) -> Result<(), &'static str> {
        while !bytes.is_empty() {
            bytes = match self.expect.get() {
                Expect::Head => self.inspect_head(bytes)?,
                Expect::Body(left) => {
                    let taken = left.min(bytes.len() as u64);
                    self.expect.set(match left - taken {
                        0 => Expect::Head,
                        rest => Expect::Body(rest),
                    });
                    bytes
                        .get(usize::try_from(taken).unwrap_or(bytes.len())..)
                        .unwrap_or_default()
                }
                Expect::Rest => {
                    let last = bytes.len().saturating_sub(4);
                    for byte in bytes.get(last..).unwrap_or_default() {
                        let [_, a, b, c] = self.tail.get();
                        self.tail.set([a, b, c, *byte]);
                    }
                    return Ok(());
                }
            };
        }
        Ok(())
    }

    /// Whether the end of what the client sends is to be held back: it is being answered, and all of its
    /// request is there. hyper would take it for a client that has left.
    fn holds_end(&self) -> bool {
        let complete = match self.expect.get() {
            Expect::Head => self.head.borrow().is_empty(),
            Expect::Body(_) => false,
            // How a chunked body ends. One that is cut off just there is found out a moment later.
            Expect::Rest => self.tail.get() == *b"\r\n\r\n",
        };
        complete && (self.answering.get() || self.blocked.get())
    }

    fn wake_reader(&self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// Adds to the head; answers what comes after it.
    fn inspect_head<'a>(&self, bytes: &'a [u8]) -> Result<&'a [u8], &'static str> {
        let mut head = self.head.borrow_mut();
        if self.head_since.get().is_none() {
            self.head_since.set(Some(Instant::now()));
        }
        for (at, byte) in bytes.iter().enumerate() {
            if head.len() >= self.limits.head_bytes {
                return Err("the head is too long");
            }
            if *byte == b'\n' && head.last() != Some(&b'\r') {
                return Err("a line does not end with CR LF");
            }
            head.push(*byte);
            if *head == b"\r\n" {
                // RFC 9112 section 2.2: an empty line before a request line is skipped.
                head.clear();
            } else if head.len() == 1 && !is_token_byte(*byte) && *byte != b'\r' {
                return Err("not HTTP");
            }
            if *byte == b'\n' && head.ends_with(b"\r\n\r\n") {
                self.expect.set(match check(&head)? {
                    Framing::Empty => Expect::Head,
                    Framing::Length(length) => Expect::Body(length),
                    Framing::Chunked => {
                        self.tail.set(*b"head");
                        Expect::Rest
                    }
                    Framing::Tunnel => {
                        self.tail.set(*b"\r\n\r\n");
                        Expect::Rest
                    }
                });
                head.clear();
                self.head_since.set(None);
                return Ok(bytes.get(at + 1..).unwrap_or_default());
            }
        }
        Ok(&[])
    }
}

/// A request is being answered.
#[derive(Debug)]
pub(super) struct Answering(Rc<Watch>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.answering.set(false);
        self.0.active.set(Instant::now());
        self.0.wake_reader();
    }
}

// === impl Guarded ===

impl<S: Peer> Guarded<S> {
    /// The client has closed its side: told once it is answered, or taken for gone.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.watch.holds_end() {
            let end = self.end.get_or_insert_with(HeldEnd::new);
            let active = self.watch.active.get();
            if end
                .poll_gone(context, self.stream.socket(), active)
                .is_pending()
            {
                *self.watch.reader.borrow_mut() = Some(context.waker().clone());
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Peer + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.end.is_some() {
            return self.poll_end(context);
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        let new = buffer.filled().get(before..).unwrap_or_default();
        if !new.is_empty() {
            self.watch.active.set(Instant::now());
            if let Err(fault) = self.watch.inspect(new) {
                self.watch.fault.set(Some(fault));
                buffer.set_filled(before);
                return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
            }
        } else if matches!(polled, Poll::Ready(Ok(()))) && buffer.remaining() > 0 {
            return self.poll_end(context);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch.wrote(&polled);
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.watch.wrote(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(context);
        self.watch.blocks(polled.is_pending());
        polled
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Watch {
    fn wrote(&self, polled: &Poll<io::Result<usize>>) {
        if polled.is_ready() {
            self.active.set(Instant::now());
        }
        self.blocks(polled.is_pending());
    }

    /// Whether the socket does not take all of an answer.
    fn blocks(&self, blocks: bool) {
        if self.blocked.replace(blocks) && !blocks {
            self.wake_reader();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn watch() -> Watch {
        Watch::new(Limits {
            connections: 1,
            head_bytes: 300,
            head: Duration::from_secs(1),
            dial: Duration::from_secs(1),
            idle: Duration::from_secs(1),
        })
    }

    const GOOD: &str = "GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n";

    #[test]
    fn what_may_be_read_in_two_ways_is_refused() {
        let post =
            |fields: &str| format!("POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n");
        for (head, why) in [
            (GOOD.replace("\r\n", "\n"), "a line does not end with CR LF"),
            (
                GOOD.replace("a.test/", "a.test/#x"),
                "the target has a fragment",
            ),
            (
                GOOD.replace("GET ", "GET  "),
                "the request line is not method, target and version",
            ),
            (
                GOOD.replace("HTTP/1.1", "HTTP/2.0"),
                "the version is not HTTP/1.0 or HTTP/1.1",
            ),
            (
                GOOD.replace("a.test/", "a\0.test/"),
                "the target has a byte that no URI has",
            ),
            (GOOD.replace("Host: a.test\r\n", ""), "no Host"),
            (
                GOOD.replace("Host:", "Host :"),
                "a field name that is not a token",
            ),
            (
                GOOD.replace("a.test\r\n\r\n", "a.test\r\n b.test\r\n\r\n"),
                "a field without a colon",
            ),
            (
                GOOD.replace("a.test\r\n\r\n", "a.test\r\n x:y\r\n\r\n"),
                "a field name that is not a token",
            ),
            (
                GOOD.replace("Host: a", "Host: \0a"),
                "a control character in a field",
            ),
            (GOOD.replace("Host: a", "Host: \ra"), "a CR within a line"),
            (
                GOOD.replace("Host: a", "Host:\x0ca"),
                "a control character in a field",
            ),
            (
                GOOD.replace("a.test\r\n\r\n", "a.test\r\r\n\r\n"),
                "a CR within a line",
            ),
            (post("Host: b.test\r\n"), "more than one Host"),
            (
                post("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"),
                "both Content-Length and Transfer-Encoding",
            ),
            (
                post("Content-Length: 3\r\nContent-Length: 3\r\n"),
                "more than one Content-Length",
            ),
            (
                post("Content-Length: 3, 3\r\n"),
                "Content-Length is not one number",
            ),
            (
                post("Content-Length: +3\r\n"),
                "Content-Length is not one number",
            ),
            (
                post("Transfer-Encoding: gzip, chunked\r\n"),
                "a Transfer-Encoding other than chunked",
            ),
            (
                post("Transfer-Encoding: xchunked\r\n"),
                "a Transfer-Encoding other than chunked",
            ),
            (
                post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
                "a Transfer-Encoding other than chunked",
            ),
            (
                post(&format!("X: {}\r\n", "y".repeat(300))),
                "the head is too long",
            ),
            ("\u{5}\u{1}\0".to_owned(), "not HTTP"),
            ("\n".to_owned(), "a line does not end with CR LF"),
        ] {
            assert_eq!(watch().inspect(head.as_bytes()), Err(why), "{head:?}");
        }
        assert_eq!(watch().inspect(GOOD.as_bytes()), Ok(()));
        assert_eq!(watch().inspect(format!("\r\n{GOOD}").as_bytes()), Ok(()));
        assert_eq!(
            watch().inspect(post("Content-Length: 3\r\n").as_bytes()),
            Ok(())
        );
    }

    #[test]
    fn a_head_behind_a_body_is_checked_as_well() {
        let first =
            "POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\n\r\n\n\n\n\n";
        assert_eq!(watch().inspect(format!("{first}{GOOD}").as_bytes()), Ok(()));
        let bad = GOOD.replace("\r\n", "\n");
        assert_eq!(
            watch().inspect(format!("{first}{bad}").as_bytes()),
            Err("a line does not end with CR LF")
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic_and_cuts_do_not_matter(
            bytes in proptest::collection::vec(any::<u8>(), 0..400),
            keep in 0_usize..60,
            step in 1_usize..30,
        ) {
            let bytes = [&GOOD.as_bytes()[..keep.min(GOOD.len())], &bytes].concat();
            let (whole, cut) = (watch(), watch());
            let at_once = whole.inspect(&bytes);
            let in_steps = bytes.chunks(step).try_for_each(|part| cut.inspect(part));
            prop_assert_eq!(at_once, in_steps);
        }
    }
}
