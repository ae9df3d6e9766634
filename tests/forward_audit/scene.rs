//! Logs that grow, the process that forwards them, and patience.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use portcullis::audit::AuditEvent;
use portcullis::audit::folder::LogFolder;
use portcullis::audit::log::Log;
use portcullis::ids::SessionId;
use portcullis::policy::Durability;
use serde::Deserialize;
use serde_json::json;
use tempfile::TempDir;

/// Longer than anything takes on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "waited for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A port of the loopback that nobody has.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// A process that ends with the test.
pub(crate) struct Running(pub(crate) Child);

impl Running {
    pub(crate) fn kill(&mut self) {
        self.0.kill().ok();
        self.0.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(crate) struct Scene {
    folder: TempDir,
}

impl Scene {
    pub(crate) fn new(config: &str) -> Self {
        let scene = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        fs::create_dir(scene.logs()).unwrap();
        scene.configure(config);
        scene
    }

    pub(crate) fn configure(&self, config: &str) {
        fs::write(self.path("audit.toml"), config).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.path("logs")
    }

    /// A session of this user: under the service each has a folder.
    pub(crate) fn session(&self, user: &str) -> Session {
        let folder = self.logs().join(user);
        fs::create_dir_all(&folder).unwrap();
        Session::new(&folder, user)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.args(["audit", "forward", "--dir"]).arg(self.logs());
        command.arg("--config").arg(self.path("audit.toml"));
        command.arg("--state").arg(self.path("state"));
        command
    }

    pub(crate) fn start(&self) -> Running {
        let errors = fs::File::create(self.path("stderr")).unwrap();
        let mut command = self.command();
        Running(command.stderr(errors).stdin(Stdio::null()).spawn().unwrap())
    }

    /// Sends what there is; the exit code and what was said.
    pub(crate) fn once(&self) -> (i32, String) {
        let output = self.command().arg("--once").output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        (output.status.code().unwrap(), said)
    }

    pub(crate) fn said(&self) -> String {
        fs::read_to_string(self.path("stderr")).unwrap()
    }
}

/// A log that is being written.
pub(crate) struct Session {
    pub(crate) id: SessionId,
    log: Log,
}

impl Session {
    fn new(folder: &Path, user: &str) -> Self {
        let id = SessionId::generate();
        let opened = LogFolder::open(folder).unwrap();
        let log = Log::create(
            &opened,
            folder,
            (id, user),
            Durability::Batch,
            "00112233aabbccdd",
        );
        let log = log.unwrap();
        Self { id, log }
    }

    pub(crate) fn record(&mut self, event: AuditEvent) {
        self.log.stage(event).unwrap();
        self.log.commit().unwrap();
    }

    /// Denials, which carry everything that a decision has.
    pub(crate) fn denials(&mut self, count: u64) {
        for conn in 1..=count {
            self.log.stage(denied(conn)).unwrap();
        }
        self.log.commit().unwrap();
    }

    pub(crate) fn end(&mut self) {
        self.record(event(&json!({
            "event": "session.ended", "status": { "exited": 0 }, "ms": 1,
        })));
    }
}

fn denied(conn: u64) -> AuditEvent {
    event(&json!({
        "event": "egress.decided", "conn": conn, "transport": "connect", "host": "evil.test", "port": 443,
        "verdict": "deny", "reason": "host_not_allowed", "generation": "0123456789abcdef",
    }))
}

/// By its JSON, so that fields which may be missing need not be named here.
fn event(json: &serde_json::Value) -> AuditEvent {
    AuditEvent::deserialize(json).unwrap()
}

/// The sequence numbers of a session's records among JSON texts.
pub(crate) fn seqs(texts: &[String], session: SessionId) -> Vec<u64> {
    let records = texts.iter().map(|text| {
        let record: serde_json::Value = serde_json::from_str(text).unwrap();
        (
            record["session"].as_str().unwrap().to_owned(),
            record["seq"].as_u64().unwrap(),
        )
    });
    let session = session.to_string();
    records
        .filter(|(of, _)| *of == session)
        .map(|(_, seq)| seq)
        .collect()
}

/// Holds where numbers go from 1 to the last without a gap, but for so many places where it goes back and repeats.
pub(crate) fn repeats_only_at_seams(seqs: &[u64], last: u64, seams: usize) {
    let mut next = 1;
    let mut back = 0;
    for seq in seqs {
        assert!(*seq <= next, "{next} is missing: {seqs:?}");
        back += usize::from(*seq < next);
        next = seq + 1;
    }
    assert_eq!(next, last + 1, "{seqs:?}");
    assert!(back <= seams, "{back} times back: {seqs:?}");
}
