//! HTTP/1.1 over a fresh connection.

use std::rc::Rc;

use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::gate::body::Uploaded;
use crate::gate::state::Gate;
use crate::gate::via::Forwarder;

use super::MAX_ORIGIN_HEAD;
use super::pool::{Http1, Place};

/// Shakes hands. The connection ends when the sender is dropped; its errors reach whoever waits for an
/// answer. `forwarder` is the proxy at its end, where it is not the origin's.
pub(super) async fn open(
    gate: &Gate,
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    forwarder: Option<Rc<Forwarder>>,
    place: Place,
) -> Option<Http1> {
    let (sender, connection) = handshake(stream).await?;
    run(gate, connection, place);
    Some(Http1 { sender, forwarder })
}

/// The same for a connection that may become something else (a 101): the place is then also the
/// caller's to hold.
pub(super) async fn open_for_upgrade(
    gate: &Gate,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    place: Place,
) -> Option<Http1> {
    let (sender, connection) = handshake(stream).await?;
    run(gate, connection.with_upgrades(), place);
    Some(Http1 {
        sender,
        forwarder: None,
    })
}

async fn handshake<S: AsyncRead + AsyncWrite + Unpin + 'static>(
    stream: S,
) -> Option<(SendRequest<Uploaded>, Connection<TokioIo<S>, Uploaded>)> {
    let mut builder = Builder::new();
    builder.max_buf_size(MAX_ORIGIN_HEAD);
    builder.handshake(TokioIo::new(stream)).await.ok()
}

/// Drives a connection to its end, or to the gate's.
fn run(
    gate: &Gate,
    connection: impl Future<Output = Result<(), hyper::Error>> + 'static,
    place: Place,
) {
    let mut closing = gate.pool.closing();
    tokio::task::spawn_local(async move {
        tokio::select! {
            ended = connection => drop(ended),
            closed = closing.wait_for(|closing| *closing) => drop(closed),
        }
        drop(place);
    });
}
