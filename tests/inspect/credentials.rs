//! Credentials where they are put in: requests inside TLS that ends at the gate.

use std::collections::BTreeSet;

use hyper::Response;
use hyper::body::Bytes;
use portcullis::audit::AuditEvent;
use portcullis::policy::{Credential, DenyReason, Transport};
use portcullis::secret::Secret;
use portcullis::wire::gate::CredentialValue;
use serde_json::{Value, json};

use crate::client::{H2, Tls};
use crate::scene::{HOST, Scene};
use crate::test_gate::GateSpec;
use crate::tls_origin::{OriginSpec, Seen};

const PLACEHOLDER: &str = "sk-portcullis-00112233445566778899aabbccddeeff";
const VALUE: &str = "the-real-secret-value";

/// A credential of the origin's for these paths, whatever port it has.
fn with_credential(spec: GateSpec, changes: &[(&str, Value)]) -> GateSpec {
    let ports: Vec<u16> = spec
        .policy
        .rules
        .iter()
        .flat_map(|rule| &rule.ports)
        .map(|port| port.number())
        .collect();
    let mut form = json!({
        "name": "k", "host": HOST, "ports": ports, "paths": ["/v1/**", "/ws"],
        "header": "authorization", "value": "Bearer ${env:K}",
    });
    for (key, value) in changes {
        form[*key] = value.clone();
    }
    let credential: Credential = serde_json::from_value(form).unwrap();
    spec.policy(|policy| policy.credentials.push(credential))
        .credential(CredentialValue {
            name: "k".to_owned(),
            placeholder: PLACEHOLDER.to_owned(),
            value: Secret::new(VALUE.to_owned()),
        })
}

/// An origin that says nothing of what it was sent.
fn discreet() -> OriginSpec {
    OriginSpec::new(HOST).answer(|_| Response::new(Bytes::from("fine")))
}

fn bearer() -> String {
    format!("Authorization: Bearer {PLACEHOLDER}\r\n")
}

fn used(scene: &Scene) -> usize {
    let events = scene.gate.audit.events().into_iter();
    events
        .filter(|event| matches!(event, AuditEvent::CredentialUsed { credential, host, .. } if credential == "k" && host.to_string() == HOST))
        .count()
}

/// Nothing on record has the value.
fn assert_not_recorded(scene: &Scene) {
    let records = serde_json::to_string(&scene.gate.audit.events()).unwrap();
    assert!(!records.contains(VALUE), "{records}");
}

#[test]
fn the_origin_gets_the_value_where_the_client_sent_the_placeholder() {
    for alpn in [&["http/1.1"][..], &["h2"]] {
        let scene = Scene::before(discreet().alpn(alpn), |spec| with_credential(spec, &[]));
        let mut tls = Tls::open(&scene);
        let answer = tls.ask("GET /v1/x?q", HOST, &(bearer() + "Accept-Encoding: br\r\n"));
        assert_eq!(
            (answer.status(), answer.body.as_slice()),
            (200, &b"fine"[..]),
            "{alpn:?}"
        );
        assert_eq!(tls.ask("GET /other", HOST, "").status(), 200);
        assert_eq!(
            tls.ask("GET /v1/x", HOST, "Authorization: Bearer mine\r\n")
                .status(),
            200
        );
        let sent: Vec<_> = scene
            .origin
            .seen()
            .iter()
            .map(|seen: &Seen| seen.header("authorization").map(str::to_owned))
            .collect();
        let expected = [
            Some(format!("Bearer {VALUE}")),
            None,
            Some("Bearer mine".to_owned()),
        ];
        assert_eq!(sent, expected, "{alpn:?}");
        assert_eq!(
            scene.origin.seen()[0].header("accept-encoding"),
            Some("identity")
        );
        assert_eq!(used(&scene), 1);
        assert_not_recorded(&scene);
    }
}

#[test]
fn a_use_is_on_record_before_anything_of_the_request_leaves() {
    let scene = Scene::before(discreet(), |spec| with_credential(spec, &[]));
    let mut tls = Tls::open(&scene);
    tls.ask("GET /v1/x", HOST, &bearer());
    let words: Vec<_> = scene
        .gate
        .audit
        .events()
        .iter()
        .map(AuditEvent::name)
        .filter(|word| ["credential.used", "egress.dialed", "dns.query"].contains(word))
        .collect();
    assert_eq!(words[0], "credential.used", "{words:?}");
}

#[tokio::test]
async fn a_client_of_http2_has_the_same_and_a_placeholder_elsewhere_is_refused() {
    let scene = Scene::before(discreet(), |spec| with_credential(spec, &[]));
    let mut client = H2::open(&scene).await;
    let right = format!("Bearer {PLACEHOLDER}");
    let response = client
        .send(
            "/v1/x",
            |request| request.header("authorization", &right),
            "",
        )
        .await;
    assert_eq!(response.unwrap().status(), 200);
    let elsewhere = [
        ("/v1/x", "x-key", right.as_str(), ""),
        ("/v2/x", "authorization", &right, ""),
        ("/v1/x?k=00112233445566778899aabbccddeeff", "x-a", "b", ""),
        ("/v1/00112233445566778899aabbccddeeff", "x-a", "b", ""),
        ("/v1/x", "x-a", "b", PLACEHOLDER),
    ];
    for (path, name, text, body) in elsewhere {
        let response = client
            .send(path, |request| request.header(name, text), body)
            .await
            .unwrap();
        if !body.is_empty() && response.status() == 200 {
            // This origin answers a head at once, perhaps before the content came that is stopped.
            continue;
        }
        let code = response.headers()["x-portcullis-denied"]
            .to_str()
            .unwrap()
            .to_owned();
        assert_eq!(
            (response.status().as_u16(), code.as_str()),
            (403, "credential_misplaced"),
            "{path} {name}"
        );
    }
    let twin = client
        .send(
            "/v1/x",
            |request| request.header("x-key", "sk-portcullis-"),
            "body",
        )
        .await;
    assert_eq!(twin.unwrap().status(), 200);
    let seen = scene.origin.seen();
    let text = seen.iter().fold(String::new(), |all, seen| {
        format!("{all}{} {:?}", seen.path, seen.headers)
    });
    assert!(!text.contains("00112233445566778899aabbccddeeff"), "{text}");
    assert_eq!(text.matches(VALUE).count(), 1);
}

#[test]
fn a_refusal_names_the_credential_and_the_place() {
    let scene = Scene::before(discreet(), |spec| with_credential(spec, &[]));
    let answer = Tls::open(&scene).ask("GET /v2", HOST, &bearer());
    assert_eq!(answer.denied(), (403, "credential_misplaced".to_owned()));
    assert_eq!(
        scene.refusal(),
        (
            Transport::Inspected,
            DenyReason::CredentialMisplaced,
            "the placeholder of credential k stands in a request to a path that is not the credential's".to_owned()
        )
    );
    assert!(scene.origin.seen().is_empty());
}

#[test]
fn an_origin_that_reflects_the_value_gets_no_answer_through() {
    // The origin answers with the request as JSON.
    for alpn in [&["http/1.1"][..], &["h2"]] {
        let scene = Scene::before(OriginSpec::new(HOST).alpn(alpn), |spec| {
            with_credential(spec, &[])
        });
        let mut tls = Tls::open(&scene);
        tls.send(format!(
            "GET /v1/x HTTP/1.1\r\nHost: {HOST}\r\n{}\r\n",
            bearer()
        ));
        let received = String::from_utf8_lossy(&tls.rest()).into_owned();
        assert!(!received.contains("the-real"), "{received}");
        let (_, reason, detail) = scene.refusal();
        assert_eq!(
            (reason, detail.as_str()),
            (
                DenyReason::CredentialMisplaced,
                "the answer holds the value of credential k"
            )
        );
        assert_eq!(used(&scene), 1);
        let twin = Tls::open(&scene).ask("GET /v1/x", HOST, "");
        assert_eq!(twin.status(), 200);
    }
}

#[test]
fn basic_credentials_and_their_reflection() {
    let scene = Scene::before(OriginSpec::new(HOST), |spec| with_credential(spec, &[]));
    // git:PLACEHOLDER
    let sent = "Basic Z2l0OnNrLXBvcnRjdWxsaXMtMDAxMTIyMzM0NDU1NjY3Nzg4OTlhYWJiY2NkZGVlZmY=";
    let mut tls = Tls::open(&scene);
    tls.send(format!(
        "GET /v1/x HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: {sent}\r\n\r\n"
    ));
    // git:VALUE
    let real = "Z2l0OnRoZS1yZWFsLXNlY3JldC12YWx1ZQ==";
    let received = String::from_utf8_lossy(&tls.rest()).into_owned();
    assert!(!received.contains(real), "{received}");
    let seen = scene.origin.seen();
    assert_eq!(
        seen[0].header("authorization"),
        Some(format!("Basic {real}").as_str())
    );
}

#[test]
fn a_websocket_is_opened_with_the_value() {
    let scene = Scene::with(|spec| with_credential(spec, &[]));
    let mut tls = Tls::open(&scene);
    let handshake = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    tls.send(format!(
        "GET /ws HTTP/1.1\r\nHost: {HOST}\r\n{}{handshake}\r\n",
        bearer()
    ));
    assert_eq!(tls.head().status(), 101);
    let sent: BTreeSet<_> = scene
        .origin
        .seen()
        .iter()
        .map(|seen| seen.header("authorization").map(str::to_owned))
        .collect();
    assert_eq!(sent, BTreeSet::from([Some(format!("Bearer {VALUE}"))]));
    assert_eq!(used(&scene), 1);
    let refused = Tls::open(&scene).ask(
        "GET /ws",
        HOST,
        &format!("{handshake}X-Key: {PLACEHOLDER}\r\n"),
    );
    assert_eq!(refused.denied(), (403, "credential_misplaced".to_owned()));
}

#[test]
fn a_credential_that_is_always_put_in_needs_no_placeholder_in_the_jail() {
    let always = [
        ("inject", json!("always")),
        ("header", json!("x-key")),
        ("value", json!("${env:K}")),
    ];
    let scene = Scene::before(discreet(), |spec| with_credential(spec, &always));
    let mut tls = Tls::open(&scene);
    for fields in ["", "X-Key: mine\r\n", "Connection: X-Key\r\n"] {
        assert_eq!(tls.ask("GET /v1/x", HOST, fields).status(), 200, "{fields}");
    }
    assert_eq!(tls.ask("GET /other", HOST, "").status(), 200);
    let seen = scene.origin.seen();
    let sent: Vec<_> = seen.iter().map(|seen| seen.header("x-key")).collect();
    assert_eq!(sent, [Some(VALUE), Some(VALUE), Some(VALUE), None]);
}

#[test]
fn an_origin_cannot_reflect_the_value_in_its_reason_phrase() {
    let answer = format!("HTTP/1.1 200 {VALUE}\r\nContent-Length: 4\r\n\r\nfine");
    let origin = OriginSpec::new(HOST)
        .alpn(&["http/1.1"])
        .raw(answer.as_bytes());
    let scene = Scene::before(origin, |spec| with_credential(spec, &[]));
    let answer = Tls::open(&scene).ask("GET /v1/x", HOST, &bearer());
    assert_eq!(answer.head.lines().next(), Some("HTTP/1.1 200 OK"));
    assert_eq!(answer.body, b"fine");
}
