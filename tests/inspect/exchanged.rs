//! What is told of a request when it is over.

use portcullis::audit::http::{HttpExchange, HttpVersion};
use portcullis::audit::{AuditEvent, EndedBy};
use portcullis::ids::ConnId;

use crate::client::{H2, Tls};
use crate::scene::{HOST, Scene};

const THREAD: &str = "01a208e7-385f-76d3-893e-6c4957fd2d7e";
const TURN: &str = "01a208e7-35c4-76f1-8ee6-ef03a64c16ea";

/// Without what differs from run to run; the times are in order.
fn settled(mut exchange: HttpExchange) -> HttpExchange {
    assert!(exchange.first_byte_ms.unwrap_or_default() <= exchange.ms);
    exchange.first_byte_ms = exchange.first_byte_ms.map(|_| 0);
    exchange.ms = 0;
    exchange
}

fn posted(conn: u64, response_bytes: u64) -> HttpExchange {
    HttpExchange {
        conn: ConnId(conn),
        method: "POST".to_owned(),
        version: HttpVersion::Http11,
        status: Some(200),
        request_type: Some("text/x-mine".to_owned()),
        response_type: Some("application/json".to_owned()),
        request_encoding: None,
        response_encoding: None,
        request_bytes: 5,
        response_bytes,
        first_byte_ms: Some(0),
        ms: 0,
        upgraded: false,
        ended_by: EndedBy::Upstream,
        thread: Some(THREAD.to_owned()),
        turn: Some(TURN.to_owned()),
    }
}

#[tokio::test]
async fn a_request_is_told_once_with_its_answer_whatever_the_client_speaks() {
    let scene = Scene::new();
    let metadata = format!(r#"{{"session_id":"{THREAD}","turn_id":"{TURN}"}}"#);
    let mut tls = Tls::open(&scene);
    tls.send(format!(
        "POST /a HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 5\r\nContent-Type: Text/X-Mine; a=b\r\n\
         session_id: {THREAD}\r\nx-codex-turn-metadata: {metadata}\r\n\r\nhello"
    ));
    let answer = tls.answer();
    let told = scene.gate.audit.exchanges(1);
    assert_eq!(
        settled(told[0].clone()),
        posted(2, answer.body.len() as u64)
    );
    // Its own number, and before the end of the connection.
    let events = scene.gate.audit.wait_for("its end", |events| {
        let is_end = |event: &AuditEvent| matches!(event, AuditEvent::EgressClosed { .. });
        events.iter().any(is_end)
    });
    let mut decided = events.iter().filter_map(|event| match event {
        AuditEvent::EgressDecided { conn, path, .. } => Some((*conn, path.clone())),
        _ => None,
    });
    assert_eq!(
        decided.next_back(),
        Some((ConnId(2), Some("/a".to_owned())))
    );

    let mut client = H2::open(&scene).await;
    let (status, _) = client
        .ask("/b", |request| request.header("thread-id", "../../etc"), "")
        .await;
    assert_eq!(status, 200);
    let told = settled(scene.gate.audit.exchanges(2).remove(1));
    assert_eq!(
        (
            told.method.as_str(),
            told.version,
            told.status,
            told.thread,
            told.turn
        ),
        ("GET", HttpVersion::Http2, Some(200), None, None)
    );
}

#[test]
fn a_websocket_is_told_as_one_with_the_bytes_of_its_frames() {
    let scene = Scene::new();
    let mut tls = Tls::open(&scene);
    tls.send(format!(
        "GET /ws HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    ));
    assert_eq!(tls.head().status(), 101);
    // A masked text frame (RFC 6455 section 5.2), with a mask of zeroes.
    tls.send(b"\x81\x82\0\0\0\0hi");
    let mut frame = [0; 4];
    std::io::Read::read_exact(&mut tls.0, &mut frame).unwrap();
    drop(tls);
    let told = settled(scene.gate.audit.exchanges(1).remove(0));
    assert_eq!((told.status, told.upgraded), (Some(101), true));
    assert_eq!((told.request_bytes, told.response_bytes), (8, 4));
}

#[test]
fn a_secret_in_a_path_is_not_told_by_the_gate_already() {
    let scene = Scene::new();
    let secret = format!("ghp_{}", "a1B2".repeat(9));
    let answer = Tls::open(&scene).ask(&format!("GET /x/{secret}/y"), HOST, "");
    assert_eq!(answer.status(), 200);
    let (_, path, _) = scene.judged().remove(0);
    assert_eq!(path, "/x/[redacted:github]/y");
    // The origin got it as it was.
    assert_eq!(scene.origin.seen()[0].path, format!("/x/{secret}/y"));
}
