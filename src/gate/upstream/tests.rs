//! Requests to real origins over TLS, from a client of HTTP/1.1 or HTTP/2 whose requests are taken to
//! have come out of TLS. The audit writer is played here.

use std::cell::RefCell;
use std::convert::Infallible;
use std::net::IpAddr;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

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
use crate::gate::confine::confine;
use crate::gate::hop::strip_request;
use crate::gate::respond::{After, refuse};
use crate::gate::start::build;
use crate::gate::state::Gate;
use crate::gate::upgrade::relay_upgraded;
use crate::ids::ConnId;
use crate::policy::{
    AddressPolicy, DenyReason, EgressRequest, Host, HostPattern, Method, NetworkLimits,
    NetworkPolicy, Port, Protocol, Rule, RuleId, Transport,
};
use crate::wire::audit::{Append, AuditReply};
use crate::wire::frame;
use crate::wire::gate::GateBoot;

use tls_origin::{BIG, CertKind, OriginSpec, SSE_GAP, TlsOrigin};

#[expect(dead_code, reason = "shared with other suites")]
#[path = "../../../tests/support/tls_origin.rs"]
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
        policy,
        name_servers: Vec::new(),
        hosts_file,
        roots,
    }
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
        let gate = build(&runtime, boot, audit).unwrap();
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
            let permit = authorize(&self.gate, ConnId(1), asked).await?;
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
        events.borrow_mut().push(event);
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

fn text(body: Bytes) -> String {
    String::from_utf8(body.to_vec()).unwrap()
}

#[test]
fn a_request_goes_up_over_what_the_origin_chooses_and_is_recorded() {
    for (client_version, alpn, version) in [
        (Version::HTTP_2, "h2", "HTTP/2.0"),
        (Version::HTTP_2, "http/1.1", "HTTP/1.1"),
        (Version::HTTP_11, "h2", "HTTP/2.0"),
        (Version::HTTP_11, "http/1.1", "HTTP/1.1"),
    ] {
        let origin = OriginSpec::new("a.test").alpn(&[alpn]).start();
        let (name, port) = ("a.test", origin.port());
        Scene::run(&boot(&[(name, &origin)]), async |scene| {
            let to = (name, port);
            let mut client = scene.client(client_version, Transport::Inspected, to).await;
            let request = Request::builder()
                .method("POST")
                .uri("/a?b=c")
                .header("authorization", "Bearer t")
                .header(COOKIE, "a=1")
                .header(COOKIE, "b=2")
                .body(content("hello"))
                .unwrap();
            let response = client.send(request).await;
            let body = response.collect().await.unwrap().to_bytes();
            let json: Value = serde_json::from_slice(&body).unwrap();
            let found = [
                &json["version"],
                &json["method"],
                &json["path"],
                &json["body"],
            ];
            assert_eq!(found, [version, "POST", "/a?b=c", "hello"]);
            let seen = &origin.seen()[0];
            let authority = format!("a.test:{port}");
            if alpn == "h2" {
                assert_eq!((&seen.authority, seen.header("host")), (&authority, None));
                let te = (client_version == Version::HTTP_2).then_some("trailers");
                assert_eq!(seen.header("te"), te);
            } else {
                assert_eq!(seen.header("host"), Some(authority.as_str()));
                assert_eq!(seen.header("cookie"), Some("a=1; b=2"));
                assert_eq!(seen.header("te"), None);
            }
            assert_eq!(seen.header("authorization"), Some("Bearer t"));
            assert_eq!(origin.hellos(), [("a.test".to_owned(), alpn.to_owned())]);

            let events = scene.events(1).await;
            let kinds: Vec<_> = events
                .iter()
                .map(|event| match event {
                    AuditEvent::EgressDecided { .. } => "decided".to_owned(),
                    AuditEvent::DnsQuery { .. } => "dns".to_owned(),
                    AuditEvent::EgressDialed { address, .. } => address.to_string(),
                    AuditEvent::EgressClosed {
                        bytes_up,
                        bytes_down,
                        ..
                    } => {
                        format!("{bytes_up} {bytes_down}")
                    }
                    other => format!("{other:?}"),
                })
                .collect();
            let closed = format!("5 {}", body.len());
            let dialed = origin.addr.to_string();
            assert_eq!(kinds, ["decided", "dns", dialed.as_str(), closed.as_str()]);
        });
    }
}

#[test]
fn requests_at_once_share_one_session_and_each_has_its_own_end() {
    let origin = OriginSpec::new("a.test").start();
    let to = ("a.test", origin.port());
    Scene::run(&boot(&[("a.test", &origin)]), async |scene| {
        let client = scene.inspected(to).await;
        let asked = (0..20).map(|n| {
            let mut client = client.again();
            async move { client.json(&format!("/{n}")).await["path"].clone() }
        });
        let paths = join_all(asked).await;
        let expected: Vec<Value> = (0..20).map(|n| format!("/{n}").into()).collect();
        assert_eq!(paths, expected);
        scene.events(20).await;
        assert_eq!((origin.connections(), origin.handshakes()), (1, 1));
    });
}

#[test]
fn requests_at_once_to_an_origin_of_http_1_do_not_wait_for_each_other() {
    let origin = OriginSpec::new("a.test").alpn(&["http/1.1"]).start();
    let to = ("a.test", origin.port());
    Scene::run(&boot(&[("a.test", &origin)]), async |scene| {
        let client = scene.inspected(to).await;
        let started = Instant::now();
        let asked = (0..5).map(|_| {
            let mut client = client.again();
            async move { client.get("/sse").await.0 }
        });
        assert_eq!(join_all(asked).await, [200; 5]);
        assert!(started.elapsed() < SSE_GAP * 8, "one after the other");
        assert_eq!(origin.connections(), 5);
        // And afterwards they are kept.
        assert_eq!(client.again().get("/").await.0, 200);
        assert_eq!(origin.connections(), 5);
    });
}

#[test]
fn a_session_that_takes_no_more_streams_gets_a_second_beside_it() {
    let origin = OriginSpec::new("a.test").max_streams(1).start();
    let to = ("a.test", origin.port());
    Scene::run(&boot(&[("a.test", &origin)]), async |scene| {
        let client = scene.inspected(to).await;
        // So that the origin's settings are known.
        client.again().get("/").await;
        let mut waiting = client.again();
        let silent = spawn_local(async move { waiting.get("/silent").await });
        while origin.seen().len() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(client.again().get("/").await.0, 200);
        assert_eq!(origin.connections(), 2);
        silent.abort();
    });
}

#[test]
fn a_certificate_that_does_not_verify_ends_it_before_the_request_is_sent() {
    for (cert, word) in [
        (CertKind::Expired, "expired"),
        (CertKind::NotYetValid, "not_yet_valid"),
        (CertKind::SelfSigned, "unknown_issuer"),
        (CertKind::WrongName, "wrong_name"),
    ] {
        let origin = OriginSpec::new("a.test").cert(cert).start();
        let (name, port) = ("a.test", origin.port());
        Scene::run(&boot(&[(name, &origin)]), async |scene| {
            let mut client = scene.inspected((name, port)).await;
            let (status, body) = client.get("/secret").await;
            let json: Value = serde_json::from_slice(&body).unwrap();
            let found = (status, json["code"].as_str(), json["detail"].as_str());
            assert_eq!(found, (502, Some("certificate_refused"), Some(word)));
            let detail = format!("a.test:{port}: the certificate is refused: {word}");
            let events = scene.events(1).await;
            assert!(
                events.contains(&AuditEvent::EgressRefused {
                    conn: ConnId(1),
                    transport: Transport::Inspected,
                    reason: DenyReason::CertificateRefused,
                    detail
                }),
                "{events:?}"
            );
            assert_eq!(origin.seen(), []);
        });
    }
}

#[test]
fn an_address_is_verified_as_an_address() {
    for (cert, status) in [(CertKind::Good, 200), (CertKind::WrongName, 502)] {
        let origin = OriginSpec::new("127.0.0.1").cert(cert).start();
        let to = ("127.0.0.1", origin.port());
        Scene::run(&boot(&[("127.0.0.1", &origin)]), async |scene| {
            assert_eq!(scene.inspected(to).await.get("/").await.0, status);
        });
    }
}

#[test]
fn what_is_not_tls_is_a_failed_dial_with_a_word() {
    let not_tls = OriginSpec::new("a.test").cert(CertKind::Plain);
    for (origin, word) in [
        (
            not_tls.clone().raw(b"HTTP/1.1 200 OK\r\n\r\n"),
            "tls_protocol",
        ),
        (not_tls.raw(b""), "tls_broke_off"),
        (OriginSpec::new("a.test").alpn(&["smtp"]), "tls_alert"),
    ] {
        let origin = origin.start();
        let to = ("a.test", origin.port());
        Scene::run(&boot(&[("a.test", &origin)]), async |scene| {
            let json = scene.inspected(to).await.json("/").await;
            let found = (json["code"].as_str(), json["detail"].as_str());
            assert_eq!(found, (Some("dial_failed"), Some(word)));
        });
    }
}

#[test]
fn a_plain_connection_is_never_used_for_an_inspected_request_nor_the_other_way_round() {
    let secure = OriginSpec::new("a.test").alpn(&["http/1.1"]).start();
    let plain = OriginSpec::new("b.test").cert(CertKind::Plain).start();
    let boot = boot(&[("a.test", &secure), ("b.test", &plain)]);
    Scene::run(&boot, async |scene| {
        for (to, good, bad) in [
            (
                ("a.test", secure.port()),
                Transport::Inspected,
                Transport::Forward,
            ),
            (
                ("b.test", plain.port()),
                Transport::Forward,
                Transport::Inspected,
            ),
        ] {
            let mut client = scene.client(Version::HTTP_11, good, to).await;
            assert_eq!(client.get("/").await.0, 200);
            // The kept connection is there and must not be taken.
            let mut other = scene.client(Version::HTTP_11, bad, to).await;
            assert_eq!(other.get("/").await.0, 502);
            assert_eq!(client.get("/").await.0, 200);
        }
        assert_eq!((secure.connections(), secure.seen().len()), (2, 2));
        assert_eq!((plain.connections(), plain.seen().len()), (2, 2));
    });
}

#[test]
fn events_arrive_one_by_one() {
    for alpn in ["h2", "http/1.1"] {
        let origin = OriginSpec::new("a.test").alpn(&[alpn]).start();
        let to = ("a.test", origin.port());
        Scene::run(&boot(&[("a.test", &origin)]), async |scene| {
            let mut client = scene.inspected(to).await;
            let request = Request::builder().uri("/sse").body(content("")).unwrap();
            let mut body = client.send(request).await.into_body();
            let mut arrived = Vec::new();
            while let Some(frame) = body.frame().await {
                let data = frame.unwrap().into_data().unwrap();
                if !data.is_empty() {
                    arrived.push((text(data), Instant::now()));
                }
            }
            let events: Vec<_> = arrived.iter().map(|(event, _)| event.as_str()).collect();
            assert_eq!(events, ["data: 1\n\n", "data: 2\n\n", "data: 3\n\n"]);
            assert!(arrived[2].1 - arrived[0].1 > SSE_GAP, "held back");
        });
    }
}

#[test]
fn trailers_pass_between_http_2_and_http_2_alone() {
    for (client_version, alpn, passes) in [
        (Version::HTTP_2, "h2", true),
        (Version::HTTP_2, "http/1.1", false),
        (Version::HTTP_11, "h2", false),
    ] {
        let origin = OriginSpec::new("a.test").alpn(&[alpn]).start();
        let to = ("a.test", origin.port());
        Scene::run(&boot(&[("a.test", &origin)]), async |scene| {
            let mut client = scene.client(client_version, Transport::Inspected, to).await;
            let request = Request::builder()
                .uri("/trailers")
                .body(content(""))
                .unwrap();
            let answer = client.send(request).await.collect().await.unwrap();
            let status = answer
                .trailers()
                .and_then(|trailers| trailers.get("grpc-status"));
            assert_eq!(
                status.map(HeaderValue::as_bytes),
                passes.then_some(&b"0"[..])
            );
            assert_eq!(answer.to_bytes(), &b"\0\0\0\0\x05hello"[..]);

            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", HeaderValue::from_static("1"));
            let frames = [Frame::data(Bytes::from("hi")), Frame::trailers(trailers)];
            let frames = futures_util::stream::iter(frames.map(Ok::<_, Infallible>));
            let request = Request::builder()
                .method("POST")
                .uri("/")
                .header("trailer", "x-sum")
                .body(StreamBody::new(frames).boxed_unsync())
                .unwrap();
            let body = client
                .send(request)
                .await
                .collect()
                .await
                .unwrap()
                .to_bytes();
            let json: Value = serde_json::from_slice(&body).unwrap();
            let expected = if passes {
                serde_json::json!([["x-sum", "1"]])
            } else {
                serde_json::json!([])
            };
            assert_eq!(
                (&json["body"], &json["trailers"]),
                (&"hi".into(), &expected)
            );
            // A body that ended with trailers is an end like any other.
            scene.events(2).await;
        });
    }
}

#[test]
fn an_answer_without_a_body_has_none_and_a_large_one_is_whole() {
    for alpn in ["h2", "http/1.1"] {
        let origin = OriginSpec::new("a.test").alpn(&[alpn]).start();
        let to = ("a.test", origin.port());
        Scene::run(&boot(&[("a.test", &origin)]), async |scene| {
            let mut client = scene.inspected(to).await;
            assert_eq!(client.get("/status/204").await, (204, Bytes::new()));
            assert_eq!(client.get("/status/304").await, (304, Bytes::new()));
            let head = Request::builder().method("HEAD").uri("/big");
            let response = client.send(head.body(content("")).unwrap()).await;
            assert!(response.status().is_success() && response.body().is_end_stream());
            let (status, body) = client.get("/big").await;
            assert_eq!((status, body.len()), (200, BIG));
            scene.events(4).await;
            assert_eq!(origin.connections(), 1);
        });
    }
}

#[test]
fn an_origin_that_says_nothing_ends_one_stream_and_not_its_session() {
    let origin = OriginSpec::new("a.test").start();
    let to = ("a.test", origin.port());
    let mut boot = boot(&[("a.test", &origin)]);
    boot.policy.limits.idle_seconds = 1;
    Scene::run(&boot, async |scene| {
        let mut client = scene.inspected(to).await;
        let json = client.json("/silent").await;
        assert_eq!(json["code"], "timed_out");
        assert_eq!(client.get("/").await.0, 200);
        assert_eq!(origin.connections(), 1);
    });
}

#[test]
fn provisional_answers_do_not_confuse() {
    let answer = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n\
                  HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nreal";
    let origin = OriginSpec::new("a.test")
        .alpn(&["http/1.1"])
        .raw(answer.as_bytes())
        .start();
    let to = ("a.test", origin.port());
    Scene::run(&boot(&[("a.test", &origin)]), async |scene| {
        let mut client = scene.inspected(to).await;
        assert_eq!(client.get("/").await, (200, Bytes::from("real")));
    });
}

#[test]
fn a_head_that_is_too_long_and_a_switch_nobody_asked_for_are_refused() {
    let long = |seen: &tls_origin::Seen| {
        let fields = if seen.path == "/long" { 90 } else { 1 };
        let mut response = Response::new(Bytes::new());
        for n in 0..fields {
            let name: hyper::header::HeaderName = format!("x-{n}").parse().unwrap();
            let value = HeaderValue::try_from("y".repeat(4096)).unwrap();
            response.headers_mut().insert(name, value);
        }
        response
    };
    for alpn in ["h2", "http/1.1"] {
        let origin = OriginSpec::new("a.test").alpn(&[alpn]).answer(long).start();
        let to = ("a.test", origin.port());
        Scene::run(&boot(&[("a.test", &origin)]), async |scene| {
            let mut client = scene.inspected(to).await;
            assert_eq!(client.get("/short").await.0, 200);
            assert_eq!(client.json("/long").await["code"], "dial_failed", "{alpn}");
        });
    }
    let switch = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n";
    let origin = OriginSpec::new("a.test").alpn(&[]).raw(switch).start();
    let to = ("a.test", origin.port());
    Scene::run(&boot(&[("a.test", &origin)]), async |scene| {
        let mut client = scene.inspected(to).await;
        assert_eq!(client.json("/").await["code"], "dial_failed");
    });
}

#[test]
fn sessions_of_tls_are_resumed() {
    let origin = OriginSpec::new("a.test")
        .alpn(&["http/1.1"])
        .answer(|_| {
            let mut response = Response::new(Bytes::from("once"));
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert("connection", close);
            response
        })
        .start();
    let to = ("a.test", origin.port());
    Scene::run(&boot(&[("a.test", &origin)]), async |scene| {
        let mut client = scene.inspected(to).await;
        for _ in 0..3 {
            assert_eq!(client.get("/").await.0, 200);
        }
        assert_eq!((origin.handshakes(), origin.resumed()), (3, 2));
    });
}

#[test]
fn a_drain_ends_every_session_and_what_still_uses_it() {
    let origin = OriginSpec::new("a.test").start();
    let to = ("a.test", origin.port());
    Scene::run(&boot(&[("a.test", &origin)]), async |scene| {
        let mut client = scene.inspected(to).await;
        assert_eq!(client.get("/").await.0, 200);
        let mut waiting = client.again();
        let silent = spawn_local(async move { waiting.json("/silent").await["code"].clone() });
        while origin.seen().len() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        scene.gate.pool.close().await;
        assert_eq!(silent.await.unwrap(), "dial_failed");
        scene.events(2).await;
    });
}

#[test]
fn a_policy_that_inspects_needs_an_authority_to_trust() {
    let origin = OriginSpec::new("a.test").start();
    let mut boot = boot(&[("a.test", &origin)]);
    boot.roots = "rubbish".to_owned();
    let build_it = |boot: &GateBoot| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .unwrap();
        build(&runtime, boot, StdUnixStream::pair().unwrap().0).map(drop)
    };
    let error = build_it(&boot).unwrap_err().to_string();
    assert!(
        error.starts_with("TLS is to be looked into, but none of the 0 "),
        "{error}"
    );
    boot.policy.mitm = false;
    build_it(&boot).unwrap();
}

#[test]
fn a_confined_gate_speaks_tls_to_origins() {
    // Only this thread is confined.
    let origin = OriginSpec::new("a.test").start();
    let bad = OriginSpec::new("b.test").cert(CertKind::WrongName).start();
    let old = OriginSpec::new("c.test").alpn(&["http/1.1"]).start();
    let boot = boot(&[("a.test", &origin), ("b.test", &bad), ("c.test", &old)]);
    let found = std::thread::scope(|scope| {
        let confined = scope.spawn(|| {
            let before = |gate: &Gate| confine(gate, &[]).unwrap();
            Scene::prepare(&boot, before, async |scene| {
                let mut found = Vec::new();
                for (name, origin) in [("a.test", &origin), ("b.test", &bad), ("c.test", &old)] {
                    let mut client = scene.inspected((name, origin.port())).await;
                    found.push(client.get("/big").await.0);
                }
                found
            })
        });
        confined.join().unwrap()
    });
    assert_eq!(found, [200, 502, 200]);
}

/// Opens a WebSocket and says hello over it; the answer, or the code of the refusal.
async fn websocket(scene: &Scene, transport: Transport, to: (&str, u16), path: &str) -> String {
    let (client, server) = tokio::io::duplex(4096);
    let (scene, host) = (scene.clone(), Host::parse(to.0).unwrap());
    let port = Port::new(to.1).unwrap();
    let told = Rc::new(RefCell::new(None));
    let tell = Rc::clone(&told);
    let service = service_fn(move |mut request: Request<Incoming>| {
        let (scene, host, tell) = (scene.clone(), host.clone(), Rc::clone(&tell));
        async move {
            let asked = EgressRequest {
                transport,
                host,
                port,
                method: Method::parse("GET"),
                path: Some(request.uri().path().to_owned()),
                websocket: true,
            };
            let upgraded = hyper::upgrade::on(&mut request);
            let permit = authorize(&scene.gate, ConnId(1), asked).await.unwrap();
            strip_request(request.headers_mut());
            let response = match open_websocket(&scene.gate, permit, request).await {
                Ok(Opened::Switched(head, origin)) => {
                    spawn_local(async move {
                        let client = TokioIo::new(upgraded.await.unwrap());
                        relay_upgraded(&scene.gate, client, origin).await;
                    });
                    head.map(|()| GateBody::empty())
                }
                Ok(Opened::Answered(response)) => response,
                Err(refusal) => {
                    tell.replace(Some(refusal.reason.code().to_owned()));
                    refuse(&refusal, After::Close)
                }
            };
            Ok::<_, Infallible>(response)
        }
    });
    let serving = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(server), service)
        .with_upgrades();
    spawn_local(async move { drop(serving.await) });
    let url = format!("ws://client.test{path}");
    match tokio_tungstenite::client_async(url, client).await {
        Ok((mut socket, _)) => {
            use futures_util::{SinkExt, StreamExt};
            socket.send("hello".into()).await.unwrap();
            let answer = socket.next().await.unwrap().unwrap();
            socket.close(None).await.unwrap();
            while socket.next().await.is_some() {}
            answer.into_text().unwrap().to_string()
        }
        Err(tokio_tungstenite::tungstenite::Error::Http(response)) => told
            .take()
            .unwrap_or_else(|| response.status().as_u16().to_string()),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn a_websocket_opens_over_tls_only_if_the_origin_read_its_key() {
    let origin = OriginSpec::new("a.test").start();
    let port = origin.port();
    Scene::run(&boot(&[("a.test", &origin)]), async |scene| {
        for (path, answer) in [
            ("/ws", "hello"),
            ("/ws-bad-accept", "dial_failed"),
            ("/no-websocket", "200"),
        ] {
            let found = websocket(&scene, Transport::Inspected, ("a.test", port), path).await;
            assert_eq!(found, answer, "{path}");
        }
        let hello = ("a.test".to_owned(), "http/1.1".to_owned());
        assert_eq!(origin.hellos(), vec![hello; 3]);
        let events = scene.events(3).await;
        let counted = events.iter().any(|event| {
            // A masked text of 5 bytes and a close frame up, the same unmasked down.
            matches!(event, AuditEvent::EgressClosed { bytes_up: up, bytes_down: down, .. }
                if *up >= 11 && *down >= 7)
        });
        assert!(counted, "{events:?}");
    });
}
