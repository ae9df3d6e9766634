//! The gate's end of the audit channel. Owns the order of records and the wait for their
//! acknowledgements. Trusts the writer's answers, in order and by number; anything else ends the
//! channel for good. Never lets a caller go on whose record was not acknowledged.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::{Notify, Semaphore, oneshot, watch};
use tokio::time::timeout;

use crate::audit::AuditEvent;
use crate::wire::audit::{Append, AuditReply};
use crate::wire::frame;

/// Requests that may wait for an acknowledgement at once; later ones wait for their turn.
const WAITING: usize = 64;

/// Records without an answer at which no request is let in any more. Only a writer that is stuck lets
/// it come to that: callers give up waiting, their records stay.
const BACKLOG: usize = 1024;

/// How long a record may stay unacknowledged. Must exceed an fdatasync(2) on a busy disk.
const PATIENCE: Duration = Duration::from_secs(10);

/// An answer of the writer is one short object; only its error text has a length.
const MAX_REPLY: usize = 64 << 10;

/// The record was not acknowledged: no record, no traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the audit writer does not answer")]
pub(super) struct AuditLost;

/// Sends records and matches the answers.
#[derive(Debug)]
pub(super) struct Reporter {
    /// The channel; read by [`Reporter::run`] alone.
    stream: UnixStream,
    /// What is under way.
    queue: RefCell<Queue>,
    /// Wakes the task that writes what the socket did not take at once.
    unsent: Notify,
    /// Wakes [`Reporter::settled`].
    answered: Notify,
    /// Bounds the callers that wait, so that the queue is bounded.
    turns: Semaphore,
    /// True once the channel is of no use any more.
    lost: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Queue {
    /// Encoded frames, the first perhaps sent in part.
    outgoing: VecDeque<u8>,
    /// Records without an answer yet, oldest first, with whoever waits for it.
    waiting: VecDeque<(u64, Option<oneshot::Sender<()>>)>,
    /// The number of the next record.
    next: Cell<u64>,
}

impl Reporter {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            queue: RefCell::default(),
            unsent: Notify::new(),
            answered: Notify::new(),
            turns: Semaphore::new(WAITING),
            lost: watch::Sender::new(false),
        }
    }

    /// Records an event and waits until the writer has kept it.
    pub(super) async fn record(&self, event: AuditEvent) -> Result<(), AuditLost> {
        let acknowledged = async {
            let _turn = self.turns.acquire().await.map_err(|_| AuditLost)?;
            if self.queue.borrow().waiting.len() >= BACKLOG {
                return Err(AuditLost);
            }
            let (sender, receiver) = oneshot::channel();
            self.enqueue(event, Some(sender))?;
            receiver.await.map_err(|_| AuditLost)
        };
        timeout(PATIENCE, acknowledged)
            .await
            .unwrap_or(Err(AuditLost))
    }

    /// Records an event in its place without waiting: for facts after the decision, which every later
    /// [`Reporter::record`] of the same channel waits for as well. What a connection leaves here is
    /// bounded, because its next request waits for an acknowledgement behind it.
    pub(super) fn note(&self, event: AuditEvent) {
        // A lost channel refuses every new request; nothing is left to do for this one.
        self.enqueue(event, None).ok();
    }

    /// Waits until every record has its answer, or the channel is lost.
    pub(super) async fn settled(&self) {
        while !self.is_lost() && !self.queue.borrow().waiting.is_empty() {
            self.answered.notified().await;
        }
    }

    /// Whether the channel is of no use any more.
    pub(super) fn is_lost(&self) -> bool {
        *self.lost.borrow()
    }

    /// Resolves once the channel is lost.
    pub(super) async fn until_lost(&self) {
        // The sender lives in self, so waiting cannot fail.
        drop(self.lost.subscribe().wait_for(|lost| *lost).await);
    }

    /// Writes and reads until the channel is lost.
    pub(super) async fn run(&self) {
        let end = tokio::select! {
            end = self.write_all() => end,
            end = self.read_replies() => end,
        };
        drop(end);
        self.lose();
    }

    fn lose(&self) {
        self.lost.send_replace(true);
        let mut queue = self.queue.borrow_mut();
        // Dropping the senders tells every waiting caller.
        queue.waiting.clear();
        queue.outgoing.clear();
        self.answered.notify_waiters();
    }

    fn enqueue(
        &self,
        event: AuditEvent,
        waiter: Option<oneshot::Sender<()>>,
    ) -> Result<(), AuditLost> {
        if self.is_lost() {
            return Err(AuditLost);
        }
        let mut queue = self.queue.borrow_mut();
        let id = queue.next.get();
        queue.next.set(id.wrapping_add(1));
        let frame = frame::encode(&Append { id, event }).map_err(|_| AuditLost)?;
        queue.waiting.push_back((id, waiter));
        queue.outgoing.extend(frame);
        drop(queue);
        if self.send_now().is_err() {
            self.lose();
            return Err(AuditLost);
        }
        Ok(())
    }

    /// Writes what the socket takes at once; the rest is for [`Reporter::write_all`].
    fn send_now(&self) -> io::Result<()> {
        let mut queue = self.queue.borrow_mut();
        while !queue.outgoing.is_empty() {
            match self.stream.try_write(queue.outgoing.as_slices().0) {
                Ok(sent) => drop(queue.outgoing.drain(..sent)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.unsent.notify_one();
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn write_all(&self) -> io::Result<()> {
        loop {
            self.unsent.notified().await;
            self.stream.writable().await?;
            self.send_now()?;
        }
    }

    async fn read_replies(&self) -> io::Result<()> {
        let mut buffer = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            self.stream.readable().await?;
            let got = match self.stream.try_read(&mut chunk) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(got) => got,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error),
            };
            buffer.extend_from_slice(chunk.get(..got).unwrap_or_default());
            while let Some(reply) = next_reply(&mut buffer)? {
                self.accept(&reply)?;
            }
        }
    }

    /// Matches one answer with the oldest record.
    fn accept(&self, reply: &AuditReply) -> io::Result<()> {
        let waiting = self.queue.borrow_mut().waiting.pop_front();
        let (AuditReply::Recorded { id, .. }, Some((expected, waiter))) = (reply, waiting) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        if *id != expected {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if let Some(waiter) = waiter {
            // A caller that gave up waiting is no fault of the channel.
            waiter.send(()).ok();
        }
        self.answered.notify_waiters();
        Ok(())
    }
}

/// Takes one whole frame from the front of the buffer.
fn next_reply(buffer: &mut Vec<u8>) -> io::Result<Option<AuditReply>> {
    let Some(header) = buffer.first_chunk() else {
        return Ok(None);
    };
    let length = frame::body_length(*header).map_err(io::Error::other)?;
    if length > MAX_REPLY {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let Some(body) = buffer.get(4..4 + length) else {
        return Ok(None);
    };
    let reply = frame::decode(body).map_err(io::Error::other)?;
    buffer.drain(..4 + length);
    Ok(Some(reply))
}
