//! HTTP/2 within TLS. The library refuses what RFC 9113 calls malformed (duplicate pseudo-fields,
//! fields of one hop, a length that the content does not have); here are the bounds, and the requests.
//!
//! A flood of streams that are opened and reset at once (CVE-2023-44487), of CONTINUATION frames or of
//! header blocks that unpack to much ends the connection. A request that was reset is judged and
//! recorded to the end all the same, and its place is only free then: resets cannot outrun the log. What
//! the library refuses is recorded by [`super::frames`].

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::audit::EndedBy;
use crate::gate::authorize::{Permit, Refusal};
use crate::gate::body::GateBody;
use crate::gate::budget::Seen;
use crate::gate::respond::{self, After};
use crate::gate::state::Limits;
use crate::gate::upgrade::relay_upgraded;
use crate::gate::upstream::Opened;
use crate::policy::DenyReason;

use super::exchange::Asked;
use super::frames::{Refused, Watched};
use super::{LAST_WORD, Plain, Tunnel, websocket};

/// Requests at once on one connection.
const STREAMS: u32 = 100;

/// Requests of one connection that are judged at once; the others wait.
const JUDGED: usize = 16;

/// Streams that were reset before they were looked at, and those that we reset for an error: more than
/// that end the connection.
const RESETS: usize = 20;

/// Bytes of one request's content that wait for its origin. A client is as near as memory: a larger window
/// makes nothing faster, and a hostile one with a slow origin fills all of them.
const STREAM_WINDOW: u32 = 256 << 10;

/// The same of all requests of one connection.
const CONNECTION_WINDOW: u32 = 1 << 20;

/// Bytes of answers that are held for one stream whose client does not take them.
const SEND_BUFFER: usize = 64 << 10;

/// Of what a refused request still sends, so much is read, for so long.
const MAX_READ_AWAY: usize = 1 << 20;
const READ_AWAY: Duration = Duration::from_secs(5);

/// The tasks of one connection, so that none outlives it.
#[derive(Debug, Clone, Default)]
struct Tasks {
    running: Rc<RefCell<JoinSet<()>>>,
    /// Whether a stream was ever opened.
    started: Rc<Cell<bool>>,
}

impl<F> Executor<F> for Tasks
where
    F: Future + 'static,
{
    fn execute(&self, task: F) {
        self.started.set(true);
        self.spawn(async move { drop(task.await) });
    }
}

impl Tasks {
    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        let mut running = self.running.borrow_mut();
        while running.try_join_next().is_some() {}
        running.spawn_local(task);
    }

    fn is_idle(&self) -> bool {
        let mut running = self.running.borrow_mut();
        while running.try_join_next().is_some() {}
        running.is_empty()
    }

    /// Ends all of them; their requests are on record when this returns.
    async fn end(&self) {
        let mut running = self.running.take();
        running.shutdown().await;
    }
}

/// One client connection.
struct Connection {
    tunnel: Rc<Tunnel>,
    tasks: Tasks,
    turns: Arc<Semaphore>,
}

/// Serves one connection to its end.
pub(super) async fn serve(tunnel: &Rc<Tunnel>, stream: Plain) -> EndedBy {
    let tasks = Tasks::default();
    let connection = Rc::new(Connection {
        tunnel: Rc::clone(tunnel),
        tasks: tasks.clone(),
        turns: Arc::new(Semaphore::new(JUDGED)),
    });
    let refused = Refused::new(tunnel);
    let stream = Watched::new(stream, Rc::clone(&refused));
    let service = {
        let (connection, refused) = (Rc::clone(&connection), Rc::clone(&refused));
        service_fn(move |request| -> Pin<Box<dyn Future<Output = _>>> {
            refused.asked();
            Box::pin(Rc::clone(&connection).respond(request))
        })
    };
    let limits = &tunnel.gate.limits;
    let served = builder(limits, tasks.clone()).serve_connection(TokioIo::new(stream), service);
    let mut served = Box::pin(served);
    let by = tokio::select! {
        served = &mut served => if served.is_ok() {
            EndedBy::Client
        } else {
            refused.failed();
            EndedBy::Error
        },
        () = expired(tunnel, &tasks) => {
            served.as_mut().graceful_shutdown();
            // A client that does not listen is left.
            drop(timeout(LAST_WORD, &mut served).await);
            EndedBy::Gate
        }
        () = tunnel.gate.until_stopping() => {
            drop(served);
            tasks.end().await;
            return EndedBy::Gate;
        }
    };
    drop(served);
    tasks.end().await;
    refused.finish();
    by
}

fn builder(limits: &Limits, tasks: Tasks) -> http2::Builder<Tasks> {
    let mut builder = http2::Builder::new(tasks);
    builder
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(RESETS)
        .max_local_error_reset_streams(RESETS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .enable_connect_protocol()
        .auto_date_header(false);
    builder
}

/// Resolves when the connection has run out of time: for its first request, between two, or because
/// nothing moves although answers are due. Pings of ours would only show that the client is there.
async fn expired(tunnel: &Tunnel, tasks: &Tasks) {
    let limits = &tunnel.gate.limits;
    loop {
        let patience = if !tasks.started.get() {
            limits.head
        } else if tasks.is_idle() {
            limits.idle
        } else {
            // Resolution, dial and the origin have limits of their own.
            limits.dial + limits.idle + limits.head
        };
        let deadline = tunnel.trace.active() + patience;
        if deadline <= Instant::now() {
            return;
        }
        sleep_until(deadline).await;
    }
}

impl Connection {
    /// Answers one request; what is refused is answered as well.
    async fn respond(
        self: Rc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<GateBody>, Infallible> {
        let to_head = request.method() == Method::HEAD;
        let answer = self.answer(request).await;
        Ok(answer.unwrap_or_else(|refusal| {
            let mut refused = respond::refuse(&refusal, After::KeepAlive);
            if to_head {
                // The library sends what it is given, and clients take content for an error of the protocol
                // (RFC 9110 section 9.3.2).
                *refused.body_mut() = GateBody::empty();
            }
            refused
        }))
    }

    async fn answer(&self, mut request: Request<Incoming>) -> Result<Response<GateBody>, Refusal> {
        let tunnel = &self.tunnel;
        let (asked, seen) = (tunnel.read(&request), Seen::of(&request));
        let to_websocket = asked.as_ref().is_ok_and(|asked| asked.websocket);
        let permit = match self.judge(asked, seen).await {
            Ok(permit) => permit,
            Err(refusal) => {
                self.tasks.spawn(read_away(request.into_body()));
                return Err(refusal);
            }
        };
        if !to_websocket {
            return tunnel.forward(permit, request).await;
        }
        let upgrading = hyper::upgrade::on(&mut request);
        let destination = permit.destination().clone();
        let request = websocket::to_origin(request).map_err(|error| {
            destination.fail(&tunnel.gate, DenyReason::DialFailed, error.to_string())
        })?;
        match tunnel.open_websocket(permit, request).await? {
            Opened::Answered(response) => Ok(response),
            Opened::Switched(answer, origin) => {
                let gate = Rc::clone(&tunnel.gate);
                self.tasks.spawn(async move {
                    // A client that is gone has its end recorded as the origin's stream is dropped.
                    if let Ok(client) = upgrading.await {
                        relay_upgraded(&gate, TokioIo::new(client), origin).await;
                    }
                });
                Ok(websocket::connected(answer))
            }
        }
    }

    /// Judges in a task of its own, which a reset of the stream does not end.
    async fn judge(&self, asked: Asked, seen: Seen) -> Result<Permit, Refusal> {
        let lost = || Refusal {
            reason: DenyReason::AuditUnavailable,
            host: Some(self.tunnel.destination.host.clone()),
            port: Some(self.tunnel.destination.port),
            rule: None,
            detail: None,
        };
        let turns = Arc::clone(&self.turns);
        // The semaphore is never closed.
        let turn = turns.acquire_owned().await.map_err(|_| lost())?;
        let (sender, judged) = oneshot::channel();
        let tunnel = Rc::clone(&self.tunnel);
        self.tasks.spawn(async move {
            let permit = tunnel.judge(asked, seen).await;
            // The stream may be gone: a decision without a consequence.
            drop(sender.send(permit));
            drop(turn);
        });
        judged.await.unwrap_or_else(|_| Err(lost()))
    }
}
/// Reads what a refused request still sends, for a moment: a stream that is dropped with content under
/// way is reset, and some clients then do not look at the answer.
async fn read_away(mut content: Incoming) {
    let read = async {
        let mut left = MAX_READ_AWAY;
        while let Some(Ok(frame)) = content.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                return;
            }
        }
    };
    drop(timeout(READ_AWAY, read).await);
}
