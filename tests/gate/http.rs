//! Plain requests in absolute-form.

use std::io::{Read, Write};
use std::sync::Mutex;
use std::sync::mpsc;

use portcullis::audit::{AuditEvent, EndedBy};
use portcullis::policy::{DenyReason, NetworkMode};

use crate::client::{Raw, curl, get};
use crate::test_gate::{GateSpec, spec};
use crate::upstream::{Origin, ok};

fn allowing(origin: &Origin) -> (GateSpec, String) {
    let spec = spec()
        .allow("a.test", &[origin.port()])
        .host("a.test", "127.0.0.1")
        .host("denied.test", "127.0.0.1");
    (spec, format!("a.test:{}", origin.port()))
}

// E26
#[test]
fn curl_gets_what_is_allowed_and_a_reason_for_what_is_not() {
    let origin = Origin::echo();
    let (spec, authority) = allowing(&origin);
    let gate = spec.deny("evil.test").start();
    let proxy = format!("http://{}", gate.http);
    let url = format!("http://{authority}/hello?q");
    let (status, text) = curl(&["--proxy", &proxy, &url]);
    assert_eq!((status, text.as_str()), (Some(0), "GET /hello?q HTTP/1.1"));

    for (host, expected) in [
        (
            "http://other.test/",
            r#"{"error":"denied","code":"host_not_allowed","host":"other.test","port":80,"hint":"Not on this session's list of allowed hosts. Ask the operator; do not retry."} 403 host_not_allowed blocked-by-allowlist"#,
        ),
        (
            "http://evil.test/",
            r#"{"error":"denied","code":"host_denied","host":"evil.test","port":80,"rule":"Deny evil.test","hint":"This host is denied to this session. Ask the operator; do not retry."} 403 host_denied blocked-by-denylist"#,
        ),
    ] {
        let format = " %{http_code} %header{x-portcullis-denied} %header{x-proxy-error}";
        let (_, text) = curl(&["--proxy", &proxy, "--write-out", format, host]);
        assert_eq!(text, expected);
    }
}

#[test]
fn a_plain_request_is_told_with_its_answer_and_nobodys_thread() {
    let origin = Origin::echo();
    let (spec, authority) = allowing(&origin);
    let gate = spec.start();
    let proxy = format!("http://{}", gate.http);
    let thread = "thread-id: 01a208e7-385f-76d3-893e-6c4957fd2d7e";
    let url = format!("http://{authority}/hello");
    curl(&["--proxy", &proxy, "-H", thread, "-d", "four", &url]);
    let told = gate.audit.exchanges(1).remove(0);
    assert_eq!(
        (told.method.as_str(), told.status, told.request_bytes),
        ("POST", Some(200), 4)
    );
    // Only of what is sent within TLS that is looked into.
    assert_eq!((told.thread, told.turn), (None, None));
}

#[test]
fn a_request_reaches_the_origin_without_fields_of_one_hop_and_with_its_own_host() {
    let origin = Origin::http(|head, _| {
        format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: x-hop\r\nX-Hop: 1\r\n\
             Keep-Alive: 9\r\nProxy-Authenticate: Basic\r\nX-End: 1\r\n\r\n{head}",
            head.len()
        )
        .into_bytes()
    });
    let (spec, authority) = allowing(&origin);
    let gate = spec.start();
    let mut client = Raw::open(gate.http);
    client.send(format!(
        "GET http://{authority}/x HTTP/1.1\r\nHost: {authority}\r\nConnection: X-Mine, upgrade\r\n\
         X-Mine: 1\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\nTE: trailers\r\nProxy-Connection: keep-alive\r\n\
         Proxy-Authorization: Basic eA==\r\nAuthorization: Bearer t\r\n\r\n"
    ));
    let response = client.response();
    let expected = format!(
        "GET /x HTTP/1.1\r\nhttp2-settings: AA\r\nauthorization: Bearer t\r\nhost: {authority}\r\n\r\n"
    );
    assert_eq!(response.text(), expected);
    let names: Vec<_> = response
        .head
        .lines()
        .skip(1)
        .filter_map(|l| l.split(':').next())
        .collect();
    assert_eq!(names, ["content-length", "x-end", ""]);
}

#[test]
fn a_thousand_requests_share_one_upstream_connection() {
    let origin = Origin::echo();
    let (spec, authority) = allowing(&origin);
    let gate = spec.start();
    let mut client = Raw::open(gate.http);
    for n in 0..1000 {
        client.send(format!(
            "GET http://{authority}/{n} HTTP/1.1\r\nHost: {authority}\r\n\r\n"
        ));
        assert_eq!(client.response().text(), format!("GET /{n} HTTP/1.1"));
    }
    assert_eq!(origin.log.connections(), 1);
    let summary = gate.drain();
    assert_eq!((summary.allowed, summary.bytes_up), (1000, 0));
}

// A16
#[test]
fn each_request_of_a_connection_is_judged_by_itself() {
    let origin = Origin::echo();
    let (spec, authority) = allowing(&origin);
    let gate = spec.start();
    let denied = format!("denied.test:{}", origin.port());
    let mut client = Raw::open(gate.http);
    let request = |to: &str| format!("GET http://{to}/{to} HTTP/1.1\r\nHost: {to}\r\n\r\n");
    // Pipelined: the second must not ride on the first.
    client.send(request(&authority) + &request(&denied) + &request(&authority));
    assert_eq!(client.response().status(), 200);
    assert_eq!(client.response().denied(), "host_not_allowed");
    assert_eq!(client.response().status(), 200);
    assert!(!origin.log.text().contains("denied"));
}

#[test]
fn contents_are_streamed_both_ways_and_counted() {
    let origin = Origin::http(|_, body| ok(&format!("got {}", body.len())));
    let (spec, authority) = allowing(&origin);
    let gate = spec.start();
    let proxy = format!("http://{}", gate.http);
    let url = format!("http://{authority}/");
    let (short, body) = ("x".repeat(100_000), "x".repeat(300_000));
    let (_, text) = curl(&["--proxy", &proxy, "--data", &short, &url]);
    assert_eq!(text, "got 100000");
    let mut client = Raw::open(gate.http);
    client.send(format!(
        "POST {url} HTTP/1.1\r\nHost: {authority}\r\nContent-Length: 300000\r\n\
         Expect: 100-continue\r\n\r\n"
    ));
    assert_eq!(client.response().status(), 100);
    client.send(&body);
    assert_eq!(client.response().text(), "got 300000");
    let closed = gate.audit.wait_for_one("an end", |event| {
        matches!(
            event,
            AuditEvent::EgressClosed {
                bytes_up: 300_000,
                ..
            }
        )
    });
    let AuditEvent::EgressClosed {
        bytes_down,
        ended_by,
        ..
    } = closed
    else {
        panic!("{closed:?}");
    };
    assert_eq!((bytes_down, ended_by), (10, EndedBy::Upstream));
}

// E04, E05
#[test]
fn a_chunked_request_is_framed_anew_and_is_the_last_of_its_connection() {
    let (sender, received) = mpsc::channel();
    let sender = Mutex::new(sender);
    let origin = Origin::raw(move |mut stream| {
        let mut bytes = Vec::new();
        let mut chunk = [0; 4096];
        while !bytes.ends_with(b"0\r\n\r\n") {
            let got = stream.read(&mut chunk)?;
            bytes.extend(&chunk[..got]);
        }
        sender.lock().unwrap().send(bytes).unwrap();
        stream.write_all(&ok("done"))
    });
    let (spec, authority) = allowing(&origin);
    let gate = spec.start();
    let mut client = Raw::open(gate.http);
    client.send(format!(
        "POST http://{authority}/ HTTP/1.1\r\nHost: {authority}\r\nTransfer-Encoding: chunked\r\n\
         Trailer: X-T\r\n\r\n5;ext=1\r\nhello\r\n0\r\nX-T: 1\r\n\r\n\
         GET http://denied.test/ HTTP/1.1\r\nHost: denied.test\r\n\r\n"
    ));
    let response = client.response();
    assert_eq!(
        (response.text().as_str(), response.header("connection")),
        ("done", Some("close"))
    );
    assert_eq!(
        client.rest(),
        b"",
        "what was smuggled behind it is not read"
    );
    let upstream = String::from_utf8(received.recv().unwrap()).unwrap();
    let (head, body) = upstream.split_once("\r\n\r\n").unwrap();
    assert_eq!(
        head.matches("transfer-encoding: chunked").count(),
        1,
        "{head}"
    );
    assert_eq!(
        body, "5\r\nhello\r\n0\r\n\r\n",
        "neither extension nor trailer"
    );
}

// E05
#[test]
fn a_chunked_body_that_two_readers_could_read_in_two_ways_goes_no_further() {
    let origin = Origin::echo();
    let (spec, authority) = allowing(&origin);
    let gate = spec.start();
    for chunks in [
        "ffffffffffffffff1\r\nx",
        "-1\r\nx",
        "0x1\r\nx\r\n0\r\n\r\n",
        "1\nx\n0\n\n",
        "1\r\nxyz",
        "1;\n\r\nx\r\n0\r\n\r\n",
        " 1\r\nx\r\n0\r\n\r\n",
    ] {
        let mut client = Raw::open(gate.http);
        let smuggled = "GET http://denied.test/ HTTP/1.1\r\nHost: denied.test\r\n\r\n";
        client.send(format!(
            "POST http://{authority}/ HTTP/1.1\r\nHost: {authority}\r\n\
             Transfer-Encoding: chunked\r\n\r\n{chunks}{smuggled}"
        ));
        client.finish().rest();
    }
    // Still whole afterwards, and no request was made of what followed a body.
    assert_eq!(get(gate.http, &authority, "/").status(), 200);
    assert!(!origin.log.text().contains("denied.test"));
}

#[test]
fn an_origin_that_breaks_off_is_a_typed_502() {
    let origin = Origin::raw(|mut stream| {
        let mut chunk = [0; 4096];
        let _ = stream.read(&mut chunk)?;
        stream.write_all(b"not HTTP at all\r\n\r\n")
    });
    let (spec, authority) = allowing(&origin);
    let gate = spec.start();
    let response = get(gate.http, &authority, "/");
    assert_eq!(
        (response.status(), response.denied().as_str()),
        (502, "dial_failed")
    );
    gate.audit.wait_for_one("a refusal", |event| {
        matches!(
            event,
            AuditEvent::EgressRefused {
                reason: DenyReason::DialFailed,
                ..
            }
        )
    });
}

#[test]
fn an_origin_that_closed_an_idle_connection_is_dialed_again() {
    // Each connection serves one request and is then closed without a word.
    let origin = Origin::raw(|mut stream| {
        let mut chunk = [0; 4096];
        let _ = stream.read(&mut chunk)?;
        stream.write_all(&ok("once"))
    });
    let (spec, authority) = allowing(&origin);
    let gate = spec.start();
    for _ in 0..20 {
        assert_eq!(get(gate.http, &authority, "/").text(), "once");
    }
    assert_eq!(origin.log.connections(), 20);
}

// E22
#[test]
fn a_protocol_switch_that_nobody_asked_for_is_not_passed_on() {
    let origin =
        Origin::http(|_, _| b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n".into());
    let (spec, authority) = allowing(&origin);
    let gate = spec.start();
    assert_eq!(get(gate.http, &authority, "/").denied(), "dial_failed");
}

// E12
#[test]
fn limited_mode_lets_nothing_be_written() {
    let origin = Origin::echo();
    let (spec, authority) = allowing(&origin);
    let gate = spec
        .policy(|policy| policy.mode = NetworkMode::Limited)
        .start();
    let ask = |method: &str, fields: &str, body: &str| {
        let mut client = Raw::open(gate.http);
        client.send(format!(
            "{method} http://{authority}/ HTTP/1.1\r\nHost: {authority}\r\n{fields}\r\n{body}"
        ));
        client.response()
    };
    assert_eq!(ask("GET", "", "").status(), 200);
    assert_eq!(
        ask("POST", "Content-Length: 1\r\n", "x").denied(),
        "method_not_allowed"
    );
    assert_eq!(
        ask("GET", "Content-Length: 1\r\n", "x").denied(),
        "malformed"
    );
    assert_eq!(
        ask("GET", "X-HTTP-Method-Override: POST\r\n", "").denied(),
        "malformed"
    );
    let mut tunnel = Raw::open(gate.http);
    tunnel.send(format!(
        "CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n"
    ));
    assert_eq!(tunnel.response().denied(), "tunnel_not_allowed");
    assert_eq!(Raw::open(gate.socks).socks5("a.test", origin.port()), 2);
    assert_eq!(origin.log.text().matches("HTTP/1.1").count(), 1);
}

#[test]
fn without_network_everything_is_refused_and_recorded() {
    let origin = Origin::echo();
    let (spec, authority) = allowing(&origin);
    let gate = spec.policy(|policy| policy.enabled = false).start();
    assert_eq!(get(gate.http, &authority, "/").denied(), "network_disabled");
    assert_eq!(origin.log.connections(), 0);
    assert_eq!(gate.audit.events().len(), 1);
}

#[test]
fn python_finds_its_way_through_the_proxy() {
    let origin = Origin::echo();
    let (spec, authority) = allowing(&origin);
    let gate = spec.start();
    let script = format!(
        "import urllib.request as u, urllib.error as e\n\
         print(u.urlopen('http://{authority}/py').read().decode())\n\
         try: u.urlopen('http://other.test/')\n\
         except e.HTTPError as x: print(x.code, x.headers['x-portcullis-denied'])"
    );
    let output = std::process::Command::new("python3")
        .env("http_proxy", format!("http://{}", gate.http))
        .env_remove("no_proxy")
        .env_remove("NO_PROXY")
        .args(["-c", &script])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        text, "GET /py HTTP/1.1\n403 host_not_allowed\n",
        "{output:?}"
    );
}

#[test]
fn an_answer_that_broke_off_does_not_look_whole_to_a_client_of_http_1_0() {
    let origin = Origin::raw(|mut stream| {
        let mut chunk = [0; 4096];
        let _ = stream.read(&mut chunk)?;
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")?;
        if chunk.starts_with(b"GET /whole") {
            stream.write_all(b"0\r\n\r\n")?;
        }
        Ok(())
    });
    let (spec, authority) = allowing(&origin);
    let gate = spec.start();
    let end = |path: &str| {
        let mut client = Raw::open(gate.http);
        client.send(format!("GET http://{authority}{path} HTTP/1.0\r\n\r\n"));
        let mut answer = Vec::new();
        client
            .0
            .read_to_end(&mut answer)
            .map_err(|error| error.kind())
    };
    assert!(end("/whole").is_ok());
    assert_eq!(end("/cut"), Err(std::io::ErrorKind::ConnectionReset));
}

#[test]
fn an_empty_path_with_a_query_is_sent_as_the_path_that_was_judged() {
    let origin = Origin::echo();
    let (spec, authority) = allowing(&origin);
    let gate = spec.start();
    let mut client = Raw::open(gate.http);
    client.send(format!(
        "GET http://{authority}?q HTTP/1.1\r\nHost: {authority}\r\n\r\n"
    ));
    assert_eq!(client.response().text(), "GET /?q HTTP/1.1");
    gate.audit.wait_for_one(
        "the decision",
        |event| matches!(event, AuditEvent::EgressDecided { path: Some(path), .. } if path == "/"),
    );
}
