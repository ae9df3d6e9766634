//! Plain HTTP in a tunnel that is looked into: judged like TLS, by what the client says first.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use portcullis::audit::AuditEvent;
use portcullis::policy::{
    DenyReason, Method, NetworkMode, PathPattern, Transport, Verdict, WebsocketPolicy,
};

use crate::client::{Tls, config, connect, run, socks5};
use crate::scene::{HOST, Scene};
use crate::test_gate::GateSpec;
use crate::tls_origin::{CertKind, OriginSpec};

/// An origin without TLS.
fn plain(change: impl FnOnce(GateSpec) -> GateSpec) -> Scene {
    Scene::before(OriginSpec::new(HOST).cert(CertKind::Plain), change)
}

/// A rule for one method and path.
fn only(spec: GateSpec) -> GateSpec {
    spec.policy(|policy| {
        policy.rules[0].methods = vec![Method::parse("GET").unwrap()];
        policy.rules[0].paths = vec![PathPattern::parse("/ok/**").unwrap()];
    })
}

/// The doors that have a tunnel here.
const DOORS: [&str; 2] = ["connect", "socks5"];

/// A tunnel to the origin.
fn through(door: &str, scene: &Scene) -> TcpStream {
    match door {
        "connect" => connect(scene.gate.http, &scene.target()),
        _ => socks5(scene.gate.socks, HOST, scene.origin.port()),
    }
}

/// Everything that is answered to these bytes, the last of the client.
fn answered(mut stream: TcpStream, bytes: &str) -> String {
    stream.write_all(bytes.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer));
    String::from_utf8(answer).unwrap()
}

fn code(answer: &str) -> &str {
    let mut fields = answer.lines().filter_map(|line| line.split_once(": "));
    fields
        .find(|(name, _)| *name == "x-portcullis-denied")
        .map_or("", |(_, code)| code)
}

// D06
#[test]
fn each_plain_request_in_a_tunnel_is_judged_by_method_path_and_host() {
    let scene = plain(only);
    let target = scene.target();
    let port = scene.origin.port();
    let request = |line: &str, host: &str| {
        format!("{line} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n")
    };
    for (line, host, status, denied) in [
        ("GET /ok/a?q", target.as_str(), "200", ""),
        ("GET /no", &target, "403", "path_not_allowed"),
        ("POST /ok/a", &target, "403", "method_not_allowed"),
        ("GET /ok/a", "b.test", "400", "malformed"),
        // The port of the tunnel is none that goes without saying.
        ("GET /ok/a", HOST, "400", "malformed"),
        ("GET /ok/a", &format!("b.test:{port}"), "400", "malformed"),
        ("BREW /ok/a", &target, "400", "malformed"),
        ("CONNECT b.test:443", &target, "400", "malformed"),
        (
            &format!("GET http://{target}/ok/a"),
            &target,
            "400",
            "malformed",
        ),
    ] {
        for door in DOORS {
            let stream = through(door, &scene);
            let answer = answered(stream, &request(line, host));
            let expected = format!("HTTP/1.1 {status} ");
            assert!(answer.starts_with(&expected), "{door} {line} {answer}");
            assert_eq!(code(&answer), denied, "{door} {line}");
        }
    }
    let seen = scene.origin.seen();
    assert_eq!(seen.len(), 2);
    for seen in seen {
        let host = seen.header("host");
        assert_eq!((seen.path.as_str(), host), ("/ok/a?q", Some(&*target)));
    }
    // Each request has a decision and a number of its own.
    let events = scene.gate.audit.events();
    let forward: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            AuditEvent::EgressDecided {
                conn,
                transport: Transport::Forward,
                port: to,
                verdict,
                ..
            } => {
                assert_eq!(to.number(), port);
                Some((*conn, *verdict))
            }
            _ => None,
        })
        .collect();
    let count = |of| forward.iter().filter(|(_, verdict)| *verdict == of).count();
    assert_eq!((count(Verdict::Allow), count(Verdict::Deny)), (2, 4));
    let tunnels = events.iter().any(|event| {
        matches!(event, AuditEvent::EgressDecided { conn, transport: Transport::Connect | Transport::Socks5, .. }
            if forward.iter().any(|(number, _)| number == conn))
    });
    assert!(!tunnels);
}

#[test]
fn several_requests_share_a_plain_tunnel_and_an_ambiguous_one_ends_it() {
    let scene = plain(only);
    let target = scene.target();
    let get = |path| format!("GET {path} HTTP/1.1\r\nHost: {target}\r\n\r\n");
    let bad = format!(
        "POST /ok/x HTTP/1.1\r\nHost: {target}\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    for (sent, statuses) in [
        (
            [get("/ok/1"), get("/no"), get("/ok/2")].concat(),
            &["200", "403", "200"][..],
        ),
        ([bad, get("/ok/3")].concat(), &["400"]),
    ] {
        for door in DOORS {
            let stream = through(door, &scene);
            let answer = answered(stream, &sent);
            let told: Vec<_> = answer
                .split("HTTP/1.1 ")
                .skip(1)
                .map(|answer| answer.split(' ').next().unwrap())
                .collect();
            assert_eq!(told, statuses, "{door} {answer}");
        }
    }
    let paths: Vec<_> = scene.origin.seen().into_iter().map(|s| s.path).collect();
    assert_eq!(paths, ["/ok/1", "/ok/2", "/ok/1", "/ok/2"]);
}

#[test]
fn limited_mode_holds_for_plain_requests_in_a_tunnel() {
    let scene = plain(|spec| spec.policy(|policy| policy.mode = NetworkMode::Limited));
    let target = scene.target();
    for (line, fields, denied) in [
        ("GET /", "", ""),
        ("POST /", "Content-Length: 0\r\n", "method_not_allowed"),
        ("GET /", "Content-Length: 1\r\n", "malformed"),
        ("GET /", "X-HTTP-Method-Override: PUT\r\n", "malformed"),
    ] {
        for door in DOORS {
            let stream = through(door, &scene);
            let body = if fields.ends_with("1\r\n") { "x" } else { "" };
            let request = format!("{line} HTTP/1.1\r\nHost: {target}\r\n{fields}\r\n{body}");
            let answer = answered(stream, &request);
            assert_eq!(code(&answer), denied, "{door} {line} {fields} {answer}");
        }
    }
    assert_eq!(scene.origin.seen().len(), 2);
}

#[test]
fn a_websocket_is_opened_in_a_plain_tunnel_as_the_policy_says() {
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for (policy, status) in [
        (WebsocketPolicy::Allow, "101"),
        (WebsocketPolicy::Deny, "403"),
    ] {
        let scene = plain(|spec| spec.policy(|network| network.websocket = policy));
        for door in DOORS {
            let mut stream = through(door, &scene);
            let head = format!(
                "GET /ws HTTP/1.1\r\nHost: {}\r\n{upgrade}\r\n",
                scene.target()
            );
            stream.write_all(head.as_bytes()).unwrap();
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).unwrap();
            let expected = format!("HTTP/1.1 {status}");
            assert_eq!(answer, expected.as_bytes(), "{door} {policy:?}");
        }
    }
}

#[test]
fn curl_speaks_plain_http_through_a_tunnel() {
    let scene = plain(only);
    let url = |path: &str| format!("http://{}{path}", scene.target());
    let http = format!("http://{}", scene.gate.http);
    let socks = format!("socks5h://{}", scene.gate.socks);
    for proxy in [http, socks] {
        let curl = |path: &str| {
            let status = ["--write-out", "%{http_code}", "--output", "/dev/null"];
            let tunnel = ["--silent", "--max-time", "60", "--proxytunnel", "--proxy"];
            let url = url(path);
            let arguments = [&tunnel[..], &[&proxy], &status, &[&url]].concat();
            run("curl", &arguments, &[]).1
        };
        assert_eq!(curl("/ok/x"), "200", "{proxy}");
        assert_eq!(curl("/no"), "403", "{proxy}");
    }
    assert_eq!(scene.origin.seen().len(), 2);
}

// D06
#[test]
fn what_is_neither_tls_nor_http_is_refused_and_tls_is_still_looked_into() {
    let scene = Scene::with(|spec| spec.limits(|limits| limits.head_seconds = 2));
    for (bytes, reason) in [
        ("SSH-2.0-x\r\n", DenyReason::NotTls),
        ("\r\nGET / HTTP/1.1\r\n", DenyReason::NotTls),
        ("\0\0\0\x08", DenyReason::NotTls),
        (&"A".repeat(40), DenyReason::NotTls),
        // Not yet a request line, and a server that would speak first.
        ("GET", DenyReason::TimedOut),
        ("", DenyReason::TimedOut),
    ] {
        for door in DOORS {
            let mut stream = through(door, &scene);
            let before = scene.gate.audit.events().len();
            stream.write_all(bytes.as_bytes()).unwrap();
            let mut answer = Vec::new();
            drop(stream.read_to_end(&mut answer));
            assert_eq!(answer, [21, 3, 3, 0, 2, 2, 49], "{door} {bytes:?}");
            let events = scene.gate.audit.wait_for("a refusal", |events| {
                let mut new = events[before..].iter();
                new.any(|event| matches!(event, AuditEvent::EgressRefused { .. }))
            });
            let refused = events[before..].iter().find_map(|event| match event {
                AuditEvent::EgressRefused { reason, .. } => Some(*reason),
                _ => None,
            });
            assert_eq!(refused, Some(reason), "{door} {bytes:?}");
        }
    }
    assert!(scene.origin_is_untouched());
    for door in DOORS {
        let stream = through(door, &scene);
        let mut tls = Tls::over(stream, config(scene.authority(), &["http/1.1"]), HOST);
        assert_eq!(tls.ask("GET /", HOST, "").status(), 200, "{door}");
    }
}

#[test]
fn port_443_is_for_tls_alone() {
    let origin = OriginSpec::new(HOST).cert(CertKind::Plain).https();
    let scene = Scene::before(origin, only);
    for door in DOORS {
        let mut stream = through(door, &scene);
        let request = format!("GET /ok/ HTTP/1.1\r\nHost: {HOST}:443\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut told = Vec::new();
        drop(stream.read_to_end(&mut told));
        assert_eq!(told, [21, 3, 3, 0, 2, 2, 49], "{door}");
    }
    assert_eq!(scene.refusal().1, DenyReason::NotTls);
    assert!(scene.origin_is_untouched());
}

#[test]
fn a_client_that_ends_its_tls_after_its_request_is_answered() {
    let scene = Scene::new();
    let mut tls = Tls::open(&scene);
    tls.send(format!("GET /last HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    tls.0.conn.send_close_notify();
    tls.0.conn.complete_io(&mut tls.0.sock).unwrap();
    let answer = tls.answer();
    assert_eq!(
        (answer.status(), &answer.json()["path"]),
        (200, &"/last".into())
    );
    assert_eq!(tls.rest(), b"");
    let mut refused = Tls::open(&scene);
    refused.send("GET /no HTTP/1.1\r\nHost: b.test\r\n\r\n");
    refused.0.conn.send_close_notify();
    refused.0.conn.complete_io(&mut refused.0.sock).unwrap();
    assert_eq!(refused.answer().denied(), (421, "sni_mismatch".into()));
}
