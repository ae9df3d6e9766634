//! The HTTP proxy door: plain requests in absolute-form and CONNECT, over HTTP/1.1 with keep-alive.
//! Each request on a connection is judged by itself. A client that knows no proxy is served as well: it sends
//! requests in origin-form, to the server that it connected to.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;

use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue, TRANSFER_ENCODING};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Version};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::ids::ConnId;
use crate::policy::{DenyReason, EgressRequest, Transport};

use super::authorize::{Permit, Refusal, authorize};
use super::body::GateBody;
use super::budget::Seen;
use super::head::{Answering, Expired, Guarded, Watch};
use super::head_grammar::MAX_FIELDS;
use super::hop::{self, ProtectedNamed};
pub(super) use super::http_request::Authority;
use super::http_request::{self, Malformed};
use super::listen::close_after;
use super::respond::{self, After};
use super::state::Gate;
use super::transparent::reset;
use super::tunnel;
use super::upgrade::relay_upgraded;
use super::upstream::{self, Opened, OriginStream};
use super::websocket;

/// hyper's smallest read buffer. Its limit lies this much above the policy's, which [`super::head`]
/// holds: else hyper would answer first, without a record.
const MIN_BUFFER: usize = 8192;

/// One client connection.
struct Connection {
    gate: Rc<Gate>,
    id: ConnId,
    watch: Rc<Watch>,
    /// The server that the client takes us for; `None`: it knows that we are a proxy.
    taken_for: Option<Authority>,
    /// Set once a CONNECT was answered with 200, or a GET with 101: what the connection is from then on.
    becomes: RefCell<Option<Becomes>>,
    /// Whether the client speaks HTTP/1.0, which may take the connection's end for an answer's.
    old: Cell<bool>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connection").field(&self.id).finish()
    }
}

/// What a connection can be after HTTP.
enum Becomes {
    Tunnel(tunnel::Opened),
    Websocket(OriginStream),
}

/// How hyper's part of a connection ended.
enum End {
    /// It is over, or a tunnel now.
    Done,
    /// A socket failed, a body was malformed, or a head was at fault.
    Failed,
    /// The client took too long.
    Expired(Expired),
    /// The gate drains.
    Stopping,
}

/// Serves one connection to its end.
pub(super) async fn serve(
    gate: Rc<Gate>,
    stream: TcpStream,
    id: ConnId,
    taken_for: Option<Authority>,
) {
    let watch = Rc::new(Watch::new(gate.limits));
    let connection = Rc::new(Connection {
        gate: Rc::clone(&gate),
        id,
        watch: Rc::clone(&watch),
        taken_for,
        becomes: RefCell::new(None),
        old: Cell::new(false),
    });
    let service = {
        let connection = Rc::clone(&connection);
        service_fn(move |request| -> Pin<Box<dyn Future<Output = _>>> {
            // From here on, and not from when it is polled first: hyper reads on before that.
            let answering = connection.watch.answer();
            Box::pin(Rc::clone(&connection).respond(request, answering))
        })
    };
    let io = TokioIo::new(Guarded::new(stream, Rc::clone(&watch)));
    let mut served = server(&gate).serve_connection(io, service);
    let end = tokio::select! {
        served = poll_fn(|context| served.poll_without_shutdown(context)) => match served {
            Ok(()) => End::Done,
            Err(_) => End::Failed,
        },
        expired = watch.expired() => End::Expired(expired),
        () = gate.until_stopping() => End::Stopping,
    };
    let parts = served.into_parts();
    let stream = parts.io.into_inner().into_stream();
    let becomes = connection.becomes.take();
    match (end, becomes) {
        (End::Done, Some(Becomes::Tunnel(tunnel))) => {
            tunnel.serve(&gate, stream, &parts.read_buf).await;
        }
        (End::Done, Some(Becomes::Websocket(origin))) => {
            let (read, write) = stream.into_split();
            let early: &[u8] = &parts.read_buf;
            let client = tokio::io::join(early.chain(read), write);
            relay_upgraded(&gate, client, origin).await;
        }
        (end, _) => connection.close(stream, &end).await,
    }
}

/// hyper's part, without its leniencies and its clocks.
pub(super) fn server(gate: &Gate) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        // Times are kept by Watch, for heads and for idle connections alike.
        .header_read_timeout(None)
        .max_headers(MAX_FIELDS)
        .max_buf_size(gate.limits.head_bytes.saturating_add(MIN_BUFFER))
        .auto_date_header(false);
    builder
}

impl Connection {
    /// Answers one request; what is refused is answered as well.
    async fn respond(
        self: Rc<Self>,
        request: Request<Incoming>,
        answering: Answering,
    ) -> Result<Response<GateBody>, Infallible> {
        let transport = http_request::transport(&request);
        self.old.set(request.version() == Version::HTTP_10);
        // After a chunked body, or in place of a WebSocket, the next head is not checked (see head), so it
        // may not come.
        let last = transport == Transport::Connect
            || request.headers().contains_key(TRANSFER_ENCODING)
            || websocket::is_named(request.headers());
        let after = if last { After::Close } else { After::KeepAlive };
        let seen = match transport {
            Transport::Forward | Transport::Inspected => Seen::of(&request),
            Transport::Connect
            | Transport::Socks5
            | Transport::Transparent
            | Transport::Socks5Udp => Seen::default(),
        };
        let answer = match self.read(&request, transport).await {
            Ok(asked) => {
                let websocket = asked.websocket;
                match authorize(&self.gate, self.id, asked, seen).await {
                    Ok(permit) if websocket => self.open_websocket(permit, request).await,
                    Ok(permit) => self.carry_out(permit, request).await,
                    Err(refusal) => Err(refusal),
                }
            }
            Err(refusal) => Err(refusal),
        };
        let mut response = match answer {
            Ok(response) => response,
            Err(refusal) => respond::refuse(&refusal, after),
        };
        let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if after == After::Close && transport != Transport::Connect && !switched {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        response.body_mut().hold(answering);
        Ok(response)
    }

    async fn read(
        &self,
        request: &Request<Incoming>,
        transport: Transport,
    ) -> Result<EgressRequest, Refusal> {
        let mode = self.gate.rules().mode();
        let asked = match &self.taken_for {
            None => http_request::read(request, mode),
            Some(server) => {
                let resolved = |host| self.gate.names.host(host);
                http_request::read_for(request, mode, server, resolved)
            }
        };
        let asked = asked.and_then(|asked| {
            hop::check_request(request.headers())
                .map_err(|ProtectedNamed| Malformed(http_request::PROTECTED))?;
            Ok(asked)
        });
        match asked {
            Ok(asked) => Ok(asked),
            Err(malformed) => Err(self.malformed(transport, malformed).await),
        }
    }

    async fn malformed(&self, transport: Transport, malformed: Malformed) -> Refusal {
        let detail = malformed.0.to_owned();
        Refusal::unreadable(
            &self.gate,
            self.id,
            transport,
            DenyReason::Malformed,
            detail,
        )
        .await
    }

    async fn carry_out(
        &self,
        permit: Permit,
        request: Request<Incoming>,
    ) -> Result<Response<GateBody>, Refusal> {
        match permit.destination().transport {
            Transport::Connect
            | Transport::Socks5
            | Transport::Transparent
            | Transport::Socks5Udp => self.connect(permit).await,
            Transport::Forward | Transport::Inspected => {
                let request = http_request::to_origin(request);
                upstream::forward(&self.gate, permit, request).await
            }
        }
    }

    /// Dials, and leaves the connection for [`serve`] to make a tunnel of. Where it is looked into, only
    /// the requests within dial.
    async fn connect(&self, permit: Permit) -> Result<Response<GateBody>, Refusal> {
        let opened = tunnel::open(&self.gate, permit).await?;
        self.becomes.replace(Some(Becomes::Tunnel(opened)));
        Ok(Response::new(GateBody::empty()))
    }

    /// Has the origin asked, and leaves the connection for [`serve`] to relay.
    async fn open_websocket(
        &self,
        permit: Permit,
        request: Request<Incoming>,
    ) -> Result<Response<GateBody>, Refusal> {
        let request = http_request::to_origin(request);
        match upstream::open_websocket(&self.gate, permit, request).await? {
            Opened::Switched(head, origin) => {
                self.becomes.replace(Some(Becomes::Websocket(origin)));
                Ok(head.map(|()| GateBody::empty()))
            }
            Opened::Answered(response) => Ok(response),
        }
    }

    /// Ends a connection that is not a tunnel: a head at fault or late is recorded and answered.
    async fn close(&self, stream: TcpStream, end: &End) {
        let (reason, status, detail) = match (end, self.watch.fault()) {
            // hyper takes a failed read between two requests for the end.
            (End::Failed | End::Done, Some(fault)) => {
                (DenyReason::Malformed, StatusCode::BAD_REQUEST, fault)
            }
            (End::Expired(Expired::Head), _) => {
                let detail = "the request head was not complete in time";
                (DenyReason::TimedOut, StatusCode::REQUEST_TIMEOUT, detail)
            }
            // An answer that broke off must not look whole.
            (End::Failed, None) if self.old.get() => return reset(&stream),
            (End::Done | End::Failed | End::Expired(Expired::Idle) | End::Stopping, _) => return,
        };
        let (transport, detail) = (self.watch.transport(), detail.to_owned());
        let refusal = Refusal::unreadable(&self.gate, self.id, transport, reason, detail).await;
        if self.watch.may_answer() {
            close_after(&stream, &respond::refuse_raw(&refusal, status)).await;
        }
    }
}
