//! Upstream proxies, where TLS is looked into.

use portcullis::audit::AuditEvent;
use portcullis::policy::{AddressPolicy, DenyReason, NoProxy, ProxyUrl, ResolveNames};
use portcullis::wire::gate::{ProxyAccess, UpstreamProxy};

use crate::client::{H2, Tls};
use crate::proxy::answering;
use crate::scene::{HOST, Scene};
use crate::support::{PLACEHOLDER, VALUE, authorized, bearer, discreet, runtime, with_credential};
use crate::test_gate::GateSpec;
use crate::tls_origin::{CertKind, OriginSpec};
use crate::upstream::Origin;

const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// Everything goes by this proxy; nothing on loopback may be dialed.
fn by(spec: GateSpec, proxy: &Origin) -> GateSpec {
    let access = ProxyAccess {
        url: ProxyUrl::parse(&format!("http://{}", proxy.address)).unwrap(),
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
