//! HTTP/2 within TLS: its requests, its bounds, and floods.

use std::io::{ErrorKind, Read, Write};

use http_body_util::BodyExt;
use portcullis::audit::AuditEvent;
use portcullis::policy::{DenyReason, PathPattern, Transport, Verdict};

use crate::client::{H2, Tls, config, connect};
use crate::scene::{HOST, Scene};

#[tokio::test]
async fn requests_run_side_by_side_and_each_is_judged() {
    let scene = Scene::with(|spec| {
        spec.policy(|policy| policy.rules[0].paths = vec![PathPattern::parse("/ok/**").unwrap()])
    });
    let mut client = H2::open(&scene).await;
    for n in 0..5 {
        let path = format!("/ok/{n}?q");
        let (status, body) = client
            .ask(&path, |request| request.method("POST"), "hello")
            .await;
        assert_eq!((status, &body["body"]), (200, &"hello".into()));
        assert_eq!(body["path"], path.as_str());
        let (status, body) = client.ask("/no", |request| request, "").await;
        assert_eq!((status, &body["code"]), (403, &"path_not_allowed".into()));
    }
    let judged = scene.judged();
    let count = |verdict| judged.iter().filter(|(.., have)| *have == verdict).count();
    assert_eq!((count(Verdict::Allow), count(Verdict::Deny)), (5, 5));
    assert_eq!(scene.origin.seen().len(), 5);
    // Each has a number of its own, and each that was let through an end of its own.
    let events = scene.gate.audit.events();
    let mut numbers: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            AuditEvent::EgressDecided { conn, .. } => Some(*conn),
            _ => None,
        })
        .collect();
    numbers.dedup();
    assert_eq!(numbers.len(), 11);
}

#[tokio::test]
async fn a_method_that_is_none_and_a_path_that_is_none_are_refused() {
    let scene = Scene::new();
    let mut client = H2::open(&scene).await;
    for method in ["TRACE", "get", "BREW"] {
        let (status, _) = client.ask("/", |request| request.method(method), "").await;
        assert_eq!(status, 400, "{method}");
    }
    let (_, reason, _) = scene.refusal();
    assert_eq!(reason, DenyReason::Malformed);
    assert!(scene.origin_is_untouched());
    let head = client.send("/", |request| request.method("HEAD"), "").await;
    assert_eq!(head.unwrap().status(), 200);
}

#[tokio::test]
async fn answers_have_no_field_of_one_hop() {
    let scene = Scene::new();
    let mut client = H2::open(&scene).await;
    let response = client.send("/sse", |request| request, "").await.unwrap();
    for name in ["connection", "transfer-encoding", "keep-alive", "upgrade"] {
        assert!(!response.headers().contains_key(name), "{name}");
    }
    let mut body = response.into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(&first[..], b"data: 1\n\n");
}

// === Raw frames ===

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let stream = stream.to_be_bytes();
    [&length[1..], &[kind, flags], &stream, payload].concat()
}

/// Fields as literals without indexing (RFC 7541 section 6.2.2).
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name, value] {
            bytes.push(u8::try_from(text.len()).unwrap());
            bytes.extend(text.as_bytes());
        }
    }
    bytes
}

fn request(path: &str, authority: &str) -> Vec<u8> {
    block(&[
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", authority),
        (":path", path),
    ])
}

fn open(scene: &Scene) -> Tls {
    let stream = connect(scene.gate.http, &scene.target());
    let mut tls = Tls::over(stream, config(scene.authority(), &["h2"]), HOST);
    tls.send([PREFACE, &frame(SETTINGS, 0, 0, &[])].concat());
    tls
}

/// Reads frames until one of these kinds, or the end.
fn until(tls: &mut Tls, wanted: &[u8]) -> Option<(u8, Vec<u8>)> {
    loop {
        let mut head = [0; 9];
        read_or_end(tls, &mut head)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        read_or_end(tls, &mut payload)?;
        if wanted.contains(&head[3]) {
            return Some((head[3], payload));
        }
    }
}

/// `None`: the connection ended.
fn read_or_end(tls: &mut Tls, into: &mut [u8]) -> Option<()> {
    match tls.0.read_exact(into) {
        Ok(()) => Some(()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("neither answer nor end"),
        Err(_) => None,
    }
}

fn is_alive(scene: &Scene) {
    let mut tls = Tls::open(scene);
    assert_eq!(tls.ask("GET /alive", HOST, "").status(), 200);
}

/// Reason and detail of each refusal on record, once the tunnel is over.
fn refusals(scene: &Scene) -> Vec<(DenyReason, String)> {
    let events = scene.gate.audit.wait_for("the tunnel's end", |events| {
        let is_end = |event: &AuditEvent| matches!(event, AuditEvent::EgressClosed { .. });
        events.iter().any(is_end)
    });
    let refused = events.into_iter().filter_map(|event| match event {
        AuditEvent::EgressRefused { reason, detail, .. } => Some((reason, detail)),
        _ => None,
    });
    refused.collect()
}

// D10
#[test]
fn what_the_library_refuses_is_on_record() {
    let authority = "a.test";
    let with = |extra: &[(&str, &str)]| [request("/", authority), block(extra)].concat();
    let malformed = "HTTP/2: a malformed request: PROTOCOL_ERROR";
    let broken = "HTTP/2: the connection is malformed: ";
    let headers = |flags, block: &[u8]| frame(HEADERS, END_HEADERS | flags, 1, block);
    let big = block(&[("x", &"y".repeat(120))]).repeat(110);
    for (what, sent, detail) in [
        ("two paths", headers(END_STREAM, &with(&[(":path", "/b")])), malformed.to_owned()),
        ("connection", headers(END_STREAM, &with(&[("connection", "close")])), malformed.to_owned()),
        ("capitals", headers(END_STREAM, &with(&[("X-Y", "1")])), format!("{broken}PROTOCOL_ERROR")),
        ("content that is not there", headers(END_STREAM, &with(&[("content-length", "5")])), malformed.to_owned()),
        (
            "a long head of a request with content",
            headers(0, &[with(&[]), big.clone()].concat()),
            "HTTP/2: the head is too long".to_owned(),
        ),
        (
            "a long head",
            headers(END_STREAM, &[with(&[]), big].concat()),
            "HTTP/2: 1 without a record of their own: malformed, too long a head, or given up at once".to_owned(),
        ),
        ("no such entry", headers(END_STREAM, &[0xff, 0xff, 0x7f]), format!("{broken}PROTOCOL_ERROR")),
        ("an even stream", frame(HEADERS, END_HEADERS | END_STREAM, 2, &with(&[])), format!("{broken}PROTOCOL_ERROR")),
        ("a frame too long", frame(DATA, 0, 1, &vec![0; 17000]), format!("{broken}FRAME_SIZE_ERROR")),
    ] {
        let scene = Scene::with(|spec| spec.limits(|limits| limits.head_bytes = 8 << 10));
        let mut tls = open(&scene);
        tls.send(&sent);
        until(&mut tls, &[HEADERS, RST_STREAM, GOAWAY]);
        drop(tls);
        assert_eq!(refusals(&scene), [(DenyReason::Malformed, detail)], "{what}");
        assert!(scene.origin_is_untouched(), "{what}");
    }
    // A request that is none of this has no such record.
    let scene = Scene::new();
    let mut tls = open(&scene);
    tls.send(headers(END_STREAM, &request("/", &scene.target())));
    assert_eq!(
        until(&mut tls, &[HEADERS, RST_STREAM, GOAWAY]).unwrap().0,
        HEADERS
    );
    until(&mut tls, &[DATA]);
    drop(tls);
    assert_eq!(refusals(&scene), []);
    assert_eq!(scene.judged().len(), 1);
}

// D10, E25
#[test]
fn many_refusals_of_one_connection_are_few_records() {
    let scene = Scene::new();
    let bad = [request("/", &scene.target()), block(&[("connection", "x")])].concat();
    let bad = |n: u32| frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &bad);
    let mut tls = open(&scene);
    for n in 0..12 {
        tls.send(bad(n));
        assert!(until(&mut tls, &[RST_STREAM]).is_some());
    }
    drop(tls);
    let malformed = "HTTP/2: a malformed request: PROTOCOL_ERROR".to_owned();
    let mut expected = vec![(DenyReason::Malformed, malformed); 8];
    let more =
        "HTTP/2: 4 without a record of their own: malformed, too long a head, or given up at once";
    expected.push((DenyReason::Malformed, more.to_owned()));
    assert_eq!(refusals(&scene), expected);
    // As many at once as it takes.
    let scene = Scene::new();
    let mut tls = open(&scene);
    for n in 0..1000 {
        if tls.0.write_all(&bad(n)).is_err() {
            break;
        }
    }
    drop(tls.0.flush());
    assert!(until(&mut tls, &[GOAWAY]).is_some() || tls.rest().is_empty());
    drop(tls);
    let refused = refusals(&scene);
    assert!((1..=9).contains(&refused.len()), "{refused:?}");
    let calm = refused
        .iter()
        .any(|(_, detail)| detail.contains("ENHANCE_YOUR_CALM"));
    let counted = refused
        .last()
        .unwrap()
        .1
        .contains("without a record of their own");
    assert!(calm || counted, "{refused:?}");
    assert!(scene.origin_is_untouched());
    is_alive(&scene);
}

#[test]
fn requests_that_are_given_up_leave_a_record_of_their_decision_and_no_other() {
    let scene = Scene::new();
    let mut tls = open(&scene);
    let block = request("/sse", &scene.target());
    tls.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, &block));
    assert_eq!(
        until(&mut tls, &[HEADERS, RST_STREAM, GOAWAY]).unwrap().0,
        HEADERS
    );
    tls.send(frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]));
    scene.gate.audit.wait_for_one("its end", |event| {
        matches!(event, AuditEvent::EgressClosed { .. })
    });
    tls.send(frame(GOAWAY, 0, 0, &[0; 8]));
    drop(tls);
    scene.gate.audit.wait_for("both ends", |events| {
        let is_end = |event: &&AuditEvent| matches!(event, AuditEvent::EgressClosed { .. });
        events.iter().filter(is_end).count() == 2
    });
    assert_eq!(refusals(&scene), []);
}

// D10
#[test]
fn malformed_requests_of_http2_reach_nothing() {
    let scene = Scene::new();
    let authority = scene.target();
    let good = request("/", &authority);
    let with = |extra: &[(&str, &str)]| [good.clone(), block(extra)].concat();
    for (what, block) in [
        ("two paths", with(&[(":path", "/b")])),
        ("two authorities", with(&[(":authority", "b.test")])),
        ("connection", with(&[("connection", "close")])),
        (
            "transfer-encoding",
            with(&[("transfer-encoding", "chunked")]),
        ),
        ("upgrade", with(&[("upgrade", "websocket")])),
        ("te", with(&[("te", "gzip")])),
        ("capitals", with(&[("X-Y", "1")])),
        ("unknown pseudo-field", with(&[(":x", "1")])),
        ("empty path", request("", &authority)),
        ("content-length", with(&[("content-length", "5")])),
    ] {
        let mut tls = open(&scene);
        tls.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, &block));
        // Reset, or the connection ended, or refused by us.
        if let Some((HEADERS, answer)) = until(&mut tls, &[HEADERS, RST_STREAM, GOAWAY]) {
            // 400 (RFC 7541 appendix A).
            assert!(answer.contains(&0x8c), "{what}: {answer:x?}");
        }
    }
    for path in ["https://b.test/", "b", "*"] {
        let mut tls = open(&scene);
        let block = request(path, &authority);
        tls.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, &block));
        if let Some((DATA, body)) = until(&mut tls, &[DATA, RST_STREAM, GOAWAY]) {
            assert!(body.windows(9).any(|at| at == b"malformed"), "{path}");
        }
    }
    assert!(scene.origin_is_untouched());
    is_alive(&scene);
}

// E25
#[test]
fn streams_that_are_reset_at_once_end_the_connection_and_the_log_keeps_up() {
    let scene = Scene::new();
    let mut tls = open(&scene);
    let block = request("/flood", &scene.target());
    for n in 0..5000_u32 {
        let stream = 2 * n + 1;
        let both = [
            frame(HEADERS, END_HEADERS | END_STREAM, stream, &block),
            frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]),
        ]
        .concat();
        if tls.0.write_all(&both).is_err() {
            break;
        }
    }
    drop(tls.0.flush());
    assert!(until(&mut tls, &[GOAWAY]).is_some() || tls.rest().is_empty());
    is_alive(&scene);
    let events = scene.gate.audit.events();
    let lost = events.iter().any(|event| {
        matches!(
            event,
            AuditEvent::EgressRefused {
                reason: DenyReason::AuditUnavailable,
                ..
            }
        )
    });
    assert!(!lost);
}

// E25
#[test]
fn a_header_block_without_end_or_one_that_unpacks_to_much_is_refused() {
    let scene = Scene::new();
    // CONTINUATION frames that never end.
    let mut tls = open(&scene);
    let block = request("/flood", &scene.target());
    tls.send(frame(HEADERS, END_STREAM, 1, &block));
    let more = frame(
        CONTINUATION,
        0,
        1,
        &self::block(&[("x", &"y".repeat(100))]).repeat(150),
    );
    for _ in 0..2000 {
        if tls.0.write_all(&more).is_err() {
            break;
        }
    }
    drop(tls.0.flush());
    assert!(until(&mut tls, &[GOAWAY]).is_some() || tls.rest().is_empty());
    // One entry of the table of 4 KB, and a reference of one byte to it many times over.
    let mut tls = open(&scene);
    let mut bomb = request("/bomb", &scene.target());
    bomb.extend([0x40, 1, b'x', 0x7f, 0xa1, 0x1e]);
    bomb.extend([b'y'; 4000]);
    bomb.extend([0xbe; 9000]);
    tls.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, &bomb));
    // Answered with 431 by the library, or the end.
    drop(until(&mut tls, &[HEADERS]));
    assert!(scene.origin_is_untouched());
    assert_eq!(scene.judged(), []);
    is_alive(&scene);
}

// E25
#[test]
fn a_flood_of_settings_and_pings_takes_neither_memory_nor_others_turn() {
    const PING: u8 = 6;
    for (kind, length) in [(SETTINGS, 6), (PING, 8)] {
        let scene = Scene::new();
        is_alive(&scene);
        let before = resident_kilobytes(&scene);
        let mut tls = open(&scene);
        // A gate that waits for its answers to be read takes no more.
        let wait = Some(std::time::Duration::from_secs(2));
        tls.0.sock.set_write_timeout(wait).unwrap();
        // Either a size of the header table, or any eight bytes.
        let payload = [0, 1, 0, 0, 16, 0, 0, 0];
        let many = frame(kind, 0, 0, &payload[..length]).repeat(1000);
        for _ in 0..300 {
            if tls.0.write_all(&many).is_err() {
                break;
            }
        }
        is_alive(&scene);
        let grown = resident_kilobytes(&scene).saturating_sub(before);
        assert!(grown < 16 << 10, "frames of kind {kind}: {grown} KB");
        assert_eq!(scene.origin.seen().len(), 2);
    }
}

fn resident_kilobytes(scene: &Scene) -> u64 {
    let status = format!("/proc/{}/status", scene.gate.child.id());
    let status = std::fs::read_to_string(status).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    line.unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap()
}

#[test]
fn a_connection_without_a_request_does_not_stay() {
    let scene = Scene::with(|spec| spec.limits(|limits| limits.head_seconds = 1));
    let mut tls = open(&scene);
    assert!(until(&mut tls, &[GOAWAY]).is_some());
    drop(tls);
    let closed = scene.gate.audit.wait_for_one("the end", |event| {
        matches!(event, AuditEvent::EgressClosed { .. })
    });
    drop(closed);
    assert!(scene.origin_is_untouched());
}

#[test]
fn an_extended_connect_for_something_else_is_refused() {
    let scene = Scene::new();
    let authority = scene.target();
    for (protocol, path) in [("connect-udp", "/"), ("webtransport", "/")] {
        let mut tls = open(&scene);
        let block = block(&[
            (":method", "CONNECT"),
            (":protocol", protocol),
            (":scheme", "https"),
            (":authority", &authority),
            (":path", path),
        ]);
        tls.send(frame(HEADERS, END_HEADERS, 1, &block));
        let (_, body) = until(&mut tls, &[DATA]).unwrap();
        assert!(body.windows(9).any(|at| at == b"malformed"), "{protocol}");
    }
    let mut tls = open(&scene);
    let block = block(&[(":method", "CONNECT"), (":authority", "b.test:443")]);
    tls.send(frame(HEADERS, END_HEADERS, 1, &block));
    let (_, body) = until(&mut tls, &[DATA]).unwrap();
    assert!(body.windows(9).any(|at| at == b"malformed"));
    let (transport, reason, _) = scene.refusal();
    assert_eq!(
        (transport, reason),
        (Transport::Inspected, DenyReason::Malformed)
    );
    assert!(scene.origin_is_untouched());
}

#[tokio::test]
async fn a_status_in_trailers_comes_through() {
    let scene = Scene::new();
    let mut client = H2::open(&scene).await;
    let response = client
        .send("/trailers", |request| request, "")
        .await
        .unwrap();
    let collected = response.into_body().collect().await.unwrap();
    let trailers = collected.trailers().unwrap();
    assert_eq!(trailers.get("grpc-status").unwrap(), "0");
    assert_eq!(&collected.to_bytes()[..], b"\0\0\0\0\x05hello");
}

#[tokio::test]
async fn many_requests_at_once_are_all_answered() {
    let scene = Scene::new();
    let mut client = H2::open(&scene).await;
    let mut waiting = tokio::task::JoinSet::new();
    for n in 0..150 {
        let asked = client.start(&format!("/{n}")).await;
        waiting.spawn(async move { (n, asked.await.unwrap()) });
    }
    while let Some(answered) = waiting.join_next().await {
        let (n, response) = answered.unwrap();
        assert_eq!(response.status(), 200, "{n}");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["path"], format!("/{n}"));
    }
    assert_eq!(scene.judged().len(), 150);
}

#[tokio::test]
async fn requests_under_way_are_on_record_when_the_gate_has_drained() {
    let scene = Scene::new();
    let mut client = H2::open(&scene).await;
    let mut answers = Vec::new();
    for _ in 0..3 {
        let response = client.send("/sse", |request| request, "").await.unwrap();
        answers.push(response);
    }
    scene.gate.drain();
    let events = scene.gate.audit.events();
    let decided = events
        .iter()
        .filter(|event| matches!(event, AuditEvent::EgressDecided { .. }));
    let closed = events
        .iter()
        .filter(|event| matches!(event, AuditEvent::EgressClosed { .. }));
    assert_eq!((decided.count(), closed.count()), (4, 4), "{events:#?}");
}

#[test]
fn a_client_may_send_no_more_ahead_than_is_good_for_it() {
    let scene = Scene::new();
    let mut tls = open(&scene);
    let (_, settings) = until(&mut tls, &[SETTINGS]).unwrap();
    let windows: Vec<u32> = settings
        .chunks(6)
        // SETTINGS_INITIAL_WINDOW_SIZE (RFC 9113 section 6.5.2).
        .filter(|setting| setting[..2] == [0, 4])
        .map(|setting| u32::from_be_bytes(setting[2..].try_into().unwrap()))
        .collect();
    assert_eq!(windows, [256 << 10]);
    let (_, grown) = until(&mut tls, &[WINDOW_UPDATE]).unwrap();
    let grown = u32::from_be_bytes(grown.try_into().unwrap());
    assert_eq!(65_535 + grown, 1 << 20);
}
