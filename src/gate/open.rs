//! What is permitted at this moment, so that a new policy can take it back. Every permit holds a
//! [`Lease`] from its making to the end of what it allowed; a lease that is revoked ends its relay.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::net::IpAddr;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use crate::ids::ConnId;
use crate::policy::{
    AddressClass, DenyReason, EgressRequest, Handling, Ruleset, Transport, Verdict, decide,
};

/// Every lease that is held.
#[derive(Debug, Default, Clone)]
pub(super) struct Leases(Rc<RefCell<Table>>);

#[derive(Debug, Default)]
struct Table {
    held: BTreeMap<u64, Weak<Lease>>,
    last: u64,
}

/// What was permitted to whom, for as long as it goes on.
#[derive(Debug)]
pub(super) struct Lease {
    number: u64,
    table: Rc<RefCell<Table>>,
    conn: ConnId,
    request: EgressRequest,
    handling: Handling,
    /// Whether somebody was asked and agreed: the policy itself says "ask".
    approved: bool,
    /// The address that was dialed for it, if one was: the policy speaks of addresses as well.
    address: Cell<Option<IpAddr>>,
    revoked: Cell<bool>,
    /// Who is to be woken when it is revoked: the two directions of a relay, or of an exchange.
    waiting: RefCell<Vec<Waker>>,
}

impl Leases {
    /// Notes that this is permitted.
    pub(super) fn grant(
        &self,
        conn: ConnId,
        request: EgressRequest,
        handling: Handling,
        approved: bool,
    ) -> Rc<Lease> {
        let mut table = self.0.borrow_mut();
        table.last = table.last.saturating_add(1);
        let lease = Rc::new(Lease {
            number: table.last,
            table: Rc::clone(&self.0),
            conn,
            request,
            handling,
            approved,
            address: Cell::new(None),
            revoked: Cell::new(false),
            waiting: RefCell::default(),
        });
        table.held.insert(lease.number, Rc::downgrade(&lease));
        lease
    }

    /// Revokes everything that these rules do not permit any more; answers how much it was.
    pub(super) fn revoke(&self, rules: &Ruleset) -> u64 {
        // A lease that is woken may end and leave the table: it must not be borrowed then.
        let refused: Vec<_> = self
            .held()
            .filter(|lease| !lease.is_permitted_by(rules))
            .collect();
        for lease in &refused {
            lease.revoke();
        }
        refused.len() as u64
    }

    fn held(&self) -> impl Iterator<Item = Rc<Lease>> {
        let held: Vec<_> = self
            .0
            .borrow()
            .held
            .values()
            .filter_map(Weak::upgrade)
            .collect();
        held.into_iter()
    }
}

impl Lease {
    /// Who was permitted what.
    pub(super) fn asked(&self) -> (ConnId, &EgressRequest) {
        (self.conn, &self.request)
    }

    /// Whether somebody agreed to the tunnel that this request comes through: to its very destination.
    pub(super) fn approves(&self, request: &EgressRequest) -> bool {
        self.approved
            && !self.revoked.get()
            && (&self.request.host, self.request.port) == (&request.host, request.port)
    }

    /// Why these rules do not permit it.
    pub(super) fn refused_because(&self, rules: &Ruleset) -> DenyReason {
        let refused = self.refused_address(rules).map(DenyReason::AddressRefused);
        let reason = decide(rules, &self.request).reason.or(refused);
        // Not denied outright: it would have to be asked for again, or looked into.
        reason.unwrap_or(DenyReason::NotApproved)
    }

    /// Notes where it led. A policy that is in force by now may refuse the address: why.
    pub(super) fn dialed(&self, address: IpAddr, rules: &Ruleset) -> Result<(), AddressClass> {
        self.address.set(Some(address));
        rules.addresses().check(address)
    }

    fn refused_address(&self, rules: &Ruleset) -> Option<AddressClass> {
        let address = self.address.get()?;
        rules.addresses().check(address).err()
    }

    /// Whether it was taken back.
    pub(super) fn is_revoked(&self) -> bool {
        self.revoked.get()
    }

    /// Ready once it is taken back; else the task is woken then.
    pub(super) fn poll_revoked(&self, context: &Context<'_>) -> Poll<()> {
        if self.revoked.get() {
            return Poll::Ready(());
        }
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.iter().any(|waker| waker.will_wake(context.waker())) {
            // At most one task a direction waits; older wakers are of tasks that moved on.
            if waiting.len() >= 8 {
                waiting.remove(0);
            }
            waiting.push(context.waker().clone());
        }
        Poll::Pending
    }

    /// Resolves once it is taken back.
    pub(super) async fn until_revoked(&self) {
        poll_fn(|context| self.poll_revoked(context)).await;
    }

    fn revoke(&self) {
        self.revoked.set(true);
        for waker in self.waiting.take() {
            waker.wake();
        }
    }

    /// A tunnel that passed unopened and would be looked into by now is another thing, and so is the
    /// other way round.
    fn is_permitted_by(&self, rules: &Ruleset) -> bool {
        let decision = decide(rules, &self.request);
        // What becomes of TLS does not concern a request outside of it.
        let plain = self.request.transport == Transport::Forward;
        self.refused_address(rules).is_none()
            && (plain || decision.handling == self.handling)
            && match decision.verdict {
                Verdict::Allow => true,
                Verdict::Ask => self.approved,
                Verdict::Deny => false,
            }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.table.borrow_mut().held.remove(&self.number);
    }
}
