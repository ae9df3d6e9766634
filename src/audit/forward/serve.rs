//! Answers `GET /metrics` on a Unix socket and on the loopback: HTTP/1.1, few connections, a short time each.

use std::cell::RefCell;
use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

use super::config::Metrics;
use super::metrics::Numbers;

/// The most connections at a time; others wait to be accepted.
const CONNECTIONS: usize = 8;

/// How long a connection may take.
const TIME: Duration = Duration::from_secs(15);

/// How often it is looked whether to end.
const LOOK: Duration = Duration::from_millis(200);

/// Listens until it is told to stop.
pub async fn serve(config: &Metrics, numbers: Numbers, stop: &AtomicBool) -> io::Result<()> {
    let numbers = Rc::new(RefCell::new(numbers));
    let unix = config.socket.as_deref().map(listen_unix).transpose()?;
    let tcp = match config.listen {
        Some(address) => Some(TcpListener::bind(address).await?),
        None => None,
    };
    let slots = std::sync::Arc::new(Semaphore::new(CONNECTIONS));
    let local = tokio::task::LocalSet::new();
    let accept = async {
        loop {
            let Ok(slot) = slots.clone().acquire_owned().await else {
                return;
            };
            let numbers = numbers.clone();
            tokio::select! {
                Some(Ok((stream, _))) = maybe(unix.as_ref().map(UnixListener::accept)) => {
                    tokio::task::spawn_local(async move { answer(stream, numbers).await; drop(slot); });
                }
                Some(Ok((stream, _))) = maybe(tcp.as_ref().map(TcpListener::accept)) => {
                    tokio::task::spawn_local(async move { answer(stream, numbers).await; drop(slot); });
                }
                () = tokio::time::sleep(LOOK) => {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                }
            }
        }
    };
    local.run_until(accept).await;
    if let Some(path) = &config.socket {
        fs::remove_file(path).ok();
    }
    Ok(())
}

async fn maybe<T>(future: Option<impl Future<Output = T>>) -> Option<T> {
    match future {
        Some(future) => Some(future.await),
        None => std::future::pending().await,
    }
}

/// A socket for whoever may enter its folder. One that is left of an earlier process is replaced, nothing else is.
fn listen_unix(path: &Path) -> io::Result<UnixListener> {
    if fs::symlink_metadata(path).is_ok_and(|there| there.file_type().is_socket()) {
        fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin, numbers: Rc<RefCell<Numbers>>) {
    let service = service_fn(|request: Request<Incoming>| {
        let response = respond(&request, &numbers);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(TIME)
        .serve_connection(TokioIo::new(stream), service);
    // Whoever asks sees what went wrong.
    drop(tokio::time::timeout(TIME, connection).await);
}

fn respond(request: &Request<Incoming>, numbers: &RefCell<Numbers>) -> Response<Full<Bytes>> {
    let (status, kind, body) = if request.uri().path() != "/metrics" {
        (
            StatusCode::NOT_FOUND,
            "text/plain",
            "only /metrics is here\n".to_owned(),
        )
    } else if request.method() == Method::GET {
        match numbers.borrow_mut().text() {
            Ok(text) => {
                let kind = "text/plain; version=0.0.4; charset=utf-8";
                (StatusCode::OK, kind, text)
            }
            Err(error) => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "text/plain",
                format!("{error}\n"),
            ),
        }
    } else {
        (
            StatusCode::METHOD_NOT_ALLOWED,
            "text/plain",
            "GET\n".to_owned(),
        )
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let kind = hyper::header::HeaderValue::from_static(kind);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
