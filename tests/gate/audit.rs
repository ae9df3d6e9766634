//! No record, no traffic.

use portcullis::audit::{AuditEvent, EndedBy, LostBy};
use portcullis::ids::ConnId;
use portcullis::policy::{Host, Method, OnFailure, Port, Transport, Verdict};
use portcullis::wire::gate::{AuditState, GateReply};

use crate::client::{Raw, a_moment, get};
use crate::dns_stub::DnsStub;
use crate::test_gate::{NotKept, spec};
use crate::upstream::Origin;

fn is_decided(event: &AuditEvent) -> bool {
    matches!(event, AuditEvent::EgressDecided { .. })
}

#[test]
fn no_query_and_no_byte_leaves_before_the_decision_is_acknowledged() {
    let origin = Origin::echo();
    let dns = DnsStub::constant(origin.address.ip());
    let gate = spec()
        .allow("a.test", &[origin.port()])
        .name_server(dns.address)
        .start();
    gate.audit.hold();
    let authority = format!("a.test:{}", origin.port());
    let mut plain = Raw::open(gate.http);
    plain.send(format!(
        "GET http://{authority}/x HTTP/1.1\r\nHost: {authority}\r\n\r\n"
    ));
    let mut tunnel = Raw::open(gate.http);
    tunnel.send(format!(
        "CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\nearly"
    ));
    let mut socks = Raw::open(gate.socks);
    socks.send([5, 1, 0]);
    socks.send(
        [
            &[5, 1, 0, 3, 6],
            &b"a.test"[..],
            &origin.port().to_be_bytes(),
        ]
        .concat(),
    );
    gate.audit.wait_for("three decisions", |events| {
        events.iter().filter(|event| is_decided(event)).count() == 3
    });
    a_moment();
    assert_eq!(dns.asked(), Vec::<String>::new());
    assert_eq!(origin.log.connections(), 0);

    gate.audit.release();
    assert_eq!(plain.response().status(), 200);
    assert_eq!(tunnel.response().status(), 200);
    assert_eq!(socks.exactly(12), [5, 0, 5, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    assert!(!dns.asked().is_empty());
}

#[test]
fn one_request_leaves_four_records_in_order() {
    let origin = Origin::echo();
    let dns = DnsStub::constant(origin.address.ip());
    let gate = spec()
        .allow("a.test", &[origin.port()])
        .name_server(dns.address)
        .start();
    let response = get(
        gate.http,
        &format!("A.Test.:{}", origin.port()),
        "/x?secret=1",
    );
    assert_eq!(response.text(), "GET /x?secret=1 HTTP/1.1");
    let events = gate.audit.wait_for("the end", |events| events.len() >= 4);
    let conn = ConnId(1);
    let Some(AuditEvent::EgressDecided { generation, .. }) = events.first() else {
        panic!("{events:#?}");
    };
    let Some(AuditEvent::EgressClosed { ms, .. }) = events.last() else {
        panic!("{events:#?}");
    };
    let expected = vec![
        AuditEvent::EgressDecided {
            process: None,
            process_unknown: None,
            conn,
            transport: Transport::Forward,
            host: Host::parse("a.test").unwrap(),
            port: Port::new(origin.port()).unwrap(),
            method: Method::parse("GET"),
            path: Some("/x".to_owned()),
            verdict: Verdict::Allow,
            reason: None,
            rule: Some(portcullis::policy::RuleId::new("Allow a.test")),
            generation: generation.clone(),
        },
        AuditEvent::DnsQuery {
            conn,
            name: "a.test".to_owned(),
            addresses: vec![origin.address.ip()],
            refused: Vec::new(),
        },
        AuditEvent::EgressDialed {
            conn,
            address: origin.address,
            via: None,
        },
        AuditEvent::EgressClosed {
            conn,
            bytes_up: 0,
            bytes_down: 24,
            ms: *ms,
            ended_by: EndedBy::Upstream,
        },
    ];
    assert_eq!(events, expected);
}

#[test]
fn a_dead_audit_writer_refuses_every_door_and_closes_open_tunnels() {
    let origin = Origin::echo_bytes();
    let gate = spec().reaches("a.test", origin.port()).start();
    let authority = format!("a.test:{}", origin.port());
    let mut open = Raw::open(gate.http);
    open.connect(&authority).send("ping");
    assert_eq!(open.exactly(4), b"ping");

    gate.audit.close();
    assert_eq!(open.rest(), b"", "the open tunnel is closed");
    let plain = get(gate.http, &authority, "/");
    assert_eq!(
        (plain.status(), plain.denied().as_str()),
        (503, "audit_unavailable")
    );
    let mut connect = Raw::open(gate.http);
    connect.send(format!(
        "CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n"
    ));
    assert_eq!(connect.response().denied(), "audit_unavailable");
    assert_eq!(Raw::open(gate.socks).socks5("a.test", origin.port()), 1);
    let mut malformed = Raw::open(gate.http);
    malformed.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert_eq!(malformed.response().denied(), "audit_unavailable");
    assert_eq!(origin.log.connections(), 1, "only the first ever left");
}

#[test]
fn a_request_under_way_stops_with_the_audit_writer() {
    let origin = Origin::raw(|mut stream| {
        use std::io::{Read, Write};
        let mut chunk = [0; 4096];
        let _ = stream.read(&mut chunk)?;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9999999999\r\n\r\n")?;
        loop {
            stream.write_all(&chunk)?;
        }
    });
    let gate = spec().reaches("a.test", origin.port()).start();
    let authority = format!("a.test:{}", origin.port());
    let mut client = Raw::open(gate.http);
    client.send(format!(
        "GET http://{authority}/ HTTP/1.1\r\nHost: {authority}\r\n\r\n"
    ));
    client.exactly(1 << 20);
    gate.audit.close();
    // Ends: the announced length is never reached.
    client.rest();
}

#[test]
fn a_writer_that_cannot_write_stops_the_traffic() {
    let origin = Origin::echo();
    let gate = spec().reaches("a.test", origin.port()).start();
    let authority = format!("a.test:{}", origin.port());
    assert_eq!(get(gate.http, &authority, "/").status(), 200);
    gate.audit.hold();
    let mut waiting = Raw::open(gate.http);
    waiting.send(format!(
        "GET http://{authority}/ HTTP/1.1\r\nHost: {authority}\r\n\r\n"
    ));
    gate.audit.wait_for("a second decision", |events| {
        events.iter().filter(|event| is_decided(event)).count() == 2
    });
    gate.audit.fail();
    assert_eq!(waiting.response().denied(), "audit_unavailable");
    assert_eq!(get(gate.http, &authority, "/").status(), 503);
    assert_eq!(origin.log.text().matches("GET").count(), 1);
}

#[test]
fn requests_wait_for_another_writer_and_connections_stay() {
    let origin = Origin::echo_bytes();
    let gate = spec().reaches("a.test", origin.port()).start();
    let authority = format!("a.test:{}", origin.port());
    let mut open = Raw::open(gate.http);
    open.connect(&authority).send("ping");
    assert_eq!(open.exactly(4), b"ping");
    gate.audit.hold();
    // One whose record the writer has, and one that comes while there is none.
    let connect = || {
        let mut client = Raw::open(gate.http);
        client.send(format!(
            "CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n"
        ));
        client
    };
    let decisions = |count| {
        move |events: &[AuditEvent]| {
            events.iter().filter(|event| is_decided(event)).count() == count
        }
    };
    let mut first = connect();
    gate.audit.wait_for("a second decision", decisions(2));
    gate.audit.die();
    let mut second = connect();
    open.send("pong");
    assert_eq!(open.exactly(4), b"pong", "what was open goes on");
    a_moment();
    assert_eq!(origin.log.connections(), 1, "and nothing else leaves");

    gate.audit.come_back();
    // The one that was never acknowledged comes again, before what is new.
    gate.audit.wait_for("all decisions", decisions(4));
    a_moment();
    assert_eq!(origin.log.connections(), 1);
    gate.audit.release();
    for client in [&mut first, &mut second] {
        assert_eq!(client.response().status(), 200);
        client.send("more");
        assert_eq!(client.exactly(4), b"more");
    }
    let decided = gate.audit.events();
    let conns: Vec<_> = decided
        .iter()
        .filter_map(|event| match event {
            AuditEvent::EgressDecided { conn, .. } => Some(conn.0),
            _ => None,
        })
        .collect();
    assert_eq!(conns, [1, 2, 2, 3]);
}

#[test]
fn without_another_writer_everything_is_refused_after_a_while_until_one_comes() {
    let origin = Origin::echo_bytes();
    let gate = spec().reaches("a.test", origin.port()).start();
    let authority = format!("a.test:{}", origin.port());
    let mut open = Raw::open(gate.http);
    open.connect(&authority);
    gate.audit.die();
    let mut waiting = Raw::open(gate.http);
    waiting.send(format!(
        "CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n"
    ));
    assert_eq!(waiting.response().denied(), "audit_unavailable");
    assert_eq!(open.rest(), b"", "the open tunnel is closed");
    assert_eq!(get(gate.http, &authority, "/").status(), 503);
    gate.audit.come_back();
    let closed = |event: &AuditEvent| matches!(event, AuditEvent::EgressClosed { .. });
    gate.audit.wait_for_one("the end of the tunnel", closed);
    let mut client = Raw::open(gate.http);
    client.connect(&authority).send("ping");
    assert_eq!(client.exactly(4), b"ping");
}

#[test]
fn a_closed_supply_channel_changes_nothing_until_the_writer_dies() {
    let origin = Origin::echo_bytes();
    let gate = spec().reaches("a.test", origin.port()).start();
    let authority = format!("a.test:{}", origin.port());
    let mut open = Raw::open(gate.http);
    open.connect(&authority).send("ping");
    assert_eq!(open.exactly(4), b"ping");
    gate.audit.abandon();
    for _ in 0..3 {
        let mut client = Raw::open(gate.http);
        client.connect(&authority).send("ping");
        assert_eq!(client.exactly(4), b"ping");
    }
    open.send("pong");
    assert_eq!(open.exactly(4), b"pong");
    // Nobody waits for one that cannot come.
    let begun = std::time::Instant::now();
    gate.audit.die();
    assert_eq!(open.rest(), b"");
    assert_eq!(get(gate.http, &authority, "/").status(), 503);
    assert!(begun.elapsed() < std::time::Duration::from_secs(9));
}

/// What the session is told of the records next.
fn told(gate: &crate::test_gate::TestGate) -> AuditState {
    match gate.next_message() {
        GateReply::Audit(state) => state,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_full_disk_closes_everything_until_there_is_room_again() {
    let origin = Origin::echo_bytes();
    let gate = spec().reaches("a.test", origin.port()).start();
    let authority = format!("a.test:{}", origin.port());
    let mut open = Raw::open(gate.http);
    open.connect(&authority).send("ping");
    assert_eq!(open.exactly(4), b"ping");
    gate.audit.block(NotKept::Failed);
    assert_eq!(open.rest(), b"", "the open tunnel is closed");
    assert_eq!(told(&gate), AuditState::Blocked("disk full".into()));
    for _ in 0..3 {
        let refused = get(gate.http, &authority, "/");
        assert_eq!(
            (refused.status(), refused.denied().as_str()),
            (503, "audit_unavailable")
        );
    }
    assert_eq!(origin.log.connections(), 1);
    gate.audit.unblock();
    assert_eq!(told(&gate), AuditState::Writing);
    let mut client = Raw::open(gate.http);
    client.connect(&authority).send("ping");
    assert_eq!(client.exactly(4), b"ping");
}

#[test]
fn a_writer_that_does_not_answer_closes_everything_until_it_does() {
    let origin = Origin::echo_bytes();
    let gate = spec().reaches("a.test", origin.port()).start();
    let authority = format!("a.test:{}", origin.port());
    let mut open = Raw::open(gate.http);
    open.connect(&authority).send("ping");
    assert_eq!(open.exactly(4), b"ping");
    gate.audit.hold();
    let mut waiting = Raw::open(gate.http);
    waiting.send(format!(
        "CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n"
    ));
    assert_eq!(waiting.response().denied(), "audit_unavailable");
    assert_eq!(open.rest(), b"", "the open tunnel is closed");
    let why = "the audit writer does not answer".to_owned();
    assert_eq!(told(&gate), AuditState::Blocked(why));
    assert_eq!(get(gate.http, &authority, "/").status(), 503);
    gate.audit.release();
    assert_eq!(told(&gate), AuditState::Writing);
    let mut client = Raw::open(gate.http);
    client.connect(&authority).send("ping");
    assert_eq!(client.exactly(4), b"ping");
}

#[test]
fn a_session_that_may_go_on_waits_a_moment_for_a_slow_writer_and_then_no_more() {
    let origin = Origin::echo();
    let mut spec = spec().reaches("a.test", origin.port());
    spec.on_failure = OnFailure::Continue;
    let gate = spec.start();
    let authority = format!("a.test:{}", origin.port());
    gate.audit.hold();
    for _ in 0..3 {
        assert_eq!(get(gate.http, &authority, "/").status(), 200);
    }
    let why = "the audit writer does not answer".to_owned();
    assert_eq!(told(&gate), AuditState::Behind(why));
    let is_closed = |event: &&AuditEvent| matches!(event, AuditEvent::EgressClosed { .. });
    // Nothing is lost: it comes when the writer reads.
    gate.audit.wait_for("three ends", |events| {
        events.iter().filter(is_closed).count() == 3
    });
    gate.audit.release();
    assert_eq!(told(&gate), AuditState::Writing);
    assert_eq!(get(gate.http, &authority, "/").status(), 200);
}

#[test]
fn a_record_that_is_held_lets_a_request_go_only_where_the_session_may_go_on() {
    let origin = Origin::echo();
    for (on_failure, status) in [(OnFailure::Continue, 200), (OnFailure::Block, 503)] {
        let mut spec = spec().reaches("a.test", origin.port());
        spec.on_failure = on_failure;
        let gate = spec.start();
        let authority = format!("a.test:{}", origin.port());
        assert_eq!(get(gate.http, &authority, "/").status(), 200);
        // A writer that was told something else.
        gate.audit.block(NotKept::Held);
        told(&gate);
        let requests = || origin.log.text().matches("GET").count();
        let before = requests();
        assert_eq!(get(gate.http, &authority, "/").status(), status);
        assert_eq!(requests() - before, usize::from(status == 200));
    }
}

#[test]
fn what_a_dead_writer_had_held_is_told_to_the_next() {
    let origin = Origin::echo();
    let mut spec = spec().reaches("a.test", origin.port());
    spec.on_failure = OnFailure::Continue;
    let gate = spec.start();
    let authority = format!("a.test:{}", origin.port());
    gate.audit.block(NotKept::Held);
    assert!(matches!(told(&gate), AuditState::Behind(_)));
    assert_eq!(get(gate.http, &authority, "/").status(), 200);
    let is_closed = |event: &AuditEvent| matches!(event, AuditEvent::EgressClosed { .. });
    gate.audit.wait_for_one("the end", is_closed);
    gate.audit.exchanges(1);
    a_moment();
    let held = gate.audit.received();
    gate.audit.die();
    // Nobody waits for the next one.
    assert_eq!(get(gate.http, &authority, "/").status(), 200);
    gate.audit.come_back();
    let lost = gate.audit.wait_for_one("the loss", |event| {
        matches!(event, AuditEvent::RecordsLost { .. })
    });
    let AuditEvent::RecordsLost { count, by, .. } = lost else {
        panic!()
    };
    assert_eq!((count, by), (held, LostBy::Gate));
}

/// Far more than the 4,096 records that may wait have room for.
const REQUESTS: u64 = 1500;

#[test]
fn what_a_writer_that_hangs_has_no_room_for_is_counted() {
    let origin = Origin::echo();
    let mut spec = spec().reaches("a.test", origin.port());
    spec.on_failure = OnFailure::Continue;
    let gate = spec.start();
    let authority = format!("a.test:{}", origin.port());
    gate.audit.hold();
    for _ in 0..REQUESTS {
        assert_eq!(get(gate.http, &authority, "/").status(), 200);
    }
    gate.audit.release();
    let lost = gate.audit.wait_for_one("the loss", |event| {
        matches!(event, AuditEvent::RecordsLost { .. })
    });
    let AuditEvent::RecordsLost {
        count, kinds, by, ..
    } = lost
    else {
        panic!()
    };
    assert_eq!((by, kinds.values().sum()), (LostBy::Gate, count));
    let decided = gate
        .audit
        .events()
        .iter()
        .filter(|event| is_decided(event))
        .count() as u64;
    assert_eq!(decided + kinds["egress.decided"], REQUESTS);
    assert_eq!(get(gate.http, &authority, "/").status(), 200);
}
