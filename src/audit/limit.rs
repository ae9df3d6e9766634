//! What a `limit.hit` record speaks of: a budget that the gate or the session counts, or a share of the
//! machine that the kernel counts.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::policy::{BudgetAction, BudgetKind, Resource};

/// What is limited; the words of the two kinds are different ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Counted {
    /// A key of `[network.budgets]`.
    Budget(BudgetKind),
    /// A key of `[limits]`.
    Resource(Resource),
}

/// What follows when a limit is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitAction {
    /// It is recorded and told; everything goes on.
    Warn,
    /// Whoever answers for the session is asked.
    Ask,
    /// More is refused.
    Deny,
    /// The session is ended.
    Kill,
    /// A process of the session is ended: the one that asked for more, or the largest.
    KillProcess,
    /// The session is slowed down.
    Throttle,
}

impl Counted {
    /// An amount of it in words.
    pub fn amount(self, amount: u64) -> String {
        match self {
            Self::Budget(kind) => kind.amount(amount),
            Self::Resource(resource) => resource.amount(amount),
        }
    }

    /// Whether the session itself counts it, or has the kernel count it; the rest is the gate's.
    pub fn is_the_sessions(self) -> bool {
        match self {
            Self::Budget(kind) => kind.is_time(),
            Self::Resource(_) => true,
        }
    }
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Budget(kind) => kind.fmt(f),
            Self::Resource(resource) => resource.fmt(f),
        }
    }
}

impl From<BudgetKind> for Counted {
    fn from(kind: BudgetKind) -> Self {
        Self::Budget(kind)
    }
}

impl From<Resource> for Counted {
    fn from(resource: Resource) -> Self {
        Self::Resource(resource)
    }
}

// === impl LimitAction ===

impl LimitAction {
    /// What follows when a share of the machine is used up.
    pub fn of(resource: Resource) -> Self {
        match resource {
            Resource::Memory | Resource::FileSize => Self::KillProcess,
            Resource::Tasks | Resource::OpenFiles => Self::Deny,
            Resource::Cpu => Self::Throttle,
        }
    }
}

impl From<BudgetAction> for LimitAction {
    fn from(action: BudgetAction) -> Self {
        match action {
            BudgetAction::Warn => Self::Warn,
            BudgetAction::Ask => Self::Ask,
            BudgetAction::Deny => Self::Deny,
            BudgetAction::Kill => Self::Kill,
        }
    }
}

impl fmt::Display for LimitAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Warn => "warn",
            Self::Ask => "ask",
            Self::Deny => "deny",
            Self::Kill => "kill",
            Self::KillProcess => "kill_process",
            Self::Throttle => "throttle",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read_back_as_what_it_was() {
        let budgets = BudgetKind::ALL.map(Counted::from);
        let resources = Resource::ALL.map(Counted::from);
        for counted in budgets.into_iter().chain(resources) {
            let word = serde_json::to_string(&counted).unwrap();
            assert_eq!(serde_json::from_str::<Counted>(&word).unwrap(), counted);
            assert_eq!(word, format!("\"{counted}\""));
        }
    }
}
