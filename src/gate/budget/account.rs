//! What one tally may still move. Every relay takes from here before it sends; taking allocates
//! nothing and costs one comparison a scope.

use std::cell::Cell;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::ids::ConnId;
use crate::policy::EgressRequest;

use super::super::relay::Direction;
use super::super::state::Gate;
use super::hit;
use super::meter::{Verdict, Waiter};
use super::scope::Scope;

/// The scopes that one destination belongs to, the session first.
#[derive(Debug)]
pub(in crate::gate) struct Account {
    scopes: Box<[Rc<Scope>]>,
    /// Taken and not yet counted as sent.
    up: Cell<u64>,
    down: Cell<u64>,
    waiter: Waiter,
}

impl Account {
    pub(super) fn new(scopes: Box<[Rc<Scope>]>) -> Self {
        Self {
            scopes,
            up: Cell::new(0),
            down: Cell::new(0),
            waiter: Waiter::default(),
        }
    }

    /// Takes as much of this as every budget has left; perhaps nothing.
    pub(in crate::gate) fn take(&self, gate: &Gate, direction: Direction, wanted: usize) -> usize {
        let granted = self.grant(direction, wanted);
        self.warn(gate, direction);
        granted
    }

    /// As much of this as every budget has left, charged to all of them.
    fn grant(&self, direction: Direction, wanted: usize) -> usize {
        let granted = usize::try_from(self.room(direction)).map_or(wanted, |room| wanted.min(room));
        self.charge(direction, granted as u64);
        let taken = self.taken(direction);
        taken.set(taken.get().saturating_add(granted as u64));
        granted
    }

    /// What the tightest budget has left.
    fn room(&self, direction: Direction) -> u64 {
        let rooms = self
            .scopes
            .iter()
            .map(|scope| scope.bytes(direction).room());
        rooms.min().unwrap_or(0)
    }

    /// Takes at least one byte, waits where somebody is asked for more (for whom: `asked`), or answers
    /// `None`: no more.
    pub(in crate::gate) fn poll_take(
        &self,
        gate: &Gate,
        context: &Context<'_>,
        (conn, request): (ConnId, &EgressRequest),
        (direction, wanted): (Direction, usize),
    ) -> Poll<Option<usize>> {
        let granted = self.take(gate, direction, wanted);
        if granted > 0 || wanted == 0 {
            return Poll::Ready(Some(granted));
        }
        for scope in &self.scopes {
            let meter = scope.bytes(direction);
            if meter.room() > 0 {
                continue;
            }
            hit(gate, meter, None);
            match meter.settle() {
                Verdict::Refused => return Poll::Ready(None),
                Verdict::Ask => gate.ledger.ask(meter, conn, request),
                Verdict::Wait => {}
            }
            meter.wait(&self.waiter, context);
        }
        Poll::Pending
    }

    /// Bytes were sent. What was not taken before counts all the same: answers whether that went over
    /// a limit, so that whoever does not take is stopped at once after.
    pub(in crate::gate) fn sent(&self, gate: &Gate, direction: Direction, bytes: u64) -> bool {
        let taken = self.taken(direction);
        let untaken = bytes.saturating_sub(taken.get());
        taken.set(taken.get().saturating_sub(bytes));
        if untaken == 0 {
            return false;
        }
        let over = self.room(direction) < untaken;
        self.charge(direction, untaken);
        self.warn(gate, direction);
        if over {
            for scope in &self.scopes {
                let meter = scope.bytes(direction);
                if meter.room() == 0 {
                    hit(gate, meter, None);
                }
            }
        }
        over
    }

    /// Takes a new connection to the network, waits where somebody is asked for more (for whom: `asked`),
    /// or answers false: no more.
    pub(in crate::gate) fn poll_connect(
        &self,
        gate: &Gate,
        context: &Context<'_>,
        (conn, request): (ConnId, &EgressRequest),
    ) -> Poll<bool> {
        let full = self.scopes.iter().map(|scope| scope.connections());
        if let Some(meter) = full.into_iter().find(|meter| meter.room() == 0) {
            hit(gate, meter, None);
            match meter.settle() {
                Verdict::Refused => return Poll::Ready(false),
                Verdict::Ask => gate.ledger.ask(meter, conn, request),
                Verdict::Wait => {}
            }
            meter.wait(&self.waiter, context);
            return Poll::Pending;
        }
        for scope in &self.scopes {
            let meter = scope.connections();
            meter.charge(1);
            if meter.is_over() {
                hit(gate, meter, None);
            }
        }
        Poll::Ready(true)
    }

    fn charge(&self, direction: Direction, bytes: u64) {
        for scope in &self.scopes {
            scope.bytes(direction).charge(bytes);
        }
    }

    /// Tells of meters that went over their limit and only warn.
    fn warn(&self, gate: &Gate, direction: Direction) {
        for scope in &self.scopes {
            let meter = scope.bytes(direction);
            if meter.is_over() {
                hit(gate, meter, None);
            }
        }
    }

    fn taken(&self, direction: Direction) -> &Cell<u64> {
        match direction {
            Direction::Up => &self.up,
            Direction::Down => &self.down,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Budget, BudgetAction, BudgetKind, BudgetRule, Budgets, HostPattern};
    use proptest::prelude::*;

    fn limited(max: u64) -> Budgets {
        let budget = Budget {
            max,
            per: 0,
            action: BudgetAction::Deny,
        };
        Budgets::from_iter([(BudgetKind::BytesUp, budget)])
    }

    proptest! {
        #[test]
        fn however_chunks_interleave_no_budget_gives_more_than_it_has_nor_keeps_any_back(
            session in 1_u64..5000,
            host in 1_u64..5000,
            chunks in prop::collection::vec((0_usize..6, 0_usize..700), 0..60),
        ) {
            let rule = BudgetRule {
                host: HostPattern::Any,
                budgets: limited(host),
            };
            let all = Rc::new(Scope::session(&limited(session)));
            let some = Rc::new(Scope::of_rule(&rule));
            // Three accounts of the session alone, three of the hosts with a budget of their own.
            let accounts: Vec<_> = (0..6)
                .map(|n| {
                    let scopes = if n < 3 { vec![&all] } else { vec![&all, &some] };
                    Account::new(scopes.into_iter().cloned().collect())
                })
                .collect();
            let (mut sent, mut sent_there) = (0, 0);
            for (n, wanted) in chunks {
                let account = accounts.get(n).unwrap();
                let left = session - sent;
                let left = if n < 3 { left } else { left.min(host - sent_there) };
                let granted = account.grant(Direction::Up, wanted) as u64;
                prop_assert_eq!(granted, left.min(wanted as u64));
                sent += granted;
                sent_there += if n < 3 { 0 } else { granted };
            }
            prop_assert!(sent <= session && sent_there <= host);
        }
    }
}
