//! Requests to real origins over TLS, from a client of HTTP/1.1 or HTTP/2 whose requests are taken to
//! have come out of TLS. The audit writer is played here.

use std::cell::RefCell;
use std::convert::Infallible;
use std::net::IpAddr;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::join_all;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::header::{COOKIE, HeaderMap, HeaderValue};
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper::{Request, Response, Version};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::{LocalSet, spawn_local};

use super::{Opened, forward, open_websocket};
use crate::audit::AuditEvent;
use crate::gate::authorize::{Refusal, authorize};
use crate::gate::body::GateBody;
use crate::gate::budget::Seen;
use crate::gate::confine::confine;
use crate::gate::hop::strip_request;
use crate::gate::live::apply;
use crate::gate::memory::{Memory, Recalled};
use crate::gate::respond::{After, refuse};
use crate::gate::start::build;
use crate::gate::state::Gate;
use crate::gate::terms::Terms;
use crate::gate::upgrade::relay_upgraded;
use crate::ids::ConnId;
use crate::policy::{
    AddressPolicy, DenyReason, EgressRequest, Host, HostPattern, Method, NetworkLimits,
    NetworkPolicy, Port, Protocol, Rule, RuleId, Transport,
};
use crate::wire::audit::{Append, AuditReply};
use crate::wire::frame;
use crate::wire::gate::GateBoot;

use tls_origin::{BIG, CertKind, OriginSpec, TlsOrigin};

mod carrying;
mod limits;
mod websocket;

#[expect(dead_code, reason = "shared with other suites")]
#[path = "../../../../tests/support/tls_origin.rs"]
mod tls_origin;

/// Longer than anything here takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A gate that may reach these origins, by their names.
fn boot(origins: &[(&str, &TlsOrigin)]) -> GateBoot {
    let mut policy = NetworkPolicy {
        mitm: true,
        addresses: AddressPolicy {
            allow: vec!["127.0.0.0/8".parse().unwrap()],
        },
        limits: NetworkLimits {
            connections: 64,
            idle_seconds: 60,
            ..NetworkLimits::default()
        },
        ..NetworkPolicy::default()
    };
    let mut roots = String::new();
    let mut hosts_file = String::new();
    for (name, origin) in origins {
        policy.rules.push(Rule {
            id: RuleId::new((*name).to_owned()),
            host: HostPattern::parse(name).unwrap(),
            ports: vec![Port::new(origin.port()).unwrap()],
            methods: Vec::new(),
            paths: Vec::new(),
            protocol: Protocol::Web,
            effect: crate::policy::Effect::Allow,
        });
        roots.push_str(&origin.ca_pem);
        if name.parse::<IpAddr>().is_err() {
            hosts_file.extend([&origin.addr.ip().to_string(), " ", name, "\n"]);
        }
    }
    GateBoot {
        on_failure: crate::policy::OnFailure::Block,
        credentials: Vec::new(),
        policy,
        name_servers: Vec::new(),
        hosts_file,
        roots,
        approval_seconds: 60,
        upstream: None,
        bodies: crate::policy::BodiesPolicy::default(),
    }
}

/// No gate before, and none after.
fn nothing() -> (Memory, Recalled) {
    (Memory::none(), Recalled::default())
}

/// A gate with its audit writer.
#[derive(Clone)]
struct Scene {
    gate: Rc<Gate>,
    events: Rc<RefCell<Vec<AuditEvent>>>,
}

impl Scene {
    fn run<F: Future>(boot: &GateBoot, test: impl FnOnce(Self) -> F) -> F::Output {
        Self::prepare(boot, |_| (), test)
    }

    fn prepare<F: Future>(
        boot: &GateBoot,
        before: impl FnOnce(&Gate),
        test: impl FnOnce(Self) -> F,
    ) -> F::Output {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .unwrap();
        let (audit, writer) = StdUnixStream::pair().unwrap();
        writer.set_nonblocking(true).unwrap();
        let gate = build(&runtime, boot, (audit, Terms::default()), nothing()).unwrap();
        before(&gate);
        runtime.block_on(LocalSet::new().run_until(async move {
            let events = Rc::new(RefCell::new(Vec::new()));
            let writer = UnixStream::from_std(writer).unwrap();
            spawn_local(acknowledge(writer, Rc::clone(&events)));
            let reporting = Rc::clone(&gate);
            spawn_local(async move { reporting.reporter.run().await });
            let scene = Self { gate, events };
            tokio::time::timeout(PATIENCE, test(scene)).await.unwrap()
        }))
    }

    /// Records, once this many ends are among them.
    async fn events(&self, ends: usize) -> Vec<AuditEvent> {
        let is_end = |event: &&AuditEvent| matches!(event, AuditEvent::EgressClosed { .. });
        while self.events.borrow().iter().filter(is_end).count() < ends {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.events.borrow().clone()
    }

    /// A client of this version, each of whose requests is for this origin.
    async fn client(&self, version: Version, transport: Transport, to: (&str, u16)) -> Client {
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        let scene = self.clone();
        let host = Host::parse(to.0).unwrap();
        let port = Port::new(to.1).unwrap();
        let service = service_fn(move |request: Request<Incoming>| {
            let (scene, host) = (scene.clone(), host.clone());
            async move {
                let asked = EgressRequest {
                    transport,
                    host,
                    port,
                    method: Method::parse(request.method().as_str()),
                    path: Some(request.uri().path().to_owned()),
                    websocket: false,
                };
                Ok::<_, Infallible>(scene.answer(asked, request).await)
            }
        });
        let io = TokioIo::new(theirs);
        if version == Version::HTTP_2 {
            let server = hyper::server::conn::http2::Builder::new(Local);
            spawn_local(async move { drop(server.serve_connection(io, service).await) });
            let builder = hyper::client::conn::http2::Builder::new(Local);
            let (sender, connection) = builder.handshake(TokioIo::new(ours)).await.unwrap();
            spawn_local(async move { drop(connection.await) });
            Client::Http2(sender)
        } else {
            let server = hyper::server::conn::http1::Builder::new();
            spawn_local(async move { drop(server.serve_connection(io, service).await) });
            let builder = hyper::client::conn::http1::Builder::new();
            let (sender, connection) = builder.handshake(TokioIo::new(ours)).await.unwrap();
            spawn_local(async move { drop(connection.await) });
            Client::Http1(sender)
        }
    }

    async fn inspected(&self, to: (&str, u16)) -> Client {
        self.client(Version::HTTP_2, Transport::Inspected, to).await
    }

    async fn answer(
        &self,
        asked: EgressRequest,
        mut request: Request<Incoming>,
    ) -> Response<GateBody> {
        // What the client's side of the gate does.
        let path = request.uri().path_and_query().unwrap().clone();
        *request.uri_mut() = path.into();
        strip_request(request.headers_mut());
        let carried = async {
            let permit = authorize(&self.gate, ConnId(1), asked, Seen::default()).await?;
            forward(&self.gate, permit, request).await
        };
        let refused = |refusal: Refusal| refuse(&refusal, After::KeepAlive);
        carried.await.unwrap_or_else(refused)
    }
}

async fn acknowledge(mut writer: UnixStream, events: Rc<RefCell<Vec<AuditEvent>>>) {
    loop {
        let mut header = [0; 4];
        if writer.read_exact(&mut header).await.is_err() {
            return;
        }
        let mut body = vec![0; frame::body_length(header).unwrap()];
        writer.read_exact(&mut body).await.unwrap();
        let Append { id, event } = frame::decode(&body).unwrap();
        // Told apart by `exchanged`.
        if !matches!(event, AuditEvent::HttpExchanged(_)) {
            events.borrow_mut().push(event);
        }
        let reply = frame::encode(&AuditReply::Recorded { id, seq: id }).unwrap();
        writer.write_all(&reply).await.unwrap();
    }
}

#[derive(Clone)]
struct Local;

impl<F: Future + 'static> Executor<F> for Local {
    fn execute(&self, task: F) {
        spawn_local(async move { drop(task.await) });
    }
}

type Content = http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>;

fn content(text: &'static str) -> Content {
    Full::new(Bytes::from(text)).boxed_unsync()
}

enum Client {
    Http1(hyper::client::conn::http1::SendRequest<Content>),
    Http2(hyper::client::conn::http2::SendRequest<Content>),
}

impl Client {
    async fn send(&mut self, mut request: Request<Content>) -> Response<Incoming> {
        match self {
            Self::Http1(sender) => {
                sender.ready().await.unwrap();
                let host = HeaderValue::from_static("client.test");
                request.headers_mut().insert("host", host);
                sender.send_request(request).await.unwrap()
            }
            Self::Http2(sender) => {
                sender.ready().await.unwrap();
                let path = request.uri().to_string();
                *request.uri_mut() = format!("https://client.test{path}").parse().unwrap();
                sender.send_request(request).await.unwrap()
            }
        }
    }

    async fn get(&mut self, path: &str) -> (u16, Bytes) {
        let request = Request::builder().uri(path).body(content("")).unwrap();
        let response = self.send(request).await;
        let status = response.status().as_u16();
        (status, response.collect().await.unwrap().to_bytes())
    }

    async fn json(&mut self, path: &str) -> Value {
        let (_, body) = self.get(path).await;
        serde_json::from_slice(&body).unwrap()
    }
}

impl Client {
    /// Another sender of the same HTTP/2 connection.
    fn again(&self) -> Self {
        match self {
            Self::Http2(sender) => Self::Http2(sender.clone()),
            Self::Http1(_) => panic!("HTTP/1.1 has one"),
        }
    }
}
