//! The WebSocket side (RFC 6455): `response.create` messages in, the same events as SSE out.

use std::error::Error;
use std::io::ErrorKind;
use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{self, Message};

use crate::agent::{Answer, new_outputs};
use crate::http::Service;
use crate::log::{Seen, complain};

/// Answers the upgrade and serves messages on the connection once it is done.
pub(crate) fn upgrade(
    mut request: Request<Incoming>,
    mut seen: Seen,
    service: Arc<Service>,
) -> Result<Response<Full<Bytes>>, Box<dyn Error + Send + Sync>> {
    let key = request
        .headers()
        .get(header::SEC_WEBSOCKET_KEY)
        .ok_or("no Sec-WebSocket-Key")?;
    let accept = derive_accept_key(key.as_bytes());
    seen.transport = "websocket";
    service.log.write(&seen)?;
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let served = async {
            let stream = TokioIo::new(upgraded.await?);
            let socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
            serve(socket, seen, &service).await
        };
        if let Err(error) = served.await {
            complain("websocket", error.as_ref());
        }
    });
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, HeaderValue::try_from(accept)?);
    Ok(response)
}

async fn serve(
    mut socket: WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>,
    upgrade: Seen,
    service: &Service,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    while let Some(message) = socket.next().await {
        let text = match message {
            Ok(Message::Text(text)) => text,
            Ok(_) => continue,
            // Codex leaves without a close frame and without TLS's close_notify.
            Err(tungstenite::Error::Io(error)) if error.kind() == ErrorKind::UnexpectedEof => break,
            Err(tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => break,
            Err(error) => return Err(error.into()),
        };
        let request: Value = serde_json::from_str(text.as_str())?;
        let kind = request.get("type").and_then(Value::as_str);
        let answer = Answer::to(&request, &service.script);
        service.log.write(&Seen {
            method: kind.unwrap_or_default().to_owned(),
            step: Some(answer.outputs_seen),
            outputs: new_outputs(&request),
            ..upgrade.clone()
        })?;
        service.hold.lets_go(answer.outputs_seen).await;
        for event in answer.events() {
            socket.send(Message::text(event.to_string())).await?;
        }
    }
    Ok(())
}
