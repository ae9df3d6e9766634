//! What is refused or bounded: certificates, heads, times, connections.

use super::*;

#[test]
fn a_certificate_that_does_not_verify_ends_it_before_the_request_is_sent() {
    for (cert, word) in [
        (CertKind::Expired, "expired"),
        (CertKind::NotYetValid, "not_yet_valid"),
        (CertKind::SelfSigned, "unknown_issuer"),
        (CertKind::WrongName, "wrong_name"),
    ] {
        let origin = OriginSpec::new("a.test").cert(cert).start();
        let (name, port) = ("a.test", origin.port());
        Scene::run(&boot(&[(name, &origin)]), async |scene| {
            let mut client = scene.inspected((name, port)).await;
            let (status, body) = client.get("/secret").await;
            let json: Value = serde_json::from_slice(&body).unwrap();
            let found = (status, json["code"].as_str(), json["detail"].as_str());
            assert_eq!(found, (502, Some("certificate_refused"), Some(word)));
            let detail = format!("a.test:{port}: the certificate is refused: {word}");
            let events = scene.events(1).await;
            assert!(
                events.contains(&AuditEvent::EgressRefused {
                    process: None,
                    process_unknown: None,
                    conn: ConnId(1),
                    transport: Transport::Inspected,
                    reason: DenyReason::CertificateRefused,
                    detail
                }),
                "{events:?}"
            );
            assert_eq!(origin.seen(), []);
        });
    }
}

#[test]
fn an_address_is_verified_as_an_address() {
    for (cert, status) in [(CertKind::Good, 200), (CertKind::WrongName, 502)] {
        let origin = OriginSpec::new("127.0.0.1").cert(cert).start();
        let to = ("127.0.0.1", origin.port());
        Scene::run(&boot(&[("127.0.0.1", &origin)]), async |scene| {
            assert_eq!(scene.inspected(to).await.get("/").await.0, status);
        });
    }
}

#[test]
fn what_is_not_tls_is_a_failed_dial_with_a_word() {
    let not_tls = OriginSpec::new("a.test").cert(CertKind::Plain);
    for (origin, word) in [
        (
            not_tls.clone().raw(b"HTTP/1.1 200 OK\r\n\r\n"),
            "tls_protocol",
        ),
        (not_tls.raw(b""), "tls_broke_off"),
        (OriginSpec::new("a.test").alpn(&["smtp"]), "tls_alert"),
    ] {
        let origin = origin.start();
        let to = ("a.test", origin.port());
        Scene::run(&boot(&[("a.test", &origin)]), async |scene| {
            let json = scene.inspected(to).await.json("/").await;
            let found = (json["code"].as_str(), json["detail"].as_str());
            assert_eq!(found, (Some("dial_failed"), Some(word)));
        });
    }
}

#[test]
fn an_origin_that_says_nothing_ends_one_stream_and_not_its_session() {
    let origin = OriginSpec::new("a.test").start();
    let to = ("a.test", origin.port());
    let mut boot = boot(&[("a.test", &origin)]);
    boot.policy.limits.idle_seconds = 1;
    Scene::run(&boot, async |scene| {
        let mut client = scene.inspected(to).await;
        let json = client.json("/silent").await;
        assert_eq!(json["code"], "timed_out");
        assert_eq!(client.get("/").await.0, 200);
        assert_eq!(origin.connections(), 1);
    });
}

#[test]
fn connections_to_origins_are_bounded_however_many_requests_a_client_has() {
    let origin = OriginSpec::new("a.test").cert(CertKind::Plain).start();
    let to = ("a.test", origin.port());
    let mut boot = boot(&[("a.test", &origin)]);
    boot.policy.limits.connections = 1;
    boot.policy.limits.dial_seconds = 5;
    Scene::run(&boot, async |scene| {
        let client = scene.client(Version::HTTP_2, Transport::Forward, to).await;
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let most = crate::gate::upstream::places(1);
        for _ in 0..most + 2 {
            let (mut client, tell) = (client.again(), tell.clone());
            spawn_local(async move {
                let code = client.json("/silent").await["code"].clone();
                drop(tell.send(code));
            });
        }
        let codes = [told.recv().await.unwrap(), told.recv().await.unwrap()];
        assert_eq!(codes, ["too_many_connections", "too_many_connections"]);
        assert_eq!(origin.connections(), most);
    });
}

#[test]
fn what_was_carried_over_http_2_leaves_the_room_that_it_took() {
    let origin = OriginSpec::new("a.test").start();
    let to = ("a.test", origin.port());
    Scene::run(&boot(&[("a.test", &origin)]), async |scene| {
        assert!(scene.gate.room.is_free());
        let mut client = scene.inspected(to).await;
        let (status, body) = client.get("/big").await;
        assert_eq!((status, body.len()), (200, BIG));
        let post = Request::post("/body").body(content("up and down"));
        let answer = client.send(post.unwrap()).await;
        let body = answer.collect().await.unwrap().to_bytes();
        assert_eq!(body, "up and down");
        // One that nobody reads to its end.
        let unread = Request::get("/big").body(content("")).unwrap();
        let unread = client.send(unread).await;
        assert!(!scene.gate.room.is_free());
        drop((unread, client));
        scene.events(3).await;
        scene.gate.pool.close().await;
        while !scene.gate.room.is_free() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}

#[test]
fn provisional_answers_do_not_confuse() {
    let answer = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n\
                  HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nreal";
    let origin = OriginSpec::new("a.test")
        .alpn(&["http/1.1"])
        .raw(answer.as_bytes())
        .start();
    let to = ("a.test", origin.port());
    Scene::run(&boot(&[("a.test", &origin)]), async |scene| {
        let mut client = scene.inspected(to).await;
        assert_eq!(client.get("/").await, (200, Bytes::from("real")));
    });
}

#[test]
fn a_head_that_is_too_long_and_a_switch_nobody_asked_for_are_refused() {
    let long = |seen: &tls_origin::Seen| {
        let fields = if seen.path == "/long" { 90 } else { 1 };
        let mut response = Response::new(Bytes::new());
        for n in 0..fields {
            let name: hyper::header::HeaderName = format!("x-{n}").parse().unwrap();
            let value = HeaderValue::try_from("y".repeat(4096)).unwrap();
            response.headers_mut().insert(name, value);
        }
        response
    };
    for alpn in ["h2", "http/1.1"] {
        let origin = OriginSpec::new("a.test").alpn(&[alpn]).answer(long).start();
        let to = ("a.test", origin.port());
        Scene::run(&boot(&[("a.test", &origin)]), async |scene| {
            let mut client = scene.inspected(to).await;
            assert_eq!(client.get("/short").await.0, 200);
            assert_eq!(client.json("/long").await["code"], "dial_failed", "{alpn}");
        });
    }
    let switch = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n";
    let origin = OriginSpec::new("a.test").alpn(&[]).raw(switch).start();
    let to = ("a.test", origin.port());
    Scene::run(&boot(&[("a.test", &origin)]), async |scene| {
        let mut client = scene.inspected(to).await;
        assert_eq!(client.json("/").await["code"], "dial_failed");
    });
}

#[test]
fn a_drain_ends_every_session_and_what_still_uses_it() {
    let origin = OriginSpec::new("a.test").start();
    let to = ("a.test", origin.port());
    Scene::run(&boot(&[("a.test", &origin)]), async |scene| {
        let mut client = scene.inspected(to).await;
        assert_eq!(client.get("/").await.0, 200);
        let mut waiting = client.again();
        let silent = spawn_local(async move { waiting.json("/silent").await["code"].clone() });
        while origin.seen().len() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        scene.gate.pool.close().await;
        assert_eq!(silent.await.unwrap(), "dial_failed");
        scene.events(2).await;
    });
}

#[test]
fn a_policy_that_inspects_needs_an_authority_to_trust() {
    let origin = OriginSpec::new("a.test").start();
    let mut boot = boot(&[("a.test", &origin)]);
    boot.roots = "rubbish".to_owned();
    let build_it = |boot: &GateBoot| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .unwrap();
        build(
            &runtime,
            boot,
            (StdUnixStream::pair().unwrap().0, Terms::default()),
            nothing(),
        )
        .map(drop)
    };
    let error = build_it(&boot).unwrap_err().to_string();
    assert!(
        error.starts_with("TLS is to be looked into, or ") && error.contains("none of the 0 "),
        "{error}"
    );
    boot.policy.mitm = false;
    build_it(&boot).unwrap();
}

#[test]
fn a_confined_gate_speaks_tls_to_origins() {
    // Only this thread is confined.
    let origin = OriginSpec::new("a.test").start();
    let bad = OriginSpec::new("b.test").cert(CertKind::WrongName).start();
    let old = OriginSpec::new("c.test").alpn(&["http/1.1"]).start();
    let boot = boot(&[("a.test", &origin), ("b.test", &bad), ("c.test", &old)]);
    let found = std::thread::scope(|scope| {
        let confined = scope.spawn(|| {
            let before = |gate: &Gate| confine(gate, &[]).unwrap();
            Scene::prepare(&boot, before, async |scene| {
                let mut found = Vec::new();
                for (name, origin) in [("a.test", &origin), ("b.test", &bad), ("c.test", &old)] {
                    let mut client = scene.inspected((name, origin.port())).await;
                    found.push(client.get("/big").await.0);
                }
                found
            })
        });
        confined.join().unwrap()
    });
    assert_eq!(found, [200, 502, 200]);
}

#[test]
fn a_new_policy_takes_back_what_waits_and_retires_every_connection() {
    let origin = OriginSpec::new("a.test").start();
    let to = ("a.test", origin.port());
    let boot = boot(&[("a.test", &origin)]);
    Scene::run(&boot, async |scene| {
        let mut client = scene.inspected(to).await;
        assert_eq!(client.get("/").await.0, 200);
        let mut waiting = client.again();
        let silent = spawn_local(async move { waiting.json("/silent").await["code"].clone() });
        while origin.seen().len() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut denying = boot.policy.clone();
        denying.enabled = false;
        apply(&scene.gate, &denying).await;
        assert_eq!(silent.await.unwrap(), "network_disabled");
        assert_eq!(client.json("/").await["code"], "network_disabled");
        // A policy that permits it again: not over a connection from before.
        apply(&scene.gate, &boot.policy).await;
        assert_eq!(client.get("/").await.0, 200);
        assert_eq!(origin.connections(), 2);
    });
}

#[test]
fn a_budget_bounds_what_goes_up_over_http_2_trailers_included() {
    let origin = OriginSpec::new("a.test").start();
    let to = ("a.test", origin.port());
    for (max, body, trailers) in [(100, "hi", true), (6, "hi", false), (1, "", false)] {
        let mut boot = boot(&[("a.test", &origin)]);
        let toml = format!("bytes_up = {{ max = {max}, action = 'deny' }}");
        boot.policy.budgets = toml::from_str(&toml).unwrap();
        Scene::run(&boot, async |scene| {
            let mut client = scene.inspected(to).await;
            let mut trailers_up = HeaderMap::new();
            trailers_up.insert("x-sum", HeaderValue::from_static("1"));
            let frames = [Frame::data(Bytes::from("hi")), Frame::trailers(trailers_up)];
            let frames = futures_util::stream::iter(frames.map(Ok::<_, Infallible>));
            let request = Request::builder()
                .method("POST")
                .uri("/")
                .body(StreamBody::new(frames).boxed_unsync())
                .unwrap();
            let answer = client.send(request).await.collect().await.unwrap();
            let json: Value = serde_json::from_slice(&answer.to_bytes()).unwrap();
            if body.is_empty() {
                assert_eq!(json["code"], "budget_exhausted");
            } else {
                let came = json["trailers"]
                    .as_array()
                    .is_some_and(|all| !all.is_empty());
                assert_eq!(
                    (json["body"].as_str(), came),
                    (Some(body), trailers),
                    "{json}"
                );
            }
        });
    }
}
