//! A running writer and the events that tests have it record.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};

use nix::unistd::Pid;
use portcullis::audit::folder::{LogFolder, open_or_create};
use portcullis::audit::roll::{Roll, Segments};
use portcullis::audit::verify::{Report, State, verify_log};
use portcullis::audit::{AuditEvent, EndedBy, Isolation, Status};
use portcullis::ids::{ConnId, PolicyGeneration, SessionId};
use portcullis::policy::{Durability, Host, OnFailure, Port, RuleId, Transport, Verdict};
use portcullis::sys::process::Spawn;
use portcullis::wire::Channel;
use portcullis::wire::audit::{AppendError, AuditBoot, ready};
use portcullis::wire::supply::WriterSupply;

/// A running writer, its clients' ends in our hands.
pub(crate) struct Writer {
    pub(crate) child: Child,
    pub(crate) id: SessionId,
    pub(crate) folder: PathBuf,
    pub(crate) session: Channel,
    pub(crate) gate: Channel,
    pub(crate) supply: Channel,
    pub(crate) on_failure: OnFailure,
    /// How long a segment may become.
    pub(crate) segment_bytes: Option<u64>,
}

impl Writer {
    pub(crate) fn start(folder: &Path, durability: Durability) -> Self {
        Self::start_with(folder, durability, |_| ())
    }

    /// The same, with another boot message.
    pub(crate) fn start_with(
        folder: &Path,
        durability: Durability,
        change: impl FnOnce(&mut Self),
    ) -> Self {
        let mut writer = Self::unbooted(folder);
        change(&mut writer);
        writer.boot(durability).unwrap();
        writer.new_gate();
        writer
    }

    /// Another writer for the log of this one, which is dead.
    pub(crate) fn resume(folder: &Path, id: SessionId) -> Result<Self, AppendError> {
        Self::resume_with(folder, id, None)
    }

    /// The same, with segments of so many bytes.
    pub(crate) fn resume_with(
        folder: &Path,
        id: SessionId,
        segment_bytes: Option<u64>,
    ) -> Result<Self, AppendError> {
        let mut writer = Self::unbooted(folder);
        writer.id = id;
        writer.segment_bytes = segment_bytes;
        let boot = WriterSupply::Resume(writer.boot_message(Durability::Batch));
        writer.supply.send(&boot)?;
        match ready(&writer.session) {
            Ok(()) => {
                writer.new_gate();
                Ok(writer)
            }
            Err(error) => {
                // Reaped; why it ended is what it said.
                drop(writer.child.wait());
                Err(error)
            }
        }
    }

    /// Has it begin a log.
    pub(crate) fn boot(&self, durability: Durability) -> Result<(), AppendError> {
        let boot = WriterSupply::Boot(self.boot_message(durability));
        self.supply.send(&boot)?;
        ready(&self.session)
    }

    /// Gives it the channel of another gate.
    pub(crate) fn new_gate(&mut self) {
        let (gate, theirs) = Channel::pair().unwrap();
        self.supply
            .send_with(&WriterSupply::Gate, &[theirs.as_fd()])
            .unwrap();
        self.gate = gate;
    }

    pub(crate) fn unbooted(folder: &Path) -> Self {
        // As the session does: what cargo left open is not for children.
        portcullis::sys::fd::cloexec_from(3).unwrap();
        let opened = open_or_create(folder).unwrap();
        let (session, their_session) = Channel::pair().unwrap();
        let (gate, _) = Channel::pair().unwrap();
        let (supply, their_supply) = Channel::pair().unwrap();
        let child = Spawn::new(Path::new(env!("CARGO_BIN_EXE_portcullis-audit")))
            .fd(their_session, 3)
            .fd(their_supply, 4)
            .fd(opened, 5)
            .own_process_group()
            .inherit_stderr()
            .start()
            .unwrap();
        let folder = folder.to_owned();
        Self {
            child,
            id: SessionId::generate(),
            folder,
            session,
            gate,
            supply,
            on_failure: OnFailure::Block,
            segment_bytes: None,
        }
    }

    pub(crate) fn boot_message(&self, durability: Durability) -> AuditBoot {
        let folder = self.folder.clone();
        AuditBoot {
            session: self.id,
            user: "tester".into(),
            folder,
            durability,
            ledger: true,
            on_failure: self.on_failure,
            segments: self.segment_bytes.map(|bytes| {
                let roll = Roll { bytes, daily: true };
                Segments {
                    logs: roll,
                    ledger: roll,
                }
            }),
        }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().unwrap())
    }

    /// Closes both channels and waits for the end.
    pub(crate) fn finish(self) -> (ExitStatus, Report) {
        drop(self.gate);
        drop(self.session);
        let mut child = self.child;
        let status = child.wait().unwrap();
        (status, report(&self.folder, self.id))
    }
}

pub(crate) fn report(folder: &Path, id: SessionId) -> Report {
    verify_log(&LogFolder::open(folder).unwrap(), id).unwrap()
}

/// Every record of a log, over all of its segments.
pub(crate) fn events(folder: &Path, id: SessionId) -> Vec<AuditEvent> {
    let folder = LogFolder::open(folder).unwrap();
    let mut events = Vec::new();
    for segment in folder.segments(id).unwrap() {
        let mut lines = segment
            .lines(folder.open_segment(segment).unwrap())
            .unwrap();
        while let Some(line) = lines.next_line().unwrap() {
            events.push(line.record().unwrap().unwrap().event);
        }
    }
    events
}

pub(crate) fn started(argv: &[&str]) -> AuditEvent {
    AuditEvent::SessionStarted {
        name: None,
        argv: argv.iter().map(ToString::to_string).collect(),
        profile: "codex".into(),
        mode: "workspace-write".into(),
        workspace: "/w".into(),
        generation: PolicyGeneration::new("0123456789abcdef"),
        isolation: Isolation {
            bwrap: "bubblewrap 0.8.0".into(),
            landlock_abi: 7,
            seccomp_allowed: 300,
            shortfalls: Vec::new(),
        },
        unix_sockets: Vec::new(),
    }
}

pub(crate) fn decided(conn: u64) -> AuditEvent {
    AuditEvent::EgressDecided {
        process: None,
        process_unknown: None,
        conn: ConnId(conn),
        transport: Transport::Connect,
        host: Host::parse("api.example.com").unwrap(),
        port: Port::HTTPS,
        method: None,
        path: None,
        verdict: Verdict::Allow,
        reason: None,
        rule: Some(RuleId::new("--allow api.example.com")),
        generation: PolicyGeneration::new("0123456789abcdef"),
    }
}

pub(crate) fn closed(conn: u64) -> AuditEvent {
    AuditEvent::EgressClosed {
        conn: ConnId(conn),
        bytes_up: 1,
        bytes_down: 2,
        ms: 3,
        ended_by: EndedBy::Client,
    }
}

pub(crate) fn ended() -> AuditEvent {
    AuditEvent::SessionEnded {
        status: Status::Exited(0),
        ms: 5,
        files: None,
    }
}

pub(crate) fn whole(id: SessionId, records: u64, state: State, report: &Report) {
    let head = report.head;
    let session = (records > 0).then_some(id).or(report.session);
    let expected = Report {
        session,
        records,
        head,
        state,
        part: None,
        pruned: None,
        ends: report.ends.clone(),
        broken: None,
        clock_set_back: 0,
    };
    assert_eq!(*report, expected);
}

pub(crate) fn failed(outcome: Result<u64, AppendError>) -> String {
    match outcome {
        Err(AppendError::Failed(error)) => error,
        other => panic!("not refused: {other:?}"),
    }
}
