//! A log goes on in the next file when one is full: over deaths of the writer, power cuts and missing files.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use jiff::Timestamp;
use portcullis::audit::AuditEvent;
use portcullis::audit::folder::LogFolder;
use portcullis::audit::lock;
use portcullis::audit::log::Log;
use portcullis::audit::segment::SegmentName;
use portcullis::audit::verify::{Flaw, State, verify_log, verify_segment};
use portcullis::ids::SessionId;
use portcullis::policy::Durability;
use portcullis::wire::audit::{Append, AuditReply, append};

use super::support::{Writer, decided, ended, events, failed, report, started, whole};

const SMALL: u64 = 4096;

fn segments(folder: &Path, id: SessionId) -> Vec<SegmentName> {
    LogFolder::open(folder).unwrap().segments(id).unwrap()
}

/// A log of some small segments that is over.
fn long_log(folder: &Path, durability: Durability) -> SessionId {
    let writer = Writer::start_with(folder, durability, |writer| {
        writer.segment_bytes = Some(SMALL);
    });
    append(&writer.session, 1, started(&["true"])).unwrap();
    for id in 0..98 {
        append(&writer.gate, id, decided(id)).unwrap();
    }
    append(&writer.session, 2, ended()).unwrap();
    let id = writer.id;
    let (status, report) = writer.finish();
    assert_eq!(status.code(), Some(0));
    whole(id, 100, State::Complete, &report);
    id
}

#[test]
fn a_full_segment_is_followed_by_the_next_and_the_chain_goes_on() {
    for durability in [Durability::Batch, Durability::Each] {
        let folder = tempfile::tempdir().unwrap();
        let id = long_log(folder.path(), durability);
        let all = segments(folder.path(), id);
        assert!(all.len() > 5, "{all:?}");
        let opened = LogFolder::open(folder.path()).unwrap();
        let (mut records, mut next) = (0, 1);
        for (segment, number) in all.iter().zip(1..) {
            assert_eq!((segment.number, segment.packed), (number, false));
            let file = opened.open_segment(*segment).unwrap();
            assert!(file.metadata().unwrap().len() <= SMALL);
            let report = verify_segment(file, *segment).unwrap();
            assert_eq!(report.broken, None);
            assert_eq!(report.part, (number > 1).then_some(next));
            records += report.records;
            next += report.records;
        }
        assert_eq!(records, 100);
        let expected: Vec<_> = [started(&["true"])]
            .into_iter()
            .chain((0..98).map(decided))
            .chain([ended()])
            .collect();
        assert_eq!(events(folder.path(), id), expected);
    }
}

#[test]
fn the_newest_segment_alone_is_locked() {
    let folder = tempfile::tempdir().unwrap();
    let writer = Writer::start_with(folder.path(), Durability::Batch, |writer| {
        writer.segment_bytes = Some(SMALL);
    });
    for id in 0..40 {
        append(&writer.gate, id, decided(id)).unwrap();
    }
    let opened = LogFolder::open(folder.path()).unwrap();
    let held = |segment: &SegmentName| lock::is_held(&opened.open_segment(*segment).unwrap());
    let held: Vec<bool> = segments(folder.path(), writer.id)
        .iter()
        .map(|segment| held(segment).unwrap())
        .collect();
    assert!(held.len() > 2);
    assert_eq!(held.iter().filter(|held| **held).count(), 1);
    assert_eq!(held.last(), Some(&true));
    assert_eq!(report(folder.path(), writer.id).state, State::Running);
    writer.finish();
}

#[test]
fn another_day_begins_another_segment() {
    let folder = tempfile::tempdir().unwrap();
    let opened = LogFolder::open(folder.path()).unwrap();
    let id = SessionId::generate();
    let mut log = Log::create(&opened, folder.path(), (id, "u"), Durability::Batch, HOST).unwrap();
    let at = |text: &str| -> Timestamp { text.parse().unwrap() };
    for (time, expected) in [
        ("2026-01-31T23:59:58Z", 1),
        ("2026-01-31T23:59:59.999999Z", 1),
        ("2026-02-01T00:00:00Z", 2),
        ("2026-02-01T20:00:00Z", 2),
        ("2026-02-03T00:00:00Z", 3),
    ] {
        log.stage_capped(&decided(1), at(time)).unwrap();
        log.commit().unwrap();
        assert_eq!(opened.segments(id).unwrap().len(), expected, "{time}");
    }
    drop(log);
    assert_eq!(verify_log(&opened, id).unwrap().records, 5);
    // The next writer, whenever it comes, goes on in the segment of that day alone.
    let aged = fs::File::options()
        .append(true)
        .open(
            folder
                .path()
                .join(opened.segments(id).unwrap()[2].file_name()),
        )
        .unwrap();
    let then = std::time::SystemTime::from(at("2026-02-03T00:00:00Z"));
    aged.set_modified(then).unwrap();
    let (mut log, _) =
        Log::resume(&opened, folder.path(), (id, "u"), Durability::Batch, HOST).unwrap();
    log.stage_capped(&decided(2), at("2026-02-03T01:00:00Z"))
        .unwrap();
    log.commit().unwrap();
    assert_eq!(opened.segments(id).unwrap().len(), 3);
    log.stage_capped(&decided(3), at("2026-02-04T01:00:00Z"))
        .unwrap();
    log.commit().unwrap();
    assert_eq!(opened.segments(id).unwrap().len(), 4);
}

const HOST: &str = "0123456789abcdef";

#[test]
fn a_missing_changed_or_swapped_segment_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let id = long_log(folder.path(), Durability::Batch);
    let all = segments(folder.path(), id);
    let path = |at: usize| folder.path().join(all[at].file_name());
    let aside = folder.path().join("aside");
    let before: u64 = {
        let opened = LogFolder::open(folder.path()).unwrap();
        let count = |at: usize| {
            let file = opened.open_segment(all[at]).unwrap();
            verify_segment(file, all[at]).unwrap().records
        };
        count(0) + count(1)
    };
    let broken = || {
        let report = report(folder.path(), id);
        let broken = report.broken.unwrap();
        assert_eq!(broken.record, report.records + 1);
        (
            report.records,
            broken.file.unwrap(),
            broken.offset,
            broken.flaw,
        )
    };
    // Removed.
    fs::rename(path(2), &aside).unwrap();
    let name = all[2].file_name();
    assert_eq!(broken(), (before, name.clone(), 0, Flaw::SegmentMissing));
    fs::rename(&aside, path(2)).unwrap();
    // The first.
    fs::rename(path(0), &aside).unwrap();
    assert_eq!(broken(), (0, all[0].file_name(), 0, Flaw::SegmentMissing));
    fs::rename(&aside, path(0)).unwrap();
    // Changed.
    let text = fs::read_to_string(path(2)).unwrap();
    let (first, rest) = text.split_once('\n').unwrap();
    fs::write(
        path(2),
        format!("{first}\n{}", rest.replacen("api.", "apj.", 1)),
    )
    .unwrap();
    let offset = first.len() as u64 + 1;
    assert_eq!(broken(), (before + 1, name.clone(), offset, Flaw::Hash));
    // Cut, though others follow.
    fs::write(path(2), &text.as_bytes()[..text.len() - 9]).unwrap();
    assert_eq!(broken().3, Flaw::Truncated);
    // Swapped with another.
    fs::write(path(2), fs::read(path(3)).unwrap()).unwrap();
    let (_, file, offset, flaw) = broken();
    assert_eq!((file, offset), (name, 0));
    assert!(matches!(flaw, Flaw::Sequence { .. }), "{flaw:?}");
    fs::write(path(2), &text).unwrap();
    whole(id, 100, State::Complete, &report(folder.path(), id));
}

#[test]
fn packed_segments_verify_as_plain_ones_and_say_where_they_were_changed() {
    let folder = tempfile::tempdir().unwrap();
    let id = long_log(folder.path(), Durability::Batch);
    for segment in segments(folder.path(), id).into_iter().take(3) {
        let plain = folder.path().join(segment.file_name());
        let packed = SegmentName {
            packed: true,
            ..segment
        };
        let text = fs::read(&plain).unwrap();
        let text = zstd::encode_all(text.as_slice(), 0).unwrap();
        fs::write(folder.path().join(packed.file_name()), text).unwrap();
        if segment.number != 2 {
            // The second is there twice, as it is for a moment while it is packed.
            fs::remove_file(plain).unwrap();
        }
    }
    whole(id, 100, State::Complete, &report(folder.path(), id));
    let third = segments(folder.path(), id)[2];
    assert!(third.packed);
    let path = folder.path().join(third.file_name());
    let text = fs::read(&path).unwrap();
    fs::write(&path, &text[..text.len() / 2]).unwrap();
    let broken = report(folder.path(), id).broken.unwrap();
    assert_eq!(broken.file, Some(third.file_name()));
    assert!(
        matches!(broken.flaw, Flaw::Packing(_) | Flaw::Truncated),
        "{broken:?}"
    );
}

#[test]
fn a_power_cut_at_any_byte_of_the_newest_segment_leaves_a_log_that_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let opened = LogFolder::open(folder.path()).unwrap();
    let id = SessionId::generate();
    let create = Log::create(&opened, folder.path(), (id, "u"), Durability::Batch, HOST);
    let mut log = create.unwrap().with_segments_of(1200);
    for conn in 0..8 {
        log.stage(decided(conn)).unwrap();
        log.commit().unwrap();
    }
    drop(log);
    let all = opened.segments(id).unwrap();
    let newest = folder.path().join(all.last().unwrap().file_name());
    let whole_text = fs::read(&newest).unwrap();
    let ends: BTreeSet<usize> = (0..whole_text.len())
        .filter(|at| whole_text[*at] == b'\n')
        .map(|at| at + 1)
        .collect();
    assert!(ends.len() >= 2, "{ends:?}");
    let lines = ends.len();
    for cut in 0..=whole_text.len() {
        fs::write(&newest, &whole_text[..cut]).unwrap();
        let complete = ends.range(..=cut).count();
        let last_end = ends.range(..=cut).next_back().copied().unwrap_or(0);
        // A child of another test, between fork and exec, may still hold the lock of the one before.
        let resume =
            |_| Log::resume(&opened, folder.path(), (id, "u"), Durability::Batch, HOST).ok();
        let (mut log, found) = (0..100_000).find_map(resume).unwrap();
        assert_eq!(found.lost_bytes, (cut - last_end) as u64, "{cut}");
        assert_eq!(found.ended, None);
        let kept = 8 - (lines - complete) as u64;
        assert_eq!(log.stage(ended()).unwrap(), kept + 1, "{cut}");
        log.commit().unwrap();
        drop(log);
        let report = verify_log(&opened, id).unwrap();
        whole(id, kept + 1, State::Complete, &report);
    }
}

#[test]
fn an_empty_last_segment_is_where_the_log_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = Writer::start_with(folder.path(), Durability::Batch, |writer| {
        writer.segment_bytes = Some(SMALL);
    });
    for id in 0..20 {
        append(&writer.gate, id, decided(id)).unwrap();
    }
    writer.child.kill().unwrap();
    writer.child.wait().unwrap();
    let all = segments(folder.path(), writer.id);
    let last = *all.last().unwrap();
    let empty = SegmentName {
        number: last.number + 1,
        ..last
    };
    fs::write(folder.path().join(empty.file_name()), "").unwrap();
    whole(
        writer.id,
        20,
        State::Open,
        &report(folder.path(), writer.id),
    );
    let next = Writer::resume(folder.path(), writer.id).unwrap();
    append(&next.session, 1, ended()).unwrap();
    whole(writer.id, 22, State::Complete, &next.finish().1);
    assert_eq!(segments(folder.path(), writer.id).last(), Some(&empty));
    assert!(
        fs::metadata(folder.path().join(empty.file_name()))
            .unwrap()
            .len()
            > 0
    );
}

#[test]
fn a_log_whose_newest_segments_do_not_hold_is_not_continued() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = Writer::start_with(folder.path(), Durability::Batch, |writer| {
        writer.segment_bytes = Some(SMALL);
    });
    for id in 0..40 {
        append(&writer.gate, id, decided(id)).unwrap();
    }
    writer.child.kill().unwrap();
    writer.child.wait().unwrap();
    let all = segments(folder.path(), writer.id);
    let path = |from_end: usize| folder.path().join(all[all.len() - from_end].file_name());
    let before = fs::read_to_string(path(2)).unwrap();
    let aside = folder.path().join("aside");
    fs::rename(path(2), &aside).unwrap();
    failed(Writer::resume(folder.path(), writer.id).map(|_| 0));
    fs::rename(&aside, path(2)).unwrap();
    fs::write(path(2), before.replacen("api.", "apj.", 1)).unwrap();
    failed(Writer::resume(folder.path(), writer.id).map(|_| 0));
    // The twin.
    fs::write(path(2), before).unwrap();
    let next = Writer::resume(folder.path(), writer.id).unwrap();
    whole(writer.id, 42, State::Complete, &next.finish().1);
}

#[test]
fn a_name_that_is_taken_stops_the_log_until_it_is_free() {
    let folder = tempfile::tempdir().unwrap();
    let writer = Writer::start_with(folder.path(), Durability::Batch, |writer| {
        writer.segment_bytes = Some(SMALL);
    });
    let second = SegmentName {
        number: 2,
        ..SegmentName::first(writer.id)
    };
    let taken = folder.path().join(second.file_name());
    fs::write(&taken, "planted").unwrap();
    let mut kept = 0;
    let error = loop {
        match append(&writer.gate, kept, decided(kept)) {
            Ok(_) => kept += 1,
            refused => break failed(refused),
        }
    };
    assert!(error.contains("move the file away"), "{error}");
    assert_eq!(fs::read(&taken).unwrap(), b"planted");
    fs::remove_file(&taken).unwrap();
    while append(&writer.gate, 1000, decided(1000)).is_err() {
        thread::sleep(Duration::from_millis(20));
    }
    let id = writer.id;
    let report = writer.finish().1;
    assert_eq!((report.broken, report.state), (None, State::Complete));
    assert_eq!(segments(folder.path(), id).len(), 2);
}

#[test]
fn nothing_acknowledged_is_lost_when_the_writer_is_killed_while_it_rolls() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = Writer::start_with(folder.path(), Durability::Batch, |writer| {
        writer.segment_bytes = Some(2048);
    });
    let id = writer.id;
    let (mut conn, mut acknowledged) = (0_u64, BTreeSet::new());
    for round in 0..12_u64 {
        let gate = writer.gate.into_stream();
        let sender = portcullis::wire::Channel::new(gate.try_clone().unwrap());
        let receiver = portcullis::wire::Channel::new(gate);
        let first = conn;
        let sending = thread::spawn(move || {
            let mut next = first;
            let send = |id| {
                sender.send(&Append {
                    id,
                    event: decided(id),
                })
            };
            while send(next).is_ok() {
                next += 1;
            }
            next
        });
        // Not the same place twice.
        let stop = first + 40 + round * 37 % 150;
        while let Ok(AuditReply::Recorded { id, .. }) = receiver.recv() {
            acknowledged.insert(id);
            if id == stop {
                writer.child.kill().unwrap();
            }
        }
        writer.child.wait().unwrap();
        drop(receiver);
        conn = sending.join().unwrap();
        writer = Writer::resume_with(folder.path(), id, Some(2048)).unwrap();
    }
    append(&writer.session, 1, ended()).unwrap();
    let report = writer.finish().1;
    assert_eq!((report.broken, report.state), (None, State::Complete));
    let kept: BTreeSet<u64> = events(folder.path(), id)
        .into_iter()
        .filter_map(|event| match event {
            AuditEvent::EgressDecided { conn, .. } => Some(conn.0),
            _ => None,
        })
        .collect();
    assert!(kept.is_superset(&acknowledged));
    assert!(segments(folder.path(), id).len() > 12);
}
