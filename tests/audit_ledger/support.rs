//! A folder of logs with its ledger, what both verifiers say of one, and tools of a forger.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use portcullis::audit::folder::{LogFolder, file_name};
use portcullis::audit::ledger::append::{KeyPlace, folder};
use portcullis::audit::ledger::entry::{self, Entry, checkpoint_message};
use portcullis::audit::ledger::key::SigningKey;
use portcullis::audit::ledger::{FILE, FOLDER, Ledger, LedgerEvent, LogHead, LogState, PublicKey};
use portcullis::audit::log::Log;
use portcullis::audit::roll::Roll;
use portcullis::audit::{AuditEvent, ChainHash, EndedBy, Status};
use portcullis::ids::{ConnId, SessionId};
use portcullis::policy::Durability;
use tempfile::TempDir;

pub(crate) const HOST: &str = "0123456789abcdef";
pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// What does not hold: a session, `ledger` or `anchor`, and which record, entry or checkpoint.
pub(crate) type Flaws = BTreeSet<(String, u64)>;

/// A session's log while it is written.
pub(crate) struct Session {
    pub(crate) id: SessionId,
    log: Log,
}

impl Session {
    pub(crate) fn start(base: &Path) -> Self {
        let logs = LogFolder::open(base).unwrap();
        let id = SessionId::generate();
        let log = Log::create(&logs, base, (id, "ada"), Durability::Batch, HOST).unwrap();
        Self { id, log }
    }

    /// Up to this many records; the last of eight is the end.
    pub(crate) fn write(&mut self, records: u64) -> LedgerEvent {
        for conn in self.log.place().0 + 1..=records {
            let event = if conn == 8 {
                let status = Status::Exited(0);
                let files = None;
                AuditEvent::SessionEnded {
                    status,
                    ms: 9,
                    files,
                }
            } else {
                AuditEvent::EgressClosed {
                    conn: ConnId(conn),
                    bytes_up: conn,
                    bytes_down: 5,
                    ms: 7,
                    ended_by: EndedBy::Client,
                }
            };
            self.log.stage(event).unwrap();
        }
        self.log.commit().unwrap();
        let (records, head) = self.log.place();
        LedgerEvent::LogHead(LogHead {
            session: self.id,
            uid: None,
            records,
            head,
            state: if records == 8 {
                LogState::Ended
            } else {
                LogState::Open
            },
        })
    }
}

pub(crate) fn ledger_folder(base: &Path) -> OwnedFd {
    folder(File::open(base).unwrap()).unwrap()
}

pub(crate) fn open_ledger(base: &Path) -> Ledger {
    let shown = base.join(FOLDER);
    let place = KeyPlace::Beside;
    Ledger::open(
        ledger_folder(base),
        &shown,
        place,
        Durability::Batch,
        HOST.into(),
    )
    .unwrap()
}

/// The same, which begins another segment with every batch that finds so many bytes there.
pub(crate) fn rolling_ledger(base: &Path, bytes: u64) -> Ledger {
    let daily = false;
    open_ledger(base).rolling(Roll { bytes, daily })
}

/// Two sessions that ended and one that did not, bound bit by bit, with a key that was replaced midway.
pub(crate) struct Host {
    pub(crate) base: TempDir,
    pub(crate) sessions: [SessionId; 3],
    pub(crate) keys: [PublicKey; 2],
}

impl Host {
    pub(crate) fn new() -> Self {
        let base = tempfile::tempdir().unwrap();
        let mut sessions = [0, 1, 2].map(|_| Session::start(base.path()));
        let ledger = open_ledger(base.path());
        let bind = |event| ledger.append(&[event], SECOND).unwrap();
        bind(sessions[0].write(3));
        bind(sessions[1].write(3));
        bind(sessions[0].write(6));
        let keys = ledger.rotate(ledger_folder(base.path())).unwrap();
        bind(sessions[0].write(8));
        bind(sessions[1].write(8));
        bind(sessions[2].write(2));
        let sessions = sessions.map(|session| session.id);
        Self {
            base,
            sessions,
            keys: keys.into(),
        }
    }

    /// A copy, to be changed.
    pub(crate) fn copy(&self) -> TempDir {
        let copy = tempfile::tempdir().unwrap();
        copy_all(self.base.path(), copy.path());
        copy
    }
}

pub(crate) fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to.join(FOLDER)).unwrap();
    for folder in ["", FOLDER] {
        for entry in fs::read_dir(from.join(folder)).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                fs::copy(entry.path(), to.join(folder).join(entry.file_name())).unwrap();
            }
        }
    }
}

pub(crate) fn log_path(base: &Path, session: SessionId) -> PathBuf {
    base.join(file_name(session))
}

pub(crate) fn ledger_path(base: &Path) -> PathBuf {
    base.join(FOLDER).join(FILE)
}

/// The lines of a file, each with its newline.
pub(crate) fn lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    text.split_inclusive('\n').map(str::to_owned).collect()
}

// === the two verifiers ===

/// What `portcullis audit verify` says.
pub(crate) fn verify(base: &Path, more: &[&str]) -> Flaws {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command
        .args(["audit", "verify", "--json", "--dir"])
        .arg(base)
        .args(more);
    let output = command.output().unwrap();
    let mut flaws = Flaws::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let said: serde_json::Value = serde_json::from_str(line).unwrap();
        if let Some(log) = said["log"].as_str() {
            let session = Path::new(log).file_stem().unwrap().to_str().unwrap();
            // Of a flaw that has a name and fields.
            let flaw = said["ledger"]["flaw"].as_object();
            let record = flaw.map(|flaw| flaw.values().next().unwrap());
            let record = match record {
                Some(fields) => Some(fields["record"].as_u64().unwrap_or(1)),
                None => said["broken"]["record"].as_u64(),
            };
            flaws.extend(record.map(|record| (session.to_owned(), record)));
        } else {
            let broken = said["broken"]["entry"].as_u64();
            flaws.extend(broken.map(|entry| ("ledger".to_owned(), entry)));
            if said["key_flaw"] != serde_json::Value::Null {
                flaws.insert(("ledger".to_owned(), 0));
            }
            for flaw in said["anchor_flaws"].as_array().into_iter().flatten() {
                let fields = flaw.as_object().unwrap().values().next().unwrap();
                flaws.insert(("anchor".to_owned(), fields["entry"].as_u64().unwrap()));
            }
        }
    }
    let expected = i32::from(!flaws.is_empty());
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(expected), "{flaws:?} {err}");
    flaws
}

/// What the oracle says.
pub(crate) fn oracle(base: &Path, more: &[&str]) -> Flaws {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/audit_oracle.py");
    let mut command = Command::new("python3");
    let output = command.arg(script).arg(base).args(more).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let flaws: Flaws = said
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(subject, number)| (subject.to_owned(), number.parse().unwrap()))
        .collect();
    let expected = i32::from(!flaws.is_empty());
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(expected), "{flaws:?} {err}");
    flaws
}

/// What both say, which is the same.
#[track_caller]
pub(crate) fn both(base: &Path, more: &[&str]) -> Flaws {
    let flaws = verify(base, more);
    assert_eq!(flaws, oracle(base, more), "portcullis and the oracle");
    flaws
}

pub(crate) fn flaws<const N: usize>(expected: [(&str, u64); N]) -> Flaws {
    expected
        .map(|(subject, number)| (subject.to_owned(), number))
        .into()
}

// === the forger's tools ===

/// Seals the records of a log anew from this one on (from 1), as somebody can who may write the file.
pub(crate) fn reseal_log(lines: &mut [String], from: usize, session: SessionId) {
    let mut prev = if from == 1 {
        ChainHash::genesis(session)
    } else {
        hash_of(&lines[from - 2])
    };
    for (place, line) in lines.iter_mut().enumerate().skip(from - 1) {
        let body = &line[..line.len() - 75 - 74 - 1];
        let (_, rest) = body.split_once(",\"ts\"").unwrap();
        let open = format!(
            "{{\"v\":1,\"seq\":{},\"ts\"{rest},\"prev\":\"{prev}\"",
            place + 1
        );
        prev = prev.follow(open.as_bytes());
        *line = format!("{open},\"hash\":\"{prev}\"}}\n");
    }
}

pub(crate) fn hash_of(line: &str) -> ChainHash {
    let end = line.len() - 3;
    line[end - 64..end].to_owned().try_into().unwrap()
}

pub(crate) fn entries(base: &Path) -> Vec<Entry> {
    let lines = lines(&ledger_path(base));
    lines
        .iter()
        .map(|line| entry::parse(line.trim_end().as_bytes()).unwrap())
        .collect()
}

/// Seals these entries anew; with a key, signs the checkpoints with it as well.
pub(crate) fn rewrite_ledger(base: &Path, entries: &[Entry], key: Option<&SigningKey>) {
    let mut lines = Vec::new();
    let mut prev = entry::genesis(&entries[0].host_id);
    for (place, entry) in entries.iter().enumerate() {
        let place = entry::Place {
            seq: place as u64 + 1,
            prev,
            ..entry.place()
        };
        let event = match (&entry.event, key) {
            (LedgerEvent::Checkpoint { .. }, Some(key)) => LedgerEvent::Checkpoint {
                key: key.public(),
                signature: key.sign(&checkpoint_message(place, &key.public())).unwrap(),
            },
            (event, _) => event.clone(),
        };
        prev = entry::seal(&mut lines, place, &event).unwrap();
    }
    fs::write(ledger_path(base), lines).unwrap();
}

/// The key that signs in this folder.
pub(crate) fn secret_key(base: &Path) -> SigningKey {
    let file = portcullis::audit::ledger::key::KeyFile::open(ledger_folder(base), "key");
    file.unwrap().unwrap().keys().unwrap().remove(0)
}
