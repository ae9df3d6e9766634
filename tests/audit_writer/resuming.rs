//! Another writer goes on where one died, and another gate where one died.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

use portcullis::audit::AuditEvent;
use portcullis::audit::folder::file_name;
use portcullis::audit::verify::State;
use portcullis::policy::Durability;
use portcullis::wire::WireError;
use portcullis::wire::audit::{Append, AuditReply, append};

use super::support::{Writer, decided, ended, events, failed, report, started, whole};

/// A log of three records whose writer was killed.
fn left_behind(folder: &tempfile::TempDir) -> (Writer, PathBuf) {
    let mut writer = Writer::start(folder.path(), Durability::Batch);
    append(&writer.session, 1, started(&["true"])).unwrap();
    append(&writer.gate, 1, decided(1)).unwrap();
    append(&writer.gate, 2, decided(2)).unwrap();
    writer.child.kill().unwrap();
    writer.child.wait().unwrap();
    let path = folder.path().join(file_name(writer.id));
    (writer, path)
}

fn resumed(lost_bytes: u64) -> AuditEvent {
    AuditEvent::LogResumed { lost_bytes }
}

#[test]
fn the_next_writer_goes_on_with_the_chain_of_the_one_that_was_killed() {
    let folder = tempfile::tempdir().unwrap();
    let (dead, _) = left_behind(&folder);
    let writer = Writer::resume(folder.path(), dead.id).unwrap();
    assert_eq!(append(&writer.gate, 7, decided(3)).unwrap(), 5);
    assert_eq!(append(&writer.session, 9, ended()).unwrap(), 6);
    let (status, report) = writer.finish();
    assert_eq!(status.code(), Some(0));
    whole(dead.id, 6, State::Complete, &report);
    let expected = vec![
        started(&["true"]),
        decided(1),
        decided(2),
        resumed(0),
        decided(3),
        ended(),
    ];
    assert_eq!(events(folder.path(), dead.id), expected);
}

#[test]
fn a_torn_last_line_is_cut_off_and_that_is_on_record() {
    let folder = tempfile::tempdir().unwrap();
    let (dead, path) = left_behind(&folder);
    let torn = b"{\"v\":1,\"seq\":4,\"ts\":\"2026-";
    let mut log = OpenOptions::new().append(true).open(&path).unwrap();
    log.write_all(torn).unwrap();
    let writer = Writer::resume(folder.path(), dead.id).unwrap();
    append(&writer.session, 1, ended()).unwrap();
    whole(dead.id, 5, State::Complete, &writer.finish().1);
    let found = events(folder.path(), dead.id);
    assert_eq!(found.get(3), Some(&resumed(torn.len() as u64)));
}

#[test]
fn a_log_that_does_not_verify_is_not_continued() {
    let folder = tempfile::tempdir().unwrap();
    let changes: [fn(&str) -> String; 4] = [
        |text| text.replacen("api.example.com", "api.example.org", 1),
        |text| format!("{text}{{}}\n"),
        |text| text.split_once('\n').unwrap().1.to_owned(),
        |text| format!("{text}{}", text.lines().next().unwrap()),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let (dead, path) = left_behind(&folder);
        let before = change(&fs::read_to_string(&path).unwrap());
        fs::write(&path, &before).unwrap();
        let outcome = Writer::resume(folder.path(), dead.id);
        if number == 3 {
            // The twin: whatever it says, a line without an end is one that nobody acknowledged.
            outcome.unwrap();
            continue;
        }
        let error = outcome.map(|_| 0);
        let error = failed(error);
        let start = format!("audit log {}: record ", path.display());
        let end = "it is not continued: see portcullis audit verify";
        assert!(error.starts_with(&start) && error.ends_with(end), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), before);
    }
}

#[test]
fn a_log_that_somebody_writes_or_that_is_no_file_is_not_continued() {
    let folder = tempfile::tempdir().unwrap();
    let writer = Writer::start(folder.path(), Durability::Batch);
    append(&writer.session, 1, started(&["true"])).unwrap();
    failed(Writer::resume(folder.path(), writer.id).map(|_| 0));
    append(&writer.session, 2, ended()).unwrap();
    whole(writer.id, 2, State::Complete, &writer.finish().1);
    let (dead, path) = left_behind(&folder);
    let elsewhere = folder.path().join("elsewhere");
    fs::rename(&path, &elsewhere).unwrap();
    failed(Writer::resume(folder.path(), dead.id).map(|_| 0));
    assert!(!path.exists(), "nothing is begun either");
    std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
    failed(Writer::resume(folder.path(), dead.id).map(|_| 0));
}

#[test]
fn an_end_that_was_kept_and_not_acknowledged_is_acknowledged_by_the_next_writer() {
    let folder = tempfile::tempdir().unwrap();
    let mut dead = Writer::start(folder.path(), Durability::Batch);
    append(&dead.session, 1, ended()).unwrap();
    dead.child.kill().unwrap();
    dead.child.wait().unwrap();
    let writer = Writer::resume(folder.path(), dead.id).unwrap();
    assert_eq!(append(&writer.session, 2, ended()).unwrap(), 1);
    failed(append(&writer.gate, 3, decided(1)));
    whole(dead.id, 1, State::Complete, &writer.finish().1);
}

#[test]
fn another_gate_takes_the_place_of_one_whose_last_words_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = Writer::start(folder.path(), Durability::Batch);
    append(&writer.gate, 1, decided(1)).unwrap();
    // Sent, never acknowledged as far as this gate knows.
    for id in 2..=500 {
        let event = decided(id);
        writer.gate.send(&Append { id, event }).unwrap();
    }
    writer.new_gate();
    append(&writer.gate, 1, decided(501)).unwrap();
    append(&writer.session, 1, ended()).unwrap();
    let id = writer.id;
    whole(id, 502, State::Complete, &writer.finish().1);
    let expected: Vec<_> = (1..=501).map(decided).chain([ended()]).collect();
    assert_eq!(events(folder.path(), id), expected);
}

#[test]
fn the_gate_before_is_not_heard_any_more() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = Writer::start(folder.path(), Durability::Batch);
    append(&writer.gate, 1, decided(1)).unwrap();
    let before = writer.gate;
    writer.gate = portcullis::wire::Channel::pair().unwrap().0;
    writer.new_gate();
    append(&writer.gate, 1, decided(2)).unwrap();
    assert!(matches!(
        before.recv::<AuditReply>(),
        Err(WireError::Closed)
    ));
    let id = writer.id;
    assert_eq!(writer.finish().1.records, 3, "and session.ended");
    assert_eq!(report(folder.path(), id).state, State::Complete);
}

#[test]
fn a_closed_supply_channel_changes_nothing_for_a_writer_that_runs() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = Writer::start(folder.path(), Durability::Batch);
    append(&writer.gate, 1, decided(1)).unwrap();
    writer.supply = portcullis::wire::Channel::pair().unwrap().0;
    for id in 2..50 {
        append(&writer.gate, id, decided(id)).unwrap();
    }
    append(&writer.session, 1, ended()).unwrap();
    whole(writer.id, 50, State::Complete, &writer.finish().1);
}
