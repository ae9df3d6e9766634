//! The processes beside a session's jail: the audit writer and the gate, each as what the session says to it,
//! whichever process it is by now. Starting processes is the [`starter`](super::starter)'s.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PidfdFlags, pidfd_open};
use serde::de::DeserializeOwned;

use crate::audit::AuditEvent;
use crate::policy::{BodiesPolicy, NetworkPolicy, OnFailure};
use crate::sys::beside::Process;
use crate::wire::audit::{Append, AppendError, AuditReply, kept};
use crate::wire::frame::Received;
use crate::wire::gate::{GateBoot, GateCommand, GateReply, GateSummary};
use crate::wire::witness::Introduction;
use crate::wire::{Channel, Inbox, WireError};

use super::observer::Observer;
use super::restarts::Restarts;
use super::signals::{Arrived, Signals};
use super::starter::Starter;

/// Starting a companion takes no longer than this on a working host, however loaded.
const START: Duration = Duration::from_secs(30);

/// Nothing that a running companion is asked for takes this long: one that hangs (a stopped process, a
/// stuck disk) must not keep the session from its end.
pub(super) const ANSWER: Duration = Duration::from_secs(10);

/// The longest message of a gate, in bytes: a summary of 64 destinations is far below.
const MAX_REPLY: usize = 1 << 20;

/// Why a companion is of no use.
#[derive(Debug, thiserror::Error)]
pub enum CompanionError {
    /// The program is not where it was installed, or does not start.
    #[error("start {}: {source}; it belongs beside portcullis: reinstall", path.display())]
    Start {
        /// The program.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It stopped answering, or answered something else.
    #[error("{who}: {source}")]
    Wire {
        /// Which.
        who: &'static str,
        /// How.
        source: WireError,
    },
    /// It gave up, and said why.
    #[error("{who}: {message}")]
    Refused {
        /// Which.
        who: &'static str,
        /// Its own words: cause and cure.
        message: String,
    },
    /// The service does not do its part.
    #[error("{0}")]
    Service(#[from] super::service::ServiceError),
    /// A record is not kept.
    #[error("{0}")]
    Append(#[from] AppendError),
    /// It said something that does not belong here: a bug.
    #[error("{0}: unexpected answer")]
    Unexpected(&'static str),
    /// It did not answer in time.
    #[error("{who}: no answer within {} s", patience.as_secs())]
    TimedOut {
        /// Which.
        who: &'static str,
        /// How long it was waited for.
        patience: Duration,
    },
    /// A signal asked the session to end meanwhile.
    #[error("interrupted by {}", .0.signal)]
    Interrupted(Arrived),
    /// Waiting failed.
    #[error("wait: {0}")]
    Wait(#[source] io::Error),
}

/// Waits for one frame: with signals until one asks to end or a start is overdue, without until an
/// answer is.
pub fn receive<T: DeserializeOwned>(
    who: &'static str,
    channel: &Channel,
    signals: Option<&mut Signals>,
) -> Result<Received<T>, CompanionError> {
    receive_from(who, channel, signals, &mut || Ok(true))
}

/// As [`receive`], from somebody who may be dead while another holds its end of the channel: `lives` is
/// asked whenever a child has ended.
pub fn receive_from<T: DeserializeOwned>(
    who: &'static str,
    channel: &Channel,
    mut signals: Option<&mut Signals>,
    lives: &mut dyn FnMut() -> io::Result<bool>,
) -> Result<Received<T>, CompanionError> {
    let patience = if signals.is_some() { START } else { ANSWER };
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(CompanionError::TimedOut { who, patience });
        }
        let queue = signals.as_deref().map_or(channel.as_fd(), AsFd::as_fd);
        let [spoke, _] = readable([channel.as_fd(), queue], left).map_err(CompanionError::Wait)?;
        if spoke {
            return channel
                .recv_with()
                .map_err(|source| CompanionError::Wire { who, source });
        }
        if let Some(queue) = signals.as_deref_mut()
            && let Some(arrived) = queue.take().map_err(CompanionError::Wait)?
        {
            if arrived.signal != Signal::SIGCHLD {
                return Err(CompanionError::Interrupted(arrived));
            }
            if !lives().map_err(CompanionError::Wait)? {
                let source = WireError::Closed;
                return Err(CompanionError::Wire { who, source });
            }
        }
    }
}

/// As [`receive`] without signals, for as long as this.
fn receive_within<T: DeserializeOwned>(
    who: &'static str,
    channel: &Channel,
    patience: Duration,
) -> Result<Received<T>, CompanionError> {
    match readable([channel.as_fd()], patience).map_err(CompanionError::Wait)? {
        [true] => channel
            .recv_with()
            .map_err(|source| CompanionError::Wire { who, source }),
        [false] => Err(CompanionError::TimedOut { who, patience }),
    }
}

/// Which of the descriptors can be read (or are closed at the other end), waiting at most `timeout`.
pub fn readable<const N: usize>(
    fds: [BorrowedFd<'_>; N],
    timeout: Duration,
) -> io::Result<[bool; N]> {
    let mut polled = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    let timeout = Timespec::try_from(timeout).map_err(io::Error::other)?;
    match poll(&mut polled, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(polled.map(|fd| !fd.revents().is_empty()))
}

/// The same for any number of descriptors.
pub fn any_readable(fds: &[BorrowedFd<'_>], timeout: Duration) -> io::Result<Vec<bool>> {
    let fds: Vec<_> = fds.iter().map(|fd| (*fd, PollFlags::IN)).collect();
    any_ready(&fds, timeout)
}

/// The same, each for what it is waited for.
pub fn any_ready(fds: &[(BorrowedFd<'_>, PollFlags)], timeout: Duration) -> io::Result<Vec<bool>> {
    let mut polled: Vec<_> = fds
        .iter()
        .map(|(fd, flags)| PollFd::from_borrowed_fd(*fd, *flags))
        .collect();
    let timeout = Timespec::try_from(timeout).map_err(io::Error::other)?;
    match poll(&mut polled, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(polled.iter().map(|fd| !fd.revents().is_empty()).collect())
}

/// Waits for the end of a companion whose channel is closed; one that hangs is killed.
pub fn reap(child: &mut Process) -> io::Result<()> {
    if child.try_wait()? {
        return Ok(());
    }
    // Not reaped yet, so the number is still its own.
    let process = pidfd_open(child.pid(), PidfdFlags::empty())?;
    if let [false] = readable([process.as_fd()], ANSWER)? {
        child.kill()?;
    }
    child.wait()
}

/// The path of a program that is installed beside this one.
pub fn installed(name: &str) -> Result<PathBuf, CompanionError> {
    let own = std::env::current_exe().map_err(|source| CompanionError::Start {
        path: name.into(),
        source,
    })?;
    Ok(own.with_file_name(name))
}

// === impl AuditWriter ===

/// The running `portcullis-audit`, or the one that took its place.
#[derive(Debug)]
pub struct AuditWriter {
    starter: Rc<RefCell<Starter>>,
    /// `None`: it died, and no other could take its place.
    channel: Option<Channel>,
    /// Identifies the next record on this channel.
    next: u64,
    restarts: Restarts,
    news: Option<News>,
}

/// What became of an audit writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// It died, and another one goes on with the log.
    Restarted,
    /// It died, and no other can go on.
    Lost,
}

/// What became of a witness that died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Observed {
    /// Another one took its place after so long.
    Restarted(Duration),
    /// None does.
    Lost,
}

impl AuditWriter {
    const WHO: &'static str = "audit writer";

    /// A writer that was started, by its channel.
    pub fn new(starter: Rc<RefCell<Starter>>, channel: Channel) -> Self {
        Self {
            starter,
            channel: Some(channel),
            next: 1,
            restarts: Restarts::default(),
            news: None,
        }
    }

    /// Waits until records can be written.
    pub fn ready(&self, signals: &mut Signals) -> Result<(), CompanionError> {
        let channel = self.channel.as_ref().ok_or_else(Self::gone)?;
        Self::is_ready(receive(Self::WHO, channel, Some(signals))?.message)
    }

    fn is_ready(reply: AuditReply) -> Result<(), CompanionError> {
        match reply {
            AuditReply::Ready => Ok(()),
            AuditReply::Failed { error, .. } => Err(CompanionError::Refused {
                who: Self::WHO,
                message: error,
            }),
            AuditReply::Recorded { .. }
            | AuditReply::Held { .. }
            | AuditReply::Blocked { .. }
            | AuditReply::Writing => Err(CompanionError::Unexpected(Self::WHO)),
        }
    }

    /// Has an event recorded; returns once it is. Should the writer die meanwhile, or not answer, another
    /// one gets it: the event is kept once, or twice if the first one had kept it and could not say so.
    pub fn append(&mut self, event: AuditEvent) -> Result<(), CompanionError> {
        let mut request = Append { id: 0, event };
        loop {
            request.id = self.next;
            self.next += 1;
            match self.try_append(&request) {
                Err(CompanionError::Wire { .. } | CompanionError::TimedOut { .. }) => {
                    self.revive()?;
                }
                // Kept, or a writer that says itself why not: another one could do no better.
                outcome => return outcome,
            }
        }
    }

    fn try_append(&self, request: &Append) -> Result<(), CompanionError> {
        let channel = self.channel.as_ref().ok_or_else(Self::gone)?;
        channel
            .send(request)
            .map_err(|source| CompanionError::Wire {
                who: Self::WHO,
                source,
            })?;
        kept(receive(Self::WHO, channel, None)?.message, request.id)?;
        Ok(())
    }

    /// Has another writer go on with the log, because this one died or does not answer. One that cannot,
    /// because the log is not whole, or that dies too often, is the last.
    pub fn revive(&mut self) -> Result<(), CompanionError> {
        let mut worth_it = self.channel.take().is_some();
        while worth_it && self.restarts.one_more() {
            match self.start_over() {
                Ok(channel) => {
                    self.channel = Some(channel);
                    self.news.get_or_insert(News::Restarted);
                    return Ok(());
                }
                // It died as well, or the service knows something that we do not yet.
                Err(error) => {
                    worth_it = matches!(
                        error,
                        CompanionError::Wire { .. } | CompanionError::Service(_)
                    );
                }
            }
        }
        self.news = Some(News::Lost);
        Err(Self::gone())
    }

    fn start_over(&self) -> Result<Channel, CompanionError> {
        let channel = self.starter.borrow_mut().restart_writer()?;
        let reply = receive_within(Self::WHO, &channel, START)?;
        Self::is_ready(reply.message).map(|()| channel)
    }

    /// Makes sure that there is one, as far as can be told without asking it.
    fn ensure(&mut self) -> Result<(), CompanionError> {
        let channel = self.channel.as_ref().ok_or_else(Self::gone)?;
        match readable([channel.as_fd()], Duration::ZERO) {
            Ok([false]) => Ok(()),
            // It never speaks unasked.
            Ok([true]) | Err(_) => self.revive(),
        }
    }

    /// What became of it since this was last asked.
    pub fn news(&mut self) -> Option<News> {
        self.news.take()
    }

    /// What becomes readable when it dies; it never speaks unasked. `None`: it is lost.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.channel.as_ref().map(AsFd::as_fd)
    }

    fn gone() -> CompanionError {
        CompanionError::Wire {
            who: Self::WHO,
            source: WireError::Closed,
        }
    }
}

// === impl Gate ===

/// The running `portcullis-gate`, or the one that took its place.
#[derive(Debug)]
pub struct Gate {
    starter: Rc<RefCell<Starter>>,
    control: Channel,
    /// What has come on the channel since the gate serves.
    inbox: RefCell<Inbox>,
    /// What another gate is told. No credential is in it: the values are where a gate left them for the
    /// next, which is not here.
    boot: GateBoot,
    /// Copies of the jail's listeners. While there is no gate what connects waits; nobody else accepts.
    listeners: Vec<OwnedFd>,
    /// Whom each gate asks which process of the jail made a connection.
    observer: Option<Observer>,
    /// Where the gate is introduced to later ones.
    introductions: Option<Channel>,
    restarts: Restarts,
}

impl Gate {
    const WHO: &'static str = "gate";

    /// Tells a gate that was started its policy; it compiles it and confines itself meanwhile.
    pub fn start(
        starter: Rc<RefCell<Starter>>,
        control: Channel,
        mut boot: GateBoot,
    ) -> Result<Self, CompanionError> {
        control.send(&boot).map_err(Self::wire)?;
        // They are wiped.
        boot.credentials.clear();
        Ok(Self {
            starter,
            control,
            inbox: RefCell::new(Inbox::new(MAX_REPLY)),
            boot,
            listeners: Vec::new(),
            observer: None,
            introductions: None,
            restarts: Restarts::default(),
        })
    }

    /// Waits until the gate is confined. Gives the session's CA (PEM), if it has one.
    pub fn confined(&self, signals: &mut Signals) -> Result<Option<String>, CompanionError> {
        match receive(Self::WHO, &self.control, Some(signals))?.message {
            GateReply::Confined { authority } => Ok(authority),
            other => Err(Self::complaint(other)),
        }
    }

    /// Hands over the listening sockets and waits until the gate accepts on them. Copies are kept for the
    /// gate that may have to take its place.
    pub fn serve(
        &mut self,
        listeners: Vec<OwnedFd>,
        observer: Observer,
        signals: &mut Signals,
    ) -> Result<(), CompanionError> {
        self.listeners = listeners;
        self.observer = Some(observer);
        self.introductions = Some(self.hand_over(&self.control)?);
        match receive(Self::WHO, &self.control, Some(signals))?.message {
            GateReply::Serving => Ok(()),
            other => Err(Self::complaint(other)),
        }
    }

    /// Tells a gate that is confined whom to ask and where to accept. Answers the channel for introductions.
    fn hand_over(&self, control: &Channel) -> Result<Channel, CompanionError> {
        let (introductions, theirs) = Channel::pair().map_err(|error| Self::wire(error.into()))?;
        // A witness that has ended does not keep a gate from serving: its records say so.
        let channel = self.observer.as_ref().and_then(Observer::channel);
        let fds = std::iter::once(theirs.as_fd()).chain(channel.as_ref().map(AsFd::as_fd));
        let fds: Vec<_> = fds.collect();
        control
            .send_with(&GateCommand::Witness, &fds)
            .map_err(Self::wire)?;
        let borrowed: Vec<_> = self.listeners.iter().map(AsFd::as_fd).collect();
        control
            .send_with(&GateCommand::Serve, &borrowed)
            .map_err(Self::wire)?;
        Ok(introductions)
    }

    /// What becomes readable when the witness dies. `None`: there is none.
    pub fn observer_fd(&self) -> Option<BorrowedFd<'_>> {
        self.observer.as_ref().and_then(Observer::fd)
    }

    /// Has another witness take the place of the one that died, for this gate and each later one. Answers what became of
    /// it, which is on record; one that cannot be recorded is there all the same, because it lets nothing through.
    pub fn another_observer(&mut self, audit: Option<&mut AuditWriter>) -> Observed {
        let since = Instant::now();
        let restarted = self.observer.as_mut().is_some_and(Observer::restart);
        let outage = since.elapsed();
        let ms = u64::try_from(outage.as_millis()).unwrap_or(u64::MAX);
        if let Some(audit) = audit {
            let event = if restarted {
                AuditEvent::WitnessRestarted { ms }
            } else {
                AuditEvent::WitnessLost { ms }
            };
            // An outage of records is told by whoever keeps them.
            audit.append(event).ok();
        }
        if !restarted {
            return Observed::Lost;
        }
        let channel = self.observer.as_ref().and_then(Observer::channel);
        if let (Some(channel), Some(gate)) = (channel, &self.introductions) {
            // A gate that is gone is found out by its own channel, and the next one is told when it starts.
            gate.send_with(&Introduction::Witness, &[channel.as_fd()])
                .ok();
        }
        Observed::Restarted(outage)
    }

    /// Has another gate take the place of this one, which died or is of no use. It goes on under the policy
    /// that was last in force, with what was used up and answered so far; that there was none is on record
    /// before it accepts. Answers how long that was. An error is final: what the jail connects to is closed.
    pub fn restart(&mut self, audit: &mut AuditWriter) -> Result<Duration, CompanionError> {
        let since = Instant::now();
        while self.restarts.one_more() {
            match self.start_over(since, audit) {
                Ok(()) => return Ok(since.elapsed()),
                // It died again, or the audit writer did just now.
                Err(CompanionError::Wire { .. } | CompanionError::Service(_))
                    if audit.fd().is_some() => {}
                Err(error) => {
                    self.give_up();
                    return Err(error);
                }
            }
        }
        self.give_up();
        Err(Self::wire(WireError::Closed))
    }

    fn start_over(
        &mut self,
        since: Instant,
        audit: &mut AuditWriter,
    ) -> Result<(), CompanionError> {
        // First the writer, should both be dead: a gate is connected to one when it starts.
        audit.ensure()?;
        let control = self.starter.borrow_mut().restart_gate()?;
        control.send(&self.boot).map_err(Self::wire)?;
        match receive_within(Self::WHO, &control, START)?.message {
            // The jail trusts the certificate of the first one, whose key this one found.
            GateReply::Confined { .. } => {}
            other => return Err(Self::complaint(other)),
        }
        let ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        audit.append(AuditEvent::GateRestarted { ms })?;
        let introductions = self.hand_over(&control)?;
        match receive_within(Self::WHO, &control, ANSWER)?.message {
            GateReply::Serving => {}
            other => return Err(Self::complaint(other)),
        }
        self.control = control;
        self.introductions = Some(introductions);
        self.inbox = RefCell::new(Inbox::new(MAX_REPLY));
        Ok(())
    }

    /// Nobody serves the jail any more: a connect is refused at once instead of waiting in a backlog.
    pub fn give_up(&mut self) {
        self.listeners.clear();
        // Should this one still run, the end of its control channel is its own.
        if let Ok((closed, _)) = Channel::pair() {
            self.control = closed;
        }
    }

    /// Commands something of a gate that serves; what it answers comes through [`Gate::heard`].
    pub fn command(&self, command: &GateCommand) -> Result<(), CompanionError> {
        self.control.send(command).map_err(Self::wire)
    }

    /// The next message of a gate that serves, if one is there; never waits.
    pub fn heard(&self) -> Result<Option<GateReply>, CompanionError> {
        let mut inbox = self.inbox.borrow_mut();
        inbox.next(&self.control).map_err(Self::wire)
    }

    /// Has every connection closed and recorded. What the gate told unasked until then is too late.
    pub fn drain(&self) -> Result<GateSummary, CompanionError> {
        self.command(&GateCommand::Drain)?;
        let deadline = Instant::now() + ANSWER;
        loop {
            match self.heard()? {
                Some(GateReply::Drained(summary)) => return Ok(summary),
                Some(GateReply::Failed(message)) => {
                    return Err(Self::complaint(GateReply::Failed(message)));
                }
                Some(_) => continue,
                None => {}
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(CompanionError::TimedOut {
                    who: Self::WHO,
                    patience: ANSWER,
                });
            }
            readable([self.control.as_fd()], left).map_err(CompanionError::Wait)?;
        }
    }

    fn complaint(reply: GateReply) -> CompanionError {
        match reply {
            GateReply::Failed(message) => CompanionError::Refused {
                who: Self::WHO,
                message,
            },
            _ => CompanionError::Unexpected(Self::WHO),
        }
    }

    fn wire(source: WireError) -> CompanionError {
        CompanionError::Wire {
            who: Self::WHO,
            source,
        }
    }
}

impl AsFd for Gate {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }
}

/// What the gate needs to know beside the policy: it opens no files.
pub fn gate_boot(policy: NetworkPolicy, approval_seconds: u32) -> GateBoot {
    let name_servers = if policy.dns.servers.is_empty() {
        name_servers(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default())
    } else {
        policy.dns.servers.clone()
    };
    let mut hosts_file = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    hosts_file.truncate(hosts_file.floor_char_boundary(64 << 10));
    GateBoot {
        policy,
        name_servers,
        hosts_file,
        roots: String::new(),
        approval_seconds,
        credentials: Vec::new(),
        upstream: None,
        on_failure: OnFailure::Block,
        bodies: BodiesPolicy::default(),
    }
}

/// The `nameserver` lines of a resolv.conf(5).
fn name_servers(resolv_conf: &str) -> Vec<SocketAddr> {
    let address = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        (words.next()? == "nameserver").then(|| words.next()?.parse().ok())?
    };
    resolv_conf
        .lines()
        .filter_map(address)
        .map(|ip| SocketAddr::new(ip, 53))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_the_nameserver_lines_of_resolv_conf() {
        let text = "# nameserver 1.1.1.1\nsearch corp\nnameserver 10.0.0.2\nnameserver ::1\nnameserver x\n";
        let expected: Vec<SocketAddr> =
            vec!["10.0.0.2:53".parse().unwrap(), "[::1]:53".parse().unwrap()];
        assert_eq!(name_servers(text), expected);
    }
}
