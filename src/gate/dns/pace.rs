//! How many questions a session may ask: as many as any program needs, and not enough to fill the log or to
//! keep a request waiting. What is over is dropped, as a name server may do, and counted.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

use crate::audit::AuditEvent;

use crate::gate::state::Gate;

/// Questions at once, after a pause: a package manager that looks up hundreds of names must not notice.
const BURST: u32 = 1024;

/// Time in which one more may be asked: 200 a second.
const REFILL: Duration = Duration::from_millis(5);

/// Between two records of what was dropped.
const BETWEEN_RECORDS: Duration = Duration::from_secs(1);

/// A bucket of questions, one for all sockets of a gate.
#[derive(Debug)]
pub(in crate::gate) struct Pace {
    left: Cell<u32>,
    /// Up to when the bucket was filled.
    filled: Cell<Instant>,
    /// Dropped and not on record yet.
    dropped: Cell<u64>,
    recorded: Cell<Option<Instant>>,
}

impl Pace {
    pub(in crate::gate) fn new() -> Self {
        Self {
            left: Cell::new(BURST),
            filled: Cell::new(Instant::now()),
            dropped: Cell::new(0),
            recorded: Cell::new(None),
        }
    }

    /// Takes one question out, if there is one.
    pub(super) fn take(&self) -> bool {
        self.take_at(Instant::now())
    }

    fn take_at(&self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.filled.get());
        let new = u32::try_from(passed.as_nanos() / REFILL.as_nanos()).unwrap_or(u32::MAX);
        if new > 0 {
            self.filled
                .set(self.filled.get() + REFILL.saturating_mul(new));
            self.left
                .set(self.left.get().saturating_add(new).min(BURST));
        }
        let rest = self.left.get().checked_sub(1);
        self.left.set(rest.unwrap_or(0));
        rest.is_some()
    }

    /// Counts a question that is dropped; the first is recorded, and what follows once a second.
    pub(super) fn drop_one(&self, gate: &Gate) {
        self.dropped.set(self.dropped.get().saturating_add(1));
        let waited = self.recorded.get().map(|at| at.elapsed());
        if waited.is_none_or(|waited| waited >= BETWEEN_RECORDS) {
            self.record(gate);
        }
    }

    /// Records what was dropped since the last time.
    pub(super) fn record(&self, gate: &Gate) {
        let count = self.dropped.take();
        if count > 0 {
            self.recorded.set(Some(Instant::now()));
            gate.reporter.note(AuditEvent::DnsDropped { count });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_let_through_and_then_as_many_as_time_allows() {
        let pace = Pace::new();
        let start = pace.filled.get();
        let taken = |seconds: u64| {
            let now = start + Duration::from_secs(seconds);
            (0..2000).filter(|_| pace.take_at(now)).count()
        };
        assert_eq!([taken(0), taken(1), taken(3600)], [1024, 200, 1024]);
    }
}
