//! HTTP/1.1 within a tunnel that ends here, mostly within its TLS, as strict as at the proxy door: every
//! head passes the same guard.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;

use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue, TRANSFER_ENCODING, UPGRADE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::audit::EndedBy;
use crate::gate::authorize::Refusal;
use crate::gate::body::GateBody;
use crate::gate::budget::Seen;
use crate::gate::half_close::Peer;
use crate::gate::head::{Answering, Expired, Guarded, Watch};
use crate::gate::http::server;
use crate::gate::respond::{self, After};
use crate::gate::transparent::reset;
use crate::gate::upgrade::relay_upgraded;
use crate::gate::upstream::{Opened, OriginStream};
use crate::policy::{DenyReason, Transport};

use super::replay::Replay;
use super::{Tunnel, close, websocket};

/// One client connection.
struct Connection {
    tunnel: Rc<Tunnel>,
    watch: Rc<Watch>,
    /// Set once an Upgrade was answered with 101: the connection is a WebSocket from then on.
    switched: RefCell<Option<OriginStream>>,
    /// Whether the client speaks HTTP/1.0, which may take the connection's end for an answer's.
    old: Cell<bool>,
}

/// How hyper's part of a connection ended.
enum End {
    /// It is over, or a WebSocket now.
    Done,
    /// The stream failed, a body was malformed, or a head was at fault.
    Failed,
    /// The client took too long.
    Expired(Expired),
    /// The gate drains.
    Stopping,
}

/// Serves one connection to its end.
pub(super) async fn serve<S>(tunnel: &Rc<Tunnel>, stream: S) -> EndedBy
where
    S: AsyncRead + AsyncWrite + Peer + Unpin,
{
    let watch = Rc::new(Watch::inspecting(tunnel.gate.limits, tunnel.door));
    let connection = Rc::new(Connection {
        tunnel: Rc::clone(tunnel),
        watch: Rc::clone(&watch),
        switched: RefCell::new(None),
        old: Cell::new(false),
    });
    let service = {
        let connection = Rc::clone(&connection);
        service_fn(move |request| -> Pin<Box<dyn Future<Output = _>>> {
            let answering = connection.watch.answer();
            Box::pin(Rc::clone(&connection).respond(request, answering))
        })
    };
    let io = TokioIo::new(Guarded::new(stream, Rc::clone(&watch)));
    let mut served = server(&tunnel.gate).serve_connection(io, service);
    let end = tokio::select! {
        served = poll_fn(|context| served.poll_without_shutdown(context)) => match served {
            Ok(()) => End::Done,
            Err(_) => End::Failed,
        },
        expired = watch.expired() => End::Expired(expired),
        () = tunnel.gate.until_stopping() => End::Stopping,
    };
    let parts = served.into_parts();
    let stream = parts.io.into_inner().into_stream();
    let switched = connection.switched.take();
    match (end, switched) {
        (End::Done, Some(origin)) => {
            let client = Replay::new(parts.read_buf, stream);
            relay_upgraded(&tunnel.gate, client, origin).await
        }
        (end, _) => connection.close(stream, &end).await,
    }
}

impl Connection {
    /// Answers one request; what is refused is answered as well.
    async fn respond(
        self: Rc<Self>,
        request: Request<Incoming>,
        answering: Answering,
    ) -> Result<Response<GateBody>, Infallible> {
        self.old.set(request.version() == Version::HTTP_10);
        // After a chunked body, or in place of another protocol, the next head may not be checked (see
        // `head`), so it may not come.
        let headers = request.headers();
        let last = request.method() == Method::CONNECT
            || headers.contains_key(TRANSFER_ENCODING)
            || headers.contains_key(UPGRADE);
        let after = if last { After::Close } else { After::KeepAlive };
        let mut response = match self.answer(request).await {
            Ok(response) => response,
            Err(refusal) => respond::refuse(&refusal, after),
        };
        if last && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        response.body_mut().hold(answering);
        Ok(response)
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<GateBody>, Refusal> {
        let tunnel = &self.tunnel;
        let (asked, seen) = (tunnel.read(&request), Seen::of(&request));
        let to_websocket = asked.as_ref().is_ok_and(|asked| asked.websocket);
        let permit = tunnel.judge(asked, seen).await?;
        if !to_websocket {
            return tunnel.forward(permit, request).await;
        }
        let destination = permit.destination().clone();
        let request = websocket::to_origin(request).map_err(|error| {
            destination.fail(&tunnel.gate, DenyReason::DialFailed, error.to_string())
        })?;
        match tunnel.open_websocket(permit, request).await? {
            Opened::Answered(response) => Ok(response),
            Opened::Switched(answer, origin) => {
                self.switched.replace(Some(origin));
                Ok(answer.map(|()| GateBody::empty()))
            }
        }
    }

    /// Ends a connection that is not a WebSocket: a head at fault or late is recorded and answered.
    async fn close<S>(&self, stream: S, end: &End) -> EndedBy
    where
        S: AsyncRead + AsyncWrite + Peer + Unpin,
    {
        let (reason, status, detail) = match (end, self.watch.fault()) {
            // hyper takes a failed read between two requests for the end.
            (End::Failed | End::Done, Some(fault)) => {
                (DenyReason::Malformed, StatusCode::BAD_REQUEST, fault)
            }
            (End::Expired(Expired::Head), _) => {
                let detail = "the request head was not complete in time";
                (DenyReason::TimedOut, StatusCode::REQUEST_TIMEOUT, detail)
            }
            (End::Expired(Expired::Idle), _) => {
                close(stream, &[]).await;
                return EndedBy::Gate;
            }
            (End::Stopping, _) => return EndedBy::Gate,
            (End::Failed, None) => {
                // An answer that broke off must not look whole. TLS ends without a word then.
                if self.old.get() && self.tunnel.door == Transport::Forward {
                    reset(stream.socket());
                }
                return EndedBy::Error;
            }
            (End::Done, None) => {
                close(stream, &[]).await;
                return EndedBy::Client;
            }
        };
        let refusal = self.tunnel.unreadable(reason, detail.to_owned()).await;
        let word = if self.watch.may_answer() {
            respond::refuse_raw(&refusal, status)
        } else {
            Vec::new()
        };
        close(stream, &word).await;
        EndedBy::Gate
    }
}
