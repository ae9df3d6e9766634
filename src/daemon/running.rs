//! A session that the daemon has started, or that the daemon before it had.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::door::Door;
use super::operation::{OperationError, Others};
use super::process::Process;
use super::store::{Kept, Part, Slot};
use crate::ids::{SessionId, SessionName};
use crate::policy::{Durability, OnFailure, Resource};
use crate::sys::{close, fd};
use crate::wire::control::Listed;
use crate::wire::service::{Asked, MAX_ASK, ToSession};
use crate::wire::{Channel, Inbox};

/// For gate and audit writer to end by themselves once the session's process has: they write the last
/// records.
const LAST_RECORDS: Duration = Duration::from_secs(20);

/// How often an end that takes long is looked at.
pub(super) const AGAIN: Duration = Duration::from_millis(50);

/// What a session may ask for in [`WINDOW`]; one that asks for more is not served.
const MOST_ASKS: usize = 32;
const WINDOW: Duration = Duration::from_mins(1);

/// The longest record, in bytes.
const MAX_RECORD: u64 = 64 << 10;

/// What the daemon knows of a session, also after a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    /// The session.
    pub session: SessionId,
    /// Whose it is.
    pub uid: u32,
    /// Their name.
    pub user: String,
    /// What they call it.
    pub name: Option<SessionName>,
    /// The profile.
    pub profile: String,
    /// When it was started.
    pub since: Timestamp,
    /// What is root in its user namespace.
    pub reserved: u32,
    /// The most of the machine that it may take.
    pub limits: BTreeMap<Resource, u64>,
    /// How its records are kept, once it has an audit writer.
    pub durability: Option<Durability>,
    /// What happens to records that cannot be kept, as the session said.
    #[serde(default)]
    pub on_failure: OnFailure,
}

/// Gate or audit writer of a session.
#[derive(Debug)]
pub(super) struct Companion {
    /// The process.
    pub process: Process,
    /// Its supply channel.
    pub supply: Channel,
}

/// The session's end of the service channel.
#[derive(Debug)]
struct Service {
    channel: Channel,
    inbox: Inbox,
}

/// A session.
#[derive(Debug)]
pub(super) struct Running {
    /// What is known of it.
    pub record: Record,
    /// What is kept of it.
    kept: Kept,
    process: Process,
    /// In which its own process and its jail run, and nobody else.
    namespace: OwnedFd,
    service: Option<Service>,
    /// What the session's gates leave one another: never read here.
    memory: Option<OwnedFd>,
    /// The ways into its control groups, for its launch: not kept for the next daemon.
    pub doors: Vec<Door>,
    /// `None`: not started yet, or ended.
    pub gate: Option<Companion>,
    /// `None`: not started yet, or ended.
    pub writer: Option<Companion>,
    /// The witness, where the session's own died: not kept for the next daemon, it ends with the session.
    witness: Option<Process>,
    /// Since when its own process has ended.
    ended: Option<Instant>,
    asks: VecDeque<Instant>,
    /// The number of the last request of its that was heard, by us.
    answered: u32,
}

impl Running {
    /// A session whose process was just started.
    pub(super) fn new(
        slot: Slot,
        record: Record,
        process: Process,
        namespace: OwnedFd,
        service: Channel,
    ) -> Self {
        let mut kept = Kept::new(slot, []);
        kept.keep(Part::Process, process.as_fd());
        kept.keep(Part::Namespace, namespace.as_fd());
        kept.keep(Part::Service, service.as_fd());
        let mut running = Self {
            namespace,
            service: Some(Service::new(service)),
            memory: None,
            doors: Vec::new(),
            gate: None,
            writer: None,
            witness: None,
            ended: None,
            asks: VecDeque::new(),
            answered: 0,
            record,
            kept,
            process,
        };
        running.keep_record();
        running
    }

    /// A session of the daemon before us, from what was kept of it. `None`: too little was. It is told that we are
    /// another: that one may have died between a request and the answer.
    pub(super) fn adopted(slot: Slot, parts: Vec<(Part, OwnedFd)>) -> Option<Self> {
        let kept = Kept::new(slot, parts.iter().map(|(part, _)| *part));
        let mut record = None;
        let mut process = None;
        let mut service = None;
        let (mut memory, mut namespace) = (None, None);
        let (mut gate, mut gate_supply) = (None, None);
        let (mut writer, mut writer_supply) = (None, None);
        for (part, fd) in parts {
            match part {
                Part::Record => record = read_record(fd),
                Part::Process => process = Some(Process::new(fd)),
                Part::Service => service = Some(Service::new(Channel::from(fd))),
                Part::Namespace => namespace = Some(fd),
                Part::Memory => memory = Some(fd),
                Part::Gate => gate = Some(Process::new(fd)),
                Part::GateSupply => gate_supply = Some(Channel::from(fd)),
                Part::Writer => writer = Some(Process::new(fd)),
                Part::WriterSupply => writer_supply = Some(Channel::from(fd)),
            }
        }
        let companion = |process: Option<Process>, supply: Option<Channel>| {
            Some(Companion {
                process: process?,
                supply: supply?,
            })
        };
        let running = Self {
            record: record?,
            kept,
            process: process?,
            namespace: namespace?,
            service,
            memory,
            doors: Vec::new(),
            gate: companion(gate, gate_supply),
            writer: companion(writer, writer_supply),
            witness: None,
            ended: None,
            asks: VecDeque::new(),
            answered: 0,
        };
        if let Some(service) = &running.service {
            service.channel.send_now(&ToSession::Renewed, &[]).ok();
        }
        Some(running)
    }

    /// Its identifier.
    pub(super) fn id(&self) -> SessionId {
        self.record.session
    }

    /// Its place in the store.
    pub(super) fn slot(&self) -> Slot {
        self.kept.slot()
    }

    /// For a list.
    pub(super) fn listed(&self) -> Listed {
        let record = self.record.clone();
        Listed {
            session: record.session,
            user: record.user,
            uid: record.uid,
            name: record.name,
            profile: record.profile,
            since: record.since,
        }
    }

    /// Whether its own process still runs.
    pub(super) fn lives(&self) -> bool {
        self.ended.is_none()
    }

    /// The service channel, unless the session has closed it.
    pub(super) fn channel(&self) -> Option<&Channel> {
        self.service.as_ref().map(|service| &service.channel)
    }

    /// The memory of its gates, made for the first.
    pub(super) fn memory(&mut self) -> io::Result<OwnedFd> {
        if let Some(memory) = &self.memory {
            return memory.try_clone();
        }
        let memory = OwnedFd::from(fd::unnamed("portcullis-gates")?);
        self.kept.keep(Part::Memory, memory.as_fd());
        self.memory.insert(memory).try_clone()
    }

    /// What may become readable.
    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let service = self.service.as_ref().map(|service| service.channel.as_fd());
        let process = self.lives().then(|| self.process.as_fd());
        let companions = [&self.gate, &self.writer].into_iter().flatten();
        service
            .into_iter()
            .chain(process)
            .chain(companions.map(|companion| companion.process.as_fd()))
            .chain(self.witness.as_ref().map(Process::as_fd))
            .chain(self.doors.iter().filter_map(Door::fd))
    }

    /// Lets into its control groups what is of it. Gives what could not be done.
    pub(super) fn attend_doors(&mut self, others: &Others) -> Vec<OperationError> {
        let namespace = self.namespace.as_fd();
        self.doors
            .iter_mut()
            .filter_map(|door| door.attend(others, namespace).err())
            .collect()
    }

    /// When [`Running::over`] may answer otherwise although nothing became readable.
    pub(super) fn due(&self) -> Option<Instant> {
        self.ended.map(|_| Instant::now() + AGAIN)
    }

    /// Its user namespace.
    pub(super) fn namespace(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }

    /// Whether it has had its time to end.
    pub(super) fn is_overdue(&self) -> bool {
        self.ended
            .is_some_and(|ended| ended.elapsed() >= LAST_RECORDS)
    }

    /// The next thing that it asks for and has no answer to. One that does not keep to the protocol, or asks too
    /// often, is not listened to any more.
    pub(super) fn asks(&mut self) -> Option<Asked> {
        loop {
            let service = self.service.as_mut()?;
            match service.inbox.next_alone::<Asked>(&service.channel) {
                Ok(None) => return None,
                Ok(Some(asked)) if self.asks_seldom() => {
                    // Asked again because we are new, and heard the first time after all.
                    if asked.number > self.answered {
                        self.answered = asked.number;
                        return Some(asked);
                    }
                }
                Ok(Some(_)) | Err(_) => {
                    self.hang_up();
                    return None;
                }
            }
        }
    }

    fn asks_seldom(&mut self) -> bool {
        let now = Instant::now();
        self.asks
            .retain(|asked| now.duration_since(*asked) < WINDOW);
        self.asks.push_back(now);
        self.asks.len() <= MOST_ASKS
    }

    /// Says nothing to it any more. It goes on with what it has.
    pub(super) fn hang_up(&mut self) {
        if let Some(service) = self.service.take() {
            close::without_waiting(service.channel);
            self.kept.forget(Part::Service);
        }
    }

    /// Has a new gate, in the place of the one before.
    pub(super) fn take_gate(&mut self, gate: Companion) {
        self.kept.keep(Part::Gate, gate.process.as_fd());
        self.kept.keep(Part::GateSupply, gate.supply.as_fd());
        self.gate = Some(gate);
    }

    /// Has a new audit writer, in the place of the one before.
    pub(super) fn take_writer(&mut self, writer: Companion, durability: Durability) {
        self.kept.keep(Part::Writer, writer.process.as_fd());
        self.kept.keep(Part::WriterSupply, writer.supply.as_fd());
        self.writer = Some(writer);
        if self.record.durability.replace(durability) != Some(durability) {
            self.keep_record();
        }
    }

    /// Has a new witness, in the place of the one before, which ends here if it has not yet.
    pub(super) fn take_witness(&mut self, witness: Process) {
        if let Some(before) = self.witness.replace(witness) {
            before.kill().ok();
            // Reaps it.
            before.has_ended();
        }
    }

    fn keep_record(&mut self) {
        let bytes = serde_json::to_vec(&self.record).unwrap_or_default();
        match fd::sealed("session", &bytes) {
            Ok(file) => self.kept.keep(Part::Record, file.as_fd()),
            // The one before says less than is so.
            Err(_) => self.kept.forget(Part::Record),
        }
    }

    /// Sees which of its processes have ended. True: all have, or the rest was killed, and it can be forgotten.
    pub(super) fn over(&mut self) -> bool {
        let gone = |companion: &Option<Companion>| {
            companion
                .as_ref()
                .is_some_and(|companion| companion.process.has_ended())
        };
        if gone(&self.gate) {
            self.gate = None;
        }
        if gone(&self.writer) {
            self.writer = None;
        }
        if self.witness.as_ref().is_some_and(Process::has_ended) {
            self.witness = None;
        }
        if self.lives() && self.process.has_ended() {
            self.ended = Some(Instant::now());
            self.hang_up();
        }
        if self.lives() {
            return false;
        }
        if self.gate.is_none() && self.writer.is_none() {
            return true;
        }
        if !self.is_overdue() {
            return false;
        }
        for companion in [self.gate.take(), self.writer.take()].into_iter().flatten() {
            companion.process.kill().ok();
        }
        true
    }
}

impl Service {
    fn new(channel: Channel) -> Self {
        Self {
            channel,
            inbox: Inbox::new(MAX_ASK),
        }
    }
}

fn read_record(fd: OwnedFd) -> Option<Record> {
    let mut file = std::fs::File::from(fd);
    file.rewind().ok()?;
    let mut text = Vec::new();
    file.take(MAX_RECORD).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}
