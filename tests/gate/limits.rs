//! Bounds: one hostile connection, or a thousand, must not stop the others.

use std::io::Read;

use portcullis::audit::{AuditEvent, EndedBy};
use portcullis::policy::DenyReason;

use crate::client::{Raw, get};
use crate::test_gate::{GateSpec, spec};
use crate::upstream::Origin;

fn allowing(origin: &Origin) -> (GateSpec, String) {
    let spec = spec().reaches("a.test", origin.port());
    (spec, format!("a.test:{}", origin.port()))
}

fn refusals(events: &[AuditEvent], wanted: DenyReason) -> usize {
    let is = |event: &&AuditEvent| matches!(event, AuditEvent::EgressRefused { reason, .. } if *reason == wanted);
    events.iter().filter(is).count()
}

#[test]
fn one_connection_too_many_is_refused_while_the_others_go_on() {
    let origin = Origin::echo_bytes();
    let (spec, authority) = allowing(&origin);
    let gate = spec.limits(|limits| limits.connections = 3).start();
    let mut open: Vec<_> = (0..3).map(|_| Raw::open(gate.http)).collect();
    for client in &mut open {
        client.connect(&authority);
    }
    for _ in 0..5 {
        let mut late = Raw::open(gate.http);
        let response = late.response();
        let found = (response.status(), response.denied());
        assert_eq!(found, (503, "too_many_connections".to_owned()));
    }
    let mut late = Raw::open(gate.socks);
    assert_eq!(late.rest(), [5, 0xff]);
    for client in &mut open {
        client.send("still here");
        assert_eq!(client.exactly(10), b"still here");
    }
    let events = gate.audit.events();
    assert_eq!(
        refusals(&events, DenyReason::TooManyConnections),
        1,
        "one record a burst"
    );
    // Twin: a place that becomes free can be taken.
    drop(open.pop());
    gate.audit.wait_for_one("an end", |event| {
        matches!(event, AuditEvent::EgressClosed { .. })
    });
    let mut next = Raw::open(gate.http);
    next.connect(&authority);
}

#[test]
fn a_head_that_takes_too_long_is_ended_and_recorded() {
    let origin = Origin::echo_bytes();
    let (spec, authority) = allowing(&origin);
    let gate = spec.limits(|limits| limits.head_seconds = 1).start();
    let mut http = Raw::open(gate.http);
    http.send("GET http://a.te");
    let response = http.response();
    assert_eq!(
        (response.status(), response.denied().as_str()),
        (408, "timed_out")
    );
    let mut socks = Raw::open(gate.socks);
    socks.send([5, 1]);
    assert_eq!(socks.rest(), b"");
    let mut silent = Raw::open(gate.http);
    assert_eq!(
        silent.rest(),
        b"",
        "a connection without a word is closed without a record"
    );
    let mut hello = Raw::open(gate.http);
    hello.connect(&authority).send([22, 3, 1, 1, 0, 1]);
    hello.rest();
    let events = gate.audit.wait_for("three refusals", |events| {
        refusals(events, DenyReason::TimedOut) == 3
    });
    assert_eq!(refusals(&events, DenyReason::TimedOut), 3);
    assert_eq!(origin.log.raw_bytes(), 0);
}

#[test]
fn an_idle_tunnel_is_ended_by_the_gate() {
    let origin = Origin::echo_bytes();
    let (spec, authority) = allowing(&origin);
    let gate = spec.limits(|limits| limits.idle_seconds = 1).start();
    let mut client = Raw::open(gate.http);
    client.connect(&authority).send("x");
    assert_eq!(client.rest(), b"x");
    let closed = gate
        .audit
        .wait_for_one("an end", |e| matches!(e, AuditEvent::EgressClosed { .. }));
    assert!(
        matches!(
            closed,
            AuditEvent::EgressClosed {
                ended_by: EndedBy::Gate,
                ..
            }
        ),
        "{closed:?}"
    );
}

#[test]
fn a_silent_origin_is_a_504() {
    let origin = Origin::raw(|mut stream| {
        let mut chunk = [0; 4096];
        while stream.read(&mut chunk)? > 0 {}
        Ok(())
    });
    let (spec, authority) = allowing(&origin);
    let gate = spec.limits(|limits| limits.idle_seconds = 1).start();
    let response = get(gate.http, &authority, "/");
    assert_eq!(
        (response.status(), response.denied().as_str()),
        (504, "timed_out")
    );
}

#[test]
fn a_head_over_the_limit_is_refused() {
    let origin = Origin::echo();
    let (spec, authority) = allowing(&origin);
    let gate = spec.limits(|limits| limits.head_bytes = 2000).start();
    let ask = |length: usize| {
        let mut client = Raw::open(gate.http);
        let long = "x".repeat(length);
        client.send(format!(
            "GET http://{authority}/ HTTP/1.1\r\nHost: {authority}\r\nX: {long}\r\n\r\n"
        ));
        client.response().status()
    };
    assert_eq!((ask(1500), ask(2000)), (200, 400));
}

#[test]
fn a_client_that_does_not_read_stalls_nobody_else() {
    let origin = Origin::http(|_, _| crate::upstream::ok(&"x".repeat(4 << 20)));
    let (spec, authority) = allowing(&origin);
    let gate = spec.start();
    let mut stalled: Vec<_> = (0..8).map(|_| Raw::open(gate.http)).collect();
    for client in &mut stalled {
        client.send(format!(
            "GET http://{authority}/ HTTP/1.1\r\nHost: {authority}\r\n\r\n"
        ));
    }
    for _ in 0..20 {
        assert_eq!(get(gate.http, &authority, "/").body.len(), 4 << 20);
    }
}

#[test]
fn many_hostile_connections_leave_the_gate_serving() {
    let origin = Origin::echo();
    let (spec, authority) = allowing(&origin);
    let gate = spec.start();
    let mut noise = 7_u64;
    for n in 0..400 {
        let bytes: Vec<u8> = (0..n % 97)
            .map(|_| {
                noise = noise
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                noise.to_be_bytes()[0]
            })
            .collect();
        for (door, prefix) in [
            (gate.http, &b""[..]),
            (gate.http, b"GET http"),
            (gate.socks, &[5, 1, 0, 5, 1]),
        ] {
            Raw::open(door).send(prefix).send(&bytes);
        }
    }
    // A refusal for want of places, or a close unheard, is an answer too: the gate soon has room.
    let request = format!(
        "GET http://{authority}/ HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n"
    );
    let served = (0..500).any(|_| {
        let answer = Raw::open(gate.http).send(&request).rest();
        answer.starts_with(b"HTTP/1.1 200 ")
    });
    assert!(served);
}
