//! The real `portcullis-notary` over folders of logs: what it binds, when, and what it says of a log that changes.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portcullis::audit::folder::{LogFolder, file_name};
use portcullis::audit::ledger::anchor::Anchors;
use portcullis::audit::ledger::append::KeyPlace;
use portcullis::audit::ledger::entry::LogPruned;
use portcullis::audit::ledger::key::KeyFile;
use portcullis::audit::ledger::read::{Bound, Contents};
use portcullis::audit::ledger::segment::list;
use portcullis::audit::ledger::{FOLDER, Ledger, LedgerEvent};
use portcullis::audit::log::Log;
use portcullis::audit::retention::Why;
use portcullis::audit::roll::Roll;
use portcullis::audit::segment::SegmentName;
use portcullis::audit::{AuditEvent, EndedBy, Status};
use portcullis::ids::{ConnId, SessionId};
use portcullis::policy::Durability;
use tempfile::TempDir;

use super::rolling::be_of_another_day;
use super::support::{
    Flaws, HOST, SECOND, Session, both, hash_of, ledger_folder, ledger_path, lines,
};

/// A folder of logs of two users and the folder of the key.
struct Host {
    base: TempDir,
}

impl Host {
    fn new() -> Self {
        let base = tempfile::tempdir().unwrap();
        for folder in ["log/1000", "log/1001", "state"] {
            fs::create_dir_all(base.path().join(folder)).unwrap();
        }
        Self { base }
    }

    fn logs(&self) -> PathBuf {
        self.base.path().join("log")
    }

    fn session(&self, uid: u32) -> Session {
        Session::start(&self.logs().join(uid.to_string()))
    }

    fn path(&self, uid: u32, session: SessionId) -> PathBuf {
        self.logs().join(uid.to_string()).join(file_name(session))
    }

    fn notary(&self) -> Notary {
        let child = Command::new(env!("CARGO_BIN_EXE_portcullis-notary"))
            .arg(self.logs())
            .arg(self.base.path().join("state"))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        started(child)
    }

    fn bound(&self, uid: u32, session: SessionId) -> Option<Bound> {
        let folder = File::open(self.logs().join(FOLDER)).ok()?;
        let contents = Contents::of(folder, &mut Anchors::default()).unwrap()?;
        assert_eq!(contents.broken, None);
        contents.sessions.get(&(Some(uid), session)).cloned()
    }

    #[track_caller]
    fn await_bound(&self, uid: u32, session: SessionId, is: impl Fn(&Bound) -> bool) -> Bound {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(bound) = self.bound(uid, session).filter(&is) {
                return bound;
            }
            assert!(Instant::now() < deadline, "{:?}", self.bound(uid, session));
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// One that looks at logs by now, or has given up.
fn started(mut child: Child) -> Notary {
    let path = format!("/proc/{}/status", child.id());
    let deadline = Instant::now() + Duration::from_secs(30);
    let confined = || fs::read_to_string(&path).is_ok_and(|status| status.contains("Seccomp:\t2"));
    while !confined() && child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(2));
    }
    Notary { child }
}

struct Notary {
    child: Child,
}

impl Notary {
    fn end(mut self, signal: Signal) -> String {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap());
        kill(pid, signal).unwrap();
        let status = self.child.wait().unwrap();
        assert_eq!(status.success(), signal == Signal::SIGTERM, "{status:?}");
        let mut said = String::new();
        self.child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        said
    }
}

fn ended(bound: &Bound) -> bool {
    bound.ended
}

#[test]
fn what_ends_is_bound_at_once_and_what_goes_on_when_it_is_due() {
    let host = Host::new();
    let mut early = host.session(1000);
    early.write(8);
    let notary = host.notary();
    // What was there before, what comes, and what is of a user who was not there.
    host.await_bound(1000, early.id, ended);
    let (mut one, mut two) = (host.session(1000), host.session(1001));
    one.write(3);
    two.write(8);
    host.await_bound(1001, two.id, ended);
    fs::create_dir(host.logs().join("1002")).unwrap();
    let mut new = host.session(1002);
    new.write(8);
    host.await_bound(1002, new.id, ended);
    one.write(6);
    host.await_bound(1000, one.id, |bound| bound.heads.contains_key(&6));
    assert_eq!(both(&host.logs(), &[]), Flaws::new());

    // It is confined.
    let status = fs::read_to_string(format!("/proc/{}/status", notary.child.id())).unwrap();
    for wanted in [
        "Seccomp:\t2",
        "NoNewPrivs:\t1",
        "CapEff:\t0000000000000000",
        "Threads:\t1",
    ] {
        assert!(
            status.lines().any(|line| line == wanted),
            "{wanted} in {status}"
        );
    }
    // What is not due yet is bound when it is asked to end.
    one.write(7);
    let said = notary.end(Signal::SIGTERM);
    assert_eq!(said, "");
    assert!(host.bound(1000, one.id).unwrap().heads.contains_key(&7));
    assert_eq!(both(&host.logs(), &[]), Flaws::new());
}

#[test]
fn a_notary_that_was_killed_goes_on_where_it_was_and_binds_what_came_meanwhile() {
    let host = Host::new();
    let mut sessions = [0, 1, 2].map(|_| host.session(1000));
    for records in 1..=8 {
        let notary = host.notary();
        for session in &mut sessions {
            session.write(records);
        }
        std::thread::sleep(Duration::from_millis(17 * records));
        notary.end(Signal::SIGKILL);
        assert_eq!(host.notary().end(Signal::SIGTERM), "");
        for session in &sessions {
            let bound = host.bound(1000, session.id).unwrap();
            assert!(bound.heads.contains_key(&records), "{bound:?}");
        }
    }
    assert_eq!(both(&host.logs(), &[]), Flaws::new());
}

#[test]
fn a_log_that_does_not_go_on_as_it_was_bound_is_told_and_bound_no_more() {
    let host = Host::new();
    let notary = host.notary();
    let (mut one, mut two, mut three) =
        (host.session(1000), host.session(1000), host.session(1001));
    for session in [&mut one, &mut two, &mut three] {
        session.write(5);
    }
    for (uid, session) in [(1000, one.id), (1000, two.id), (1001, three.id)] {
        host.await_bound(uid, session, |bound| bound.heads.contains_key(&5));
    }
    // A record that does not follow, and a tail that is cut off.
    let path = host.path(1000, one.id);
    let again = lines(&path).pop().unwrap();
    OpenOptions::new()
        .append(true)
        .open(&path)
        .unwrap()
        .write_all(again.as_bytes())
        .unwrap();
    let path = host.path(1000, two.id);
    fs::write(&path, lines(&path)[..3].concat()).unwrap();
    let broken = |bound: &Bound| bound.broken.is_some();
    let found = host.await_bound(1000, one.id, broken).broken.unwrap();
    assert_eq!(found.0, 6);
    assert!(
        found.1.starts_with("sequence is 5 where 6 must stand"),
        "{found:?}"
    );
    host.await_bound(1000, two.id, broken);
    let said = notary.end(Signal::SIGTERM);
    assert!(
        said.contains(&format!(
            "ALARM: audit log {}: record 6: sequence",
            host.path(1000, one.id).display()
        )),
        "{said}"
    );

    // While it was down another one was written anew, sealed as it has to be.
    let path = host.path(1001, three.id);
    let mut forged = lines(&path);
    forged[1] = forged[1].replace("\"bytes_down\":5", "\"bytes_down\":6");
    super::support::reseal_log(&mut forged, 2, three.id);
    fs::write(&path, forged.concat()).unwrap();
    let notary = host.notary();
    let found = host.await_bound(1001, three.id, broken).broken.unwrap();
    assert_eq!(found.0, 5);
    let said = notary.end(Signal::SIGTERM);
    assert!(said.contains("written anew or replaced"), "{said}");
    let three_says = both(&host.logs(), &[]);
    let expected: Flaws = [(one.id, 6), (two.id, 4), (three.id, 5)]
        .map(|(id, record)| (id.to_string(), record))
        .into();
    assert_eq!(three_says, expected);
}

#[test]
fn a_ledger_that_was_changed_is_not_gone_on_with() {
    let host = Host::new();
    let mut session = host.session(1000);
    session.write(8);
    host.notary().end(Signal::SIGTERM);
    let path = ledger_path(&host.logs());
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("\"ts\":\"2", "\"ts\":\"1", 1)).unwrap();
    let mut child = host.notary().child;
    assert_eq!(child.wait().unwrap().code(), Some(78));
    let mut said = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert!(
        said.contains("entry 1: hash does not match its content"),
        "{said}"
    );
    // Its twin.
    fs::write(&path, text).unwrap();
    assert_eq!(host.notary().end(Signal::SIGTERM), "");
}

#[test]
fn the_key_may_come_from_the_service_manager() {
    let host = Host::new();
    let credentials = tempfile::tempdir().unwrap();
    let seed = "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb";
    fs::write(credentials.path().join("audit-key"), format!("{seed}\n")).unwrap();
    let mut session = host.session(1000);
    session.write(8);
    let child = Command::new(env!("CARGO_BIN_EXE_portcullis-notary"))
        .arg(host.logs())
        .arg(host.base.path().join("state"))
        .env("CREDENTIALS_DIRECTORY", credentials.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    host.await_bound(1000, session.id, ended);
    assert_eq!(started(child).end(Signal::SIGTERM), "");
    assert_eq!(
        fs::read_dir(host.base.path().join("state"))
            .unwrap()
            .count(),
        0
    );
    let key = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c";
    assert_eq!(both(&host.logs(), &["--key", key]), Flaws::new());
    // Beside the ledger is its public half.
    let beside = fs::read_to_string(host.logs().join("ledger/key.pub")).unwrap();
    assert_eq!(beside, format!("{key}\n"));
    assert_eq!(both(&host.logs(), &[]), Flaws::new());
}

/// As the service has it: the logs are another user's, and the notary may read them by their group alone.
#[test]
fn the_notary_needs_no_more_than_the_group_of_the_logs() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
    const WRITER: u32 = 4102;
    const AUDITORS: u32 = 4061;
    const NOTARY: u32 = 4106;
    let host = Host::new();
    let own = |path: &str, (uid, gid), mode| {
        let path = host.base.path().join(path);
        chown(&path, Some(uid), Some(gid)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    fs::create_dir(host.logs().join("ledger")).unwrap();
    own("", (0, 0), 0o755);
    own("log", (0, AUDITORS), 0o750);
    own("log/1000", (WRITER, AUDITORS), 0o2750);
    own("log/1001", (WRITER, AUDITORS), 0o2750);
    own("log/ledger", (NOTARY, AUDITORS), 0o2750);
    own("state", (NOTARY, NOTARY), 0o700);
    let program = host.base.path().join("portcullis-notary");
    fs::copy(env!("CARGO_BIN_EXE_portcullis-notary"), &program).unwrap();
    let child = Command::new("setpriv")
        .args([
            format!("--reuid={NOTARY}"),
            format!("--regid={NOTARY}"),
            format!("--groups={AUDITORS}"),
        ])
        .arg(&program)
        .args([host.logs(), host.base.path().join("state")])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let notary = started(child);
    let mut session = host.session(1000);
    session.write(8);
    chown(host.path(1000, session.id), Some(WRITER), Some(AUDITORS)).unwrap();
    host.await_bound(1000, session.id, ended);
    assert_eq!(notary.end(Signal::SIGTERM), "");
    let about = |path: &str| {
        let about = host.base.path().join(path).metadata().unwrap();
        (about.uid(), about.gid(), about.mode() & 0o7777)
    };
    assert_eq!(about("log/ledger/ledger.jsonl"), (NOTARY, AUDITORS, 0o640));
    assert_eq!(about("state/key"), (NOTARY, NOTARY, 0o600));
    assert_eq!(both(&host.logs(), &[]), Flaws::new());
}

/// Two records, a segment of their own.
fn two_more(log: &mut Log, ends: bool) {
    let closed = AuditEvent::EgressClosed {
        conn: ConnId(1),
        bytes_up: 1,
        bytes_down: 2,
        ms: 3,
        ended_by: EndedBy::Client,
    };
    let ended = AuditEvent::SessionEnded {
        status: Status::Exited(0),
        ms: 9,
        files: None,
    };
    log.stage(closed.clone()).unwrap();
    log.stage(if ends { ended } else { closed }).unwrap();
    log.commit().unwrap();
}

#[test]
fn what_is_pruned_is_no_alarm_and_what_is_left_of_a_log_is_followed() {
    let host = Host::new();
    let base = host.logs().join("1000");
    let id = SessionId::generate();
    let folder = LogFolder::open(&base).unwrap();
    let log = Log::create(&folder, &base, (id, "ada"), Durability::Batch, HOST).unwrap();
    let mut log = log.with_segments_of(1);
    for _ in 0..3 {
        two_more(&mut log, false);
    }
    // The writer of this one was killed, so that the notary waits for more of it.
    let mut killed = host.session(1000);
    killed.write(3);
    let killed = killed.id;
    let notary = host.notary();
    host.await_bound(1000, id, |bound| bound.heads.contains_key(&6));
    host.await_bound(1000, killed, |bound| bound.heads.contains_key(&3));

    let prune = |session, number, first, last| {
        let name = SegmentName {
            number,
            ..SegmentName::first(session)
        };
        let path = base.join(name.file_name());
        let state = File::open(host.base.path().join("state")).unwrap();
        let ledger = Ledger::open(
            ledger_folder(&host.logs()),
            &host.logs().join(FOLDER),
            KeyPlace::In(state.into()),
            Durability::Each,
            HOST.into(),
        );
        let pruned = LedgerEvent::LogPruned(LogPruned {
            session,
            uid: Some(1000),
            segment: number,
            first,
            last,
            head: hash_of(lines(&path).last().unwrap()),
            why: Why::Age,
        });
        ledger.unwrap().append(&[pruned], SECOND).unwrap();
        fs::remove_file(path).unwrap();
    };
    prune(id, 1, 1, 2);
    prune(killed, 1, 1, 3);
    two_more(&mut log, false);
    host.await_bound(1000, id, |bound| bound.heads.contains_key(&8));
    assert_eq!(notary.end(Signal::SIGTERM), "");
    // One that is started later begins behind what was pruned.
    prune(id, 2, 3, 4);
    let notary = host.notary();
    two_more(&mut log, true);
    host.await_bound(1000, id, ended);
    assert_eq!(notary.end(Signal::SIGTERM), "");
    assert_eq!(both(&host.logs(), &[]), Flaws::new());
}

#[test]
fn the_notary_begins_segments_and_follows_those_that_others_begin() {
    let host = Host::new();
    let state = || File::open(host.base.path().join("state")).unwrap();
    let mut sessions = [0, 1, 2].map(|_| host.session(1000));
    sessions[0].write(3);
    assert_eq!(host.notary().end(Signal::SIGTERM), "");
    let key = KeyFile::open(state(), "key").unwrap().unwrap();
    be_of_another_day(&host.logs(), &key.keys().unwrap().remove(0));

    let notary = host.notary();
    let segments = || list(ledger_folder(&host.logs())).unwrap().len();
    sessions[0].write(8);
    host.await_bound(1000, sessions[0].id, ended);
    assert_eq!(segments(), 2);
    let other = Ledger::open(
        ledger_folder(&host.logs()),
        &host.logs().join(FOLDER),
        KeyPlace::In(state().into()),
        Durability::Each,
        HOST.into(),
    );
    let roll = Roll {
        bytes: 1,
        daily: false,
    };
    let other = other.unwrap().rolling(roll);
    for session in &mut sessions[1..] {
        let held = LedgerEvent::HoldSet {
            session: session.id,
            uid: Some(1000),
            by: "root".into(),
            reason: "a case".into(),
        };
        other.append(&[held], 10 * SECOND).unwrap();
        session.write(8);
        host.await_bound(1000, session.id, ended);
    }
    assert_eq!(segments(), 4);
    // Each of the last two has what the other appended and what the notary did.
    let last = host.logs().join("ledger/ledger.0004.jsonl");
    assert_eq!(lines(&last).len(), 4);
    assert_eq!(notary.end(Signal::SIGTERM), "");
    assert_eq!(both(&host.logs(), &[]), Flaws::new());
}
