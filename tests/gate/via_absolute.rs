//! Plain requests by way of an HTTP proxy: it gets them as they are, in absolute-form.

use std::io::{Read, Write};

use portcullis::audit::AuditEvent;
use portcullis::policy::{DenyReason, ResolveNames};
use portcullis::wire::gate::UpstreamProxy;

use crate::client::{Raw, get};
use crate::proxy::{answering, forwarding};
use crate::test_gate::TestGate;
use crate::upstream::Origin;
use crate::via::{ESTABLISHED, access, by, failure, through, vias};

const LOGIN: &str = "Proxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==";

fn closed(gate: &TestGate, count: usize) {
    gate.audit.wait_for("ends", |events| {
        let ends = |event: &&AuditEvent| matches!(event, AuditEvent::EgressClosed { .. });
        events.iter().filter(ends).count() == count
    });
}

#[test]
fn a_plain_request_goes_in_absolute_form_with_the_permits_host_and_a_kept_connection_is_used_again()
{
    let proxy = forwarding(None);
    let gate = through(proxy.address).allow("a.test", &[80, 8080]).start();
    let mut client = Raw::open(gate.http);
    let mut ask = |url: &str, host: &str| {
        client.send(format!(
            "GET {url} HTTP/1.1\r\nHost: {host}\r\nX: y\r\nProxy-Connection: keep-alive\r\n\r\n"
        ));
        client.response().text().to_lowercase()
    };
    for _ in 0..2 {
        assert_eq!(
            ask("http://A.test/x?y=z", "a.test"),
            "get http://a.test/x?y=z http/1.1\r\nx: y\r\nhost: a.test\r\n\r\n"
        );
        assert_eq!(proxy.log.connections(), 1);
    }
    assert_eq!(
        ask("http://a.test:8080/", "a.test:8080"),
        "get http://a.test:8080/ http/1.1\r\nx: y\r\nhost: a.test:8080\r\n\r\n"
    );
    assert_eq!(proxy.log.connections(), 2, "each destination has its own");
    let via = Some(proxy.address.to_string());
    assert_eq!(vias(&gate), [via.clone(), via]);
    let lookups = |event: &AuditEvent| matches!(event, AuditEvent::DnsQuery { .. });
    assert!(!gate.audit.events().iter().any(lookups));
}

#[test]
fn the_proxys_login_goes_to_the_proxy_alone_and_the_clients_own_goes_nowhere() {
    let (proxy, origin) = (
        forwarding(Some("QWxhZGRpbjpvcGVuIHNlc2FtZQ==")),
        forwarding(None),
    );
    let mut spec = through(proxy.address)
        .allow("a.test", &[80])
        .allow("127.0.0.1", &[origin.port()])
        .policy(|policy| policy.addresses.allow = vec!["127.0.0.1/32".parse().unwrap()]);
    let url = format!("http://Aladdin:open%20sesame@{}", proxy.address);
    spec.upstream = Some(by(&url, ResolveNames::Proxy));
    let gate = spec.start();
    let with_own = |authority: &str| {
        let mut client = Raw::open(gate.http);
        client.send(format!(
            "GET http://{authority}/ HTTP/1.1\r\nHost: {authority}\r\n\
             Proxy-Authorization: Basic bWluZTptaW5l\r\n\r\n"
        ));
        client.response().text()
    };
    let by_proxy = with_own("a.test").to_lowercase();
    assert!(by_proxy.contains(&LOGIN.to_lowercase()), "{by_proxy}");
    assert!(!by_proxy.contains("bwluztptaw5l"), "{by_proxy}");
    let direct = with_own(&format!("127.0.0.1:{}", origin.port()));
    assert!(direct.starts_with("GET / HTTP/1.1\r\n"), "{direct}");
    assert!(!direct.to_lowercase().contains("proxy-auth"), "{direct}");
    let said = format!("{:?}", gate.audit.events());
    assert!(!said.contains("sesame") && !said.contains("QWxh"), "{said}");
}

#[test]
fn a_proxy_that_wants_a_login_is_a_failure_and_its_challenge_stays_outside() {
    let proxy = forwarding(Some("nobody has this"));
    let gate = through(proxy.address).allow("a.test", &[80]).start();
    let response = get(gate.http, "a.test", "/");
    assert_eq!(response.status(), 502);
    assert_eq!(response.denied(), "upstream_proxy_failed");
    let told = format!("{}{}", response.head, response.text());
    assert!(!told.contains("inner"), "{told}");
    let (reason, said) = failure(&gate);
    assert_eq!(reason, DenyReason::UpstreamProxyFailed);
    assert!(said.contains("answered 407"), "{said}");
    closed(&gate, 1);
}

#[test]
fn what_is_denied_or_leads_to_a_refused_address_never_reaches_the_proxy() {
    let proxy = forwarding(None);
    let gate = through(proxy.address)
        .allow("a.test", &[80])
        .allow("localhost", &[80])
        .allow("10.1.2.3", &[80])
        .allow("**.internal", &[80])
        .start();
    for (host, code) in [
        ("b.test", "host_not_allowed"),
        ("localhost", "address_refused"),
        ("10.1.2.3", "address_refused"),
        ("metadata.google.internal", "address_refused"),
    ] {
        assert_eq!(get(gate.http, host, "/").denied(), code, "{host}");
    }
    gate.audit.hold();
    let mut client = Raw::open(gate.http);
    client.send("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n");
    gate.audit.wait_for("the decision", |events| {
        let decided = |event: &&AuditEvent| matches!(event, AuditEvent::EgressDecided { .. });
        events.iter().filter(decided).count() == 5
    });
    assert_eq!(proxy.log.connections(), 0);
    gate.audit.release();
    assert_eq!(client.response().status(), 200);
    assert_eq!(proxy.log.connections(), 1);
}

#[test]
fn names_that_the_gate_resolves_and_proxies_of_socks_go_by_a_tunnel_so_that_the_origin_hears_its_name()
 {
    let origin = Origin::http(|head, _| crate::upstream::ok(head));
    let proxy = answering(ESTABLISHED, origin.address);
    let mut spec = through(proxy.address)
        .allow("public.test", &[80])
        .host("public.test", "1.2.3.4");
    let url = format!("http://{}", proxy.address);
    spec.upstream = Some(by(&url, ResolveNames::Local));
    let gate = spec.start();
    let seen = get(gate.http, "public.test", "/").text();
    assert!(seen.starts_with("GET / HTTP/1.1\r\n"), "{seen}");
    assert!(seen.to_lowercase().contains("\r\nhost: public.test\r\n"));
    assert!(proxy.log.text().starts_with("CONNECT 1.2.3.4:80 "));
}

#[test]
fn a_websocket_keeps_to_a_tunnel() {
    let origin = Origin::raw(|mut stream| {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        // RFC 6455 section 1.3, for the key below.
        stream.write_all(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
              Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nhello",
        )
    });
    let proxy = answering(ESTABLISHED, origin.address);
    let mut spec = through(proxy.address).allow("a.test", &[80]);
    let access = access(
        &format!("http://u:p@{}", proxy.address),
        ResolveNames::Proxy,
    );
    spec.upstream = Some(UpstreamProxy {
        plain: Some(access),
        tunnels: None,
        no_proxy: Vec::new(),
    });
    let gate = spec.start();
    let mut client = Raw::open(gate.http);
    client.send(
        "GET http://a.test/ws HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    let response = client.response();
    assert_eq!(response.status(), 101, "{}", response.head);
    assert_eq!(client.exactly(5), b"hello");
    let told = proxy.log.text();
    assert!(told.starts_with("CONNECT a.test:80 HTTP/1.1\r\n"), "{told}");
    let inner = told.split_once("\r\n\r\n").unwrap().1;
    assert!(inner.starts_with("GET /ws HTTP/1.1\r\n"), "{inner}");
    assert!(!inner.to_lowercase().contains("proxy-auth"), "{inner}");
}
