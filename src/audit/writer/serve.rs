//! Step 7: one thread, one loop. Wait, read both lanes, write one batch, answer. The gate's lane comes by
//! the supply channel, and another one after it when the gate is another.
//!
//! A batch that cannot be written begins an [`Outage`]: until a record can be kept again, each is refused or held.

use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use jiff::Timestamp;

use super::Opened;
use super::binder::Binder;
use super::bodies::Bodies;
use super::lane::{Lane, Request};
use super::outage::Outage;
use crate::audit::log::{Log, LogError};
use crate::audit::{AuditEvent, Source, Status};
use crate::exit::Exit;
use crate::policy::OnFailure;
use crate::wire::Channel;
use crate::wire::audit::{Append, AuditReply, KeepBody};
use crate::wire::supply::{Deliveries, WriterSupply, only};

/// How long the gate of a lost session may still report: it ends by itself as soon as it notices.
const GRACE: Duration = Duration::from_secs(2);

/// What is said of records that come too late.
const OVER: &str = "audit log: the session has ended; nothing more is recorded";

/// Reads of what a gate that died had sent, at most: far more than a socket holds.
const LAST_READS: usize = 64;

/// Serves until the session's log is over.
pub(super) fn serve(opened: Opened, session: Channel) -> Exit {
    let Opened {
        log,
        binder,
        bodies,
        ended,
        supply,
        on_failure,
        outage,
    } = opened;
    let mut service = Service {
        log,
        binder,
        bodies,
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
        on_failure,
        outage,
        last_word: None,
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
        service.binder.bind_if_due();
        service.tell_of_ledger();
        if let Some(exit) = service.turn() {
            return exit;
        }
    }
}

struct Service {
    log: Log,
    binder: Binder,
    bodies: Bodies,
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
    batch: Vec<Asked>,
    on_failure: OnFailure,
    /// While nothing can be kept.
    outage: Option<Outage>,
    /// A `session.ended` that could not be kept, and when it came: nobody says it again.
    last_word: Option<(Timestamp, AuditEvent)>,
}

/// A request of a client's.
struct Asked {
    source: Source,
    id: u64,
    what: Wanted,
}

/// What is to be done for it.
#[expect(clippy::large_enum_variant, reason = "nearly all are records")]
enum Wanted {
    /// To keep this, which came then.
    Record(Timestamp, AuditEvent),
    /// To say where it stands.
    Known(u64),
    /// To say why not.
    Nothing(String),
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
        let until = match self.phase {
            Phase::Lost { until } => Some(until),
            Phase::Running | Phase::Ended => None,
        };
        let retry = self.outage.as_ref().map(Outage::next);
        let left = until.into_iter().chain(retry).min();
        let left = left.map(|at| at.saturating_duration_since(Instant::now()));
        let left = left.into_iter().chain(self.binder.patience()).min();
        let timeout = left.map(Timespec::try_from).transpose();
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
        let mut lane = Lane::new(Source::Gate, channel);
        if let Some(outage) = &self.outage {
            let error = outage.why().to_owned();
            lane.answer(&AuditReply::Blocked { error });
        }
        self.gate = Some(lane);
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
                Ok(Request::Append(request)) => self.take(source, request),
                Ok(Request::Keep(request)) => self.take_body(source, request),
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
        let what = if let (Phase::Ended, true, Some(place)) = (self.phase, is_end, self.ended) {
            Wanted::Known(place)
        } else if self.phase == Phase::Ended {
            Wanted::Nothing(OVER.to_owned())
        } else if event.source() != source {
            if source == Source::Gate {
                // One that plays the session is not ours any more.
                self.cut_off(source);
            }
            Wanted::Nothing(format!(
                "audit log: {} is not for the {source} to report",
                event.name()
            ))
        } else {
            Wanted::Record(Timestamp::now(), event.capped())
        };
        self.batch.push(Asked { source, id, what });
    }

    /// Keeps a body, and has a record say so.
    fn take_body(&mut self, source: Source, KeepBody { id, body }: KeepBody) {
        // After the end nothing is kept, and only a gate has bodies.
        if source != Source::Gate || self.phase == Phase::Ended {
            let what = Wanted::Nothing("audit log: no body is kept here".to_owned());
            self.batch.push(Asked { source, id, what });
            return self.cut_off(source);
        }
        match self.bodies.keep(body) {
            Ok(event) => self.take(source, Append { id, event }),
            Err(_) => self.cut_off(source),
        }
    }

    /// Writes the batch, then answers everything in it.
    fn commit(&mut self) {
        self.end_outage(Instant::now());
        let batch = std::mem::take(&mut self.batch);
        if self.outage.is_some() {
            self.do_without(batch);
        } else {
            self.keep(batch);
        }
        self.session.flush();
        if let Some(gate) = &mut self.gate {
            gate.flush();
        }
    }

    fn keep(&mut self, batch: Vec<Asked>) {
        let mut ends = false;
        let mut places = Vec::with_capacity(batch.len());
        for asked in &batch {
            places.push(match &asked.what {
                Wanted::Known(seq) => Ok(*seq),
                Wanted::Nothing(why) => Err(why.clone()),
                Wanted::Record(..) if ends => Err(OVER.to_owned()),
                Wanted::Record(at, event) => {
                    let staged = self.log.stage_capped(event, *at);
                    ends |= staged.is_ok() && matches!(event, AuditEvent::SessionEnded { .. });
                    staged.map_err(|error| error.to_string())
                }
            });
        }
        if let Err(error) = self.log.commit() {
            self.begin_outage(&error);
            self.do_without(batch);
            return;
        }
        if ends {
            self.phase = Phase::Ended;
        }
        let ended = self.phase == Phase::Ended;
        self.binder.committed(self.log.place(), ended);
        if ended {
            self.binder.bind_end();
        }
        for (Asked { source, id, .. }, place) in batch.into_iter().zip(places) {
            let reply = match place {
                Ok(seq) => AuditReply::Recorded { id, seq },
                Err(error) => AuditReply::Failed { id, error },
            };
            self.answer(source, &reply);
        }
    }

    /// Answers a batch that cannot be kept.
    fn do_without(&mut self, batch: Vec<Asked>) {
        let Some(mut outage) = self.outage.take() else {
            return;
        };
        // Without a record there is no session that could go on.
        let began = self.log.kept() > 0;
        let goes_on = self.on_failure == OnFailure::Continue && began;
        for Asked { source, id, what } in batch {
            let error = outage.why().to_owned();
            let reply = match what {
                Wanted::Known(seq) => AuditReply::Recorded { id, seq },
                Wanted::Nothing(error) => AuditReply::Failed { id, error },
                Wanted::Record(at, event @ AuditEvent::SessionEnded { .. }) => {
                    self.last_word = Some((at, event));
                    AuditReply::Failed { id, error }
                }
                // What tells of a death or a loss stands before whatever is kept next: until then nothing is let through, and a
                // session that had to wait for it would have no gate for as long.
                Wanted::Record(at, event) if goes_on || (began && event.tells_of_a_loss()) => {
                    outage.hold(event, at);
                    AuditReply::Held { id }
                }
                Wanted::Record(at, event) => {
                    outage.refuse(&event, at);
                    AuditReply::Failed { id, error }
                }
            };
            self.answer(source, &reply);
        }
        self.outage = Some(outage);
    }

    fn begin_outage(&mut self, error: &LogError) {
        self.outage = Some(Outage::new(error));
        let error = error.to_string();
        self.answer(Source::Gate, &AuditReply::Blocked { error });
    }

    /// Tries whether it is over, if that is due by now.
    fn end_outage(&mut self, now: Instant) {
        let Some(outage) = self.outage.as_mut().filter(|outage| outage.next() <= now) else {
            return;
        };
        if outage.end(&mut self.log).is_ok() {
            self.outage = None;
            self.binder.committed(self.log.place(), false);
            self.answer(Source::Gate, &AuditReply::Writing);
        }
    }

    /// Puts on record that the log cannot be bound, or can again. After the end nothing follows.
    fn tell_of_ledger(&mut self) {
        if self.phase == Phase::Ended || self.outage.is_some() || self.log.kept() == 0 {
            return;
        }
        let Some(event) = self.binder.news() else {
            return;
        };
        let event = event.clone().capped();
        let told = self.log.stage_capped(&event, Timestamp::now());
        match told.and_then(|_| self.log.commit()) {
            Ok(()) => {
                self.binder.is_told();
                self.binder.committed(self.log.place(), false);
            }
            Err(error) => self.begin_outage(&error),
        }
    }

    fn answer(&mut self, source: Source, reply: &AuditReply) {
        if let Some(lane) = self.lane(source) {
            lane.answer(reply);
        }
    }

    /// What comes after this turn; `Some` when nothing does.
    fn turn(&mut self) -> Option<Exit> {
        match self.phase {
            _ if self.session.is_open() => None,
            Phase::Ended => Some(Exit::Success),
            Phase::Running => {
                let until = Instant::now() + GRACE;
                self.phase = Phase::Lost { until };
                self.close_if_over(until)
            }
            Phase::Lost { until } => self.close_if_over(until),
        }
    }

    /// Closes the log of a lost session, once its gate is gone or has had its time; and of one whose end could not be
    /// kept, if the disk takes it in that time.
    fn close_if_over(&mut self, until: Instant) -> Option<Exit> {
        let waits = self.gate.as_ref().is_some_and(Lane::is_open) || self.outage.is_some();
        if waits && Instant::now() < until {
            return None;
        }
        if self.outage.is_some() {
            return Some(Exit::Unavailable);
        }
        let lost = || {
            let ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
            let status = Status::SessionLost;
            let files = None;
            (
                Timestamp::now(),
                AuditEvent::SessionEnded { status, ms, files },
            )
        };
        let (at, ended) = self.last_word.take().unwrap_or_else(lost);
        let closed = self.log.stage_capped(&ended, at);
        let closed = closed.and_then(|_| self.log.commit());
        if closed.is_ok() {
            self.binder.committed(self.log.place(), true);
            self.binder.bind_end();
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
