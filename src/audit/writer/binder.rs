//! Binds the session's log into the ledger: every so many records and seconds, and at the end.
//!
//! Owns: how far the log is bound. A ledger that cannot be written now (somebody holds its lock, the disk is
//! full) holds nobody up: it is tried again, and what is not bound yet shows in `audit verify`. Only the end
//! waits, for a moment: whoever is told that the session has ended can rely on its signature. While it cannot be written
//! the log says so (`ledger.lost`, `ledger.resumed`).

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use crate::audit::AuditEvent;
use crate::audit::chain::ChainHash;
use crate::audit::ledger::{
    INTERVAL, Ledger, LedgerError, LedgerEvent, LogHead, LogState, RECORDS,
};
use crate::ids::SessionId;

/// How long the end waits for the ledger.
const END: Duration = Duration::from_secs(2);

/// After how long an attempt is repeated, the first time; twice as long each time up to [`INTERVAL`].
const RETRY: Duration = Duration::from_millis(20);

/// How far the log is, and how far it is bound.
#[derive(Debug)]
pub(super) struct Binder {
    /// `None`: somebody else binds this log.
    ledger: Option<Ledger>,
    session: SessionId,
    /// What is committed.
    records: u64,
    head: ChainHash,
    ended: bool,
    /// What is bound of it.
    bound: u64,
    /// When the next attempt is due; `None`: everything is bound.
    due: Option<Instant>,
    retry: Duration,
    /// The end was waited for, once.
    waited: bool,
    /// Since when nothing could be bound.
    trouble: Option<Trouble>,
    /// What the log is to say of that.
    news: Option<AuditEvent>,
}

/// A while in which nothing could be bound.
#[derive(Debug)]
struct Trouble {
    since: Instant,
    /// It is on record.
    told: bool,
}

impl Binder {
    /// For a log that has these records already.
    pub(super) fn new(
        ledger: Option<Ledger>,
        session: SessionId,
        (records, head): (u64, ChainHash),
        ended: bool,
    ) -> Self {
        let mut binder = Self {
            ledger,
            session,
            records: 0,
            head,
            ended,
            bound: 0,
            due: None,
            retry: RETRY,
            waited: false,
            trouble: None,
            news: None,
        };
        binder.committed((records, head), ended);
        binder
    }

    /// Where the ledger's further segments are.
    pub(super) fn folder(&self) -> Option<BorrowedFd<'_>> {
        self.ledger.as_ref().map(Ledger::folder)
    }

    /// The log was committed up to here.
    pub(super) fn committed(&mut self, (records, head): (u64, ChainHash), ended: bool) {
        if self.ledger.is_none() || records == self.records {
            return;
        }
        (self.records, self.head, self.ended) = (records, head, ended);
        let now = Instant::now();
        let due = self.due.get_or_insert(now + INTERVAL);
        if self.records - self.bound >= RECORDS && self.retry == RETRY {
            *due = now;
        }
    }

    /// How long there is until something is to be done; `None`: nothing is.
    pub(super) fn patience(&self) -> Option<Duration> {
        let due = self.due?;
        Some(due.saturating_duration_since(Instant::now()))
    }

    /// Binds what is due. Waits for nobody.
    pub(super) fn bind_if_due(&mut self) {
        if self.due.is_some_and(|due| due <= Instant::now()) {
            self.bind(Duration::ZERO);
        }
    }

    /// Binds the end, before anybody is told of it.
    pub(super) fn bind_end(&mut self) {
        if self.due.is_some() && !std::mem::replace(&mut self.waited, true) {
            self.bind(END);
        }
    }

    fn bind(&mut self, patience: Duration) {
        let Some(ledger) = &self.ledger else { return };
        let head = LedgerEvent::LogHead(LogHead {
            session: self.session,
            uid: None,
            records: self.records,
            head: self.head,
            state: if self.ended {
                LogState::Ended
            } else {
                LogState::Open
            },
        });
        match ledger.append(&[head], patience) {
            Ok(()) => {
                self.bound = self.records;
                self.due = None;
                self.retry = RETRY;
                self.is_back();
            }
            Err(error) => {
                self.due = Some(Instant::now() + self.retry);
                self.retry = (self.retry * 2).min(INTERVAL);
                self.is_away(&error);
            }
        }
    }

    /// Whoever has the lock for a moment is no trouble; who keeps it is.
    fn is_away(&mut self, error: &LedgerError) {
        let trouble = self.trouble.get_or_insert_with(|| Trouble {
            since: Instant::now(),
            told: false,
        });
        let is_passing = matches!(error, LedgerError::Busy { .. });
        if trouble.told || is_passing && trouble.since.elapsed() < INTERVAL {
            return;
        }
        trouble.told = true;
        let why = error.to_string();
        self.news = Some(AuditEvent::LedgerLost { why });
    }

    fn is_back(&mut self) {
        let Some(trouble) = self.trouble.take().filter(|trouble| trouble.told) else {
            return;
        };
        let lost = self.news.take();
        if lost.is_none() {
            let ms = trouble.since.elapsed().as_millis();
            let ms = u64::try_from(ms).unwrap_or(u64::MAX);
            self.news = Some(AuditEvent::LedgerResumed { ms });
        }
    }

    /// What the log is to say of the ledger, until [`Self::is_told`].
    pub(super) fn news(&self) -> Option<&AuditEvent> {
        self.news.as_ref()
    }

    /// It says so.
    pub(super) fn is_told(&mut self) {
        self.news = None;
    }
}
