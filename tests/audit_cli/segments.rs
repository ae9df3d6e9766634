//! Logs of several segments: every verb reads them as one.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use portcullis::audit::folder::LogFolder;
use portcullis::audit::log::Log;
use portcullis::audit::segment::SegmentName;
use portcullis::audit::verify::verify_log;
use portcullis::audit::{AuditEvent, Status};
use portcullis::ids::SessionId;
use portcullis::policy::Durability;

use super::support::{audit, decided, says, started};

const ENDED: AuditEvent = AuditEvent::SessionEnded {
    status: Status::Exited(0),
    ms: 1,
    files: None,
};

fn begun(folder: &Path, session: SessionId) -> Log {
    let opened = LogFolder::open(folder).unwrap();
    let whose = (session, "alice");
    let host = "00112233aabbccdd";
    let log = Log::create(&opened, folder, whose, Durability::Batch, host).unwrap();
    log.with_segments_of(1500)
}

fn keep(log: &mut Log, event: AuditEvent) {
    log.stage(event).unwrap();
    log.commit().unwrap();
}

/// What is said of logs beside which there is no ledger.
const NO_LEDGER: &str =
    "ledger    there is none: a log that is gone or that was written anew does not show\n";

/// A log of 22 records.
fn long(folder: &Path) -> (SessionId, Vec<SegmentName>) {
    let session = SessionId::generate();
    let mut log = begun(folder, session);
    keep(&mut log, started());
    for conn in 1..=20 {
        keep(
            &mut log,
            decided(conn, (&format!("h{conn}.test"), 443), None),
        );
    }
    keep(&mut log, ENDED);
    let segments = LogFolder::open(folder).unwrap().segments(session).unwrap();
    assert!(segments.len() > 4, "{segments:?}");
    (session, segments)
}

fn pack(folder: &Path, segment: SegmentName) {
    let plain = folder.join(segment.file_name());
    let packed = SegmentName {
        packed: true,
        ..segment
    };
    let text = zstd::encode_all(fs::read(&plain).unwrap().as_slice(), 0).unwrap();
    fs::write(folder.join(packed.file_name()), text).unwrap();
    fs::remove_file(plain).unwrap();
}

#[test]
fn verify_and_show_read_all_segments_plain_and_packed() {
    let folder = tempfile::tempdir().unwrap();
    let (session, segments) = long(folder.path());
    let opened = LogFolder::open(folder.path()).unwrap();
    let head = verify_log(&opened, session).unwrap().head.unwrap();
    for packed in [None, Some(0), Some(1), Some(2)] {
        if let Some(at) = packed {
            pack(folder.path(), segments[at]);
        }
        let line = format!("complete  {session}  22 records, head {head}\n{NO_LEDGER}");
        assert_eq!(audit(folder.path(), &["verify"]), says(0, &line, ""));
        let shown = audit(folder.path(), &["show", &session.to_string()]);
        assert_eq!(shown.code, 0, "{shown:?}");
        for conn in [1, 7, 20] {
            assert!(
                shown.out.contains(&format!("h{conn}.test:443")),
                "{shown:?}"
            );
        }
        let one = audit(folder.path(), &["show", &format!("{session}:12")]);
        assert!(one.out.contains("h11.test"), "{one:?}");
    }
}

#[test]
fn a_later_segment_alone_is_a_part_and_a_missing_one_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (session, segments) = long(folder.path());
    let path = folder.path().join(segments[2].file_name());
    let alone = audit(folder.path(), &["verify", path.to_str().unwrap()]);
    assert_eq!(alone.code, 0);
    assert!(
        alone.out.starts_with(&format!("part      {session}  "))
            && alone.out.contains("part of a log"),
        "{alone:?}"
    );
    let json = audit(folder.path(), &["verify", "--json", path.to_str().unwrap()]);
    let json: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    let first = json["part"].as_u64().unwrap();
    assert!(first > 3, "{json}");
    fs::remove_file(&path).unwrap();
    let name = segments[2].file_name();
    let expected = format!(
        "BROKEN    {session}  {name}: record {first} at byte 0: this segment of the log is missing: it was removed\n{NO_LEDGER}"
    );
    assert_eq!(audit(folder.path(), &["verify"]), says(1, &expected, ""));
}

#[test]
fn tail_takes_the_last_records_from_as_many_segments_as_have_them() {
    let folder = tempfile::tempdir().unwrap();
    let (session, segments) = long(folder.path());
    let id = session.to_string();
    let said = || {
        let ran = audit(folder.path(), &["tail", "-n", "18", &id]);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""));
        ran.out
    };
    let plain = said();
    assert_eq!(plain.lines().count(), 18);
    let hosts: Vec<_> = (4..=20).map(|conn| format!("h{conn}.test:443")).collect();
    for (line, host) in plain.lines().zip(&hosts) {
        assert!(line.contains(host), "{line} {host}");
    }
    for segment in &segments[..segments.len() - 1] {
        pack(folder.path(), *segment);
        assert_eq!(said(), plain);
    }
    pack(folder.path(), *segments.last().unwrap());
    assert_eq!(said(), plain);
}

#[test]
fn tail_follows_a_log_into_its_next_segments() {
    let folder = tempfile::tempdir().unwrap();
    let session = SessionId::generate();
    let mut log = begun(folder.path(), session);
    keep(&mut log, started());
    let mut child = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["audit", "tail", "-f", "--dir"])
        .arg(folder.path())
        .arg(session.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || lines.next().unwrap().unwrap();
    assert!(next().contains("session.started"));
    // One by one, then several segments at once.
    for conn in 1..=40 {
        let host = format!("h{conn}.test");
        keep(&mut log, decided(conn, (&host, 443), None));
        if conn <= 12 {
            assert!(next().contains(&host));
        }
    }
    keep(&mut log, ENDED);
    drop(log);
    for conn in 13..=40 {
        let line = next();
        assert!(line.contains(&format!("h{conn}.test")), "{line}");
    }
    assert!(next().contains("session.ended"));
    assert!(child.wait().unwrap().success());
    let opened = LogFolder::open(folder.path()).unwrap();
    assert!(opened.segments(session).unwrap().len() > 8);
}
