//! The account of one permitted request or tunnel: bytes, time, who ended it. Once its connection
//! stands, dropping it records `egress.closed`: no way of ending, cancellation included, goes unseen.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::audit::{AuditEvent, EndedBy};
use crate::ids::ConnId;

use super::authorize::Permit;
use super::state::Gate;

/// Counts until it is dropped.
#[derive(Debug)]
pub(super) struct Tally {
    gate: Rc<Gate>,
    conn: ConnId,
    since: Instant,
    /// Payload bytes from the jail to the network.
    up: Cell<u64>,
    /// Payload bytes from the network to the jail.
    down: Cell<u64>,
    /// The first one to end it, as far as anybody said so.
    ended_by: Cell<Option<EndedBy>>,
    /// When a byte last moved in either direction.
    active: Cell<Instant>,
    /// Whether a connection stands, so that there is an end to record.
    connected: Cell<bool>,
}

impl Tally {
    /// Opens the account of what this permit allowed.
    pub(super) fn open(gate: &Rc<Gate>, permit: &Permit) -> Self {
        Self {
            gate: Rc::clone(gate),
            conn: permit.destination().conn,
            since: permit.since(),
            up: Cell::new(0),
            down: Cell::new(0),
            ended_by: Cell::new(None),
            active: Cell::new(Instant::now()),
            connected: Cell::new(false),
        }
    }

    /// Opens the account of a tunnel that is looked into: what moves is on the accounts of the requests
    /// within, here only its end is recorded, in any case.
    pub(super) fn for_tunnel(gate: &Rc<Gate>, conn: ConnId, since: Instant) -> Self {
        Self {
            gate: Rc::clone(gate),
            conn,
            since,
            up: Cell::new(0),
            down: Cell::new(0),
            ended_by: Cell::new(None),
            active: Cell::new(since),
            connected: Cell::new(true),
        }
    }

    /// A connection stands: from here on the end is recorded.
    pub(super) fn connected(&self) {
        self.connected.set(true);
        self.active.set(Instant::now());
    }

    /// Bytes went to the network.
    pub(super) fn add_up(&self, bytes: usize) {
        self.up.set(self.up.get().saturating_add(bytes as u64));
        self.active.set(Instant::now());
    }

    /// Bytes went to the jail.
    pub(super) fn add_down(&self, bytes: usize) {
        self.down.set(self.down.get().saturating_add(bytes as u64));
        self.active.set(Instant::now());
    }

    /// Remembers who ended it; the first one counts.
    pub(super) fn end(&self, by: EndedBy) {
        if self.ended_by.get().is_none() {
            self.ended_by.set(Some(by));
        }
    }

    /// When no byte will have moved for this long.
    pub(super) fn idle_at(&self, limit: Duration) -> Instant {
        self.active.get() + limit
    }

    /// Resolves when no byte has moved for this long.
    pub(super) async fn idle_for(&self, limit: Duration) {
        loop {
            let deadline = self.idle_at(limit);
            if deadline <= Instant::now() {
                return;
            }
            sleep_until(deadline).await;
        }
    }
}

impl Tally {
    /// Whether bytes may still move: not without a writer to record their end.
    pub(super) fn is_recordable(&self) -> bool {
        !self.gate.reporter.is_lost()
    }

    /// Who ended what nobody ended by name: work is dropped when its client has left, or by the gate.
    fn dropped_by(&self) -> EndedBy {
        if *self.gate.stopping.borrow() || !self.is_recordable() {
            EndedBy::Gate
        } else {
            EndedBy::Client
        }
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        if !self.connected.get() {
            return;
        }
        let (bytes_up, bytes_down) = (self.up.get(), self.down.get());
        self.gate.summary.count_bytes(bytes_up, bytes_down);
        self.gate.reporter.note(AuditEvent::EgressClosed {
            conn: self.conn,
            bytes_up,
            bytes_down,
            ms: u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX),
            ended_by: self.ended_by.get().unwrap_or_else(|| self.dropped_by()),
        });
    }
}
