//! What follows when records cannot be kept: whether anything is let through meanwhile, what the session is told, and
//! what is recorded of it afterwards.

use std::convert::Infallible;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::sleep;

use super::{AuditLost, BACKLOG, Reporter};
use crate::audit::{AuditEvent, LostBy};
use crate::policy::OnFailure;
use crate::wire::gate::AuditState;

/// How long a record may stay unacknowledged, and how long there may be no writer before everything is
/// refused. Must exceed an fdatasync(2) on a busy disk, and the start of another writer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The same where the session goes on.
const SHORT_PATIENCE: Duration = Duration::from_secs(1);

/// How often the age of the oldest record without an answer is looked at.
const TICK: Duration = Duration::from_millis(200);

impl Reporter {
    /// Leaves an event in the queue, or counts it where that is full.
    pub(super) fn leave(&self, event: AuditEvent) -> Result<(), AuditLost> {
        if self.useless.get() {
            return Err(AuditLost);
        }
        if self.queue.borrow().waiting.len() >= BACKLOG {
            self.losses.borrow_mut().add(event.name(), Timestamp::now());
            return Ok(());
        }
        self.enqueue(event, None)
    }

    /// How long a record may stay unacknowledged.
    pub(super) fn patience(&self) -> Duration {
        match self.on_failure {
            OnFailure::Block => PATIENCE,
            OnFailure::Continue => SHORT_PATIENCE,
        }
    }

    /// Whether records cannot be kept at the moment.
    pub(super) fn is_in_trouble(&self) -> bool {
        self.refusing.borrow().is_some() || self.absent.get() || self.overdue.get()
    }

    /// Draws the conclusions from what has changed, and tells the session.
    pub(super) fn judge(&self) {
        let why = self.refusing.borrow().clone().or_else(|| {
            let silent = self.overdue.get().then(|| AuditLost.to_string());
            let gone = || "there is no audit writer".to_owned();
            silent.or_else(|| self.absent.get().then(gone))
        });
        let why = why.or_else(|| self.useless.get().then(|| AuditLost.to_string()));
        let goes_on = self.on_failure == OnFailure::Continue && !self.useless.get();
        let state = match why {
            None => AuditState::Writing,
            Some(why) if goes_on => AuditState::Behind(why),
            Some(why) => AuditState::Blocked(why),
        };
        if matches!(state, AuditState::Blocked(_)) {
            self.lose();
        } else {
            self.lost.send_replace(false);
        }
        if state == AuditState::Writing {
            self.tell_losses();
        }
        self.state.send_if_modified(|told| {
            // Another reason for the same is no news.
            let news = std::mem::discriminant(told) != std::mem::discriminant(&state);
            *told = state;
            news
        });
    }

    /// Records what was lost.
    fn tell_losses(&self) {
        let losses = self.losses.take();
        let why = "the audit writer did not take them";
        if let Some(told) = losses.told(LostBy::Gate, why) {
            self.enqueue(told, None).ok();
        }
    }

    /// What the session is to be told, whenever that changes.
    pub(in crate::gate) fn states(&self) -> watch::Receiver<AuditState> {
        self.state.subscribe()
    }

    /// Looks at the age of the oldest record without an answer, as long as there is any.
    pub(super) async fn watch_the_oldest(&self) -> Infallible {
        loop {
            if self.queue.borrow().waiting.is_empty() {
                self.queued.notified().await;
            } else {
                sleep(TICK).await;
                self.look_at_the_oldest();
            }
        }
    }

    pub(super) fn look_at_the_oldest(&self) {
        let oldest = self.queue.borrow().waiting.front().map(|one| one.since);
        let overdue = oldest.is_some_and(|since| since.elapsed() >= self.patience());
        if self.overdue.replace(overdue) != overdue {
            self.judge();
        }
    }

    fn lose(&self) {
        self.lost.send_replace(true);
        let mut queue = self.queue.borrow_mut();
        if self.useless.get() {
            queue.outgoing.clear();
            queue.waiting.clear();
        }
        for unanswered in &mut queue.waiting {
            // Dropping the sender tells the waiting caller; the record itself may still be kept.
            unanswered.waiter = None;
        }
        drop(queue);
        self.answered.notify_waiters();
    }
}
