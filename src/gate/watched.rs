//! Content that is looked through while it passes: a request's for placeholders, an answer's for values.
//! Without credentials in the session both are just what they wrap.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};

use crate::audit::EndedBy;

use super::keyring::Misplaced;
use super::lookout::{Lookout, Stopped};
use super::placeholder::{Scan, Sieve};
use super::tally::Tally;

type Polled = Poll<Option<Result<Frame<Bytes>, io::Error>>>;

/// Who looks, and whose account it is.
#[derive(Debug)]
struct Watch<T> {
    lookout: Rc<Lookout>,
    tally: Rc<Tally>,
    eye: T,
}

impl<T> Watch<T> {
    fn stopped(&self, stopped: Stopped) -> Polled {
        self.tally.end(EndedBy::Gate);
        Poll::Ready(Some(Err(io::Error::other(stopped))))
    }
}

/// A request's content. The chunk that would complete a placeholder is not sent, and the upload breaks
/// off.
#[derive(Debug)]
pub(super) struct Upward {
    inner: Incoming,
    watch: Option<Watch<Scan>>,
}

impl Upward {
    /// The client's content.
    pub(super) fn new(inner: Incoming, lookout: Option<&Rc<Lookout>>, tally: &Rc<Tally>) -> Self {
        let watch = lookout.map(|lookout| Watch {
            eye: Scan::new(lookout.marks()),
            lookout: Rc::clone(lookout),
            tally: Rc::clone(tally),
        });
        Self { inner, watch }
    }
}

impl Body for Upward {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Polled {
        let polled = Pin::new(&mut self.inner).poll_frame(context);
        if let (Poll::Ready(Some(Ok(frame))), Some(watch)) = (&polled, &mut self.watch) {
            let looked = match (frame.data_ref(), frame.trailers_ref()) {
                (Some(data), _) => match watch.eye.completes(data) {
                    None => Ok(()),
                    Some(needle) => {
                        let misplaced = Misplaced::at(&needle.name, "in the content");
                        Err(watch.lookout.stop(misplaced))
                    }
                },
                (None, Some(trailers)) => watch.lookout.check_trailers(trailers),
                (None, None) => Ok(()),
            };
            if let Err(stopped) = looked {
                return watch.stopped(stopped);
            }
        }
        polled.map_err(io::Error::other)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// An answer's content. What may be the beginning of a value is held back until more has come; a value
/// breaks the answer off.
#[derive(Debug)]
pub(super) struct Downward {
    inner: Incoming,
    watch: Option<Watch<Sieve>>,
    /// Trailers that wait until what was held back has gone.
    trailers: Option<Frame<Bytes>>,
}

impl Downward {
    /// The origin's content.
    pub(super) fn new(inner: Incoming, lookout: Option<&Rc<Lookout>>, tally: &Rc<Tally>) -> Self {
        let watch = lookout.map(|lookout| Watch {
            eye: Sieve::new(lookout.values()),
            lookout: Rc::clone(lookout),
            tally: Rc::clone(tally),
        });
        Self {
            inner,
            watch,
            trailers: None,
        }
    }

    fn held(&self) -> usize {
        self.watch.as_ref().map_or(0, |watch| watch.eye.held())
    }

    /// What is held back, now that nothing can complete it.
    fn rest(&mut self) -> Option<Frame<Bytes>> {
        let rest = self.watch.as_mut()?.eye.rest();
        (!rest.is_empty()).then(|| Frame::data(rest))
    }

    /// One frame of the origin's; `None`: all of it is held back.
    fn sift(&mut self, frame: Frame<Bytes>) -> Option<Polled> {
        let Some(watch) = &mut self.watch else {
            return Some(Poll::Ready(Some(Ok(frame))));
        };
        let frame = match frame.into_data() {
            Ok(data) => {
                let mut data = match watch.eye.pass(data) {
                    Ok(data) => data,
                    Err(needle) => {
                        let stopped = watch.lookout.stop(Misplaced::echoed(&needle.name));
                        return Some(watch.stopped(stopped));
                    }
                };
                if self.inner.is_end_stream() && watch.eye.held() > 0 {
                    data = [data, watch.eye.rest()].concat().into();
                }
                let held_back = data.is_empty() && watch.eye.held() > 0;
                return (!held_back).then(|| Poll::Ready(Some(Ok(Frame::data(data)))));
            }
            Err(frame) => frame,
        };
        let echoed = frame
            .trailers_ref()
            .and_then(|trailers| watch.lookout.echo_in(trailers));
        if let Some(misplaced) = echoed {
            let stopped = watch.lookout.stop(misplaced);
            return Some(watch.stopped(stopped));
        }
        match self.rest() {
            None => Some(Poll::Ready(Some(Ok(frame)))),
            Some(rest) => {
                self.trailers = Some(frame);
                Some(Poll::Ready(Some(Ok(rest))))
            }
        }
    }
}

impl Body for Downward {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Polled {
        if let Some(trailers) = self.trailers.take() {
            return Poll::Ready(Some(Ok(trailers)));
        }
        loop {
            match Pin::new(&mut self.inner).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => {
                    if let Some(sifted) = self.sift(frame) {
                        return sifted;
                    }
                }
                Poll::Ready(None) => return Poll::Ready(self.rest().map(Ok)),
                Poll::Ready(Some(Err(error))) => {
                    return Poll::Ready(Some(Err(io::Error::other(error))));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream() && self.held() == 0 && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let (inner, held) = (self.inner.size_hint(), self.held() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower().saturating_add(held));
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper.saturating_add(held));
        }
        hint
    }
}
