//! The wait: signals go to the command, a dead companion is told, the jail's end is the session's.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Child;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rustix::event::PollFlags;
use rustix::process::pidfd_send_signal;

use super::companions::{AuditWriter, CompanionError, Gate, News, Observed, any_ready};
use super::desk::{Desk, Stop, Tell};
use super::limits::{self, Limits};
use super::live::has_terminal;
use super::resources::{ResourceHit, Resources};
use super::signals::{Arrived, Signals};
use crate::wire::gate::{AuditState, GateCommand, GateReply, LimitNotice};

/// How long a command may take to end after it was asked to, before the whole jail is killed.
const GRACE: Duration = Duration::from_secs(10);

/// Messages of the gate that are taken before anything else has its turn: more than one that is itself
/// can have on the way.
const MESSAGES: usize = 1024;

/// How long one wait lasts when nothing else limits it.
const QUIET: Duration = Duration::from_hours(1);

/// What a session watches while its command runs.
#[derive(Debug)]
pub struct Watch<'a> {
    /// The queue of signals.
    pub signals: &'a mut Signals,
    /// bubblewrap, whose end is the jail's end.
    pub jail: &'a mut Child,
    /// The command itself (pidfd_open(2)).
    pub command: &'a OwnedFd,
    /// The gate; `None` once it has been told that it died and nothing takes its place.
    pub gate: Option<&'a mut Gate>,
    /// The audit writer; `None` once it has been told that it died and nothing takes its place.
    pub audit: Option<&'a mut AuditWriter>,
    /// What else is to be done meanwhile.
    pub desk: &'a mut Desk,
    /// What may end the session before its command does.
    pub limits: &'a mut Limits,
    /// What the jail may take of the machine.
    pub resources: &'a mut Resources,
}

/// What a person should hear while the session goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The gate died, and another one took its place after so long.
    GateRestarted(Duration),
    /// The gate died: the jail has no network any more.
    GateLost,
    /// The witness died, and another one took its place after so long.
    WitnessRestarted(Duration),
    /// The witness died: records name no process any more.
    WitnessLost,
    /// The audit writer died, and another one goes on with its log.
    AuditRestarted,
    /// The audit writer died: the gate refuses everything.
    AuditLost,
    /// Records cannot be kept, or can be again.
    Records(AuditState),
    /// The command did not end in time: the jail is killed.
    Killing,
    /// Something to know: a question that waits, a policy that is in force. May hold text of the jail's:
    /// escape it.
    Said(String),
    /// Something that went wrong and does not end the session.
    Problem(String),
    /// A budget is used up, and the session goes on.
    Limit(LimitNotice),
    /// A limit of the machine is reached, and the session goes on, or is over.
    Resource(ResourceHit),
}

/// Waits for the jail's end; answers with the status that bubblewrap passes on (the command's own,
/// 128 + n for a signal).
pub fn until_the_end(mut watch: Watch<'_>, tell: Tell<'_>) -> io::Result<u8> {
    let status = await_the_end(&mut watch, tell)?;
    // What the kernel has counted while nobody looked.
    watch.count(Some(status), tell);
    Ok(status)
}

fn await_the_end(watch: &mut Watch<'_>, tell: Tell<'_>) -> io::Result<u8> {
    let mut kill_at: Option<Instant> = None;
    loop {
        if let Some(status) = watch.jail.try_wait()? {
            return Ok(exit_status(status));
        }
        if kill_at.is_some_and(|at| at <= Instant::now()) {
            tell(Notice::Killing);
            watch.jail.kill()?;
            return watch.jail.wait().map(exit_status);
        }
        while let Some(notice) = watch.limits.reached() {
            if watch.exceeded(notice, tell) {
                watch.jail.kill()?;
                return watch.jail.wait().map(exit_status);
            }
        }
        watch.wait(kill_at, tell)?;
        match watch.desk.take_stop() {
            None => {}
            Some(Stop::Kill) => kill_at = Some(Instant::now()),
            Some(Stop::Ask) => {
                kill_at.get_or_insert_with(|| Instant::now() + GRACE);
                // ESRCH: it has ended by itself, and the loop sees that next.
                pidfd_send_signal(watch.command, rustix::process::Signal::TERM).ok();
            }
        }
        while let Some(arrived) = watch.signals.take()? {
            if arrived.signal == Signal::SIGCHLD {
                continue;
            }
            let detached = watch.desk.is_detached();
            if arrived.from_terminal && (arrived.signal == Signal::SIGINT || detached) {
                // Ctrl-C is a question to the command, not an order: many answer it and go on. What is
                // typed into the session's own terminal is for the command in any case.
                continue;
            }
            let hang_up = arrived.signal == Signal::SIGHUP && !arrived.from_terminal;
            if hang_up && (detached || !has_terminal()) {
                // A service's way to say that its configuration has changed; a terminal's way to say
                // that it is gone is another matter.
                watch.reload(tell);
                continue;
            }
            kill_at = Some(match kill_at {
                None => Instant::now() + GRACE,
                // Asked twice: no more patience.
                Some(_) if !arrived.from_terminal => Instant::now(),
                Some(at) => at,
            });
            forward(watch.command, arrived);
        }
    }
}

impl Watch<'_> {
    /// Sleeps until a signal arrives (a child's end is one), a companion speaks or dies, there is
    /// something to do at the desk, a limit is reached, or `until`.
    fn wait(&mut self, until: Option<Instant>, tell: Tell<'_>) -> io::Result<()> {
        let due = self.desk.due().into_iter().chain(self.limits.next());
        let until = until.into_iter().chain(due).min();
        let timeout = until.map_or(QUIET, |at| at.saturating_duration_since(Instant::now()));
        let signals = self.signals.as_fd();
        // A companion whose death was told is replaced by the signal queue, which may be polled twice.
        let gate = self.gate.as_deref().map_or(signals, AsFd::as_fd);
        let audit = self.audit.as_deref().and_then(AuditWriter::fd);
        let (watches_audit, audit) = (audit.is_some(), audit.unwrap_or(signals));
        let mut fds = vec![signals, gate, audit];
        let metered = fds.len();
        // In the place of a meter that is not there, again the signal queue.
        fds.push(self.resources.fd().unwrap_or(signals));
        let observer = self.gate.as_deref().and_then(Gate::observer_fd);
        let watches_observer = observer.is_some();
        fds.push(observer.unwrap_or(signals));
        fds.extend(self.desk.fds());
        let mut fds: Vec<_> = fds.into_iter().map(|fd| (fd, PollFlags::IN)).collect();
        fds.extend(self.desk.polled());
        let ready = any_ready(&fds, timeout)?;
        let is_ready = |place: usize| ready.get(place).copied().unwrap_or_default();
        let (gate_spoke, audit_spoke) = (is_ready(1), is_ready(2));
        if is_ready(metered) {
            self.count(None, tell);
        }
        let observer_died = watches_observer && is_ready(metered + 1);
        // The audit writer does not speak unasked: something to read is the end of its channel.
        if audit_spoke
            && watches_audit
            && let Some(audit) = &mut self.audit
        {
            // What came of it is told below.
            audit.revive().ok();
            self.hear_of_audit(tell);
        }
        if gate_spoke {
            self.with_gate(tell, |gate, watch, tell| {
                for _ in 0..MESSAGES {
                    let Some(reply) = gate.heard()? else {
                        break;
                    };
                    match reply {
                        GateReply::Limit(notice) => watch.limits.heard(notice),
                        reply => watch.desk.hear(reply, gate, tell)?,
                    }
                }
                // A new policy may have brought others.
                watch.limits.adopt(watch.desk.budgets());
                Ok(())
            });
        }
        if observer_died && let Some(gate) = &mut self.gate {
            tell(match gate.another_observer(self.audit.as_deref_mut()) {
                Observed::Restarted(outage) => Notice::WitnessRestarted(outage),
                Observed::Lost => Notice::WitnessLost,
            });
        }
        let audit = self.audit.as_deref_mut();
        let attended = self.desk.attend(self.gate.as_deref(), audit, tell);
        if attended.is_err() {
            self.lose_gate(tell);
        }
        self.hear_of_audit(tell);
        Ok(())
    }

    /// Records and tells which limits of the machine are reached; with the command's status once it has ended.
    fn count(&mut self, status: Option<u8>, tell: Tell<'_>) {
        for hit in self.resources.reached(status) {
            if let Some(audit) = self.audit.as_mut() {
                audit.append(hit.record()).ok();
            }
            tell(Notice::Resource(hit));
        }
    }

    /// SIGHUP: the profile is read again at once.
    fn reload(&mut self, tell: Tell<'_>) {
        self.with_gate(tell, |gate, watch, tell| {
            watch.desk.reload(gate, watch.audit.as_deref_mut(), tell)
        });
    }

    /// Does something that needs the gate. Only its end, or what does not belong here, is an error: then
    /// it is of no use any more.
    fn with_gate(
        &mut self,
        tell: Tell<'_>,
        act: impl FnOnce(&Gate, &mut Self, Tell<'_>) -> Result<(), CompanionError>,
    ) {
        let Some(gate) = self.gate.take() else {
            return;
        };
        let done = act(gate, self, tell);
        self.gate = Some(gate);
        if done.is_err() {
            self.lose_gate(tell);
        }
    }

    /// The gate is of no use any more: another one takes its place, or there is none from here on.
    fn lose_gate(&mut self, tell: Tell<'_>) {
        let (Some(gate), audit) = (self.gate.take(), self.audit.as_deref_mut()) else {
            return;
        };
        self.limits.gate_lost();
        // Without a record nothing could leave by the next one either.
        if let Some(audit) = audit {
            while let Ok(outage) = gate.restart(audit) {
                tell(Notice::GateRestarted(outage));
                if self.desk.meet(gate).is_ok() {
                    self.limits.gate_back();
                    self.gate = Some(gate);
                    return;
                }
            }
        }
        gate.give_up();
        tell(Notice::GateLost);
    }

    /// Tells what became of the audit writer, whoever found out.
    fn hear_of_audit(&mut self, tell: Tell<'_>) {
        let news = self.audit.as_deref_mut().and_then(AuditWriter::news);
        match news {
            None => {}
            Some(News::Restarted) => tell(Notice::AuditRestarted),
            Some(News::Lost) => {
                self.audit = None;
                // A session that goes on without records does so only until there are some again.
                if let Some(gate) = self.gate.as_deref() {
                    gate.command(&GateCommand::NoMoreRecords).ok();
                }
                tell(Notice::AuditLost);
            }
        }
    }

    /// Records and tells that a limit is reached; answers whether the session ends here. A record that
    /// cannot be kept does not put that off.
    fn exceeded(&mut self, notice: LimitNotice, tell: Tell<'_>) -> bool {
        if let (Some(audit), Some(event)) = (self.audit.as_mut(), limits::record(&notice)) {
            audit.append(event).ok();
        }
        let ends = limits::ends(&notice);
        if ends {
            self.limits.kill(notice);
        } else {
            tell(Notice::Limit(notice));
        }
        ends
    }
}

/// Passes a signal on to the command, unless the terminal has sent it there already.
fn forward(command: &OwnedFd, arrived: Arrived) {
    if arrived.from_terminal {
        return;
    }
    let number = arrived.signal as i32;
    if let Some(signal) = rustix::process::Signal::from_named_raw(number) {
        // ESRCH: it has ended by itself, and the loop sees that next.
        pidfd_send_signal(command, signal).ok();
    }
}

fn exit_status(status: std::process::ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt;
    let code = status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    u8::try_from(code).unwrap_or(u8::MAX)
}
