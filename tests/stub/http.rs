//! The HTTPS side: responses as server-sent events, the list of models, the WebSocket's upgrade.

use std::convert::Infallible;
use std::error::Error;
use std::fmt::Write;
use std::io::Read;
use std::sync::Arc;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use ruzstd::decoding::StreamingDecoder;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::agent::{Answer, new_outputs};
use crate::hold::Hold;
use crate::log::{RequestLog, Seen};
use crate::script::Script;
use crate::websocket;

/// What every connection shares.
pub(crate) struct Service {
    /// What the model says.
    pub(crate) script: Script,
    /// What was seen.
    pub(crate) log: RequestLog,
    /// The `Authorization` that requests should have.
    pub(crate) authorization: String,
    /// Whether requests with another one are answered 401.
    pub(crate) strict: bool,
    /// What holds answers back.
    pub(crate) hold: Hold,
}

/// Accepts for ever.
pub(crate) async fn serve(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    service: Arc<Service>,
) -> Result<(), Box<dyn Error>> {
    loop {
        let (stream, _) = listener.accept().await?;
        let (acceptor, service) = (acceptor.clone(), Arc::clone(&service));
        tokio::spawn(async move {
            if let Err(error) = connection(stream, acceptor, service).await {
                crate::log::complain("connection", error.as_ref());
            }
        });
    }
}

async fn connection(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    service: Arc<Service>,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let tls = acceptor.accept(stream).await?;
    let sni = tls.get_ref().1.server_name().map(str::to_owned);
    let answer = service_fn(move |request| {
        let (service, sni) = (Arc::clone(&service), sni.clone());
        async move { Ok::<_, Infallible>(respond(request, sni, service).await) }
    });
    hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(tls), answer)
        .with_upgrades()
        .await?;
    Ok(())
}

async fn respond(
    request: Request<Incoming>,
    sni: Option<String>,
    service: Arc<Service>,
) -> Response<Full<Bytes>> {
    let seen = seen(&request, sni, &service.authorization);
    let is_upgrade = request.headers().contains_key(header::SEC_WEBSOCKET_KEY);
    let responses = seen.path.ends_with("/responses");
    let answer = match *request.method() {
        _ if service.strict && !seen.authorized => {
            let wrong = json!({"error": {"message": "another token is wanted", "type": "invalid_request_error",
                "code": "token_expired"}});
            note(&service, &seen).map(|()| json_body(StatusCode::UNAUTHORIZED, &wrong))
        }
        Method::GET if responses && is_upgrade => websocket::upgrade(request, seen, service),
        Method::POST if responses => stream_answer(request, seen, &service).await,
        Method::GET if seen.path.ends_with("/models") => {
            let models = json!({"object": "list", "data": [], "models": []});
            note(&service, &seen).map(|()| json_body(StatusCode::OK, &models))
        }
        // What a workspace's administrators set; without an answer Codex does not start for its members.
        Method::GET if seen.path.contains("/wham/config/") => {
            note(&service, &seen).map(|()| json_body(StatusCode::OK, &json!({})))
        }
        // Where the account's workspace is served: 0.169 asks before it talks to the model.
        Method::GET if seen.path.ends_with("/accounts/check") => {
            let accounts = json!({"accounts": [{
                "id": seen.account, "plan_type": "plus",
                "workspace_backend_origin": format!("https://{}", seen.host.as_deref().unwrap_or_default()),
                "account_routing_override": "NO_CONSTRAINT",
            }]});
            note(&service, &seen).map(|()| json_body(StatusCode::OK, &accounts))
        }
        _ => {
            let missing = json!({"error": {"message": format!("no {}", seen.path)}});
            note(&service, &seen).map(|()| json_body(StatusCode::NOT_FOUND, &missing))
        }
    };
    answer.unwrap_or_else(|error| {
        let broken = json!({"error": {"message": error.to_string()}});
        json_body(StatusCode::BAD_REQUEST, &broken)
    })
}

async fn stream_answer(
    request: Request<Incoming>,
    mut seen: Seen,
    service: &Service,
) -> Result<Response<Full<Bytes>>, Box<dyn Error + Send + Sync>> {
    // Codex compresses what it sends for a ChatGPT account.
    let compressed = text(request.headers(), header::CONTENT_ENCODING).as_deref() == Some("zstd");
    let mut body = request.into_body().collect().await?.to_bytes().to_vec();
    if compressed {
        let sent = std::mem::take(&mut body);
        StreamingDecoder::new(sent.as_slice())?.read_to_end(&mut body)?;
    }
    let body: Value = serde_json::from_slice(&body)?;
    let answer = Answer::to(&body, &service.script);
    seen.transport = "sse";
    seen.step = Some(answer.outputs_seen);
    seen.outputs = new_outputs(&body);
    note(service, &seen)?;
    service.hold.lets_go(answer.outputs_seen).await;
    let mut text = String::new();
    for event in answer.events() {
        let kind = event
            .get("type")
            .and_then(Value::as_str)
            .unwrap_or_default();
        write!(text, "event: {kind}\ndata: {event}\n\n")?;
    }
    Ok(response(StatusCode::OK, "text/event-stream", text))
}

/// Writes a request down before it is answered: what is not in the log was not served.
fn note(service: &Service, seen: &Seen) -> Result<(), Box<dyn Error + Send + Sync>> {
    Ok(service.log.write(seen)?)
}

fn seen(request: &Request<Incoming>, sni: Option<String>, expected: &str) -> Seen {
    let text = |name| text(request.headers(), name);
    Seen {
        transport: "http",
        method: request.method().to_string(),
        path: request.uri().path().to_owned(),
        host: text(header::HOST),
        sni,
        authorization: request.headers().contains_key(header::AUTHORIZATION),
        authorized: text(header::AUTHORIZATION).as_deref() == Some(expected),
        account: text(HeaderName::from_static("chatgpt-account-id")),
        user_agent: text(header::USER_AGENT),
        step: None,
        outputs: Vec::new(),
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

fn json_body(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    response(status, "application/json", body.to_string())
}

fn response(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
