//! A lane: one client's channel, read and answered without ever waiting for that client.
//!
//! A client that sends half a frame holds up nobody, and one that does not read its answers is not
//! read from until it does.

use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use crate::audit::Source;
use crate::wire::audit::{Append, AuditReply, KEEP_BODY, KeepBody};
use crate::wire::frame::{body_length, decode, encode};
use crate::wire::{Channel, WireError};

/// How many bytes are read at a time: several hundred requests, so that they share one write(2).
const CHUNK: usize = 64 << 10;

/// The longest request of a gate. Exceeds every event a gate can have: a 1 KiB path and detail, a
/// 253-byte host, 128 addresses.
const GATE_FRAME: usize = 64 << 10;

/// The longest of those with a body: 1 MiB in base64 and a few words.
const BODY_FRAME: usize = 3 << 19;

/// What a client asks for.
#[derive(Debug)]
pub(super) enum Request {
    /// A record.
    Append(Append),
    /// A body beside the log, and a record of it.
    Keep(KeepBody),
}

#[derive(Debug)]
pub(super) struct Lane {
    /// Whose channel it is.
    pub(super) source: Source,
    /// `None` once it is over, so that the client sees it close.
    stream: Option<UnixStream>,
    /// Bytes read; the first `consumed` of them are behind us.
    inbox: Vec<u8>,
    consumed: usize,
    /// Answers that the client has not taken yet.
    outbox: Vec<u8>,
    /// The client has closed its end or was cut off: what is in the outbox still goes out.
    ending: bool,
    /// The client is gone: what it had sent is read to its end, and nobody is answered.
    unheard: bool,
}

impl Lane {
    pub(super) fn new(source: Source, channel: Channel) -> Self {
        Self {
            source,
            stream: Some(channel.into_stream()),
            inbox: Vec::with_capacity(CHUNK),
            consumed: 0,
            outbox: Vec::new(),
            ending: false,
            unheard: false,
        }
    }

    /// Whether anything can still come from here.
    pub(super) fn is_open(&self) -> bool {
        self.stream.is_some() && !self.ending
    }

    /// What to wait for: that it takes its answers or, when it has them all, that it asks for more.
    pub(super) fn interest(&self) -> Option<PollFd<'_>> {
        let flags = if self.outbox.is_empty() {
            PollFlags::IN
        } else {
            PollFlags::OUT
        };
        self.stream
            .as_ref()
            .map(|stream| PollFd::new(stream, flags))
    }

    /// Reads what is there, a chunk at most. Descriptors that come along are closed by the kernel:
    /// recv(2) has no place for them.
    pub(super) fn fill(&mut self) {
        let Some(stream) = self.stream.as_ref().filter(|_| self.outbox.is_empty()) else {
            return;
        };
        self.inbox.drain(..self.consumed);
        self.consumed = 0;
        self.inbox.reserve(CHUNK);
        let spare = rustix::buffer::spare_capacity(&mut self.inbox);
        match rustix::net::recv(stream, spare, RecvFlags::DONTWAIT) {
            Ok((0, _)) | Err(Errno::CONNRESET) => self.ending = true,
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.close(),
        }
    }

    /// The next whole request. An error means that this client does not keep to the protocol.
    pub(super) fn next_request(&mut self) -> Option<Result<Request, WireError>> {
        let rest = self.inbox.get(self.consumed..)?;
        let (header, rest) = rest.split_first_chunk()?;
        let length = match body_length(*header) {
            Ok(length) if length > BODY_FRAME && self.source == Source::Gate => {
                return Some(Err(WireError::TooLong(length)));
            }
            Ok(length) => length,
            Err(error) => return Some(Err(error)),
        };
        let known = rest.get(..KEEP_BODY.len().min(length))?;
        let is_body = known == KEEP_BODY;
        if self.source == Source::Gate && !is_body && length > GATE_FRAME {
            return Some(Err(WireError::TooLong(length)));
        }
        let body = rest.get(..length)?;
        let request = if is_body {
            decode(body).map(Request::Keep)
        } else {
            decode(body).map(Request::Append)
        };
        self.consumed += header.len() + length;
        Some(request)
    }

    /// Queues an answer.
    pub(super) fn answer(&mut self, reply: &AuditReply) {
        if self.unheard {
            return;
        }
        match encode(reply) {
            Ok(bytes) => self.outbox.extend_from_slice(&bytes),
            // Only an answer of more than 16 MiB cannot be sent; ours are a line.
            Err(_) => self.close(),
        }
    }

    /// Sends what the client takes now.
    pub(super) fn flush(&mut self) {
        while let Some(stream) = self.stream.as_ref().filter(|_| !self.outbox.is_empty()) {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::send(stream, &self.outbox, flags) {
                Ok(sent) => drop(self.outbox.drain(..sent)),
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                Err(_) => self.say_nothing_more(),
            }
        }
        if self.ending {
            self.close();
        }
    }

    /// Nobody is there any more who reads answers: what was sent can be read to its end.
    pub(super) fn say_nothing_more(&mut self) {
        self.outbox.clear();
        self.unheard = true;
    }

    /// Reads nothing more from here.
    pub(super) fn cut_off(&mut self) {
        self.inbox.clear();
        self.consumed = 0;
        self.ending = true;
    }

    fn close(&mut self) {
        self.stream = None;
        self.outbox.clear();
    }
}
