//! What one tally may still move. Every relay takes from here before it sends; taking allocates
//! nothing and costs one comparison a scope.

use std::cell::Cell;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::ids::ConnId;
use crate::policy::EgressRequest;

use super::super::relay::Direction;
use super::super::state::Gate;
use super::meter::Verdict;
use super::scope::Scope;
use super::hit;

/// The scopes that one destination belongs to, the session first.
#[derive(Debug)]
pub(in crate::gate) struct Account {
    scopes: Box<[Rc<Scope>]>,
    /// Who asked for what.
    conn: ConnId,
    request: EgressRequest,
    /// Taken and not yet counted as sent.
    up: Cell<u64>,
    down: Cell<u64>,
}

impl Account {
    pub(super) fn new(
        scopes: Box<[Rc<Scope>]>,
        (conn, request): (ConnId, &EgressRequest),
    ) -> Self {
        Self {
            scopes,
            conn,
            request: request.clone(),
            up: Cell::new(0),
            down: Cell::new(0),
        }
    }

    /// Takes as much of this as every budget has left; perhaps nothing.
    pub(in crate::gate) fn take(&self, gate: &Gate, direction: Direction, wanted: usize) -> usize {
        let room = self.scopes.iter().map(|scope| scope.bytes(direction).room());
        let room = usize::try_from(room.min().unwrap_or(0)).unwrap_or(usize::MAX);
        let granted = wanted.min(room);
        self.charge(gate, direction, granted as u64);
        let taken = self.taken(direction);
        taken.set(taken.get().saturating_add(granted as u64));
        granted
    }

    /// Takes at least one byte, waits where somebody is asked for more, or answers `None`: no more.
    pub(in crate::gate) fn poll_take(
        &self,
        gate: &Gate,
        context: &Context<'_>,
        direction: Direction,
        wanted: usize,
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
                Verdict::Ask => gate.ledger.ask(meter, self.conn, &self.request),
                Verdict::Wait => {}
            }
            meter.wait(context);
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
        let room = self.scopes.iter().map(|scope| scope.bytes(direction).room());
        let over = room.min().unwrap_or(0) < untaken;
        self.charge(gate, direction, untaken);
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

    /// No connection was opened: one that stood was used again.
    pub(in crate::gate) fn reused(&self) {
        for scope in &self.scopes {
            scope.refund_connection();
        }
    }

    fn charge(&self, gate: &Gate, direction: Direction, bytes: u64) {
        for scope in &self.scopes {
            let meter = scope.bytes(direction);
            meter.charge(bytes);
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
