//! SOCKS5.

use portcullis::audit::AuditEvent;
use portcullis::policy::{DenyReason, Transport};

use crate::client::{Raw, curl};
use crate::test_gate::{TestGate, spec};
use crate::upstream::Origin;

fn gate(origin: &Origin) -> TestGate {
    spec()
        .allow("a.test", &[origin.port()])
        .allow("127.0.0.1", &[origin.port()])
        .host("a.test", "127.0.0.1")
        .start()
}

fn refused_for(gate: &TestGate) -> String {
    let event = gate.audit.wait_for_one("a refusal", |event| {
        matches!(event, AuditEvent::EgressRefused { .. })
    });
    match event {
        AuditEvent::EgressRefused {
            transport,
            reason,
            detail,
            ..
        } => {
            assert_eq!(
                (transport, reason),
                (Transport::Socks5, DenyReason::Malformed)
            );
            detail
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn curl_goes_by_name_and_by_address() {
    let origin = Origin::echo();
    let gate = gate(&origin);
    let socks = gate.socks.to_string();
    for (option, host) in [("--socks5-hostname", "a.test"), ("--socks5", "127.0.0.1")] {
        let url = format!("http://{host}:{}/s", origin.port());
        let (status, text) = curl(&[option, &socks, &url]);
        assert_eq!(
            (status, text.as_str()),
            (Some(0), "GET /s HTTP/1.1"),
            "{option}"
        );
    }
    let (status, _) = curl(&["--socks5-hostname", &socks, "http://other.test/"]);
    assert_eq!(status, Some(97), "curl's word for a refusing SOCKS server");
}

#[test]
fn refusals_have_the_reply_that_says_so() {
    let origin = Origin::echo();
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let gate = spec()
        .allow("a.test", &[origin.port(), closed.port()])
        .allow("unknown.test", &[80])
        .allow("private.test", &[80])
        .host("a.test", "127.0.0.1")
        .host("private.test", "10.1.2.3")
        .start();
    let reply = |host: &str, port| Raw::open(gate.socks).socks5(host, port);
    assert_eq!(reply("a.test", origin.port()), 0);
    assert_eq!(reply("other.test", 80), 2);
    assert_eq!(reply("private.test", 80), 2);
    assert_eq!(reply("unknown.test", 80), 4);
    assert_eq!(reply("a.test", closed.port()), 5);
    for odd in [
        "127.0.0.1",
        "2130706433",
        "0x7f.1",
        "a.test\0.b.test",
        "[::1]",
        "a test",
    ] {
        assert_eq!(reply(odd, 80), 2, "{odd:?}");
    }
}

// F01
#[test]
fn only_connect_is_a_command() {
    let origin = Origin::echo();
    for (request, reply) in [
        ([5, 2, 0, 1, 127, 0, 0, 1, 0, 80], 7),
        ([5, 3, 0, 1, 127, 0, 0, 1, 0, 80], 7),
        ([5, 1, 0, 9, 127, 0, 0, 1, 0, 80], 8),
        ([4, 1, 0, 1, 127, 0, 0, 1, 0, 80], 1),
    ] {
        let gate = gate(&origin);
        let mut client = Raw::open(gate.socks);
        client.send([5, 1, 0]).send(request);
        assert_eq!(client.exactly(4)[..], [5, 0, 5, reply], "{request:?}");
        refused_for(&gate);
    }
}

// F04, F05
#[test]
fn other_protocols_are_closed_and_recorded_without_an_answer() {
    let origin = Origin::echo();
    for (bytes, detail) in [
        (
            &[4, 1, 0, 80, 127, 0, 0, 1, 0][..],
            "SOCKS4 on the SOCKS5 port",
        ),
        (
            b"CONNECT a.test:443 HTTP/1.1\r\n\r\n",
            "HTTP on the SOCKS5 port",
        ),
        (b"G", "HTTP on the SOCKS5 port"),
        (&[22, 3, 1], "not SOCKS5"),
    ] {
        let gate = gate(&origin);
        let mut client = Raw::open(gate.socks);
        client.send(bytes);
        assert_eq!(client.rest(), b"");
        assert_eq!(refused_for(&gate), detail);
    }
    assert_eq!(origin.log.connections(), 0);
}

// F06
#[test]
fn a_client_that_wants_authentication_is_turned_down() {
    let gate = gate(&Origin::echo());
    let mut client = Raw::open(gate.socks);
    client.send([5, 2, 1, 2]);
    assert_eq!(client.rest(), [5, 0xff]);
}

// F05
#[test]
fn what_follows_the_request_early_is_neither_lost_nor_read_as_socks() {
    let origin = Origin::echo_bytes();
    let gate = gate(&origin);
    let mut client = Raw::open(gate.socks);
    let port = origin.port().to_be_bytes();
    let early = [5, 1, 0, 3];
    client.send([&[5, 1, 0, 5, 1, 0, 3, 6], &b"a.test"[..], &port, &early].concat());
    assert_eq!(client.exactly(12)[..4], [5, 0, 5, 0]);
    assert_eq!(client.exactly(4), early);
}

#[test]
fn a_request_that_comes_byte_by_byte_is_read() {
    let origin = Origin::echo_bytes();
    let gate = gate(&origin);
    let mut client = Raw::open(gate.socks);
    let port = origin.port().to_be_bytes();
    for byte in [&[5, 1, 0, 5, 1, 0, 3, 6], &b"a.test"[..], &port].concat() {
        client.send([byte]);
    }
    assert_eq!(client.exactly(12)[..4], [5, 0, 5, 0]);
}
