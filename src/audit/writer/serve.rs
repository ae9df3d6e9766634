//! Step 7: one thread, one loop. Wait, read both lanes, write one batch, answer.

use std::time::{Duration, Instant};

use rustix::event::{PollFd, Timespec, poll};
use rustix::io::Errno;

use super::lane::Lane;
use crate::audit::log::Log;
use crate::audit::{AuditEvent, Source, Status};
use crate::exit::Exit;
use crate::wire::Channel;
use crate::wire::audit::{Append, AuditReply};

/// How long the gate of a lost session may still report: it ends by itself as soon as it notices.
const GRACE: Duration = Duration::from_secs(2);

/// Serves until the session's log is over.
pub(super) fn serve(log: Log, session: Channel, gate: Channel) -> Exit {
    let mut service = Service {
        log,
        session: Lane::new(Source::Session, session),
        gate: Lane::new(Source::Gate, gate),
        phase: Phase::Running,
        started: Instant::now(),
        batch: Vec::new(),
    };
    loop {
        if service.wait().is_err() {
            return Exit::Internal;
        }
        service.read();
        service.commit();
        if let Some(exit) = service.turn() {
            return exit;
        }
    }
}

struct Service {
    log: Log,
    session: Lane,
    gate: Lane,
    phase: Phase,
    /// For how long a session lasted that cannot say so itself.
    started: Instant,
    /// The requests of this turn, each lane's in its order.
    batch: Vec<(Source, u64, Result<u64, String>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    /// `session.ended` is recorded.
    Ended,
    /// The session process is gone and never said how it ended.
    Lost {
        until: Instant,
    },
}

impl Service {
    /// Waits until a lane can be read or answered, or the gate's grace is over.
    fn wait(&self) -> rustix::io::Result<()> {
        let lanes = [&self.session, &self.gate];
        let mut fds: Vec<PollFd<'_>> = lanes.into_iter().filter_map(Lane::interest).collect();
        let timeout = match self.phase {
            Phase::Lost { until } => {
                let left = until.saturating_duration_since(Instant::now());
                Some(Timespec::try_from(left).map_err(|_| Errno::INVAL)?)
            }
            Phase::Running | Phase::Ended => None,
        };
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Reads both lanes and stages what they ask for. The session first: its end is final.
    fn read(&mut self) {
        for source in [Source::Session, Source::Gate] {
            self.lane(source).fill();
            while let Some(request) = self.lane(source).next_request() {
                match request {
                    Ok(request) => self.take(source, request),
                    // Nothing that follows a broken frame can be told from noise.
                    Err(_) => self.lane(source).cut_off(),
                }
            }
        }
    }

    fn take(&mut self, source: Source, Append { id, event }: Append) {
        let staged = if self.phase == Phase::Ended {
            Err("audit log: the session has ended; nothing more is recorded".to_owned())
        } else if event.source() != source {
            if source == Source::Gate {
                // One that plays the session is not ours any more.
                self.gate.cut_off();
            }
            Err(format!(
                "audit log: {} is not for the {source} to report",
                event.name()
            ))
        } else {
            let ends = matches!(event, AuditEvent::SessionEnded { .. });
            let staged = self.log.stage(event).map_err(|error| error.to_string());
            if ends && staged.is_ok() {
                self.phase = Phase::Ended;
            }
            staged
        };
        self.batch.push((source, id, staged));
    }

    /// Writes the batch, then answers everything in it.
    fn commit(&mut self) {
        let kept = self.log.commit().map_err(|error| error.to_string());
        for (source, id, staged) in std::mem::take(&mut self.batch) {
            let reply = match staged.and_then(|seq| kept.clone().map(|()| seq)) {
                Ok(seq) => AuditReply::Recorded { id, seq },
                Err(error) => AuditReply::Failed { id, error },
            };
            self.lane(source).answer(&reply);
        }
        self.session.flush();
        self.gate.flush();
    }

    /// What comes after this turn; `Some` when nothing does.
    fn turn(&mut self) -> Option<Exit> {
        match self.phase {
            _ if self.session.is_open() => None,
            Phase::Ended => Some(kept(self.log.commit().is_ok())),
            Phase::Running => {
                let until = Instant::now() + GRACE;
                self.phase = Phase::Lost { until };
                self.close_if_over(until)
            }
            Phase::Lost { until } => self.close_if_over(until),
        }
    }

    /// Closes the log of a lost session, once its gate is gone or has had its time.
    fn close_if_over(&mut self, until: Instant) -> Option<Exit> {
        if self.gate.is_open() && Instant::now() < until {
            return None;
        }
        let ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let ended = AuditEvent::SessionEnded {
            status: Status::SessionLost,
            ms,
        };
        let closed = self.log.stage(ended).and_then(|_| self.log.commit());
        Some(kept(closed.is_ok() && self.log.sync().is_ok()))
    }

    fn lane(&mut self, source: Source) -> &mut Lane {
        match source {
            Source::Session => &mut self.session,
            Source::Gate => &mut self.gate,
        }
    }
}

/// How the writer ends, given whether its log is whole.
fn kept(whole: bool) -> Exit {
    if whole {
        Exit::Success
    } else {
        Exit::Unavailable
    }
}
