//! The writer binds its log into the ledger: when, with which key, and what it does if it cannot.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use portcullis::audit::folder::file_name;
use portcullis::audit::ledger::anchor::Anchors;
use portcullis::audit::ledger::append::KeyPlace;
use portcullis::audit::ledger::read::{Bound, Contents};
use portcullis::audit::ledger::{self, Ledger};
use portcullis::audit::lock;
use portcullis::audit::roll::{Roll, Segments};
use portcullis::audit::verify::State;
use portcullis::ids::SessionId;
use portcullis::policy::Durability;
use portcullis::wire::audit::append;
use portcullis::wire::supply::WriterSupply;

use super::support::{Writer, decided, ended, report, started, whole};

/// The ledger of a folder, which holds.
fn contents(folder: &Path) -> Contents {
    let ledger = File::open(folder.join("ledger")).unwrap();
    let contents = Contents::of(ledger, &mut Anchors::default()).unwrap();
    let contents = contents.unwrap();
    assert_eq!(contents.broken, None);
    contents
}

/// How a session is bound, which is what its log has.
#[expect(clippy::unwrap_in_result, reason = "tests may panic")]
fn bound(folder: &Path, id: SessionId) -> Option<Bound> {
    let bound = contents(folder).sessions.get(&(None, id)).cloned();
    if let Some(bound) = bound.as_ref().filter(|bound| bound.ended) {
        let report = report(folder, id);
        let last = bound.heads.last_key_value().unwrap();
        assert_eq!(last, (&report.records, &report.head.unwrap()));
    }
    bound
}

#[test]
fn the_end_is_signed_before_it_is_acknowledged() {
    for durability in [Durability::Batch, Durability::Each] {
        let folder = tempfile::tempdir().unwrap();
        let writer = Writer::start(folder.path(), durability);
        append(&writer.session, 1, started(&["true"])).unwrap();
        append(&writer.gate, 1, decided(1)).unwrap();
        append(&writer.session, 2, ended()).unwrap();
        let bound = bound(folder.path(), writer.id).unwrap();
        assert!(bound.ended);
        assert_eq!(bound.heads.len(), 1, "nothing was due before");
        let contents = contents(folder.path());
        assert_eq!(contents.signed.unwrap().0, contents.entries);
        let mode = |name: &str| {
            fs::metadata(folder.path().join(name))
                .unwrap()
                .permissions()
                .mode()
                & 0o777
        };
        assert_eq!((mode("ledger"), mode("ledger/key")), (0o700, 0o600));
        let (status, _) = writer.finish();
        assert_eq!(status.code(), Some(0));
    }
}

#[test]
fn a_log_is_bound_every_thousand_records_while_it_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let writer = Writer::start(folder.path(), Durability::Batch);
    append(&writer.session, 1, started(&["true"])).unwrap();
    for conn in 1..1500 {
        append(&writer.gate, conn, decided(conn)).unwrap();
    }
    let bound = bound(folder.path(), writer.id).unwrap();
    let (records, _) = bound.heads.last_key_value().unwrap();
    assert!(!bound.ended && (1000..1100).contains(records), "{records}");
}

#[test]
fn a_session_that_is_lost_is_bound_with_the_end_that_its_writer_gives_it() {
    let folder = tempfile::tempdir().unwrap();
    let writer = Writer::start(folder.path(), Durability::Batch);
    append(&writer.session, 1, started(&["true"])).unwrap();
    let id = writer.id;
    let (_, report) = writer.finish();
    assert_eq!(report.state, State::Complete);
    assert!(bound(folder.path(), id).unwrap().ended);
}

#[test]
fn whoever_holds_the_lock_of_the_ledger_holds_up_no_session_for_long() {
    let folder = tempfile::tempdir().unwrap();
    let writer = Writer::start(folder.path(), Durability::Batch);
    append(&writer.session, 1, started(&["true"])).unwrap();
    let path = folder.path().join("ledger/ledger.jsonl");
    let holder = OpenOptions::new().write(true).open(path).unwrap();
    lock::hold(&holder).unwrap();
    let start = Instant::now();
    for conn in 1..1100 {
        append(&writer.gate, conn, decided(conn)).unwrap();
    }
    append(&writer.session, 2, ended()).unwrap();
    assert!(
        start.elapsed() < Duration::from_secs(30),
        "{:?}",
        start.elapsed()
    );
    let id = writer.id;
    assert_eq!(bound(folder.path(), id), None);
    // A session that starts meanwhile does.
    let other = Writer::start(folder.path(), Durability::Batch);
    append(&other.session, 1, started(&["true"])).unwrap();
    // It is back: the end is bound as long as the session is there to be told.
    drop(holder);
    while bound(folder.path(), id).is_none() {
        std::thread::sleep(Duration::from_millis(20));
    }
    let (status, report) = writer.finish();
    assert_eq!(status.code(), Some(0));
    whole(id, 1101, State::Complete, &report);
    append(&other.session, 2, ended()).unwrap();
    assert!(bound(folder.path(), other.id).unwrap().ended);
}

/// The events of a log whose names begin so.
fn events(folder: &Path, id: SessionId, beginning: &str) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(folder.join(file_name(id))).unwrap();
    let records = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    let is_one =
        |record: &serde_json::Value| record["event"].as_str().unwrap().starts_with(beginning);
    records.filter(is_one).collect()
}

#[test]
fn confined_writers_begin_segments_of_the_ledger_and_follow_one_another() {
    let folder = tempfile::tempdir().unwrap();
    let start = || {
        let mut writer = Writer::unbooted(folder.path());
        let mut boot = writer.boot_message(Durability::Each);
        let ledger = Roll {
            bytes: 1,
            daily: true,
        };
        let logs = Roll::default();
        boot.segments = Some(Segments { logs, ledger });
        writer.supply.send(&WriterSupply::Boot(boot)).unwrap();
        portcullis::wire::audit::ready(&writer.session).unwrap();
        writer.new_gate();
        append(&writer.session, 1, started(&["true"])).unwrap();
        writer
    };
    let writers = [0, 1, 2, 3].map(|_| start());
    for writer in &writers {
        append(&writer.session, 2, ended()).unwrap();
        assert!(bound(folder.path(), writer.id).unwrap().ended);
    }
    let segments = ledger::segment::list(File::open(folder.path().join("ledger")).unwrap());
    assert_eq!(segments.unwrap().len(), 4);
    for writer in writers {
        assert_eq!(writer.finish().0.code(), Some(0));
    }
}

#[test]
fn a_ledger_that_cannot_be_written_is_on_record_and_so_is_that_it_can_again() {
    let folder = tempfile::tempdir().unwrap();
    let writer = Writer::start(folder.path(), Durability::Batch);
    append(&writer.session, 1, started(&["true"])).unwrap();
    // Nobody's entry at its end: it is not continued.
    let path = folder.path().join("ledger/ledger.jsonl");
    fs::write(&path, "nobody's\n").unwrap();
    for conn in 1..1005 {
        append(&writer.gate, conn, decided(conn)).unwrap();
    }
    let told = |count: usize| {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let told = events(folder.path(), writer.id, "ledger.");
            if told.len() >= count {
                return told;
            }
            assert!(Instant::now() < deadline, "{told:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    let lost = &told(1)[0];
    assert_eq!(lost["event"], "ledger.lost");
    let why = lost["why"].as_str().unwrap();
    assert!(why.contains("an entry at its end was changed"), "{why}");
    fs::write(&path, "").unwrap();
    let told = told(2);
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(told[1]["event"], "ledger.resumed");
    assert!(told[1]["ms"].as_u64().is_some());
    append(&writer.session, 2, ended()).unwrap();
    assert!(bound(folder.path(), writer.id).unwrap().ended);
    let id = writer.id;
    whole(id, 1008, State::Complete, &writer.finish().1);
}

#[test]
fn a_key_that_is_replaced_while_sessions_run_is_theirs_at_once() {
    let base = tempfile::tempdir().unwrap();
    let writer = Writer::start(base.path(), Durability::Batch);
    append(&writer.session, 1, started(&["true"])).unwrap();
    let folder = ledger::append::folder(File::open(base.path()).unwrap()).unwrap();
    let shown = base.path().join("ledger");
    let ledger = Ledger::open(
        &folder,
        &shown,
        KeyPlace::Beside,
        Durability::Each,
        "0123456789abcdef".into(),
    );
    let (old, new) = ledger.unwrap().rotate(&folder).unwrap();
    append(&writer.session, 2, ended()).unwrap();
    assert!(bound(base.path(), writer.id).unwrap().ended);
    assert_eq!(contents(base.path()).keys, [(old, 0), (new, 2)]);
    let public = fs::read_to_string(base.path().join("ledger/key.pub")).unwrap();
    assert_eq!(public, format!("{new}\n"));
}

#[test]
fn what_a_killed_writer_had_not_bound_the_next_one_binds() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = Writer::start(folder.path(), Durability::Batch);
    append(&writer.session, 1, started(&["true"])).unwrap();
    let id = writer.id;
    for round in 1..5_u64 {
        append(&writer.gate, round, decided(round)).unwrap();
        writer.child.kill().unwrap();
        writer.child.wait().unwrap();
        writer = Writer::resume(folder.path(), id).unwrap();
    }
    append(&writer.session, 2, ended()).unwrap();
    assert!(bound(folder.path(), id).unwrap().ended);

    // One that was killed between the end's record and its signature.
    fs::remove_dir_all(folder.path().join("ledger")).unwrap();
    writer.child.kill().unwrap();
    writer.child.wait().unwrap();
    let writer = Writer::resume(folder.path(), id).unwrap();
    append(&writer.session, 3, ended()).unwrap();
    assert!(bound(folder.path(), id).unwrap().ended);
}

#[test]
fn a_writer_whose_log_somebody_else_binds_touches_no_ledger() {
    let folder = tempfile::tempdir().unwrap();
    let writer = Writer::unbooted(folder.path());
    let mut boot = writer.boot_message(Durability::Batch);
    boot.ledger = false;
    writer.supply.send(&WriterSupply::Boot(boot)).unwrap();
    portcullis::wire::audit::ready(&writer.session).unwrap();
    append(&writer.session, 1, started(&["true"])).unwrap();
    append(&writer.session, 2, ended()).unwrap();
    assert!(!folder.path().join("ledger").exists());
}

#[test]
fn a_key_that_others_can_read_starts_no_session_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let writer = Writer::start(folder.path(), Durability::Batch);
    append(&writer.session, 1, ended()).unwrap();
    let key = folder.path().join("ledger/key");
    fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    let refused = Writer::unbooted(folder.path());
    let why = refused.boot(Durability::Batch).unwrap_err().to_string();
    assert!(
        why.contains("its key: others can read it (mode 0644)"),
        "{why}"
    );
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    Writer::unbooted(folder.path())
        .boot(Durability::Batch)
        .unwrap();

    // Nor does a ledger whose key is gone.
    fs::remove_file(&key).unwrap();
    let why = Writer::unbooted(folder.path())
        .boot(Durability::Batch)
        .unwrap_err()
        .to_string();
    assert!(
        why.contains("its key is gone; it is not continued"),
        "{why}"
    );
}
