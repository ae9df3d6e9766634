//! One budget while it is used up: how much, of how much, and what was said about it.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::{Rc, Weak};
use std::task::{Context, Waker};

use crate::policy::{Budget, BudgetAction, BudgetKind, HostPattern};
use crate::wire::gate::LimitNotice;

use super::super::memory::{Memory, Note, Spent};

/// Into how many shares a budget is noted, each before it is used: what is lost of it, at most, to a gate
/// that dies.
const SHARES: u64 = 256;

/// What is noted at once of what has no limit, or is beyond one that only warns: at least so many bytes, or
/// so many of something else.
const UNLIMITED_BYTES: u64 = 1 << 20;
const UNLIMITED_COUNT: u64 = 64;

/// Counts one thing for one scope. Without a limit it only counts.
#[derive(Debug)]
pub(in crate::gate) struct Meter {
    what: BudgetKind,
    host: Option<HostPattern>,
    used: Cell<u64>,
    /// `u64::MAX`: no limit.
    max: Cell<u64>,
    /// What a yes adds.
    step: Cell<u64>,
    action: Cell<BudgetAction>,
    /// Whether this crossing is on record.
    recorded: Cell<bool>,
    /// Whether the session was told of it.
    told: Cell<bool>,
    question: Cell<Question>,
    /// What a successor takes for used. Never less than `used`.
    noted: Cell<u64>,
    /// Where that is noted; empty for what is not added up.
    memory: OnceCell<Rc<Memory>>,
    /// Relays and requests that wait for the answer.
    waiting: RefCell<Vec<(Weak<()>, Waker)>>,
}

/// Somebody who may wait for an answer. Once it is dropped, whoever it was has given up.
#[derive(Debug, Default)]
pub(super) struct Waiter(Rc<()>);

/// How far the question about a used up budget has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Question {
    /// Not asked.
    None,
    /// Asked, not answered.
    Open,
    /// The answer was no, or none came.
    Refused,
}

/// What becomes of who wants more than is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing more.
    Refused,
    /// Somebody has to be asked: the caller does it.
    Ask,
    /// Somebody is asked.
    Wait,
}

impl Meter {
    /// A meter for this budget, or one that only counts.
    pub(super) fn new(
        what: BudgetKind,
        host: Option<&HostPattern>,
        budget: Option<&Budget>,
    ) -> Self {
        let meter = Self {
            what,
            host: host.cloned(),
            used: Cell::new(0),
            max: Cell::new(u64::MAX),
            step: Cell::new(0),
            action: Cell::new(BudgetAction::Deny),
            recorded: Cell::new(false),
            told: Cell::new(false),
            question: Cell::new(Question::None),
            noted: Cell::new(0),
            memory: OnceCell::new(),
            waiting: RefCell::default(),
        };
        meter.adopt(budget);
        meter
    }

    /// Takes a new limit over; what was used stays used.
    pub(super) fn adopt(&self, budget: Option<&Budget>) {
        let (max, action) = budget.map_or((u64::MAX, BudgetAction::Deny), |budget| {
            (budget.max, budget.action)
        });
        if (self.step.get(), self.action.get()) == (max, action) {
            // The same as before, perhaps raised meanwhile by a yes.
            return;
        }
        self.max.set(max);
        self.step.set(max);
        self.action.set(action);
        // Shares of another size from now on: what is charged next is noted.
        self.noted.set(self.used.get());
        self.start_over();
    }

    /// What is counted.
    pub(super) fn what(&self) -> BudgetKind {
        self.what
    }

    /// How much was used.
    pub(super) fn used(&self) -> u64 {
        self.used.get()
    }

    /// How much may be used.
    pub(super) fn max(&self) -> u64 {
        self.max.get()
    }

    /// Whether there is a limit at all.
    pub(super) fn is_limited(&self) -> bool {
        self.max.get() != u64::MAX
    }

    /// Whether going over the limit has no other consequence than a word.
    pub(super) fn only_warns(&self) -> bool {
        self.action.get() == BudgetAction::Warn
    }

    /// How much may still be charged.
    pub(super) fn room(&self) -> u64 {
        if self.only_warns() {
            u64::MAX
        } else {
            self.max.get().saturating_sub(self.used.get())
        }
    }

    /// Uses some of it up.
    pub(super) fn charge(&self, amount: u64) {
        let used = self.used.get().saturating_add(amount);
        if used > self.noted.get() {
            self.note(used);
        }
        self.used.set(used);
    }

    /// Notes a share more than this: it is used up as far as a successor knows.
    fn note(&self, used: u64) {
        let Some(memory) = self.memory.get() else {
            return;
        };
        let max = self.max.get();
        let noted = if used < max && self.is_limited() {
            used.saturating_add(max / SHARES).min(max)
        } else {
            used.saturating_add((used / 16).max(self.unlimited_share()))
        };
        // Exactly the limit is not beyond it.
        let noted = if used == max { used } else { noted };
        self.noted.set(noted);
        memory.keep(&Note::Used {
            scope: self.host.clone(),
            what: self.what,
            spent: Spent {
                used: noted,
                max,
                step: self.step.get(),
            },
        });
    }

    fn unlimited_share(&self) -> u64 {
        let bytes = matches!(
            self.what,
            BudgetKind::BytesUp
                | BudgetKind::BytesDown
                | BudgetKind::UrlBytes
                | BudgetKind::HeaderBytes
        );
        if bytes {
            UNLIMITED_BYTES
        } else {
            UNLIMITED_COUNT
        }
    }

    /// From now on what is used up is noted. What an earlier gate has noted is used, and a limit that was
    /// raised is raised, if the policy has not set another one since.
    pub(super) fn keep_in(&self, memory: &Rc<Memory>, known: Option<&Spent>) {
        if let Some(known) = known {
            self.used.set(known.used);
            self.noted.set(known.used);
            if known.step == self.step.get() && self.is_limited() {
                self.max.set(known.max.max(self.max.get()));
            }
        }
        self.memory.get_or_init(|| Rc::clone(memory));
    }

    /// For what is not counted one by one.
    pub(super) fn set_used(&self, used: u64) {
        self.used.set(used);
    }

    /// Whether more was used than the limit says: only a meter that warns lets it come to that.
    pub(super) fn is_over(&self) -> bool {
        self.used.get() > self.max.get()
    }

    /// The crossing to be recorded; `None` if it is already.
    pub(super) fn crossing(&self, host: Option<HostPattern>) -> Option<LimitNotice> {
        if self.recorded.replace(true) {
            return None;
        }
        Some(LimitNotice {
            what: self.what,
            host: host.or_else(|| self.host.clone()),
            used: self.used.get(),
            max: self.max.get(),
            action: self.action.get(),
        })
    }

    /// Whether the session has yet to hear of it.
    pub(super) fn is_untold(&self) -> bool {
        !self.told.replace(true)
    }

    /// The next crossing is one of its own.
    pub(super) fn rearm(&self) {
        self.recorded.set(false);
    }

    /// What becomes of who wants more.
    pub(super) fn settle(&self) -> Verdict {
        match (self.action.get(), self.question.get()) {
            (BudgetAction::Ask, Question::None) => {
                self.question.set(Question::Open);
                Verdict::Ask
            }
            (BudgetAction::Ask, Question::Open) => Verdict::Wait,
            (BudgetAction::Ask, Question::Refused)
            | (BudgetAction::Warn | BudgetAction::Deny | BudgetAction::Kill, _) => Verdict::Refused,
        }
    }

    /// What is asked about it, for a person.
    pub(super) fn question(&self) -> String {
        let amount = |amount| self.what.amount(amount);
        let (max, step) = (amount(self.max.get()), amount(self.step.get()));
        let host = self.host.as_ref();
        let host = host.map_or_else(String::new, |host| format!(" for {host}"));
        format!(
            "budget {}{host}: {max} used up; a yes adds {step}",
            self.what
        )
    }

    /// Wakes this task when there is an answer. A waker keeps the memory of its task: while a question is
    /// open, the jail must not be able to pile up those of requests that it has given up.
    pub(super) fn wait(&self, waiter: &Waiter, context: &Context<'_>) {
        let mut waiting = self.waiting.borrow_mut();
        let own = waiting
            .iter_mut()
            .find(|(known, _)| std::ptr::eq(known.as_ptr(), Rc::as_ptr(&waiter.0)));
        if let Some((_, waker)) = own {
            waker.clone_from(context.waker());
            return;
        }
        if waiting.len() == waiting.capacity() {
            waiting.retain(|(waiter, _)| waiter.strong_count() > 0);
        }
        waiting.push((Rc::downgrade(&waiter.0), context.waker().clone()));
    }

    /// The answer to its question.
    pub(super) fn answer(&self, yes: bool) {
        if self.question.get() != Question::Open {
            // The limit is another by now.
            return;
        }
        if yes {
            let raised = self.max.get().saturating_add(self.step.get());
            self.max.set(raised);
            self.note(self.used.get());
            self.start_over();
        } else {
            self.question.set(Question::Refused);
            self.wake();
        }
    }

    fn start_over(&self) {
        self.recorded.set(false);
        self.told.set(false);
        self.question.set(Question::None);
        self.wake();
    }

    fn wake(&self) {
        for (_, waker) in self.waiting.take() {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    fn limited(max: u64, action: BudgetAction) -> Meter {
        let budget = Budget {
            max,
            per: 0,
            action,
        };
        Meter::new(BudgetKind::BytesUp, None, Some(&budget))
    }

    /// What a gate that takes this one's place knows.
    fn left(file: &File) -> Option<Spent> {
        let (_, recalled) = Memory::open(file.try_clone().unwrap()).unwrap();
        recalled.used.get(&(None, BudgetKind::BytesUp)).copied()
    }

    #[test]
    fn a_successor_knows_at_least_what_was_used_and_hardly_more() {
        for (max, action) in [
            (100, BudgetAction::Deny),
            (1_000_000, BudgetAction::Ask),
            (1000, BudgetAction::Warn),
            (u64::MAX, BudgetAction::Deny),
        ] {
            let file = tempfile::tempfile().unwrap();
            let (memory, _) = Memory::open(file.try_clone().unwrap()).unwrap();
            let meter = limited(max, action);
            meter.keep_in(&Rc::new(memory), None);
            let mut notes = 0;
            let mut before = None;
            for _ in 0..5_000 {
                let amount = meter.room().min(997);
                meter.charge(amount);
                let known = left(&file).map_or(0, |left| left.used);
                notes += u64::from(before.replace(known) != Some(known));
                assert!(known >= meter.used(), "{known} of {}", meter.used());
                let spare = if action == BudgetAction::Warn || max == u64::MAX {
                    UNLIMITED_BYTES + meter.used() / 16
                } else {
                    max / SHARES
                };
                assert!(known <= meter.used() + spare, "{known} of {}", meter.used());
            }
            assert!(notes <= SHARES + 1, "{notes} notes");
        }
    }

    #[test]
    fn a_limit_that_was_raised_stays_so_until_the_policy_has_another() {
        let file = tempfile::tempfile().unwrap();
        let (memory, _) = Memory::open(file.try_clone().unwrap()).unwrap();
        let meter = limited(100, BudgetAction::Ask);
        meter.keep_in(&Rc::new(memory), None);
        meter.charge(100);
        assert_eq!(meter.settle(), Verdict::Ask);
        meter.answer(true);
        let left = left(&file).unwrap();
        assert_eq!((left.used, left.max, left.step), (100, 200, 100));
        let memory = Rc::new(Memory::none());
        let next = limited(100, BudgetAction::Ask);
        next.keep_in(&memory, Some(&left));
        assert_eq!((next.used(), next.room()), (100, 100));
        let other = limited(150, BudgetAction::Ask);
        other.keep_in(&memory, Some(&left));
        assert_eq!((other.used(), other.room()), (100, 50));
    }

    #[test]
    fn who_has_given_up_is_not_kept_and_who_waits_is_kept_once() {
        let meter = Meter::new(BudgetKind::Requests, None, None);
        let context = Context::from_waker(Waker::noop());
        let patient = Waiter::default();
        for _ in 0..10_000 {
            meter.wait(&Waiter::default(), &context);
            meter.wait(&patient, &context);
        }
        let waiting = meter.waiting.borrow();
        let live = waiting.iter().filter(|(one, _)| one.strong_count() > 0);
        assert_eq!(live.count(), 1);
        assert!(waiting.len() < 10, "{}", waiting.len());
    }
}
