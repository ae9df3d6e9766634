//! Asking: nothing leaves before somebody agreed and that is on record; nobody, late or a no is a no.

use std::thread;

use portcullis::audit::AuditEvent;
use portcullis::ids::QuestionId;
use portcullis::policy::{
    Answered, DenyReason, Effect, Host, Port, QuestionEnd, Scope, Transport, Unlisted, Verdict,
};
use portcullis::wire::gate::{Answer, GateCommand, GateReply, Question};

use crate::client::{Raw, Response, a_moment, get};
use crate::test_gate::{GateSpec, TestGate, spec};
use crate::upstream::Origin;

/// A policy that asks for whatever no rule speaks of.
fn asking() -> GateSpec {
    spec()
        .host("a.test", "127.0.0.1")
        .policy(|policy| policy.default = Unlisted::Ask)
}

fn question(gate: &TestGate) -> Question {
    match gate.reply() {
        GateReply::Question(question) => question,
        other => panic!("no question: {other:?}"),
    }
}

fn answer(gate: &TestGate, id: QuestionId, verdict: Answered, scope: Scope) {
    let answer = Answer {
        question: id,
        verdict,
        scope,
        by: "a test".to_owned(),
    };
    gate.control().send(&GateCommand::Answer(answer)).unwrap();
}

/// A client that asks for a tunnel and does not wait.
fn connecting(gate: &TestGate, port: u16) -> Raw {
    let mut client = Raw::open(gate.http);
    client.send(format!(
        "CONNECT a.test:{port} HTTP/1.1\r\nHost: a.test:{port}\r\n\r\n"
    ));
    client
}

fn approvals(gate: &TestGate) -> Vec<String> {
    let words = gate
        .audit
        .events()
        .into_iter()
        .filter_map(|event| match event {
            AuditEvent::EgressDecided { verdict, rule, .. } => {
                let rule = rule.map_or_else(String::new, |rule| format!(" {rule}"));
                Some(format!("{verdict:?}{rule}"))
            }
            AuditEvent::ApprovalAsked { question, .. } => Some(format!("asked {question}")),
            AuditEvent::ApprovalAnswered {
                question,
                end,
                scope,
                by,
            } => Some(format!("answered {question} {end} {scope:?} {by:?}")),
            _ => None,
        });
    words.collect()
}

fn denied(response: &Response) -> String {
    response.denied()
}

#[test]
fn nothing_leaves_before_the_answer_is_on_record() {
    let origin = Origin::echo_bytes();
    let gate = asking().start();
    let mut client = connecting(&gate, origin.port());
    let asked = question(&gate);
    let expected = Question {
        id: QuestionId(1),
        host: Host::parse("a.test").unwrap(),
        port: Port::new(origin.port()).unwrap(),
        transport: Transport::Connect,
        method: None,
        path: None,
        exact: false,
        budget: false,
        rule: None,
        wait_seconds: 60,
    };
    assert_eq!(asked, expected);
    gate.audit.hold();
    answer(&gate, asked.id, Answered::Allow, Scope::Once);
    gate.audit.wait_for_one("the answer", |event| {
        matches!(event, AuditEvent::ApprovalAnswered { .. })
    });
    a_moment();
    assert_eq!(
        origin.log.connections(),
        0,
        "the answer is not acknowledged"
    );
    gate.audit.release();
    assert_eq!(client.response().status(), 200);
    client.send("x");
    assert_eq!(client.exactly(1), b"x");
    assert_eq!(
        approvals(&gate),
        [
            "Ask",
            "asked 1",
            "answered 1 allowed Some(Once) Some(\"a test\")",
            "Allow approved by a test (question 1, once)",
        ]
    );
}

#[test]
fn once_covers_all_that_wait_for_this_question_and_no_more() {
    let origin = Origin::echo_bytes();
    let gate = asking().start();
    let mut waiting: Vec<_> = (0..3).map(|_| connecting(&gate, origin.port())).collect();
    let asked = question(&gate);
    gate.audit.wait_for("three decisions", |events| {
        let asks = |event: &&AuditEvent| {
            matches!(
                event,
                AuditEvent::EgressDecided {
                    verdict: Verdict::Ask,
                    ..
                }
            )
        };
        events.iter().filter(asks).count() == 3
    });
    a_moment();
    answer(&gate, asked.id, Answered::Allow, Scope::Once);
    for client in &mut waiting {
        assert_eq!(client.response().status(), 200);
    }
    let mut later = connecting(&gate, origin.port());
    let again = question(&gate);
    assert_eq!(again.id, QuestionId(2));
    answer(&gate, again.id, Answered::Deny, Scope::Once);
    let refused = later.response();
    assert_eq!(
        (refused.status(), denied(&refused).as_str()),
        (403, "not_approved")
    );
    assert_eq!(
        refused.json()["rule"],
        "denied by a test (question 2, once)"
    );
    assert_eq!(origin.log.connections(), 3);
}

#[test]
fn a_yes_for_the_session_is_asked_for_once_and_a_deny_rule_still_wins() {
    let origin = Origin::echo_bytes();
    let gate = asking().start();
    let mut first = connecting(&gate, origin.port());
    let asked = question(&gate);
    answer(&gate, asked.id, Answered::Allow, Scope::Session);
    assert_eq!(first.response().status(), 200);
    assert_eq!(connecting(&gate, origin.port()).response().status(), 200);
    assert_eq!(Raw::open(gate.socks).socks5("a.test", origin.port()), 0);
    // Another port is another question.
    let mut other = connecting(&gate, 444);
    let asked = question(&gate);
    assert_eq!(asked.port.number(), 444);
    answer(&gate, asked.id, Answered::Deny, Scope::Session);
    assert_eq!(denied(&other.response()), "not_approved");
    assert_eq!(denied(&connecting(&gate, 444).response()), "not_approved");
    let denying = asking().deny("a.test").policy;
    gate.control()
        .send(&GateCommand::Policy(Box::new(denying)))
        .unwrap();
    let GateReply::Applied(applied) = gate.reply() else {
        panic!("not applied");
    };
    assert!(applied.closed >= 1, "{applied:?}");
    assert_eq!(first.rest(), b"", "an approved tunnel ends as any other");
    assert_eq!(
        denied(&connecting(&gate, origin.port()).response()),
        "host_denied"
    );
}

#[test]
fn nobody_is_a_no_after_the_time_that_was_set() {
    let origin = Origin::echo_bytes();
    let mut asks = asking();
    asks.approval_seconds = 1;
    let gate = asks.start();
    let mut client = connecting(&gate, origin.port());
    let asked = question(&gate);
    let refused = client.response();
    assert_eq!(denied(&refused), "not_approved");
    assert_eq!(
        refused.json()["rule"],
        "approvals: no answer to question 1 within 1 s"
    );
    assert_eq!(gate.reply(), GateReply::Withdrawn(asked.id));
    // Too late, twice and for nothing: of no account.
    for id in [asked.id, asked.id, QuestionId(77)] {
        answer(&gate, id, Answered::Allow, Scope::Session);
    }
    gate.control().send(&GateCommand::Counters).unwrap();
    assert!(matches!(gate.reply(), GateReply::Counters(_)));
    assert_eq!(
        denied(&connecting(&gate, origin.port()).response()),
        "not_approved"
    );
    assert_eq!(origin.log.connections(), 0);
    let ends = approvals(&gate);
    assert_eq!(
        ends[..4],
        [
            "Ask",
            "asked 1",
            "answered 1 expired None None",
            "Deny approvals: no answer to question 1 within 1 s",
        ]
    );
}

#[test]
fn without_anybody_to_ask_the_answer_is_no_at_once() {
    let mut asks = asking().rule("b.test", &[], Effect::Ask);
    asks.approval_seconds = 0;
    let gate = asks.start();
    let refused = connecting(&gate, 443).response();
    assert_eq!(denied(&refused), "not_approved");
    assert_eq!(
        refused.json()["rule"],
        "approvals: nobody is asked (wait_seconds = 0)"
    );
}

#[test]
fn a_flood_of_questions_is_refused_beyond_the_bound() {
    let gate = asking().start();
    let waiting: Vec<_> = (1000..1032).map(|port| connecting(&gate, port)).collect();
    let asked: Vec<_> = (0..32).map(|_| question(&gate)).collect();
    let refused = connecting(&gate, 1032).response();
    assert_eq!(denied(&refused), "not_approved");
    assert_eq!(
        refused.json()["rule"],
        "approvals: 32 questions wait for an answer already"
    );
    answer(&gate, asked[0].id, Answered::Deny, Scope::Once);
    gate.audit.wait_for_one("its end", |event| {
        matches!(event, AuditEvent::EgressDecided { verdict: Verdict::Deny, reason: Some(DenyReason::NotApproved), port, .. } if *port == asked[0].port)
    });
    let twin = connecting(&gate, 1032);
    assert_eq!(question(&gate).port.number(), 1032);
    drop((waiting, twin));
}

#[test]
fn a_client_that_leaves_takes_its_question_back() {
    // They are waited for side by side: a client that closed its side may still listen, for a moment.
    let doors = [Transport::Connect, Transport::Socks5, Transport::Forward];
    let left = doors.map(|door| {
        let gate = asking().start();
        let client = match door {
            Transport::Connect => connecting(&gate, 443),
            Transport::Forward => {
                let mut client = Raw::open(gate.http);
                client.send("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n");
                client
            }
            _ => {
                let mut client = Raw::open(gate.socks);
                client.send([5, 1, 0]);
                client.send([&[5, 1, 0, 3, 6], &b"a.test"[..], &[1, 187]].concat());
                client
            }
        };
        let asked = question(&gate);
        drop(client);
        (door, gate, asked)
    });
    for (door, gate, asked) in left {
        assert_eq!(gate.reply(), GateReply::Withdrawn(asked.id), "{door}");
        let ended = gate.audit.wait_for_one("its end", |event| {
            matches!(event, AuditEvent::ApprovalAnswered { .. })
        });
        let expected = AuditEvent::ApprovalAnswered {
            question: asked.id,
            end: QuestionEnd::Withdrawn,
            scope: None,
            by: None,
        };
        assert_eq!(ended, expected, "{door}");
    }
}

#[test]
fn a_gate_that_drains_ends_its_questions_on_record() {
    let gate = asking().start();
    let mut client = connecting(&gate, 443);
    question(&gate);
    gate.drain();
    assert_eq!(client.rest(), b"");
    let last = approvals(&gate).pop();
    assert_eq!(last.as_deref(), Some("answered 1 withdrawn None None"));
}

#[test]
fn a_dead_audit_writer_ends_the_wait() {
    let gate = asking().start();
    let mut client = connecting(&gate, 443);
    question(&gate);
    gate.audit.close();
    assert_eq!(denied(&client.response()), "audit_unavailable");
}

#[test]
fn a_rule_about_paths_is_asked_for_each_path_and_one_about_hosts_is_not() {
    let origin = Origin::echo();
    let port = origin.port();
    let gate = asking()
        .policy(|policy| policy.default = Unlisted::Deny)
        .rule("a.test", &[port], Effect::Ask)
        .policy(|policy| {
            policy.rules[0].paths =
                vec![portcullis::policy::PathPattern::parse("/api/**").unwrap()];
        })
        .start();
    let authority = format!("a.test:{port}");
    let ask = |path: &'static str| {
        let (http, authority) = (gate.http, authority.clone());
        thread::spawn(move || get(http, &authority, path))
    };
    let first = ask("/api/one?secret=1");
    let asked = question(&gate);
    assert_eq!(
        (asked.path.as_deref(), asked.exact),
        (Some("/api/one"), true)
    );
    answer(&gate, asked.id, Answered::Allow, Scope::Session);
    assert_eq!(first.join().unwrap().status(), 200);
    assert_eq!(ask("/api/one").join().unwrap().status(), 200);
    let other = ask("/api/two");
    let asked = question(&gate);
    assert_eq!(asked.path.as_deref(), Some("/api/two"));
    answer(&gate, asked.id, Answered::Deny, Scope::Once);
    assert_eq!(denied(&other.join().unwrap()), "not_approved");
    assert_eq!(
        denied(&ask("/elsewhere").join().unwrap()),
        "path_not_allowed"
    );
}

#[test]
fn a_policy_that_comes_to_allow_it_answers_the_question() {
    let origin = Origin::echo_bytes();
    let gate = asking().start();
    let mut client = connecting(&gate, origin.port());
    let asked = question(&gate);
    let allowing = asking().allow("a.test", &[origin.port()]).policy;
    gate.control()
        .send(&GateCommand::Policy(Box::new(allowing)))
        .unwrap();
    assert_eq!(client.response().status(), 200);
    let replies = [gate.reply(), gate.reply()];
    assert!(
        replies.contains(&GateReply::Withdrawn(asked.id)),
        "{replies:?}"
    );
    assert_eq!(
        approvals(&gate)[2..],
        ["answered 1 superseded None None", "Allow Allow a.test"]
    );
}

#[test]
fn nobody_is_asked_about_a_path_that_cannot_be_shown_whole() {
    let origin = Origin::echo();
    let gate = spec()
        .host("a.test", "127.0.0.1")
        .rule("a.test", &[origin.port()], Effect::Ask)
        .policy(|policy| policy.rules[0].paths = vec!["/x/**".to_owned().try_into().unwrap()])
        .start();
    let authority = format!("a.test:{}", origin.port());
    let path = |length: usize| format!("/x/{}", "y".repeat(length - 3));
    let refused = get(gate.http, &authority, &path(513));
    assert_eq!(denied(&refused), "not_approved");
    assert_eq!(
        approvals(&gate).last().unwrap(),
        "Deny approvals: the path is longer than the 512 shown"
    );
    thread::scope(|scope| {
        let asking = scope.spawn(|| get(gate.http, &authority, &path(512)));
        let asked = question(&gate);
        assert_eq!(asked.path, Some(path(512)));
        answer(&gate, asked.id, Answered::Allow, Scope::Once);
        assert_eq!(asking.join().unwrap().status(), 200);
    });
}
