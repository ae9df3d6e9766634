//! A TLS origin on loopback: a CA of its own, a leaf that is good or bad in one way, ALPN by choice,
//! HTTP/1.1 and HTTP/2 behind it. It logs what reached it. Without TLS it is a plain HTTP/1.1 origin.
//!
//! | path | answer |
//! |---|---|
//! | `/sse` | three server-sent events, the first at once, each other when [`TlsOrigin::go_on`] says so |
//! | `/trailers` | one message in the manner of gRPC, its status in a trailer |
//! | `/ws` | a WebSocket that sends back every message |
//! | `/ws-bad-accept` | a WebSocket whose handshake is answered with another key's hash |
//! | `/big` | [`BIG`] bytes |
//! | `/body` | the request's own body, unchanged |
//! | `/silent` | nothing, ever |
//! | `/status/204` | this status, without a body |
//! | any, for HEAD | the head of `/big` |
//! | anything else | the request itself as JSON ([`Seen`]'s fields and `body`) |

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use futures_util::{SinkExt, StreamExt, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

/// What `/big` sends.
pub(crate) const BIG: usize = 8 << 20;

/// What the origin shows of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CertKind {
    /// For its name, in its time, under its CA.
    Good,
    /// Its time is over.
    Expired,
    /// Its time has not come.
    NotYetValid,
    /// Under no CA: `ca_pem` is of a CA that signed nothing.
    SelfSigned,
    /// Good, for `other.test`.
    WrongName,
    /// No TLS at all.
    Plain,
}

/// Which port it listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listen {
    /// Any, on 127.0.0.1.
    AnyPort,
    /// 443, on a loopback address that nobody else has.
    Https,
    /// 80, on a loopback address that nobody else has.
    Http,
}

/// Answers requests in place of the paths above.
pub(crate) type Answer = Arc<dyn Fn(&Seen) -> Response<Bytes> + Send + Sync>;

/// What kind of origin.
#[derive(Clone)]
pub(crate) struct OriginSpec {
    /// What its certificate is for: a name or an address literal.
    pub(crate) name: String,
    /// ALPN protocols on offer, the preferred one first; none: the extension is not answered.
    pub(crate) alpn: Vec<&'static str>,
    /// The certificate.
    pub(crate) cert: CertKind,
    /// Where.
    pub(crate) listen: Listen,
    /// In place of the paths of its own.
    pub(crate) answer: Option<Answer>,
    /// These bytes for the first bytes of every connection, then the end, whatever was asked.
    pub(crate) raw: Option<Vec<u8>>,
    /// Streams of one HTTP/2 connection at once.
    pub(crate) max_streams: u32,
}

impl OriginSpec {
    /// A good one that speaks HTTP/2 and HTTP/1.1.
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            alpn: vec!["h2", "http/1.1"],
            cert: CertKind::Good,
            listen: Listen::AnyPort,
            answer: None,
            raw: None,
            max_streams: 100,
        }
    }

    pub(crate) fn alpn(mut self, protocols: &[&'static str]) -> Self {
        self.alpn = protocols.to_vec();
        self
    }

    pub(crate) fn cert(mut self, cert: CertKind) -> Self {
        self.cert = cert;
        self
    }

    /// On port 443.
    pub(crate) fn https(mut self) -> Self {
        self.listen = Listen::Https;
        self
    }

    /// On port 80.
    pub(crate) fn http(mut self) -> Self {
        self.listen = Listen::Http;
        self
    }

    pub(crate) fn answer(
        mut self,
        answer: impl Fn(&Seen) -> Response<Bytes> + Send + Sync + 'static,
    ) -> Self {
        self.answer = Some(Arc::new(answer));
        self
    }

    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.raw = Some(bytes.to_vec());
        self
    }

    pub(crate) fn max_streams(mut self, most: u32) -> Self {
        self.max_streams = most;
        self
    }

    pub(crate) fn start(self) -> TlsOrigin {
        TlsOrigin::start(self)
    }
}

/// One request that reached the origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub(crate) version: String,
    pub(crate) method: String,
    /// Path and query.
    pub(crate) path: String,
    /// `:authority`, or nothing.
    pub(crate) authority: String,
    /// Names and values, in the order of arrival.
    pub(crate) headers: Vec<(String, String)>,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.headers.iter();
        fields
            .find(|(field, _)| field == name)
            .map(|(_, value)| value.as_str())
    }
}

#[derive(Default)]
struct Log {
    connections: AtomicUsize,
    handshakes: AtomicUsize,
    resumed: AtomicUsize,
    /// Server name and ALPN of each handshake that was completed.
    hellos: Mutex<Vec<(String, String)>>,
    seen: Mutex<Vec<Seen>>,
    /// How many more events of `/sse` may be sent.
    steps: Steps,
}

#[derive(Clone)]
struct Steps(Arc<Semaphore>);

impl Default for Steps {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }
}

/// A server that ends when it is dropped.
pub(crate) struct TlsOrigin {
    pub(crate) addr: SocketAddr,
    /// The authority to trust.
    pub(crate) ca_pem: String,
    log: Arc<Log>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for TlsOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TlsOrigin").field(&self.addr).finish()
    }
}

impl TlsOrigin {
    pub(crate) fn start(spec: OriginSpec) -> Self {
        let (ca_pem, chain, key) = issue(&spec);
        let acceptor = (spec.cert != CertKind::Plain).then(|| acceptor(&spec, chain, key));
        let listener = bind(spec.listen);
        listener.set_nonblocking(true).unwrap();
        let addr = listener.local_addr().unwrap();
        let log = Arc::new(Log::default());
        let (stop, stopped) = oneshot::channel();
        let shared = Arc::clone(&log);
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    () = accept(listener, acceptor, Arc::new(spec), shared) => {}
                    _ = stopped => {}
                }
            });
            runtime.shutdown_background();
        });
        Self {
            addr,
            ca_pem,
            log,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.addr.port()
    }

    /// Lets so many more events of `/sse` out.
    pub(crate) fn go_on(&self, events: usize) {
        self.log.steps.0.add_permits(events);
    }

    /// TCP connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.log.connections.load(Ordering::SeqCst)
    }

    /// TLS handshakes that were completed.
    pub(crate) fn handshakes(&self) -> usize {
        self.log.handshakes.load(Ordering::SeqCst)
    }

    /// Handshakes that resumed a session.
    pub(crate) fn resumed(&self) -> usize {
        self.log.resumed.load(Ordering::SeqCst)
    }

    /// Server name (empty: none) and ALPN (empty: none) of each completed handshake.
    pub(crate) fn hellos(&self) -> Vec<(String, String)> {
        self.log.hellos.lock().unwrap().clone()
    }

    /// Every request, as its head arrived.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.log.seen.lock().unwrap().clone()
    }
}

impl Drop for TlsOrigin {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// A CA, and a chain with its key.
pub(crate) fn issue(
    spec: &OriginSpec,
) -> (String, Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    ca.distinguished_name
        .push(DnType::CommonName, "Test origins");
    let ca_key = KeyPair::generate().unwrap();
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();

    let name = match spec.cert {
        CertKind::WrongName => "other.test",
        CertKind::Good
        | CertKind::Expired
        | CertKind::NotYetValid
        | CertKind::SelfSigned
        | CertKind::Plain => spec.name.trim_matches(['[', ']']),
    };
    let mut leaf = CertificateParams::new(vec![name.to_owned()]).unwrap();
    match spec.cert {
        CertKind::Expired => {
            leaf.not_before = date_time_ymd(2001, 1, 1);
            leaf.not_after = date_time_ymd(2002, 1, 1);
        }
        CertKind::NotYetValid => leaf.not_before = date_time_ymd(2900, 1, 1),
        CertKind::Good | CertKind::SelfSigned | CertKind::WrongName | CertKind::Plain => {}
    }
    let leaf_key = KeyPair::generate().unwrap();
    let leaf = if spec.cert == CertKind::SelfSigned {
        leaf.self_signed(&leaf_key)
    } else {
        leaf.signed_by(&leaf_key, &Issuer::new(ca, ca_key))
    };
    let key = PrivatePkcs8KeyDer::from(leaf_key.serialize_der()).into();
    (ca_pem, vec![leaf.unwrap().der().clone()], key)
}

fn acceptor(
    spec: &OriginSpec,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> TlsAcceptor {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = spec
        .alpn
        .iter()
        .map(|name| name.as_bytes().into())
        .collect();
    TlsAcceptor::from(Arc::new(config))
}

/// Tests run side by side, and all of them may want 443 or 80: each takes a loopback address nobody else has.
fn bind(listen: Listen) -> std::net::TcpListener {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let port = match listen {
        Listen::AnyPort => return std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(),
        Listen::Https => 443,
        Listen::Http => 80,
    };
    let process = std::process::id().to_be_bytes();
    loop {
        let last = NEXT.fetch_add(1, Ordering::SeqCst);
        let address = Ipv4Addr::new(127, 0x20 ^ process[2], process[3], last);
        if let Ok(listener) = std::net::TcpListener::bind((address, port)) {
            return listener;
        }
    }
}

async fn accept(
    listener: TcpListener,
    acceptor: Option<TlsAcceptor>,
    spec: Arc<OriginSpec>,
    log: Arc<Log>,
) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        log.connections.fetch_add(1, Ordering::SeqCst);
        let (acceptor, spec, log) = (acceptor.clone(), Arc::clone(&spec), Arc::clone(&log));
        tokio::spawn(async move { drop(secure(stream, acceptor, spec, log).await) });
    }
}

async fn secure(
    stream: TcpStream,
    acceptor: Option<TlsAcceptor>,
    spec: Arc<OriginSpec>,
    log: Arc<Log>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let Some(acceptor) = acceptor else {
        return serve(stream, false, spec, log).await;
    };
    let stream = acceptor.accept(stream).await?;
    let state = stream.get_ref().1;
    let alpn = state.alpn_protocol().unwrap_or_default();
    let h2 = alpn == b"h2";
    let hello = (
        state.server_name().unwrap_or_default().to_owned(),
        String::from_utf8_lossy(alpn).into_owned(),
    );
    if state.handshake_kind() == Some(rustls::HandshakeKind::Resumed) {
        log.resumed.fetch_add(1, Ordering::SeqCst);
    }
    log.hellos.lock().unwrap().push(hello);
    log.handshakes.fetch_add(1, Ordering::SeqCst);
    serve(stream, h2, spec, log).await
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    h2: bool,
    spec: Arc<OriginSpec>,
    log: Arc<Log>,
) -> io::Result<()> {
    if let Some(bytes) = &spec.raw {
        let mut chunk = [0; 4096];
        let _ = stream.read(&mut chunk).await?;
        stream.write_all(bytes).await?;
        return stream.shutdown().await;
    }
    let max_streams = spec.max_streams;
    let service = service_fn(move |request| {
        let (spec, log) = (Arc::clone(&spec), Arc::clone(&log));
        async move { Ok::<_, Infallible>(respond(request, &spec, &log).await) }
    });
    let io = TokioIo::new(stream);
    let served = if h2 {
        http2::Builder::new(TokioExecutor::new())
            .max_concurrent_streams(max_streams)
            .serve_connection(io, service)
            .await
    } else {
        http1::Builder::new()
            .serve_connection(io, service)
            .with_upgrades()
            .await
    };
    served.map_err(io::Error::other)
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}

fn pairs(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers
        .iter()
        .map(|(name, value)| (name.to_string(), text(value)))
        .collect()
}

async fn respond(request: Request<Incoming>, spec: &OriginSpec, log: &Log) -> Response<Body> {
    let uri = request.uri();
    let seen = Seen {
        version: format!("{:?}", request.version()),
        method: request.method().to_string(),
        path: uri
            .path_and_query()
            .map_or_else(String::new, ToString::to_string),
        authority: uri
            .authority()
            .map_or_else(String::new, ToString::to_string),
        headers: pairs(request.headers()),
    };
    log.seen.lock().unwrap().push(seen.clone());
    if let Some(answer) = &spec.answer {
        // What it is sent comes first: whoever is answered early stops sending.
        drop(request.into_body().collect().await);
        return answer(&seen).map(full);
    }
    if request.method() == Method::HEAD {
        let mut response = Response::new(full(Bytes::new()));
        let length = HeaderValue::from(BIG);
        response
            .headers_mut()
            .insert(header::CONTENT_LENGTH, length);
        return response;
    }
    let path = request.uri().path().to_owned();
    let wants_websocket = request.headers().contains_key(header::SEC_WEBSOCKET_KEY);
    match path.as_str() {
        "/sse" => sse(log.steps.clone()),
        "/trailers" => grpc(),
        "/ws" if wants_websocket => websocket(request, None),
        "/ws-bad-accept" if wants_websocket => {
            websocket(request, Some("bm90IHRoZSByaWdodCBvbmUgYXQgYWw="))
        }
        "/silent" => std::future::pending().await,
        "/big" => Response::new(full(vec![b'x'; BIG])),
        "/body" => match request.into_body().collect().await {
            Ok(body) => Response::new(full(body.to_bytes())),
            Err(error) => Response::new(full(format!("{error:?}"))),
        },
        path => match path.strip_prefix("/status/") {
            Some(status) => {
                let mut response = Response::new(full(Bytes::new()));
                *response.status_mut() = status.parse().unwrap_or(StatusCode::BAD_REQUEST);
                response
            }
            None => echo(request, &seen).await,
        },
    }
}

/// The request as JSON; what is wrong with its body stands in place of it.
async fn echo(request: Request<Incoming>, seen: &Seen) -> Response<Body> {
    let (body, trailers) = match request.into_body().collect().await {
        Ok(collected) => {
            let trailers = collected.trailers().map(pairs).unwrap_or_default();
            (collected.to_bytes(), trailers)
        }
        Err(error) => (format!("{error:?}").into(), Vec::new()),
    };
    let json = json!({
        "version": seen.version,
        "method": seen.method,
        "path": seen.path,
        "authority": seen.authority,
        "headers": seen.headers,
        "body": String::from_utf8_lossy(&body),
        "trailers": trailers,
    });
    let mut response = Response::new(full(json.to_string()));
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn sse(steps: Steps) -> Response<Body> {
    let events = stream::unfold((1_u32, steps), |(n, steps)| async move {
        if n > 3 {
            return None;
        }
        if n > 1 {
            steps.0.acquire().await.unwrap().forget();
        }
        let event = Bytes::from(format!("data: {n}\n\n"));
        Some((Ok::<_, Infallible>(Frame::data(event)), (n + 1, steps)))
    });
    let mut response = Response::new(StreamBody::new(events).boxed_unsync());
    let kind = HeaderValue::from_static("text/event-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn grpc() -> Response<Body> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers.insert("grpc-message", HeaderValue::from_static("done"));
    let frames = [
        Frame::data(Bytes::from_static(b"\0\0\0\0\x05hello")),
        Frame::trailers(trailers),
    ];
    let body = StreamBody::new(stream::iter(frames.map(Ok::<_, Infallible>)));
    let mut response = Response::new(body.boxed_unsync());
    let kind = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    // HTTP/1.1 sends only trailers that were announced.
    let names = HeaderValue::from_static("grpc-status, grpc-message");
    response.headers_mut().insert(header::TRAILER, names);
    response
}

/// The handshake's answer; takes the first subprotocol on offer. Every message comes back.
fn websocket(mut request: Request<Incoming>, accept: Option<&str>) -> Response<Body> {
    let key = &request.headers()[header::SEC_WEBSOCKET_KEY];
    let accept = accept.map_or_else(|| derive_accept_key(key.as_bytes()), str::to_owned);
    let offered = request.headers().get(header::SEC_WEBSOCKET_PROTOCOL);
    let protocol = offered
        .and_then(|offered| offered.to_str().ok()?.split(',').next())
        .and_then(|protocol| HeaderValue::from_str(protocol.trim()).ok());
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgraded.await else { return };
        let io = TokioIo::new(upgraded);
        let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
        while let Some(Ok(message)) = socket.next().await {
            if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
                return;
            }
        }
    });
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("WebSocket"));
    let accept = HeaderValue::try_from(accept).unwrap();
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(protocol) = protocol {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    response
}
