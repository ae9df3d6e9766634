//! WebSockets over TLS. Plain ones are in `tests/gate`.

use super::*;

/// Opens a WebSocket and says hello over it; the answer, or the code of the refusal.
async fn websocket(scene: &Scene, transport: Transport, to: (&str, u16), path: &str) -> String {
    let (client, server) = tokio::io::duplex(4096);
    let (scene, host) = (scene.clone(), Host::parse(to.0).unwrap());
    let port = Port::new(to.1).unwrap();
    let told = Rc::new(RefCell::new(None));
    let tell = Rc::clone(&told);
    let service = service_fn(move |mut request: Request<Incoming>| {
        let (scene, host, tell) = (scene.clone(), host.clone(), Rc::clone(&tell));
        async move {
            let asked = EgressRequest {
                transport,
                host,
                port,
                method: Method::parse("GET"),
                path: Some(request.uri().path().to_owned()),
                websocket: true,
            };
            let upgraded = hyper::upgrade::on(&mut request);
            let permit = authorize(&scene.gate, ConnId(1), asked, Seen::default())
                .await
                .unwrap();
            strip_request(request.headers_mut());
            let response = match open_websocket(&scene.gate, permit, request).await {
                Ok(Opened::Switched(head, origin)) => {
                    spawn_local(async move {
                        let client = TokioIo::new(upgraded.await.unwrap());
                        relay_upgraded(&scene.gate, client, origin).await;
                    });
                    head.map(|()| GateBody::empty())
                }
                Ok(Opened::Answered(response)) => response,
                Err(refusal) => {
                    tell.replace(Some(refusal.reason.code().to_owned()));
                    refuse(&refusal, After::Close)
                }
            };
            Ok::<_, Infallible>(response)
        }
    });
    let serving = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(server), service)
        .with_upgrades();
    spawn_local(async move { drop(serving.await) });
    let url = format!("ws://client.test{path}");
    match tokio_tungstenite::client_async(url, client).await {
        Ok((mut socket, _)) => {
            use futures_util::{SinkExt, StreamExt};
            socket.send("hello".into()).await.unwrap();
            let answer = socket.next().await.unwrap().unwrap();
            socket.close(None).await.unwrap();
            while socket.next().await.is_some() {}
            answer.into_text().unwrap().to_string()
        }
        Err(tokio_tungstenite::tungstenite::Error::Http(response)) => told
            .take()
            .unwrap_or_else(|| response.status().as_u16().to_string()),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn a_websocket_opens_over_tls_only_if_the_origin_read_its_key() {
    let origin = OriginSpec::new("a.test").start();
    let port = origin.port();
    Scene::run(&boot(&[("a.test", &origin)]), async |scene| {
        for (path, answer) in [
            ("/ws", "hello"),
            ("/ws-bad-accept", "dial_failed"),
            ("/no-websocket", "200"),
        ] {
            let found = websocket(&scene, Transport::Inspected, ("a.test", port), path).await;
            assert_eq!(found, answer, "{path}");
        }
        let hello = ("a.test".to_owned(), "http/1.1".to_owned());
        assert_eq!(origin.hellos(), vec![hello; 3]);
        let events = scene.events(3).await;
        let counted = events.iter().any(|event| {
            // A masked text of 5 bytes and a close frame up, the same unmasked down.
            matches!(event, AuditEvent::EgressClosed { bytes_up: up, bytes_down: down, .. }
                if *up >= 11 && *down >= 7)
        });
        assert!(counted, "{events:?}");
    });
}
