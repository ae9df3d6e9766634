//! Budgets: never more than they say, told once, and what follows follows.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use portcullis::audit::{AuditEvent, EndedBy};
use portcullis::policy::{
    Answered, BudgetAction, BudgetKind, BudgetRule, Budgets, DenyReason, HostPattern, NetworkMode,
    Scope, Verdict,
};
use portcullis::wire::gate::{
    Answer, BudgetUse, Counters, GateCommand, GateReply, HostCounters, LimitNotice,
};

use crate::client::{Raw, Response, get};
use crate::dns_stub::DnsStub;
use crate::test_gate::{GateSpec, TestGate, spec};
use crate::upstream::{Origin, ok};

const MEGA: usize = 1 << 20;

fn budgets(toml: &str) -> Budgets {
    toml::from_str(toml).unwrap()
}

/// A policy that allows a.test and b.test at this origin, with these budgets.
fn limited(origin: &Origin, toml: &str) -> GateSpec {
    let port = origin.port();
    spec()
        .allow("a.test", &[port])
        .allow("b.test", &[port])
        .host("a.test", "127.0.0.1")
        .host("b.test", "127.0.0.1")
        .policy(|policy| policy.budgets = budgets(toml))
}

/// Reads everything and answers nothing.
fn sink() -> Origin {
    Origin::raw(|mut stream| {
        let mut chunk = vec![0; 64 << 10];
        while stream.read(&mut chunk)? > 0 {}
        Ok(())
    })
}

fn tunnel(gate: &TestGate, host: &str, origin: &Origin) -> Raw {
    let mut client = Raw::open(gate.http);
    client.connect(&format!("{host}:{}", origin.port()));
    client
}

fn hits(gate: &TestGate) -> Vec<AuditEvent> {
    let mut events = gate.audit.events();
    events.retain(|event| matches!(event, AuditEvent::LimitHit { .. }));
    events
}

fn hit(what: BudgetKind, used: u64, max: u64, action: BudgetAction) -> AuditEvent {
    AuditEvent::LimitHit {
        what: what.into(),
        host: None,
        used,
        max,
        action: action.into(),
    }
}

/// What of every tunnel or request was counted up and down, and who ended it.
fn ends(gate: &TestGate, count: usize) -> Vec<(u64, u64, EndedBy)> {
    let of = |event: &AuditEvent| match event {
        AuditEvent::EgressClosed {
            bytes_up,
            bytes_down,
            ended_by,
            ..
        } => Some((*bytes_up, *bytes_down, *ended_by)),
        _ => None,
    };
    let events = gate.audit.wait_for("ends", |events| {
        events.iter().filter_map(of).count() >= count
    });
    events.iter().filter_map(of).collect()
}

fn outcome(response: &Response) -> (u16, String) {
    let code = response.header("x-portcullis-denied").unwrap_or_default();
    (response.status(), code.to_owned())
}

fn used_up() -> (u16, String) {
    (429, "budget_exhausted".to_owned())
}

fn fine() -> (u16, String) {
    (200, String::new())
}

fn ask(gate: &TestGate, host: &str, origin: &Origin, path: &str) -> (u16, String) {
    outcome(&get(gate.http, &format!("{host}:{}", origin.port()), path))
}

fn heard(gate: &TestGate) -> LimitNotice {
    match gate.reply() {
        GateReply::Limit(notice) => notice,
        other => panic!("no notice: {other:?}"),
    }
}

/// Waits until the origin has read this much, and no more comes.
fn arrived(origin: &Origin, wanted: usize) -> usize {
    for _ in 0..3000 {
        if origin.log.raw_bytes() >= wanted {
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
    origin.log.raw_bytes()
}

#[test]
fn a_tunnel_of_ten_megabytes_ends_at_the_first_and_the_next_is_refused() {
    let origin = sink();
    let gate = limited(&origin, "bytes_up = { max = '1M', action = 'deny' }").start();
    let mut client = tunnel(&gate, "a.test", &origin);
    client.send(vec![b'x'; 10 * MEGA]);
    assert_eq!(client.rest(), b"");
    let limit = MEGA as u64;
    assert_eq!(ends(&gate, 1), [(limit, 0, EndedBy::Budget)]);
    assert_eq!(arrived(&origin, MEGA), MEGA);
    let kind = BudgetKind::BytesUp;
    assert_eq!(hits(&gate), [hit(kind, limit, limit, BudgetAction::Deny)]);
    assert_eq!(heard(&gate).to_string(), "bytes_up budget of 1M used up");
    for host in ["a.test", "b.test"] {
        assert_eq!(ask(&gate, host, &origin, "/"), used_up());
    }
    let refused = |event: &AuditEvent| {
        matches!(
            event,
            AuditEvent::EgressDecided {
                verdict: Verdict::Deny,
                reason: Some(DenyReason::BudgetExhausted),
                ..
            }
        )
    };
    assert_eq!(gate.audit.events().iter().filter(|e| refused(e)).count(), 2);
    assert_eq!(hits(&gate).len(), 1, "told once");
    assert_eq!(gate.drain().limits.len(), 1);
}

#[test]
fn a_tunnel_that_sends_exactly_the_budget_is_whole() {
    let origin = sink();
    let gate = limited(&origin, "bytes_up = { max = '1M', action = 'deny' }").start();
    let mut client = tunnel(&gate, "a.test", &origin);
    client.send(vec![b'x'; MEGA]).finish();
    assert_eq!(client.rest(), b"");
    assert_eq!(ends(&gate, 1), [(MEGA as u64, 0, EndedBy::Client)]);
    assert_eq!((origin.log.raw_bytes(), hits(&gate)), (MEGA, vec![]));
}

#[test]
fn tunnels_side_by_side_share_one_budget_to_the_byte() {
    let origin = sink();
    let max = 1_000_003;
    let toml = format!("bytes_up = {{ max = {max}, action = 'deny' }}");
    let gate = limited(&origin, &toml).start();
    let clients: Vec<_> = (0..8).map(|_| tunnel(&gate, "a.test", &origin)).collect();
    thread::scope(|scope| {
        for (n, mut client) in clients.into_iter().enumerate() {
            scope.spawn(move || {
                // Small chunks are copied; who sends more than 256 KiB is spliced.
                let chunk = vec![b'x'; 1000 + n * 4999];
                for _ in 0..200 {
                    if client.0.write_all(&chunk).is_err() {
                        break;
                    }
                }
                client.finish().rest();
            });
        }
    });
    let sent: u64 = ends(&gate, 8).iter().map(|end| end.0).sum();
    assert_eq!((sent, arrived(&origin, max)), (max as u64, max));
    assert_eq!(hits(&gate).len(), 1);
}

#[test]
fn what_comes_down_is_bounded_in_tunnels_and_in_responses() {
    let flood = Origin::raw(|mut stream| {
        // All of what was said is read: else the close would be a reset, which loses what was sent.
        stream.read_exact(&mut [0; 2])?;
        stream.write_all(&vec![b'y'; 4 * MEGA])?;
        stream.read_to_end(&mut Vec::new()).map(drop)
    });
    let toml = "bytes_down = { max = 1000001, action = 'deny' }";
    let gate = limited(&flood, toml).start();
    let mut client = tunnel(&gate, "a.test", &flood);
    client.send("go");
    assert_eq!(client.rest().len(), 1_000_001);
    let (_, down, by) = ends(&gate, 1)[0];
    assert_eq!((down, by), (1_000_001, EndedBy::Budget));

    let origin = Origin::http(|_, _| ok(&"y".repeat(600_000)));
    let gate = limited(&origin, toml).start();
    assert_eq!(ask(&gate, "a.test", &origin, "/"), fine());
    let mut client = Raw::open(gate.http);
    let port = origin.port();
    client.send(format!(
        "GET http://a.test:{port}/ HTTP/1.1\r\nHost: a.test:{port}\r\n\r\n"
    ));
    let response = client.rest();
    let body = response.split(|byte| *byte == b'y').count() - 1;
    // A response that is broken off may lose what was about to be sent.
    assert!((1..=400_001).contains(&body), "{body}");
    assert_eq!(ends(&gate, 2)[1], (0, 400_001, EndedBy::Budget));
    assert_eq!(ask(&gate, "a.test", &origin, "/"), used_up());
}

#[test]
fn an_upload_that_is_too_long_is_broken_off_and_answered() {
    let origin = Origin::echo();
    let gate = limited(&origin, "bytes_up = { max = '64K', action = 'deny' }").start();
    let authority = format!("a.test:{}", origin.port());
    let post = |length: usize| {
        let mut client = Raw::open(gate.http);
        client.send(format!(
            "POST http://{authority}/ HTTP/1.1\r\nHost: {authority}\r\nContent-Length: {length}\r\n\r\n"
        ));
        client.send(vec![b'x'; length]);
        outcome(&client.response())
    };
    assert_eq!(post(1000), fine());
    assert_eq!(post(100_000), used_up());
    let sent: u64 = ends(&gate, 2).iter().map(|end| end.0).sum();
    assert!(sent < 64 << 10, "{sent} bytes and two heads");
    assert_eq!(post(1), used_up());
}

#[test]
fn hosts_have_budgets_of_their_own_beside_the_sessions() {
    let origin = sink();
    let toml = "bytes_up = { max = 5000, action = 'deny' }";
    let gate = limited(&origin, toml)
        .policy(|policy| {
            policy.budget_rules.push(BudgetRule {
                host: HostPattern::parse("**.b.test").unwrap(),
                budgets: budgets("bytes_up = { max = 1000, action = 'deny' }"),
            });
        })
        .start();
    let mut there = tunnel(&gate, "b.test", &origin);
    there.send([b'x'; 3000]);
    there.rest();
    assert_eq!(ends(&gate, 1)[0].0, 1000);
    assert_eq!(ask(&gate, "b.test", &origin, "/"), used_up());
    let expected = AuditEvent::LimitHit {
        what: BudgetKind::BytesUp.into(),
        host: Some(HostPattern::parse("**.b.test").unwrap()),
        used: 1000,
        max: 1000,
        action: BudgetAction::Deny.into(),
    };
    assert_eq!(hits(&gate), [expected]);
    let mut elsewhere = tunnel(&gate, "a.test", &origin);
    elsewhere.send([b'x'; 9000]);
    elsewhere.rest();
    assert_eq!(ends(&gate, 2)[1].0, 4000, "what the session has left");
}

#[test]
fn requests_and_connections_are_counted_and_refused_beyond() {
    let origin = Origin::echo();
    let gate = limited(&origin, "requests = { max = 3, action = 'deny' }").start();
    let answers: Vec<_> = (0..6).map(|_| ask(&gate, "a.test", &origin, "/")).collect();
    let expected: Vec<_> = (0..6)
        .map(|n| if n < 3 { fine() } else { used_up() })
        .collect();
    assert_eq!(answers, expected);
    assert_eq!(
        hits(&gate),
        [hit(BudgetKind::Requests, 3, 3, BudgetAction::Deny)]
    );

    let gate = limited(&origin, "connections = { max = 2, action = 'deny' }").start();
    // A connection to the origin that is used again is no new one.
    for _ in 0..5 {
        assert_eq!(ask(&gate, "a.test", &origin, "/"), fine());
    }
    let _first = tunnel(&gate, "a.test", &origin);
    assert_eq!(ask(&gate, "b.test", &origin, "/"), used_up());
}

#[test]
fn a_rate_lets_a_burst_through_and_the_rest_later() {
    let origin = Origin::echo();
    let toml = "rate = { max = 4, per = '1h', action = 'deny' }";
    let gate = limited(&origin, toml).start();
    let answers: Vec<_> = (0..6).map(|_| ask(&gate, "a.test", &origin, "/")).collect();
    let expected: Vec<_> = (0..6)
        .map(|n| if n < 4 { fine() } else { used_up() })
        .collect();
    assert_eq!(answers, expected);
    assert_eq!(
        hits(&gate),
        [hit(BudgetKind::Rate, 4, 4, BudgetAction::Deny)]
    );

    let toml = "rate = { max = 1, per = '300ms', action = 'deny' }";
    let gate = limited(&origin, toml).start();
    assert_eq!(ask(&gate, "a.test", &origin, "/"), fine());
    // Time refills it.
    let again = (0..200).any(|_| {
        thread::sleep(Duration::from_millis(50));
        ask(&gate, "a.test", &origin, "/") == fine()
    });
    assert!(again);
}

#[test]
fn a_host_too_many_is_refused_and_those_known_are_not() {
    let origin = Origin::echo();
    let gate = limited(&origin, "hosts = { max = 1, action = 'deny' }").start();
    assert_eq!(ask(&gate, "a.test", &origin, "/"), fine());
    assert_eq!(ask(&gate, "c.test", &origin, "/").0, 403, "does not count");
    assert_eq!(ask(&gate, "b.test", &origin, "/"), used_up());
    assert_eq!(ask(&gate, "a.test", &origin, "/"), fine());
    assert_eq!(
        hits(&gate),
        [hit(BudgetKind::Hosts, 1, 1, BudgetAction::Deny)]
    );
}

// C08
#[test]
fn a_wildcard_is_no_tunnel_through_names() {
    let origin = Origin::echo();
    let dns = DnsStub::constant("127.0.0.1".parse().unwrap());
    let gate = spec()
        .allow("*.allowed.test", &[origin.port()])
        .allow("own.allowed.test", &[origin.port()])
        .name_server(dns.address)
        .policy(|policy| policy.budgets = budgets("labels = { max = 20, action = 'deny' }"))
        .start();
    let mut answers = Vec::new();
    for n in 0..1000 {
        let name = format!("secret{n}.x.allowed.test");
        answers.push(ask(&gate, &name, &origin, "/").0);
    }
    let count = |status| answers.iter().filter(|found| **found == status).count();
    assert_eq!((count(200), count(429)), (20, 980));
    let asked: BTreeSet<String> = dns.asked().into_iter().collect();
    assert_eq!(asked.len(), 20, "names that a name server was asked for");
    let expected = AuditEvent::LimitHit {
        what: BudgetKind::Labels.into(),
        host: Some(HostPattern::parse("*.allowed.test").unwrap()),
        used: 20,
        max: 20,
        action: BudgetAction::Deny.into(),
    };
    assert_eq!(hits(&gate), [expected]);
    // Twins: a name that was let through, and one that the policy names itself.
    for name in ["secret7.x.allowed.test", "own.allowed.test"] {
        assert_eq!(ask(&gate, name, &origin, "/"), fine(), "{name}");
    }
}

// E13
#[test]
fn reading_methods_carry_no_more_than_their_budget_of_words() {
    let origin = Origin::echo();
    let limited_mode = |toml| {
        let spec = limited(&origin, toml);
        let spec = spec.policy(|policy| policy.mode = NetworkMode::Limited);
        spec.start()
    };
    let gate = limited_mode("url_bytes = { max = 1000, action = 'deny' }");
    let query = |length: usize| format!("/?{}", "q".repeat(length - 2));
    let answers = [600, 401, 400, 1].map(|length| {
        let path = if length == 1 {
            "/".to_owned()
        } else {
            query(length)
        };
        ask(&gate, "a.test", &origin, &path)
    });
    assert_eq!(answers, [fine(), used_up(), fine(), used_up()]);

    let gate = limited_mode("header_bytes = { max = 1000, action = 'deny' }");
    let port = origin.port();
    let with = |length: usize| {
        let mut client = Raw::open(gate.http);
        let value = "v".repeat(length);
        client.send(format!(
            "GET http://a.test:{port}/ HTTP/1.1\r\nHost: a.test:{port}\r\nX: {value}\r\n\r\n"
        ));
        outcome(&client.response())
    };
    assert_eq!(
        [with(1000), with(900), with(90)],
        [used_up(), fine(), used_up()]
    );
}

#[test]
fn heads_that_the_gate_sees_count_as_bytes_up() {
    let origin = Origin::echo();
    let gate = limited(&origin, "bytes_up = { max = 500, action = 'deny' }").start();
    let path = format!("/{}", "p".repeat(400));
    assert_eq!(ask(&gate, "a.test", &origin, &path), fine());
    assert_eq!(ask(&gate, "a.test", &origin, &path), used_up());
    assert!(origin.log.raw_bytes() < 600);
}

#[test]
fn a_warning_is_given_once_and_nothing_is_refused() {
    let origin = sink();
    let toml =
        "bytes_up = { max = 1000, action = 'warn' }\nrequests = { max = 1, action = 'warn' }";
    let gate = limited(&origin, toml).start();
    for _ in 0..3 {
        let mut client = tunnel(&gate, "a.test", &origin);
        client.send([b'x'; 3000]).finish();
        client.rest();
    }
    let ends = ends(&gate, 3);
    assert_eq!(ends, [(3000, 0, EndedBy::Client); 3]);
    let bytes = heard(&gate);
    assert_eq!(bytes.what, BudgetKind::BytesUp);
    // How far over it is depends on how the bytes arrived.
    assert!((1001..=3000).contains(&bytes.used), "{bytes:?}");
    let expected = [
        hit(BudgetKind::BytesUp, bytes.used, 1000, BudgetAction::Warn),
        hit(BudgetKind::Requests, 2, 1, BudgetAction::Warn),
    ];
    assert_eq!(hits(&gate), expected);
    assert_eq!(heard(&gate).what, BudgetKind::Requests);
}

fn reply(gate: &TestGate, verdict: Answered) -> String {
    let question = loop {
        match gate.reply() {
            GateReply::Question(question) => break question,
            GateReply::Limit(_) => {}
            other => panic!("no question: {other:?}"),
        }
    };
    let answer = Answer {
        question: question.id,
        verdict,
        scope: Scope::Session,
        by: "a test".to_owned(),
    };
    gate.control().send(&GateCommand::Answer(answer)).unwrap();
    question.rule.unwrap().to_string()
}

#[test]
fn a_yes_raises_a_budget_by_its_size_and_a_no_ends_it() {
    let origin = sink();
    let gate = limited(&origin, "bytes_up = { max = '1K', action = 'ask' }").start();
    let mut client = tunnel(&gate, "a.test", &origin);
    client.send([b'x'; 3000]);
    let expected = "budget bytes_up: 1K used up; a yes adds 1K";
    assert_eq!(reply(&gate, Answered::Allow), expected);
    let expected = "budget bytes_up: 2K used up; a yes adds 1K";
    assert_eq!(reply(&gate, Answered::Deny), expected);
    client.rest();
    assert_eq!(ends(&gate, 1), [(2048, 0, EndedBy::Budget)]);
    assert_eq!(ask(&gate, "a.test", &origin, "/"), used_up(), "a no stays");
    let expected = [1024, 2048].map(|n| hit(BudgetKind::BytesUp, n, n, BudgetAction::Ask));
    assert_eq!(hits(&gate), expected);
}

#[test]
fn a_request_waits_for_the_answer_and_nobody_is_a_no() {
    let origin = Origin::echo();
    let toml = "requests = { max = 1, action = 'ask' }";
    let gate = limited(&origin, toml).start();
    assert_eq!(ask(&gate, "a.test", &origin, "/"), fine());
    thread::scope(|scope| {
        let waits = scope.spawn(|| ask(&gate, "a.test", &origin, "/"));
        reply(&gate, Answered::Allow);
        assert_eq!(waits.join().unwrap(), fine());
    });
    let mut nobody = limited(&origin, toml);
    nobody.approval_seconds = 0;
    let gate = nobody.start();
    assert_eq!(ask(&gate, "a.test", &origin, "/"), fine());
    assert_eq!(ask(&gate, "a.test", &origin, "/"), used_up());
}

#[test]
fn the_session_hears_that_it_must_end() {
    let origin = Origin::echo();
    let toml = "requests = { max = 1, action = 'kill' }";
    let gate = limited(&origin, toml).start();
    assert_eq!(ask(&gate, "a.test", &origin, "/"), fine());
    assert_eq!(ask(&gate, "a.test", &origin, "/"), used_up());
    let expected = LimitNotice {
        what: BudgetKind::Requests,
        host: None,
        used: 1,
        max: 1,
        action: BudgetAction::Kill,
    };
    assert_eq!(heard(&gate), expected);
}

#[test]
fn idleness_is_told_and_not_while_bytes_move() {
    let origin = Origin::echo_bytes();
    let toml = "idle_time = { max = '2s', action = 'warn' }";
    let gate = limited(&origin, toml).start();
    let mut client = tunnel(&gate, "a.test", &origin);
    let began = Instant::now();
    let (mut moved, mut longest) = (began, Duration::ZERO);
    for _ in 0..8 {
        client.send("x");
        client.exactly(1);
        longest = longest.max(moved.elapsed());
        moved = Instant::now();
        thread::sleep(Duration::from_millis(400));
    }
    let notice = heard(&gate);
    assert_eq!((notice.what, notice.max), (BudgetKind::IdleTime, 2000));
    // Unless the machine stood still meanwhile, which is idleness as well.
    let stood = longest > Duration::from_millis(1500);
    assert!(
        began.elapsed() >= Duration::from_secs(4) || stood,
        "{notice:?}"
    );
    assert_eq!(hits(&gate), [], "the session records it");
}

#[test]
fn a_new_policy_brings_new_limits_and_forgets_nothing() {
    let origin = Origin::echo();
    let before = limited(&origin, "requests = { max = 2, action = 'deny' }");
    let mut policy = before.policy.clone();
    let gate = before.start();
    for expected in [fine(), fine(), used_up()] {
        assert_eq!(ask(&gate, "a.test", &origin, "/"), expected);
    }
    assert_eq!(heard(&gate).max, 2);
    policy.budgets = budgets("requests = { max = 3, action = 'deny' }");
    let command = GateCommand::Policy(Box::new(policy));
    gate.control().send(&command).unwrap();
    assert!(matches!(gate.reply(), GateReply::Applied(_)));
    for expected in [fine(), used_up()] {
        assert_eq!(ask(&gate, "a.test", &origin, "/"), expected);
    }
}

#[test]
fn the_counters_say_what_moves_now() {
    let origin = Origin::echo_bytes();
    let toml =
        "bytes_up = { max = '1M', action = 'deny' }\nrequests = { max = 9, action = 'warn' }";
    let gate = limited(&origin, toml).start();
    let mut client = tunnel(&gate, "a.test", &origin);
    client.send([b'x'; 2000]);
    client.exactly(2000);
    let mut other = tunnel(&gate, "b.test", &origin);
    other.send("yes");
    other.exactly(3);
    assert_eq!(ask(&gate, "c.test", &origin, "/").0, 403);
    gate.control().send(&GateCommand::Counters).unwrap();
    let GateReply::Counters(counters) = gate.reply() else {
        panic!("no counters");
    };
    let host = |host: &str, bytes| HostCounters {
        host: portcullis::policy::Host::parse(host).ok(),
        port: portcullis::policy::Port::new(origin.port()),
        requests: 1,
        bytes_up: bytes,
        bytes_down: bytes,
    };
    let budget = |what, used, max| BudgetUse {
        what,
        host: None,
        used,
        max,
    };
    let expected = Counters {
        bytes_up: 2003,
        bytes_down: 2003,
        requests: 2,
        connections_open: 2,
        connections_total: 2,
        denied: 1,
        hosts: vec![host("a.test", 2000), host("b.test", 3)],
        budgets: vec![
            budget(BudgetKind::BytesUp, 2003, MEGA as u64),
            budget(BudgetKind::Requests, 2, 9),
        ],
    };
    assert_eq!(counters, expected);
}
