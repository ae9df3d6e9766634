//! Where a request ends, what it may carry, and what of it an origin sees.

use std::io::{Read, Write};

use portcullis::policy::{Method, NetworkMode, PathPattern};

use crate::client::{Raw, Response, get};
use crate::ground::Ground;
use crate::inside::Tls;
use crate::scene::{HOST, Scene};
use crate::test_gate::GateSpec;
use crate::tls_origin::OriginSpec;
use crate::upstream::{Origin, ok};

/// A request to `at`; `fields` end with CR LF each.
fn request(method: &str, at: &str, fields: &str, body: &str) -> String {
    format!("{method} http://{at}/x HTTP/1.1\r\nHost: {at}\r\n{fields}\r\n{body}")
}

fn send(ground: &Ground, bytes: &str) -> Response {
    Raw::open(ground.gate.http).send(bytes).response()
}

// E01, E02, E06
#[test]
fn a_head_with_two_readings_is_refused_in_every_spelling() {
    let ground = Ground::new();
    let at = ground.allowed();
    for fields in [
        "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\ncontent-LENGTH: 3\r\n",
        "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: chunked;x=1\r\n",
        "Transfer-Encoding: \u{b}chunked\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding:\r\n",
        "Transfer_Encoding: chunked\r\nTransfer-Encoding : chunked\r\n",
        "Content-Length: 3\r\nContent-Length: 4\r\n",
        "Content-Length: 3\r\ncontent-length: 3\r\n",
        "Content-Length: 3,3\r\n",
        "Content-Length: +3\r\n",
        "Content-Length: -3\r\n",
        "Content-Length: 0x3\r\n",
        "Content-Length: 3.0\r\n",
        "Content-Length: 3 3\r\n",
        "Content-Length:\r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Content-Length: \u{663}\r\n",
        "X: a\r\n b\r\n",
        "X: a\r\n\tb\r\n",
        " X: a\r\n",
        "X : a\r\n",
        "X\t: a\r\n",
        "X\r\n",
        ": a\r\n",
        "X: a\rY: b\r\n",
        "X: a\nY: b\r\n",
        "X: a\0b\r\n",
        "X\0: a\r\n",
        "X(: a\r\n",
        "X: \u{7f}\r\n",
        "X: \u{1b}[0m\r\n",
    ] {
        let bytes = request("POST", &at, fields, "abc");
        ground.refuses(fields, &bytes, 400, "malformed");
    }
    for odd in [
        request("GET", &at, "", "").replace("\r\n", "\n"),
        request("GET", &at, "", "").replace("\r\n", "\r"),
        request("GET", &at, "", "").replace(" HTTP/1.1", "  HTTP/1.1"),
        request("GET", &at, "", "").replace(" HTTP/1.1", "\tHTTP/1.1"),
        request("GET", &at, "", "").replace("HTTP/1.1", "HTTP/1.2"),
        request("GET", &at, "", "").replace("HTTP/1.1", "HTTP/1.1x"),
        request("GET", &at, "", "").replace("HTTP/1.1", "http/1.1"),
        request("GET", &at, "", "").replace(" HTTP/1.1", ""),
        format!(" {}", request("GET", &at, "", "")),
    ] {
        // A head without an end is complete only for whoever takes a bare CR for a line's end.
        let odd = format!("{odd}\r\n\r\n");
        ground.refuses("line", &odd, 400, "malformed");
    }
    ground.is_untouched();
    let good = request("POST", &at, "Content-Length: 3\r\n", "abc");
    assert_eq!(send(&ground, &good).status(), 200);
}

/// An origin that says what it read up to the end of a chunked body.
fn chunk_origin() -> Origin {
    Origin::raw(|mut stream| {
        let mut bytes = Vec::new();
        let mut part = [0; 4096];
        while !bytes.ends_with(b"0\r\n\r\n") {
            let got = stream.read(&mut part)?;
            if got == 0 {
                return Ok(());
            }
            bytes.extend(&part[..got]);
        }
        stream.write_all(&ok(&String::from_utf8_lossy(&bytes)))
    })
}

// E04
#[test]
fn content_in_chunks_is_framed_anew_whatever_the_method() {
    for method in ["DELETE", "OPTIONS", "GET", "HEAD", "PUT", "PROPFIND"] {
        let ground = Ground::before(chunk_origin(), |spec, _| spec);
        let at = ground.allowed();
        let hidden = format!("GET http://{at}/hidden HTTP/1.1\r\nHost: {at}\r\n\r\n");
        let mut client = Raw::open(ground.gate.http);
        client.send(request(
            method,
            &at,
            "Transfer-Encoding: chunked\r\n",
            &format!("5\r\nhello\r\n0\r\n\r\n{hidden}"),
        ));
        let said = String::from_utf8_lossy(&client.rest()).into_owned();
        assert!(said.starts_with("HTTP/1.1 200"), "{method}: {said}");
        assert_eq!(said.matches("HTTP/1.1 200").count(), 1, "{method}: {said}");
        let seen = ground.origin.log.text();
        assert!(
            seen.ends_with("\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
            "{method}: {seen}"
        );
        assert_eq!(seen.matches("chunked").count(), 1, "{method}: {seen}");
        assert!(!seen.contains("hidden"), "{method}: {seen}");
    }
}

// E05
#[test]
fn a_chunk_whose_size_has_two_readings_ends_the_connection() {
    for chunks in [
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "5 \u{b}\r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhelloX\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5;a\n\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "5_\r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
    ] {
        let ground = Ground::before(chunk_origin(), |spec, _| spec);
        let at = ground.allowed();
        let hidden = "GET http://denied.test/ HTTP/1.1\r\nHost: denied.test\r\n\r\n";
        let body = format!("{chunks}{hidden}");
        let bytes = request("POST", &at, "Transfer-Encoding: chunked\r\n", &body);
        let answer = Raw::open(ground.gate.http).send(bytes).finish().rest();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(!answer.contains("HTTP/1.1 200"), "{chunks:?}: {answer}");
        let seen = ground.origin.log.text();
        assert!(
            !seen.ends_with("0\r\n\r\n"),
            "{chunks:?} was completed: {seen}"
        );
        assert!(!seen.contains("denied.test"), "{chunks:?}: {seen}");
    }
    let ground = Ground::before(chunk_origin(), |spec, _| spec);
    let trailers = "5;name=value\r\nhello\r\n0\r\nContent-Length: 9\r\nHost: denied.test\r\n\r\n";
    let bytes = request(
        "POST",
        &ground.allowed(),
        "Transfer-Encoding: chunked\r\n",
        trailers,
    );
    let seen = send(&ground, &bytes).text();
    assert!(seen.ends_with("\r\n\r\n5\r\nhello\r\n0\r\n\r\n"), "{seen}");
    assert!(!seen.contains("denied.test"), "{seen}");
}

const WEBSOCKET: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

// E08
#[test]
fn an_upgrade_with_content_is_refused() {
    let ground = Ground::new();
    let at = ground.allowed();
    let hidden = format!("GET http://{at}/hidden HTTP/1.1\r\nHost: {at}\r\n\r\n");
    for fields in [
        format!("{WEBSOCKET}Content-Length: {}\r\n", hidden.len()),
        format!("{WEBSOCKET}Content-Length: 0\r\n"),
        format!("{WEBSOCKET}Transfer-Encoding: chunked\r\n"),
        format!("{WEBSOCKET}Upgrade: h2c\r\n"),
        WEBSOCKET.replace("websocket", "h2c, websocket"),
    ] {
        let bytes = request("GET", &at, &fields, &hidden);
        ground.refuses(&fields, &bytes, 400, "malformed");
    }
    ground.is_untouched();
}

// E09, D12
#[test]
fn an_offer_to_switch_to_another_protocol_ends_at_the_gate() {
    let ground = Ground::new();
    let at = ground.allowed();
    for token in [
        "h2c",
        "HTTP/2.0",
        "TLS/1.0",
        "connect-udp",
        "raw",
        "IRC/6.9, h2c",
    ] {
        let fields = format!(
            "Upgrade: {token}\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\n"
        );
        let seen = send(&ground, &request("GET", &at, &fields, ""))
            .text()
            .to_ascii_lowercase();
        for word in ["upgrade", "http2-settings", "connection"] {
            assert!(!seen.contains(word), "{token}: {seen}");
        }
    }
    // Without asking first.
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\u{4}\0\0\0\0\0";
    ground.refuses("h2c", preface, 400, "malformed");
}

fn limited(spec: GateSpec) -> GateSpec {
    spec.policy(|policy| policy.mode = NetworkMode::Limited)
}

// E10
#[test]
fn where_nothing_may_be_written_no_websocket_is_opened() {
    let ground = Ground::with(|spec, _| limited(spec));
    let at = ground.allowed();
    let open = request("GET", &at, WEBSOCKET, "");
    ground.refuses("WebSocket", &open, 403, "websocket_not_allowed");
    ground.is_untouched();
    assert_eq!(send(&ground, &request("GET", &at, "", "")).status(), 200);
}

// E12
#[test]
fn a_method_in_disguise_is_refused_where_nothing_may_be_written() {
    let ground = Ground::with(|spec, _| limited(spec));
    let at = ground.allowed();
    for field in [
        "X-HTTP-Method-Override",
        "x-http-method",
        "X-METHOD-OVERRIDE",
    ] {
        for method in ["GET", "HEAD", "OPTIONS"] {
            let fields = format!("{field}: DELETE\r\nConnection: close\r\n");
            let bytes = request(method, &at, &fields, "");
            if method == "HEAD" {
                // An answer to HEAD has no body to read the code from.
                let denied = Raw::open(ground.gate.http).send(&bytes).rest();
                assert!(denied.starts_with(b"HTTP/1.1 400"), "{field}");
            } else {
                ground.refuses(field, &bytes, 400, "malformed");
            }
        }
    }
    for method in ["POST", "PUT", "DELETE", "PATCH", "PROPFIND", "QUERY"] {
        let bytes = request(method, &at, "", "");
        ground.refuses(method, &bytes, 403, "method_not_allowed");
    }
    ground.is_untouched();
    assert_eq!(send(&ground, &request("GET", &at, "", "")).status(), 200);
}

// E14
#[test]
fn a_method_is_taken_letter_by_letter() {
    let ground = Ground::new();
    let at = ground.allowed();
    for method in [
        "get",
        "PoSt",
        "Get",
        "GET\u{b}",
        "TRACE",
        "TRACK",
        "PRI",
        "BREW",
        "GETX",
        "G",
        "DEBUG",
        "connect",
        "Connect",
        "M-SEARCH",
        "GET,POST",
        "PURGE",
        "\u{ff27}ET",
    ] {
        ground.refuses(method, &request(method, &at, "", ""), 400, "malformed");
    }
    ground.is_untouched();
    for method in ["GET", "POST", "PATCH"] {
        assert_eq!(
            send(&ground, &request(method, &at, "", "")).status(),
            200,
            "{method}"
        );
    }
}

/// Inside TLS, POST to `/graphql` alone.
fn only_posts_to_graphql() -> Scene {
    Scene::with(|spec| {
        spec.policy(|policy| {
            policy.rules[0].methods = vec![Method::parse("POST").unwrap()];
            policy.rules[0].paths = vec![PathPattern::parse("/graphql").unwrap()];
        })
    })
}

// E16, E17
#[test]
fn what_a_rule_covers_is_told_by_method_and_path_and_never_by_content() {
    let scene = only_posts_to_graphql();
    let mut tls = Tls::open(&scene);
    for (line, code) in [
        ("GET /graphql?query=mutation{x}", "method_not_allowed"),
        (
            "GET /graphql?query={a}&query=mutation{x}",
            "method_not_allowed",
        ),
        ("DELETE /graphql", "method_not_allowed"),
        ("GET /graphql/", "method_not_allowed"),
        ("POST /graphql/batch", "path_not_allowed"),
        ("POST /Graphql", "path_not_allowed"),
        ("POST /%67raphql", "path_not_allowed"),
        ("POST /graphql;x", "path_not_allowed"),
    ] {
        let answer = tls.ask(line, HOST, "");
        assert_eq!(answer.status(), 403, "{line}");
        let denied = answer.denied().1;
        assert!(
            denied == code || denied == "path_not_allowed",
            "{line}: {denied}"
        );
    }
    assert!(scene.origin_is_untouched());
    // No content makes a refused request an allowed one, nor the other way round: it passes as it is.
    for body in [
        r#"[{"method":"a"},{"method":"b"}]"#,
        r#"{"method":"a","method":"b"}"#,
        r#"{"\u006dethod":"b"}"#,
    ] {
        let ask = |path: &str| {
            let length = body.len();
            let mut tls = Tls::open(&scene);
            tls.send(format!(
                "POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {length}\r\n\r\n{body}"
            ));
            tls.answer()
        };
        assert_eq!(ask("/other").denied(), (403, "path_not_allowed".into()));
        assert_eq!(ask("/graphql").json()["body"], body);
    }
}

// E18
#[test]
fn connection_names_no_field_that_means_something() {
    let ground = Ground::new();
    let at = ground.allowed();
    for name in [
        "Host",
        "Authorization",
        "cookie",
        "Content-Length",
        "Content-Type",
        "Content-Encoding",
        "Transfer-Encoding",
        "Cache-Control",
        "Range",
        "Sec-WebSocket-Key",
    ] {
        for value in [
            name.to_owned(),
            format!("close, {name}"),
            format!("keep-alive,{},x", name.to_ascii_uppercase()),
            format!("x\r\nConnection: {name}"),
            format!("\t{name}\t"),
        ] {
            let bytes = request("GET", &at, &format!("Connection: {value}\r\n"), "");
            ground.refuses(&value, &bytes, 400, "malformed");
        }
    }
    ground.is_untouched();
    let fields = "Connection: X-Mine\r\nX-Mine: 1\r\nAuthorization: Bearer t\r\n";
    let seen = send(&ground, &request("GET", &at, fields, "")).text();
    assert!(
        seen.contains("authorization: Bearer t") && !seen.contains("x-mine"),
        "{seen}"
    );
}

// E20
#[test]
fn a_tunnel_is_judged_before_anything_else_is_looked_at() {
    let ground = Ground::with(|spec, port| {
        let spec = spec.allow("api.example", &[port, 443]);
        spec.policy(|policy| {
            let rule = policy.rules.last_mut().unwrap();
            rule.methods = vec![Method::parse("GET").unwrap()];
            rule.paths = vec![PathPattern::parse("/v1/**").unwrap()];
        })
    });
    for port in [ground.port(), 443] {
        let at = format!("api.example:{port}");
        let connect = format!("CONNECT {at} HTTP/1.1\r\nHost: {at}\r\n\r\n");
        ground.refuses("CONNECT", &connect, 403, "tunnel_not_allowed");
        assert_eq!(Raw::open(ground.gate.socks).socks5("api.example", port), 2);
    }
    let at = format!("api.example:{}", ground.port());
    let other = format!("GET http://{at}/v2 HTTP/1.1\r\nHost: {at}\r\n\r\n");
    ground.refuses("path", &other, 403, "path_not_allowed");
    ground.is_untouched();
    assert_eq!(get(ground.gate.http, &at, "/v1/x").status(), 200);
}

// E21
#[test]
fn compressed_content_passes_as_it_is_and_is_not_unpacked() {
    // What says it is gzip and is none, and what would unpack to gigabytes: both only bytes.
    let bomb = [vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3], vec![0xff; 50_000]].concat();
    for coding in ["gzip", "br", "zstd", "deflate, gzip, gzip"] {
        let content = bomb.clone();
        let origin = Origin::http(move |_, body| {
            assert_eq!(body, content);
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-encoding: {coding}\r\ncontent-length: {}\r\n\r\n",
                content.len()
            );
            [head.as_bytes(), &content].concat()
        });
        let ground = Ground::before(origin, |spec, _| spec);
        let at = ground.allowed();
        let fields = format!(
            "Content-Encoding: {coding}\r\nContent-Length: {}\r\n",
            bomb.len()
        );
        let mut client = Raw::open(ground.gate.http);
        client.send(request("POST", &at, &fields, "")).send(&bomb);
        let response = client.response();
        assert_eq!(response.header("content-encoding"), Some(coding));
        assert!(response.body == bomb, "{coding}: changed on the way");
    }
}

/// Answers every request with these bytes, however they look.
fn saying(bytes: &'static [u8]) -> Ground {
    let origin = Origin::raw(move |mut stream| {
        let mut head = Vec::new();
        loop {
            let mut byte = [0];
            if stream.read(&mut byte)? == 0 {
                return Ok(());
            }
            head.push(byte[0]);
            if head.ends_with(b"\r\n\r\n") {
                stream.write_all(bytes)?;
                head.clear();
            }
        }
    });
    Ground::before(origin, |spec, _| spec)
}

// E22
#[test]
fn what_an_origin_says_beyond_its_answer_is_no_second_answer() {
    for (what, method, bytes) in [
        (
            "HEAD with a body",
            "HEAD",
            concat!(
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
                "HTTP/1.1 200 OK\r\nX: smuggled\r\n\r\n"
            ),
        ),
        (
            "304 with a body",
            "GET",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 40\r\n\r\nHTTP/1.1 200 OK\r\nX: smuggled\r\n\r\nxxxxxxxx",
        ),
        (
            "204 with a body",
            "GET",
            "HTTP/1.1 204 No Content\r\nContent-Length: 40\r\n\r\nHTTP/1.1 200 OK\r\nX: smuggled\r\n\r\nxxxxxxxx",
        ),
        (
            "a second answer",
            "GET",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: smuggled\r\n\r\nwrong",
        ),
    ] {
        let ground = saying(bytes.as_bytes());
        let at = ground.allowed();
        let mut client = Raw::open(ground.gate.http);
        client.send(request(method, &at, "", ""));
        client.send("GET http://denied.test/ HTTP/1.1\r\nHost: denied.test\r\n\r\n");
        client.finish();
        let said = String::from_utf8_lossy(&client.rest()).into_owned();
        assert!(!said.contains("smuggled"), "{what}: {said}");
        // A second client never gets the rest of the first one's answer.
        let again = Raw::open(ground.gate.http)
            .send(request(method, &at, "", ""))
            .finish()
            .rest();
        let again = String::from_utf8_lossy(&again).into_owned();
        assert!(
            !again.contains("smuggled") && !again.contains("wrong"),
            "{what}: {again}"
        );
    }
    for (what, bytes) in [
        (
            "two lengths",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 50\r\n\r\nok",
        ),
        (
            "a bare CR in a field",
            "HTTP/1.1 200 OK\r\nX: a\rX: smuggled\r\nContent-Length: 2\r\n\r\nok",
        ),
        (
            "NUL in a field",
            "HTTP/1.1 200 OK\r\nX: a\0smuggled\r\nContent-Length: 2\r\n\r\nok",
        ),
        (
            "no version",
            "HTTP/9.9 200 OK\r\nContent-Length: 2\r\n\r\nok",
        ),
    ] {
        let ground = saying(bytes.as_bytes());
        let answer = send(&ground, &request("GET", &ground.allowed(), "", ""));
        assert_eq!(
            (answer.status(), answer.denied().as_str()),
            (502, "dial_failed"),
            "{what}"
        );
    }
}

// E22
#[test]
fn what_an_origin_says_beyond_its_answer_is_no_second_answer_within_tls() {
    const SMUGGLED: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: smuggled\r\n\r\nwrong";
    for (what, method, answer, status) in [
        (
            "HEAD with a body",
            "HEAD",
            "HTTP/1.1 200 OK\r\nContent-Length: 65\r\n\r\n",
            200,
        ),
        (
            "304 with a body",
            "GET",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 65\r\n\r\n",
            304,
        ),
        (
            "204 with a body",
            "GET",
            "HTTP/1.1 204 No Content\r\nContent-Length: 65\r\n\r\n",
            204,
        ),
        (
            "a second answer",
            "GET",
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            200,
        ),
        (
            "two lengths",
            "GET",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 9\r\n\r\n",
            502,
        ),
        (
            "a length and chunks",
            "GET",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            0,
        ),
        (
            "NUL in a field",
            "GET",
            "HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
            502,
        ),
    ] {
        let origin = OriginSpec::new(HOST)
            .alpn(&["http/1.1"])
            .raw(format!("{answer}{SMUGGLED}").as_bytes());
        let scene = Scene::before(origin, |spec| spec);
        // A second client gets nothing of what the first one's origin had to say.
        for _ in 0..2 {
            let mut tls = Tls::open(&scene);
            tls.send(format!(
                "{method} / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n"
            ));
            let said = String::from_utf8_lossy(&tls.rest()).into_owned();
            assert!(
                !said.contains("smuggled") && !said.contains("wrong"),
                "{what}: {said}"
            );
            let expected = format!("HTTP/1.1 {status}");
            assert!(status == 0 || said.starts_with(&expected), "{what}: {said}");
        }
    }
}

// E22
#[test]
fn interim_answers_do_not_shift_the_final_one() {
    for interim in [
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 102 Processing\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n",
    ] {
        let bytes = format!("{interim}HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfinal");
        let ground = saying(bytes.leak().as_bytes());
        let at = ground.allowed();
        let mut client = Raw::open(ground.gate.http);
        for expect in [
            "",
            "Expect: 100-continue\r\n",
            "Expect: 100-continue\r\nContent-Length: 2\r\n",
        ] {
            client.send(request("POST", &at, expect, ""));
            if expect.contains("Length") {
                client.send("hi");
            }
            let mut response = client.response();
            while response.status() < 200 {
                response = client.response();
            }
            assert_eq!(
                (response.status(), response.text().as_str()),
                (200, "final"),
                "{interim}{expect}"
            );
        }
    }
}

// E22
#[test]
fn a_refusal_repeats_nothing_of_the_client_that_could_split_an_answer() {
    let ground = Ground::new();
    let request =
        "GET http://denied.test/%0d%0aX:%20y HTTP/1.1\r\nHost: denied.test\r\nX: \u{e9}\r\n\r\n";
    let answer = send(&ground, request);
    assert_eq!(answer.denied(), "host_not_allowed");
    assert!(
        !answer.head.contains("X: y") && answer.head.is_ascii(),
        "{}",
        answer.head
    );
}

// E24
#[test]
fn nothing_is_answered_from_memory_neither_to_the_same_client_nor_to_another_session() {
    let origin = Origin::http(|_, _| {
        b"HTTP/1.1 200 OK\r\nCache-Control: public, max-age=31536000\r\nETag: \"1\"\r\nContent-Length: 2\r\n\r\nok".to_vec()
    });
    let ground = Ground::before(origin, |spec, _| spec);
    let other = Ground::new();
    let at = ground.allowed();
    for _ in 0..3 {
        assert_eq!(get(ground.gate.http, &at, "/same").text(), "ok");
    }
    assert_eq!(ground.origin.log.text().matches("GET /same").count(), 3);
    // The other session has an origin of its own under the same name and path.
    let seen = get(other.gate.http, &other.allowed(), "/same").text();
    assert!(seen.starts_with("GET /same"), "{seen}");
    let cached = request(
        "GET",
        &at,
        "Cache-Control: only-if-cached\r\nIf-None-Match: \"1\"\r\n",
        "",
    );
    assert_eq!(send(&ground, &cached).text(), "ok");
    assert!(ground.origin.log.text().contains("only-if-cached"));
}

// E26
#[test]
fn every_refusal_says_why_in_a_form_that_a_program_reads() {
    let ground = Ground::with(|spec, _| spec.deny("bad.allowed.test").allow("10.0.0.1", &[80]));
    let port = ground.port();
    for (target, status, code) in [
        (format!("denied.test:{port}"), 403, "host_not_allowed"),
        (format!("bad.allowed.test:{port}"), 403, "host_denied"),
        ("allowed.test:1".to_owned(), 403, "port_not_allowed"),
        ("10.0.0.1:80".to_owned(), 403, "address_refused"),
        ("a b:1".to_owned(), 400, "malformed"),
    ] {
        for request in [
            format!("GET http://{target}/ HTTP/1.1\r\nHost: {target}\r\n\r\n"),
            format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n"),
        ] {
            let answer = send(&ground, &request);
            assert_eq!(
                (answer.status(), answer.denied().as_str()),
                (status, code),
                "{target}"
            );
            assert_eq!(
                answer.header("content-type"),
                Some("application/json"),
                "{target}"
            );
            assert_eq!(answer.json()["error"], "denied", "{target}");
        }
    }
    ground.is_untouched();
    ground.reaches("allowed.test");
}
