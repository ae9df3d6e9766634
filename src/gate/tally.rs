//! The account of one permitted request or tunnel: bytes, time, who ended it. Once its connection
//! stands, dropping it records `egress.closed`, and `http.exchanged` before it where it is a request: no way of ending, cancellation included, goes unseen.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::audit::{AuditEvent, EndedBy};
use crate::ids::ConnId;
use crate::policy::DenyReason;

use super::authorize::Permit;
use super::budget::Account;
use super::counters::Row;
use super::exchanged::{Ended, Story};
use super::open::Lease;
use super::relay::Direction;
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
    /// What the budgets leave.
    account: Account,
    /// Live counters of the destination.
    row: Rc<Row>,
    /// Whether more was sent than was taken before, and that was too much.
    overrun: Cell<bool>,
    /// What a new policy can take back.
    lease: Rc<Lease>,
    /// Whether a connection to the network belongs to it.
    dials: bool,
    /// What is told of it beside its bytes, where it is a request.
    pub(super) story: RefCell<Option<Box<Story>>>,
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
            account: gate.ledger.open(&permit.destination().host),
            row: gate
                .counters
                .row(&permit.destination().host, permit.destination().port),
            overrun: Cell::new(false),
            lease: Rc::clone(permit.lease()),
            dials: true,
            story: RefCell::default(),
        }
    }

    /// Opens the account of a tunnel that is looked into: what moves is on the accounts of the requests
    /// within, here only its end is recorded, in any case.
    pub(super) fn for_tunnel(gate: &Rc<Gate>, permit: &Permit) -> Self {
        let mut tally = Self::open(gate, permit);
        tally.dials = false;
        tally.stands();
        tally
    }

    /// A connection stands: from here on the end is recorded.
    pub(super) fn connected(&self) {
        self.gate.counters.opened();
        self.stands();
    }

    /// One that stood already is tried again: from here on the end is recorded.
    pub(super) fn reuses(&self) {
        self.stands();
    }

    /// Takes a new connection from the budgets. Waits while somebody is asked for more; false: no more.
    pub(super) async fn reserve_connection(&self) -> bool {
        let asked = self.lease.asked();
        poll_fn(|context| self.account.poll_connect(&self.gate, context, asked)).await
    }

    fn stands(&self) {
        if !self.connected.replace(true) && self.dials {
            self.gate.counters.connected();
        }
        self.active.set(Instant::now());
    }

    /// Takes as much of this from the budgets as there is, without waiting; perhaps nothing. Whoever
    /// sends takes first, and counts with [`Tally::add_up`] or [`Tally::add_down`] after.
    pub(super) fn take(&self, direction: Direction, wanted: usize) -> usize {
        self.account.take(&self.gate, direction, wanted)
    }

    /// Takes at least one byte of this from the budgets. Waits while somebody is asked for more; an
    /// error says that a budget is used up and the tunnel or body must end here.
    pub(super) async fn reserve(&self, direction: Direction, wanted: usize) -> io::Result<usize> {
        poll_fn(|context| self.poll_reserve(context, direction, wanted)).await
    }

    /// [`Tally::reserve`] for what is polled.
    pub(super) fn poll_reserve(
        &self,
        context: &Context<'_>,
        direction: Direction,
        wanted: usize,
    ) -> Poll<io::Result<usize>> {
        self.account
            .poll_take(&self.gate, context, self.lease.asked(), (direction, wanted))
            .map(|taken| {
                taken.ok_or_else(|| {
                    self.end(EndedBy::Budget);
                    io::Error::from(io::ErrorKind::QuotaExceeded)
                })
            })
    }

    /// Bytes went to the network.
    pub(super) fn add_up(&self, bytes: usize) {
        self.up.set(self.up.get().saturating_add(bytes as u64));
        self.moved(Direction::Up, bytes);
    }

    /// Bytes went to the jail.
    pub(super) fn add_down(&self, bytes: usize) {
        self.down.set(self.down.get().saturating_add(bytes as u64));
        self.moved(Direction::Down, bytes);
    }

    fn moved(&self, direction: Direction, bytes: usize) {
        let now = Instant::now();
        self.active.set(now);
        self.gate.ledger.touch(now);
        self.gate.counters.count_bytes(&self.row, direction, bytes);
        if self.account.sent(&self.gate, direction, bytes as u64) {
            self.overrun.set(true);
            self.end(EndedBy::Budget);
        }
    }

    /// Whether a budget ended it.
    pub(super) fn is_used_up(&self) -> bool {
        self.ended_by.get() == Some(EndedBy::Budget)
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
    /// Whether bytes may still move: not without a writer to record their end, not against a new
    /// policy, nor after too many.
    pub(super) fn may_go_on(&self) -> bool {
        !self.gate.reporter.is_lost() && !self.lease.is_revoked() && !self.overrun.get()
    }

    /// Whether a new policy does not permit it any more.
    pub(super) fn is_revoked(&self) -> bool {
        self.lease.is_revoked()
    }

    /// Resolves once a new policy does not permit it any more; says so in the account.
    pub(super) async fn until_revoked(&self) {
        self.lease.until_revoked().await;
        self.end(EndedBy::Policy);
    }

    /// Why a new policy does not permit it.
    pub(super) fn refused_because(&self) -> DenyReason {
        self.lease.refused_because(&self.gate.rules())
    }

    /// Ready once bytes may not move any more; woken for a new policy. Says so in the account.
    pub(super) fn poll_stopped(&self, context: &Context<'_>) -> Poll<()> {
        if self.lease.poll_revoked(context).is_ready() {
            self.end(EndedBy::Policy);
            return Poll::Ready(());
        }
        if !self.may_go_on() {
            self.end(EndedBy::Gate);
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// Who ended it, or would have by now.
    pub(super) fn ended_by(&self) -> EndedBy {
        self.ended_by.get().unwrap_or_else(|| self.dropped_by())
    }

    /// Who ended what nobody ended by name: work is dropped when its client has left, or by the gate.
    fn dropped_by(&self) -> EndedBy {
        if self.lease.is_revoked() {
            EndedBy::Policy
        } else if *self.gate.stopping.borrow() || !self.may_go_on() {
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
        if self.dials {
            self.gate.counters.disconnected();
        }
        let (bytes_up, bytes_down) = (self.up.get(), self.down.get());
        self.gate.summary.count_bytes(bytes_up, bytes_down);
        let ms = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let by = self.ended_by();
        if let Some(story) = self.story.take() {
            let ended = Ended {
                bytes_up,
                bytes_down,
                ms,
                by,
            };
            story.end(&self.gate, ended);
        }
        self.gate.reporter.note(AuditEvent::EgressClosed {
            conn: self.conn,
            bytes_up,
            bytes_down,
            ms,
            ended_by: by,
        });
    }
}
