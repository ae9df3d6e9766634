//! What the test says as the session, and what it reads as the audit writer.

use std::collections::BTreeMap;
use std::thread;

use hyper::Response;
use hyper::body::Bytes;
use portcullis::audit::{AuditEvent, EndedBy};
use portcullis::policy::{Answered, Credential, NetworkPolicy, Scope};
use portcullis::secret::Secret;
use portcullis::wire::gate::{
    Answer, Applied, Counters, CredentialValue, GateCommand, GateReply, Question,
};
use serde_json::json;

use crate::client::Tls;
use crate::scene::{HOST, Scene};
use crate::test_gate::{GateSpec, TestGate};
use crate::tls_origin::OriginSpec;

pub(crate) const PLACEHOLDER: &str = "sk-portcullis-00112233445566778899aabbccddeeff";
pub(crate) const VALUE: &str = "the-real-secret-value";

/// The request fields of a WebSocket's handshake over HTTP/1.1.
pub(crate) const WEBSOCKET: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// A runtime whose connections go on while the test does something else.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

pub(crate) fn question(gate: &TestGate) -> Question {
    match gate.reply() {
        GateReply::Question(question) => question,
        other => panic!("no question: {other:?}"),
    }
}

pub(crate) fn answer(gate: &TestGate, question: &Question, verdict: Answered) {
    let answer = Answer {
        question: question.id,
        verdict,
        scope: Scope::Once,
        by: "a test".to_owned(),
    };
    gate.control().send(&GateCommand::Answer(answer)).unwrap();
}

/// Does this while somebody answers the one question that it leads to; the question, and what came of it.
pub(crate) fn answering<T: Send>(
    gate: &TestGate,
    verdict: Answered,
    act: impl FnOnce() -> T + Send,
) -> (Question, T) {
    thread::scope(|scope| {
        let acting = scope.spawn(act);
        let asked = question(gate);
        answer(gate, &asked, verdict);
        (asked, acting.join().unwrap())
    })
}

pub(crate) fn apply(gate: &TestGate, policy: &NetworkPolicy) -> Applied {
    gate.control()
        .send(&GateCommand::Policy(Box::new(policy.clone())))
        .unwrap();
    match gate.reply() {
        GateReply::Applied(applied) => applied,
        other => panic!("not applied: {other:?}"),
    }
}

pub(crate) fn counters(gate: &TestGate) -> Counters {
    gate.control().send(&GateCommand::Counters).unwrap();
    loop {
        match gate.reply() {
            GateReply::Counters(counters) => return counters,
            GateReply::Limit(_) => {}
            other => panic!("no counters: {other:?}"),
        }
    }
}

/// How many questions were ever asked.
pub(crate) fn questions(gate: &TestGate) -> usize {
    let asked = |event: &&AuditEvent| matches!(event, AuditEvent::ApprovalAsked { .. });
    gate.audit.events().iter().filter(asked).count()
}

/// Bytes up and down of everything that ended, with who ended it, once there are so many.
pub(crate) fn ends(gate: &TestGate, count: usize) -> Vec<(u64, u64, EndedBy)> {
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

/// Each number that was given a permit, with how often its end or failure is on record.
pub(crate) fn endings(gate: &TestGate) -> BTreeMap<u64, usize> {
    let mut found = BTreeMap::new();
    for event in gate.audit.events() {
        match event {
            AuditEvent::EgressDecided {
                conn,
                verdict: portcullis::policy::Verdict::Allow,
                ..
            } => {
                found.entry(conn.0).or_insert(0);
            }
            AuditEvent::EgressClosed { conn, .. } => *found.entry(conn.0).or_insert(0) += 1,
            _ => {}
        }
    }
    found
}

/// A masked frame with binary content (RFC 6455 section 5.2), the mask of zeroes.
pub(crate) fn frame(content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    [&[0x82, 0xfe], &length[..], &[0; 4], content].concat()
}

/// A tunnel whose WebSocket is open.
pub(crate) fn websocket(scene: &Scene) -> Tls {
    let mut tls = Tls::open(scene);
    tls.send(format!(
        "GET /ws HTTP/1.1\r\nHost: {HOST}\r\n{WEBSOCKET}\r\n"
    ));
    let answer = tls.head();
    assert_eq!(answer.status(), 101, "{}", answer.head);
    tls
}

/// A credential for everything at the origin.
pub(crate) fn with_credential(spec: GateSpec) -> GateSpec {
    let rules = spec.policy.rules.iter();
    let ports: Vec<u16> = rules
        .flat_map(|rule| &rule.ports)
        .map(|port| port.number())
        .collect();
    let form = json!({
        "name": "k", "host": HOST, "ports": ports,
        "header": "authorization", "value": "Bearer ${env:K}",
    });
    let credential: Credential = serde_json::from_value(form).unwrap();
    spec.policy(|policy| policy.credentials.push(credential))
        .credential(CredentialValue {
            name: "k".to_owned(),
            placeholder: PLACEHOLDER.to_owned(),
            value: Secret::new(VALUE.to_owned()),
        })
}

/// An origin that says nothing of what it was sent: the value may not come back.
pub(crate) fn discreet() -> OriginSpec {
    OriginSpec::new(HOST).answer(|_| Response::new(Bytes::from("fine")))
}

pub(crate) fn bearer() -> String {
    format!("Authorization: Bearer {PLACEHOLDER}\r\n")
}

/// How often the credential was put in.
pub(crate) fn used(gate: &TestGate) -> usize {
    let used = |event: &&AuditEvent| matches!(event, AuditEvent::CredentialUsed { .. });
    gate.audit.events().iter().filter(used).count()
}

/// What the origin was sent as authorization.
pub(crate) fn authorized(scene: &Scene) -> Vec<Option<String>> {
    let seen = scene.origin.seen();
    seen.iter()
        .map(|seen| seen.header("authorization").map(str::to_owned))
        .collect()
}
