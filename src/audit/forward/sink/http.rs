//! POST requests (HTTP/1.1), a connection each: a collector that answers 2xx has taken what was sent.

use std::path::Path;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;

use super::super::address::Address;
use super::super::source::Item;
use super::SinkError;
use super::stream::Dialer;

/// The most bytes of an answer that are read.
const MAX_ANSWER: usize = 64 << 10;

/// Somebody who takes POST requests.
pub(in super::super) struct Post {
    dialer: Dialer,
}

impl Post {
    pub(super) fn new(address: &Address, ca: Option<&Path>) -> Result<Self, SinkError> {
        let dialer = Dialer::new(address, ca)?;
        Ok(Self { dialer })
    }

    /// One request a checkpoint, in their order.
    pub(super) async fn send(&self, items: &[Item]) -> Result<(), SinkError> {
        for item in items {
            let body = Bytes::from(item.text.clone());
            self.post("application/json", body).await?;
        }
        Ok(())
    }

    /// Posts this; what was answered.
    pub(super) async fn post(&self, media_type: &str, body: Bytes) -> Result<Bytes, SinkError> {
        let stream = self.dialer.dial().await?;
        let failed = |error: hyper::Error| SinkError::Refused(format!("HTTP: {error}"));
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(failed)?;
        let request = Request::post(self.dialer.address.path.as_str())
            .header(HOST, self.dialer.address.authority())
            .header(
                USER_AGENT,
                concat!("portcullis/", env!("CARGO_PKG_VERSION")),
            )
            .header(CONTENT_TYPE, media_type)
            .body(Full::new(body));
        let request = request.map_err(|error| SinkError::Refused(error.to_string()))?;
        let exchange = async {
            let answer = sender.send_request(request).await.map_err(failed)?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
            let body = body.map_err(|error| SinkError::Refused(format!("HTTP: {error}")))?;
            Ok::<_, SinkError>((status, body.to_bytes()))
        };
        let mut exchange = std::pin::pin!(exchange);
        let mut connection = std::pin::pin!(connection);
        let (status, body) = tokio::select! {
            answer = &mut exchange => answer?,
            ended = &mut connection => {
                ended.map_err(failed)?;
                exchange.await?
            }
        };
        if status.is_success() {
            return Ok(body);
        }
        Err(refused(status))
    }
}

fn refused(status: StatusCode) -> SinkError {
    SinkError::Refused(format!("the receiver answered {status}"))
}
