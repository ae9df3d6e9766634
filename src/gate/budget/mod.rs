//! Budgets: how much one session may send, receive and ask for, and what follows when that is used up.
//!
//! Owns: the meters, the order *check every budget, then charge all of them*, the `limit.hit` records
//! and what the session is told of them. Trusts: the policy; of the jail only what was counted here.
//! Never: lets a byte go for which no room was taken, nor gives room back for a byte that may have gone.
//!
//! What is counted is payload, as in `egress.closed`, and the heads of requests that the gate sees;
//! DNS, TLS handshakes of the gate's own and TCP/IP are not. A relay takes from its [`Account`] before it
//! sends; a request is [`admit`]ted between its decision and its record.

mod account;
mod ledger;
mod meter;
mod scope;

pub(super) use account::Account;
pub(super) use ledger::{Ledger, serve};

use std::future::poll_fn;

use hyper::Request;

use crate::audit::AuditEvent;
use crate::ids::ConnId;
use crate::policy::{EgressRequest, HostPattern};
use crate::wire::gate::GateReply;

use super::state::Gate;
use meter::{Meter, Waiter};
use scope::Asked;

/// What of a request leaves in its head, in bytes. Nothing of a tunnel does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Path and query.
    pub(super) url: u64,
    /// Names and values of all fields.
    pub(super) header: u64,
}

impl Seen {
    /// Measures a request that the gate reads.
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        let fields = request.headers().iter();
        let header = fields
            .map(|(name, value)| (name.as_str().len() + value.len()) as u64)
            .sum();
        let url = request.uri().path_and_query();
        Self {
            url: url.map_or(0, |url| url.as_str().len() as u64),
            header,
        }
    }
}

/// Whether every budget has room for this request; then it is counted. Waits where somebody is asked.
pub(super) async fn admit(gate: &Gate, conn: ConnId, request: &EgressRequest, seen: Seen) -> bool {
    let asked = Asked {
        conn,
        request,
        seen,
        named: gate.rules().names(&request.host),
    };
    let waiter = Waiter::default();
    poll_fn(|context| gate.ledger.poll_admit(gate, context, &waiter, asked)).await
}

/// A limit is crossed: on record once, told once. The record comes before that of its consequence; it
/// is acknowledged with it at the latest.
fn hit(gate: &Gate, meter: &Meter, host: Option<HostPattern>) {
    let Some(notice) = meter.crossing(host) else {
        return;
    };
    gate.reporter.note(AuditEvent::LimitHit {
        what: notice.what.into(),
        host: notice.host.clone(),
        used: notice.used,
        max: notice.max,
        action: notice.action.into(),
    });
    if meter.is_untold() {
        gate.ledger.remember(&notice);
        // A session that does not listen: the limit holds all the same.
        gate.control.tell(GateReply::Limit(notice)).ok();
    }
}
