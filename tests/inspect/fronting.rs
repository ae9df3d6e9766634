//! One host outside, another inside.

use portcullis::policy::{DenyReason, Transport};

use crate::client::{H2, Tls};
use crate::scene::{HOST, Scene};

// D02: in a tunnel that is not looked into this is a limit, and SECURITY.md says so
#[test]
fn a_request_for_another_host_than_the_tunnel_is_misdirected() {
    let scene = Scene::with(|spec| spec.allow("b.test", &[443]));
    let mut tls = Tls::open(&scene);
    for host in ["b.test", "127.0.0.1", "a.test:1", "x.a.test"] {
        let answer = tls.ask("GET /", host, "");
        assert_eq!(answer.denied(), (421, "sni_mismatch".into()), "{host}");
    }
    let answer = tls.ask("GET https://b.test/", HOST, "");
    assert_eq!(answer.denied(), (421, "sni_mismatch".into()));
    let (transport, reason, detail) = scene.refusal();
    assert_eq!(
        (transport, reason),
        (Transport::Inspected, DenyReason::SniMismatch)
    );
    assert!(detail.contains("b.test"), "{detail}");
    assert!(scene.origin_is_untouched());
    // Its twins, on the same connection.
    for host in [HOST, "A.TEST", &scene.target()] {
        assert_eq!(tls.ask("GET /", host, "").status(), 200, "{host}");
    }
    let absolute = format!("GET https://{}/abs", scene.target());
    let answer = tls.ask(&absolute, HOST, "");
    assert_eq!(answer.json()["path"], "/abs");
}

// D09, D10
#[tokio::test]
async fn an_authority_of_http2_other_than_the_tunnels_is_misdirected() {
    let scene = Scene::new();
    let mut client = H2::open(&scene).await;
    for uri in ["https://b.test/", "https://a.test:1/"] {
        let (status, body) = client.ask("/", |request| request.uri(uri), "").await;
        assert_eq!(
            (status, &body["code"]),
            (421, &"sni_mismatch".into()),
            "{uri}"
        );
    }
    let other = client
        .ask("/", |request| request.header("host", "b.test"), "")
        .await;
    assert_eq!((other.0, &other.1["code"]), (421, &"sni_mismatch".into()));
    let two = |request: hyper::http::request::Builder| {
        request.header("host", "a.test").header("host", "b.test")
    };
    assert_eq!(client.ask("/", two, "").await.0, 400);
    let plain = client
        .ask("/", |request| request.uri("http://a.test/"), "")
        .await;
    assert_eq!(plain.0, 400);
    assert!(scene.origin_is_untouched());
    assert_eq!(client.ask("/", |request| request, "").await.0, 200);
    let agreeing = client
        .ask("/", |request| request.header("host", "a.test"), "")
        .await;
    assert_eq!(agreeing.0, 200);
}
