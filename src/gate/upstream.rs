//! Connections to plain HTTP origins: one request at a time, kept for a moment and used again for the
//! same host and port, within this session only. There is no cache of responses.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};

use crate::audit::EndedBy;
use crate::policy::{DenyReason, Host, Port};

use super::authorize::{Destination, Permit, Refusal};
use super::body::{GateBody, Relayed, Uploaded};
use super::dial::dial;
use super::hop;
use super::state::Gate;
use super::tally::Tally;

/// Idle connections kept in all; the oldest makes room.
const MAX_IDLE: usize = 64;

/// How long an idle origin connection is kept. Below the 5 seconds after which common servers close,
/// so that a request seldom meets a connection that is being closed.
const KEEP_IDLE: Duration = Duration::from_secs(4);

/// For the origin's connection to come back from its last exchange.
const GRACE: Duration = Duration::from_millis(100);

/// The longest head of an answer.
const MAX_ORIGIN_HEAD: usize = 128 << 10;

type Sender = SendRequest<Uploaded>;
type Key = (Host, Port);

/// Idle connections.
#[derive(Debug, Default)]
pub(super) struct Pool {
    idle: RefCell<HashMap<Key, Vec<(Instant, Sender)>>>,
    /// Whether a task is waiting to close them.
    reaping: Cell<bool>,
}

/// A connection in use that can be kept afterwards.
#[derive(Debug)]
pub(super) struct Reusable {
    key: Key,
    sender: Sender,
}

impl Reusable {
    /// Keeps the connection for the next request to the same place.
    pub(super) fn keep(self, gate: &Rc<Gate>) {
        if self.sender.is_closed() || *gate.stopping.borrow() {
            return;
        }
        let pool = &gate.pool;
        pool.make_room();
        let entry = (Instant::now() + KEEP_IDLE, self.sender);
        pool.idle
            .borrow_mut()
            .entry(self.key)
            .or_default()
            .push(entry);
        if !pool.reaping.replace(true) {
            let gate = Rc::clone(gate);
            tokio::task::spawn_local(async move { gate.pool.reap().await });
        }
    }
}

impl Pool {
    /// The connection that was used last, while it is good.
    async fn take(&self, key: &Key) -> Option<Sender> {
        loop {
            let (_, mut sender) = {
                let mut idle = self.idle.borrow_mut();
                let taken = idle.get_mut(key)?.pop();
                if idle.get(key).is_some_and(Vec::is_empty) {
                    idle.remove(key);
                }
                taken?
            };
            if matches!(timeout(GRACE, sender.ready()).await, Ok(Ok(()))) {
                return Some(sender);
            }
        }
    }

    /// Closes everything.
    pub(super) fn clear(&self) {
        self.idle.borrow_mut().clear();
    }

    fn make_room(&self) {
        let mut idle = self.idle.borrow_mut();
        if idle.values().map(Vec::len).sum::<usize>() < MAX_IDLE {
            return;
        }
        let oldest = idle
            .iter()
            .filter_map(|(key, entries)| Some((entries.first()?.0, key.clone())))
            .min_by_key(|(expires, _)| *expires);
        if let Some((_, key)) = oldest
            && let Some(entries) = idle.get_mut(&key)
        {
            entries.remove(0);
            if entries.is_empty() {
                idle.remove(&key);
            }
        }
    }

    /// Closes connections as their time comes; ends when none is left.
    async fn reap(&self) {
        while let Some(next) = self.expire() {
            sleep_until(next).await;
        }
        self.reaping.set(false);
    }

    /// Drops what has expired; answers when the next one will.
    fn expire(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut idle = self.idle.borrow_mut();
        for entries in idle.values_mut() {
            entries.retain(|(expires, sender)| *expires > now && !sender.is_closed());
        }
        idle.retain(|_, entries| !entries.is_empty());
        idle.values().flatten().map(|(expires, _)| *expires).min()
    }
}

/// Sends a permitted request to its origin and answers with what comes back. `request` is in
/// origin-form and rid of the fields of one hop.
pub(super) async fn forward(
    gate: &Rc<Gate>,
    permit: Permit,
    request: Request<Incoming>,
) -> Result<Response<GateBody>, Refusal> {
    let exchange = Exchange {
        gate: Rc::clone(gate),
        destination: permit.destination().clone(),
        tally: Rc::new(Tally::open(gate, &permit)),
    };
    let spare = exchange.copy_if_repeatable(&request);
    let request = request.map(|body| Uploaded::new(body, Rc::clone(&exchange.tally)));
    let unanswered = match exchange.send_over_idle(request).await {
        Ok(response) => return Ok(response),
        Err(unanswered) => unanswered,
    };
    let request = match (unanswered, spare) {
        (Unanswered::Unsent(request), _) => *request,
        // The origin closed the idle connection just as it was used again.
        (Unanswered::BrokeOff, Some(spare)) => spare,
        (unanswered, _) => return Err(exchange.refuse(&unanswered)),
    };
    let outbound = dial(gate, permit, &exchange.tally).await?;
    let sent = match handshake(outbound.stream).await {
        Some(sender) => exchange.send(sender, request).await,
        None => Err(Unanswered::BrokeOff),
    };
    sent.map_err(|unanswered| exchange.refuse(&unanswered))
}

/// One request on its way.
#[derive(Debug)]
struct Exchange {
    gate: Rc<Gate>,
    destination: Destination,
    tally: Rc<Tally>,
}

/// Why a request has no answer.
#[derive(Debug)]
enum Unanswered {
    /// Nothing of it was sent: here it is again.
    Unsent(Box<Request<Uploaded>>),
    /// The origin closed instead of answering, or what it sent is not HTTP.
    BrokeOff,
    /// Nothing came for the idle limit.
    Silent,
    /// A protocol switch that nobody asked for.
    Switched,
    /// A new policy does not permit it any more.
    Revoked,
}

impl Exchange {
    fn key(&self) -> Key {
        (self.destination.host.clone(), self.destination.port)
    }

    /// A copy of a request that may be sent twice (RFC 9110 section 9.2.1) and has no content.
    fn copy_if_repeatable(&self, request: &Request<Incoming>) -> Option<Request<Uploaded>> {
        if !request.method().is_safe() || !request.body().is_end_stream() {
            return None;
        }
        let mut copy = Request::new(Uploaded::empty(Rc::clone(&self.tally)));
        *copy.method_mut() = request.method().clone();
        *copy.uri_mut() = request.uri().clone();
        *copy.headers_mut() = request.headers().clone();
        Some(copy)
    }

    /// Sends over a connection that was kept.
    async fn send_over_idle(
        &self,
        request: Request<Uploaded>,
    ) -> Result<Response<GateBody>, Unanswered> {
        match self.gate.pool.take(&self.key()).await {
            Some(sender) => {
                self.tally.reuses();
                let answered = self.send(sender, request).await;
                if answered.is_ok() {
                    self.tally.reused();
                }
                answered
            }
            None => Err(Unanswered::Unsent(Box::new(request))),
        }
    }

    /// Sends over this connection and waits for the head of the answer.
    async fn send(
        &self,
        mut sender: Sender,
        request: Request<Uploaded>,
    ) -> Result<Response<GateBody>, Unanswered> {
        let answered = tokio::select! {
            answered = sender.try_send_request(request) => answered,
            () = self.tally.idle_for(self.gate.limits.idle) => return Err(Unanswered::Silent),
            () = self.tally.until_revoked() => return Err(Unanswered::Revoked),
        };
        let response = answered.map_err(|mut error| match error.take_message() {
            Some(request) => Unanswered::Unsent(Box::new(request)),
            None => Unanswered::BrokeOff,
        })?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Unanswered::Switched);
        }
        let connection = Reusable {
            key: self.key(),
            sender,
        };
        let (mut head, content) = response.into_parts();
        hop::strip_response(&mut head.headers);
        let tally = Rc::clone(&self.tally);
        let relayed = Relayed::new(&self.gate, content, tally, connection);
        Ok(Response::from_parts(head, GateBody::relayed(relayed)))
    }

    /// Records it and makes the answer for the client.
    fn refuse(&self, unanswered: &Unanswered) -> Refusal {
        let (reason, by, what) = match unanswered {
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
            Unanswered::Silent => (DenyReason::TimedOut, EndedBy::Gate, "no answer in time"),
            Unanswered::Revoked => (
                self.tally.refused_because(),
                EndedBy::Policy,
                "a new policy does not permit it",
            ),
        };
        self.tally.end(by);
        let detail = format!(
            "{}:{}: {what}",
            self.destination.host, self.destination.port
        );
        self.destination.fail(&self.gate, reason, detail)
    }
}

/// Speaks HTTP/1.1 to an origin over a fresh connection.
async fn handshake(stream: TcpStream) -> Option<Sender> {
    let mut builder = http1::Builder::new();
    builder.max_buf_size(MAX_ORIGIN_HEAD);
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.ok()?;
    // Ends when the sender is dropped; its errors reach whoever waits for an answer.
    tokio::task::spawn_local(async move { drop(connection.await) });
    Some(sender)
}
