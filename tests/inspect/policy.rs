//! Rules about methods and paths, within TLS.

use portcullis::policy::{Effect, Method, NetworkMode, PathPattern, Verdict};

use crate::client::{H2, Tls};
use crate::scene::{HOST, Scene};

fn paths(of: &[&str]) -> Vec<PathPattern> {
    of.iter()
        .map(|path| PathPattern::parse(path).unwrap())
        .collect()
}

#[test]
fn methods_and_paths_of_a_rule_hold_within_tls() {
    let scene = Scene::with(|spec| {
        spec.policy(|policy| {
            policy.rules[0].methods = vec![Method::parse("GET").unwrap()];
            policy.rules[0].paths = paths(&["/repos/acme/**"]);
        })
    });
    let mut tls = Tls::open(&scene);
    for (line, expected) in [
        ("GET /repos/acme", None),
        ("GET /repos/acme/x?y=/../z", None),
        ("GET /repos/other", Some("path_not_allowed")),
        ("GET /", Some("path_not_allowed")),
        ("POST /repos/acme", Some("method_not_allowed")),
        ("DELETE /repos/acme", Some("method_not_allowed")),
    ] {
        let answer = tls.ask(line, HOST, "");
        match expected {
            None => assert_eq!(answer.status(), 200, "{line}"),
            Some(code) => assert_eq!(answer.denied(), (403, code.into()), "{line}"),
        }
    }
    let sent: Vec<_> = scene
        .origin
        .seen()
        .into_iter()
        .map(|seen| seen.path)
        .collect();
    assert_eq!(sent, ["/repos/acme", "/repos/acme/x?y=/../z"]);
}

#[tokio::test]
async fn a_path_with_several_readings_is_refused_where_a_rule_speaks_of_paths() {
    let scene = Scene::with(|spec| {
        spec.policy(|policy| policy.rules[0].paths = paths(&["/repos/acme/**"]))
    });
    let mut tls = Tls::open(&scene);
    let mut h2 = H2::open(&scene).await;
    for path in [
        "/repos/acme/../other",
        "/repos/acme/%2e%2e/other",
        "/repos/acme/..%2fother",
        "/repos/acme%2fx",
        "/repos/acme/%2E%2E%2Fother",
        "/repos//acme/x",
        "//repos/acme/x",
        "/repos/acme;x/y",
        "/repos/acme/x;y",
        "/repos/acme/./x",
        "/repos/acme/x%5cy",
        "/repos/%61cme/x",
    ] {
        let answer = tls.ask(&format!("GET {path}"), HOST, "");
        assert_eq!(answer.denied(), (403, "path_not_allowed".into()), "{path}");
        let (status, _) = h2.ask(path, |request| request, "").await;
        assert_eq!(status, 403, "{path}");
    }
    assert!(scene.origin_is_untouched());
    assert_eq!(tls.ask("GET /repos/acme/%C3%A4", HOST, "").status(), 200);
}

#[test]
fn a_deny_of_paths_takes_what_is_unclear_with_it() {
    let scene = Scene::with(|spec| {
        spec.rule(HOST, &[], Effect::Deny).policy(|policy| {
            policy.rules[1].paths = paths(&["/admin/**"]);
        })
    });
    let mut tls = Tls::open(&scene);
    for path in ["/admin", "/admin/x", "/x/../admin", "/%61dmin", "//admin"] {
        let answer = tls.ask(&format!("GET {path}"), HOST, "");
        assert_eq!(answer.denied(), (403, "path_not_allowed".into()), "{path}");
    }
    assert!(scene.origin_is_untouched());
    assert_eq!(tls.ask("GET /x", HOST, "").status(), 200);
}

// E12
#[tokio::test]
async fn limited_mode_reads_only_within_tls() {
    let scene = Scene::with(|spec| spec.policy(|policy| policy.mode = NetworkMode::Limited));
    for (line, fields, expected) in [
        ("GET /", "", (200, "")),
        ("OPTIONS /", "", (200, "")),
        (
            "POST /",
            "Content-Length: 0\r\n",
            (403, "method_not_allowed"),
        ),
        ("GET /", "Content-Length: 1\r\n\r\nx", (400, "malformed")),
        (
            "GET /",
            "X-HTTP-Method-Override: DELETE\r\n",
            (400, "malformed"),
        ),
    ] {
        let answer = Tls::open(&scene).ask(line, HOST, fields);
        assert_eq!(
            answer.denied(),
            (expected.0, expected.1.into()),
            "{line} {fields}"
        );
    }
    let mut h2 = H2::open(&scene).await;
    assert_eq!(h2.ask("/", |request| request, "").await.0, 200);
    assert_eq!(h2.ask("/", |request| request, "x").await.0, 400);
    let post = h2.ask("/", |request| request.method("POST"), "x").await;
    assert_eq!(
        (post.0, &post.1["code"]),
        (403, &"method_not_allowed".into())
    );
    let disguised = |request: hyper::http::request::Builder| request.header("x-http-method", "PUT");
    assert_eq!(h2.ask("/", disguised, "").await.0, 400);
    let reached: Vec<_> = scene
        .origin
        .seen()
        .into_iter()
        .map(|seen| seen.method)
        .collect();
    assert_eq!(reached, ["GET", "OPTIONS", "GET"]);
}

#[test]
fn every_request_is_on_record_with_its_method_and_path() {
    let scene = Scene::new();
    let mut tls = Tls::open(&scene);
    tls.ask("GET /one?secret=1", HOST, "");
    tls.ask("OPTIONS *", HOST, "");
    let allowed = |method: &str, path: &str| (method.to_owned(), path.to_owned(), Verdict::Allow);
    assert_eq!(
        scene.judged(),
        [allowed("GET", "/one"), allowed("OPTIONS", "*")]
    );
}
