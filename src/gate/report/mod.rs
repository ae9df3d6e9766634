//! The gate's end of the audit channel. Owns the order of records and the wait for their
//! acknowledgements. Trusts the writer's answers, in order and by number; anything else ends the
//! channel for good. Never lets a caller go on whose record was not acknowledged.
//!
//! A writer that dies is replaced by another ([`supply`](super::supply)): callers wait meanwhile, connections
//! stay, and what was not acknowledged is sent again, so that a record may be kept twice but not lost. If none
//! comes in time, if the writer says that the disk takes nothing, or if it does not answer in time, everything is
//! refused, and connections end, until records are kept again.
//!
//! Unless the profile says that the session goes on ([`OnFailure::Continue`]): then callers are let go after a short
//! wait, records stay in the queue as long as there is room, and those beyond are counted.

mod trouble;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::rc::Rc;

use jiff::Timestamp;
use tokio::net::UnixStream;
use tokio::sync::{Notify, Semaphore, oneshot, watch};
use tokio::time::{Instant, timeout};

use crate::audit::AuditEvent;
use crate::audit::http::{BodySkipped, SkipReason};
use crate::audit::loss::Losses;
use crate::policy::OnFailure;
use crate::wire::audit::{Append, AuditReply, BodyOffer, KeepBody};
use crate::wire::gate::AuditState;
use crate::wire::{WireError, frame};

use super::bodies::Share;

/// Requests that may wait for an acknowledgement at once; later ones wait for their turn.
const WAITING: usize = 64;

/// Records without an answer at which no request is let in any more. Only a writer that is stuck lets
/// it come to that: callers give up waiting, their records stay. Every request that the connections of a session
/// can hold may end at once, each with up to four records.
const BACKLOG: usize = 4096;

/// An answer of the writer is one short object; only its error text has a length.
const MAX_REPLY: usize = 64 << 10;

/// The record was not acknowledged: no record, no traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the audit writer does not answer")]
pub(super) struct AuditLost;

/// Sends records and matches the answers.
#[derive(Debug)]
pub(super) struct Reporter {
    /// The channel; read by [`Reporter::run`] alone. `None` while there is no writer.
    lane: RefCell<Option<Rc<UnixStream>>>,
    /// The channel to another writer, which takes the place of the one before.
    next: RefCell<Option<UnixStream>>,
    /// Wakes [`Reporter::run`]: there is another channel, or there never will be.
    supplied: Notify,
    /// Whether another writer may come.
    replaceable: Cell<bool>,
    /// Whether no writer could help: nothing is recorded any more.
    useless: Cell<bool>,
    /// What happens while records cannot be kept.
    on_failure: OnFailure,
    /// The writer says that it can keep none; why.
    refusing: RefCell<Option<String>>,
    /// There has been no writer for too long.
    absent: Cell<bool>,
    /// The oldest record without an answer is too old.
    overdue: Cell<bool>,
    /// Records that the writer holds and has not kept yet: they are lost if it dies.
    held: RefCell<Losses>,
    /// Records that had no room here, or that a writer that died had held.
    losses: RefCell<Losses>,
    /// What the session is told.
    state: watch::Sender<AuditState>,
    /// What is under way.
    queue: RefCell<Queue>,
    /// Wakes [`Reporter::watch_the_oldest`]: there is one.
    queued: Notify,
    /// Wakes the task that writes what the socket did not take at once.
    unsent: Notify,
    /// Wakes [`Reporter::settled`].
    answered: Notify,
    /// Bounds the callers that wait, so that the queue is bounded.
    turns: Semaphore,
    /// True while nothing may leave, because nothing can be recorded.
    lost: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Queue {
    /// Encoded frames, the first perhaps sent in part.
    outgoing: VecDeque<u8>,
    /// Records without an answer yet, oldest first.
    waiting: VecDeque<Unanswered>,
    /// The number of the next record.
    next: Cell<u64>,
}

/// A record that is not acknowledged: should its writer die, the next one gets it.
#[derive(Debug)]
struct Unanswered {
    id: u64,
    /// The name of its event.
    kind: &'static str,
    /// When the present writer got it.
    since: Instant,
    frame: Vec<u8>,
    /// Whoever waits for it.
    waiter: Option<oneshot::Sender<()>>,
    /// The memory that its body takes.
    _share: Option<Share>,
}

/// Why a channel is of no use any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The writer is gone, or another has taken its place.
    Gone,
    /// It cannot keep records, or is not itself: another one would not be better.
    Useless,
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        let gone = matches!(
            error.kind(),
            io::ErrorKind::UnexpectedEof
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::BrokenPipe
        );
        if gone { Self::Gone } else { Self::Useless }
    }
}

impl Reporter {
    pub(super) fn new(stream: UnixStream, on_failure: OnFailure) -> Self {
        Self {
            lane: RefCell::new(Some(Rc::new(stream))),
            next: RefCell::default(),
            supplied: Notify::new(),
            replaceable: Cell::new(true),
            useless: Cell::new(false),
            on_failure,
            refusing: RefCell::default(),
            absent: Cell::new(false),
            overdue: Cell::new(false),
            held: RefCell::default(),
            losses: RefCell::default(),
            state: watch::Sender::new(AuditState::Writing),
            queue: RefCell::default(),
            queued: Notify::new(),
            unsent: Notify::new(),
            answered: Notify::new(),
            turns: Semaphore::new(WAITING),
            lost: watch::Sender::new(false),
        }
    }

    /// Records an event and waits until the writer has kept it. Where the session goes on without records, no longer
    /// than a moment.
    pub(super) async fn record(&self, event: AuditEvent) -> Result<(), AuditLost> {
        let goes_on = self.on_failure == OnFailure::Continue;
        if goes_on && self.is_in_trouble() {
            return self.leave(event);
        }
        let mut event = Some(event);
        let acknowledged = async {
            let _turn = self.turns.acquire().await.map_err(|_| AuditLost)?;
            if self.is_lost() || self.queue.borrow().waiting.len() >= BACKLOG {
                return Err(AuditLost);
            }
            let (sender, receiver) = oneshot::channel();
            let event = event.take().ok_or(AuditLost)?;
            self.enqueue(event, Some(sender))?;
            receiver.await.map_err(|_| AuditLost)
        };
        let outcome = timeout(self.patience(), acknowledged).await;
        match (outcome, event) {
            (Err(_), None) if goes_on => Ok(()),
            (Err(_), Some(event)) if goes_on => self.leave(event),
            (outcome, event) => {
                if let Some(never_sent) = event {
                    // Refused for want of a record: the first one afterwards says so.
                    let mut losses = self.losses.borrow_mut();
                    losses.add(never_sent.name(), Timestamp::now());
                }
                outcome.unwrap_or(Err(AuditLost))
            }
        }
    }

    /// Records an event in its place without waiting: for facts after the decision, which every later
    /// [`Reporter::record`] of the same channel waits for as well. What a connection leaves here is
    /// bounded, because its next request waits for an acknowledgement behind it.
    pub(super) fn note(&self, event: AuditEvent) {
        // While nothing is let through these are the ends of what was; another writer may still come. Where no writer
        // can help nothing is left to do for this one.
        if self.is_lost() || self.is_in_trouble() {
            self.leave(event).ok();
        } else {
            self.enqueue(event, None).ok();
        }
    }

    /// Has a body kept, in its place among the records and without waiting. Its share of the memory is taken until
    /// the writer has it.
    pub(super) fn keep(&self, body: BodyOffer, share: Share) {
        if self.is_lost() || self.is_in_trouble() {
            // Not held in memory for a writer that may come: that it is not kept is told.
            return self.note(AuditEvent::BodySkipped(BodySkipped {
                conn: body.conn,
                direction: body.direction,
                reason: SkipReason::Storage,
            }));
        }
        let frame = |id| frame::encode(&KeepBody { body, id });
        // As in `note`.
        self.enqueue_frame("body.kept", frame, (None, Some(share)))
            .ok();
    }

    /// Waits until every record has its answer, or the channel is lost.
    pub(super) async fn settled(&self) {
        while !self.is_lost() && !self.queue.borrow().waiting.is_empty() {
            self.answered.notified().await;
        }
    }

    /// Whether nothing can be recorded.
    pub(super) fn is_lost(&self) -> bool {
        *self.lost.borrow()
    }

    /// Resolves once nothing can be recorded.
    pub(super) async fn until_lost(&self) {
        // The sender lives in self, so waiting cannot fail.
        drop(self.lost.subscribe().wait_for(|lost| *lost).await);
    }

    /// The channel to another writer, which takes the place of the one that there was.
    pub(super) fn replace(&self, lane: UnixStream) {
        self.next.replace(Some(lane));
        self.supplied.notify_one();
    }

    /// There will be no other writer.
    pub(super) fn will_not_be_replaced(&self) {
        self.replaceable.set(false);
        self.supplied.notify_one();
    }

    /// Nothing is to be let through any more, whoever writes.
    pub(super) fn give_up(&self) {
        self.useless.set(true);
        self.judge();
        self.supplied.notify_one();
    }

    /// Writes and reads until no writer is of any use.
    pub(super) async fn run(&self) {
        while !self.useless.get() {
            let lane = self.lane.borrow().clone();
            if let Some(lane) = lane {
                let end = tokio::select! {
                    end = self.write_all(&lane) => end,
                    end = self.read_replies(&lane) => end,
                    () = self.until_replaced() => End::Gone,
                    never = self.watch_the_oldest() => match never {},
                };
                self.lane.take();
                if end == End::Useless {
                    self.useless.set(true);
                }
            } else {
                self.find_lane().await;
            }
        }
        self.judge();
    }

    /// Resolves once there is another channel, or nothing is to be let through any more.
    async fn until_replaced(&self) {
        while self.next.borrow().is_none() && !self.useless.get() {
            self.supplied.notified().await;
        }
    }

    /// Without a writer everything waits, for a while; then nothing is let through until there is one.
    async fn find_lane(&self) {
        let next = self.next.take();
        if let Some(lane) = next {
            self.take_up(lane);
            return;
        }
        let patience = self.patience();
        if !self.replaceable.get() && self.on_failure == OnFailure::Block {
            self.useless.set(true);
        } else if self.absent.get() {
            self.supplied.notified().await;
        } else if !self.replaceable.get()
            || timeout(patience, self.supplied.notified()).await.is_err()
        {
            self.absent.set(true);
            self.judge();
        }
    }

    /// Goes on with another writer: it gets everything that none has acknowledged, in order.
    fn take_up(&self, lane: UnixStream) {
        let mut queue = self.queue.borrow_mut();
        queue.outgoing.clear();
        let Queue {
            outgoing, waiting, ..
        } = &mut *queue;
        for unanswered in waiting.iter_mut() {
            outgoing.extend(&unanswered.frame);
            unanswered.since = Instant::now();
        }
        drop(queue);
        self.lane.replace(Some(Rc::new(lane)));
        let held = self.held.take();
        self.losses.borrow_mut().add_all(held);
        // It says so itself if it cannot keep any either.
        self.refusing.take();
        self.absent.set(false);
        self.overdue.set(false);
        self.judge();
        self.send_now();
    }

    fn enqueue(
        &self,
        event: AuditEvent,
        waiter: Option<oneshot::Sender<()>>,
    ) -> Result<(), AuditLost> {
        let kind = event.name();
        let frame = |id| frame::encode(&Append { id, event });
        self.enqueue_frame(kind, frame, (waiter, None))
    }

    fn enqueue_frame(
        &self,
        kind: &'static str,
        frame: impl FnOnce(u64) -> Result<Vec<u8>, WireError>,
        (waiter, share): (Option<oneshot::Sender<()>>, Option<Share>),
    ) -> Result<(), AuditLost> {
        if self.useless.get() {
            return Err(AuditLost);
        }
        let mut queue = self.queue.borrow_mut();
        let id = queue.next.get();
        let frame = frame(id).map_err(|_| AuditLost)?;
        queue.next.set(id.wrapping_add(1));
        if self.lane.borrow().is_some() {
            queue.outgoing.extend(&frame);
        }
        queue.waiting.push_back(Unanswered {
            id,
            kind,
            since: Instant::now(),
            frame,
            waiter,
            _share: share,
        });
        drop(queue);
        self.queued.notify_one();
        self.send_now();
        Ok(())
    }

    /// Writes what the socket takes at once; the rest is for [`Reporter::write_all`]. A channel that fails
    /// is found out by [`Reporter::read_replies`].
    fn send_now(&self) {
        let lane = self.lane.borrow().clone();
        if let Some(lane) = lane {
            self.send_to(&lane).ok();
        }
    }

    fn send_to(&self, lane: &UnixStream) -> io::Result<()> {
        let mut queue = self.queue.borrow_mut();
        while !queue.outgoing.is_empty() {
            match lane.try_write(queue.outgoing.as_slices().0) {
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

    async fn write_all(&self, lane: &UnixStream) -> End {
        loop {
            self.unsent.notified().await;
            let sent = lane.writable().await.and_then(|()| self.send_to(lane));
            if sent.is_err() {
                // What it had acknowledged is still to be read.
                return std::future::pending().await;
            }
        }
    }

    async fn read_replies(&self, lane: &UnixStream) -> End {
        match self.until_unreadable(lane).await {
            Ok(never) => match never {},
            Err(error) => error.into(),
        }
    }

    async fn until_unreadable(&self, lane: &UnixStream) -> io::Result<Infallible> {
        let mut buffer = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            lane.readable().await?;
            let got = match lane.try_read(&mut chunk) {
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
        let id = match reply {
            AuditReply::Blocked { error } => {
                self.refusing.replace(Some(error.clone()));
                self.judge();
                return Ok(());
            }
            AuditReply::Writing => {
                self.refusing.take();
                self.held.take();
                self.judge();
                return Ok(());
            }
            // It could keep others: a record that is refused for itself is none that anything may follow.
            AuditReply::Failed { .. } if self.refusing.borrow().is_none() => {
                return Err(io::ErrorKind::InvalidData.into());
            }
            AuditReply::Recorded { id, .. }
            | AuditReply::Held { id }
            | AuditReply::Failed { id, .. } => *id,
            AuditReply::Ready => return Err(io::ErrorKind::InvalidData.into()),
        };
        let waiting = self.queue.borrow_mut().waiting.pop_front();
        let unanswered = waiting.filter(|unanswered| unanswered.id == id);
        let unanswered = unanswered.ok_or(io::ErrorKind::InvalidData)?;
        let kept = match reply {
            AuditReply::Recorded { .. } => true,
            // What the writer is told of this comes from the session; what counts is what we were told.
            AuditReply::Held { .. } => {
                let mut held = self.held.borrow_mut();
                held.add(unanswered.kind, Timestamp::now());
                self.on_failure == OnFailure::Continue
            }
            AuditReply::Failed { .. } => {
                // The same: the writer counts it, and may die before it tells.
                let mut held = self.held.borrow_mut();
                held.add(unanswered.kind, Timestamp::now());
                false
            }
            AuditReply::Ready | AuditReply::Blocked { .. } | AuditReply::Writing => false,
        };
        if let Some(waiter) = unanswered.waiter.filter(|_| kept) {
            // A caller that gave up waiting is no fault of the channel.
            waiter.send(()).ok();
        }
        if self.overdue.get() {
            self.look_at_the_oldest();
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
