//! What is carried, over what, and what is recorded of it.

use super::*;

#[test]
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "any other event fails the test by its name"
)]
fn a_request_goes_up_over_what_the_origin_chooses_and_is_recorded() {
    for (client_version, alpn, version) in [
        (Version::HTTP_2, "h2", "HTTP/2.0"),
        (Version::HTTP_2, "http/1.1", "HTTP/1.1"),
        (Version::HTTP_11, "h2", "HTTP/2.0"),
        (Version::HTTP_11, "http/1.1", "HTTP/1.1"),
    ] {
        let origin = OriginSpec::new("a.test").alpn(&[alpn]).start();
        let (name, port) = ("a.test", origin.port());
        Scene::run(&boot(&[(name, &origin)]), async |scene| {
            let to = (name, port);
            let mut client = scene.client(client_version, Transport::Inspected, to).await;
            let request = Request::builder()
                .method("POST")
                .uri("/a?b=c")
                .header("authorization", "Bearer t")
                .header(COOKIE, "a=1")
                .header(COOKIE, "b=2")
                .body(content("hello"))
                .unwrap();
            let response = client.send(request).await;
            let body = response.collect().await.unwrap().to_bytes();
            let json: Value = serde_json::from_slice(&body).unwrap();
            let found = [
                &json["version"],
                &json["method"],
                &json["path"],
                &json["body"],
            ];
            assert_eq!(found, [version, "POST", "/a?b=c", "hello"]);
            let seen = &origin.seen()[0];
            let authority = format!("a.test:{port}");
            if alpn == "h2" {
                assert_eq!((&seen.authority, seen.header("host")), (&authority, None));
                let te = (client_version == Version::HTTP_2).then_some("trailers");
                assert_eq!(seen.header("te"), te);
            } else {
                assert_eq!(seen.header("host"), Some(authority.as_str()));
                assert_eq!(seen.header("cookie"), Some("a=1; b=2"));
                assert_eq!(seen.header("te"), None);
            }
            assert_eq!(seen.header("authorization"), Some("Bearer t"));
            assert_eq!(origin.hellos(), [("a.test".to_owned(), alpn.to_owned())]);

            let events = scene.events(1).await;
            let kinds: Vec<_> = events
                .iter()
                .map(|event| match event {
                    AuditEvent::EgressDecided { .. } => "decided".to_owned(),
                    AuditEvent::DnsQuery { .. } => "dns".to_owned(),
                    AuditEvent::EgressDialed { address, .. } => address.to_string(),
                    AuditEvent::EgressClosed {
                        bytes_up,
                        bytes_down,
                        ..
                    } => {
                        format!("{bytes_up} {bytes_down}")
                    }
                    other => format!("{other:?}"),
                })
                .collect();
            let closed = format!("5 {}", body.len());
            let dialed = origin.addr.to_string();
            assert_eq!(kinds, ["decided", "dns", dialed.as_str(), closed.as_str()]);
        });
    }
}

#[test]
fn requests_at_once_share_one_session_and_each_has_its_own_end() {
    let origin = OriginSpec::new("a.test").start();
    let to = ("a.test", origin.port());
    Scene::run(&boot(&[("a.test", &origin)]), async |scene| {
        let client = scene.inspected(to).await;
        let asked = (0..20).map(|n| {
            let mut client = client.again();
            async move { client.json(&format!("/{n}")).await["path"].clone() }
        });
        let paths = join_all(asked).await;
        let expected: Vec<Value> = (0..20).map(|n| format!("/{n}").into()).collect();
        assert_eq!(paths, expected);
        scene.events(20).await;
        assert_eq!((origin.connections(), origin.handshakes()), (1, 1));
    });
}

#[test]
fn requests_at_once_to_an_origin_of_http_1_do_not_wait_for_each_other() {
    let origin = OriginSpec::new("a.test").alpn(&["http/1.1"]).start();
    let to = ("a.test", origin.port());
    Scene::run(&boot(&[("a.test", &origin)]), async |scene| {
        let client = scene.inspected(to).await;
        let asked = (0..5).map(|_| {
            let mut client = client.again();
            async move { client.get("/sse").await.0 }
        });
        // None ends before all have begun.
        let begun = async {
            while origin.seen().len() < 5 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            origin.go_on(5 * 2);
        };
        let (answers, ()) = tokio::join!(join_all(asked), begun);
        assert_eq!(answers, [200; 5]);
        assert_eq!(origin.connections(), 5);
        // And afterwards they are kept.
        assert_eq!(client.again().get("/").await.0, 200);
        assert_eq!(origin.connections(), 5);
    });
}

#[test]
fn a_session_that_takes_no_more_streams_gets_a_second_beside_it() {
    let origin = OriginSpec::new("a.test").max_streams(1).start();
    let to = ("a.test", origin.port());
    Scene::run(&boot(&[("a.test", &origin)]), async |scene| {
        let client = scene.inspected(to).await;
        // So that the origin's settings are known.
        client.again().get("/").await;
        let mut waiting = client.again();
        let silent = spawn_local(async move { waiting.get("/silent").await });
        while origin.seen().len() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(client.again().get("/").await.0, 200);
        assert_eq!(origin.connections(), 2);
        silent.abort();
    });
}

#[test]
fn a_plain_connection_is_never_used_for_an_inspected_request_nor_the_other_way_round() {
    let secure = OriginSpec::new("a.test").alpn(&["http/1.1"]).start();
    let plain = OriginSpec::new("b.test").cert(CertKind::Plain).start();
    let boot = boot(&[("a.test", &secure), ("b.test", &plain)]);
    Scene::run(&boot, async |scene| {
        for (to, good, bad) in [
            (
                ("a.test", secure.port()),
                Transport::Inspected,
                Transport::Forward,
            ),
            (
                ("b.test", plain.port()),
                Transport::Forward,
                Transport::Inspected,
            ),
        ] {
            let mut client = scene.client(Version::HTTP_11, good, to).await;
            assert_eq!(client.get("/").await.0, 200);
            // The kept connection is there and must not be taken.
            let mut other = scene.client(Version::HTTP_11, bad, to).await;
            assert_eq!(other.get("/").await.0, 502);
            assert_eq!(client.get("/").await.0, 200);
        }
        assert_eq!((secure.connections(), secure.seen().len()), (2, 2));
        assert_eq!((plain.connections(), plain.seen().len()), (2, 2));
    });
}

#[test]
fn events_arrive_one_by_one() {
    for alpn in ["h2", "http/1.1"] {
        let origin = OriginSpec::new("a.test").alpn(&[alpn]).start();
        let to = ("a.test", origin.port());
        Scene::run(&boot(&[("a.test", &origin)]), async |scene| {
            let mut client = scene.inspected(to).await;
            let request = Request::builder().uri("/sse").body(content("")).unwrap();
            let mut body = client.send(request).await.into_body();
            let mut arrived = Vec::new();
            while let Some(frame) = body.frame().await {
                let data = frame.unwrap().into_data().unwrap();
                if !data.is_empty() {
                    arrived.push(String::from_utf8(data.to_vec()).unwrap());
                    // The next is sent only once this one is here.
                    origin.go_on(1);
                }
            }
            assert_eq!(arrived, ["data: 1\n\n", "data: 2\n\n", "data: 3\n\n"]);
        });
    }
}

#[test]
fn trailers_pass_between_http_2_and_http_2_alone() {
    for (client_version, alpn, passes) in [
        (Version::HTTP_2, "h2", true),
        (Version::HTTP_2, "http/1.1", false),
        (Version::HTTP_11, "h2", false),
    ] {
        let origin = OriginSpec::new("a.test").alpn(&[alpn]).start();
        let to = ("a.test", origin.port());
        Scene::run(&boot(&[("a.test", &origin)]), async |scene| {
            let mut client = scene.client(client_version, Transport::Inspected, to).await;
            let request = Request::builder()
                .uri("/trailers")
                .body(content(""))
                .unwrap();
            let answer = client.send(request).await.collect().await.unwrap();
            let status = answer
                .trailers()
                .and_then(|trailers| trailers.get("grpc-status"));
            assert_eq!(
                status.map(HeaderValue::as_bytes),
                passes.then_some(&b"0"[..])
            );
            assert_eq!(answer.to_bytes(), &b"\0\0\0\0\x05hello"[..]);

            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", HeaderValue::from_static("1"));
            let frames = [Frame::data(Bytes::from("hi")), Frame::trailers(trailers)];
            let frames = futures_util::stream::iter(frames.map(Ok::<_, Infallible>));
            let request = Request::builder()
                .method("POST")
                .uri("/")
                .header("trailer", "x-sum")
                .body(StreamBody::new(frames).boxed_unsync())
                .unwrap();
            let body = client
                .send(request)
                .await
                .collect()
                .await
                .unwrap()
                .to_bytes();
            let json: Value = serde_json::from_slice(&body).unwrap();
            let expected = if passes {
                serde_json::json!([["x-sum", "1"]])
            } else {
                serde_json::json!([])
            };
            assert_eq!(
                (&json["body"], &json["trailers"]),
                (&"hi".into(), &expected)
            );
            // A body that ended with trailers is an end like any other.
            scene.events(2).await;
        });
    }
}

#[test]
fn an_answer_without_a_body_has_none_and_a_large_one_is_whole() {
    for alpn in ["h2", "http/1.1"] {
        let origin = OriginSpec::new("a.test").alpn(&[alpn]).start();
        let to = ("a.test", origin.port());
        Scene::run(&boot(&[("a.test", &origin)]), async |scene| {
            let mut client = scene.inspected(to).await;
            assert_eq!(client.get("/status/204").await, (204, Bytes::new()));
            assert_eq!(client.get("/status/304").await, (304, Bytes::new()));
            let head = Request::builder().method("HEAD").uri("/big");
            let response = client.send(head.body(content("")).unwrap()).await;
            assert!(response.status().is_success() && response.body().is_end_stream());
            let (status, body) = client.get("/big").await;
            assert_eq!((status, body.len()), (200, BIG));
            scene.events(4).await;
            assert_eq!(origin.connections(), 1);
        });
    }
}

#[test]
fn sessions_of_tls_are_resumed() {
    let origin = OriginSpec::new("a.test")
        .alpn(&["http/1.1"])
        .answer(|_| {
            let mut response = Response::new(Bytes::from("once"));
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert("connection", close);
            response
        })
        .start();
    let to = ("a.test", origin.port());
    Scene::run(&boot(&[("a.test", &origin)]), async |scene| {
        let mut client = scene.inspected(to).await;
        for _ in 0..3 {
            assert_eq!(client.get("/").await.0, 200);
        }
        assert_eq!((origin.handshakes(), origin.resumed()), (3, 2));
    });
}
