//! How a permitted request gets to its origin and its answer back: plain HTTP as it came, and what came
//! out of TLS over TLS again, verified. HTTP/2 where the origin has it, else HTTP/1.1. Bodies are
//! streamed. There is no cache of responses.
//!
//! [`forward`] and [`open_websocket`] are the ways in; [`connect`] is from a permit to a connection,
//! [`pool`] knows those that stand, [`choices`] who waits for whom, [`exchange`] is one request on one of them.

mod choices;
mod connect;
mod exchange;
mod http1;
mod http2;
mod pool;
mod target;
#[cfg(test)]
mod tests;
mod websocket;

use std::rc::Rc;

use hyper::body::Incoming;
use hyper::{Request, Response};

use super::authorize::{Permit, Refusal};
use super::body::GateBody;
use super::state::Gate;
use super::upload::Uploaded;

use exchange::{Exchange, Unanswered};

#[cfg(test)]
pub(super) use pool::places;
pub(super) use pool::{Pool, Reusable};
pub(super) use websocket::{Opened, OriginStream, open_websocket};

/// The longest head of an answer.
const MAX_ORIGIN_HEAD: usize = 128 << 10;

/// Sends a permitted request to its origin and answers with what comes back. `request` is in
/// origin-form and rid of the fields of one hop; its version is the client's (HTTP/2 has trailers passed
/// on). What was inspected goes over TLS, nothing else does.
pub(super) async fn forward(
    gate: &Rc<Gate>,
    permit: Permit,
    request: Request<Incoming>,
) -> Result<Response<GateBody>, Refusal> {
    let (exchange, request) = Exchange::open(gate, &permit, request).await?;
    let spare = exchange.copy_if_repeatable(&request);
    let tally = Rc::clone(&exchange.tally);
    let mut request = request.map(|content| Uploaded::new(exchange.upward(content), tally));
    // 1. Over a connection that stands: the addresses behind it were checked when it was dialed.
    if let Some(lane) = gate.pool.take(&exchange.key()).await {
        exchange.tally.reuses();
        request = match (exchange.send(lane, request).await, spare) {
            (Ok(response), _) => return Ok(response),
            (Err(Unanswered::Unsent(request)), _) => *request,
            // The origin closed the idle connection just as it was used again.
            (Err(Unanswered::BrokeOff), Some(spare)) => spare,
            (Err(unanswered), _) => return Err(exchange.refuse(&unanswered)),
        };
    }
    // 2. Over one of its own, or over one that another request has just made.
    let lane = connect::lane(&exchange, permit).await?;
    let answered = exchange.send(lane, request).await;
    answered.map_err(|unanswered| exchange.refuse(&unanswered))
}
