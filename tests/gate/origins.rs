//! The TLS origin of other tests is what it says, told by curl: else what is refused because of it would
//! prove nothing.

use std::io::Write;

use serde_json::Value;

use crate::client::{Raw, curl};
use crate::tls_origin::{BIG, CertKind, OriginSpec, TlsOrigin};

/// curl straight to the origin, by its name.
fn ask(origin: &TlsOrigin, path: &str, more: &[&str]) -> (Option<i32>, String) {
    let mut ca = tempfile::NamedTempFile::new().unwrap();
    ca.write_all(origin.ca_pem.as_bytes()).unwrap();
    let resolve = format!("a.test:{}:{}", origin.port(), origin.addr.ip());
    let url = format!("https://a.test:{}{path}", origin.port());
    let ca = ca.path().to_str().unwrap();
    let mut arguments = vec!["--cacert", ca, "--resolve", &resolve, &url];
    arguments.extend(more);
    curl(&arguments)
}

#[test]
fn an_origin_answers_over_http_1_and_2() {
    for (alpn, version) in [("http/1.1", "HTTP/1.1"), ("h2", "HTTP/2.0")] {
        let origin = OriginSpec::new("a.test").alpn(&[alpn]).start();
        let (status, text) = ask(&origin, "/x?y", &["--data", "body"]);
        let json: Value = serde_json::from_str(&text).unwrap();
        let found = (status, &json["version"], &json["path"], &json["body"]);
        assert_eq!(
            found,
            (Some(0), &version.into(), &"/x?y".into(), &"body".into())
        );
        assert_eq!(ask(&origin, "/big", &[]).1.len(), BIG);
        origin.go_on(2);
        assert_eq!(
            ask(&origin, "/sse", &[]).1,
            "data: 1\n\ndata: 2\n\ndata: 3\n\n"
        );
        assert_eq!(ask(&origin, "/trailers", &[]).1, "\0\0\0\0\u{5}hello");
        let status = ask(&origin, "/status/204", &["--write-out", "%{http_code}"]);
        assert_eq!(status, (Some(0), "204".to_owned()));
        let hello = ("a.test".to_owned(), alpn.to_owned());
        assert_eq!(origin.hellos(), vec![hello; 5]);
        assert_eq!(origin.handshakes(), origin.connections());
        assert_eq!(origin.resumed(), 0);
        assert_eq!(origin.seen()[0].header("content-length"), Some("4"));
    }
}

#[test]
fn a_bad_certificate_is_bad_for_curl_too() {
    for cert in [
        CertKind::Expired,
        CertKind::NotYetValid,
        CertKind::SelfSigned,
        CertKind::WrongName,
    ] {
        let origin = OriginSpec::new("a.test").cert(cert).start();
        assert_eq!(ask(&origin, "/", &[]).0, Some(60), "{cert:?}");
        assert_eq!(origin.seen(), [], "{cert:?}");
    }
}

#[test]
fn an_origin_can_be_made_to_say_anything_on_port_443() {
    let origin = OriginSpec::new("a.test")
        .https()
        .answer(|seen| hyper::Response::new(seen.method.clone().into()))
        .max_streams(1)
        .start();
    assert_eq!(
        (origin.port(), ask(&origin, "/", &[]).1.as_str()),
        (443, "GET")
    );
    let origin = OriginSpec::new("a.test")
        .cert(CertKind::Plain)
        .raw(b"anything")
        .start();
    assert_eq!(Raw::open(origin.addr).send("x").rest(), b"anything");
}
