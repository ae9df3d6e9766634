//! The loop: one thread waits for everybody, and does what is asked at once.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::accounts::Accounts;
use super::client::{Client, MOST, MOST_OF_ONE};
use super::config::Config;
use super::launch::{self, SupplyError};
use super::operation::{Operation, Others, Yield, free_reserved};
use super::running::{AGAIN, Running};
use super::store::{self, Part, Slot};
use super::tell;
use crate::audit::segment::SegmentName;
use crate::ids::SessionId;
use crate::sys::peer::Peer;
use crate::wire::Channel;
use crate::wire::control::{ControlReply, ControlRequest, Launch, Refusal, Segment};
use crate::wire::service::{Ask, Asked, ToSession, Visitor};

/// How often sessions that run and are not known are looked for, while there are any.
const SWEEP: Duration = Duration::from_secs(10);

/// At least this often systemd is told that we are alive.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// The daemon at work.
#[derive(Debug)]
pub(super) struct Service {
    /// Held, never used.
    _lock: OwnedFd,
    listener: UnixListener,
    others: Others,
    clients: Vec<Client>,
    sessions: BTreeMap<SessionId, Running>,
    /// When groups are looked for of sessions that run and are not known: they were started by a daemon that has
    /// left nothing of them to us. `None`: there are none.
    sweep: Option<Instant>,
    /// When systemd is told next that we are alive; `None`: it does not ask.
    heartbeat: Option<Instant>,
    /// When it was looked last at what is left of sessions that ended.
    looked: Option<Instant>,
}

impl Service {
    pub(super) fn new(
        lock: OwnedFd,
        listener: UnixListener,
        others: Others,
        parts: Vec<(Slot, Part, OwnedFd)>,
    ) -> Self {
        let mut kept: BTreeMap<Slot, Vec<(Part, OwnedFd)>> = BTreeMap::new();
        for (slot, part, fd) in parts {
            kept.entry(slot).or_default().push((part, fd));
        }
        let mut sessions = BTreeMap::new();
        for (slot, parts) in kept {
            match Running::adopted(slot, parts) {
                Some(running) => drop(sessions.insert(running.id(), running)),
                None => store::forget_all(slot),
            }
        }
        Self {
            _lock: lock,
            listener,
            others,
            clients: Vec::new(),
            sessions,
            sweep: Some(Instant::now()),
            heartbeat: sd_notify::watchdog_enabled().map(|_| Instant::now()),
            looked: None,
        }
    }

    /// Serves until it is asked to end (SIGTERM, SIGINT). Sessions go on.
    pub(super) fn run(mut self) -> io::Result<()> {
        let mut ends = SigSet::empty();
        ends.add(Signal::SIGTERM);
        ends.add(Signal::SIGINT);
        ends.thread_block()?;
        let ends = SignalFd::with_flags(&ends, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        store::ready(self.sessions.len());
        loop {
            let Some(stirred) = self.wait(&ends)? else {
                return Ok(());
            };
            self.beat();
            self.sweep();
            self.let_in();
            self.hear_clients();
            self.hear_sessions(&stirred);
        }
    }

    /// Waits until something is to be done. Gives the sessions of which something can be read; `None`: we are to
    /// end.
    fn wait(&self, ends: &SignalFd) -> io::Result<Option<BTreeSet<SessionId>>> {
        let readable = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
        let mut fds = vec![readable(ends.as_fd()), readable(self.listener.as_fd())];
        fds.extend(self.clients.iter().filter_map(Client::fd).map(readable));
        let others = fds.len();
        let mut owners = Vec::new();
        for (id, session) in &self.sessions {
            fds.extend(session.fds().map(readable));
            owners.resize(fds.len() - others, *id);
        }
        let clients = self.clients.iter().map(|client| client.until);
        let sessions = self.sessions.values().filter_map(Running::due);
        let due = clients
            .chain(sessions)
            .chain(self.heartbeat)
            .chain(self.sweep)
            .min();
        let left = due.map(|due| due.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut fds, left.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        if fds.first().is_some_and(|ends| !ends.revents().is_empty()) {
            return Ok(None);
        }
        let sessions = fds.iter().skip(others).zip(owners);
        let stirred = sessions.filter(|(fd, _)| !fd.revents().is_empty());
        Ok(Some(stirred.map(|(_, owner)| owner).collect()))
    }

    fn beat(&mut self) {
        if self.heartbeat.is_some_and(|due| due <= Instant::now()) {
            store::alive(self.sessions.len());
            self.heartbeat = Some(Instant::now() + HEARTBEAT);
        }
    }

    /// Removes the control groups of sessions that ended unseen, for as long as there may be any.
    fn sweep(&mut self) {
        if self.sweep.is_none_or(|due| due > Instant::now()) {
            return;
        }
        let left = match Operation::SweepGroups.perform(&self.others) {
            Ok(Yield::Sessions(left)) => left,
            _ => Vec::new(),
        };
        let unknown = left
            .iter()
            .any(|session| !self.sessions.contains_key(session));
        self.sweep = unknown.then(|| Instant::now() + SWEEP);
    }

    fn let_in(&mut self) {
        // Whoever comes without end has others wait for no longer than this.
        for _ in 0..MOST {
            let Ok((stream, _)) = self.listener.accept() else {
                return;
            };
            let Some(client) = Client::new(stream) else {
                continue;
            };
            let same = |other: &&Client| other.peer.uid == client.peer.uid;
            let theirs = self.clients.iter().filter(same).count();
            if self.clients.len() < MOST && theirs < MOST_OF_ONE {
                self.clients.push(client);
            }
        }
    }

    fn hear_clients(&mut self) {
        let now = Instant::now();
        for mut client in std::mem::take(&mut self.clients) {
            match client.request() {
                Ok(Some(request)) => self.request(&client, request),
                Ok(None) if client.until > now => self.clients.push(client),
                // Gone, too slow, or talking nonsense.
                Ok(None) | Err(_) => {}
            }
        }
    }

    fn request(&mut self, client: &Client, request: ControlRequest) {
        let accounts = match Accounts::read() {
            Ok(accounts) => accounts,
            Err(error) => {
                client.refuse(Refusal::Failed, format!("read /etc/passwd: {error}"));
                return;
            }
        };
        if let ControlRequest::Launch(launch) = request {
            self.launch(client, &launch, &accounts);
            return;
        }
        let config = match Config::read(&accounts) {
            Ok(config) => config,
            Err(error) => {
                client.refuse(Refusal::Failed, error);
                return;
            }
        };
        let peer = client.peer.clone();
        match request {
            ControlRequest::Launch(_) => {}
            ControlRequest::List => {
                let known = self.sessions.values().filter(|session| session.lives());
                let known = known.filter(|session| config.may(&peer, session.record.uid).is_some());
                let listed = known.map(Running::listed).collect();
                client.answer(&ControlReply::Sessions(listed), &[]);
            }
            ControlRequest::Connect { session } => {
                match self.visit(&peer, session, &config, &accounts) {
                    Ok(channel) => client.answer(&ControlReply::Connected, &[channel.as_fd()]),
                    Err((kind, message)) => client.refuse(kind, message),
                }
            }
            ControlRequest::Logs => {
                let uid = (!config.reads_logs(&peer)).then_some(peer.uid);
                match (Operation::ListLogs { uid }).perform(&self.others) {
                    Ok(Yield::Sessions(logs)) => client.answer(&ControlReply::Logs(logs), &[]),
                    Ok(_) => client.refuse(Refusal::Failed, "unexpected outcome".to_owned()),
                    Err(error) => client.refuse(Refusal::Failed, error.to_string()),
                }
            }
            ControlRequest::Segments { session } => {
                let uid = (!config.reads_logs(&peer)).then_some(peer.uid);
                match (Operation::ListSegments { uid, session }).perform(&self.others) {
                    Ok(Yield::Segments(all)) => {
                        let all = all
                            .into_iter()
                            .map(|SegmentName { number, packed, .. }| Segment { number, packed });
                        client.answer(&ControlReply::Segments(all.collect()), &[]);
                    }
                    Ok(_) => client.refuse(Refusal::Failed, "unexpected outcome".to_owned()),
                    Err(error) => client.refuse(Refusal::Failed, error.to_string()),
                }
            }
            ControlRequest::OpenLog {
                session,
                segment: Segment { number, packed },
            } => {
                let uid = (!config.reads_logs(&peer)).then_some(peer.uid);
                let segment = SegmentName {
                    session,
                    number,
                    packed,
                };
                match (Operation::OpenLog { uid, segment }).perform(&self.others) {
                    Ok(Yield::Fd(file)) => client.answer(&ControlReply::Log, &[file.as_fd()]),
                    Ok(_) => client.refuse(Refusal::Failed, "unexpected outcome".to_owned()),
                    Err(_) => client.refuse(Refusal::NotFound, no_such(session)),
                }
            }
            ControlRequest::OpenBody(place) => {
                let uid = (!config.reads_logs(&peer)).then_some(peer.uid);
                let place = &place;
                match (Operation::OpenBody { uid, place }).perform(&self.others) {
                    Ok(Yield::Fd(file)) => client.answer(&ControlReply::Log, &[file.as_fd()]),
                    Ok(_) => client.refuse(Refusal::Failed, "unexpected outcome".to_owned()),
                    Err(_) => client.refuse(Refusal::NotFound, "no such body".to_owned()),
                }
            }
        }
    }

    fn launch(&mut self, client: &Client, launch: &Launch, accounts: &Accounts) {
        let living = || self.sessions.values().filter(|session| session.lives());
        let own = living().filter(|session| session.record.uid == client.peer.uid);
        let counts = (own.count(), living().count());
        let boot = match launch::admit(&client.peer, launch, counts, accounts) {
            Ok(boot) => boot,
            Err((kind, message)) => {
                client.refuse(kind, message);
                return;
            }
        };
        let session = boot.session;
        let peer = client.peer.clone();
        let Some(slot) = Slot::free(self.sessions.values().map(Running::slot)) else {
            client.refuse(Refusal::Failed, "no descriptor is left".to_owned());
            return;
        };
        let started = {
            let taken = self
                .sessions
                .values()
                .map(|session| session.record.reserved);
            let reserved = free_reserved(taken);
            launch::start(&self.others, &peer, launch, boot, slot, reserved)
        };
        match started {
            Ok((running, channel)) => {
                self.sessions.insert(session, running);
                client.answer(&ControlReply::Launching(session), &[channel.as_fd()]);
            }
            Err(error) => {
                tell(&format!("session {session} of uid {}: {error}", peer.uid));
                client.refuse(Refusal::Failed, error.to_string());
            }
        }
    }

    /// Lets somebody in to a session: gives their end of a channel.
    fn visit(
        &mut self,
        peer: &Peer,
        session: SessionId,
        config: &Config,
        accounts: &Accounts,
    ) -> Result<Channel, launch::Refused> {
        let unknown = || (Refusal::NotFound, no_such(session));
        let running = self.sessions.get_mut(&session).ok_or_else(unknown)?;
        // Whoever may not know of it is told what is told of one that does not exist.
        let may = config.may(peer, running.record.uid).ok_or_else(unknown)?;
        let failed = |error: &dyn std::fmt::Display| (Refusal::Failed, error.to_string());
        let gone =
            "the session's channel was lost when portcullisd ended; its owner can still reach it";
        let channel = running.channel().ok_or_else(|| failed(&gone))?;
        let (theirs, ours) = Channel::pair().map_err(|error| failed(&error))?;
        let visitor = Visitor {
            user: accounts.user_name(peer.uid),
            may,
        };
        match channel.send_now(&ToSession::Visitor(visitor), &[ours.as_fd()]) {
            Ok(()) => Ok(theirs),
            Err(error) => Err(failed(&format!("the session does not answer: {error}"))),
        }
    }

    /// Those that have something for us, and those that are about to end: the rest would be asked in vain, with
    /// system calls for each of them whenever one says a word.
    fn hear_sessions(&mut self, stirred: &BTreeSet<SessionId>) {
        let mut over = Vec::new();
        for (session, running) in &mut self.sessions {
            if running.lives() && !stirred.contains(session) {
                continue;
            }
            while let Some(asked) = running.asks() {
                obey(&self.others, running, asked);
            }
            for error in running.attend_doors(&self.others) {
                tell(&format!("session {session}: {error}"));
            }
            if running.over() {
                over.push(*session);
            }
        }
        if !over.is_empty() && self.looked.is_none_or(|last| last.elapsed() >= AGAIN) {
            self.bury(&over);
            self.looked = Some(Instant::now());
        }
    }

    /// Forgets those of these sessions of which nothing is left. All at once, because it takes a look at every
    /// process of the host to know: where many end together the daemon would do nothing else.
    fn bury(&mut self, over: &[SessionId]) {
        let others = &self.others;
        let over: Vec<&Running> = over.iter().filter_map(|id| self.sessions.get(id)).collect();
        let namespaces: Vec<_> = over.iter().map(|running| running.namespace()).collect();
        // Where it cannot be told they have their time, as if something were left.
        let inhabited = match Operation::FindInhabited(&namespaces).perform(others) {
            Ok(Yield::Places(places)) => places,
            _ => (0..over.len()).collect(),
        };
        // What sweeps up after the jail may take a moment longer; what was left behind ends here.
        let ended = over.into_iter().enumerate();
        let ended = ended.filter(|(i, running)| running.is_overdue() || !inhabited.contains(i));
        let ended: Vec<&Running> = ended.map(|(_, running)| running).collect();
        let namespaces: Vec<_> = ended.iter().map(|running| running.namespace()).collect();
        if !ended.is_empty()
            && let Err(error) = Operation::KillIn(&namespaces).perform(others)
        {
            tell(&error.to_string());
        }
        let ended: BTreeSet<SessionId> = ended.iter().map(|running| running.id()).collect();
        self.sessions.retain(|session, running| {
            if !ended.contains(session) {
                return true;
            }
            // A kernel without control groups has none to remove.
            Operation::RemoveGroups(*session).perform(others).ok();
            store::forget_all(running.slot());
            false
        });
    }
}

/// Does what a session asks for, and answers.
fn obey(others: &Others, running: &mut Running, Asked { number, ask }: Asked) {
    let given = match ask {
        Ask::Companions {
            durability,
            on_failure,
        } => {
            // What was said first counts.
            if running.record.durability.is_none() {
                running.record.on_failure = on_failure;
            }
            launch::companions(others, running, durability).map(Vec::from)
        }
        Ask::Gate => launch::another_gate(others, running).map(|gate| vec![gate]),
        Ask::Writer => launch::another_writer(others, running).map(|lane| vec![lane]),
        Ask::Witness => launch::another_witness(others, running).map(|channel| vec![channel]),
        Ask::Groups { limits } => match launch::groups(others, running, number, limits) {
            Ok(()) => return,
            Err(error) => Err(error),
        },
    };
    let session = running.id();
    let answered = running.channel().map(|channel| match &given {
        Ok(fds) => {
            let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            channel.send_now(&ToSession::Given { number }, &fds)
        }
        Err(error) => {
            let why = error.to_string();
            channel.send_now(&ToSession::Refused { number, why }, &[])
        }
    });
    if let Err(error) = &given {
        tell(&format!("session {session}: {}", cause(error)));
    }
    if matches!(answered, Some(Err(_))) {
        running.hang_up();
    }
}

fn cause(error: &SupplyError) -> String {
    error.to_string()
}

fn no_such(session: SessionId) -> String {
    format!("no session {session} is known to you")
}
