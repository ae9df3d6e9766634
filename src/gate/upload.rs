//! A request's content on its way through: streamed, counted, never collected.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use hyper::body::{Body, Bytes, Frame, SizeHint};

use super::body::{STOPPED, passed_on, poll_within};
use super::relay::Direction;
use super::room::Lane;
use super::tally::Tally;
use super::watched::Upward;

/// A request's content on its way to the origin.
#[derive(Debug)]
pub(super) struct Uploaded {
    /// `None`: no content.
    inner: Option<Upward>,
    tally: Rc<Tally>,
    /// Whether trailers go on.
    trailers: bool,
    /// Read, and not yet within the budgets.
    held: Bytes,
    /// The way into the next hop.
    lane: Lane,
}

impl Uploaded {
    /// The client's content.
    pub(super) fn new(inner: Upward, tally: Rc<Tally>) -> Self {
        Self {
            inner: Some(inner),
            tally,
            trailers: false,
            held: Bytes::new(),
            lane: Lane::default(),
        }
    }

    /// It goes to an origin that speaks HTTP/1.1: without trailers.
    pub(super) fn over_http1(&mut self) {
        self.over_http2(false, Lane::default());
    }

    /// It goes to an origin that speaks HTTP/2: trailers go on if those of the client do.
    pub(super) fn over_http2(&mut self, trailers: bool, lane: Lane) {
        self.trailers = trailers;
        self.lane = lane;
    }

    /// No content.
    pub(super) fn empty(tally: Rc<Tally>) -> Self {
        Self {
            inner: None,
            tally,
            trailers: false,
            held: Bytes::new(),
            lane: Lane::default(),
        }
    }
}

impl Body for Uploaded {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.tally.poll_stopped(context).is_ready() {
            return Poll::Ready(Some(Err(io::Error::other(STOPPED))));
        }
        loop {
            let this = &mut *self;
            if !this.held.is_empty() {
                let (held, lane) = (&mut this.held, &mut this.lane);
                let part = ready!(poll_within(&this.tally, context, Direction::Up, held, lane));
                let held_on = !this.held.is_empty();
                return Poll::Ready(Some(part.map(|part| {
                    this.tally.saw(Direction::Up, &part);
                    this.tally.add_up(part.len());
                    // Nobody asks for more after this.
                    if !held_on && this.inner.as_ref().is_none_or(Body::is_end_stream) {
                        this.tally.saw_all(Direction::Up);
                    }
                    Frame::data(this.lane.carry(part))
                })));
            }
            let Some(inner) = &mut this.inner else {
                return Poll::Ready(None);
            };
            // Nothing is read that there is no room for.
            ready!(this.lane.poll_ready(context));
            let polled = Pin::new(inner).poll_frame(context);
            if !matches!(&polled, Poll::Ready(Some(Ok(frame))) if frame.is_data()) {
                this.lane.rest();
            }
            let Some(frame) = ready!(polled) else {
                this.tally.saw_all(Direction::Up);
                return Poll::Ready(None);
            };
            match frame.map_err(io::Error::other)?.into_data() {
                Ok(data) => this.held = data,
                Err(frame) => {
                    if this.trailers
                        && let Some(trailers) = passed_on(frame, &this.tally, Direction::Up)
                    {
                        return Poll::Ready(Some(Ok(trailers)));
                    }
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_empty() && self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Some(inner) => inner.size_hint(),
            None => SizeHint::with_exact(0),
        }
    }
}
