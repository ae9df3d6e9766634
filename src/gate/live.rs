//! A new policy while the session runs: recorded, then in force in one step, then what it does not
//! permit any more is ended. What was confined at the start stays so: ports that were out of reach then
//! are told, not opened.

use std::collections::BTreeSet;
use std::rc::Rc;

use crate::audit::AuditEvent;
use crate::policy::{NetworkPolicy, Port, Ruleset};
use crate::wire::gate::{Applied, GateReply};

use super::memory::Note;
use super::state::Gate;

/// The TCP ports that the gate's Landlock lets it connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reachable {
    /// Any: somebody may be asked for any.
    All,
    /// These alone.
    Only(BTreeSet<u16>),
}

impl Reachable {
    /// The ports that have to be listed.
    pub(super) fn listed(&self) -> impl Iterator<Item = &u16> {
        match self {
            Self::All => None,
            Self::Only(ports) => Some(ports),
        }
        .into_iter()
        .flatten()
    }
}

/// Puts a policy in force; answers what came of it.
pub(super) async fn apply(gate: &Gate, policy: &NetworkPolicy) -> GateReply {
    let policy = &match gate.terms.hold(policy) {
        Ok(held) => held,
        Err(why) => return GateReply::NotApplied(why),
    };
    if !gate.keyring.is_of(&policy.credentials) {
        let why =
            "the credentials of a running session cannot be changed; end it and start another";
        return GateReply::NotApplied(why.to_owned());
    }
    if policy.inspects() && gate.mitm.is_none() {
        let why = "the session started without looking into TLS, so its jail trusts no CA for that; end it \
                   and start another";
        return GateReply::NotApplied(why.to_owned());
    }
    let rules = Rc::new(Ruleset::compile(policy));
    let generation = rules.generation().clone();
    let unreachable = unreachable(gate, &rules);
    if generation == *gate.rules().generation() {
        return GateReply::Applied(Applied {
            generation,
            changed: false,
            closed: 0,
            unreachable,
        });
    }
    // From here on nothing is let through by the old one: see `until_policy_stands`.
    gate.changes.send_replace(true);
    // First of all, so that no gate that takes our place decides by an older one than we did. Should the
    // record fail, such a gate has it in force, and on record, a little early.
    gate.memory.keep(&Note::Policy(Box::new(policy.clone())));
    let recorded = gate.reporter.record(AuditEvent::PolicyApplied {
        generation: generation.clone(),
    });
    if recorded.await.is_err() {
        gate.changes.send_replace(false);
        return GateReply::NotApplied("the audit writer does not answer".to_owned());
    }
    gate.policy.replace(Rc::clone(&rules));
    gate.ledger.adopt(policy);
    // Connections are for the next request, which is judged anew; they are cheap to make again.
    gate.pool.clear();
    let closed = gate.leases.revoke(&rules);
    gate.changes.send_replace(false);
    GateReply::Applied(Applied {
        generation,
        changed: true,
        closed,
        unreachable,
    })
}

/// Ports that the rules let be reached and Landlock does not.
fn unreachable(gate: &Gate, rules: &Ruleset) -> Vec<Port> {
    match gate.reachable.get() {
        // The proxy dials them.
        Some(_) if gate.via.takes_everything(rules) => Vec::new(),
        Some(Reachable::Only(ports)) => rules
            .ports()
            .into_iter()
            .filter(|port| !ports.contains(&port.number()))
            .collect(),
        Some(Reachable::All) | None => Vec::new(),
    }
}
