//! A decision told to a person: what, by which rule, why, and what would change it.

use super::address::AddressPolicy;
use super::decision::{Decision, DenyReason, Handling, Verdict};
use super::host::Host;
use super::judgement::decide;
use super::profile::TlsHandling;
use super::question::Question;
use super::remedy::remedy;
use super::request::{EgressRequest, Transport};
use super::ruleset::Ruleset;

/// A decision with all there is to say about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The request that was decided about: the one inside the tunnel where the gate opens it and lets
    /// the tunnel itself through, else the one at the door.
    pub request: EgressRequest,
    /// Whether the gate opens the TLS of this request.
    pub inspected: bool,
    /// The decision, with the address policy asked too where the host is an address.
    pub decision: Decision,
    /// What would let a denied request through.
    pub remedy: Option<String>,
    /// What a reader might miss.
    pub notes: Vec<&'static str>,
}

/// Judges a question as a session's gate would, as far as that goes without resolving the name: first
/// what comes to the door, then, in a tunnel that the gate opens, the request inside.
pub fn explain(rules: &Ruleset, question: &Question) -> Explanation {
    let (request, decision) = judge(rules, question);
    let remedy = decision.reason.and_then(|reason| remedy(request, reason));
    let opened = request.transport.is_tunnel()
        && decision.verdict != Verdict::Deny
        && decision.handling == Handling::Inspect;
    let inspected = opened || request.transport == Transport::Inspected;
    Explanation {
        request: request.clone(),
        inspected,
        notes: notes(rules, &decision, request, inspected),
        remedy,
        decision,
    }
}

/// What decides, and about which of the two requests.
fn judge<'q>(rules: &Ruleset, question: &'q Question) -> (&'q EgressRequest, Decision) {
    let judged = |request| with_address(decide(rules, request), request, rules.addresses());
    let door = judged(&question.door);
    match &question.inside {
        Some(inside) if door.verdict != Verdict::Deny && door.handling == Handling::Inspect => {
            let within = judged(inside);
            match (door.verdict, within.verdict) {
                // The tunnel is not opened before somebody said yes.
                (Verdict::Ask, Verdict::Allow) => (inside, door),
                _ => (inside, within),
            }
        }
        _ => (&question.door, door),
    }
}

/// An address literal needs no resolver: what the gate would find when it dials is known now.
fn with_address(
    decision: Decision,
    request: &EgressRequest,
    addresses: &AddressPolicy,
) -> Decision {
    let Host::Addr(address) = request.host else {
        return decision;
    };
    match (decision.verdict, addresses.check(address)) {
        (Verdict::Allow | Verdict::Ask, Err(class)) => Decision {
            verdict: Verdict::Deny,
            reason: Some(DenyReason::AddressRefused(class)),
            ..decision
        },
        _ => decision,
    }
}

fn notes(
    rules: &Ruleset,
    decision: &Decision,
    request: &EgressRequest,
    inspected: bool,
) -> Vec<&'static str> {
    let mut notes = Vec::new();
    // A refusal at the door says nothing of what would become of the tunnel.
    let would_be_inspected = || {
        decision.verdict == Verdict::Deny && rules.tls_for(&request.host) == TlsHandling::Inspect
    };
    if inspected {
        notes.push("TLS to this host ends at the gate, which judges every request inside");
    } else if request.transport.is_tunnel() && would_be_inspected() {
        notes.push(
            "the tunnel is refused before any TLS; were it allowed, the gate would judge every request inside",
        );
    } else if request.transport.is_tunnel() {
        notes.push("method and path are inside a tunnel, where the gate does not see them");
    }
    let unlisted = decision.reason == Some(DenyReason::HostNotAllowed);
    match &request.host {
        Host::Name(_) if decision.verdict == Verdict::Allow => notes.push(
            "the name is resolved when a session asks for it; addresses of private ranges are refused then",
        ),
        Host::Name(name) if unlisted && name.is_single_label() => {
            notes.push("a name without a dot is allowed by its own rule alone, by no wildcard");
        }
        Host::Addr(_) if unlisted => {
            notes.push("an address is allowed by its own rule alone, by no wildcard");
        }
        Host::Name(_) | Host::Addr(_) => {}
    }
    notes
}
