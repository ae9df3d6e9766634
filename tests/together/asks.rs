//! Asking, where TLS is looked into.

use std::io::Write;

use portcullis::audit::{AuditEvent, EndedBy};
use portcullis::policy::{Answered, Effect, Method, Unlisted, Verdict};

use portcullis::wire::gate::DeniedDestination;

use crate::client::{H2, Tls, connect};
use crate::raw::{Raw, curl};
use crate::scene::{HOST, Scene};
use crate::support::{
    answer, answering, apply, authorized, bearer, discreet, endings, question, questions, runtime,
    used, with_credential,
};
use crate::test_gate::GateSpec;
use crate::tls_origin::OriginSpec;

/// Nothing is allowed, everything is asked about.
fn asking(origin: OriginSpec, change: impl FnOnce(GateSpec) -> GateSpec) -> Scene {
    Scene::before(origin, |spec| {
        change(spec).policy(|policy| {
            policy.rules.clear();
            policy.default = Unlisted::Ask;
        })
    })
}

/// The origin is allowed, but for POST: that is asked about.
fn asking_for_post(origin: OriginSpec, change: impl FnOnce(GateSpec) -> GateSpec) -> Scene {
    Scene::before(origin, |spec| {
        let port = spec.policy.rules[0].ports[0].number();
        let spec = spec.rule(HOST, &[port], Effect::Ask).policy(|policy| {
            policy.rules[1].methods = vec![Method::parse("POST").unwrap()];
        });
        change(spec)
    })
}

const EMPTY: &str = "Content-Length: 0\r\n";

#[test]
fn one_question_opens_a_tunnel_and_every_request_within() {
    let scene = asking(discreet(), with_credential);
    let (asked, mut tls) = answering(&scene.gate, Answered::Allow, || Tls::open(&scene));
    assert_eq!((asked.method.as_ref(), asked.exact), (None, false));
    for line in ["GET /a", "GET /b?c"] {
        assert_eq!(tls.ask(line, HOST, &bearer()).status(), 200, "{line}");
    }
    assert_eq!(tls.ask("POST /c", HOST, EMPTY).status(), 200);
    assert_eq!((questions(&scene.gate), used(&scene.gate)), (1, 2));
    let value = Some(format!("Bearer {}", crate::support::VALUE));
    assert_eq!(authorized(&scene), [value.clone(), value, None]);

    // Once is one tunnel.
    let runtime = runtime();
    let (_, mut h2) = answering(&scene.gate, Answered::Allow, || {
        runtime.block_on(H2::open(&scene))
    });
    for path in ["/d", "/e"] {
        let (status, _) = runtime.block_on(h2.ask(path, |request| request, ""));
        assert_eq!(status, 200, "{path}");
    }
    assert_eq!(questions(&scene.gate), 2);
}

#[test]
fn curl_asks_one_question() {
    let scene = asking(OriginSpec::new(HOST), |spec| spec);
    let mut ca = tempfile::NamedTempFile::new().unwrap();
    ca.write_all(scene.authority().as_bytes()).unwrap();
    let ca = ca.path().to_str().unwrap().to_owned();
    let proxy = format!("http://{}", scene.gate.http);
    let url = format!("https://{}/x", scene.target());
    let arguments = ["--proxy", &proxy, "--cacert", &ca, "--data", "body", &url];
    let (_, (status, text)) = answering(&scene.gate, Answered::Allow, || curl(&arguments));
    assert_eq!(status, Some(0), "{text}");
    assert!(text.contains("\"body\":\"body\""), "{text}");
    assert_eq!(questions(&scene.gate), 1);

    let (_, (status, _)) = answering(&scene.gate, Answered::Deny, || curl(&arguments));
    // The proxy refused the tunnel (curl 56, RFC 9110 section 9.3.6).
    assert_eq!((status, questions(&scene.gate)), (Some(56), 2));
    assert_eq!(scene.origin.seen().len(), 1);
}

#[test]
fn a_rule_that_asks_about_a_method_asks_about_that_request_alone() {
    let scene = asking_for_post(discreet(), with_credential);
    let mut tls = Tls::open(&scene);
    assert_eq!(tls.ask("GET /free", HOST, "").status(), 200);
    assert_eq!(questions(&scene.gate), 0);
    let fields = bearer() + EMPTY;
    let (asked, refused) = answering(&scene.gate, Answered::Deny, || {
        tls.ask("POST /v1?secret=1", HOST, &fields)
    });
    assert_eq!(refused.denied(), (403, "not_approved".to_owned()));
    let shown = asked.method.map(|method| method.to_string());
    assert_eq!(
        (shown.as_deref(), asked.path.as_deref(), asked.exact),
        (Some("POST"), Some("/v1"), true)
    );
    assert_eq!(used(&scene.gate), 0, "nothing is put into what is refused");
    // The connection is as good as before, and a yes is for this very request.
    let (_, allowed) = answering(&scene.gate, Answered::Allow, || {
        tls.ask("POST /v1", HOST, &fields)
    });
    assert_eq!(allowed.status(), 200);
    assert_eq!(used(&scene.gate), 1);
    let (_, again) = answering(&scene.gate, Answered::Deny, || {
        tls.ask("POST /v1", HOST, &fields)
    });
    assert_eq!(again.denied(), (403, "not_approved".to_owned()));
    assert_eq!(scene.origin.seen().len(), 2);

    let runtime = runtime();
    let mut h2 = runtime.block_on(H2::open(&scene));
    let post = |request: hyper::http::request::Builder| request.method("POST");
    let (_, (status, body)) = answering(&scene.gate, Answered::Deny, || {
        runtime.block_on(h2.ask("/v1", post, "x"))
    });
    assert_eq!((status, &body["code"]), (403, &"not_approved".into()));
    let (_, (status, _)) = answering(&scene.gate, Answered::Allow, || {
        runtime.block_on(h2.ask("/v1", post, "x"))
    });
    assert_eq!(status, 200);
}

#[test]
fn nobody_is_a_no_for_the_request_and_the_tunnel_goes_on() {
    let scene = asking_for_post(OriginSpec::new(HOST), |mut spec| {
        spec.approval_seconds = 1;
        spec
    });
    let mut tls = Tls::open(&scene);
    for path in ["/a", "/b"] {
        let refused = tls.ask(&format!("POST {path}"), HOST, EMPTY);
        assert_eq!(refused.denied(), (403, "not_approved".to_owned()));
    }
    assert_eq!(tls.ask("GET /", HOST, "").status(), 200);
    // What the session tells last is the request.
    let told = scene.gate.drain().denied;
    let shown = |told: &DeniedDestination| {
        let method = told.method.as_ref().map(ToString::to_string);
        (method.unwrap(), told.path.clone().unwrap(), told.count)
    };
    assert_eq!(told.len(), 1);
    assert_eq!(shown(&told[0]), ("POST".to_owned(), "/b".to_owned(), 2));
}

#[test]
fn a_policy_that_denies_what_was_approved_ends_the_tunnel_and_all_within() {
    let scene = asking(OriginSpec::new(HOST), |spec| spec);
    let runtime = runtime();
    let (_, mut h1) = answering(&scene.gate, Answered::Allow, || Tls::open(&scene));
    h1.send(format!("GET /silent HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    let (_, mut h2) = answering(&scene.gate, Answered::Allow, || {
        runtime.block_on(H2::open(&scene))
    });
    let waiting = runtime.block_on(h2.start("/silent"));
    let waiting = runtime.spawn(waiting);
    // Both are on their way: the gate has dialed for them.
    scene.gate.audit.wait_for("two inner requests", |events| {
        let inner = |event: &&AuditEvent| {
            matches!(event, AuditEvent::EgressDecided { transport, verdict: Verdict::Allow, .. }
                if *transport == portcullis::policy::Transport::Inspected)
        };
        events.iter().filter(inner).count() == 2
    });
    while scene.origin.seen().len() < 2 {
        std::thread::yield_now();
    }
    // What still asks leaves both as they are.
    let wider = crate::test_gate::spec().allow("b.test", &[443]);
    let mut policy = wider.policy(|policy| policy.mitm = true).policy;
    policy.default = Unlisted::Ask;
    assert_eq!(apply(&scene.gate, &policy).closed, 0);
    policy.default = Unlisted::Deny;
    assert_eq!(apply(&scene.gate, &policy).closed, 4);
    assert_eq!(h1.rest(), b"");
    assert!(runtime.block_on(waiting).unwrap().is_err());
    let found = crate::support::ends(&scene.gate, 4);
    assert!(
        found.iter().all(|end| end.2 == EndedBy::Policy) && found.len() == 4,
        "{found:?}"
    );
    assert!(endings(&scene.gate).values().all(|count| *count == 1));
    let mut later = Raw::open(scene.gate.http);
    let target = scene.target();
    later.send(format!(
        "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n"
    ));
    assert_eq!(later.response().denied(), "host_not_allowed");
    assert_eq!(scene.origin.seen().len(), 2);
}

#[test]
fn a_question_about_an_inner_request_ends_with_its_tunnel() {
    let scene = asking_for_post(OriginSpec::new(HOST), |spec| spec);
    let mut tls = Tls::open(&scene);
    tls.send(format!("POST / HTTP/1.1\r\nHost: {HOST}\r\n{EMPTY}\r\n"));
    let asked = question(&scene.gate);
    drop(tls);
    let withdrawn = portcullis::wire::gate::GateReply::Withdrawn(asked.id);
    assert_eq!(scene.gate.reply(), withdrawn);
    // An answer that comes all the same lets nothing out.
    answer(&scene.gate, &asked, Answered::Allow);
    drop(connect(scene.gate.http, &scene.target()));
    assert!(scene.origin_is_untouched());
}
