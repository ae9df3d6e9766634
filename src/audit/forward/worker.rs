//! The loop of one sink: take a batch, send it, remember how far that led.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::config::Target;
use super::cursor::{Place, Places, StateFile};
use super::sink::{Sink, SinkError};
use super::source::Source;

/// How long is waited when there is nothing to send.
const IDLE: Duration = Duration::from_millis(200);

/// How often the state is saved while something is sent.
const SAVE: Duration = Duration::from_secs(1);

/// The longest that a batch may take.
const SEND: Duration = Duration::from_secs(30);

/// The first and the longest wait after a failure.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_mins(1));

/// How long the receiver of what was sent must have stayed there before it counts as arrived, where a protocol has
/// no acknowledgement. Longer than the kernel tries to bring it to the receiver's ([`super::sink::UNACKNOWLEDGED`]).
pub const SETTLED: Duration = Duration::from_secs(6);

/// The most batches that are not settled.
const MAX_UNSETTLED: usize = 4096;

/// What is told of a sink while it runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// Its name.
    pub name: String,
    /// Whether the last batch was taken.
    pub up: bool,
    /// Messages that were sent.
    pub sent: u64,
    /// Times that sending failed.
    pub failures: u64,
    /// Bytes of logs that are not sent.
    pub lag_bytes: u64,
    /// Logs with a record that does not hold.
    pub broken_logs: u64,
}

/// A status that others look at.
pub type Shared = Arc<Mutex<Status>>;

/// What all workers share.
#[derive(Debug, Clone)]
pub struct Surroundings<'a> {
    /// Where the logs are.
    pub root: &'a Path,
    /// Where states are kept.
    pub state: &'a Path,
    /// Whether to end when everything is sent.
    pub once: bool,
    /// Set from outside: end now.
    pub stop: &'a AtomicBool,
    /// Gets one line for a person when something changes.
    pub tell: fn(&str),
}

/// Sends until it is told to stop; with `once`, until nothing is left. An error: it cannot work at all, or, with
/// `once`, the sink did not take everything.
pub async fn run(
    target: &Target,
    around: &Surroundings<'_>,
    status: &Shared,
) -> Result<(), SinkError> {
    let (state, settled) = StateFile::open(around.state, &target.name)?;
    let sink = Sink::new(target)?;
    let mut worker = Worker {
        source: Source::new(around.root, target),
        sent: settled.clone(),
        settled,
        unsettled: VecDeque::new(),
        dirty: false,
        saved: Instant::now(),
        measured: None,
        state,
        sink,
        name: &target.name,
        around,
        status,
    };
    let mut failures = 0_u32;
    loop {
        let stopping = around.stop.load(Ordering::Relaxed);
        let outcome = if stopping {
            Ok(false)
        } else {
            worker.work().await
        };
        match outcome {
            Ok(true) => {
                if failures > 0 {
                    (around.tell)(&format!("{}: takes records again", target.name));
                }
                failures = 0;
            }
            Ok(false) if stopping || around.once => match worker.end().await {
                Ok(()) => return Ok(()),
                Err(error) if stopping || around.once => {
                    worker.rewind();
                    worker.save()?;
                    return Err(error);
                }
                Err(_) => {}
            },
            Ok(false) => tokio::time::sleep(IDLE).await,
            Err(error) => {
                worker.rewind();
                worker.save()?;
                if around.once {
                    return Err(error);
                }
                if failures == 0 {
                    (around.tell)(&format!("{}: {error}; trying again", target.name));
                }
                wait(&mut failures, around.stop).await;
            }
        }
    }
}

/// Waits longer each time, never a round time: many hosts may have lost the same receiver.
async fn wait(failures: &mut u32, stop: &AtomicBool) {
    let (first, longest) = BACK_OFF;
    let whole = first.saturating_mul(1 << (*failures).min(7)).min(longest);
    *failures = failures.saturating_add(1);
    let random = RandomState::new().hash_one(Instant::now()) % 1000;
    let part = u32::try_from(random).unwrap_or_default();
    let until = Instant::now() + whole / 2 + whole / 2 * part / 1000;
    while Instant::now() < until && !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(IDLE).await;
    }
}

struct Worker<'a> {
    source: Source,
    sink: Sink,
    state: StateFile,
    /// Up to where something was sent.
    sent: Places,
    /// Up to where it has arrived.
    settled: Places,
    /// What was sent and may not have arrived, the oldest first.
    unsettled: VecDeque<(Instant, Vec<(String, Place)>)>,
    /// Whether `settled` is not saved.
    dirty: bool,
    saved: Instant,
    /// When the lag was.
    measured: Option<Instant>,
    name: &'a str,
    around: &'a Surroundings<'a>,
    status: &'a Shared,
}

impl Worker<'_> {
    /// Sends the next batch. False: there was none.
    async fn work(&mut self) -> Result<bool, SinkError> {
        self.settle(SETTLED)?;
        if self.unsettled.len() >= MAX_UNSETTLED {
            tokio::time::sleep(IDLE).await;
            return self.sink.check().map(|()| true);
        }
        let batch = self.source.next(&mut self.sent)?;
        if self.measured.is_none_or(|last| last.elapsed() > SAVE) {
            self.measured = Some(Instant::now());
            self.tell(|status, worker| {
                status.lag_bytes = worker.source.lag(&worker.settled);
                status.broken_logs = Source::broken(&worker.sent);
            });
        }
        if batch.items.is_empty() {
            self.sink.check()?;
        } else {
            let count = batch.items.len() as u64;
            let sent = tokio::time::timeout(SEND, self.sink.send(&batch.items)).await;
            if let Some(warning) = sent.map_err(|_| SinkError::Slow)?? {
                (self.around.tell)(&format!("{}: {warning}", self.name));
            }
            self.tell(|status, _| (status.sent, status.up) = (status.sent + count, true));
        }
        if batch.places.is_empty() {
            return Ok(false);
        }
        let acknowledged = self.sink.acknowledges() && self.unsettled.is_empty();
        self.unsettled.push_back((Instant::now(), batch.places));
        if acknowledged {
            self.settle(Duration::ZERO)?;
        }
        Ok(true)
    }

    /// Counts as arrived what was sent so long ago.
    fn settle(&mut self, age: Duration) -> Result<(), SinkError> {
        while self
            .unsettled
            .front()
            .is_some_and(|(at, _)| at.elapsed() >= age)
        {
            for (key, place) in self
                .unsettled
                .pop_front()
                .into_iter()
                .flat_map(|(_, places)| places)
            {
                self.settled.insert(key, place);
                self.dirty = true;
            }
        }
        if self.dirty && self.saved.elapsed() > SAVE {
            self.save()?;
        }
        Ok(())
    }

    /// Makes sure that everything has arrived.
    async fn end(&mut self) -> Result<(), SinkError> {
        let closed = tokio::time::timeout(SEND, self.sink.close()).await;
        closed.map_err(|_| SinkError::Slow)??;
        self.settle(Duration::ZERO)?;
        self.save()
    }

    /// Goes back to what has arrived.
    fn rewind(&mut self) {
        self.sink.disconnect();
        self.sent = self.settled.clone();
        self.unsettled.clear();
        self.tell(|status, _| (status.failures, status.up) = (status.failures + 1, false));
    }

    fn save(&mut self) -> Result<(), SinkError> {
        self.settled.retain(|key, _| self.sent.contains_key(key));
        let lag = self.source.lag(&self.settled);
        self.state.save(&self.settled, lag)?;
        (self.dirty, self.saved) = (false, Instant::now());
        Ok(())
    }

    fn tell(&self, change: impl FnOnce(&mut Status, &Self)) {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut status, self);
    }
}
