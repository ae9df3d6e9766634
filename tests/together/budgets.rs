//! Budgets, where TLS is looked into.

use std::io::Read;

use hyper::http::request::Builder;
use portcullis::audit::EndedBy;
use portcullis::policy::{Answered, BudgetAction, BudgetKind, Budgets};
use portcullis::wire::gate::GateReply;

use crate::client::{H2, Tls};
use crate::raw::Raw;
use crate::scene::{HOST, Scene};
use crate::support::{WEBSOCKET, counters, ends, frame, runtime, websocket};
use crate::tls_origin::{CertKind, OriginSpec};

fn limited(toml: &str) -> Scene {
    before(OriginSpec::new(HOST), toml)
}

fn before(origin: OriginSpec, toml: &str) -> Scene {
    let budgets: Budgets = toml::from_str(toml).unwrap();
    Scene::before(origin, |spec| {
        spec.policy(|policy| policy.budgets = budgets)
    })
}

fn post(request: Builder) -> Builder {
    request.method("POST")
}

/// What is used of the one budget.
fn used(scene: &Scene) -> u64 {
    counters(&scene.gate).budgets[0].used
}

fn text(length: usize) -> &'static str {
    Box::leak("x".repeat(length).into_boxed_str())
}

#[test]
fn a_request_in_a_tunnel_counts_once_and_its_tunnel_does_not() {
    for kind in [
        "requests = { max = 3, action = 'deny' }",
        "rate = { max = 3, per = '1h', action = 'deny' }",
    ] {
        let scene = limited(kind);
        let mut statuses = Vec::new();
        // Two tunnels, five requests.
        for count in [2, 3] {
            let mut tls = Tls::open(&scene);
            for _ in 0..count {
                statuses.push(tls.ask("GET /", HOST, "").denied());
            }
        }
        let (fine, used_up) = ((200, String::new()), (429, "budget_exhausted".to_owned()));
        assert_eq!(
            statuses,
            [&fine, &fine, &fine, &used_up, &used_up].map(Clone::clone),
            "{kind}"
        );
        let told = counters(&scene.gate);
        assert_eq!(
            (told.requests, told.denied, told.budgets[0].used),
            (3, 2, 3)
        );
        // No connection to the network belongs to a tunnel itself.
        assert_eq!((told.hosts[0].requests, told.connections_total), (3, 1));
        assert_eq!(scene.gate.drain().allowed, 3);
        assert_eq!(scene.origin.seen().len(), 3);
    }
}

#[test]
fn only_connections_to_the_network_are_counted() {
    for alpn in [&["h2", "http/1.1"][..], &["http/1.1"]] {
        let origin = OriginSpec::new(HOST).alpn(alpn);
        let scene = before(origin, "connections = { max = 1, action = 'deny' }");
        for _ in 0..3 {
            let mut tls = Tls::open(&scene);
            for _ in 0..3 {
                assert_eq!(tls.ask("GET /", HOST, "").status(), 200, "{alpn:?}");
            }
        }
        assert_eq!((used(&scene), scene.origin.connections()), (1, 1));
        // A WebSocket has a connection of its own.
        let refused = Tls::open(&scene).ask("GET /ws", HOST, WEBSOCKET);
        assert_eq!(refused.denied(), (429, "budget_exhausted".to_owned()));
        assert_eq!(Tls::open(&scene).ask("GET /", HOST, "").status(), 200);
        assert_eq!(scene.origin.connections(), 1);
    }
}

#[test]
fn requests_side_by_side_that_share_a_connection_count_as_one() {
    let scene = limited("connections = { max = 1, action = 'deny' }");
    let runtime = runtime();
    let mut h2 = runtime.block_on(H2::open(&scene));
    let mut under_way = tokio::task::JoinSet::new();
    for n in 0..40 {
        let started = runtime.block_on(h2.start(&format!("/{n}")));
        under_way.spawn_on(started, runtime.handle());
    }
    while let Some(answered) = runtime.block_on(under_way.join_next()) {
        assert_eq!(answered.unwrap().unwrap().status(), 200);
    }
    assert_eq!((used(&scene), scene.origin.connections()), (1, 1));
}

#[test]
fn a_budget_of_connections_that_asks_holds_a_request_before_anything_is_dialed() {
    let scene = limited("connections = { max = 1, action = 'ask' }");
    assert_eq!(Tls::open(&scene).ask("GET /", HOST, "").status(), 200);
    let mut tls = Tls::open(&scene);
    tls.send(format!(
        "GET /ws HTTP/1.1\r\nHost: {HOST}\r\n{WEBSOCKET}\r\n"
    ));
    let asked = loop {
        match scene.gate.reply() {
            GateReply::Question(question) => break question,
            GateReply::Limit(_) => {}
            other => panic!("no question: {other:?}"),
        }
    };
    assert_eq!((asked.budget, scene.origin.connections()), (true, 1));
    crate::support::answer(&scene.gate, &asked, Answered::Allow);
    assert_eq!(tls.head().status(), 101);
    assert_eq!((used(&scene), scene.origin.connections()), (2, 2));
}

#[test]
fn uploads_side_by_side_over_http2_are_counted_to_the_byte() {
    let scene = limited("bytes_up = { max = '100M', action = 'deny' }");
    let runtime = runtime();
    let mut h2 = runtime.block_on(H2::open(&scene));
    let sizes: Vec<usize> = (1..=8).map(|n| n * 70_001).collect();
    let mut uploads = tokio::task::JoinSet::new();
    for size in &sizes {
        let mut h2 = h2.clone();
        let size = *size;
        uploads.spawn_on(
            async move {
                let (status, body) = h2.ask("/up", post, text(size)).await;
                (status, body["body"].as_str().unwrap().len() == size)
            },
            runtime.handle(),
        );
    }
    while let Some(uploaded) = runtime.block_on(uploads.join_next()) {
        assert_eq!(uploaded.unwrap(), (200, true));
    }
    let mut sent: Vec<u64> = ends(&scene.gate, 8).iter().map(|end| end.0).collect();
    sent.sort_unstable();
    let expected: Vec<u64> = sizes.iter().map(|size| *size as u64).collect();
    assert_eq!(sent, expected);
    let total: u64 = expected.iter().sum();
    assert_eq!(counters(&scene.gate).bytes_up, total);
    // Beside the bodies the budget has the heads: the path, and the length's name and digits.
    let head =
        |size: &usize| ("/up".len() + "content-length".len() + size.to_string().len()) as u64;
    assert_eq!(used(&scene) - total, sizes.iter().map(head).sum::<u64>());
    let (status, _) = runtime.block_on(h2.ask("/last", |request| request, ""));
    assert_eq!(status, 200);
}

#[test]
fn uploads_side_by_side_over_http2_share_one_budget_to_the_byte() {
    let max = 1_000_003;
    let scene = limited(&format!("bytes_up = {{ max = {max}, action = 'deny' }}"));
    let runtime = runtime();
    let h2 = runtime.block_on(H2::open(&scene));
    let mut uploads = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let mut h2 = h2.clone();
        let send = async move {
            h2.send("/up", post, text(300_000))
                .await
                .map(|r| r.status())
        };
        uploads.spawn_on(send, runtime.handle());
    }
    let mut fine = 0;
    while let Some(uploaded) = runtime.block_on(uploads.join_next()) {
        // The others are refused, or broken off.
        fine += usize::from(uploaded.unwrap().is_ok_and(|status| status == 200));
    }
    assert!(fine <= 3, "{fine}");
    assert_eq!(used(&scene), max);
    let sent: u64 = ends(&scene.gate, 8).iter().map(|end| end.0).sum();
    // The rest are the heads.
    assert!(sent < max && max - sent < 8 * 200, "{sent}");
}

#[test]
fn frames_of_an_inspected_websocket_are_counted_and_end_at_the_limit() {
    let scene = limited("bytes_up = { max = 100000, action = 'deny' }");
    let mut tls = websocket(&scene);
    let head = used(&scene);
    let message = frame(&[7; 10_000]);
    let mut echo = vec![0; message.len() - 4];
    for _ in 0..5 {
        tls.send(&message);
        tls.0.read_exact(&mut echo).unwrap();
    }
    let five = 5 * message.len() as u64;
    assert_eq!(used(&scene) - head, five);
    assert_eq!(counters(&scene.gate).bytes_up, five);
    for _ in 0..10 {
        tls.send(&message);
    }
    tls.rest();
    let found = ends(&scene.gate, 1);
    let of_frames = found.iter().find(|end| end.0 > 0).unwrap();
    assert_eq!(
        (of_frames.0, of_frames.2),
        (100_000 - head, EndedBy::Budget)
    );
    assert_eq!(used(&scene), 100_000);
}

#[test]
fn frames_of_a_plain_websocket_are_counted_and_end_at_the_limit() {
    let origin = OriginSpec::new(HOST).cert(CertKind::Plain);
    let scene = before(origin, "bytes_up = { max = 50000, action = 'deny' }");
    let target = scene.target();
    let mut client = Raw::open(scene.gate.http);
    client.send(format!(
        "GET http://{target}/ws HTTP/1.1\r\nHost: {target}\r\n{WEBSOCKET}\r\n"
    ));
    assert_eq!(client.response().status(), 101);
    let head = used(&scene);
    let message = frame(&[7; 10_000]);
    client.send(&message);
    client.exactly(message.len() - 4);
    assert_eq!(used(&scene) - head, message.len() as u64);
    for _ in 0..10 {
        client.send(&message);
    }
    client.rest();
    assert_eq!(ends(&scene.gate, 1)[0].0, 50_000 - head);
    assert_eq!(ends(&scene.gate, 1)[0].2, EndedBy::Budget);
}

#[test]
fn a_budget_that_kills_is_told_when_an_inner_request_uses_it_up() {
    let scene = limited("requests = { max = 1, action = 'kill' }");
    let mut tls = Tls::open(&scene);
    assert_eq!(tls.ask("GET /", HOST, "").status(), 200);
    let refused = tls.ask("GET /", HOST, "");
    assert_eq!(refused.denied(), (429, "budget_exhausted".to_owned()));
    let GateReply::Limit(notice) = scene.gate.reply() else {
        panic!("not told");
    };
    assert_eq!(
        (notice.what, notice.action),
        (BudgetKind::Requests, BudgetAction::Kill)
    );
}

#[test]
fn a_budget_that_asks_holds_an_upload_and_a_yes_lets_it_go_on() {
    let scene = limited("bytes_up = { max = 100000, action = 'ask' }");
    let runtime = runtime();
    let mut h2 = runtime.block_on(H2::open(&scene));
    let upload = runtime.spawn(async move { h2.ask("/up", post, text(150_000)).await });
    let asked = loop {
        match scene.gate.reply() {
            GateReply::Question(question) => break question,
            GateReply::Limit(_) => {}
            other => panic!("no question: {other:?}"),
        }
    };
    assert!(asked.budget);
    assert_eq!(asked.host.to_string(), HOST);
    crate::support::answer(&scene.gate, &asked, Answered::Allow);
    let (status, body) = runtime.block_on(upload).unwrap();
    assert_eq!(
        (status, body["body"].as_str().unwrap().len()),
        (200, 150_000)
    );
    assert_eq!(ends(&scene.gate, 1)[0].0, 150_000);
}
