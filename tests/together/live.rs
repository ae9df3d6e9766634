//! Another policy, where TLS is looked into.

use std::io::Read;
use std::sync::{Mutex, mpsc};

use portcullis::audit::EndedBy;
use portcullis::policy::{HostPattern, TlsHandling};

use crate::client::{Tls, config, connect};
use crate::raw::Raw;
use crate::scene::{HOST, Scene};
use crate::support::{
    VALUE, apply, authorized, bearer, discreet, ends, used, websocket, with_credential,
};
use crate::test_gate::{GateSpec, spec};
use crate::upstream::Origin;

/// The policy of a scene with this handling of the origin.
fn handled(scene: &Scene, handling: Option<TlsHandling>) -> portcullis::policy::NetworkPolicy {
    let base: GateSpec = spec()
        .allow(HOST, &[scene.origin.port()])
        .policy(|policy| policy.mitm = true);
    let mut policy = base.policy;
    if let Some(handling) = handling {
        let host = HostPattern::parse(HOST).unwrap();
        policy.tls.insert(host, handling);
    }
    policy
}

#[test]
fn a_host_that_is_inspected_no_more_and_then_again_is_handled_the_new_way_at_once() {
    let scene = Scene::new();
    let mut idle = Tls::open(&scene);
    assert_eq!(idle.ask("GET /", HOST, "").status(), 200);
    let mut waiting = Tls::open(&scene);
    waiting.send(format!("GET /silent HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    let mut socket = websocket(&scene);
    while scene.origin.seen().len() < 3 {
        std::thread::yield_now();
    }
    // Three tunnels, and what is under way in two of them.
    let tunnelled = handled(&scene, Some(TlsHandling::Tunnel));
    assert_eq!(apply(&scene.gate, &tunnelled).closed, 5);
    for tls in [&mut idle, &mut waiting, &mut socket] {
        assert_eq!(tls.rest(), b"");
    }
    let found = ends(&scene.gate, 6);
    let by_policy = found.iter().filter(|end| end.2 == EndedBy::Policy).count();
    assert_eq!((found.len(), by_policy), (6, 5), "{found:?}");

    // The origin's own certificate now.
    let open = |authority: &str| {
        let stream = connect(scene.gate.http, &scene.target());
        Tls::over(stream, config(authority, &["http/1.1"]), HOST)
    };
    let mut direct = open(&scene.origin.ca_pem);
    assert_eq!(direct.ask("GET /", HOST, "").status(), 200);
    let inspected = handled(&scene, Some(TlsHandling::Inspect));
    assert_eq!(apply(&scene.gate, &inspected).closed, 1);
    assert_eq!(direct.rest(), b"");
    let mut again = open(scene.authority());
    assert_eq!(again.ask("GET /", HOST, "").status(), 200);
    assert_eq!(scene.judged().len(), 4);
    // The same handling, said in another way, closes nothing.
    assert_eq!(apply(&scene.gate, &handled(&scene, None)).closed, 0);
    assert_eq!(again.ask("GET /", HOST, "").status(), 200);
}

#[test]
fn what_becomes_of_tls_does_not_concern_a_plain_request() {
    let (finish, finished) = mpsc::channel::<()>();
    let finished = Mutex::new(finished);
    let plain = Origin::raw(move |mut stream| {
        use std::io::Write;
        stream.read_exact(&mut [0; 16])?;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab")?;
        finished.lock().unwrap().recv().ok();
        stream.write_all(b"cd")
    });
    let scene = Scene::with(|spec| spec.allow(HOST, &[plain.port()]));
    let target = format!("{HOST}:{}", plain.port());
    let mut client = Raw::open(scene.gate.http);
    client.send(format!(
        "GET http://{target}/ HTTP/1.1\r\nHost: {target}\r\n\r\n"
    ));
    let mut head = Vec::new();
    while !head.ends_with(b"ab") {
        head.extend(client.exactly(1));
    }
    let mut policy = handled(&scene, Some(TlsHandling::Tunnel));
    policy.rules.push(
        spec()
            .allow(HOST, &[plain.port()])
            .policy
            .rules
            .swap_remove(0),
    );
    assert_eq!(apply(&scene.gate, &policy).closed, 0);
    finish.send(()).unwrap();
    assert_eq!(client.exactly(2), b"cd");
}

#[test]
fn a_credential_outlives_a_change_of_the_rules_and_ends_with_its_host() {
    let scene = Scene::before(discreet(), with_credential);
    let mut tls = Tls::open(&scene);
    assert_eq!(tls.ask("GET /a", HOST, &bearer()).status(), 200);
    let credentials = || {
        let of = spec().allow(HOST, &[scene.origin.port()]);
        with_credential(of).policy.credentials
    };
    let mut wider = handled(&scene, None);
    wider.credentials = credentials();
    wider
        .rules
        .extend(spec().allow("b.test", &[443]).policy.rules);
    assert_eq!(apply(&scene.gate, &wider).closed, 0);
    assert_eq!(tls.ask("GET /b", HOST, &bearer()).status(), 200);
    let value = Some(format!("Bearer {VALUE}"));
    assert_eq!(authorized(&scene), [value.clone(), value]);

    // Where TLS is not looked into any more the origin gets the placeholder at most.
    let mut tunnelled = handled(&scene, Some(TlsHandling::Tunnel));
    tunnelled.credentials = credentials();
    apply(&scene.gate, &tunnelled);
    assert_eq!(tls.rest(), b"");
    let stream = connect(scene.gate.http, &scene.target());
    let trust = config(&scene.origin.ca_pem, &["http/1.1"]);
    let mut direct = Tls::over(stream, trust, HOST);
    direct.ask("GET /c", HOST, &bearer());
    let last = authorized(&scene).pop().flatten().unwrap();
    assert!(!last.contains(VALUE), "{last}");
    assert_eq!(used(&scene.gate), 2);
}
