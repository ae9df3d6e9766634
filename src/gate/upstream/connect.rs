//! From a permit to a connection that requests can be sent over: dial, TLS where it is asked for, the
//! origin's choice of protocol.

use std::rc::Rc;

use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use crate::audit::EndedBy;
use crate::gate::authorize::{Permit, Refusal};
use crate::gate::dial::{Carries, dial};
use crate::gate::leg::Leg;
use crate::gate::origin_tls::{H2, Offer, TlsFailure};
use crate::gate::via::Forwarder;
use crate::policy::DenyReason;

use super::choices::Turn;
use super::exchange::{Exchange, Unanswered};
use super::pool::{Key, Lane, Place, Pool};
use super::{http1, http2};

/// A connection that stands by now, or one that is dialed. Requests that come while a first handshake is
/// under way wait for it once, because it may give them a session to share.
pub(super) async fn lane(exchange: &Exchange, permit: Permit) -> Result<Lane, Refusal> {
    let gate = &exchange.gate;
    let key = Key::from(permit.destination());
    let asking = match gate.pool.choices.turn(&key) {
        Some(Turn::Mine(asking)) => Some(asking),
        Some(Turn::Other(mut known)) => {
            let known = timeout(gate.limits.dial, known.changed());
            drop(unless_revoked(exchange, known).await?);
            if let Some(lane) = gate.pool.take(&key).await {
                exchange.tally.reuses();
                return Ok(lane);
            }
            None
        }
        None => None,
    };
    let dialed = open(exchange, permit, Carries::Requests).await?;
    let lane = match dialed {
        Dialed::Plain(stream, forwarder, place) => {
            let opened = http1::open(gate, stream, forwarder, place).await;
            opened.map(Lane::Http1)
        }
        Dialed::Secure(stream, place) => {
            if stream.get_ref().1.alpn_protocol() == Some(H2) {
                let session = http2::open(gate, *stream, place).await;
                session.map(|session| {
                    let stream = session.stream();
                    Pool::share(gate, &key, &session, exchange.epoch);
                    Lane::Http2(stream)
                })
            } else {
                gate.pool.choices.remember_http1(&key);
                let opened = http1::open(gate, *stream, None, place).await;
                opened.map(Lane::Http1)
            }
        }
    };
    drop(asking);
    lane.ok_or_else(|| exchange.refuse(&Unanswered::BrokeOff))
}

/// A connection nobody has spoken HTTP over yet.
#[derive(Debug)]
pub(super) enum Dialed {
    /// As it was judged; perhaps with a proxy at its end, which gets the requests.
    Plain(Leg, Option<Rc<Forwarder>>, Place),
    /// The same, verified.
    Secure(Box<TlsStream<Leg>>, Place),
}

/// Dials, and shakes hands where the permit is for what came out of TLS. What is to carry any bytes speaks
/// HTTP/1.1 with the origin itself.
pub(super) async fn open(
    exchange: &Exchange,
    permit: Permit,
    carries: Carries,
) -> Result<Dialed, Refusal> {
    let gate = Rc::clone(&exchange.gate);
    let secure = Key::from(permit.destination()).secure;
    let place = gate.pool.place(gate.limits.dial);
    let Some(place) = unless_revoked(exchange, place).await? else {
        let reason = DenyReason::TooManyConnections;
        let detail = "every connection to origins that the session may have is in use";
        return Err(exchange.destination.fail(&gate, reason, detail.to_owned()));
    };
    if !secure {
        let outbound = dial(&gate, permit, &exchange.tally, carries).await?;
        return Ok(Dialed::Plain(outbound.leg, outbound.forwarder, place));
    }
    let outbound = dial(&gate, permit, &exchange.tally, Carries::Bytes).await?;
    let offer = match carries {
        Carries::Requests => Offer::Any,
        Carries::Bytes => Offer::Http1,
    };
    let Some(tls) = &gate.origin_tls else {
        // Not without a mistake of ours: what is inspected needs it at start.
        return Err(exchange.fail(EndedBy::Gate, DenyReason::DialFailed, "no TLS", None));
    };
    let host = &outbound.destination.host;
    let shaken = timeout(gate.limits.dial, tls.connect(host, offer, outbound.leg));
    match unless_revoked(exchange, shaken).await? {
        Ok(Ok(stream)) => Ok(Dialed::Secure(Box::new(stream), place)),
        Ok(Err(failure)) => {
            let (by, what) = match failure {
                TlsFailure::Certificate(_) => (EndedBy::Gate, "the certificate is refused"),
                TlsFailure::Handshake(_) => (EndedBy::Upstream, "the TLS handshake failed"),
            };
            Err(exchange.fail(by, failure.reason(), what, Some(failure.word())))
        }
        Err(_) => {
            let what = "the TLS handshake was not over in time";
            Err(exchange.fail(EndedBy::Gate, DenyReason::TimedOut, what, None))
        }
    }
}

/// Waits for this, unless a new policy takes the permit back meanwhile.
async fn unless_revoked<T>(
    exchange: &Exchange,
    awaited: impl Future<Output = T>,
) -> Result<T, Refusal> {
    tokio::select! {
        biased;
        () = exchange.tally.until_revoked() => Err(exchange.refuse(&Unanswered::Revoked)),
        done = awaited => Ok(done),
    }
}
