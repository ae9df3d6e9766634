//! Plain WebSockets (`ws://`) through the HTTP door: in absolute-form, as RFC 6455 section 4.1 leaves it to
//! clients of an HTTP proxy.

use std::net::{Shutdown, TcpStream};

use futures_util::{SinkExt, StreamExt};
use portcullis::audit::{AuditEvent, EndedBy};
use portcullis::policy::{NetworkMode, WebsocketPolicy};
use portcullis::wire::gate::{GateCommand, GateReply};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::client::{Raw, Response, get};
use crate::test_gate::{GateSpec, PATIENCE, TestGate, spec};
use crate::tls_origin::{CertKind, OriginSpec, TlsOrigin};

/// That of RFC 6455 section 1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// What belongs to it.
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

const UPGRADE: &str = "Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n";

fn origin() -> TlsOrigin {
    OriginSpec::new("a.test").cert(CertKind::Plain).start()
}

fn allowing(origin: &TlsOrigin) -> (GateSpec, String) {
    let spec = spec()
        .allow("a.test", &[origin.port()])
        .host("a.test", "127.0.0.1");
    (spec, format!("a.test:{}", origin.port()))
}

fn whole() -> String {
    format!("{UPGRADE}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n")
}

/// Asks for a WebSocket with these fields.
fn ask(gate: &TestGate, authority: &str, path: &str, fields: &str) -> (Raw, Response) {
    let mut client = Raw::open(gate.http);
    client.send(format!(
        "GET http://{authority}{path} HTTP/1.1\r\nHost: {authority}\r\n{fields}\r\n"
    ));
    let response = client.response();
    (client, response)
}

/// What a client says over an open WebSocket, and hears.
fn talk(stream: TcpStream, messages: &[Message]) -> Vec<Message> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    stream.set_nonblocking(true).unwrap();
    runtime.block_on(async {
        let talked = async {
            let stream = tokio::net::TcpStream::from_std(stream).unwrap();
            let mut socket = WebSocketStream::from_raw_socket(stream, Role::Client, None).await;
            let mut heard = Vec::new();
            for message in messages {
                socket.send(message.clone()).await.unwrap();
                heard.push(socket.next().await.unwrap().unwrap());
            }
            socket.close(None).await.unwrap();
            while socket.next().await.is_some() {}
            heard
        };
        tokio::time::timeout(PATIENCE, talked).await.unwrap()
    })
}

#[test]
fn a_websocket_opens_and_carries_messages_both_ways() {
    let origin = origin();
    let (spec, authority) = allowing(&origin);
    let gate = spec.start();
    let fields =
        whole() + "Sec-WebSocket-Protocol: chat, other\r\nProxy-Authorization: Basic eA==\r\n";
    let (client, response) = ask(&gate, &authority, "/ws?q", &fields);
    let found = [
        "upgrade",
        "connection",
        "sec-websocket-accept",
        "sec-websocket-protocol",
    ]
    .map(|name| response.header(name).unwrap_or_default().to_owned());
    assert_eq!(
        (response.status(), found),
        (
            101,
            ["websocket", "upgrade", ACCEPT, "chat"].map(str::to_owned)
        )
    );
    let messages = [
        Message::text("hello"),
        Message::binary(vec![7; 300_000]),
        Message::text("still here"),
    ];
    assert_eq!(talk(client.0, &messages), messages);

    let seen = &origin.seen()[0];
    assert_eq!((seen.method.as_str(), seen.path.as_str()), ("GET", "/ws?q"));
    let mut names: Vec<_> = seen.headers.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    let expected = [
        "connection",
        "host",
        "sec-websocket-key",
        "sec-websocket-protocol",
        "sec-websocket-version",
        "upgrade",
    ];
    assert_eq!(names, expected);
    let AuditEvent::EgressClosed {
        bytes_up,
        bytes_down,
        ..
    } = gate.audit.wait_for_one("an end", |event| {
        matches!(event, AuditEvent::EgressClosed { .. })
    })
    else {
        unreachable!();
    };
    // Frame heads and a close frame; the client's are masked.
    let payload = 300_015;
    assert!(
        (payload + 24..payload + 60).contains(&bytes_up),
        "{bytes_up}"
    );
    assert!(
        (payload + 12..payload + 40).contains(&bytes_down),
        "{bytes_down}"
    );
    assert!(bytes_up > bytes_down);
    let kinds: Vec<_> = gate
        .audit
        .events()
        .iter()
        .map(std::mem::discriminant)
        .collect();
    assert_eq!(
        kinds.len(),
        4,
        "decided, query, dialed, closed: {:?}",
        gate.audit.events()
    );
}

#[test]
fn bytes_that_come_with_the_handshake_are_not_lost_and_not_read_as_a_request() {
    let origin = origin();
    let (spec, authority) = allowing(&origin);
    let gate = spec.start();
    let mut client = Raw::open(gate.http);
    // A masked text frame, "hi", with a mask of zeros; it has a bare LF in it no head could have.
    let frame = [0x81, 0x82, 0, 0, 0, 0, b'\n', b'i'];
    let head = format!(
        "GET http://{authority}/ws HTTP/1.1\r\nHost: {authority}\r\n{}\r\n",
        whole()
    );
    client.send([head.as_bytes(), &frame].concat());
    assert_eq!(client.response().status(), 101);
    assert_eq!(client.exactly(4), [0x81, 2, b'\n', b'i']);
}

#[test]
fn an_origin_that_does_not_open_it_is_heard_and_the_connection_closes() {
    let origin = origin();
    let (spec, authority) = allowing(&origin);
    let gate = spec.start();
    let (mut client, response) = ask(&gate, &authority, "/plain", &whole());
    assert_eq!(
        (response.status(), response.json()["path"].as_str()),
        (200, Some("/plain"))
    );
    assert_eq!(response.header("connection"), Some("close"));
    // Nothing behind such a head is checked, so nothing behind it is a request.
    client.send("GET http://denied.test/ HTTP/1.1\r\nHost: denied.test\r\n\r\n");
    assert_eq!(client.rest(), b"");
    let (_, response) = ask(&gate, &authority, "/ws-bad-accept", &whole());
    assert_eq!(
        (response.status(), response.denied().as_str()),
        (502, "dial_failed")
    );
    assert_eq!(get(gate.http, &authority, "/").status(), 200);
}

// E08, E09
#[test]
fn a_half_formed_handshake_is_malformed_and_another_upgrade_is_an_ordinary_request() {
    let origin = origin();
    let (spec, authority) = allowing(&origin);
    let gate = spec.start();
    let version = "Sec-WebSocket-Version: 13\r\n";
    let key = format!("Sec-WebSocket-Key: {KEY}\r\n");
    for fields in [
        UPGRADE.to_owned(),
        format!("{UPGRADE}{version}"),
        format!("{UPGRADE}{key}"),
        format!("{UPGRADE}{key}Sec-WebSocket-Version: 8\r\n"),
        format!("{UPGRADE}{key}{key}{version}"),
        format!("{UPGRADE}{version}Sec-WebSocket-Key: short\r\n"),
        format!("Upgrade: websocket\r\n{version}{key}"),
        format!("Connection: upgrade\r\nUpgrade: h2c, websocket\r\n{version}{key}"),
        format!("Connection: upgrade\r\nUpgrade: h2c\r\nUpgrade: websocket\r\n{version}{key}"),
        format!("Connection: upgrade, sec-websocket-key\r\nUpgrade: websocket\r\n{version}{key}"),
        format!("{}Content-Length: 0\r\n", whole()),
    ] {
        let (_, response) = ask(&gate, &authority, "/ws", &fields);
        assert_eq!(
            (response.status(), response.denied().as_str()),
            (400, "malformed"),
            "{fields}"
        );
    }
    let mut client = Raw::open(gate.http);
    client.send(format!(
        "POST http://{authority}/ws HTTP/1.1\r\nHost: {authority}\r\n{}\r\n",
        whole()
    ));
    assert_eq!(client.response().denied(), "malformed");
    assert_eq!(origin.seen(), []);

    let h2c = format!(
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n{key}"
    );
    let (_, response) = ask(&gate, &authority, "/ws-not", &h2c);
    assert_eq!(response.status(), 200);
    assert_eq!(origin.seen()[0].header("upgrade"), None);
}

// E10
#[test]
fn a_policy_without_websockets_refuses_with_the_status_it_names() {
    for (mode, websocket, status, detail) in [
        (NetworkMode::Limited, WebsocketPolicy::Allow, 403, None),
        (NetworkMode::Full, WebsocketPolicy::Deny, 403, None),
        (
            NetworkMode::Full,
            WebsocketPolicy::UpgradeRequired,
            426,
            Some("upgrade_required"),
        ),
        (
            NetworkMode::Limited,
            WebsocketPolicy::UpgradeRequired,
            426,
            Some("upgrade_required"),
        ),
    ] {
        let origin = origin();
        let (spec, authority) = allowing(&origin);
        let gate = spec
            .policy(|policy| {
                policy.mode = mode;
                policy.websocket = websocket;
            })
            .start();
        let (_, response) = ask(&gate, &authority, "/ws", &whole());
        let found = (response.status(), response.denied());
        assert_eq!(found, (status, "websocket_not_allowed".to_owned()));
        assert_eq!(response.json()["detail"].as_str(), detail);
        assert_eq!(
            (response.header("upgrade"), origin.connections()),
            (None, 0)
        );
        // Twin: everything else goes on.
        assert_eq!(get(gate.http, &authority, "/").status(), 200);
    }
}

#[test]
fn a_new_policy_and_a_budget_end_an_open_websocket() {
    let origin = origin();
    let ended_by = |gate: &TestGate| {
        let event = gate.audit.wait_for_one("an end", |event| {
            matches!(event, AuditEvent::EgressClosed { .. })
        });
        let AuditEvent::EgressClosed {
            ended_by,
            bytes_down,
            ..
        } = event
        else {
            unreachable!();
        };
        (ended_by, bytes_down)
    };
    let (spec, authority) = allowing(&origin);
    let mut policy = spec.policy.clone();
    policy.websocket = WebsocketPolicy::Deny;
    let gate = spec.start();
    let (mut client, response) = ask(&gate, &authority, "/ws", &whole());
    assert_eq!(response.status(), 101);
    gate.control()
        .send(&GateCommand::Policy(Box::new(policy)))
        .unwrap();
    let GateReply::Applied(applied) = gate.reply() else {
        panic!("not applied");
    };
    assert_eq!((applied.closed, client.rest()), (1, Vec::new()));
    assert_eq!(ended_by(&gate), (EndedBy::Policy, 0));

    let (spec, authority) = allowing(&origin);
    let gate = spec
        .policy(|policy| {
            policy.budgets = toml::from_str("bytes_down = { max = 3, action = 'deny' }").unwrap();
        })
        .start();
    let (mut client, response) = ask(&gate, &authority, "/ws", &whole());
    assert_eq!(response.status(), 101);
    client.send([0x81, 0x82, 0, 0, 0, 0, b'h', b'i']);
    assert_eq!(client.exactly(3), [0x81, 2, b'h']);
    assert_eq!(ended_by(&gate), (EndedBy::Budget, 3));
}

#[test]
fn a_websocket_ends_by_the_client_the_clock_the_drain_or_the_log() {
    let origin = origin();
    let end = |gate: &TestGate| {
        let event = gate.audit.wait_for_one("an end", |event| {
            matches!(event, AuditEvent::EgressClosed { .. })
        });
        let AuditEvent::EgressClosed { ended_by, .. } = event else {
            unreachable!();
        };
        ended_by
    };
    let opened = |idle: u32| {
        let (spec, authority) = allowing(&origin);
        let gate = spec.limits(|limits| limits.idle_seconds = idle).start();
        let (client, response) = ask(&gate, &authority, "/ws", &whole());
        assert_eq!(response.status(), 101);
        (gate, client)
    };
    let (gate, client) = opened(60);
    client.0.shutdown(Shutdown::Both).unwrap();
    assert_eq!(end(&gate), EndedBy::Client);

    let (gate, mut client) = opened(1);
    assert_eq!(end(&gate), EndedBy::Gate);
    assert_eq!(client.rest(), b"");

    let (gate, mut client) = opened(60);
    assert_eq!(gate.drain().allowed, 1);
    assert_eq!(end(&gate), EndedBy::Gate);
    assert_eq!(client.rest(), b"");

    let (gate, mut client) = opened(60);
    gate.audit.close();
    assert_eq!(client.rest(), b"");
}
