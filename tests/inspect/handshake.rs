//! What is not the TLS that was permitted.

use std::io::{Read, Write};
use std::net::TcpStream;

use portcullis::audit::AuditEvent;
use portcullis::policy::{DenyReason, Transport};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use crate::client::{Tls, config, connect, socks5};
use crate::scene::{HOST, Scene};
use crate::test_gate::GateSpec;

/// What the gate says in answer to these first bytes of a tunnel, to its end.
fn answered(mut stream: TcpStream, bytes: &[u8]) -> Vec<u8> {
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer));
    answer
}

/// A fatal `access_denied` alert.
const DENIED: [u8; 7] = [21, 3, 3, 0, 2, 2, 49];

// D01
#[test]
fn a_hello_for_another_host_is_refused_and_no_leaf_is_made_for_it() {
    let scene = Scene::with(|spec| spec.allow("b.test", &[443]));
    for through in ["connect", "socks5"] {
        let stream = match through {
            "connect" => connect(scene.gate.http, &scene.target()),
            _ => socks5(scene.gate.socks, HOST, scene.origin.port()),
        };
        let name = ServerName::try_from("b.test").unwrap();
        let client = ClientConnection::new(config(scene.authority(), &[]), name).unwrap();
        let mut tls = StreamOwned::new(client, stream);
        let error = tls.conn.complete_io(&mut tls.sock).unwrap_err();
        assert!(
            error.to_string().contains("AccessDenied"),
            "{through}: {error}"
        );
    }
    assert_eq!(scene.refusal().1, DenyReason::SniMismatch);
    assert!(scene.origin_is_untouched());
}

#[test]
fn a_client_chooses_its_protocol_and_one_with_unknown_ones_alone_is_refused() {
    let scene = Scene::new();
    for (offer, chosen) in [
        (&["h2", "http/1.1"][..], Some(&b"h2"[..])),
        (&["http/1.1"], Some(b"http/1.1")),
        (&["x", "http/1.1"], Some(b"http/1.1")),
        (&[], None),
    ] {
        let stream = connect(scene.gate.http, &scene.target());
        let tls = Tls::over(stream, config(scene.authority(), offer), HOST);
        assert_eq!(tls.0.conn.alpn_protocol(), chosen, "{offer:?}");
    }
    let stream = connect(scene.gate.http, &scene.target());
    let name = ServerName::try_from(HOST).unwrap();
    let client = ClientConnection::new(config(scene.authority(), &["h3"]), name).unwrap();
    let mut tls = StreamOwned::new(client, stream);
    assert!(tls.conn.complete_io(&mut tls.sock).is_err());
    let (_, reason, _) = scene.refusal();
    assert_eq!(reason, DenyReason::ClientTlsFailed);
}

#[test]
fn a_client_that_says_nothing_is_timed_out() {
    let scene = Scene::with(|spec| spec.limits(|limits| limits.head_seconds = 1));
    for bytes in [&b""[..], &[22, 3, 1, 0, 200, 1]] {
        let stream = connect(scene.gate.http, &scene.target());
        assert_eq!(answered(stream, bytes), DENIED);
    }
    // TLS, and then no request.
    let mut tls = Tls::open(&scene);
    assert_eq!(tls.rest(), b"");
    assert_eq!(scene.refusal().1, DenyReason::TimedOut);
}

/// A ClientHello for a.test with the extension of Encrypted ClientHello, as noise or not.
fn encrypted_hello() -> Vec<u8> {
    let name = HOST.as_bytes();
    let length = |length: usize| u16::try_from(length).unwrap().to_be_bytes();
    let server_name = [&length(name.len() + 3)[..], &[0], &length(name.len()), name].concat();
    let mut extensions = Vec::new();
    for (kind, content) in [
        (0_u16, server_name),
        (10, vec![0, 2, 0, 29]),
        (13, vec![0, 2, 4, 3]),
        (43, vec![2, 3, 4]),
        (51, [&[0, 36, 0, 29, 0, 32][..], &[9; 32]].concat()),
        // outer, HKDF-SHA256, AES-128-GCM, config 7, a key and a payload.
        (
            0xfe0d,
            [
                &[0, 0, 1, 0, 1, 7, 0, 32][..],
                &[8; 32],
                &[0, 144],
                &[5; 144],
            ]
            .concat(),
        ),
    ] {
        extensions.extend(kind.to_be_bytes());
        extensions.extend(length(content.len()));
        extensions.extend(content);
    }
    let body = [
        &[3, 3][..],
        &[9; 32],
        &[0, 0, 2, 0x13, 1, 1, 0],
        &length(extensions.len()),
        &extensions,
    ]
    .concat();
    let message = [&[1, 0][..], &length(body.len()), &body].concat();
    [&[22, 3, 1][..], &length(message.len()), &message].concat()
}

#[test]
fn an_encrypted_hello_is_refused_in_a_tunnel_and_ends_at_a_gate_that_looks_inside() {
    let tunnel = Scene::with(|spec| spec.policy(|policy| policy.mitm = false));
    let stream = connect_unread(&tunnel);
    assert_eq!(answered(stream, &encrypted_hello()), DENIED);
    assert_eq!(tunnel.refusal().1, DenyReason::EncryptedHello);
    assert!(tunnel.origin.handshakes() == 0 && tunnel.origin.hellos().is_empty());

    let scene = Scene::new();
    let mut stream = connect(scene.gate.http, &scene.target());
    stream.write_all(&encrypted_hello()).unwrap();
    // A ServerHello: the gate goes on with the outer name.
    let mut first = [0; 6];
    stream.read_exact(&mut first).unwrap();
    assert_eq!((first[0], first[5]), (22, 2));
}

/// A tunnel that is dialed, unlike those that are looked into.
fn connect_unread(scene: &Scene) -> TcpStream {
    connect(scene.gate.http, &scene.target())
}

#[test]
fn a_table_of_hosts_says_which_tls_is_looked_into() {
    let inspect_only = |spec: GateSpec, host: &str| {
        let pattern = portcullis::policy::HostPattern::parse(host).unwrap();
        spec.policy(|policy| {
            policy.mitm = false;
            let inspect = portcullis::policy::TlsHandling::Inspect;
            policy.tls.insert(pattern, inspect);
        })
    };
    // Not in the table: the origin's own certificate comes through.
    let scene = Scene::with(|spec| inspect_only(spec, "b.test"));
    let stream = connect(scene.gate.http, &scene.target());
    let tls = Tls::over(stream, config(&scene.origin.ca_pem, &[]), HOST);
    drop(tls);
    // In the table: ours.
    let scene = Scene::with(|spec| inspect_only(spec, HOST));
    assert_eq!(Tls::open(&scene).ask("GET /", HOST, "").status(), 200);
}

#[test]
fn nothing_is_dialed_for_a_tunnel_until_a_request_in_it_is_on_record() {
    let scene = Scene::new();
    let mut tls = Tls::open(&scene);
    assert!(scene.origin_is_untouched());
    scene.gate.audit.hold();
    tls.send("GET /held HTTP/1.1\r\nHost: a.test\r\n\r\n");
    scene.gate.audit.wait_for("the decision", |events| {
        events.iter().any(|event| {
            matches!(
                event,
                AuditEvent::EgressDecided {
                    transport: Transport::Inspected,
                    ..
                }
            )
        })
    });
    std::thread::sleep(std::time::Duration::from_millis(150));
    assert!(
        scene.origin_is_untouched(),
        "dialed before the record was kept"
    );
    scene.gate.audit.release();
    assert_eq!(tls.answer().status(), 200);
    let events = scene.gate.audit.events();
    let place = |is: &dyn Fn(&AuditEvent) -> bool| events.iter().position(is).unwrap();
    let decided = place(
        &|event| matches!(event, AuditEvent::EgressDecided { transport, .. } if *transport == Transport::Inspected),
    );
    let dialed = place(&|event| matches!(event, AuditEvent::EgressDialed { .. }));
    assert!(decided < dialed);
}

#[test]
fn the_end_of_a_tunnel_is_on_record_when_the_gate_drains() {
    let scene = Scene::new();
    let tls = Tls::open(&scene);
    let before = scene.gate.audit.events();
    let AuditEvent::EgressDecided { conn, .. } = &before[0] else {
        panic!("{before:?}");
    };
    scene.gate.drain();
    let events = scene.gate.audit.events();
    let ended = events.iter().filter(
        |event| matches!(event, AuditEvent::EgressClosed { conn: ended, .. } if ended == conn),
    );
    assert_eq!(ended.count(), 1, "{events:?}");
    drop(tls);
}

#[test]
fn a_denied_host_is_denied_before_any_tls() {
    let scene = Scene::new();
    let stream = TcpStream::connect(scene.gate.http).unwrap();
    let head = b"CONNECT x.test:443 HTTP/1.1\r\nHost: x.test:443\r\nConnection: close\r\n\r\n";
    let answer = answered(stream, head);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert!(answer.contains("host_not_allowed"), "{answer}");
}
