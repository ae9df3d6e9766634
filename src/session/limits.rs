//! Limits of the whole session, kept outside of the gate: how long it may take in all, how long nothing
//! may move once the gate is gone, and what the gate says is used up.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::audit::AuditEvent;
use crate::policy::{Budget, BudgetAction, BudgetKind, Budgets};
use crate::wire::gate::LimitNotice;

/// Notices that may wait; the gate tells each budget once.
const WAITING: usize = 1024;

/// What may end a session, or is worth a line.
#[derive(Debug)]
pub struct Limits {
    since: Instant,
    /// The budgets that these are of.
    known: Budgets,
    /// `total_time`, until it was told.
    total: Option<Budget>,
    /// `idle_time`, which the gate keeps while it lives.
    idle: Option<Budget>,
    /// When nothing can move any more since.
    gate_lost: Option<Instant>,
    heard: VecDeque<LimitNotice>,
    killed: Option<LimitNotice>,
}

impl Limits {
    /// The limits of a command that was started then.
    pub fn new(budgets: &Budgets, since: Instant) -> Self {
        Self {
            since,
            known: budgets.clone(),
            total: budgets.get(BudgetKind::TotalTime).copied(),
            idle: budgets.get(BudgetKind::IdleTime).copied(),
            gate_lost: None,
            heard: VecDeque::new(),
            killed: None,
        }
    }

    /// Takes other limits over, if these are others; time that is past counts.
    pub fn adopt(&mut self, budgets: &Budgets) {
        if *budgets != self.known {
            self.known = budgets.clone();
            self.total = budgets.get(BudgetKind::TotalTime).copied();
            self.idle = budgets.get(BudgetKind::IdleTime).copied();
        }
    }

    /// The gate says that a budget is used up.
    pub fn heard(&mut self, notice: LimitNotice) {
        if self.heard.len() < WAITING {
            self.heard.push_back(notice);
        }
    }

    /// The gate is gone, and with it the network: from now on nothing moves.
    pub fn gate_lost(&mut self) {
        self.gate_lost.get_or_insert_with(Instant::now);
    }

    /// Another gate has taken its place, and keeps the time of idleness from now on.
    pub fn gate_back(&mut self) {
        self.gate_lost = None;
    }

    /// When to look again, at the latest.
    pub fn next(&self) -> Option<Instant> {
        let times = [self.total_at(), self.idle_at()];
        times.into_iter().flatten().min()
    }

    /// The next limit that is reached; each is answered once.
    pub fn reached(&mut self) -> Option<LimitNotice> {
        let now = Instant::now();
        // A time that is over is not put off by what the gate says.
        if self.total_at().is_some_and(|at| at <= now) {
            let since = self.since;
            return notice(BudgetKind::TotalTime, since, self.total.take());
        }
        if let (Some(since), Some(at)) = (self.gate_lost, self.idle_at())
            && at <= now
        {
            return notice(BudgetKind::IdleTime, since, self.idle.take());
        }
        self.heard.pop_front()
    }

    /// The session is ended for this.
    pub fn kill(&mut self, notice: LimitNotice) {
        self.killed = Some(notice);
    }

    /// What it was ended for, if it was.
    pub fn into_killed(self) -> Option<LimitNotice> {
        self.killed
    }

    fn total_at(&self) -> Option<Instant> {
        after(self.since, self.total?)
    }

    fn idle_at(&self) -> Option<Instant> {
        after(self.gate_lost?, self.idle?)
    }
}

fn after(since: Instant, budget: Budget) -> Option<Instant> {
    since.checked_add(Duration::from_millis(budget.max))
}

fn notice(what: BudgetKind, since: Instant, budget: Option<Budget>) -> Option<LimitNotice> {
    budget.map(|budget| LimitNotice {
        what,
        host: None,
        used: u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX),
        max: budget.max,
        action: budget.action,
    })
}

/// Whether it ends the session.
pub fn ends(notice: &LimitNotice) -> bool {
    notice.action == BudgetAction::Kill
}

/// The record of a limit that the session keeps itself; the gate has recorded its own.
pub fn record(notice: &LimitNotice) -> Option<AuditEvent> {
    notice.what.is_time().then(|| AuditEvent::LimitHit {
        what: notice.what.into(),
        host: notice.host.clone(),
        used: notice.used,
        max: notice.max,
        action: notice.action.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(kind: BudgetKind, ms: u64) -> Limits {
        let budget = Budget {
            max: ms,
            per: 0,
            action: BudgetAction::Kill,
        };
        Limits::new(&Budgets::from_iter([(kind, budget)]), Instant::now())
    }

    #[test]
    fn a_time_that_is_over_comes_first_and_once() {
        let mut limits = limits(BudgetKind::TotalTime, 1);
        let other = LimitNotice {
            what: BudgetKind::BytesUp,
            host: None,
            used: 1,
            max: 1,
            action: BudgetAction::Deny,
        };
        limits.heard(other.clone());
        std::thread::sleep(Duration::from_millis(2));
        let first = limits.reached().unwrap();
        assert_eq!((first.what, ends(&first)), (BudgetKind::TotalTime, true));
        assert_eq!(limits.reached(), Some(other));
        assert_eq!((limits.reached(), limits.next()), (None, None));
    }

    #[test]
    fn another_policy_brings_other_times_and_the_same_none_again() {
        let mut limits = limits(BudgetKind::TotalTime, 1);
        std::thread::sleep(Duration::from_millis(2));
        let known = limits.known.clone();
        assert!(limits.reached().is_some());
        limits.adopt(&known);
        assert_eq!(limits.reached(), None, "told already");
        limits.adopt(&Budgets::default());
        assert_eq!(limits.next(), None);
        limits.adopt(&known);
        assert!(limits.reached().is_some(), "time that is past counts");
    }

    #[test]
    fn idleness_is_the_gates_to_tell_until_the_gate_is_gone() {
        let mut limits = limits(BudgetKind::IdleTime, 1);
        assert_eq!(limits.next(), None);
        limits.gate_lost();
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(limits.reached().unwrap().what, BudgetKind::IdleTime);
        assert_eq!(limits.next(), None);
    }
}
