//! All budgets of one gate, and the two tasks that they need: questions, and the clock of idleness.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::ids::ConnId;
use crate::policy::{Budget, BudgetKind, EgressRequest, Host, NetworkPolicy, RuleId};
use crate::wire::gate::{BudgetUse, GateReply, LimitNotice};

use super::super::memory::{Memory, Recalled};
use super::super::questions;
use super::super::state::Gate;
use super::account::Account;
use super::hit;
use super::meter::{Meter, Verdict, Waiter};
use super::scope::{Asked, Scope};

/// Budgets that are reported.
const REPORTED: usize = 64;

/// Crossings that the last lines of `run` tell of.
const REMEMBERED: usize = 64;

/// The budgets of one session.
#[derive(Debug)]
pub(in crate::gate) struct Ledger {
    session: Rc<Scope>,
    rules: RefCell<Vec<Rc<Scope>>>,
    /// `idle_time`.
    idle: Cell<Option<Budget>>,
    /// When a byte last moved or a request was let through.
    active: Cell<Instant>,
    /// Wakes the clock: the policy is another.
    changed: Notify,
    /// Budgets about which somebody has to be asked; each is there at most once.
    to_ask: RefCell<VecDeque<ToAsk>>,
    asked: Notify,
    crossed: RefCell<Vec<LimitNotice>>,
    /// Where what is used up is noted.
    memory: OnceCell<Rc<Memory>>,
}

/// A budget, and who wanted more of it.
#[derive(Debug)]
struct ToAsk {
    meter: Rc<Meter>,
    conn: ConnId,
    request: EgressRequest,
}

impl Ledger {
    /// What an earlier gate of the session has noted is used, and nothing else.
    pub(in crate::gate) fn new(
        policy: &NetworkPolicy,
        memory: &Rc<Memory>,
        recalled: &Recalled,
    ) -> Self {
        let ledger = Self {
            session: Rc::new(Scope::session(&policy.budgets)),
            rules: RefCell::default(),
            idle: Cell::new(None),
            active: Cell::new(Instant::now()),
            changed: Notify::new(),
            to_ask: RefCell::default(),
            asked: Notify::new(),
            crossed: RefCell::default(),
            memory: OnceCell::new(),
        };
        ledger.adopt(policy);
        ledger.session.keep_in(memory, recalled);
        for scope in ledger.rules.borrow().iter() {
            scope.keep_in(memory, recalled);
        }
        ledger.memory.get_or_init(|| Rc::clone(memory));
        ledger
    }

    /// Takes another policy's limits over; what was used stays used. A rule for hosts that is new
    /// counts from now on, and tunnels that are open already only for the session.
    pub(in crate::gate) fn adopt(&self, policy: &NetworkPolicy) {
        self.session.adopt(&policy.budgets);
        let old = self.rules.take();
        let scopes = policy.budget_rules.iter().map(|rule| {
            let known = old
                .iter()
                .find(|scope| scope.host.as_ref() == Some(&rule.host));
            known.map_or_else(
                || {
                    let scope = Scope::of_rule(rule);
                    if let Some(memory) = self.memory.get() {
                        scope.keep_in(memory, &Recalled::default());
                    }
                    Rc::new(scope)
                },
                |scope| {
                    scope.adopt(&rule.budgets);
                    Rc::clone(scope)
                },
            )
        });
        let scopes = scopes.collect();
        self.rules.replace(scopes);
        self.idle
            .set(policy.budgets.get(BudgetKind::IdleTime).copied());
        self.changed.notify_one();
    }

    /// The account of one permitted request or tunnel.
    pub(in crate::gate) fn open(&self, host: &Host) -> Account {
        let rules = self.rules.borrow();
        let covering = rules.iter().filter(|scope| scope.covers(host));
        let scopes = [&self.session].into_iter().chain(covering).cloned();
        Account::new(scopes.collect())
    }

    /// Something moved.
    pub(in crate::gate) fn touch(&self, now: Instant) {
        self.active.set(now);
    }

    /// See [`super::admit`].
    pub(super) fn poll_admit(
        &self,
        gate: &Gate,
        context: &Context<'_>,
        waiter: &Waiter,
        asked: Asked<'_>,
    ) -> Poll<bool> {
        let request = asked.request;
        let rules = self.rules.borrow();
        let covering = || {
            let rules = rules.iter().filter(|scope| scope.covers(&request.host));
            [&self.session].into_iter().chain(rules)
        };
        if let Some((meter, host)) = covering().find_map(|scope| scope.obstacle(asked)) {
            hit(gate, meter, host);
            match meter.settle() {
                Verdict::Refused => return Poll::Ready(false),
                Verdict::Ask => self.ask(meter, asked.conn, request),
                Verdict::Wait => {}
            }
            meter.wait(waiter, context);
            return Poll::Pending;
        }
        for scope in covering() {
            for meter in scope.charge(asked) {
                hit(gate, meter, None);
            }
        }
        self.touch(Instant::now());
        Poll::Ready(true)
    }

    /// Has somebody asked whether a budget may be raised.
    pub(super) fn ask(&self, meter: &Rc<Meter>, conn: ConnId, request: &EgressRequest) {
        self.to_ask.borrow_mut().push_back(ToAsk {
            meter: Rc::clone(meter),
            conn,
            request: request.clone(),
        });
        self.asked.notify_one();
    }

    pub(super) fn remember(&self, notice: &LimitNotice) {
        let mut crossed = self.crossed.borrow_mut();
        if crossed.len() < REMEMBERED {
            crossed.push(notice.clone());
        }
    }

    /// The limits that were crossed, in order.
    pub(in crate::gate) fn crossed(&self) -> Vec<LimitNotice> {
        self.crossed.borrow().clone()
    }

    /// How far every budget is used up.
    pub(in crate::gate) fn report(&self) -> Vec<BudgetUse> {
        let rules = self.rules.borrow();
        let scopes = [&self.session].into_iter().chain(rules.iter());
        scopes
            .flat_map(|scope| {
                let limited = scope
                    .meters()
                    .into_iter()
                    .filter(|meter| meter.is_limited());
                limited.map(|meter| BudgetUse {
                    what: meter.what(),
                    host: scope.host.clone(),
                    used: meter.used(),
                    max: meter.max(),
                })
            })
            .take(REPORTED)
            .collect()
    }

    async fn next_question(&self) -> ToAsk {
        loop {
            if let Some(question) = self.to_ask.borrow_mut().pop_front() {
                return question;
            }
            self.asked.notified().await;
        }
    }

    /// Resolves when nothing has moved for longer than `idle_time`, once for each time that it comes
    /// to that.
    async fn idle_too_long(&self, told_at: &mut Option<Instant>) -> LimitNotice {
        loop {
            let Some(budget) = self.idle.get() else {
                self.changed.notified().await;
                continue;
            };
            let limit = Duration::from_millis(budget.max);
            let active = self.active.get();
            let since = active.elapsed();
            if since >= limit && *told_at != Some(active) {
                *told_at = Some(active);
                return LimitNotice {
                    what: BudgetKind::IdleTime,
                    host: None,
                    used: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
                    max: budget.max,
                    action: budget.action,
                };
            }
            let deadline = if since >= limit {
                // Told already: what moves meanwhile is seen at the next look.
                Instant::now() + limit
            } else {
                active + limit
            };
            tokio::select! {
                () = sleep_until(deadline) => {}
                () = self.changed.notified() => {}
            }
        }
    }
}

/// Asks and keeps time, for as long as the gate serves.
pub(in crate::gate) async fn serve(gate: Rc<Gate>) {
    gate.ledger.touch(Instant::now());
    let mut told_at = None;
    loop {
        tokio::select! {
            question = gate.ledger.next_question() => {
                let gate = Rc::clone(&gate);
                tokio::task::spawn_local(async move { raise(&gate, &question).await });
            }
            notice = gate.ledger.idle_too_long(&mut told_at) => {
                // The session records it and acts: time is its own matter.
                gate.control.tell(GateReply::Limit(notice)).ok();
            }
        }
    }
}

/// Asks whether a budget may be raised by its own size.
async fn raise(gate: &Rc<Gate>, question: &ToAsk) {
    let ToAsk {
        meter,
        conn,
        request,
    } = question;
    let more = RuleId::new(meter.question());
    let yes = questions::ask_for_more(gate, *conn, request, more).await;
    meter.answer(yes);
}
