//! Placeholders on doors where no value may ever be put in: refused wherever they stand, and nothing of
//! the request reaches the origin. Where values are put in is inspected TLS.

use portcullis::audit::AuditEvent;
use portcullis::policy::{Credential, DenyReason, NetworkMode, NetworkPolicy};
use portcullis::secret::Secret;
use portcullis::wire::gate::{CredentialValue, GateCommand, GateReply};

use crate::client::{Raw, get};
use crate::test_gate::{GateSpec, TestGate, spec};
use crate::upstream::{Origin, ok};

const MARK: &str = "00112233445566778899aabbccddeeff";
const PLACEHOLDER: &str = "sk-portcullis-00112233445566778899aabbccddeeff";
const VALUE: &str = "the-real-secret-value";

fn credential(port: u16) -> Credential {
    serde_json::from_value(serde_json::json!({
        "name": "k", "host": "a.test", "header": "authorization", "value": "Bearer ${env:K}",
        "ports": [port],
    }))
    .unwrap()
}

fn with_credential(origin: &Origin) -> (GateSpec, String) {
    let spec = spec()
        .reaches("a.test", origin.port())
        .policy(|policy| policy.credentials.push(credential(origin.port())))
        .credential(CredentialValue {
            name: "k".to_owned(),
            placeholder: PLACEHOLDER.to_owned(),
            value: Secret::new(VALUE.to_owned()),
        });
    (spec, format!("a.test:{}", origin.port()))
}

fn refused(gate: &TestGate, place: &str) {
    let event = gate.audit.wait_for_one("a refusal", |event| {
        matches!(event, AuditEvent::EgressRefused { detail, .. } if detail.ends_with(place))
    });
    let AuditEvent::EgressRefused { reason, detail, .. } = event else {
        panic!("{event:?}");
    };
    assert_eq!(
        (reason, detail),
        (
            DenyReason::CredentialMisplaced,
            format!("the placeholder of credential k stands {place}")
        )
    );
}

#[test]
fn a_placeholder_over_plain_http_is_refused_wherever_it_stands_and_its_twin_passes() {
    let origin = Origin::echo();
    let (spec, authority) = with_credential(&origin);
    let gate = spec.start();
    let plain = "in a request that is not sent over inspected TLS";
    let other = "in another header than the credential's";
    // u:MARK
    let basic = "Basic dTowMDExMjIzMzQ0NTU2Njc3ODg5OWFhYmJjY2RkZWVmZg==";
    for (target, field, place) in [
        ("/x", format!("Authorization: Bearer {PLACEHOLDER}"), plain),
        ("/x", format!("X-Key: {PLACEHOLDER}"), other),
        ("/x", format!("Cookie: a=b; k={MARK}"), other),
        ("/x", format!("X-Auth: {basic}"), other),
        ("/MARK", "X-A: b".to_owned(), "in the path"),
        ("/x?k=MARK", "X-A: b".to_owned(), "in the query"),
        (
            "/x?k=%300112233445566778899aabbccddeeff",
            "X-A: b".to_owned(),
            "in the query",
        ),
    ] {
        let target = target.replace("MARK", MARK);
        let ask = |target: &str, field: &str| {
            let mut client = Raw::open(gate.http);
            client.send(format!(
                "GET http://{authority}{target} HTTP/1.1\r\nHost: {authority}\r\n{field}\r\n\r\n"
            ));
            client.response()
        };
        let response = ask(&target, &field);
        assert_eq!(
            (response.status(), response.denied().as_str()),
            (403, "credential_misplaced"),
            "{field}"
        );
        refused(&gate, place);
        // One digit less is no placeholder.
        let twin = |text: &str| {
            text.replace("223344", "22344")
                .replace("MDExMjIz", "MDExMjI0")
                .replace("%300112233", "%30112233")
        };
        assert_eq!(ask(&twin(&target), &twin(&field)).status(), 200, "{field}");
    }
    assert!(!origin.log.text().contains(MARK));
    assert!(!origin.log.text().contains(VALUE));
}

#[test]
fn nothing_is_dialed_for_a_request_with_a_placeholder() {
    let origin = Origin::echo();
    let (spec, authority) = with_credential(&origin);
    let gate = spec.start();
    assert_eq!(
        get(gate.http, &authority, &format!("/{MARK}")).denied(),
        "credential_misplaced"
    );
    assert_eq!(origin.log.connections(), 0);
    let dialed = |event: &AuditEvent| {
        matches!(
            event,
            AuditEvent::EgressDialed { .. } | AuditEvent::DnsQuery { .. }
        )
    };
    assert!(!gate.audit.events().iter().any(dialed));
}

#[test]
fn an_upload_stops_before_the_placeholder_in_it_is_complete() {
    let origin = Origin::http(|_, body| ok(&format!("got {}", body.len())));
    let (spec, authority) = with_credential(&origin);
    let gate = spec.start();
    let upload = |parts: &[&str]| {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let mut client = Raw::open(gate.http);
        client.send(format!(
            "POST http://{authority}/ HTTP/1.1\r\nHost: {authority}\r\nContent-Length: {length}\r\n\r\n"
        ));
        for part in parts {
            client.send(part);
            // So that the parts arrive as chunks of their own, most of the time; any cut is right.
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        client.response()
    };
    let (first, second) = MARK.split_at(20);
    for parts in [
        &[MARK][..],
        &["x=", MARK, "&y"],
        &["x=", first, second, "&y"],
    ] {
        let response = upload(parts);
        assert_eq!(
            (response.status(), response.denied().as_str()),
            (403, "credential_misplaced"),
            "{parts:?}"
        );
        refused(&gate, "in the content");
    }
    assert!(!origin.log.text().contains(MARK));
    assert_eq!(upload(&["x=", first, "-", second]).text(), "got 35");
    gate.audit.wait_for_one("an end by the gate", |event| {
        matches!(
            event,
            AuditEvent::EgressClosed {
                ended_by: portcullis::audit::EndedBy::Gate,
                ..
            }
        )
    });
}

#[test]
fn an_answer_that_holds_the_value_does_not_enter_the_jail() {
    let origin = Origin::http(|head, _| match head.split(' ').nth(1).unwrap() {
        "/body" => ok(&format!("before {VALUE} after")),
        "/head" => {
            format!("HTTP/1.1 200 OK\r\nX-Echo: {VALUE}\r\nContent-Length: 0\r\n\r\n").into_bytes()
        }
        "/twin" => ok("before the-real-secret-valve the-real"),
        other => panic!("{other}"),
    });
    let (spec, authority) = with_credential(&origin);
    let gate = spec.start();
    assert_eq!(
        get(gate.http, &authority, "/head").denied(),
        "credential_misplaced"
    );
    let mut client = Raw::open(gate.http);
    client.send(format!(
        "GET http://{authority}/body HTTP/1.1\r\nHost: {authority}\r\n\r\n"
    ));
    let received = String::from_utf8_lossy(&client.rest()).into_owned();
    assert!(!received.contains("secret"), "{received}");
    gate.audit.wait_for("two refusals", |events| {
        let told = |event: &&AuditEvent| {
            matches!(event, AuditEvent::EgressRefused { detail, .. } if detail == "the answer holds the value of credential k")
        };
        events.iter().filter(told).count() == 2
    });
    let twin = get(gate.http, &authority, "/twin");
    assert_eq!(twin.text(), "before the-real-secret-valve the-real");
}

#[test]
fn an_answer_that_comes_in_pieces_is_whole_in_the_end() {
    use std::io::{Read, Write};
    let origin = Origin::raw(|mut stream| {
        let mut chunk = [0; 4096];
        let _ = stream.read(&mut chunk)?;
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        for piece in ["a the-real", "-secret-", "thing the-re", "al"] {
            stream.write_all(format!("{:x}\r\n{piece}\r\n", piece.len()).as_bytes())?;
            stream.flush()?;
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        stream.write_all(b"0\r\n\r\n")
    });
    let (spec, authority) = with_credential(&origin);
    let gate = spec.start();
    let (_, text) = crate::client::curl(&[
        "--proxy",
        &format!("http://{}", gate.http),
        &format!("http://{authority}/"),
    ]);
    assert_eq!(text, "a the-real-secret-thing the-real");
}

// D14
#[test]
fn the_gates_memory_is_not_to_be_read_by_its_own_user() {
    let origin = Origin::echo();
    let (spec, _) = with_credential(&origin);
    let gate = spec.start();
    // Root may read everything, so the file's owner tells: a process that is not dumpable belongs to
    // root (proc(5)), and one whose memory may be read to its user.
    let status = std::fs::read_to_string(format!("/proc/{}/status", gate.child.id())).unwrap();
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    let uid = |what: &str| {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(format!("/proc/{}/{what}", gate.child.id())).map(|file| file.uid())
    };
    assert_eq!(uid("mem").unwrap(), 0);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", gate.child.id())).unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
}

#[test]
fn a_gate_whose_values_do_not_fit_its_policy_does_not_start() {
    let mut spec = spec();
    spec.policy.credentials.push(credential(443));
    assert_eq!(
        crate::test_gate::failure_of(spec),
        "gate: credential \"k\": its value and the policy do not fit"
    );
}

#[test]
fn a_new_policy_keeps_the_credentials_of_the_session_or_is_not_applied() {
    let origin = Origin::echo();
    let (spec, _) = with_credential(&origin);
    let mut policy = spec.policy.clone();
    let gate = spec.start();
    let apply = |policy: &NetworkPolicy| {
        let command = GateCommand::Policy(Box::new(policy.clone()));
        gate.control().send(&command).unwrap();
        gate.reply()
    };
    policy.mode = NetworkMode::Limited;
    assert!(matches!(apply(&policy), GateReply::Applied(_)));
    policy.credentials[0].header = "x-key".to_owned();
    for other in [
        policy.clone(),
        NetworkPolicy {
            credentials: Vec::new(),
            ..policy
        },
    ] {
        let reply = apply(&other);
        let GateReply::NotApplied(why) = reply else {
            panic!("{reply:?}");
        };
        assert!(
            why.starts_with("the credentials of a running session cannot be changed"),
            "{why}"
        );
    }
}
