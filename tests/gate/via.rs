//! Upstream proxies.

use std::io::{Read, Write};
use std::net::SocketAddr;

use portcullis::audit::AuditEvent;
use portcullis::policy::{AddressPolicy, DenyReason, NoProxy, ProxyUrl, ResolveNames};
use portcullis::wire::gate::{ProxyAccess, UpstreamProxy};

use crate::client::{Raw, a_moment, curl, get};
use crate::proxy::{RealProxy, answering};
use crate::test_gate::{GateSpec, TestGate, spec};
use crate::upstream::Origin;

pub(crate) const ESTABLISHED: &[u8] =
    b"HTTP/1.1 200 Connection established\r\nX-Proxy: secret\r\n\r\n";

pub(crate) fn access(url: &str, resolve: ResolveNames) -> ProxyAccess {
    let mut url = ProxyUrl::parse(url).unwrap();
    ProxyAccess {
        password: url.password.take(),
        url,
        resolve,
    }
}

/// Everything goes by this proxy.
pub(crate) fn by(url: &str, resolve: ResolveNames) -> UpstreamProxy {
    let access = access(url, resolve);
    UpstreamProxy {
        plain: Some(access.clone()),
        tunnels: Some(access),
        no_proxy: Vec::new(),
    }
}

/// A policy that allows loopback nowhere: what arrives there went through the proxy.
pub(crate) fn through(proxy: SocketAddr) -> GateSpec {
    let spec = spec().policy(|policy| policy.addresses = AddressPolicy::default());
    GateSpec {
        upstream: Some(by(&format!("http://{proxy}"), ResolveNames::Proxy)),
        ..spec
    }
}

pub(crate) fn failure(gate: &TestGate) -> (DenyReason, String) {
    let event = gate.audit.wait_for_one("a refusal", |event| {
        matches!(event, AuditEvent::EgressRefused { .. })
    });
    match event {
        AuditEvent::EgressRefused { reason, detail, .. } => (reason, detail),
        other => panic!("{other:?}"),
    }
}

pub(crate) fn vias(gate: &TestGate) -> Vec<Option<String>> {
    let dialed = |event| match event {
        AuditEvent::EgressDialed { via, .. } => Some(via),
        _ => None,
    };
    gate.audit.events().into_iter().filter_map(dialed).collect()
}

#[test]
fn tunnels_go_by_connect_with_the_name_and_are_recorded_with_the_proxy() {
    let origin = Origin::echo_bytes();
    let proxy = answering(ESTABLISHED, origin.address);
    let port = origin.port();
    let gate = through(proxy.address).allow("a.test", &[port]).start();
    let target = format!("a.test:{port}");
    let mut client = Raw::open(gate.http);
    client.connect(&target).send("ping");
    assert_eq!(client.exactly(4), b"ping");
    let asked = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
    assert_eq!(proxy.log.text(), format!("{asked}ping"));
    let mut client = Raw::open(gate.socks);
    assert_eq!(client.socks5("a.test", port), 0);
    let via = Some(proxy.address.to_string());
    assert_eq!(vias(&gate), [via.clone(), via]);
    let lookups = |event: &AuditEvent| matches!(event, AuditEvent::DnsQuery { .. });
    assert!(!gate.audit.events().iter().any(lookups));
}

#[test]
fn what_is_denied_never_reaches_the_proxy_and_nothing_does_before_the_record() {
    let origin = Origin::echo_bytes();
    let proxy = answering(ESTABLISHED, origin.address);
    let gate = through(proxy.address).allow("a.test", &[443]).start();
    assert_eq!(Raw::open(gate.socks).socks5("b.test", 443), 2);
    assert_eq!(Raw::open(gate.socks).socks5("a.test", 444), 2);
    gate.audit.hold();
    let mut client = Raw::open(gate.http);
    client.send("CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n");
    gate.audit
        .wait_for("three decisions", |events| events.len() == 3);
    a_moment();
    assert_eq!(proxy.log.connections(), 0);
    gate.audit.release();
    assert_eq!(client.response().status(), 200);
    assert_eq!(proxy.log.connections(), 1);
}

#[test]
fn refused_addresses_and_names_that_lead_to_them_are_refused_before_the_proxy_is_asked() {
    let proxy = answering(ESTABLISHED, Origin::echo_bytes().address);
    let hosts = [
        ("10.1.2.3", "address_refused"),
        ("169.254.169.254", "address_refused"),
        ("127.0.0.1", "address_refused"),
        ("[::1]", "address_refused"),
        ("[::ffff:10.1.2.3]", "address_refused"),
        ("[64:ff9b::a01:203]", "address_refused"),
        ("localhost", "address_refused"),
        ("LOCALHOST.", "address_refused"),
        ("a.localhost", "address_refused"),
        ("metadata.google.internal", "address_refused"),
    ];
    let spec = hosts
        .iter()
        .fold(through(proxy.address), |spec, (host, _)| {
            spec.allow(host.trim_matches(['[', ']']), &[443])
        });
    let gate = spec
        .allow("intranet", &[443])
        .allow("**.localhost", &[443])
        .start();
    for (host, code) in hosts {
        let target = format!("{host}:443");
        let mut client = Raw::open(gate.http);
        client.send(format!(
            "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n"
        ));
        assert_eq!(client.response().denied(), code, "{host}");
    }
    assert_eq!(proxy.log.connections(), 0);
    Raw::open(gate.http).connect("intranet:443");
    assert_eq!(proxy.log.connections(), 1, "an exact rule names it");
}

#[test]
fn a_login_is_sent_and_stays_out_of_the_records() {
    let origin = Origin::echo_bytes();
    let proxy = answering(ESTABLISHED, origin.address);
    let mut spec = through(proxy.address).allow("a.test", &[443]);
    let url = format!("http://Aladdin:open%20sesame@{}", proxy.address);
    spec.upstream = Some(by(&url, ResolveNames::Proxy));
    let gate = spec.start();
    Raw::open(gate.http).connect("a.test:443");
    let login = "\r\nProxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n";
    assert!(proxy.log.text().contains(login));
    let said = format!("{:?}", gate.audit.events());
    assert!(
        !said.contains("sesame") && !said.contains("Aladdin"),
        "{said}"
    );
}

#[test]
fn a_proxy_that_refuses_or_fails_is_told_apart_and_nothing_of_it_reaches_the_client() {
    for (answer, detail) in [
        (
            &b"HTTP/1.1 407 Login\r\nProxy-Authenticate: Basic realm=\"inner\"\r\n\r\n"[..],
            "answered 407",
        ),
        (b"HTTP/1.0 403 inner\r\n\r\n<p>inner", "answered 403"),
        (b"HTTP/1.1 502 inner\r\n\r\n", "answered 502"),
        (b"HTTP/1.1 101 inner\r\n\r\n", "answered 101"),
        (b"SSH-2.0-inner\r\n\r\n", "does not begin as HTTP does"),
        (b"HTTP/1.1 2oo inner\r\n\r\n", "no status"),
        (b"HTTP/1.1 200 OK\r\nno field\r\n\r\n", "no field"),
        (b"HTTP/1.1 200 OK\n\n", "no answer"),
        (b"", "no answer"),
    ] {
        let proxy = answering(answer, ([127, 0, 0, 1], 1).into());
        let gate = through(proxy.address)
            .allow("a.test", &[443])
            .limits(|limits| limits.dial_seconds = 2)
            .start();
        let mut client = Raw::open(gate.http);
        client.send("CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n");
        let response = client.response();
        assert_eq!(response.status(), 502);
        assert_eq!(response.denied(), "upstream_proxy_failed");
        let told = format!("{}{}", response.head, response.text());
        assert!(!told.contains("inner"), "{told}");
        let (reason, said) = failure(&gate);
        assert_eq!(reason, DenyReason::UpstreamProxyFailed);
        assert!(said.contains(detail), "{said}");
        assert!(!said.contains("inner"), "{said}");
        assert_eq!(vias(&gate), []);
    }
}

#[test]
fn a_proxy_that_is_slow_endless_or_gone_is_given_up() {
    let slow = Origin::raw(|mut client| client.read_to_end(&mut Vec::new()).map(drop));
    let endless = Origin::raw(|mut client| {
        client.write_all(b"HTTP/1.1 200 OK\r\n")?;
        loop {
            client.write_all(b"X-More: and more\r\n")?;
        }
    });
    let gone = {
        let closed_again = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        closed_again.local_addr().unwrap()
    };
    for (proxy, detail) in [
        (slow.address, "no answer"),
        (endless.address, "longer than 8 KiB"),
        (gone, "refused"),
    ] {
        let gate = through(proxy)
            .allow("a.test", &[443])
            .limits(|limits| limits.dial_seconds = 2)
            .start();
        let reply = Raw::open(gate.socks).socks5("a.test", 443);
        assert_eq!(reply, 1);
        let (reason, said) = failure(&gate);
        assert_eq!(reason, DenyReason::UpstreamProxyFailed);
        assert!(said.contains(detail), "{said}");
    }
}

#[test]
fn bytes_right_behind_the_answer_belong_to_the_tunnel() {
    let origin = Origin::echo_bytes();
    let proxy = answering(b"HTTP/1.1 200 OK\r\n\r\nhello\r\n\r\n", origin.address);
    let gate = through(proxy.address).allow("a.test", &[22]).start();
    let mut client = Raw::open(gate.socks);
    assert_eq!(client.socks5("a.test", 22), 0);
    assert_eq!(client.exactly(9), b"hello\r\n\r\n");
    client.send("up");
    assert_eq!(client.exactly(2), b"up");
}

#[test]
fn what_no_proxy_names_and_this_hosts_loopback_are_dialed_directly() {
    let origin = Origin::echo_bytes();
    let proxy = answering(ESTABLISHED, origin.address);
    let port = origin.port();
    let mut spec = spec()
        .allow("a.direct.test", &[port])
        .allow("a.test", &[port])
        .allow("localhost", &[port])
        .allow("127.0.0.1", &[port])
        .host("a.direct.test", "127.0.0.1")
        .host("localhost", "127.0.0.1");
    let mut upstream = by(&format!("http://{}", proxy.address), ResolveNames::Proxy);
    upstream.no_proxy = vec![NoProxy::parse(&format!("direct.test:{port}")).unwrap()];
    spec.upstream = Some(upstream);
    let gate = spec.start();
    for host in ["a.direct.test", "localhost"] {
        assert_eq!(Raw::open(gate.socks).socks5(host, port), 0, "{host}");
    }
    Raw::open(gate.http).connect(&format!("127.0.0.1:{port}"));
    assert_eq!(proxy.log.connections(), 0);
    assert_eq!(Raw::open(gate.socks).socks5("a.test", port), 0);
    assert_eq!(proxy.log.connections(), 1);
    let via = Some(proxy.address.to_string());
    assert_eq!(vias(&gate), [None, None, None, via]);
}

#[test]
fn a_proxy_for_one_kind_leaves_the_other_alone() {
    let origin = Origin::echo();
    let proxy = answering(ESTABLISHED, origin.address);
    let mut spec = spec()
        .allow("a.test", &[origin.port()])
        .host("a.test", "127.0.0.1");
    let url = format!("http://{}", proxy.address);
    spec.upstream = Some(UpstreamProxy {
        plain: None,
        tunnels: Some(access(&url, ResolveNames::Proxy)),
        no_proxy: Vec::new(),
    });
    let gate = spec.start();
    let authority = format!("a.test:{}", origin.port());
    assert_eq!(get(gate.http, &authority, "/").status(), 200);
    assert_eq!(proxy.log.connections(), 0);
    Raw::open(gate.http).connect(&authority);
    assert_eq!(proxy.log.connections(), 1);
}

#[test]
fn names_that_the_gate_resolves_are_checked_and_the_proxy_gets_the_address_checked() {
    let origin = Origin::echo_bytes();
    let proxy = answering(ESTABLISHED, origin.address);
    let mut spec = through(proxy.address)
        .allow("public.test", &[443])
        .allow("private.test", &[443])
        .host("public.test", "1.2.3.4")
        .host("private.test", "10.1.2.3");
    let url = format!("http://{}", proxy.address);
    spec.upstream = Some(by(&url, ResolveNames::Local));
    let gate = spec.start();
    assert_eq!(Raw::open(gate.socks).socks5("private.test", 443), 2);
    assert_eq!(proxy.log.connections(), 0);
    assert_eq!(Raw::open(gate.socks).socks5("public.test", 443), 0);
    assert!(proxy.log.text().starts_with("CONNECT 1.2.3.4:443 "));
}

#[test]
fn a_proxys_name_may_lead_into_a_private_network_but_not_to_loopback() {
    let proxy = answering(ESTABLISHED, Origin::echo_bytes().address);
    let port = proxy.port();
    for (name, reply) in [("proxy.test", 1), ("localhost", 0)] {
        let mut spec = through(proxy.address)
            .allow("a.test", &[443])
            .host(name, "127.0.0.1");
        spec.upstream = Some(by(&format!("http://{name}:{port}"), ResolveNames::Proxy));
        let gate = spec.start();
        assert_eq!(Raw::open(gate.socks).socks5("a.test", 443), reply, "{name}");
    }
    assert_eq!(proxy.log.connections(), 1);
}

/// As many bytes as make the relay splice.
const LARGE: usize = 8 << 20;

pub(crate) fn large_transfer(gate: &TestGate, port: u16) {
    let mut client = Raw::open(gate.socks);
    assert_eq!(client.socks5("a.test", port), 0);
    // Piece by piece: a proxy that writes one way without reading the other, as microsocks, stands still
    // when more is under way than the sockets have room for.
    let piece: Vec<u8> = (0..=250).cycle().take(256 << 10).collect();
    for _ in 0..LARGE / piece.len() {
        client.0.write_all(&piece).unwrap();
        assert!(client.exactly(piece.len()) == piece);
    }
}

#[test]
fn tinyproxy_leads_out_with_and_without_a_login() {
    let (origin, web) = (Origin::echo_bytes(), Origin::echo());
    for login in [None, Some(("ada", "s3cret"))] {
        let proxy = RealProxy::tinyproxy(&["a.test"], login);
        let mut spec = through(proxy.address).allow("a.test", &[origin.port(), web.port()]);
        if login.is_some() {
            let gate = spec.start();
            assert_eq!(Raw::open(gate.socks).socks5("a.test", origin.port()), 1);
            assert!(failure(&gate).1.contains("answered 407"));
            spec = through(proxy.address).allow("a.test", &[origin.port(), web.port()]);
            let url = format!("http://ada:s3cret@{}", proxy.address);
            spec.upstream = Some(by(&url, ResolveNames::Proxy));
        }
        let gate = spec.start();
        large_transfer(&gate, origin.port());
        let (http, url) = (
            format!("http://{}", gate.http),
            format!("http://a.test:{}/t", web.port()),
        );
        let (status, text) = curl(&["--proxy", &http, &url]);
        assert_eq!((status, text.as_str()), (Some(0), "GET /t HTTP/1.1"));
    }
}

#[test]
fn microsocks_leads_out_with_and_without_a_login_by_name_and_by_address() {
    let origin = Origin::echo_bytes();
    for (login, url) in [
        (None, "socks5h://"),
        (Some(("ada", "s3cret")), "socks5h://ada:s3cret@"),
        (Some(("ada", "s3cret")), "socks5h://ada:wrong@"),
        (Some(("ada", "s3cret")), "socks5h://"),
    ] {
        let proxy = RealProxy::microsocks(&["a.test"], login);
        let mut spec = through(proxy.address).allow("a.test", &[origin.port(), 1]);
        let url = format!("{url}{}", proxy.address);
        spec.upstream = Some(by(&url, ResolveNames::Proxy));
        let gate = spec.start();
        if login.is_none() || url.contains("s3cret") {
            large_transfer(&gate, origin.port());
            assert_eq!(Raw::open(gate.socks).socks5("a.test", 1), 1);
            let (_, said) = failure(&gate);
            assert!(said.contains("the destination refuses"), "{said}");
        } else {
            assert_eq!(Raw::open(gate.socks).socks5("a.test", origin.port()), 1);
            assert_eq!(failure(&gate).0, DenyReason::UpstreamProxyFailed);
        }
    }
}
