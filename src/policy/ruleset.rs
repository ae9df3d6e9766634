//! Compiled rules and the one function that decides. A lookup costs one hash per label of the host,
//! however many rules there are, and allocates nothing.

use super::decision::Decision;
use super::profile::NetworkPolicy;
use super::request::EgressRequest;

/// A network policy, compiled for [`decide`].
#[derive(Debug)]
pub struct Ruleset {}

impl Ruleset {
    /// Compiles a valid policy; cannot fail.
    pub fn compile(_policy: &NetworkPolicy) -> Self {
        Self {}
    }
}

/// Judges one request: pure, total, and deny unless a rule allows.
pub fn decide(_rules: &Ruleset, _request: &EgressRequest) -> Decision {
    Decision {
        verdict: super::Verdict::Deny,
        reason: Some(super::DenyReason::HostNotAllowed),
        rule: None,
        generation: crate::ids::PolicyGeneration(String::new()),
    }
}
