//! What clients are shown: one leaf a host, under an authority whose key nobody sees.

use portcullis::wire::gate::GateReply;

use crate::client::{Tls, config, connect, run, socks5};
use crate::scene::{HOST, Scene};
use crate::test_gate::{TestGate, spec};

/// What openssl reads from a certificate.
fn shown(pem: &str) -> String {
    let options = [
        "x509",
        "-noout",
        "-text",
        "-certopt",
        "no_pubkey,no_sigdump",
    ];
    run("openssl", &options, pem.as_bytes()).1
}

// D14
#[test]
fn the_authority_is_of_this_session_and_its_key_is_never_sent() {
    let (one, two) = (Scene::new(), Scene::new());
    let (first, second) = (one.authority().to_owned(), two.authority().to_owned());
    assert_ne!(first, second);
    for pem in [&first, &second] {
        assert!(!pem.contains("PRIVATE"), "{pem}");
        assert_eq!(pem.matches("-----BEGIN CERTIFICATE-----").count(), 1);
        let text = shown(pem);
        for expected in [
            "Subject: CN = Portcullis session ",
            "CA:TRUE, pathlen:0",
            "Certificate Sign, CRL Sign",
            "X509v3 Subject Key Identifier",
        ] {
            assert!(text.contains(expected), "no {expected:?} in {text}");
        }
    }
    let whole = serde_json::to_string(&GateReply::Confined {
        authority: Some(first),
    });
    assert!(!whole.unwrap().contains("PRIVATE"));
}

#[test]
fn a_gate_that_looks_into_nothing_has_no_authority() {
    let (gate, _listeners) = TestGate::start_confined(spec());
    assert_eq!(gate.authority, None);
}

#[test]
fn every_host_has_a_leaf_of_its_own_for_exactly_its_name() {
    let scene = Scene::with(|spec| spec.allow("*.b.test", &[443]).allow("127.0.0.9", &[443]));
    let config = config(scene.authority(), &["http/1.1"]);
    let mut serials = Vec::new();
    for (host, name) in [
        ("x.b.test", "DNS:x.b.test"),
        ("y.b.test", "DNS:y.b.test"),
        ("x.b.test", "DNS:x.b.test"),
        ("127.0.0.9", "IP Address:127.0.0.9"),
    ] {
        let stream = connect(scene.gate.http, &format!("{host}:443"));
        let tls = Tls::over(stream, config.clone(), host);
        let leaf = tls.0.conn.peer_certificates().unwrap();
        assert_eq!(leaf.len(), 1);
        let pem = pem(&leaf[0]);
        let text = shown(&pem);
        for expected in [
            name,
            "TLS Web Server Authentication",
            "Digital Signature",
            "X509v3 Authority Key Identifier",
            "X509v3 Subject Key Identifier",
        ] {
            assert!(text.contains(expected), "no {expected:?} in {text}");
        }
        assert_eq!(
            text.matches("DNS:").count() + text.matches("IP Address:").count(),
            1
        );
        let options = ["x509", "-noout", "-serial"];
        serials.push(run("openssl", &options, pem.as_bytes()).1);
    }
    assert_eq!(serials[0], serials[2], "made once");
    assert!(serials[0] != serials[1] && serials[1] != serials[3]);
}

fn pem(der: &[u8]) -> String {
    let options = ["x509", "-inform", "der"];
    run("openssl", &options, der).1
}

// D16
#[test]
fn many_names_under_a_wildcard_are_served_and_the_first_still_is() {
    let scene = Scene::with(|spec| spec.allow("*.b.test", &[443]));
    let config = config(scene.authority(), &["http/1.1"]);
    for n in 0..40 {
        let host: &'static str = format!("n{}.b.test", n % 37).leak();
        let stream = socks5(scene.gate.socks, host, 443);
        drop(Tls::over(stream, config.clone(), host));
    }
}

// D08
#[test]
fn sessions_are_resumed_and_judged_all_the_same() {
    let scene = Scene::new();
    let config = config(scene.authority(), &["http/1.1"]);
    for (n, kind) in [rustls::HandshakeKind::Full, rustls::HandshakeKind::Resumed]
        .into_iter()
        .enumerate()
    {
        let stream = connect(scene.gate.http, &scene.target());
        let mut tls = Tls::over(stream, config.clone(), HOST);
        let answer = tls.ask(&format!("GET /{n}"), HOST, "");
        assert_eq!(answer.status(), 200);
        assert_eq!(tls.0.conn.handshake_kind(), Some(kind));
        assert!(!tls.0.conn.is_early_data_accepted());
    }
    assert_eq!(scene.judged().len(), 2);
}
