//! WebSockets within TLS.

use std::io::{Read, Write};

use portcullis::policy::{NetworkMode, WebsocketPolicy};

use crate::client::{Tls, config, connect};
use crate::scene::{HOST, Scene};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

fn handshake() -> String {
    format!(
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: {KEY}\r\n"
    )
}

/// A masked text frame (RFC 6455 section 5.2), with a mask of zeroes.
fn text(word: &str) -> Vec<u8> {
    let length = u8::try_from(word.len()).unwrap();
    [&[0x81, 0x80 | length, 0, 0, 0, 0], word.as_bytes()].concat()
}

#[test]
fn a_websocket_is_opened_by_an_upgrade_and_carries_frames() {
    let scene = Scene::new();
    let mut tls = Tls::open(&scene);
    tls.send(format!(
        "GET /ws HTTP/1.1\r\nHost: a.test\r\n{}\r\n",
        handshake()
    ));
    let answer = tls.head();
    assert_eq!(answer.status(), 101, "{}", answer.head);
    // RFC 6455 section 1.3: the answer to that key.
    let accept = answer.header("sec-websocket-accept");
    assert_eq!(accept, Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    for word in ["hello", "again"] {
        tls.send(text(word));
        let mut frame = vec![0; 2 + word.len()];
        tls.0.read_exact(&mut frame).unwrap();
        assert_eq!(&frame[2..], word.as_bytes());
    }
}

#[test]
fn a_websocket_is_refused_in_limited_mode_and_where_the_policy_says_so() {
    for (mode, websocket, status) in [
        (NetworkMode::Limited, WebsocketPolicy::Allow, 403),
        (NetworkMode::Full, WebsocketPolicy::Deny, 403),
        (NetworkMode::Full, WebsocketPolicy::UpgradeRequired, 426),
    ] {
        let scene = Scene::with(|spec| {
            spec.policy(|policy| {
                policy.mode = mode;
                policy.websocket = websocket;
            })
        });
        let answer = Tls::open(&scene).ask("GET /ws", HOST, &handshake());
        let code = "websocket_not_allowed".to_owned();
        assert_eq!(answer.denied(), (status, code), "{mode:?} {websocket:?}");
        assert!(scene.origin_is_untouched());
        let (block, mut tls) = extended(&scene);
        tls.send(block);
        let (head, _) = answer_of_http2(&mut tls);
        assert_eq!(head, status);
        assert!(scene.origin_is_untouched());
        assert_eq!(Tls::open(&scene).ask("GET /", HOST, "").status(), 200);
    }
}

#[test]
fn a_websocket_is_opened_by_an_extended_connect_and_carries_frames() {
    let scene = Scene::new();
    let (block, mut tls) = extended(&scene);
    tls.send(block);
    assert_eq!(answer_of_http2(&mut tls).0, 200);
    let frame = text("hello");
    let length = u8::try_from(frame.len()).unwrap();
    tls.send([&[0, 0, length, 0, 0, 0, 0, 0, 1], &frame[..]].concat());
    let data = next_data(&mut tls);
    assert_eq!(&data[2..], b"hello");
    let seen = scene.origin.seen();
    assert_eq!(
        (seen[0].method.as_str(), seen[0].path.as_str()),
        ("GET", "/ws")
    );
    let key = seen[0].header("sec-websocket-key").unwrap();
    assert!(key.len() == 24 && key != KEY);
}

/// A client of HTTP/2 within TLS, and the frame that asks for a WebSocket.
fn extended(scene: &Scene) -> (Vec<u8>, Tls) {
    let stream = connect(scene.gate.http, &scene.target());
    let mut tls = Tls::over(stream, config(scene.authority(), &["h2"]), HOST);
    tls.0
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .unwrap();
    let authority = scene.target();
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "https"),
        (":authority", authority.as_str()),
        (":path", "/ws"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", KEY),
    ] {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.as_bytes());
        }
    }
    let length = u8::try_from(block.len()).unwrap();
    let frame = [&[0, 0, length, 1, 4, 0, 0, 0, 1], &block[..]].concat();
    (frame, tls)
}

fn next(tls: &mut Tls, kind: u8) -> Vec<u8> {
    loop {
        let mut head = [0; 9];
        tls.0.read_exact(&mut head).unwrap();
        let mut payload = vec![0; usize::from(u16::from_be_bytes([head[1], head[2]]))];
        tls.0.read_exact(&mut payload).unwrap();
        if head[3] == kind && !(kind == 0 && payload.is_empty()) {
            return payload;
        }
    }
}

fn next_data(tls: &mut Tls) -> Vec<u8> {
    next(tls, 0)
}

/// The status of the next answer: indexed (RFC 7541 appendix A), or a literal of three digits.
fn answer_of_http2(tls: &mut Tls) -> (u16, Vec<u8>) {
    let block = next(tls, 1);
    // 0x20 changes the table's size; it may stand before.
    let start = usize::from(block[0] & 0xe0 == 0x20);
    let status = match block[start] {
        0x88 => 200,
        0x8c => 400,
        0x48 | 0x08 => literal(&block[start + 1..]),
        other => panic!("{other:x} in {block:x?}"),
    };
    (status, block)
}

/// Three digits, plain or in the code of RFC 7541 appendix B, where digits have 5 or 6 bits.
fn literal(text: &[u8]) -> u16 {
    let length = usize::from(text[0] & 0x7f);
    if text[0] & 0x80 == 0 {
        return String::from_utf8_lossy(&text[1..=length]).parse().unwrap();
    }
    let bits: Vec<u8> = text[1..=length]
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1))
        .collect();
    let (mut at, mut number) = (0, 0);
    for _ in 0..3 {
        let value = |count: usize| bits[at..at + count].iter().fold(0, |n, bit| n << 1 | bit);
        // 0, 1, 2 are 00000 to 00010; 3 to 9 are 011001 to 011111.
        let digit = if value(5) <= 2 {
            let digit = value(5);
            at += 5;
            digit
        } else {
            let digit = value(6) - 0b01_1001 + 3;
            at += 6;
            digit
        };
        number = number * 10 + u16::from(digit);
    }
    number
}

#[test]
fn nothing_is_read_behind_a_handshake_that_was_not_taken() {
    let hidden = "GET /hidden HTTP/1.1\r\nHost: a.test\r\n\r\n";
    let scene = Scene::new();
    for (path, status) in [("/no-websocket-here", 200), ("/ws-bad-accept", 502)] {
        let mut tls = Tls::open(&scene);
        tls.send(format!(
            "GET {path} HTTP/1.1\r\nHost: a.test\r\n{}\r\n{hidden}",
            handshake()
        ));
        let answer = tls.answer();
        assert_eq!(answer.status(), status, "{path}");
        assert_eq!(answer.header("connection"), Some("close"));
        assert_eq!(tls.rest(), b"");
    }
    let paths: Vec<_> = scene
        .judged()
        .into_iter()
        .map(|(_, path, _)| path)
        .collect();
    assert_eq!(paths, ["/no-websocket-here", "/ws-bad-accept"]);
}
