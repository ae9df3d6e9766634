//! Opens a WebSocket at an origin (RFC 6455), over a connection of its own that speaks HTTP/1.1. What
//! the origin answers is taken for a WebSocket only if it proves to have read the handshake.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use data_encoding::BASE64;
use hyper::body::Incoming;
use hyper::header::{
    CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE,
};
use hyper::upgrade::Upgraded;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;

use crate::audit::EndedBy;
use crate::gate::authorize::{Permit, Refusal};
use crate::gate::body::GateBody;
use crate::gate::dial::Carries;
use crate::gate::hop;
use crate::gate::state::Gate;
use crate::gate::tally::Tally;
use crate::gate::upload::Uploaded;
use crate::gate::websocket::lists;
use crate::policy::DenyReason;

use super::connect::{self, Dialed};
use super::exchange::{Exchange, Unanswered};
use super::http1;
use super::pool::{Place, Reusable};
use super::target::for_http1;

/// What the key is hashed with (RFC 6455 section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What became of a WebSocket's handshake.
#[derive(Debug)]
pub(in crate::gate) enum Opened {
    /// It is open. The head is a 101 as a client of HTTP/1.1 gets it.
    Switched(Response<()>, OriginStream),
    /// The origin answered something else, for the client to read.
    Answered(Response<GateBody>),
}

/// The origin's side of an open WebSocket: bytes of its frames. Its end is recorded when it is dropped.
#[derive(Debug)]
pub(in crate::gate) struct OriginStream {
    io: TokioIo<Upgraded>,
    tally: Rc<Tally>,
    _place: Place,
}

impl OriginStream {
    /// The account of the bytes that pass.
    pub(in crate::gate) fn tally(&self) -> Rc<Tally> {
        Rc::clone(&self.tally)
    }
}

/// Sends the permitted handshake. `request` is in origin-form and rid of the fields of one hop; its
/// `sec-websocket-*` fields are passed on.
pub(in crate::gate) async fn open_websocket(
    gate: &Rc<Gate>,
    permit: Permit,
    request: Request<Incoming>,
) -> Result<Opened, Refusal> {
    let (exchange, request) = Exchange::open(gate, &permit, request).await?;
    let Some(expected) = request.headers().get(SEC_WEBSOCKET_KEY).map(accept_for) else {
        let what = "a WebSocket without a key";
        return Err(exchange.fail(EndedBy::Gate, DenyReason::Malformed, what, None));
    };
    let broke_off = || exchange.refuse(&Unanswered::BrokeOff);
    let (opened, place) = match connect::open(&exchange, permit, Carries::Bytes).await? {
        Dialed::Plain(stream, _, place) => {
            let opened = http1::open_for_upgrade(gate, stream, Rc::clone(&place)).await;
            (opened, place)
        }
        Dialed::Secure(stream, place) => {
            let opened = http1::open_for_upgrade(gate, *stream, Rc::clone(&place)).await;
            (opened, place)
        }
    };
    let mut opened = opened.ok_or_else(broke_off)?;
    let tally = Rc::clone(&exchange.tally);
    let mut request = request.map(|_| Uploaded::empty(tally));
    for_http1(&mut request, &exchange.destination, None).ok_or_else(broke_off)?;
    switching(request.headers_mut());
    let answered = exchange.wait(opened.sender.try_send_request(request)).await;
    let mut response = answered.map_err(|unanswered| exchange.refuse(&unanswered))?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let connection = Reusable::once(opened);
        return Ok(Opened::Answered(exchange.answer(response, connection)));
    }
    if !is_accepted(response.headers(), &expected) {
        return Err(exchange.refuse(&Unanswered::NotWebsocket));
    }
    // The connection's task gives it away as soon as the head was read.
    let upgraded = timeout(gate.limits.dial, hyper::upgrade::on(&mut response)).await;
    let Ok(Ok(upgraded)) = upgraded else {
        return Err(broke_off());
    };
    let mut head = Response::new(());
    *head.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *head.headers_mut() = std::mem::take(response.headers_mut());
    hop::strip_response(head.headers_mut());
    switching(head.headers_mut());
    exchange.tally.upgraded();
    let stream = OriginStream {
        io: TokioIo::new(upgraded),
        tally: Rc::clone(&exchange.tally),
        _place: place,
    };
    Ok(Opened::Switched(head, stream))
}

fn switching(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
}

/// RFC 6455 section 4.1, the client's checks of a 101.
fn is_accepted(headers: &HeaderMap, expected: &str) -> bool {
    let mut accepts = headers.get_all(SEC_WEBSOCKET_ACCEPT).iter();
    let accept = accepts.next().filter(|_| accepts.next().is_none());
    let mut upgrades = headers.get_all(UPGRADE).iter();
    let upgrade = upgrades.next().filter(|_| upgrades.next().is_none());
    accept.is_some_and(|accept| accept.as_bytes() == expected.as_bytes())
        && upgrade.is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"))
        && lists(headers, &CONNECTION, "upgrade")
}

/// The `Sec-WebSocket-Accept` that proves that this key was read.
fn accept_for(key: &HeaderValue) -> String {
    let hash = digest(
        &SHA1_FOR_LEGACY_USE_ONLY,
        &[key.as_bytes().trim_ascii(), GUID].concat(),
    );
    BASE64.encode(hash.as_ref())
}

// === impl OriginStream ===

impl AsyncRead for OriginStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl AsyncWrite for OriginStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_value_is_that_of_the_rfc() {
        // RFC 6455 section 1.3.
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(accept_for(&key), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
