//! Step 7: one thread, one loop. Wait, read both lanes, write one batch, answer. The gate's lane comes by
//! the supply channel, and another one after it when the gate is another.

use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::Opened;
use super::lane::Lane;
use super::witness::Witness;
use crate::audit::log::Log;
use crate::audit::{AuditEvent, Source, Status};
use crate::exit::Exit;
use crate::wire::Channel;
use crate::wire::audit::{Append, AuditReply};
use crate::wire::supply::{Deliveries, WriterSupply, only};

/// How long the gate of a lost session may still report: it ends by itself as soon as it notices.
const GRACE: Duration = Duration::from_secs(2);

/// Reads of what a gate that died had sent, at most: far more than a socket holds.
const LAST_READS: usize = 64;

/// Serves until the session's log is over.
pub(super) fn serve(opened: Opened, session: Channel) -> Exit {
    let Opened {
        log,
        witness,
        ended,
        supply,
    } = opened;
    let mut service = Service {
        log,
        witness,
        session: Lane::new(Source::Session, session),
        gate: None,
        supply: Some(supply),
        deliveries: Deliveries::default(),
        phase: if ended.is_some() {
            Phase::Ended
        } else {
            Phase::Running
        },
        ended,
        started: Instant::now(),
        batch: Vec::new(),
    };
    loop {
        let Ok(supplied) = service.wait() else {
            return Exit::Internal;
        };
        if supplied {
            service.take_supplies();
        }
        service.read();
        service.commit();
        service.witness.bind_if_due();
        if let Some(exit) = service.turn() {
            return exit;
        }
    }
}

struct Service {
    log: Log,
    witness: Witness,
    session: Lane,
    /// `None`: no gate yet.
    gate: Option<Lane>,
    /// `None` once it is closed.
    supply: Option<Channel>,
    deliveries: Deliveries,
    phase: Phase,
    /// The place of `session.ended`, where the writer before kept it: the session, which was not told,
    /// sends it again.
    ended: Option<u64>,
    /// For how long a session lasted that cannot say so itself, as far as this writer knows.
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
    /// Waits until a lane can be read or answered, the starter supplies something, or the gate's grace is
    /// over. Answers whether the starter does.
    fn wait(&self) -> rustix::io::Result<bool> {
        let lanes = [Some(&self.session), self.gate.as_ref()];
        let lanes = lanes.into_iter().flatten();
        let mut fds: Vec<PollFd<'_>> = lanes.filter_map(Lane::interest).collect();
        let place = fds.len();
        let supply = self.supply.as_ref();
        fds.extend(supply.map(|supply| PollFd::new(supply, PollFlags::IN)));
        let grace = match self.phase {
            Phase::Lost { until } => Some(until.saturating_duration_since(Instant::now())),
            Phase::Running | Phase::Ended => None,
        };
        let timeout = grace.into_iter().chain(self.witness.patience()).min();
        let timeout = timeout.map(Timespec::try_from).transpose();
        let timeout = timeout.map_err(|_| Errno::INVAL)?;
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => Ok(fds.get(place).is_some_and(|fd| !fd.revents().is_empty())),
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Takes the channels of gates. A supply channel that is closed, or that says something else, says
    /// nothing more; what runs goes on.
    fn take_supplies(&mut self) {
        while let Some(supply) = &self.supply {
            match self.deliveries.next::<WriterSupply>(supply) {
                Ok(None) => return,
                Ok(Some((WriterSupply::Gate, fds))) => {
                    if let Some(lane) = only(fds) {
                        self.adopt(lane.into());
                    }
                }
                Ok(Some(_)) | Err(_) => self.supply = None,
            }
        }
    }

    /// From now on this is the gate's channel. What the one before had sent is still recorded.
    fn adopt(&mut self, channel: Channel) {
        for _ in 0..LAST_READS {
            let Some(old) = self.gate.as_mut() else { break };
            old.say_nothing_more();
            if !old.is_open() {
                break;
            }
            self.read_from(Source::Gate);
            self.commit();
        }
        self.gate = Some(Lane::new(Source::Gate, channel));
    }

    /// Reads both lanes and stages what they ask for. The session first: its end is final.
    fn read(&mut self) {
        for source in [Source::Session, Source::Gate] {
            self.read_from(source);
        }
    }

    fn read_from(&mut self, source: Source) {
        if let Some(lane) = self.lane(source) {
            lane.fill();
        }
        while let Some(request) = self.lane(source).and_then(Lane::next_request) {
            match request {
                Ok(request) => self.take(source, request),
                // Nothing that follows a broken frame can be told from noise.
                Err(_) => self.cut_off(source),
            }
        }
    }

    fn cut_off(&mut self, source: Source) {
        if let Some(lane) = self.lane(source) {
            lane.cut_off();
        }
    }

    fn take(&mut self, source: Source, Append { id, event }: Append) {
        let is_end = matches!(event, AuditEvent::SessionEnded { .. }) && source == Source::Session;
        let staged = if let (Phase::Ended, true, Some(place)) = (self.phase, is_end, self.ended) {
            Ok(place)
        } else if self.phase == Phase::Ended {
            Err("audit log: the session has ended; nothing more is recorded".to_owned())
        } else if event.source() != source {
            if source == Source::Gate {
                // One that plays the session is not ours any more.
                self.cut_off(source);
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
        if kept.is_ok() {
            let ended = self.phase == Phase::Ended;
            self.witness.committed(self.log.place(), ended);
            if ended {
                self.witness.bind_end();
            }
        }
        for (source, id, staged) in std::mem::take(&mut self.batch) {
            let reply = match staged.and_then(|seq| kept.clone().map(|()| seq)) {
                Ok(seq) => AuditReply::Recorded { id, seq },
                Err(error) => AuditReply::Failed { id, error },
            };
            if let Some(lane) = self.lane(source) {
                lane.answer(&reply);
            }
        }
        self.session.flush();
        if let Some(gate) = &mut self.gate {
            gate.flush();
        }
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
        if self.gate.as_ref().is_some_and(Lane::is_open) && Instant::now() < until {
            return None;
        }
        let ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let ended = AuditEvent::SessionEnded {
            status: Status::SessionLost,
            ms,
        };
        let closed = self.log.stage(ended).and_then(|_| self.log.commit());
        if closed.is_ok() {
            self.witness.committed(self.log.place(), true);
            self.witness.bind_end();
        }
        Some(kept(closed.is_ok() && self.log.sync().is_ok()))
    }

    fn lane(&mut self, source: Source) -> Option<&mut Lane> {
        match source {
            Source::Session => Some(&mut self.session),
            Source::Gate => self.gate.as_mut(),
            Source::Writer => None,
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
