//! The choke point. Every door of the gate comes here with an [`EgressRequest`]; nothing leaves
//! without the [`Permit`] that only [`authorize`] makes, after the decision was recorded and the
//! audit writer has acknowledged it. (In XACML's words: the policy decision point is
//! `policy::decide`, this is the enforcement point.)

use tokio::time::Instant;

use crate::audit::AuditEvent;
use crate::ids::ConnId;
use crate::policy::{
    DenyReason, EgressRequest, Handling, Host, Port, RuleId, Transport, Verdict, decide,
};

use super::state::Gate;

/// The longest path that goes into a record.
const MAX_RECORDED_PATH: usize = 1024;

/// Proof that a decision allowed this destination and that the decision is on record. Consumed by
/// the dial (or by the reuse of a connection to the same destination); cannot be copied or made up.
#[must_use = "a permit that is not used is a decision without a consequence"]
#[derive(Debug)]
pub(super) struct Permit {
    destination: Destination,
    since: Instant,
}

impl Permit {
    /// What is permitted.
    pub(super) fn destination(&self) -> &Destination {
        &self.destination
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
}

impl Destination {
    /// Records why a permitted request came to nothing, and makes the answer for the client.
    pub(super) fn fail(&self, gate: &Gate, reason: DenyReason, detail: String) -> Refusal {
        gate.summary.count_denied(&self.host, self.port, reason);
        gate.reporter.note(AuditEvent::EgressRefused {
            conn: self.conn,
            transport: self.transport,
            reason,
            detail,
        });
        Refusal {
            reason,
            host: Some(self.host.clone()),
            port: Some(self.port),
            rule: self.rule.clone(),
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
        let recorded = gate
            .reporter
            .record(AuditEvent::EgressRefused {
                conn,
                transport,
                reason,
                detail,
            })
            .await;
        Self {
            reason: recorded.map_or(DenyReason::AuditUnavailable, |()| reason),
            host: None,
            port: None,
            rule: None,
        }
    }
}

/// Decides, records, waits for the acknowledgement; then and only then answers.
pub(super) async fn authorize(
    gate: &Gate,
    conn: ConnId,
    request: EgressRequest,
) -> Result<Permit, Refusal> {
    // A program that resolves first and then asks a proxy for the address means the name.
    let request = EgressRequest {
        host: gate.names.host(request.host),
        ..request
    };
    let decision = decide(&gate.rules(), &request);
    let recorded = gate.reporter.record(AuditEvent::EgressDecided {
        conn,
        transport: request.transport,
        host: request.host.clone(),
        port: request.port,
        method: request.method,
        path: request.path.map(capped),
        verdict: decision.verdict,
        reason: decision.reason,
        rule: decision.rule.clone(),
        generation: decision.generation,
    });
    let refused = |host, reason, rule| Refusal {
        reason,
        host: Some(host),
        port: Some(request.port),
        rule,
    };
    if recorded.await.is_err() {
        return Err(refused(request.host, DenyReason::AuditUnavailable, None));
    }
    match decision.verdict {
        Verdict::Allow => {
            gate.summary.count_allowed();
            Ok(Permit {
                destination: Destination {
                    conn,
                    transport: request.transport,
                    host: request.host,
                    port: request.port,
                    handling: decision.handling,
                    rule: decision.rule,
                },
                since: Instant::now(),
            })
        }
        // Nobody can be asked yet.
        Verdict::Ask => {
            let reason = DenyReason::NotApproved;
            gate.summary
                .count_denied(&request.host, request.port, reason);
            Err(refused(request.host, reason, decision.rule))
        }
        Verdict::Deny => {
            let reason = decision.reason.unwrap_or(DenyReason::HostNotAllowed);
            gate.summary
                .count_denied(&request.host, request.port, reason);
            Err(refused(request.host, reason, decision.rule))
        }
    }
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
