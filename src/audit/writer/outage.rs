//! A while in which no record can be kept: what waits for its end, and what is lost.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::audit::event::LostBy;
use crate::audit::log::{Log, LogError};
use crate::audit::loss::Losses;
use crate::audit::{AuditEvent, cap};

/// How many bytes of records may wait, as they would stand in the log: 4 MiB.
const WAITING: usize = 4 << 20;

/// How often it is tried whether records are kept again.
const RETRY: Duration = Duration::from_millis(500);

/// It begins with a batch that could not be written.
#[derive(Debug)]
pub(super) struct Outage {
    /// The last error, one line.
    why: String,
    /// Records that were not refused and are not kept yet, in their order, each as of when it came.
    waiting: VecDeque<(Timestamp, AuditEvent)>,
    /// What those come to in the log, about.
    bytes: usize,
    /// What was refused, or did not fit.
    lost: Losses,
    /// When it is tried next.
    next: Instant,
}

impl Outage {
    pub(super) fn new(error: &LogError) -> Self {
        Self {
            why: error.to_string(),
            waiting: VecDeque::new(),
            bytes: 0,
            lost: Losses::default(),
            next: Instant::now() + RETRY,
        }
    }

    /// One in which a writer begins: it could not keep this.
    pub(super) fn with(error: &LogError, event: AuditEvent) -> Self {
        let mut outage = Self::new(error);
        outage.hold(event, Timestamp::now());
        outage
    }

    /// Cause and cure, one line.
    pub(super) fn why(&self) -> &str {
        &self.why
    }

    /// When it is tried next whether it is over.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// Counts a record that is refused.
    pub(super) fn refuse(&mut self, event: &AuditEvent, at: Timestamp) {
        self.lost.add(event.name(), at);
    }

    /// Keeps a record until the end of the outage, or counts it.
    pub(super) fn hold(&mut self, event: AuditEvent, at: Timestamp) {
        let bytes = cap::length(&event);
        if self.bytes.saturating_add(bytes) > WAITING {
            self.lost.add(event.name(), at);
        } else {
            self.bytes += bytes;
            self.waiting.push_back((at, event));
        }
    }

    /// Tries to write everything that waits, and what was lost. `Ok`: it is kept, and the outage is over.
    pub(super) fn end(&mut self, log: &mut Log) -> Result<(), LogError> {
        self.next = Instant::now() + RETRY;
        let ended = self.write(log);
        if let Err(error) = &ended {
            self.why = error.to_string();
        }
        ended
    }

    fn write(&self, log: &mut Log) -> Result<(), LogError> {
        for (at, event) in &self.waiting {
            // One that has no form would never have one: the others do not wait for it.
            log.stage_capped(event, *at).ok();
        }
        if let Some(told) = self.lost.told(LostBy::Writer, &self.why) {
            log.stage(told).ok();
        }
        log.commit()
    }
}
