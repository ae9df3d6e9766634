//! A folder of logs of three segments each, with its ledger, and the program that prunes it.

use std::collections::BTreeMap;
use std::fs::{self, File, FileTimes};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use portcullis::audit::folder::LogFolder;
use portcullis::audit::ledger::{Ledger, LedgerEvent, LogHead, LogState};
use portcullis::audit::log::Log;
use portcullis::audit::segment::SegmentName;
use portcullis::audit::{AuditEvent, EndedBy, Isolation, Status};
use portcullis::ids::{ConnId, PolicyGeneration, SessionId};
use portcullis::policy::{DenyReason, Durability, Host, Port, RuleId, Transport, Verdict};
use tempfile::TempDir;

use crate::ledger::{HOST, SECOND, open_ledger};

pub(crate) struct Kept {
    /// The folder of logs.
    pub(crate) base: TempDir,
    /// What the program has of its own.
    home: TempDir,
}

impl Kept {
    pub(crate) fn new() -> Self {
        let [base, home] = [0, 1].map(|_| tempfile::tempdir().unwrap());
        Self { base, home }
    }

    pub(crate) fn path(&self) -> &Path {
        self.base.path()
    }

    pub(crate) fn ledger(&self) -> Ledger {
        open_ledger(self.path())
    }

    /// A log whose three segments were last written so many days ago: records 1 to 3, 4 to 6, 7 and 8.
    pub(crate) fn log(&self, days: [u64; 3]) -> SessionId {
        let (session, log) = write(self.path(), Some(&self.ledger()), None, &story());
        drop(log);
        age(self.path(), session, days);
        session
    }

    pub(crate) fn portcullis(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        said(&self.command(arguments).output().unwrap())
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command
            .arg("audit")
            .args(arguments)
            .arg("--dir")
            .arg(self.path());
        for name in [
            "HOME",
            "XDG_CONFIG_HOME",
            "XDG_CACHE_HOME",
            "XDG_STATE_HOME",
        ] {
            command.env(name, self.home.path());
        }
        command
    }

    /// Prunes and does not pack.
    pub(crate) fn prune(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let never = ["prune", "--pack-after", "never"];
        self.portcullis(&[&never, arguments].concat())
    }

    /// The numbers of the segments that a log has.
    pub(crate) fn segments(&self, session: SessionId) -> Vec<u32> {
        let folder = LogFolder::open(self.path()).unwrap();
        let segments = folder.segments(session).unwrap();
        segments.into_iter().map(|segment| segment.number).collect()
    }

    pub(crate) fn segment(&self, session: SessionId, number: u32) -> PathBuf {
        segment(self.path(), session, number)
    }

    /// Sets what the rules are, by a file.
    pub(crate) fn settings(&self, text: &str) {
        let folder = self.home.path().join("portcullis");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("audit.toml"), text).unwrap();
    }
}

pub(crate) fn said(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

pub(crate) fn segment(base: &Path, session: SessionId, number: u32) -> PathBuf {
    let name = SegmentName {
        number,
        ..SegmentName::first(session)
    };
    base.join(name.file_name())
}

/// Writes these records, a segment for each list, and binds each; the log is still open.
pub(crate) fn write(
    base: &Path,
    ledger: Option<&Ledger>,
    uid: Option<u32>,
    segments: &[Vec<AuditEvent>],
) -> (SessionId, Log) {
    let logs = LogFolder::open(base).unwrap();
    let session = SessionId::generate();
    let log = Log::create(&logs, base, (session, "ada"), Durability::Batch, HOST).unwrap();
    let mut log = log.with_segments_of(1);
    for events in segments {
        for event in events {
            log.stage(event.clone()).unwrap();
        }
        log.commit().unwrap();
        let (records, head) = log.place();
        let ended = matches!(events.last(), Some(AuditEvent::SessionEnded { .. }));
        let head = LogHead {
            session,
            uid,
            records,
            head,
            state: if ended {
                LogState::Ended
            } else {
                LogState::Open
            },
        };
        if let Some(ledger) = ledger {
            ledger
                .append(&[LedgerEvent::LogHead(head)], SECOND)
                .unwrap();
        }
    }
    (session, log)
}

/// Segments were last written so many days ago.
pub(crate) fn age(base: &Path, session: SessionId, days: [u64; 3]) {
    for (number, days) in (1..).zip(days) {
        let modified = SystemTime::now() - Duration::from_secs(days * 86_400 + 60);
        let file = File::open(segment(base, session, number)).unwrap();
        file.set_times(FileTimes::new().set_modified(modified))
            .unwrap();
    }
}

fn decided(conn: u64, host: &str, verdict: Verdict) -> AuditEvent {
    let denied = verdict == Verdict::Deny;
    AuditEvent::EgressDecided {
        process: None,
        process_unknown: None,
        conn: ConnId(conn),
        transport: Transport::Connect,
        host: Host::parse(host).unwrap(),
        port: Port::new(443).unwrap(),
        method: None,
        path: None,
        verdict,
        reason: denied.then_some(DenyReason::HostNotAllowed),
        rule: (!denied).then(|| RuleId::new("--allow api.test")),
        generation: PolicyGeneration::new("0123456789abcdef"),
    }
}

fn closed(conn: u64) -> AuditEvent {
    AuditEvent::EgressClosed {
        conn: ConnId(conn),
        bytes_up: 1,
        bytes_down: 2,
        ms: 3,
        ended_by: EndedBy::Client,
    }
}

/// Connections go on over the border of segments.
pub(crate) fn story() -> Vec<Vec<AuditEvent>> {
    let started = AuditEvent::SessionStarted {
        name: None,
        argv: vec!["codex".into()],
        profile: "codex".into(),
        mode: "workspace-write".into(),
        workspace: "/home/u/w".into(),
        generation: PolicyGeneration::new("0123456789abcdef"),
        isolation: Isolation {
            bwrap: "bubblewrap 0.8.0".into(),
            landlock_abi: 4,
            seccomp_allowed: 301,
            shortfalls: Vec::new(),
        },
        unix_sockets: Vec::new(),
    };
    let ended = AuditEvent::SessionEnded {
        status: Status::Exited(0),
        ms: 9,
        files: None,
    };
    let (allow, deny) = (Verdict::Allow, Verdict::Deny);
    vec![
        vec![
            started,
            decided(1, "api.test", allow),
            decided(2, "api.test", allow),
        ],
        vec![
            closed(1),
            decided(3, "evil.test", deny),
            decided(4, "api.test", allow),
        ],
        vec![closed(4), ended],
    ]
}

/// Every file below a folder, with its time.
pub(crate) fn everything(base: &Path) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime)> {
    let mut all = BTreeMap::new();
    let mut folders = vec![base.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let modified = path.metadata().unwrap().modified().unwrap();
                all.insert(path.clone(), (fs::read(&path).unwrap(), modified));
            }
        }
    }
    all
}
