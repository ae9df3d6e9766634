//! Clients that close their side and still listen, and clients that have left: the same FIN.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use portcullis::audit::{AuditEvent, EndedBy};
use portcullis::policy::{Answered, Effect, Scope};
use portcullis::wire::gate::{Answer, GateCommand, GateReply};

use crate::client::Raw;
use crate::test_gate::{GateSpec, TestGate, spec};
use crate::upstream::{Origin, ok};

/// Longer than a client that closed its side is waited for.
const LONG: Duration = Duration::from_secs(12);

fn allowing(origin: &Origin) -> (GateSpec, String) {
    let spec = spec()
        .allow("a.test", &[origin.port()])
        .host("a.test", "127.0.0.1");
    (spec, format!("a.test:{}", origin.port()))
}

fn request(authority: &str, path: &str) -> String {
    format!("GET http://{authority}{path} HTTP/1.1\r\nHost: {authority}\r\n\r\n")
}

/// What netcat prints that sends this and closes its side.
fn nc(gate: std::net::SocketAddr, text: &str) -> String {
    let mut child = Command::new("nc")
        .args(["-N", &gate.ip().to_string(), &gate.port().to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn ended(gate: &TestGate) -> EndedBy {
    let closed = gate.audit.wait_for_one("an end", |event| {
        matches!(event, AuditEvent::EgressClosed { .. })
    });
    match closed {
        AuditEvent::EgressClosed { ended_by, .. } => ended_by,
        other => panic!("{other:?}"),
    }
}

#[test]
fn netcat_is_answered_and_refused_like_anybody_else() {
    let origin = Origin::http(|head, _| {
        // Slower than a connection is looked at.
        thread::sleep(Duration::from_millis(1500));
        ok(head.lines().next().unwrap_or_default())
    });
    let (spec, authority) = allowing(&origin);
    let gate = spec.start();
    let said = nc(gate.http, &request(&authority, "/x"));
    assert!(said.starts_with("HTTP/1.1 200 OK\r\n"), "{said}");
    assert!(said.ends_with("\r\n\r\nGET /x HTTP/1.1"), "{said}");
    assert_eq!(ended(&gate), EndedBy::Upstream);
    let said = nc(gate.http, &request("denied.test", "/x"));
    assert!(said.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{said}");
    assert!(said.contains("\"code\":\"host_not_allowed\""), "{said}");
    assert_eq!(origin.log.connections(), 1);
}

#[test]
fn a_whole_request_is_served_in_every_framing() {
    let origin = Origin::http(|head, body| {
        let line = head.lines().next().unwrap_or_default();
        ok(&format!("{line} {}", body.len()))
    });
    let (spec, authority) = allowing(&origin);
    let gate = spec.start();
    let post = format!("POST http://{authority}/p HTTP/1.1\r\nHost: {authority}\r\n");
    let two = request(&authority, "/1") + &request(&authority, "/2");
    for (sent, answers) in [
        (request(&authority, "/a"), &["GET /a HTTP/1.1 0"][..]),
        (
            format!("{post}Content-Length: 3\r\n\r\nabc"),
            &["POST /p HTTP/1.1 3"],
        ),
        (two, &["GET /1 HTTP/1.1 0", "GET /2 HTTP/1.1 0"]),
        (
            format!("GET http://{authority}/old HTTP/1.0\r\n\r\n"),
            &["GET /old HTTP/1.1 0"],
        ),
    ] {
        let mut client = Raw::open(gate.http);
        client.send(&sent).finish();
        for expected in answers {
            assert_eq!(client.response().text(), *expected, "{sent:?}");
        }
        assert_eq!(client.rest(), b"", "{sent:?}");
    }
}

#[test]
fn chunks_that_are_whole_are_served_and_content_that_is_cut_off_is_not() {
    let origin = Origin::raw(|mut stream| {
        let mut bytes = Vec::new();
        let mut chunk = [0; 4096];
        while !bytes.ends_with(b"0\r\n\r\n") {
            let got = stream.read(&mut chunk)?;
            if got == 0 {
                return Ok(());
            }
            bytes.extend(&chunk[..got]);
        }
        stream.write_all(&ok("whole"))
    });
    let (spec, authority) = allowing(&origin);
    let gate = spec.start();
    let post = format!("POST http://{authority}/p HTTP/1.1\r\nHost: {authority}\r\n");
    let chunked = format!("{post}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    let mut client = Raw::open(gate.http);
    client.send(format!("{chunked}0\r\n\r\n")).finish();
    assert_eq!(client.response().text(), "whole");
    for cut in [
        chunked.clone(),
        // It looks like the end.
        format!("{chunked}4\r\n\r\n\r\n"),
        format!("{post}Content-Length: 9\r\n\r\nabc"),
        request(&authority, "/x").replace("\r\n\r\n", "\r\nX:"),
    ] {
        let mut client = Raw::open(gate.http);
        client.send(&cut).finish();
        assert!(!client.rest().starts_with(b"HTTP/1.1 200"), "{cut:?}");
    }
}

#[test]
fn a_long_answer_is_sent_to_its_end() {
    const LONG_ANSWER: usize = 24 << 20;
    let text = "x".repeat(LONG_ANSWER);
    let origin = Origin::http(move |_, _| ok(&text));
    let (spec, authority) = allowing(&origin);
    let gate = spec.start();
    let mut client = Raw::open(gate.http);
    client.send(request(&authority, "/x")).finish();
    // The answer begins, and is then left in the sockets for longer than a silent client is waited for.
    let first = client.exactly(17);
    assert_eq!(first, b"HTTP/1.1 200 OK\r\n");
    thread::sleep(Duration::from_secs(7));
    let rest = client.rest();
    assert!(rest.len() > LONG_ANSWER, "{}", rest.len());
    assert_eq!(ended(&gate), EndedBy::Upstream);
}

#[test]
fn a_client_that_has_left_is_found_out_before_its_answer_and_within_it() {
    // An origin that says nothing; one that says something and then nothing.
    for begins in [false, true] {
        let (told, gone) = std::sync::mpsc::channel();
        let origin = Origin::raw(move |mut stream| {
            stream.read_exact(&mut [0; 16])?;
            if begins {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")?;
            }
            let mut rest = Vec::new();
            drop(stream.read_to_end(&mut rest));
            told.send(()).map_err(std::io::Error::other)
        });
        let (spec, authority) = allowing(&origin);
        let gate = spec.start();
        let mut client = Raw::open(gate.http);
        client.send(request(&authority, "/x"));
        if begins {
            client.exactly(8);
        } else {
            gate.audit.wait_for_one("the dial", |event| {
                matches!(event, AuditEvent::EgressDialed { .. })
            });
        }
        let left = Instant::now();
        drop(client);
        gone.recv_timeout(LONG).unwrap();
        assert!(left.elapsed() < LONG);
        ended(&gate);
    }
}

#[test]
fn a_tunnel_is_relayed_to_a_client_that_has_nothing_to_say() {
    let origin = Origin::raw(|mut stream| {
        // What was sent first, and then its end, is there before the answer.
        let mut said = Vec::new();
        stream.read_to_end(&mut said)?;
        stream.write_all(format!("heard {}", said.len()).as_bytes())
    });
    let (spec, authority) = allowing(&origin);
    let gate = spec.start();
    let connect = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
    let port = origin.port().to_be_bytes();
    let socks = [&[5, 1, 0, 5, 1, 0, 3, 6], &b"a.test"[..], &port].concat();
    for early in ["", "hello"] {
        let expected = format!("heard {}", early.len());
        let mut client = Raw::open(gate.http);
        client.send(format!("{connect}{early}")).finish();
        assert_eq!(client.response().status(), 200, "{early}");
        assert_eq!(client.rest(), expected.as_bytes());
        let mut client = Raw::open(gate.socks);
        client.send([&socks, early.as_bytes()].concat()).finish();
        assert_eq!(client.exactly(12)[..4], [5, 0, 5, 0], "{early}");
        assert_eq!(client.rest(), expected.as_bytes());
    }
    let said = nc(gate.http, &connect);
    assert!(said.ends_with("\r\n\r\nheard 0"), "{said}");
    let said = nc(gate.http, &connect.replace("a.test", "b.test"));
    assert!(said.starts_with("HTTP/1.1 403 "), "{said}");
    let mut refused = Raw::open(gate.socks);
    let other = [&[5, 1, 0, 5, 1, 0, 3, 6], &b"b.test"[..], &port].concat();
    refused.send(other).finish();
    assert_eq!(refused.exactly(12)[..4], [5, 0, 5, 2]);
    assert_eq!(refused.rest(), b"");
}

#[test]
fn somebody_is_asked_for_a_client_that_closed_its_side_but_not_for_long() {
    let origin = Origin::echo();
    let (spec, authority) = allowing(&origin);
    let gate = spec
        .policy(|policy| policy.rules[0].effect = Effect::Ask)
        .start();
    let asked = |gate: &TestGate| match gate.reply() {
        GateReply::Question(question) => question,
        other => panic!("no question: {other:?}"),
    };
    let mut client = Raw::open(gate.http);
    client.send(request(&authority, "/x")).finish();
    let answer = Answer {
        question: asked(&gate).id,
        verdict: Answered::Allow,
        scope: Scope::Once,
        by: "a test".to_owned(),
    };
    gate.control().send(&GateCommand::Answer(answer)).unwrap();
    assert_eq!(client.response().text(), "GET /x HTTP/1.1");
    let mut late = Raw::open(gate.http);
    late.send(request(&authority, "/y")).finish();
    let question = asked(&gate);
    assert_eq!(gate.reply(), GateReply::Withdrawn(question.id));
    assert_eq!(late.rest(), b"");
}
