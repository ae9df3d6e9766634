//! The ledger in segments: its chain goes on over every border, whoever appends, and whatever is done to a segment is
//! named.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use portcullis::audit::ledger::anchor::Anchors;
use portcullis::audit::ledger::entry::{self, Entry, LedgerEvent};
use portcullis::audit::ledger::key::SigningKey;
use portcullis::audit::ledger::read::Contents;
use portcullis::audit::ledger::segment::{LedgerSegment, list};
use portcullis::audit::ledger::{FOLDER, PublicKey};
use portcullis::audit::roll::Roll;
use tempfile::TempDir;

use super::support::{
    Flaws, SECOND, Session, both, copy_all, entries, flaws, ledger_folder, ledger_path, lines,
    open_ledger, rewrite_ledger, rolling_ledger, secret_key, verify,
};

/// A ledger of six segments of one batch each: entries 1 to 3, then two a segment, so that segment N ends with 2 N + 1.
struct Rolled {
    base: TempDir,
    key: PublicKey,
}

const LAST: u64 = 13;

static ROLLED: LazyLock<Rolled> = LazyLock::new(|| {
    let base = tempfile::tempdir().unwrap();
    let ledger = rolling_ledger(base.path(), 1);
    let mut session = Session::start(base.path());
    for records in 3..=8 {
        ledger.append(&[session.write(records)], SECOND).unwrap();
    }
    let key = ledger.public().unwrap();
    Rolled { base, key }
});

fn copy() -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    copy_all(ROLLED.base.path(), copy.path());
    copy
}

fn path(base: &Path, number: u32) -> PathBuf {
    base.join(FOLDER)
        .join(LedgerSegment::plain(number).file_name())
}

fn segments(base: &Path) -> Vec<String> {
    let segments = list(File::open(base.join(FOLDER)).unwrap()).unwrap();
    segments.iter().map(|one| one.file_name()).collect()
}

fn contents(base: &Path) -> Contents {
    let contents = Contents::of(ledger_folder(base), &mut Anchors::default()).unwrap();
    contents.unwrap()
}

fn after(change: impl FnOnce(&Path)) -> Flaws {
    let copy = copy();
    change(copy.path());
    both(copy.path(), &["--key", &ROLLED.key.to_string()])
}

fn portcullis(base: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.arg("audit").args(arguments).arg("--dir").arg(base);
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    text(output.stdout) + &text(output.stderr)
}

/// Packs what is closed.
fn pack(base: &Path) -> String {
    // A moment old, so that it is due.
    std::thread::sleep(std::time::Duration::from_millis(5));
    portcullis(base, &["prune", "--pack-after", "1ms"])
}

#[test]
fn the_chain_goes_on_over_segments_packed_or_not() {
    let names = |packed: &str| -> Vec<String> {
        let closed = (2..=5).map(|number| format!("ledger.{number:04}.jsonl{packed}"));
        let first = format!("ledger.jsonl{packed}");
        let all = std::iter::once(first).chain(closed);
        all.chain(["ledger.0006.jsonl".to_owned()]).collect()
    };
    assert_eq!(segments(ROLLED.base.path()), names(""));
    assert_eq!(after(|_| {}), Flaws::new());
    assert_eq!(contents(ROLLED.base.path()).entries, LAST);

    let copy = copy();
    let said = portcullis(copy.path(), &["prune", "--pack-after", "1ms", "--dry-run"]);
    assert!(said.contains("pack      "), "{said}");
    assert_eq!(segments(copy.path()), names(""));
    let said = pack(copy.path());
    assert!(said.contains("ledger.0005.jsonl, "), "{said}");
    assert_eq!(segments(copy.path()), names(".zst"));
    assert_eq!(both(copy.path(), &[]), Flaws::new());
    // Whatever reads or appends finds it.
    let shown = portcullis(copy.path(), &["key", "show"]);
    assert_eq!(shown.trim(), ROLLED.key.to_string());
    assert!(!portcullis(copy.path(), &["key", "rotate"]).contains("portcullis:"));
    let mut session = Session::start(copy.path());
    let ledger = rolling_ledger(copy.path(), 1);
    ledger.append(&[session.write(8)], SECOND).unwrap();
    assert_eq!(both(copy.path(), &[]), Flaws::new());
    assert_eq!(segments(copy.path()).len(), 7);
}

#[test]
fn whatever_is_done_to_a_segment_is_named_at_its_first_entry() {
    type Change = fn(&Path);
    let table: Vec<(&str, Change, u64)> = vec![
        (
            "the first is removed",
            |b| fs::remove_file(path(b, 1)).unwrap(),
            1,
        ),
        (
            "one is removed",
            |b| fs::remove_file(path(b, 3)).unwrap(),
            6,
        ),
        (
            "two are swapped",
            |b| {
                fs::rename(path(b, 3), b.join("x")).unwrap();
                fs::rename(path(b, 4), path(b, 3)).unwrap();
                fs::rename(b.join("x"), path(b, 4)).unwrap();
            },
            6,
        ),
        (
            "an older one is replayed",
            |b| assert!(fs::copy(path(b, 2), path(b, 3)).is_ok()),
            6,
        ),
        (
            "one is doubled at the end",
            |b| assert!(fs::copy(path(b, 6), path(b, 7)).is_ok()),
            14,
        ),
        ("one is emptied", |b| fs::write(path(b, 3), "").unwrap(), 6),
        (
            "one is cut at a border",
            |b| fs::write(path(b, 3), &lines(&path(b, 3))[0]).unwrap(),
            7,
        ),
        (
            "one is cut within a line",
            |b| {
                let text = fs::read(path(b, 3)).unwrap();
                fs::write(path(b, 3), &text[..text.len() - 9]).unwrap();
            },
            7,
        ),
        (
            "one is changed",
            |b| {
                let text = fs::read_to_string(path(b, 4)).unwrap();
                fs::write(path(b, 4), text.replacen("\"ts\":\"2", "\"ts\":\"1", 1)).unwrap();
            },
            8,
        ),
        (
            "a packed one is none",
            |b| {
                fs::remove_file(path(b, 3)).unwrap();
                fs::write(b.join("ledger/ledger.0003.jsonl.zst"), "packed?").unwrap();
            },
            6,
        ),
    ];
    for (what, change, entry) in table {
        assert_eq!(after(change), flaws([("ledger", entry)]), "{what}");
    }
    let copy = copy();
    fs::remove_file(path(copy.path(), 3)).unwrap();
    let said = portcullis(copy.path(), &["verify"]);
    let missing = "BROKEN    ledger  ledger.0003.jsonl: entry 6: this segment of the ledger is missing: it was removed";
    assert!(said.contains(missing), "{said}");
}

#[test]
fn a_newest_segment_that_is_removed_is_told_by_checkpoints_kept_elsewhere() {
    let kept = tempfile::tempdir().unwrap();
    let anchor = kept.path().join("anchor");
    let checkpoint = lines(&path(ROLLED.base.path(), 6)).pop().unwrap();
    fs::write(&anchor, checkpoint).unwrap();
    let anchor = anchor.to_str().unwrap();
    assert_eq!(
        both(ROLLED.base.path(), &["--anchor", anchor]),
        Flaws::new()
    );
    let copy = copy();
    fs::remove_file(path(copy.path(), 6)).unwrap();
    assert_eq!(
        both(copy.path(), &["--anchor", anchor]),
        flaws([("anchor", LAST)])
    );
}

#[test]
fn a_newest_segment_cut_at_any_byte_verifies_and_is_continued() {
    let whole = fs::read(path(ROLLED.base.path(), 6)).unwrap();
    let copy = copy();
    let mut later = Session::start(copy.path());
    let event = later.write(8);
    for length in 0..whole.len() {
        fs::write(path(copy.path(), 6), &whole[..length]).unwrap();
        drop(fs::remove_file(path(copy.path(), 7)));
        let looked_at = length % 211 == 0;
        if looked_at {
            assert_eq!(verify(copy.path(), &[]), Flaws::new(), "cut at {length}");
        }
        // One that begins segments, and one that does not.
        let bytes = if length % 2 == 0 { 1 } else { u64::MAX };
        let ledger = rolling_ledger(copy.path(), bytes);
        ledger.append(std::slice::from_ref(&event), SECOND).unwrap();
        assert_eq!(contents(copy.path()).broken, None, "cut at {length}");
        if looked_at {
            assert_eq!(both(copy.path(), &[]), Flaws::new(), "cut at {length}");
        }
    }
}

#[test]
fn one_that_knows_an_old_segment_alone_follows_over_those_that_were_packed_since() {
    let base = tempfile::tempdir().unwrap();
    let (slow, quick) = (
        rolling_ledger(base.path(), 1),
        rolling_ledger(base.path(), 1),
    );
    let mut sessions = [0, 1, 2].map(|_| Session::start(base.path()));
    slow.append(&[sessions[0].write(3)], SECOND).unwrap();
    for records in 1..=6 {
        quick.append(&[sessions[1].write(records)], SECOND).unwrap();
    }
    pack(base.path());
    assert_eq!(segments(base.path())[5], "ledger.0006.jsonl.zst");
    slow.append(&[sessions[0].write(8)], SECOND).unwrap();
    quick.append(&[sessions[1].write(8)], SECOND).unwrap();
    slow.append(&[sessions[2].write(8)], SECOND).unwrap();
    assert_eq!(both(base.path(), &[]), Flaws::new());
    assert_eq!(segments(base.path()).len(), 10);
}

#[test]
fn to_append_nothing_is_read_but_the_end() {
    let copy = copy();
    for number in 1..=4 {
        fs::write(path(copy.path(), number), "not even an entry\n").unwrap();
    }
    let ledger = rolling_ledger(copy.path(), 1);
    let mut session = Session::start(copy.path());
    ledger.append(&[session.write(8)], SECOND).unwrap();
    let last = lines(&path(copy.path(), 7)).pop().unwrap();
    let last = entry::parse(last.trim_end().as_bytes()).unwrap();
    assert_eq!(last.seq, LAST + 2);
    // The twin: the end is.
    fs::write(path(copy.path(), 7), "not even an entry\n").unwrap();
    let refused = ledger.append(&[session.write(8)], SECOND).unwrap_err();
    assert!(refused.to_string().contains("was changed"), "{refused}");
}

#[test]
fn another_day_begins_another_segment() {
    let base = tempfile::tempdir().unwrap();
    let ledger = open_ledger(base.path()).rolling(Roll::default());
    let mut session = Session::start(base.path());
    ledger.append(&[session.write(3)], SECOND).unwrap();
    be_of_another_day(base.path(), &secret_key(base.path()));
    ledger.append(&[session.write(5)], SECOND).unwrap();
    ledger.append(&[session.write(8)], SECOND).unwrap();
    assert_eq!(segments(base.path()), ["ledger.jsonl", "ledger.0002.jsonl"]);
    assert_eq!(lines(&path(base.path(), 2)).len(), 4);
    assert_eq!(both(base.path(), &[]), Flaws::new());
}

/// Has a ledger of one segment be of another day, signed as it has to be.
pub(super) fn be_of_another_day(base: &Path, key: &SigningKey) {
    let earlier = |mut entry: Entry| {
        "2026-01-31T08:00:00.000000Z".clone_into(&mut entry.ts);
        assert!(!matches!(entry.event, LedgerEvent::KeyRotated { .. }));
        entry
    };
    let entries: Vec<Entry> = entries(base).into_iter().map(earlier).collect();
    rewrite_ledger(base, &entries, Some(key));
    assert_eq!(lines(&ledger_path(base)).len(), entries.len());
}
