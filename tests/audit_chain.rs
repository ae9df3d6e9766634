//! Tampering: whatever is done to a log, `verify` names the first record that no longer holds.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "tests may panic"
)]

use std::fs;
use std::sync::LazyLock;

use portcullis::audit::folder::{LogFolder, file_name};
use portcullis::audit::log::Log;
use portcullis::audit::reader::{Ending, Lines, MAX_LINE};
use portcullis::audit::verify::{Broken, Flaw, Report, State, verify};
use portcullis::audit::{AuditEvent, EndedBy, Status};
use portcullis::ids::{ConnId, SessionId};
use portcullis::policy::Durability;
use proptest::prelude::*;

const RECORDS: u64 = 8;

/// A whole log of [`RECORDS`] records and its session; the last is `session.ended`.
struct Sample {
    session: SessionId,
    text: Vec<u8>,
}

fn write_sample() -> Sample {
    let base = tempfile::tempdir().unwrap();
    let folder = LogFolder::open(base.path()).unwrap();
    let session = SessionId::generate();
    let whose = (session, "té\"st\\er");
    let mut log = Log::create(
        &folder,
        base.path(),
        whose,
        Durability::Batch,
        "0123456789abcdef",
    )
    .unwrap();
    for conn in 1..RECORDS {
        let (bytes_up, bytes_down, ms) = (conn, conn * 10, conn * 100);
        let ended_by = EndedBy::Upstream;
        let closed = AuditEvent::EgressClosed {
            conn: ConnId(conn),
            bytes_up,
            bytes_down,
            ms,
            ended_by,
        };
        assert_eq!(log.stage(closed).unwrap(), conn);
    }
    log.stage(AuditEvent::SessionEnded {
        status: Status::Exited(3),
        ms: 9,
        files: None,
    })
    .unwrap();
    log.commit().unwrap();
    let text = fs::read(base.path().join(file_name(session))).unwrap();
    Sample { session, text }
}

static SAMPLE: LazyLock<Sample> = LazyLock::new(write_sample);
static OTHER: LazyLock<Sample> = LazyLock::new(write_sample);

fn lines(sample: &Sample) -> Vec<Vec<u8>> {
    sample
        .text
        .split_inclusive(|byte| *byte == b'\n')
        .map(<[u8]>::to_vec)
        .collect()
}

fn check(text: &[u8]) -> Report {
    verify(text, Some(SAMPLE.session)).unwrap()
}

/// The flaw of a log made of these lines, with the number of its record.
fn flaw(lines: &[Vec<u8>]) -> Option<(u64, Flaw)> {
    let report = check(&lines.concat());
    let broken = report.broken?;
    let before: usize = lines
        .iter()
        .take(usize::try_from(broken.record).unwrap() - 1)
        .map(Vec::len)
        .sum();
    assert_eq!(broken.offset, before as u64, "{broken:?}");
    assert_eq!(report.records, broken.record - 1, "{broken:?}");
    Some((broken.record, broken.flaw))
}

/// Puts other text in the place of some that stands in one line.
fn edit(lines: &mut [Vec<u8>], number: usize, from: &str, to: &str) {
    let line = String::from_utf8(lines[number - 1].clone()).unwrap();
    assert!(line.contains(from), "{line}");
    lines[number - 1] = line.replacen(from, to, 1).into_bytes();
}

#[test]
fn an_untouched_log_is_complete_and_its_head_is_the_last_hash() {
    let report = check(&SAMPLE.text);
    let head = report.head.unwrap();
    assert!(String::from_utf8_lossy(&SAMPLE.text).ends_with(&format!("\"hash\":\"{head}\"}}\n")));
    let session = Some(SAMPLE.session);
    let (records, state) = (RECORDS, State::Complete);
    let head = Some(head);
    assert_eq!(
        report,
        Report {
            part: None,
            pruned: None,
            ends: Vec::new(),
            session,
            records,
            head,
            state,
            broken: None,
            clock_set_back: 0
        }
    );
    // Without a name to hold it to, the first record's own session counts.
    assert_eq!(verify(SAMPLE.text.as_slice(), None).unwrap(), report);
}

type Edit = fn(&mut Vec<Vec<u8>>);

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn every_kind_of_tampering_is_named_at_its_first_record() {
    let sequence = |expected, found| Flaw::Sequence { expected, found };
    let table: Vec<(&str, Edit, (u64, Flaw))> = vec![
        (
            "a field is changed",
            |l| edit(l, 3, "\"bytes_up\":3", "\"bytes_up\":4"),
            (3, Flaw::Hash),
        ),
        (
            "a time is changed",
            |l| edit(l, 3, "\"ts\":\"2", "\"ts\":\"1"),
            (3, Flaw::Hash),
        ),
        (
            "a user is changed",
            |l| edit(l, 1, "té", "ti"),
            (1, Flaw::Hash),
        ),
        (
            "a field is doubled",
            |l| edit(l, 5, ",\"ms\"", ",\"ms\":1,\"ms\""),
            (5, Flaw::Hash),
        ),
        (
            "space is added",
            |l| edit(l, 4, "\"ms\":", "\"ms\": "),
            (4, Flaw::Hash),
        ),
        ("a hash is changed", |l| change_hash(l), (4, Flaw::Hash)),
        ("the chain is mended halfway", |l| mend(l), (4, Flaw::Prev)),
        (
            "the first is dropped",
            |l| drop(l.remove(0)),
            (1, sequence(1, 2)),
        ),
        ("one is dropped", |l| drop(l.remove(3)), (4, sequence(4, 5))),
        (
            "all but the end is dropped",
            |l| drop(l.drain(..7)),
            (1, sequence(1, 8)),
        ),
        ("two are swapped", |l| l.swap(2, 3), (3, sequence(3, 4))),
        (
            "one is doubled",
            |l| l.insert(3, l[2].clone()),
            (4, sequence(4, 3)),
        ),
        (
            "one is moved to the end",
            |l| l.rotate_left(1),
            (1, sequence(1, 2)),
        ),
        (
            "one is dropped and those after it renumbered",
            renumber,
            (4, Flaw::Prev),
        ),
        (
            "a number is changed",
            |l| edit(l, 6, "\"seq\":6", "\"seq\":66"),
            (6, sequence(6, 66)),
        ),
        (
            "a number is padded",
            |l| edit(l, 6, "\"seq\":6", "\"seq\":06"),
            (6, not_json()),
        ),
        (
            "a stranger is inserted",
            |l| l.insert(2, lines(&OTHER)[2].clone()),
            (3, other_session()),
        ),
        (
            "a stranger is put in its place",
            |l| l[2] = lines(&OTHER)[2].clone(),
            (3, other_session()),
        ),
        (
            "all of it is another session's",
            |l| *l = lines(&OTHER),
            (1, other_session()),
        ),
        ("and says it is this one's", rename, (1, Flaw::Prev)),
        (
            "another form is claimed",
            |l| edit(l, 2, "\"v\":1", "\"v\":2"),
            (2, Flaw::NotARecord),
        ),
        (
            "a line is no record",
            |l| l[4] = b"{}\n".to_vec(),
            (5, Flaw::NotARecord),
        ),
        (
            "a line is empty",
            |l| l.insert(4, b"\n".to_vec()),
            (5, empty()),
        ),
        (
            "carriage returns are added",
            |l| edit(l, 1, "}\n", "}\r\n"),
            (1, Flaw::NotARecord),
        ),
        (
            "a line has no end",
            |l| l[1] = vec![b'x'; MAX_LINE + 9],
            (2, Flaw::TooLong),
        ),
        (
            "the last is cut",
            |l| l[7].truncate(300),
            (8, Flaw::Truncated),
        ),
        (
            "one in the middle is cut",
            |l| l[4].truncate(40),
            (5, glued()),
        ),
        (
            "an end is added",
            |l| l.push(l[7].clone()),
            (9, Flaw::AfterEnd),
        ),
        (
            "a byte is added",
            |l| l.push(vec![b' ']),
            (9, Flaw::AfterEnd),
        ),
    ];
    for (what, edit, expected) in table {
        let mut lines = lines(&SAMPLE);
        edit(&mut lines);
        assert_eq!(flaw(&lines), Some(expected), "{what}");
    }
}

fn change_hash(lines: &mut [Vec<u8>]) {
    let digit = lines[3].len() - 5;
    lines[3][digit] ^= 1;
}

/// Changes record 3 and seals it again, so that only record 4 shows it.
fn mend(lines: &mut [Vec<u8>]) {
    edit(lines, 3, "\"bytes_up\":3", "\"bytes_up\":4");
    let hash_start = lines[2].len() - 76;
    let prev = lines_hash(&lines[1]);
    let hash = prev.follow(&lines[2][..hash_start]);
    lines[2].truncate(hash_start);
    lines[2].extend_from_slice(format!(",\"hash\":\"{hash}\"}}\n").as_bytes());
}

fn lines_hash(line: &[u8]) -> portcullis::audit::ChainHash {
    let line = String::from_utf8(line.to_vec()).unwrap();
    let start = line.len() - 67;
    line[start..start + 64].to_owned().try_into().unwrap()
}

fn renumber(lines: &mut Vec<Vec<u8>>) {
    lines.remove(3);
    for number in 4..8 {
        edit(
            lines,
            number,
            &format!("\"seq\":{}", number + 1),
            &format!("\"seq\":{number}"),
        );
    }
}

fn rename(lines: &mut Vec<Vec<u8>>) {
    *lines = self::lines(&OTHER);
    let (from, to) = (OTHER.session.to_string(), SAMPLE.session.to_string());
    (1..=8).for_each(|number| edit(lines, number, &from, &to));
}

fn other_session() -> Flaw {
    Flaw::OtherSession(OTHER.session.to_string())
}

fn not_json() -> Flaw {
    Flaw::NotJson("invalid number at line 1 column 15".into())
}

fn empty() -> Flaw {
    Flaw::NotJson("EOF while parsing a value at line 1 column 0".into())
}

fn glued() -> Flaw {
    // The next record's brace stands where the time has its middle.
    let mut line = lines(&SAMPLE)[4].clone();
    line.truncate(40);
    line.extend_from_slice(&lines(&SAMPLE)[5]);
    line.pop();
    let error = serde_json::from_slice::<serde_json::Value>(&line).unwrap_err();
    Flaw::NotJson(error.to_string())
}

#[test]
fn a_log_without_its_tail_is_open_and_never_complete() {
    for kept in 0..RECORDS {
        let lines = lines(&SAMPLE);
        let text = lines[..usize::try_from(kept).unwrap()].concat();
        let report = check(&text);
        assert_eq!(
            (report.records, report.state, report.broken),
            (kept, State::Open, None)
        );
    }
}

#[test]
fn a_clock_that_was_set_back_is_told_but_breaks_nothing() {
    let lines = lines(&SAMPLE);
    let mut prev = lines_hash(&lines[0]);
    let mut text = lines[0].clone();
    for line in &lines[1..] {
        let line = String::from_utf8(line.clone()).unwrap();
        let mut body = line[..line.len() - 76 - 74].to_owned();
        body.replace_range(
            body.find("\"ts\":\"2").unwrap() + 6..=body.find("\"ts\":\"2").unwrap() + 6,
            "1",
        );
        let open = format!("{body},\"prev\":\"{prev}\"");
        prev = prev.follow(open.as_bytes());
        text.extend_from_slice(format!("{open},\"hash\":\"{prev}\"}}\n").as_bytes());
    }
    let report = check(&text);
    assert_eq!(
        (report.state, report.broken, report.clock_set_back),
        (State::Complete, None, 1)
    );
}

#[test]
fn records_read_back_as_they_were_written() {
    let mut lines = Lines::new(SAMPLE.text.as_slice());
    let mut events = Vec::new();
    while let Some(line) = lines.next_line().unwrap() {
        let record = line.record().unwrap().unwrap();
        assert_eq!((record.v, record.seq), (1, line.number));
        assert_eq!(
            (record.session, record.user.as_str()),
            (SAMPLE.session, "té\"st\\er")
        );
        assert_eq!(record.hash, lines_hash(&[line.bytes, b"\n"].concat()));
        events.push(record.event);
    }
    assert_eq!(
        events.pop(),
        Some(AuditEvent::SessionEnded {
            status: Status::Exited(3),
            ms: 9,
            files: None,
        })
    );
    assert_eq!(events.len() as u64, RECORDS - 1);
}

proptest! {
    #[test]
    fn any_changed_byte_is_found_in_its_own_record(at in 0_usize..100_000, by in 1_u8..=255) {
        let mut text = SAMPLE.text.clone();
        let at = at % text.len();
        text[at] ^= by;
        let record = SAMPLE.text[..at].split(|byte| *byte == b'\n').count() as u64;
        let broken = check(&text).broken;
        prop_assert_eq!(broken.map(|Broken { record, .. }| record), Some(record));
    }

    #[test]
    fn any_removed_byte_is_found(at in 0_usize..100_000) {
        let mut text = SAMPLE.text.clone();
        text.remove(at % SAMPLE.text.len());
        prop_assert!(check(&text).broken.is_some());
    }

    #[test]
    fn any_cut_is_found_or_leaves_the_log_open(at in 0_usize..100_000) {
        let report = check(&SAMPLE.text[..at % SAMPLE.text.len()]);
        prop_assert!(report.broken.is_some() || report.state == State::Open);
    }

    #[test]
    fn no_bytes_make_reader_or_verifier_panic(text in prop::collection::vec(any::<u8>(), 0..4096)) {
        read_all(&text);
    }

    #[test]
    fn no_mutilated_log_makes_reader_or_verifier_panic(
        edits in prop::collection::vec((0_usize..100_000, any::<u8>()), 1..20),
        (from, to) in (0_usize..100_000, 0_usize..100_000),
    ) {
        let mut text = SAMPLE.text.clone();
        let length = text.len();
        for (at, byte) in edits {
            text[at % length] = byte;
        }
        let (from, to) = (from % length, to % length);
        read_all(&text[from.min(to)..from.max(to)]);
    }
}

/// Reads as far as it goes; every byte is accounted for by the lines.
fn read_all(text: &[u8]) {
    drop(verify(text, None).unwrap());
    let mut lines = Lines::new(text);
    let mut total = 0;
    while let Some(line) = lines.next_line().unwrap() {
        total += line.bytes.len() + usize::from(line.ending == Ending::Newline);
        drop(line.record());
    }
    assert_eq!(total, text.len());
}
