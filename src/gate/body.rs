//! Answers' content on its way through: streamed, counted, never collected. What requests bring is
//! [`super::upload`]'s.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::audit::EndedBy;

use super::head::Answering;
use super::hop;
use super::relay::Direction;
use super::room::Lane;
use super::state::Gate;
use super::tally::Tally;
use super::upstream::Reusable;
use super::watched::Downward;

/// Why a body is cut short: nothing can be recorded any more, or a new policy does not permit it.
pub(super) const STOPPED: &str = "the gate stopped it";

/// Trailers as the next hop gets them, if any are left and the budgets have room for all of them.
pub(super) fn passed_on(
    frame: Frame<Bytes>,
    tally: &Tally,
    direction: Direction,
) -> Option<Frame<Bytes>> {
    let mut trailers = frame.into_trailers().ok()?;
    hop::strip_trailers(&mut trailers);
    let fields = trailers.iter();
    let size = fields
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    if size == 0 || tally.take(direction, size) < size {
        return None;
    }
    direction.count(tally, size);
    Some(Frame::trailers(trailers))
}

/// As much of what is held as there is room for, in memory and in the budgets.
pub(super) fn poll_within(
    tally: &Tally,
    context: &mut Context<'_>,
    direction: Direction,
    held: &mut Bytes,
    lane: &mut Lane,
) -> Poll<io::Result<Bytes>> {
    ready!(lane.poll_ready(context));
    let wanted = held.len().min(lane.longest());
    let taken = ready!(tally.poll_reserve(context, direction, wanted))?;
    Poll::Ready(Ok(held.split_to(taken.min(held.len()))))
}

/// What goes back to the client.
#[derive(Debug)]
pub(super) struct GateBody {
    content: Content,
    /// Held until the response is over, see [`super::head::Watch`].
    answering: Option<Answering>,
}

#[derive(Debug)]
enum Content {
    /// Ours.
    Full(Option<Bytes>),
    /// The origin's.
    Relayed(Box<Relayed>),
}

impl GateBody {
    /// Nothing.
    pub(super) fn empty() -> Self {
        Self {
            content: Content::Full(None),
            answering: None,
        }
    }

    /// These bytes.
    pub(super) fn full(bytes: Bytes) -> Self {
        Self {
            content: Content::Full(Some(bytes)),
            answering: None,
        }
    }

    /// An origin's content.
    pub(super) fn relayed(relayed: Relayed) -> Self {
        Self {
            content: Content::Relayed(Box::new(relayed)),
            answering: None,
        }
    }

    /// Keeps the mark until this body is dropped.
    pub(super) fn hold(&mut self, answering: Answering) {
        self.answering = Some(answering);
    }
}

impl Body for GateBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match &mut self.content {
            Content::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Content::Relayed(relayed) => relayed.poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Full(bytes) => bytes.is_none(),
            Content::Relayed(relayed) => relayed.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Full(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Content::Relayed(relayed) => relayed.inner.size_hint(),
        }
    }
}

/// A response's content on its way to the client.
#[derive(Debug)]
pub(super) struct Relayed {
    gate: Rc<Gate>,
    inner: Downward,
    tally: Rc<Tally>,
    /// Read, and not yet within the budgets.
    held: Bytes,
    /// Fires when the origin has been silent for the idle limit.
    alarm: Pin<Box<Sleep>>,
    /// The origin's connection, to be kept once the content is complete.
    connection: Option<Reusable>,
    /// Whether trailers go on: those of HTTP/2 do, to a client that speaks it.
    trailers: bool,
    /// The way into the client's connection.
    lane: Lane,
}

impl Relayed {
    pub(super) fn new(
        gate: &Rc<Gate>,
        inner: Downward,
        tally: Rc<Tally>,
        connection: Reusable,
        trailers: bool,
    ) -> Self {
        let mut relayed = Self {
            gate: Rc::clone(gate),
            inner,
            tally,
            held: Bytes::new(),
            alarm: Box::pin(sleep_until(Instant::now() + gate.limits.idle)),
            trailers: trailers && connection.has_trailers(),
            connection: Some(connection),
            lane: Lane::default(),
        };
        relayed.finish_if_complete();
        relayed
    }

    /// It goes to a client that speaks HTTP/2.
    pub(super) fn over_http2(&mut self, lane: Lane) {
        self.lane = lane;
    }

    fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.tally.poll_stopped(context).is_ready() {
            return self.fail(EndedBy::Gate, STOPPED);
        }
        loop {
            if !self.held.is_empty() {
                let (held, lane) = (&mut self.held, &mut self.lane);
                let part = poll_within(&self.tally, context, Direction::Down, held, lane);
                let Ok(part) = ready!(part) else {
                    return self.fail(EndedBy::Budget, "a budget is used up");
                };
                self.tally.saw(Direction::Down, &part);
                self.tally.add_down(part.len());
                self.finish_if_complete();
                return Poll::Ready(Some(Ok(Frame::data(self.lane.carry(part)))));
            }
            // Nothing is read that there is no room for.
            ready!(self.lane.poll_ready(context));
            let polled = Pin::new(&mut self.inner).poll_frame(context);
            if !matches!(&polled, Poll::Ready(Some(Ok(frame))) if frame.is_data()) {
                self.lane.rest();
            }
            match polled {
                Poll::Ready(Some(Ok(frame))) => {
                    let frame = match frame.into_data() {
                        Ok(data) => {
                            let deadline = Instant::now() + self.gate.limits.idle;
                            self.alarm.as_mut().reset(deadline);
                            self.held = data;
                            continue;
                        }
                        Err(frame) => frame,
                    };
                    if self.trailers
                        && let Some(trailers) = passed_on(frame, &self.tally, Direction::Down)
                    {
                        // Nobody asks for more after them.
                        self.finish();
                        return Poll::Ready(Some(Ok(trailers)));
                    }
                }
                Poll::Ready(Some(Err(_))) => {
                    return self.fail(EndedBy::Error, "the origin broke off");
                }
                Poll::Ready(None) => {
                    self.finish();
                    return Poll::Ready(None);
                }
                Poll::Pending => {
                    if self.alarm.as_mut().poll(context).is_pending() {
                        return Poll::Pending;
                    }
                    // A client may still be sending: then the origin need not say anything.
                    let deadline = self.tally.idle_at(self.gate.limits.idle);
                    if deadline <= Instant::now() {
                        return self.fail(EndedBy::Gate, "the origin is silent");
                    }
                    self.alarm.as_mut().reset(deadline);
                }
            }
        }
    }

    fn fail(
        &mut self,
        by: EndedBy,
        why: &'static str,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.tally.end(by);
        self.connection = None;
        Poll::Ready(Some(Err(io::Error::other(why))))
    }

    /// hyper does not ask again once a body says that it is over, so neither may we wait for that.
    fn finish_if_complete(&mut self) {
        if self.is_end_stream() {
            self.finish();
        }
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_empty() && self.inner.is_end_stream()
    }

    fn finish(&mut self) {
        self.tally.saw_all(Direction::Down);
        self.tally.end(EndedBy::Upstream);
        if let Some(connection) = self.connection.take() {
            connection.keep(&self.gate);
        }
    }
}
