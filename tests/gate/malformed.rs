//! Odd requests: 400, one record, and nothing leaves.

use portcullis::audit::AuditEvent;
use portcullis::policy::DenyReason;

use crate::client::Raw;
use crate::dns_stub::DnsStub;
use crate::test_gate::spec;
use crate::upstream::Origin;

// A02, A04, A06, A08, A09, A10, A12, A13, A17, A18, A22, E01, E02, E06, E14, E18
#[test]
fn a_request_that_does_not_name_exactly_one_destination_is_400_with_one_record() {
    let origin = Origin::echo();
    let dns = DnsStub::constant(origin.address.ip());
    let port = origin.port();
    let gate = spec()
        .allow("**.a.test", &[port, 80, 443])
        .name_server(dns.address)
        .start();
    let a = format!("a.test:{port}");
    for (what, request) in odd_requests(&a) {
        let before = gate.audit.events().len();
        let mut client = Raw::open(gate.http);
        client.send(&request);
        let response = client.response();
        assert!(
            response.header("x-portcullis-denied").is_some(),
            "{what}: {response:?}"
        );
        let found = (response.status(), response.denied());
        assert_eq!(found, (400, "malformed".to_owned()), "{what}: {request:?}");
        let events = gate.audit.events().split_off(before);
        let [
            AuditEvent::EgressRefused {
                reason: DenyReason::Malformed,
                detail,
                ..
            },
        ] = &events[..]
        else {
            panic!("{what}: {events:?}");
        };
        assert!(!detail.contains(char::is_control), "{what}: {detail:?}");
    }
    assert_eq!(dns.asked(), Vec::<String>::new());
    assert_eq!(origin.log.connections(), 0);
    // The twin: the same request without oddities passes.
    let mut client = Raw::open(gate.http);
    client.send(to(&a, "X: a"));
    assert_eq!(client.response().status(), 200);
}

#[test]
fn a_bad_head_behind_a_good_request_is_not_read_as_one() {
    let origin = Origin::echo();
    let gate = spec().reaches("a.test", origin.port()).start();
    let a = format!("a.test:{}", origin.port());
    let mut client = Raw::open(gate.http);
    client.send(format!("GET http://{a}/1 HTTP/1.1\r\nHost: {a}\r\n\r\n"));
    assert_eq!(client.response().status(), 200);
    client.send(format!("GET http://{a}/2 HTTP/1.1\nHost: {a}\n\n"));
    assert_eq!(client.response().denied(), "malformed");
    assert_eq!(client.rest(), b"");
    assert!(!origin.log.text().contains("/2"));
}

// A13
#[test]
fn the_host_that_the_origin_sees_is_the_one_that_was_judged() {
    let origin = Origin::http(|head, _| crate::upstream::ok(head));
    let gate = spec().reaches("a.test", origin.port()).start();
    let port = origin.port();
    let mut client = Raw::open(gate.http);
    client.send(format!(
        "GET http://A.TEST.:0{port}/ HTTP/1.1\r\nHost: a.Test:{port}\r\n\r\n"
    ));
    let response = client.response();
    // A leading zero makes six digits of a five-digit port.
    assert_eq!(response.denied(), "malformed");
    let mut client = Raw::open(gate.http);
    client.send(format!(
        "GET http://A.TEST.:{port}/ HTTP/1.1\r\nHost: a.Test:{port}\r\n\r\n"
    ));
    assert_eq!(
        client.response().text(),
        format!("GET / HTTP/1.1\r\nhost: a.test:{port}\r\n\r\n")
    );
}

fn get(target: &str, fields: &str) -> String {
    format!("GET {target} HTTP/1.1\r\n{fields}\r\n\r\n")
}

fn to(authority: &str, field: &str) -> String {
    get(
        &format!("http://{authority}/"),
        &format!("Host: {authority}\r\n{field}"),
    )
}

/// What is odd, and the request.
fn odd_requests(a: &str) -> Vec<(&'static str, String)> {
    [odd_targets(a), odd_fields(a), odd_connects(a)].concat()
}

fn odd_targets(a: &str) -> Vec<(&'static str, String)> {
    vec![
        ("origin-form", get("/", &format!("Host: {a}"))),
        (
            "asterisk-form",
            format!("OPTIONS * HTTP/1.1\r\nHost: {a}\r\n\r\n"),
        ),
        ("https", get("https://a.test/", "Host: a.test")),
        (
            "user information",
            get(&format!("http://u:p@{a}/"), &format!("Host: {a}")),
        ),
        (
            "user information of a host",
            get(&format!("http://{a}@denied.test/"), "Host: denied.test"),
        ),
        (
            "fragment",
            get(&format!("http://{a}/#x"), &format!("Host: {a}")),
        ),
        (
            "fragment in the host",
            get(&format!("http://{a}#.denied.test/"), &format!("Host: {a}")),
        ),
        ("percent", get("http://a%2etest/", "Host: a%2etest")),
        (
            "backslash",
            get("http://a.test\\@denied.test/", "Host: a.test"),
        ),
        ("NUL", get("http://a.test\0.denied.test/", "Host: a.test")),
        (
            "other host",
            get(&format!("http://{a}/"), "Host: denied.test"),
        ),
        ("other port", get(&format!("http://{a}/"), "Host: a.test")),
    ]
}

fn odd_fields(a: &str) -> Vec<(&'static str, String)> {
    let to_a = |field: &str| to(a, field);
    vec![
        ("no host", format!("GET http://{a}/ HTTP/1.1\r\n\r\n")),
        ("two hosts", to_a(&format!("Host: {a}"))),
        (
            "both framings",
            to_a("Content-Length: 1\r\nTransfer-Encoding: chunked"),
        ),
        (
            "both framings, other order",
            to_a("Transfer-Encoding: chunked\r\nContent-Length: 1"),
        ),
        (
            "two lengths",
            to_a("Content-Length: 1\r\nContent-Length: 1"),
        ),
        ("a list of lengths", to_a("Content-Length: 1, 1")),
        ("unknown coding", to_a("Transfer-Encoding: gzip, chunked")),
        ("folded field", to_a("X: a\r\n b")),
        ("space before colon", to_a("X : a")),
        ("bare LF", to_a("X: a").replace("\r\n", "\n")),
        ("NUL in a field", to_a("X: a\0b")),
        (
            "protected field named",
            to_a("Connection: close, Authorization"),
        ),
        ("host named", to_a("Connection: Host")),
        ("TRACE", to_a("X: a").replacen("GET", "TRACE", 1)),
        ("small letters", to_a("X: a").replacen("GET", "get", 1)),
        ("unknown method", to_a("X: a").replacen("GET", "BREW", 1)),
        (
            "HTTP/2 preface",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        ),
        ("TLS on the proxy port", "\u{16}\u{3}\u{1}".to_owned()),
        ("SOCKS5 on the proxy port", "\u{5}\u{1}\0".to_owned()),
        ("empty host", get("http://:80/", "Host: :80")),
        (
            "long label",
            get(
                &format!("http://{}.a.test/", "x".repeat(64)),
                "Host: a.test",
            ),
        ),
    ]
}

fn odd_connects(a: &str) -> Vec<(&'static str, String)> {
    let mut cases = vec![
        (
            "CONNECT with content",
            format!("CONNECT {a} HTTP/1.1\r\nHost: {a}\r\nContent-Length: 1\r\n\r\nx"),
        ),
        (
            "CONNECT to another Host",
            format!("CONNECT {a} HTTP/1.1\r\nHost: denied.test:443\r\n\r\n"),
        ),
    ];
    for target in [
        "a.test",
        "a.test:",
        "a.test:0",
        "a.test:65536",
        "a.test:+443",
        "u@a.test:443",
        "[a.test]:443",
        "a.test:443/",
        "http://a.test:443",
        "2130706433:443",
        "0x7f.1:443",
        "127.1:443",
        "a..test:443",
        "XN--bcher-kva.a.test:443",
        "[fe80::1%25lo]:443",
        "\u{ff41}.test:443",
        "a\u{3002}test:443",
    ] {
        let connect = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
        cases.push(("CONNECT target", connect));
    }
    cases
}
