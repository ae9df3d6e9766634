//! Tunnels: CONNECT, and what TLS in them must look like.

use std::io::{Read, Write};

use portcullis::audit::{AuditEvent, EndedBy};
use portcullis::policy::DenyReason;

use crate::client::{Raw, a_moment, curl};
use crate::test_gate::{GateSpec, TestGate, spec};
use crate::upstream::Origin;

/// A ClientHello with this server name, in records of `fragment` bytes.
pub(crate) fn client_hello(name: Option<&str>, fragment: usize) -> Vec<u8> {
    let extensions = name.map_or_else(Vec::new, |name| {
        let length = |more: usize| u16::try_from(name.len() + more).unwrap().to_be_bytes();
        [
            &[0, 0],
            &length(5)[..],
            &length(3),
            &[0],
            &length(0),
            name.as_bytes(),
        ]
        .concat()
    });
    let mut body = vec![3, 3];
    body.extend([9; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
    body.extend(extensions);
    let mut message = vec![1, 0];
    message.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    message.extend(body);
    let mut bytes = Vec::new();
    for part in message.chunks(fragment) {
        bytes.extend([22, 3, 1]);
        bytes.extend(u16::try_from(part.len()).unwrap().to_be_bytes());
        bytes.extend(part);
    }
    bytes
}

fn allowing(origin: &Origin) -> GateSpec {
    spec()
        .allow("a.test", &[origin.port()])
        .host("a.test", &origin.address.ip().to_string())
}

/// Echoes on port 443, so that what went up is what comes back.
fn echo_443() -> Origin {
    Origin::raw_443(|mut stream| {
        let mut chunk = [0; 4096];
        loop {
            let got = stream.read(&mut chunk)?;
            if got == 0 {
                return Ok(());
            }
            stream.write_all(&chunk[..got])?;
        }
    })
}

fn refusal(gate: &TestGate) -> (DenyReason, String) {
    let event = gate.audit.wait_for_one("a refusal", |event| {
        matches!(event, AuditEvent::EgressRefused { .. })
    });
    match event {
        AuditEvent::EgressRefused { reason, detail, .. } => (reason, detail),
        other => panic!("{other:?}"),
    }
}

fn closed(gate: &TestGate) -> (u64, u64, EndedBy) {
    let event = gate.audit.wait_for_one("an end", |event| {
        matches!(event, AuditEvent::EgressClosed { .. })
    });
    match event {
        AuditEvent::EgressClosed {
            bytes_up,
            bytes_down,
            ended_by,
            ..
        } => (bytes_up, bytes_down, ended_by),
        other => panic!("{other:?}"),
    }
}

#[test]
fn curl_speaks_tls_with_an_allowed_host_and_sees_why_another_is_refused() {
    let origin = Origin::tls("a.test");
    let gate = allowing(&origin).start();
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, &origin.ca).unwrap();
    let (ca, proxy) = (ca.to_str().unwrap(), format!("http://{}", gate.http));
    let (status, text) = curl(&["--cacert", ca, "--proxy", &proxy, "https://a.test/tls"]);
    assert_eq!((status, text.as_str()), (Some(0), "GET /tls HTTP/1.1"));
    let show = "%{http_connect} %{exitcode}";
    let (_, text) = curl(&[
        "--proxy",
        &proxy,
        "--write-out",
        show,
        "https://other.test/",
    ]);
    assert!(
        text.ends_with("403 56") || text.ends_with("403 7"),
        "{text}"
    );
    let (up, down, _) = closed(&gate);
    assert!(up > 200 && down > 500, "{up} {down}");
}

// D01, D04
#[test]
fn a_hello_for_another_host_ends_the_tunnel_before_any_byte_goes_up() {
    for (name, detail) in [
        (
            Some("denied.test"),
            "permitted a.test, the ClientHello names \"denied.test\"",
        ),
        (
            Some("a.test."),
            "permitted a.test, the ClientHello names \"a.test.\"",
        ),
        (
            Some("127.0.0.1"),
            "permitted a.test, the ClientHello names \"127.0.0.1\"",
        ),
        (None, "permitted a.test, the ClientHello names no server"),
    ] {
        let origin = echo_443();
        let gate = allowing(&origin).start();
        let mut client = Raw::open(gate.http);
        client.connect("a.test:443").send(client_hello(name, 4096));
        assert_eq!(client.rest(), [21, 3, 3, 0, 2, 2, 49], "a TLS alert");
        assert_eq!(refusal(&gate), (DenyReason::SniMismatch, detail.to_owned()));
        assert_eq!(closed(&gate), (0, 0, EndedBy::Gate));
        assert_eq!(origin.log.raw_bytes(), 0);
        let summary = gate.drain();
        assert_eq!(summary.denied[0].reason, DenyReason::SniMismatch);
    }
}

// D05
#[test]
fn a_hello_for_the_permitted_host_passes_however_it_is_cut() {
    for fragment in [1, 7, 4096] {
        let origin = echo_443();
        let gate = allowing(&origin).start();
        let hello = client_hello(Some("A.TEST"), fragment);
        let mut client = Raw::open(gate.http);
        client.connect("a.test:443");
        let (last, but_last) = hello.split_last().unwrap();
        for byte in but_last {
            client.send([*byte]);
        }
        a_moment();
        assert_eq!(
            origin.log.raw_bytes(),
            0,
            "nothing goes up before the last byte"
        );
        client.send([*last]).send("more");
        let expected = [&hello[..], b"more"].concat();
        assert_eq!(client.exactly(expected.len()), expected);
        client.finish();
        assert_eq!(client.rest(), b"");
        let sent = expected.len() as u64;
        assert_eq!(closed(&gate), (sent, sent, EndedBy::Client));
    }
}

#[test]
fn bytes_sent_with_the_connect_are_screened_like_all_others() {
    let origin = echo_443();
    let gate = allowing(&origin).start();
    let connect = b"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n";
    let mut client = Raw::open(gate.http);
    let hello = client_hello(Some("a.test"), 4096);
    client.send([&connect[..], &hello].concat());
    assert_eq!(client.response().status(), 200);
    assert_eq!(client.exactly(hello.len()), hello);
    let mut client = Raw::open(gate.http);
    client.send([&connect[..], b"SSH-2.0-x\r\n"].concat());
    assert_eq!(client.response().status(), 200);
    client.rest();
    assert_eq!(refusal(&gate).0, DenyReason::NotTls);
    assert_eq!(origin.log.raw_bytes(), hello.len());
}

// D06
#[test]
fn port_443_carries_nothing_but_tls() {
    for bytes in [
        &b"S"[..],
        b"GET / HTTP/1.1\r\n\r\n",
        &[0x80, 0x2e, 1, 3, 1],
        &[22, 2, 0],
    ] {
        let origin = echo_443();
        let gate = allowing(&origin).start();
        let mut client = Raw::open(gate.http);
        client.connect("a.test:443").send(bytes);
        client.rest();
        assert_eq!(refusal(&gate).0, DenyReason::NotTls, "{bytes:?}");
        assert_eq!(origin.log.raw_bytes(), 0);
    }
}

#[test]
fn tls_on_another_port_is_held_to_the_host_as_well() {
    let origin = Origin::echo_bytes();
    let gate = allowing(&origin).start();
    let authority = format!("a.test:{}", origin.port());
    let good = client_hello(Some("a.test"), 4096);
    let mut client = Raw::open(gate.http);
    client.connect(&authority).send(&good);
    assert_eq!(client.exactly(good.len()), good);
    let mut client = Raw::open(gate.http);
    client
        .connect(&authority)
        .send(client_hello(Some("b.test"), 4096));
    client.rest();
    assert_eq!(refusal(&gate).0, DenyReason::SniMismatch);
    assert_eq!(origin.log.raw_bytes(), good.len());
}

#[test]
fn a_server_may_speak_first_on_another_port() {
    let origin = Origin::raw(|mut stream| {
        stream.write_all(b"220 hello\r\n")?;
        let mut line = [0; 6];
        stream.read_exact(&mut line)?;
        stream.write_all(&line)
    });
    let gate = allowing(&origin).start();
    let mut client = Raw::open(gate.http);
    client.connect(&format!("a.test:{}", origin.port()));
    assert_eq!(client.exactly(11), b"220 hello\r\n");
    client.send("HELO\r\n");
    assert_eq!(client.rest(), b"HELO\r\n");
    drop(client);
    assert_eq!(closed(&gate), (6, 17, EndedBy::Upstream));
}

#[test]
fn an_address_is_asked_for_without_a_server_name() {
    let origin = echo_443();
    let ip = origin.address.ip().to_string();
    let gate = spec().allow(&ip, &[443]).start();
    let hello = client_hello(None, 4096);
    let mut client = Raw::open(gate.http);
    client.connect(&format!("{ip}:443")).send(&hello);
    assert_eq!(client.exactly(hello.len()), hello);
    let mut client = Raw::open(gate.http);
    client
        .connect(&format!("{ip}:443"))
        .send(client_hello(Some("a.test"), 4096));
    client.rest();
    assert_eq!(refusal(&gate).0, DenyReason::SniMismatch);
}

#[test]
fn a_large_transfer_arrives_unchanged_and_is_counted_to_the_byte() {
    let origin = Origin::echo_bytes();
    let gate = allowing(&origin).start();
    let mut client = Raw::open(gate.http);
    client.connect(&format!("a.test:{}", origin.port()));
    let mut noise = 1_u32;
    let bytes: Vec<u8> = (0..12_000_000)
        .map(|_| {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            noise.to_be_bytes()[0] & 0x0f
        })
        .collect();
    let mut sender = Raw(client.0.try_clone().unwrap());
    let sent = bytes.clone();
    let sending = std::thread::spawn(move || {
        sender.send(&sent).finish();
    });
    assert!(client.rest() == bytes, "the bytes differ");
    sending.join().unwrap();
    assert_eq!(closed(&gate), (12_000_000, 12_000_000, EndedBy::Client));
}

// A18
#[test]
fn a_refused_connect_is_the_last_of_its_connection() {
    let gate = spec().allow("a.test", &[443]).start();
    for (target, code) in [
        ("other.test:443", "host_not_allowed"),
        ("a.test:22", "port_not_allowed"),
        ("169.254.169.254:80", "host_not_allowed"),
        ("[::1]:443", "host_not_allowed"),
    ] {
        let mut client = Raw::open(gate.http);
        client.send(format!(
            "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n"
        ));
        let response = client.response();
        assert_eq!(
            (response.status(), response.denied().as_str()),
            (403, code),
            "{target}"
        );
        assert_eq!(client.rest(), b"");
    }
}

#[test]
fn a_client_of_http_1_0_may_connect_without_a_host_field() {
    let origin = Origin::echo_bytes();
    let gate = allowing(&origin).start();
    let mut client = Raw::open(gate.http);
    client.send(format!("CONNECT a.test:{} HTTP/1.0\r\n\r\n", origin.port()));
    assert_eq!(client.response().status(), 200);
    client.send("x");
    assert_eq!(client.exactly(1), b"x");
}

#[test]
fn connect_after_a_request_on_the_same_connection_is_a_tunnel() {
    let origin = Origin::raw(|mut stream| {
        let mut first = [0; 4096];
        let got = stream.read(&mut first)?;
        if first.starts_with(b"GET") {
            return stream.write_all(&crate::upstream::ok("plain"));
        }
        stream.write_all(&first[..got])
    });
    let gate = allowing(&origin).start();
    let authority = format!("a.test:{}", origin.port());
    let mut client = Raw::open(gate.http);
    client.send(format!(
        "GET http://{authority}/ HTTP/1.1\r\nHost: {authority}\r\n\r\n"
    ));
    assert_eq!(client.response().text(), "plain");
    client.connect(&authority).send("tunnel");
    assert_eq!(client.rest(), b"tunnel");
}
