//! One line of policy: a matcher and its effect.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::host::{DomainName, Host};
use super::request::{Method, Port};

/// Which hosts a rule speaks of. Semantics as Codex's own network policy has them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum HostPattern {
    /// This name or address literal, nothing else.
    Exact(Host),
    /// `*.x`: every name below x, at any depth, not x itself.
    Below(DomainName),
    /// `**.x`: x and every name below it.
    AtOrBelow(DomainName),
    /// `*`: every name (never an address literal). Only for allow.
    Any,
}

/// What a rule does with a request it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Let it through.
    Allow,
    /// Refuse it; wins over every allow.
    Deny,
}

/// Names a rule in audit records and refusals: where it was written, as `network.domains."*.x"`,
/// `network.rules[2]`, `--allow x` or `registries.npm`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RuleId(pub String);

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One line of policy, valid by construction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Where it was written.
    pub id: RuleId,
    /// The hosts it speaks of.
    pub host: HostPattern,
    /// The ports it speaks of. Empty: an allow covers 80 and 443, a deny covers every port.
    pub ports: Vec<Port>,
    /// The methods it speaks of; empty: every method.
    pub methods: Vec<Method>,
    /// The path patterns it speaks of (`*` one segment, `**` any rest); empty: every path.
    pub paths: Vec<String>,
    /// What it does.
    pub effect: Effect,
}
impl TryFrom<String> for HostPattern {
    type Error = super::host::HostError;
    fn try_from(t: String) -> Result<Self, Self::Error> {
        Host::parse(&t).map(Self::Exact)
    }
}
impl From<HostPattern> for String {
    fn from(_p: HostPattern) -> Self {
        Self::new()
    }
}
