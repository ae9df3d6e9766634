//! Upstream proxies, where TLS is looked into.

use std::io::Read;

use portcullis::audit::AuditEvent;
use portcullis::policy::{AddressPolicy, DenyReason, NoProxy, ProxyUrl, ResolveNames};
use portcullis::wire::gate::{ProxyAccess, UpstreamProxy};

use crate::client::{H2, Tls};
use crate::proxy::answering;
use crate::scene::{HOST, Scene};
use crate::support::{
    PLACEHOLDER, VALUE, authorized, bearer, discreet, frame, runtime, websocket, with_credential,
};
use crate::test_gate::GateSpec;
use crate::tls_origin::{BIG, CertKind, OriginSpec};
use crate::tls_proxy::TlsFront;
use crate::upstream::Origin;

const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// Everything goes by this proxy; nothing on loopback may be dialed.
fn by(spec: GateSpec, proxy: &Origin) -> GateSpec {
    by_url(spec, &format!("http://{}", proxy.address))
}

fn by_url(spec: GateSpec, url: &str) -> GateSpec {
    let access = ProxyAccess {
        url: ProxyUrl::parse(url).unwrap(),
        password: None,
        resolve: ResolveNames::Proxy,
    };
    let spec = spec.policy(|policy| policy.addresses = AddressPolicy::default());
    GateSpec {
        upstream: Some(UpstreamProxy {
            plain: Some(access.clone()),
            tunnels: Some(access),
            no_proxy: Vec::new(),
        }),
        ..spec
    }
}

/// A scene whose proxy answers this; the proxy is there before the scene, so it is told the origin's port.
fn scene(origin: OriginSpec, answer: &'static [u8]) -> (Scene, Origin) {
    let mut proxy = None;
    let scene = Scene::before(origin, |spec| {
        let port = spec.policy.rules[0].ports[0].number();
        let made = answering(answer, ([127, 0, 0, 1], port).into());
        let spec = by(with_credential(spec), &made);
        proxy = Some(made);
        spec
    });
    (scene, proxy.unwrap())
}

fn vias(scene: &Scene) -> Vec<Option<String>> {
    let dialed = |event| match event {
        AuditEvent::EgressDialed { via, .. } => Some(via),
        _ => None,
    };
    let events = scene.gate.audit.events().into_iter();
    events.filter_map(dialed).collect()
}

#[test]
fn inner_requests_go_by_the_proxy_inside_tls_and_it_sees_neither_them_nor_credentials() {
    for alpn in [&["http/1.1"][..], &["h2"]] {
        let (scene, proxy) = scene(discreet().alpn(alpn), ESTABLISHED);
        let mut tls = Tls::open(&scene);
        assert_eq!(proxy.log.connections(), 0, "the tunnel alone dials nothing");
        assert_eq!(tls.ask("GET /v1", HOST, &bearer()).status(), 200);
        let runtime = runtime();
        let mut h2 = runtime.block_on(H2::open(&scene));
        let authorization = format!("Bearer {PLACEHOLDER}");
        let with = |request: hyper::http::request::Builder| {
            request.header("authorization", &authorization)
        };
        assert_eq!(runtime.block_on(h2.ask("/v2", with, "")).0, 200);
        let value = Some(format!("Bearer {VALUE}"));
        assert_eq!(authorized(&scene), [value.clone(), value], "{alpn:?}");
        let told = proxy.log.text();
        let target = scene.target();
        let connect = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
        assert!(told.starts_with(&connect), "{told}");
        for secret in [VALUE, PLACEHOLDER, "/v1", "/v2", "uthorization"] {
            assert!(!told.contains(secret), "{secret}");
        }
        let via = Some(proxy.address.to_string());
        assert!(vias(&scene).iter().all(|found| *found == via));
        let lookups = |event: &AuditEvent| matches!(event, AuditEvent::DnsQuery { .. });
        assert!(!scene.gate.audit.events().iter().any(lookups));
    }
}

#[test]
fn a_certificate_is_held_to_the_hosts_authorities_behind_a_proxy_too() {
    for cert in [CertKind::SelfSigned, CertKind::WrongName, CertKind::Expired] {
        let (scene, proxy) = scene(OriginSpec::new(HOST).cert(cert), ESTABLISHED);
        let refused = Tls::open(&scene).ask("GET /", HOST, &bearer());
        let expected = (502, "certificate_refused".to_owned());
        assert_eq!(refused.denied(), expected, "{cert:?}");
        assert!(scene.origin.seen().is_empty());
        assert_eq!(proxy.log.connections(), 1);
    }
}

#[test]
fn a_proxy_that_refuses_is_a_502_for_the_inner_request_and_the_tunnel_goes_on() {
    let answer = b"HTTP/1.1 403 Forbidden\r\nX-Proxy: secret\r\nContent-Length: 0\r\n\r\n";
    let (scene, proxy) = scene(OriginSpec::new(HOST), answer);
    let mut tls = Tls::open(&scene);
    for _ in 0..2 {
        let refused = tls.ask("GET /", HOST, "");
        assert_eq!(refused.denied(), (502, "upstream_proxy_failed".to_owned()));
        assert!(!refused.head.contains("secret"), "{}", refused.head);
    }
    let (_, reason, detail) = scene.refusal();
    assert_eq!(reason, DenyReason::UpstreamProxyFailed);
    assert!(detail.contains("403"), "{detail}");
    assert_eq!(proxy.log.connections(), 2);
    assert!(scene.origin_is_untouched());
}

#[test]
fn a_host_that_no_proxy_names_is_dialed_directly_and_verified_the_same() {
    let unused = Origin::echo();
    let scene = Scene::with(|spec| {
        let addresses = spec.policy.addresses.clone();
        let mut spec = by(spec, &unused).policy(|policy| policy.addresses = addresses);
        let upstream = spec.upstream.as_mut().unwrap();
        upstream.no_proxy = vec![NoProxy::parse(HOST).unwrap()];
        spec
    });
    assert_eq!(Tls::open(&scene).ask("GET /", HOST, "").status(), 200);
    assert_eq!((vias(&scene), unused.log.connections()), (vec![None], 0));
}

/// A scene whose proxy is spoken to by TLS, for `name`.
fn by_tls(origin: OriginSpec, name: &str) -> (Scene, Origin, TlsFront) {
    let mut made = None;
    let scene = Scene::before(origin, |spec| {
        let port = spec.policy.rules[0].ports[0].number();
        let proxy = answering(ESTABLISHED, ([127, 0, 0, 1], port).into());
        let front = TlsFront::new(name, proxy.address);
        let mut spec = by_url(with_credential(spec), &format!("https://{}", front.address));
        spec.roots.push_str(&front.ca);
        made = Some((proxy, front));
        spec
    });
    let (proxy, front) = made.unwrap();
    (scene, proxy, front)
}

#[test]
fn inner_requests_go_in_tls_to_their_origin_inside_tls_to_the_proxy() {
    for alpn in [&["http/1.1"][..], &["h2"]] {
        let (scene, proxy, front) = by_tls(discreet().alpn(alpn), "127.0.0.1");
        let mut tls = Tls::open(&scene);
        assert_eq!(front.hellos(), [], "the tunnel alone dials nothing");
        for path in ["GET /v1", "GET /v2"] {
            assert_eq!(tls.ask(path, HOST, &bearer()).status(), 200);
        }
        let value = Some(format!("Bearer {VALUE}"));
        assert_eq!(authorized(&scene), [value.clone(), value], "{alpn:?}");
        assert_eq!(front.hellos().len(), 1, "one connection for both");
        assert_eq!(
            scene.origin.hellos(),
            [(HOST.to_owned(), alpn[0].to_owned())]
        );
        let told = proxy.log.text();
        let target = scene.target();
        let connect = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
        assert!(told.starts_with(&connect), "{told}");
        for secret in [VALUE, PLACEHOLDER, "/v1", "/v2", "uthorization"] {
            assert!(!told.contains(secret), "{secret}");
        }
        assert_eq!(vias(&scene), [Some(front.address.to_string())]);
    }
}

#[test]
fn much_and_websockets_pass_through_both_layers_of_tls() {
    for alpn in [&["http/1.1"][..], &["h2", "http/1.1"]] {
        let (scene, _proxy, _front) = by_tls(OriginSpec::new(HOST).alpn(alpn), "127.0.0.1");
        let big = Tls::open(&scene).ask("GET /big", HOST, "");
        assert_eq!((big.status(), big.body.len()), (200, BIG), "{alpn:?}");
        let mut open = websocket(&scene);
        open.send(frame(b"ping"));
        let mut echo = [0; 6];
        open.0.read_exact(&mut echo).unwrap();
        assert_eq!(&echo, b"\x82\x04ping");
    }
}

#[test]
fn neither_the_proxys_certificate_nor_the_origins_stands_for_the_other() {
    let (scene, _proxy, front) = by_tls(OriginSpec::new(HOST), "other.test");
    let refused = Tls::open(&scene).ask("GET /", HOST, &bearer());
    assert_eq!(refused.denied(), (502, "upstream_proxy_failed".to_owned()));
    let (_, reason, detail) = scene.refusal();
    assert_eq!(reason, DenyReason::UpstreamProxyFailed);
    assert!(
        detail.ends_with("its certificate is refused: wrong_name"),
        "{detail}"
    );
    assert!(scene.origin_is_untouched() && front.hellos().is_empty());

    let (scene, _proxy, front) =
        by_tls(OriginSpec::new(HOST).cert(CertKind::WrongName), "127.0.0.1");
    let refused = Tls::open(&scene).ask("GET /", HOST, &bearer());
    assert_eq!(refused.denied(), (502, "certificate_refused".to_owned()));
    assert_eq!((scene.origin.seen().len(), front.hellos().len()), (0, 1));
}
