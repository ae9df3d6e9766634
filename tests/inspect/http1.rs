//! HTTP/1.1 within TLS: as strict as outside.

use portcullis::policy::{DenyReason, Transport};

use crate::client::Tls;
use crate::scene::{HOST, Scene};
use crate::tls_origin::{CertKind, OriginSpec};

// E01, E02, E06
#[test]
fn what_may_be_read_in_two_ways_is_refused_and_ends_the_connection() {
    let post = |fields: &str| format!("POST / HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n");
    let get = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
    let scene = Scene::new();
    for bytes in [
        post("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"),
        post("Content-Length: 3\r\nContent-Length: 3\r\n"),
        post("Content-Length: 3, 3\r\n"),
        post("Transfer-Encoding: gzip, chunked\r\n"),
        post("Transfer-Encoding : chunked\r\n"),
        post("X: y\r\n z\r\n"),
        post("X: \0\r\n"),
        post("Host: a.test\r\n"),
        get.replace("\r\n", "\n"),
        get.replace("Host: a.test\r\n", ""),
        get.replace("HTTP/1.1", "HTTP/2.0"),
        get.replace("/ ", "/#f "),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
    ] {
        let mut tls = Tls::open(&scene);
        tls.send(&bytes);
        let answer = tls.answer();
        assert_eq!(answer.denied(), (400, "malformed".into()), "{bytes:?}");
        assert_eq!(tls.rest(), b"", "{bytes:?}");
    }
    let (transport, reason, _) = scene.refusal();
    assert_eq!(
        (transport, reason),
        (Transport::Inspected, DenyReason::Malformed)
    );
    assert!(scene.origin_is_untouched());
}

// D12, E09, E14, E18
#[test]
fn a_request_that_is_none_is_refused_by_itself() {
    let scene = Scene::new();
    for (line, fields) in [
        ("TRACE /", ""),
        ("get /", ""),
        ("BREW /", ""),
        ("GET http://a.test/", ""),
        ("GET *", ""),
        (
            "GET /",
            "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n",
        ),
        ("GET /", "Upgrade: TLS/1.0\r\nConnection: Upgrade\r\n"),
        ("GET /", "Upgrade: websocket\r\nConnection: Upgrade\r\n"),
        ("GET /", "Connection: close, authorization\r\n"),
        ("CONNECT b.test:443", ""),
    ] {
        let answer = Tls::open(&scene).ask(line, HOST, fields);
        assert_eq!(
            answer.denied(),
            (400, "malformed".into()),
            "{line} {fields}"
        );
    }
    let none = Tls::open(&scene)
        .send("GET / HTTP/1.0\r\n\r\n")
        .answer()
        .denied();
    assert_eq!(none, (400, "malformed".into()));
    assert!(scene.origin_is_untouched());
}

// E04, E05
#[test]
fn a_smuggled_request_is_judged_or_never_read() {
    let scene = Scene::with(|spec| spec.policy(|policy| only_path(policy, "/ok/**")));
    // Behind a length that ends early, the rest is the next request, and judged as one.
    let mut tls = Tls::open(&scene);
    let hidden = "GET /secret HTTP/1.1\r\nHost: a.test\r\n\r\n";
    tls.send(format!(
        "POST /ok/1 HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\n\r\nx{hidden}"
    ));
    assert_eq!(tls.answer().status(), 200);
    assert_eq!(tls.answer().denied(), (403, "path_not_allowed".into()));
    // Behind chunks nothing is read.
    let mut tls = Tls::open(&scene);
    tls.send(format!(
        "POST /ok/2 HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n{hidden}"
    ));
    let answer = tls.answer();
    assert_eq!(
        (answer.status(), answer.header("connection")),
        (200, Some("close"))
    );
    assert_eq!(tls.rest(), b"");
    // Behind an Upgrade that was not taken, neither.
    let mut tls = Tls::open(&scene);
    tls.send(format!(
        "GET /ok/3 HTTP/1.1\r\nHost: a.test\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n{hidden}"
    ));
    assert_eq!(tls.answer().status(), 400);
    assert_eq!(tls.rest(), b"");
    let paths: Vec<_> = scene
        .origin
        .seen()
        .into_iter()
        .map(|seen| seen.path)
        .collect();
    assert_eq!(paths, ["/ok/1", "/ok/2"]);
}

fn only_path(policy: &mut portcullis::policy::NetworkPolicy, path: &str) {
    let pattern = portcullis::policy::PathPattern::parse(path).unwrap();
    policy.rules[0].paths = vec![pattern];
}

#[test]
fn content_passes_in_both_directions_and_in_chunks() {
    let scene = Scene::new();
    let mut tls = Tls::open(&scene);
    tls.send("POST /up HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(tls.answer().json()["body"], "hello");
    tls.send("PUT /up HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(tls.answer().json()["method"], "PUT");
    tls.send("HEAD /up HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert_eq!(tls.head().status(), 200);
    tls.send("POST /up HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n");
    assert_eq!(tls.answer().json()["body"], "hello");
}

#[test]
fn events_are_passed_on_as_they_come() {
    let scene = Scene::new();
    let mut tls = Tls::open(&scene);
    tls.send("GET /sse HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert_eq!(tls.head().header("content-type"), Some("text/event-stream"));
    for event in ["data: 1\n\n", "data: 2\n\n", "data: 3\n\n"] {
        // The next is sent only once this one is here.
        assert_eq!(tls.chunk().unwrap(), event.as_bytes());
        scene.origin.go_on(1);
    }
    assert_eq!(tls.chunk(), None);
}

#[test]
fn a_head_that_is_too_long_or_too_slow_is_refused() {
    let scene = Scene::with(|spec| {
        spec.limits(|limits| {
            limits.head_bytes = 8192;
            limits.head_seconds = 2;
        })
    });
    let mut tls = Tls::open(&scene);
    tls.send(format!("GET / HTTP/1.1\r\nX: {}\r\n", "y".repeat(9000)));
    assert_eq!(tls.answer().denied(), (400, "malformed".into()));
    let mut tls = Tls::open(&scene);
    tls.send("GET / HTTP/1.1\r\nHost:");
    assert_eq!(tls.answer().denied(), (408, "timed_out".into()));
    assert!(scene.origin_is_untouched());
}

// D13
#[test]
fn an_origin_that_does_not_verify_is_no_green_certificate() {
    for kind in [
        CertKind::Expired,
        CertKind::NotYetValid,
        CertKind::SelfSigned,
        CertKind::WrongName,
    ] {
        let scene = Scene::before(OriginSpec::new(HOST).cert(kind), |spec| spec);
        let answer = Tls::open(&scene).ask("GET /secret", HOST, "");
        assert_eq!(
            answer.denied(),
            (502, "certificate_refused".into()),
            "{kind:?}"
        );
        assert_eq!(scene.origin.seen(), []);
    }
}
