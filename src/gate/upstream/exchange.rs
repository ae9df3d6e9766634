//! One request on its way to its origin, and the head of the answer on its way back.

use std::rc::Rc;

use hyper::body::{Body, Incoming};
use hyper::client::conn::TrySendError;
use hyper::{Request, Response, StatusCode, Version};

use crate::audit::EndedBy;
use crate::gate::authorize::{Destination, Permit, Refusal};
use crate::gate::body::{GateBody, Relayed};
use crate::gate::exchanged::Story;
use crate::gate::hop;
use crate::gate::http_request::{Malformed, check_mode};
use crate::gate::lookout::Lookout;
use crate::gate::state::Gate;
use crate::gate::tally::Tally;
use crate::gate::upload::Uploaded;
use crate::gate::via::{self, Forwarder};
use crate::gate::watched::{Downward, Upward};
use crate::policy::DenyReason;

use super::pool::{Key, Lane, Reusable};
use super::target::{for_http1, for_http2};

/// One request on its way.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) gate: Rc<Gate>,
    pub(super) destination: Destination,
    pub(super) tally: Rc<Tally>,
    /// Whether the client speaks HTTP/2, whose trailers are passed on.
    trailers: bool,
    /// Which connections may be shared with later requests, see [`super::pool::Pool::epoch`].
    pub(super) epoch: u64,
    /// Where the session has credentials.
    lookout: Option<Rc<Lookout>>,
}

/// Why a request has no answer.
#[derive(Debug)]
pub(super) enum Unanswered {
    /// Nothing of it was sent: here it is again.
    Unsent(Box<Request<Uploaded>>),
    /// The origin closed instead of answering, or what it sent is not HTTP.
    BrokeOff,
    /// Nothing came for the idle limit.
    Silent,
    /// A new policy does not permit it any more.
    Revoked,
    /// A protocol switch that nobody asked for.
    Switched,
    /// The proxy that got the request wants a login.
    WantsLogin(Rc<Forwarder>),
    /// A credential where it does not belong: already recorded.
    Stopped(Refusal),
    /// A protocol switch to something else than was asked for.
    NotWebsocket,
}

impl Exchange {
    /// Puts in the credentials that belong into the request: the last thing that is changed in it.
    pub(super) async fn open(
        gate: &Rc<Gate>,
        permit: &Permit,
        request: Request<Incoming>,
    ) -> Result<(Self, Request<Incoming>), Refusal> {
        // It may have been read long ago, and the policy another since.
        if let Err(Malformed(why)) = check_mode(&request, gate.rules().mode()) {
            let refused = permit.destination();
            return Err(refused.fail(gate, DenyReason::Malformed, why.to_owned()));
        }
        let (mut head, content) = request.into_parts();
        let tally = Tally::open(gate, permit);
        tally.tells(Story::of(gate, permit, &head));
        let exchange = Self {
            gate: Rc::clone(gate),
            destination: permit.destination().clone(),
            tally: Rc::new(tally),
            trailers: head.version == Version::HTTP_2,
            epoch: gate.pool.epoch(),
            lookout: Lookout::apply(gate, permit.destination(), &mut head).await?,
        };
        Ok((exchange, Request::from_parts(head, content)))
    }

    /// A request's content, looked through on its way.
    pub(super) fn upward(&self, content: Incoming) -> Upward {
        Upward::new(content, self.lookout.as_ref(), &self.tally)
    }

    pub(super) fn key(&self) -> Key {
        Key::from(&self.destination)
    }

    /// A copy of a request that may be sent twice (RFC 9110 section 9.2.1) and has no content.
    pub(super) fn copy_if_repeatable(
        &self,
        request: &Request<Incoming>,
    ) -> Option<Request<Uploaded>> {
        if !request.method().is_safe() || !request.body().is_end_stream() {
            return None;
        }
        let mut copy = Request::new(Uploaded::empty(Rc::clone(&self.tally)));
        *copy.method_mut() = request.method().clone();
        *copy.uri_mut() = request.uri().clone();
        *copy.version_mut() = request.version();
        *copy.headers_mut() = request.headers().clone();
        Some(copy)
    }

    /// Sends and waits for the head of the answer.
    pub(super) async fn send(
        &self,
        mut lane: Lane,
        mut request: Request<Uploaded>,
    ) -> Result<Response<GateBody>, Unanswered> {
        if self.tally.is_revoked() {
            return Err(Unanswered::Revoked);
        }
        let response = match &mut lane {
            Lane::Http1(connection) => {
                let forwarder = connection.forwarder.clone();
                for_http1(&mut request, &self.destination, forwarder.as_deref())
                    .ok_or(Unanswered::BrokeOff)?;
                request.body_mut().over_http1();
                let sent = connection.sender.try_send_request(request);
                let response = self.wait(sent).await?;
                // Meant for us: the client has no login to give it.
                if let (Some(forwarder), StatusCode::PROXY_AUTHENTICATION_REQUIRED) =
                    (forwarder, response.status())
                {
                    return Err(Unanswered::WantsLogin(forwarder));
                }
                response
            }
            Lane::Http2(stream) => {
                for_http2(&mut request, &self.destination, self.trailers)
                    .ok_or(Unanswered::BrokeOff)?;
                let room = self.gate.room.up.lane();
                request.body_mut().over_http2(self.trailers, room);
                self.wait(stream.sender.try_send_request(request)).await?
            }
        };
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Unanswered::Switched);
        }
        Ok(self.answer(response, Reusable::new(self.key(), lane, self.epoch)))
    }

    /// Waits for the head of an answer, no longer than the idle limit.
    pub(super) async fn wait(
        &self,
        answered: impl Future<Output = Result<Response<Incoming>, TrySendError<Request<Uploaded>>>>,
    ) -> Result<Response<Incoming>, Unanswered> {
        let answered = tokio::select! {
            biased;
            () = self.tally.until_revoked() => return Err(Unanswered::Revoked),
            answered = answered => answered,
            () = self.tally.idle_for(self.gate.limits.idle) => return Err(Unanswered::Silent),
        };
        let stopped = || Some(Unanswered::Stopped(self.lookout.as_ref()?.found()?));
        let response = answered.map_err(|mut error| match error.take_message() {
            Some(request) => Unanswered::Unsent(Box::new(request)),
            None => stopped().unwrap_or(Unanswered::BrokeOff),
        })?;
        self.tally.answered(&response);
        if let Some(lookout) = &self.lookout {
            let checked = lookout.check_answer(response.headers());
            checked.map_err(Unanswered::Stopped)?;
        }
        Ok(response)
    }

    /// The answer as the client gets it.
    pub(super) fn answer(
        &self,
        response: Response<Incoming>,
        connection: Reusable,
    ) -> Response<GateBody> {
        let (mut head, content) = response.into_parts();
        hop::strip_response(&mut head.headers);
        // Among them is the reason phrase: words of the origin that nobody has looked through.
        head.extensions.clear();
        // Ours to say towards the client, whatever the origin speaks.
        head.version = Version::HTTP_11;
        let tally = Rc::clone(&self.tally);
        let content = Downward::new(content, self.lookout.as_ref(), &tally);
        let mut relayed = Relayed::new(&self.gate, content, tally, connection, self.trailers);
        if self.trailers {
            relayed.over_http2(self.gate.room.down.lane());
        }
        Response::from_parts(head, GateBody::relayed(relayed))
    }

    /// Records why there is no answer, and makes one for the client.
    pub(super) fn refuse(&self, unanswered: &Unanswered) -> Refusal {
        let (reason, by, what) = match unanswered {
            Unanswered::Stopped(refusal) => {
                self.tally.end(EndedBy::Gate);
                return refusal.clone();
            }
            Unanswered::WantsLogin(forwarder) => {
                self.tally.end(EndedBy::Upstream);
                let detail = via::wants_login(forwarder);
                let reason = DenyReason::UpstreamProxyFailed;
                return self.destination.fail(&self.gate, reason, detail);
            }
            _ if self.tally.is_used_up() => (
                DenyReason::BudgetExhausted,
                EndedBy::Budget,
                "the content is longer than a budget allows",
            ),
            Unanswered::Unsent(_) | Unanswered::BrokeOff => (
                DenyReason::DialFailed,
                EndedBy::Upstream,
                "closed without an HTTP answer",
            ),
            Unanswered::Switched => (
                DenyReason::DialFailed,
                EndedBy::Gate,
                "switched protocols unasked",
            ),
            Unanswered::NotWebsocket => (
                DenyReason::DialFailed,
                EndedBy::Gate,
                "its answer to the WebSocket handshake is wrong",
            ),
            Unanswered::Revoked => (
                self.tally.refused_because(),
                EndedBy::Policy,
                "a new policy does not permit it",
            ),
            Unanswered::Silent => (DenyReason::TimedOut, EndedBy::Gate, "no answer in time"),
        };
        self.fail(by, reason, what, None)
    }

    /// Records a failure with who is at fault, and makes the answer for the client.
    pub(super) fn fail(
        &self,
        by: EndedBy,
        reason: DenyReason,
        what: &str,
        word: Option<&'static str>,
    ) -> Refusal {
        self.tally.end(by);
        let Destination { host, port, .. } = &self.destination;
        let detail = match word {
            Some(word) => format!("{host}:{port}: {what}: {word}"),
            None => format!("{host}:{port}: {what}"),
        };
        let refusal = self.destination.fail(&self.gate, reason, detail);
        Refusal {
            detail: word,
            ..refusal
        }
    }
}
