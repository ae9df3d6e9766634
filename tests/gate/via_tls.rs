//! Upstream proxies that are spoken to by TLS.

use std::io::{Read, Write};
use std::thread;

use portcullis::audit::{AuditEvent, EndedBy};
use portcullis::policy::{Budgets, DenyReason, NoProxy, ResolveNames};
use portcullis::wire::gate::{GateCommand, GateReply};

use crate::client::{Raw, get};
use crate::proxy::{RealProxy, answering, forwarding};
use crate::test_gate::{GateSpec, TestGate, failure_of};
use crate::tls_origin::CertKind;
use crate::tls_proxy::{TlsFront, squid};
use crate::upstream::{Origin, ok};
use crate::via::{ESTABLISHED, by, failure, large_transfer, through, vias};

/// What the proxy's certificate is for.
const NAME: &str = "proxy.test";

/// Everything goes by `https://[login@]proxy.test:port`, which is held to this authority.
fn by_tls(login: &str, port: u16, ca: &str) -> GateSpec {
    // Named as an address to the guards: a proxy's name may not lead to loopback.
    let mut spec = through(([127, 0, 0, 1], 1).into())
        .host(NAME, "127.0.0.1")
        .policy(|policy| policy.addresses.allow = vec!["127.0.0.1/32".parse().unwrap()]);
    let url = format!("https://{login}{NAME}:{port}");
    spec.upstream = Some(by(&url, ResolveNames::Proxy));
    ca.clone_into(&mut spec.roots);
    spec
}

fn front(to: &Origin) -> (TlsFront, GateSpec) {
    let front = TlsFront::new(NAME, to.address);
    let spec = by_tls("", front.port(), &front.ca);
    (front, spec)
}

/// What was counted up and down of everything that ended, and who ended it, once there are so many.
fn ends(gate: &TestGate, count: usize) -> Vec<(u64, u64, EndedBy)> {
    let of = |event: &AuditEvent| match event {
        AuditEvent::EgressClosed {
            bytes_up,
            bytes_down,
            ended_by,
            ..
        } => Some((*bytes_up, *bytes_down, *ended_by)),
        _ => None,
    };
    let events = gate.audit.wait_for("ends", |events| {
        events.iter().filter_map(of).count() >= count
    });
    events.iter().filter_map(of).collect()
}

#[test]
fn tunnels_go_by_connect_inside_tls_for_the_proxys_name_and_http_1_1_alone() {
    let origin = Origin::echo_bytes();
    let proxy = answering(ESTABLISHED, origin.address);
    let (front, spec) = front(&proxy);
    let gate = spec.allow("a.test", &[22]).start();
    let mut client = Raw::open(gate.http);
    client.connect("a.test:22").send("ping");
    assert_eq!(client.exactly(4), b"ping");
    let asked = "CONNECT a.test:22 HTTP/1.1\r\nHost: a.test:22\r\n\r\nping";
    assert_eq!(proxy.log.text(), asked);
    assert_eq!(Raw::open(gate.socks).socks5("a.test", 22), 0);
    let hello = (NAME.to_owned(), "http/1.1".to_owned());
    assert_eq!(front.hellos(), [hello.clone(), hello]);
    let via = Some(format!("{NAME}:{}", front.port()));
    assert_eq!(vias(&gate), [via.clone(), via]);
}

#[test]
fn bytes_right_behind_the_answer_belong_to_the_tunnel_and_either_side_may_finish_first() {
    let origin = Origin::echo_bytes();
    let answer = b"HTTP/1.1 200 OK\r\n\r\nhello\r\n\r\n";
    let proxy = answering(answer, origin.address);
    let (_front, spec) = front(&proxy);
    let gate = spec.allow("a.test", &[22]).start();
    let mut client = Raw::open(gate.socks);
    assert_eq!(client.socks5("a.test", 22), 0);
    assert_eq!(client.exactly(9), b"hello\r\n\r\n");
    client.send("up").finish();
    assert_eq!(client.rest(), b"up", "what was under way still comes");
    assert_eq!(ends(&gate, 1), [(2, 11, EndedBy::Client)]);

    let short = Origin::raw(|mut stream| {
        stream.write_all(b"bye")?;
        stream.stream.shutdown(std::net::Shutdown::Write)?;
        stream.read_to_end(&mut Vec::new()).map(drop)
    });
    let proxy = answering(ESTABLISHED, short.address);
    let (_front, spec) = front(&proxy);
    let gate = spec.allow("a.test", &[22]).start();
    let mut client = Raw::open(gate.socks);
    assert_eq!(client.socks5("a.test", 22), 0);
    assert_eq!(client.rest(), b"bye");
    client.send("late").finish();
    assert_eq!(ends(&gate, 1), [(4, 3, EndedBy::Upstream)]);
}

#[test]
fn a_login_and_plain_requests_in_absolute_form_go_inside_tls() {
    let proxy = forwarding(Some("QWxhZGRpbjpvcGVuIHNlc2FtZQ=="));
    let front = TlsFront::new(NAME, proxy.address);
    let login = "Aladdin:open%20sesame@";
    let gate = by_tls(login, front.port(), &front.ca)
        .allow("a.test", &[80])
        .start();
    for _ in 0..2 {
        let seen = get(gate.http, "a.test", "/x").text();
        assert!(
            seen.starts_with("GET http://a.test/x HTTP/1.1\r\n"),
            "{seen}"
        );
    }
    let said = format!("{:?}", gate.audit.events());
    assert!(!said.contains("sesame") && !said.contains("QWxh"), "{said}");
}

#[test]
fn a_proxy_that_does_not_prove_its_name_gets_nothing_and_the_record_says_why() {
    let proxy = answering(ESTABLISHED, Origin::echo_bytes().address);
    let stranger = TlsFront::new(NAME, proxy.address).ca;
    for (cert, why) in [
        (
            CertKind::WrongName,
            "its certificate is refused: wrong_name",
        ),
        (CertKind::Expired, "its certificate is refused: expired"),
        (
            CertKind::NotYetValid,
            "its certificate is refused: not_yet_valid",
        ),
        (CertKind::SelfSigned, "its certificate is refused: "),
        (CertKind::Good, "its certificate is refused: bad_signature"),
    ] {
        let front = TlsFront::with(NAME, cert, proxy.address);
        let ca = if cert == CertKind::Good {
            &stranger
        } else {
            &front.ca
        };
        let gate = by_tls("ada:s3cret@", front.port(), ca)
            .allow("a.test", &[80, 443])
            .start();
        let mut client = Raw::open(gate.http);
        client.send("CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n");
        let response = client.response();
        assert_eq!(response.status(), 502, "{cert:?}");
        assert_eq!(response.denied(), "upstream_proxy_failed");
        let (reason, said) = failure(&gate);
        assert_eq!(reason, DenyReason::UpstreamProxyFailed);
        let start = format!("the upstream proxy {NAME}:{}: {why}", front.port());
        assert!(said.starts_with(&start), "{said}");
        assert_eq!(
            get(gate.http, "a.test", "/").denied(),
            "upstream_proxy_failed"
        );
        assert_eq!((front.hellos(), vias(&gate)), (vec![], vec![]), "{cert:?}");
    }
    assert_eq!(proxy.log.raw_bytes(), 0);
}

#[test]
fn an_address_is_verified_as_an_address() {
    let origin = Origin::echo_bytes();
    let proxy = answering(ESTABLISHED, origin.address);
    for (of, reply) in [("127.0.0.1", 0), ("127.0.0.2", 1), (NAME, 1)] {
        let front = TlsFront::new(of, proxy.address);
        let mut spec = by_tls("", front.port(), &front.ca).allow("a.test", &[22]);
        let url = format!("https://{}", front.address);
        spec.upstream = Some(by(&url, ResolveNames::Proxy));
        let gate = spec.start();
        assert_eq!(Raw::open(gate.socks).socks5("a.test", 22), reply, "{of}");
    }
}

#[test]
fn a_proxy_without_tls_or_without_an_answer_is_never_spoken_to_in_the_clear() {
    let plain = Origin::raw(|mut client| {
        client.read_exact(&mut [0])?;
        client.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    });
    let silent = Origin::raw(|mut client| client.read_to_end(&mut Vec::new()).map(drop));
    let ca = TlsFront::new(NAME, plain.address).ca;
    for (proxy, why) in [(&plain, "the TLS handshake failed"), (&silent, "no answer")] {
        let gate = by_tls("ada:s3cret@", proxy.port(), &ca)
            .allow("a.test", &[443])
            .limits(|limits| limits.dial_seconds = 2)
            .start();
        assert_eq!(Raw::open(gate.socks).socks5("a.test", 443), 1);
        let (reason, said) = failure(&gate);
        assert_eq!(reason, DenyReason::UpstreamProxyFailed);
        assert!(said.contains(why), "{said}");
        let told = proxy.log.text();
        assert!(
            !told.contains("CONNECT") && !told.contains("Basic"),
            "{told}"
        );
        assert_eq!(proxy.log.connections(), 1);
    }
}

#[test]
fn without_authorities_there_is_no_gate() {
    let said = failure_of(by_tls("", 1, ""));
    assert!(said.contains("certificate authorities"), "{said}");
}

#[test]
fn no_proxy_is_dialed_directly() {
    let origin = Origin::echo_bytes();
    let proxy = answering(ESTABLISHED, origin.address);
    let (front, spec) = front(&proxy);
    let mut spec = spec
        .allow("a.direct.test", &[origin.port()])
        .allow("a.test", &[origin.port()])
        .host("a.direct.test", "127.0.0.1");
    let upstream = spec.upstream.as_mut().unwrap();
    upstream.no_proxy = vec![NoProxy::parse("direct.test").unwrap()];
    let gate = spec.start();
    for (host, handshakes) in [("a.direct.test", 0), ("a.test", 1)] {
        assert_eq!(Raw::open(gate.socks).socks5(host, origin.port()), 0);
        assert_eq!(front.hellos().len(), handshakes, "{host}");
    }
}

const MEGA: usize = 1 << 20;

fn budgets(toml: &str) -> Budgets {
    toml::from_str(toml).unwrap()
}

#[test]
fn no_more_payload_goes_up_or_down_than_the_budgets_say() {
    let sink = Origin::raw(|mut stream| {
        let mut chunk = vec![0; 64 << 10];
        while stream.read(&mut chunk)? > 0 {}
        Ok(())
    });
    let proxy = answering(ESTABLISHED, sink.address);
    let (_front, spec) = front(&proxy);
    let gate = spec
        .allow("a.test", &[22])
        .policy(|policy| policy.budgets = budgets("bytes_up = { max = '1M', action = 'deny' }"))
        .start();
    let mut client = Raw::open(gate.socks);
    assert_eq!(client.socks5("a.test", 22), 0);
    client.send(vec![b'x'; 10 * MEGA]);
    assert_eq!(client.rest(), b"");
    assert_eq!(ends(&gate, 1), [(MEGA as u64, 0, EndedBy::Budget)]);
    let head = "CONNECT a.test:22 HTTP/1.1\r\nHost: a.test:22\r\n\r\n".len();
    for _ in 0..3000 {
        if proxy.log.raw_bytes() >= head + MEGA {
            break;
        }
        thread::sleep(std::time::Duration::from_millis(10));
    }
    assert_eq!(proxy.log.raw_bytes(), head + MEGA);

    let source = Origin::raw(|mut stream| stream.write_all(&vec![b'y'; 10 * MEGA]));
    let proxy = answering(ESTABLISHED, source.address);
    let (_front, spec) = front(&proxy);
    let gate = spec
        .allow("a.test", &[22])
        .policy(|policy| policy.budgets = budgets("bytes_down = { max = '1M', action = 'deny' }"))
        .start();
    let mut client = Raw::open(gate.socks);
    assert_eq!(client.socks5("a.test", 22), 0);
    assert_eq!(client.rest().len(), MEGA);
    assert_eq!(ends(&gate, 1), [(0, MEGA as u64, EndedBy::Budget)]);
}

#[test]
fn a_tunnel_ends_with_its_permit_and_with_the_clock() {
    let origin = Origin::echo_bytes();
    let proxy = answering(ESTABLISHED, origin.address);
    let (_front, spec) = front(&proxy);
    let narrower = spec.policy.clone();
    let gate = spec.allow("a.test", &[22]).start();
    let mut client = Raw::open(gate.socks);
    assert_eq!(client.socks5("a.test", 22), 0);
    client.send("ping");
    assert_eq!(client.exactly(4), b"ping");
    gate.control()
        .send(&GateCommand::Policy(Box::new(narrower)))
        .unwrap();
    assert!(matches!(gate.reply(), GateReply::Applied(applied) if applied.closed == 1));
    assert_eq!(client.rest(), b"");
    assert_eq!(ends(&gate, 1), [(4, 4, EndedBy::Policy)]);

    let (_front, spec) = front(&proxy);
    let gate = spec
        .allow("a.test", &[22])
        .limits(|limits| limits.idle_seconds = 1)
        .start();
    let mut client = Raw::open(gate.socks);
    assert_eq!(client.socks5("a.test", 22), 0);
    assert_eq!(client.rest(), b"");
    assert_eq!(ends(&gate, 1), [(0, 0, EndedBy::Gate)]);
}

#[test]
fn the_clients_first_bytes_are_held_to_its_server_name_before_any_goes_up() {
    let proxy = answering(ESTABLISHED, Origin::echo_bytes().address);
    let (_front, spec) = front(&proxy);
    let gate = spec.allow("a.test", &[443]).start();
    let mut client = Raw::open(gate.http);
    client
        .connect("a.test:443")
        .send("not a ClientHello at all");
    client.rest();
    let (reason, _) = failure(&gate);
    assert_eq!(reason, DenyReason::NotTls);
    let asked = "CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n";
    assert_eq!(proxy.log.text(), asked);
}

#[test]
fn tinyproxy_behind_tls_leads_out_with_a_login() {
    let (origin, web) = (Origin::echo_bytes(), Origin::echo());
    let proxy = RealProxy::tinyproxy(&["a.test"], Some(("ada", "s3cret")));
    let front = TlsFront::new(NAME, proxy.address);
    let open = |login: &str| {
        by_tls(login, front.port(), &front.ca)
            .allow("a.test", &[origin.port(), web.port()])
            .start()
    };
    let gate = open("ada:s3cret@");
    large_transfer(&gate, origin.port());
    let authority = format!("a.test:{}", web.port());
    assert_eq!(get(gate.http, &authority, "/t").text(), "GET /t HTTP/1.1");
    let gate = open("");
    assert_eq!(Raw::open(gate.socks).socks5("a.test", origin.port()), 1);
    assert!(failure(&gate).1.contains("answered 407"));
    let refused = get(gate.http, &authority, "/t");
    assert_eq!(refused.denied(), "upstream_proxy_failed");
}

#[test]
fn squid_as_it_comes_leads_out_tunnels_to_443_and_plain_requests_to_80() {
    let tls = Origin::raw_443(|mut stream| {
        let mut hello = vec![0; 9];
        stream.read_exact(&mut hello)?;
        stream.write_all(b"hi")
    });
    let web = Origin::raw_at(80, |stream| {
        crate::upstream::serve_http(stream, &|head, _| ok(head))
    });
    let hosts = [("t.test", tls.address), ("w.test", web.address)];
    let (proxy, ca) = squid(NAME, &hosts, Some(("ada", "s3cret")));
    let open = |login: &str| {
        by_tls(login, proxy.address.port(), &ca)
            .allow("t.test", &[22])
            .allow("w.test", &[80])
            .policy(|policy| {
                let port = portcullis::policy::Port::HTTPS;
                policy.rules[0].ports = vec![port];
                policy.rules[0].protocol = portcullis::policy::Protocol::Tcp;
            })
            .start()
    };
    let gate = open("ada:s3cret@");
    let mut client = Raw::open(gate.socks);
    assert_eq!(client.socks5("t.test", 443), 0, "{:?}", gate.audit.events());
    client.send("any bytes");
    assert_eq!(client.exactly(2), b"hi");
    for _ in 0..2 {
        let seen = get(gate.http, "w.test", "/p?q").text();
        assert!(seen.starts_with("GET /p?q HTTP/1.1\r\n"), "{seen}");
        assert!(!seen.to_lowercase().contains("proxy-auth"), "{seen}");
    }
    assert!(!web.log.text().to_lowercase().contains("proxy-auth"));
    // A WebSocket asks for a tunnel, and squid has none to port 80.
    let mut client = Raw::open(gate.http);
    client.send(
        "GET http://w.test/ws HTTP/1.1\r\nHost: w.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    assert_eq!(client.response().denied(), "upstream_proxy_failed");
    let (_, said) = failure(&gate);
    assert!(
        said.ends_with("answered 403 (it refuses the destination)"),
        "{said}"
    );
    let gate = open("ada:wrong@");
    assert_eq!(
        get(gate.http, "w.test", "/").denied(),
        "upstream_proxy_failed"
    );
    assert!(failure(&gate).1.contains("answered 407"));
}
