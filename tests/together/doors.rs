//! The doors, where TLS is looked into.

use std::net::{Ipv4Addr, UdpSocket};

use portcullis::policy::{Effect, NetworkMode, Protocol};

use crate::client::{Tls, config, connect, socks5};
use crate::raw::Raw;
use crate::scene::{HOST, Scene};
use crate::support::WEBSOCKET;
use crate::test_gate::PATIENCE;

#[test]
fn limited_mode_reads_only_whatever_the_door() {
    let scene = Scene::with(|spec| spec.policy(|policy| policy.mode = NetworkMode::Limited));
    for door in ["connect", "socks5"] {
        let open = || {
            let stream = match door {
                "connect" => connect(scene.gate.http, &scene.target()),
                _ => socks5(scene.gate.socks, HOST, scene.origin.port()),
            };
            Tls::over(stream, config(scene.authority(), &["http/1.1"]), HOST)
        };
        let before = scene.origin.seen().len();
        let mut tls = open();
        assert_eq!(tls.ask("GET /x", HOST, "").status(), 200, "{door}");
        for (line, fields, status, code) in [
            (
                "POST /x",
                "Content-Length: 0\r\n",
                403,
                "method_not_allowed",
            ),
            ("GET /ws", WEBSOCKET, 403, "websocket_not_allowed"),
            ("GET /x", "Content-Length: 1\r\n\r\nx", 400, "malformed"),
        ] {
            let refused = open().ask(line, HOST, fields);
            assert_eq!(refused.denied(), (status, code.to_owned()), "{door} {line}");
        }
        let mut tls = open();
        tls.send(format!("HEAD /x HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
        let head = tls.head();
        assert_eq!(head.status(), 200, "{door}");
        let seen = scene.origin.seen();
        let reached: Vec<_> = seen[before..].iter().map(|seen| &seen.method).collect();
        assert_eq!(reached, ["GET", "HEAD"], "{door}");
    }
}

#[test]
fn datagrams_go_as_ever_beside_inspected_tls() {
    let echo = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = echo.local_addr().unwrap().port();
    let scene = Scene::with(|spec| {
        spec.rule("127.0.0.1", &[port], Effect::Allow)
            .policy(|policy| {
                policy.rules[1].protocol = Protocol::Udp;
                policy.enable_socks5_udp = true;
            })
    });
    let mut control = Raw::open(scene.gate.socks);
    control.send([5, 1, 0]);
    assert_eq!(control.exactly(2), [5, 0]);
    control.send([5, 3, 0, 1, 0, 0, 0, 0, 0, 0]);
    let reply = control.exactly(10);
    let relay = (
        Ipv4Addr::LOCALHOST,
        u16::from_be_bytes([reply[8], reply[9]]),
    );
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    echo.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut datagram = vec![0, 0, 0, 1, 127, 0, 0, 1];
    datagram.extend(port.to_be_bytes());
    datagram.extend(b"not TLS");
    socket.send_to(&datagram, relay).unwrap();
    let mut buffer = [0; 100];
    let (length, from) = echo.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"not TLS");
    echo.send_to(b"nor this", from).unwrap();
    let (length, _) = socket.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[10..length], b"nor this");
    // Beside it the same name over TCP is looked into.
    let stream = socks5(scene.gate.socks, HOST, scene.origin.port());
    let mut tls = Tls::over(stream, config(scene.authority(), &["http/1.1"]), HOST);
    assert_eq!(tls.ask("GET /x", HOST, "").status(), 200);
    assert_eq!(scene.judged().len(), 1);
}
