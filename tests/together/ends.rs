//! The end, of the gate and of the audit writer, with everything open at once.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use portcullis::audit::{AuditEvent, EndedBy};
use portcullis::policy::{Effect, Protocol, QuestionEnd, Verdict};

use crate::client::{H2, Tls};
use crate::raw::{Raw, a_moment};
use crate::scene::{HOST, Scene};
use crate::support::{WEBSOCKET, endings, frame, question, runtime, websocket};
use crate::test_gate::PATIENCE;
use crate::tls_origin::{CertKind, OriginSpec};
use crate::upstream::Origin;

/// Longer than a drain may take by all its bounds together.
const DRAINED: Duration = Duration::from_secs(15);

#[test]
fn a_drain_with_everything_open_records_one_end_of_each_and_takes_no_longer_than_it_may() {
    let plain = OriginSpec::new(HOST).cert(CertKind::Plain).start();
    let bytes = Origin::echo_bytes();
    let echo = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let datagrams = echo.local_addr().unwrap().port();
    let scene = Scene::with(|spec| {
        let asked = spec
            .allow(HOST, &[plain.port()])
            .rule("127.0.0.1", &[datagrams], Effect::Allow)
            .allow("bytes.test", &[bytes.port()])
            .host("bytes.test", "127.0.0.1")
            .rule("ask.test", &[443], Effect::Ask);
        asked.policy(|policy| {
            policy.rules[2].protocol = Protocol::Udp;
            policy.rules[3].protocol = Protocol::Tcp;
            policy.enable_socks5_udp = true;
        })
    });
    let gate = &scene.gate;
    // A tunnel of bare bytes.
    let mut tunnel = Raw::open(gate.http);
    tunnel
        .connect(&format!("bytes.test:{}", bytes.port()))
        .send("x");
    assert_eq!(tunnel.exactly(1), b"x");
    // Inspected: idle, with a request under way over either protocol, WebSockets of both kinds.
    let idle = Tls::open(&scene);
    let mut h1 = Tls::open(&scene);
    h1.send(format!("GET /silent HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    let runtime = runtime();
    let mut h2 = runtime.block_on(H2::open(&scene));
    let mut under_way = Vec::new();
    for _ in 0..3 {
        let started = runtime.block_on(h2.start("/silent"));
        under_way.push(runtime.spawn(started));
    }
    let mut socket = websocket(&scene);
    socket.send(frame(b"hello"));
    socket.0.read_exact(&mut [0; 7]).unwrap();
    let target = format!("{HOST}:{}", plain.port());
    let mut ws = Raw::open(gate.http);
    ws.send(format!(
        "GET http://{target}/ws HTTP/1.1\r\nHost: {target}\r\n{WEBSOCKET}\r\n"
    ));
    assert_eq!(ws.response().status(), 101);
    // An upload that is not over.
    let mut upload = Tls::open(&scene);
    upload.send(format!(
        "POST /up HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 1000000\r\n\r\nbegin"
    ));
    // Datagrams.
    let mut control = Raw::open(gate.socks);
    control.send([5, 1, 0]);
    control.exactly(2);
    control.send([5, 3, 0, 1, 0, 0, 0, 0, 0, 0]);
    let reply = control.exactly(10);
    let relay = (
        Ipv4Addr::LOCALHOST,
        u16::from_be_bytes([reply[8], reply[9]]),
    );
    let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut datagram = vec![0, 0, 0, 1, 127, 0, 0, 1];
    datagram.extend(datagrams.to_be_bytes());
    datagram.push(b'x');
    sender.send_to(&datagram, relay).unwrap();
    echo.set_read_timeout(Some(PATIENCE)).unwrap();
    echo.recv_from(&mut [0; 9]).unwrap();
    // A question.
    let mut asking = Raw::open(gate.http);
    asking.send("CONNECT ask.test:443 HTTP/1.1\r\nHost: ask.test:443\r\n\r\n");
    let asked = question(gate);
    let deadline = Instant::now() + PATIENCE;
    while scene.origin.seen().len() < 6 {
        assert!(Instant::now() < deadline, "{:?}", scene.origin.seen());
        std::thread::yield_now();
    }

    let started = Instant::now();
    gate.drain();
    assert!(started.elapsed() < DRAINED, "{:?}", started.elapsed());
    let ends = endings(gate);
    // One tunnel, five that are looked into, one UDP target, and 4 + 1 + 1 + 1 requests.
    assert_eq!(ends.len(), 14, "{:#?}", gate.audit.events());
    assert!(ends.values().all(|count| *count == 1), "{ends:?}");
    for event in gate.audit.events() {
        if let AuditEvent::EgressClosed { ended_by, .. } = event {
            assert_eq!(ended_by, EndedBy::Gate, "{event:?}");
        }
    }
    let answered = gate.audit.wait_for_one("the question's end", |event| {
        matches!(event, AuditEvent::ApprovalAnswered { .. })
    });
    let withdrawn = AuditEvent::ApprovalAnswered {
        question: asked.id,
        end: QuestionEnd::Withdrawn,
        scope: None,
        by: None,
    };
    assert_eq!(answered, withdrawn);
    assert_eq!((tunnel.rest(), ws.rest()), (Vec::new(), Vec::new()));
    drop((idle, control));
    for request in under_way {
        assert!(runtime.block_on(request).unwrap().is_err());
    }
}

#[test]
fn without_an_audit_writer_nothing_more_goes_up_from_inspected_tls() {
    // Every byte within TLS counts at the origin: it sends back what it got.
    let scene = Scene::new();
    let mut upload = Tls::open(&scene);
    upload.send(format!(
        "POST /up HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 100000\r\n\r\nbefore"
    ));
    let mut socket = websocket(&scene);
    socket.send(frame(b"hello"));
    socket.0.read_exact(&mut [0; 7]).unwrap();
    let mut idle = Tls::open(&scene);
    assert_eq!(idle.ask("GET /", HOST, "").status(), 200);
    let allowed = |event: &&AuditEvent| {
        matches!(
            event,
            AuditEvent::EgressDecided {
                verdict: Verdict::Allow,
                ..
            }
        )
    };
    assert_eq!(scene.gate.audit.events().iter().filter(allowed).count(), 6);
    let before = scene.origin.seen().len();

    scene.gate.audit.close();
    assert_eq!(socket.rest(), b"");
    let refused = idle.ask("GET /after", HOST, "");
    assert_eq!(refused.denied(), (503, "audit_unavailable".to_owned()));
    // The rest of the body is not passed on: the origin never sees it whole.
    drop(upload.0.write_all(&vec![b'x'; 100_000 - 6]));
    drop(upload.0.flush());
    let answer = upload.rest();
    let answer = String::from_utf8_lossy(&answer);
    assert!(!answer.contains("xxxx"), "{answer}");
    a_moment();
    assert_eq!(scene.origin.seen().len(), before);
}
