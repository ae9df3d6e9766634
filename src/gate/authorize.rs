//! The choke point. Every door of the gate comes here with an [`EgressRequest`]; nothing leaves
//! without the [`Permit`] that only [`authorize`] makes, after the decision was recorded and the
//! audit writer has acknowledged it. (In XACML's words: the policy decision point is
//! `policy::decide`, this is the enforcement point.)

use std::rc::Rc;

use tokio::time::Instant;

use crate::audit::{AuditEvent, redact};
use crate::ids::ConnId;
use crate::policy::{
    Answered, Decision, DenyReason, EgressRequest, Handling, Host, Port, RuleId, Transport,
    Verdict, WebsocketPolicy, decide,
};

use super::budget::{self, Seen};
use super::open::Lease;
use super::placeholder;
use super::questions::{self, Outcome};
use super::report::AuditLost;
use super::respond::UPGRADE_REQUIRED;
use super::state::Gate;
use super::witness::By;

/// The longest path that goes into a record.
const MAX_RECORDED_PATH: usize = 1024;

/// Proof that a decision allowed this destination and that the decision is on record. Consumed by
/// the dial (or by the reuse of a connection to the same destination); cannot be copied or made up.
#[must_use = "a permit that is not used is a decision without a consequence"]
#[derive(Debug)]
pub(super) struct Permit {
    destination: Destination,
    since: Instant,
    lease: Rc<Lease>,
}

impl Permit {
    /// What is permitted.
    pub(super) fn destination(&self) -> &Destination {
        &self.destination
    }

    /// What a new policy can take back.
    pub(super) fn lease(&self) -> &Rc<Lease> {
        &self.lease
    }

    /// When it was decided.
    pub(super) fn since(&self) -> Instant {
        self.since
    }
}

/// What a [`Permit`] was given for. Permits nothing itself.
#[derive(Debug, Clone)]
pub(super) struct Destination {
    /// The connection that asked.
    pub(super) conn: ConnId,
    /// The front door.
    pub(super) transport: Transport,
    /// Where to.
    pub(super) host: Host,
    /// The port there.
    pub(super) port: Port,
    /// What becomes of a tunnel's bytes.
    pub(super) handling: Handling,
    /// The rule that allowed it.
    pub(super) rule: Option<RuleId>,
    /// Who made the connection.
    pub(super) by: By,
}

impl Destination {
    /// Records why a permitted request came to nothing, and makes the answer for the client.
    pub(super) fn fail(&self, gate: &Gate, reason: DenyReason, detail: String) -> Refusal {
        let whom = (&self.host, self.port);
        gate.summary.count_refused(whom, self.transport, reason);
        let (process, process_unknown) = self.by.fields(&gate.keyring);
        gate.reporter.note(AuditEvent::EgressRefused {
            conn: self.conn,
            transport: self.transport,
            reason,
            detail,
            process,
            process_unknown,
        });
        Refusal {
            reason,
            host: Some(self.host.clone()),
            port: Some(self.port),
            rule: self.rule.clone(),
            detail: None,
        }
    }
}

/// The opposite of a permit: what the client is told. Already recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// Why.
    pub(super) reason: DenyReason,
    /// The host as asked for, where one could be read.
    pub(super) host: Option<Host>,
    /// The port as asked for.
    pub(super) port: Option<Port>,
    /// The rule that decided.
    pub(super) rule: Option<RuleId>,
    /// One word more, from a list of ours: never what a peer said.
    pub(super) detail: Option<&'static str>,
}

impl Refusal {
    /// Records a request that never became an [`EgressRequest`], and makes the answer for the client.
    /// Waits for the acknowledgement, so that a client that only sends rubbish is slowed to the pace
    /// of the log.
    pub(super) async fn unreadable(
        gate: &Gate,
        conn: ConnId,
        transport: Transport,
        reason: DenyReason,
        detail: String,
    ) -> Self {
        let (process, process_unknown) = gate.witness.by(conn).await.fields(&gate.keyring);
        let recorded = gate
            .reporter
            .record(AuditEvent::EgressRefused {
                conn,
                transport,
                reason,
                detail,
                process,
                process_unknown,
            })
            .await;
        Self {
            reason: recorded.map_or(DenyReason::AuditUnavailable, |()| reason),
            host: None,
            port: None,
            rule: None,
            detail: None,
        }
    }
}

/// Decides, records, waits for the acknowledgement; then and only then answers. Where the policy asks,
/// so do we: the answer is on record before it counts, and the policy has the last word. `seen` is what
/// leaves with the head of a request that the gate reads ([`Seen::of`]), nothing for a tunnel.
pub(super) async fn authorize(
    gate: &Rc<Gate>,
    conn: ConnId,
    request: EgressRequest,
    seen: Seen,
) -> Result<Permit, Refusal> {
    decide_and_record(gate, None, conn, request, seen).await
}

/// The same for a request inside a tunnel that the gate has opened: an approval of the tunnel covers
/// what is asked for within, unless a rule asks about just that.
pub(super) async fn authorize_within(
    gate: &Rc<Gate>,
    tunnel: &Lease,
    conn: ConnId,
    request: EgressRequest,
    seen: Seen,
) -> Result<Permit, Refusal> {
    decide_and_record(gate, Some(tunnel), conn, request, seen).await
}

async fn decide_and_record(
    gate: &Rc<Gate>,
    tunnel: Option<&Lease>,
    conn: ConnId,
    request: EgressRequest,
    seen: Seen,
) -> Result<Permit, Refusal> {
    // A request within a tunnel is made by whoever made that. Waited for before anything is decided.
    let by = gate
        .witness
        .by(tunnel.map_or(conn, |tunnel| tunnel.asked().0))
        .await;
    // A program that resolves first and then asks a proxy for the address means the name.
    let request = EgressRequest {
        host: gate.names.host(request.host),
        ..request
    };
    // What asking came to, once it was done.
    let mut answer = None;
    // Whether the budgets have counted it: once, however often it is decided.
    let mut admitted = false;
    loop {
        let rules = gate.rules();
        let mut decision = decide(&rules, &request);
        let asks = decision.verdict == Verdict::Ask;
        let known = match answer.take() {
            _ if !asks => None,
            Some(answer) => Some(answer),
            None => standing_answer(gate, tunnel, &request, &decision),
        };
        if let Some((answered, by)) = known {
            answered_by(&mut decision, answered, by);
        }
        // Nothing leaves by the opening of a tunnel that is looked into: the requests within count.
        let counts = !is_looked_into(&request, decision.handling);
        if decision.verdict == Verdict::Allow && counts && !admitted {
            admitted = budget::admit(gate, conn, &request, seen).await;
            if !admitted {
                decision.verdict = Verdict::Deny;
                decision.reason = Some(DenyReason::BudgetExhausted);
            }
        }
        if record(gate, (conn, &by), &request, &decision)
            .await
            .is_err()
        {
            return Err(refused(request, DenyReason::AuditUnavailable, None));
        }
        gate.until_policy_stands().await;
        let overtaken = decision.generation != *gate.rules().generation();
        match decision.verdict {
            // A new policy came into force meanwhile; what it denies, or asks, counts.
            Verdict::Allow if overtaken => {}
            Verdict::Allow => return Ok(permit(gate, (conn, by), request, decision, asks)),
            Verdict::Ask => match questions::ask(gate, conn, &request, &decision).await {
                Outcome::Allowed(by) => answer = Some((Answered::Allow, by)),
                Outcome::Denied(by) => answer = Some((Answered::Deny, by)),
                Outcome::Superseded => {}
                Outcome::AuditLost => {
                    return Err(refused(request, DenyReason::AuditUnavailable, None));
                }
            },
            Verdict::Deny => {
                let reason = decision.reason.unwrap_or(DenyReason::HostNotAllowed);
                let specific = decision.specific && reason == DenyReason::NotApproved;
                gate.summary.count_denied(&request, reason, specific);
                let upgrade_required = reason == DenyReason::WebsocketNotAllowed
                    && rules.websocket() == WebsocketPolicy::UpgradeRequired;
                return Err(Refusal {
                    detail: upgrade_required.then_some(UPGRADE_REQUIRED),
                    ..refused(request, reason, decision.rule)
                });
            }
        }
    }
}

/// An answer that was given before and covers this request: for the whole session, or for the tunnel
/// that it comes through.
fn standing_answer(
    gate: &Gate,
    tunnel: Option<&Lease>,
    request: &EgressRequest,
    decision: &Decision,
) -> Option<(Answered, RuleId)> {
    let inside = || {
        let approved = !decision.specific && tunnel.is_some_and(|tunnel| tunnel.approves(request));
        approved.then(|| (Answered::Allow, RuleId::new("approved with its tunnel")))
    };
    gate.questions.remembered(request, decision).or_else(inside)
}

/// Turns "ask" into what was answered.
fn answered_by(decision: &mut Decision, answered: Answered, by: RuleId) {
    decision.rule = Some(by);
    (decision.verdict, decision.reason) = match answered {
        Answered::Allow => (Verdict::Allow, None),
        Answered::Deny => (Verdict::Deny, Some(DenyReason::NotApproved)),
    };
}

async fn record(
    gate: &Gate,
    (conn, by): (ConnId, &By),
    request: &EgressRequest,
    decision: &Decision,
) -> Result<(), AuditLost> {
    let (process, process_unknown) = by.fields(&gate.keyring);
    let recorded = gate.reporter.record(AuditEvent::EgressDecided {
        conn,
        transport: request.transport,
        host: request.host.clone(),
        port: request.port,
        method: request.method.clone(),
        path: request
            .path
            .as_deref()
            .map(|path| recorded_path(gate, path)),
        verdict: decision.verdict,
        reason: decision.reason,
        rule: decision.rule.clone(),
        generation: decision.generation.clone(),
        process,
        process_unknown,
    });
    recorded.await
}

/// The one place that makes a permit. No await stands between the last look at the policy and here.
fn permit(
    gate: &Gate,
    (conn, by): (ConnId, By),
    request: EgressRequest,
    decision: Decision,
    approved: bool,
) -> Permit {
    if !is_looked_into(&request, decision.handling) {
        gate.summary.count_allowed();
        gate.counters.count_request(&request.host, request.port);
    }
    let destination = Destination {
        conn,
        transport: request.transport,
        host: request.host.clone(),
        port: request.port,
        handling: decision.handling,
        rule: decision.rule,
        by,
    };
    Permit {
        destination,
        since: Instant::now(),
        lease: gate
            .leases
            .grant(conn, request, decision.handling, approved),
    }
}

/// Whether it opens a tunnel that ends at the gate.
fn is_looked_into(request: &EgressRequest, handling: Handling) -> bool {
    request.transport.is_tunnel() && handling == Handling::Inspect
}

fn refused(request: EgressRequest, reason: DenyReason, rule: Option<RuleId>) -> Refusal {
    Refusal {
        reason,
        port: Some(request.port),
        host: Some(request.host),
        rule,
        detail: None,
    }
}

/// A path as records have it: without the session's own credentials, however they are encoded, and without what
/// looks like a secret; then [`capped`], so that no beginning of one is left.
pub(super) fn recorded_path(gate: &Gate, path: &str) -> String {
    let values = gate.keyring.values();
    if placeholder::find_in_target(values, path.as_bytes()).is_some() {
        return format!("/{}", String::from_utf8_lossy(placeholder::SCRUBBED));
    }
    let mut path = path.to_owned();
    redact::text(&mut path);
    capped(path)
}

/// At most [`MAX_RECORDED_PATH`] bytes, cut between characters.
fn capped(mut path: String) -> String {
    let mut end = path.len().min(MAX_RECORDED_PATH);
    while !path.is_char_boundary(end) {
        end -= 1;
    }
    path.truncate(end);
    path
}
