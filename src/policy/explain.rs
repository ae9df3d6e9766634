//! A decision told to a person: what, by which rule, why, and what would change it.

use super::address::AddressPolicy;
use super::decision::{Decision, DenyReason, Verdict};
use super::host::Host;
use super::remedy::remedy;
use super::request::{EgressRequest, Transport};
use super::ruleset::{Ruleset, decide};

/// A decision with all there is to say about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The decision, with the address policy asked too where the host is an address.
    pub decision: Decision,
    /// What would let a denied request through.
    pub remedy: Option<String>,
    /// What a reader might miss.
    pub notes: Vec<&'static str>,
}

/// Judges a request as a session's gate would, as far as that goes without resolving the name.
pub fn explain(rules: &Ruleset, request: &EgressRequest) -> Explanation {
    let decision = with_address(decide(rules, request), request, rules.addresses());
    let remedy = decision.reason.and_then(|reason| remedy(request, reason));
    Explanation {
        notes: notes(&decision, request),
        remedy,
        decision,
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
        (Verdict::Allow, Err(class)) => Decision {
            verdict: Verdict::Deny,
            reason: Some(DenyReason::AddressRefused(class)),
            ..decision
        },
        _ => decision,
    }
}

fn notes(decision: &Decision, request: &EgressRequest) -> Vec<&'static str> {
    let mut notes = Vec::new();
    if request.transport != Transport::Forward {
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
