//! A policy that changes while the session runs.

use std::io::{Read, Write};

use portcullis::audit::{AuditEvent, EndedBy};
use portcullis::policy::{Answered, NetworkMode, NetworkPolicy, Port, Ruleset, Scope, Unlisted};
use portcullis::wire::gate::{Answer, Applied, GateCommand, GateReply};

use crate::client::{Raw, a_moment, get};
use crate::test_gate::{GateSpec, TestGate, spec};
use crate::upstream::Origin;

fn two_hosts() -> GateSpec {
    spec()
        .host("a.test", "127.0.0.1")
        .host("b.test", "127.0.0.1")
}

fn send(gate: &TestGate, policy: &NetworkPolicy) {
    gate.control()
        .send(&GateCommand::Policy(Box::new(policy.clone())))
        .unwrap();
}

fn apply(gate: &TestGate, policy: &NetworkPolicy) -> Applied {
    send(gate, policy);
    match gate.reply() {
        GateReply::Applied(applied) => applied,
        other => panic!("not applied: {other:?}"),
    }
}

#[test]
fn narrowing_closes_what_is_not_permitted_any_more_and_keeps_the_rest() {
    let origin = Origin::echo_bytes();
    let port = origin.port();
    let gate = two_hosts()
        .allow("a.test", &[port])
        .allow("b.test", &[port])
        .start();
    let mut kept = Raw::open(gate.http);
    kept.connect(&format!("a.test:{port}"));
    let mut closed = Raw::open(gate.http);
    closed.connect(&format!("b.test:{port}"));
    let mut socks = Raw::open(gate.socks);
    assert_eq!(socks.socks5("b.test", port), 0);
    // Much moves through pipes, which must end as well.
    for _ in 0..40 {
        socks.send([7; 16 << 10]);
        socks.exactly(16 << 10);
    }
    let narrower = two_hosts().allow("a.test", &[port]).policy;
    let generation = Ruleset::compile(&narrower).generation().clone();
    let expected = Applied {
        generation: generation.clone(),
        changed: true,
        closed: 2,
        unreachable: Vec::new(),
    };
    assert_eq!(apply(&gate, &narrower), expected);
    assert_eq!((closed.rest(), socks.rest()), (Vec::new(), Vec::new()));
    kept.send("still");
    assert_eq!(kept.exactly(5), b"still");
    assert_eq!(
        get(gate.http, &format!("b.test:{port}"), "/").denied(),
        "host_not_allowed"
    );
    let events = gate.audit.wait_for("two ends", |events| {
        let ends = |event: &&AuditEvent| {
            matches!(
                event,
                AuditEvent::EgressClosed {
                    ended_by: EndedBy::Policy,
                    ..
                }
            )
        };
        events.iter().filter(ends).count() == 2
    });
    let applied = events
        .iter()
        .filter(|event| matches!(event, AuditEvent::PolicyApplied { .. }))
        .collect::<Vec<_>>();
    assert_eq!(applied, [&AuditEvent::PolicyApplied { generation }]);
    // The same policy again changes nothing and is no record.
    assert!(!apply(&gate, &narrower).changed);
}

#[test]
fn a_response_that_is_being_received_ends_with_its_permission() {
    let origin = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = origin.local_addr().unwrap().port();
    let gate = two_hosts().allow("a.test", &[port]).start();
    let mut client = Raw::open(gate.http);
    client.send(format!(
        "GET http://a.test:{port}/events HTTP/1.1\r\nHost: a.test:{port}\r\n\r\n"
    ));
    let (mut stream, _) = origin.accept().unwrap();
    let mut head = [0; 4096];
    assert!(stream.read(&mut head).unwrap() > 0);
    stream
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nfirst")
        .unwrap();
    let mut got = Vec::new();
    while !got.ends_with(b"first") {
        got.extend(client.exactly(1));
    }
    assert_eq!(apply(&gate, &two_hosts().policy).closed, 1);
    assert_eq!(client.rest(), b"");
    assert_eq!(
        stream.read(&mut head).unwrap(),
        0,
        "the origin is closed too"
    );
    gate.audit.wait_for_one("its end", |event| {
        matches!(
            event,
            AuditEvent::EgressClosed {
                ended_by: EndedBy::Policy,
                ..
            }
        )
    });
}

#[test]
fn a_wider_policy_lets_through_what_was_refused() {
    let origin = Origin::echo();
    let gate = two_hosts().allow("a.test", &[origin.port()]).start();
    let authority = format!("b.test:{}", origin.port());
    assert_eq!(get(gate.http, &authority, "/").status(), 403);
    let wider = two_hosts().allow("b.test", &[origin.port()]).policy;
    assert_eq!(apply(&gate, &wider).closed, 0);
    assert_eq!(get(gate.http, &authority, "/").status(), 200);
    let a = format!("a.test:{}", origin.port());
    assert_eq!(
        get(gate.http, &a, "/").status(),
        403,
        "an idle connection helps nobody"
    );
}

#[test]
fn a_port_that_was_out_of_reach_at_the_start_is_told() {
    let gate = two_hosts().start();
    let wider = two_hosts().allow("a.test", &[443, 2222]).policy;
    assert_eq!(apply(&gate, &wider).unreachable, [Port::new(2222).unwrap()]);
}

#[test]
fn a_new_policy_decides_nothing_before_it_is_on_record() {
    let origin = Origin::echo_bytes();
    let port = origin.port();
    let gate = two_hosts().allow("a.test", &[port]).start();
    let mut tunnel = Raw::open(gate.http);
    tunnel.connect(&format!("a.test:{port}"));
    gate.audit.hold();
    send(&gate, &two_hosts().policy);
    gate.audit.wait_for_one("the record", |event| {
        matches!(event, AuditEvent::PolicyApplied { .. })
    });
    // Decided by the old policy while the new one waits for its record: judged again by the new one.
    let mut late = Raw::open(gate.http);
    late.send(format!(
        "CONNECT a.test:{port} HTTP/1.1\r\nHost: a.test:{port}\r\n\r\n"
    ));
    gate.audit.wait_for("two decisions", |events| {
        let decided = |event: &&AuditEvent| matches!(event, AuditEvent::EgressDecided { .. });
        events.iter().filter(decided).count() == 2
    });
    a_moment();
    tunnel.send("x");
    assert_eq!(tunnel.exactly(1), b"x", "the old one is in force");
    gate.audit.release();
    assert!(matches!(
        gate.reply(),
        GateReply::Applied(Applied { closed: 1, .. })
    ));
    assert_eq!(late.response().denied(), "host_not_allowed");
    assert_eq!(origin.log.connections(), 1);
}

#[test]
fn a_policy_that_cannot_be_recorded_is_not_applied() {
    let gate = two_hosts().start();
    gate.audit.fail();
    send(&gate, &two_hosts().allow("a.test", &[]).policy);
    let expected = GateReply::NotApplied("the audit writer does not answer".to_owned());
    assert_eq!(gate.reply(), expected);
}

#[test]
fn a_session_that_started_without_looking_into_tls_does_not_begin_to() {
    let origin = Origin::echo_bytes();
    let port = origin.port();
    let gate = two_hosts().allow("a.test", &[port]).start();
    let mut inspecting = two_hosts().allow("a.test", &[port]).policy;
    inspecting.mitm = true;
    send(&gate, &inspecting);
    match gate.reply() {
        GateReply::NotApplied(why) => assert!(why.contains("start another"), "{why}"),
        other => panic!("{other:?}"),
    }
    // The old policy decides on.
    let mut client = Raw::open(gate.http);
    client.connect(&format!("a.test:{port}"));
}

#[test]
fn an_address_that_is_refused_by_now_is_closed_and_others_stay() {
    let origin = Origin::echo_bytes();
    let other = std::net::TcpListener::bind(("127.0.0.2", 0)).unwrap();
    let (port, there) = (origin.port(), other.local_addr().unwrap().port());
    let both = || {
        spec()
            .host("a.test", "127.0.0.1")
            .host("b.test", "127.0.0.2")
            .allow("a.test", &[port])
            .allow("b.test", &[there])
    };
    let gate = both().start();
    let mut kept = Raw::open(gate.http);
    kept.connect(&format!("a.test:{port}"));
    let mut closed = Raw::open(gate.http);
    closed.connect(&format!("b.test:{there}"));
    let narrower = both().policy(|policy| {
        policy.addresses.allow = vec!["127.0.0.1/32".parse().unwrap()];
    });
    assert_eq!(apply(&gate, &narrower.policy).closed, 1);
    assert_eq!(closed.rest(), b"");
    kept.send("still");
    assert_eq!(kept.exactly(5), b"still");
}

#[test]
fn a_request_that_waited_is_held_to_the_mode_that_is_in_force_by_then() {
    let origin = Origin::echo();
    let asking = |mode| {
        spec().host("a.test", "127.0.0.1").policy(|policy| {
            policy.default = Unlisted::Ask;
            policy.mode = mode;
        })
    };
    let gate = asking(NetworkMode::Full).start();
    let authority = format!("a.test:{}", origin.port());
    let answered = |body: &str| {
        let mut client = Raw::open(gate.http);
        client.send(format!(
            "GET http://{authority}/ HTTP/1.1\r\nHost: {authority}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        let GateReply::Question(question) = gate.reply() else {
            panic!("no question");
        };
        apply(&gate, &asking(NetworkMode::Limited).policy);
        let answer = Answer {
            question: question.id,
            verdict: Answered::Allow,
            scope: Scope::Once,
            by: "a test".to_owned(),
        };
        gate.control().send(&GateCommand::Answer(answer)).unwrap();
        client.response()
    };
    assert_eq!(answered("written").denied(), "malformed");
    assert_eq!(origin.log.connections(), 0);
    assert_eq!(answered("").status(), 200);
}
