//! Whatever is done to a log of which parts were pruned, or to the ledger that says so, both verifiers name it.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use portcullis::audit::ledger::LedgerEvent;
use portcullis::audit::ledger::entry::Entry;
use portcullis::ids::SessionId;
use tempfile::TempDir;

use crate::keep::{Kept, segment};
use crate::ledger::{
    Flaws, SECOND, both, copy_all, entries, flaws, ledger_path, lines, open_ledger, rewrite_ledger,
};

/// A log of which records 1 to 6 were pruned, one that was pruned as a whole, one that is whole. Entries: 19 of the
/// logs, then the five tombstones, 20 to 24, and the checkpoint, 25.
struct Pruned {
    kept: Kept,
    rest: SessionId,
    gone: SessionId,
    whole: SessionId,
}

static PRUNED: LazyLock<Pruned> = LazyLock::new(|| {
    let kept = Kept::new();
    let (rest, gone, whole) = (
        kept.log([100, 100, 1]),
        kept.log([100, 100, 100]),
        kept.log([1, 1, 1]),
    );
    assert_eq!(kept.prune(&["--older-than", "90d"]).0, Some(0));
    Pruned {
        kept,
        rest,
        gone,
        whole,
    }
});

fn copy() -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    copy_all(PRUNED.kept.path(), copy.path());
    copy
}

fn after(change: impl FnOnce(&Path)) -> Flaws {
    let copy = copy();
    change(copy.path());
    both(copy.path(), &[])
}

/// Entries that are sealed anew: the chain holds, what is signed does not.
fn after_forging(change: impl FnOnce(&mut Vec<Entry>)) -> Flaws {
    after(|base| {
        let mut entries = entries(base);
        change(&mut entries);
        rewrite_ledger(base, &entries, None);
    })
}

/// The place of the first tombstone, from 0.
const FIRST: usize = 19;

#[test]
fn what_was_pruned_is_not_missing() {
    let all = entries(PRUNED.kept.path());
    assert!(matches!(all[FIRST].event, LedgerEvent::LogPruned(_)));
    assert_eq!(all.len(), 25);
    assert_eq!(after(|_| {}), Flaws::new());
}

#[test]
fn what_is_gone_beyond_what_was_pruned_is_named() {
    let (rest, whole) = (PRUNED.rest, PRUNED.whole);
    let remove = |session, number| {
        move |base: &Path| fs::remove_file(segment(base, session, number)).unwrap()
    };
    let named = |session: SessionId, record| flaws([(&session.to_string(), record)]);
    assert_eq!(after(remove(rest, 3)), named(rest, 7));
    assert_eq!(after(remove(whole, 1)), named(whole, 1));
    assert_eq!(after(remove(whole, 2)), named(whole, 4));
    let first_record = after(|base| {
        let path = segment(base, rest, 3);
        fs::write(&path, lines(&path)[1..].concat()).unwrap();
    });
    assert_eq!(first_record, named(rest, 7));
    let changed = after(|base| {
        let path = segment(base, rest, 3);
        fs::write(&path, lines(&path).concat().replace("\"ms\":9", "\"ms\":8")).unwrap();
    });
    assert_eq!(changed, named(rest, 8));
}

#[test]
fn a_tombstone_that_is_removed_changed_or_forged_counts_for_nothing() {
    let [rest, gone, whole] =
        [PRUNED.rest, PRUNED.gone, PRUNED.whole].map(|session| session.to_string());
    // Its line is cut out: what follows is not believed either.
    let removed = after(|base| {
        let mut lines = lines(&ledger_path(base));
        lines.remove(FIRST);
        fs::write(ledger_path(base), lines.concat()).unwrap();
    });
    assert_eq!(removed, flaws([("ledger", 20), (&rest, 1), (&gone, 1)]));
    // Sealed anew without it: the next one does not follow it.
    let removed = after_forging(|entries| drop(entries.remove(FIRST)));
    assert_eq!(removed, flaws([("ledger", 20), (&rest, 1), (&gone, 1)]));
    let without_any = after_forging(|entries| drop(entries.drain(FIRST..)));
    assert_eq!(without_any, flaws([(&rest, 1), (&gone, 1)]));

    let other_head = after_forging(|entries| {
        let hash = entries[0].hash;
        let LedgerEvent::LogPruned(pruned) = &mut entries[FIRST].event else {
            panic!("not a tombstone");
        };
        pruned.head = hash;
    });
    assert_eq!(other_head, flaws([("ledger", 20), (&rest, 1), (&gone, 1)]));
    let gap = after_forging(|entries| {
        let LedgerEvent::LogPruned(pruned) = &mut entries[FIRST + 1].event else {
            panic!("not a tombstone");
        };
        pruned.first += 1;
    });
    assert_eq!(gap, flaws([("ledger", 21), (&rest, 1), (&gone, 1)]));

    // One more, which nobody signed: at the end, and before the checkpoint.
    let forge = |entries: &mut Vec<Entry>, at: usize| {
        let mut forged = entries[FIRST].clone();
        let LedgerEvent::LogPruned(pruned) = &mut forged.event else {
            panic!("not a tombstone");
        };
        pruned.session = PRUNED.whole;
        let path = segment(PRUNED.kept.path(), PRUNED.whole, 1);
        pruned.head = crate::ledger::hash_of(&lines(&path)[2]);
        entries.insert(at, forged);
    };
    for (at, broken) in [(25, None), (24, Some(("ledger", 26)))] {
        let found = after(|base| {
            let mut entries = entries(base);
            forge(&mut entries, at);
            rewrite_ledger(base, &entries, None);
            fs::remove_file(segment(base, PRUNED.whole, 1)).unwrap();
        });
        let mut expected = flaws([(&whole, 1)]);
        if let Some(broken) = broken {
            // Of what is signed no tombstone is left.
            expected.extend(flaws([broken, (&rest, 1), (&gone, 1)]));
        }
        assert_eq!(found, expected, "at {at}");
    }
}

#[test]
fn a_signed_tombstone_of_another_head_does_not_fit_what_is_left() {
    let whole = PRUNED.whole;
    let sign = |base: &Path, last: u64, head| {
        let LedgerEvent::LogPruned(mut pruned) = entries(base)[FIRST].event.clone() else {
            panic!("not a tombstone");
        };
        (pruned.session, pruned.last, pruned.head) = (whole, last, head);
        let ledger = open_ledger(base);
        ledger
            .append(&[LedgerEvent::LogPruned(pruned)], SECOND)
            .unwrap();
    };
    let path = segment(PRUNED.kept.path(), whole, 1);
    let records = lines(&path);
    // A record that was never bound, so that only what is left can tell.
    let found = after(|base| {
        sign(base, 2, crate::ledger::hash_of(&records[1]));
        fs::remove_file(segment(base, whole, 1)).unwrap();
    });
    assert_eq!(found, flaws([(&whole.to_string(), 3)]));
    // One that was bound to be another.
    let found = after(|base| {
        sign(base, 3, crate::ledger::hash_of(&records[0]));
    });
    assert_eq!(found, flaws([("ledger", 26)]));
    // And one that fits.
    let found = after(|base| {
        sign(base, 3, crate::ledger::hash_of(&records[2]));
        fs::remove_file(segment(base, whole, 1)).unwrap();
    });
    assert_eq!(found, Flaws::new());
}

#[test]
fn who_is_killed_between_tombstone_and_removal_leaves_what_verifies_and_the_next_run_removes_it() {
    let kept = Kept::new();
    let (one, two) = (kept.log([100, 100, 1]), kept.log([100, 100, 100]));
    let files = [(one, 1), (one, 2), (two, 2), (two, 3)].map(|(session, number)| {
        let path = kept.segment(session, number);
        (path.clone(), fs::read(path).unwrap())
    });
    let prune = ["--older-than", "90d"];
    assert_eq!(kept.prune(&prune).0, Some(0));
    let said = fs::read(ledger_path(kept.path())).unwrap();
    for (path, text) in &files {
        fs::write(path, text).unwrap();
        let modified = std::time::SystemTime::now() - std::time::Duration::from_hours(2400);
        let file = fs::File::open(path).unwrap();
        file.set_times(fs::FileTimes::new().set_modified(modified))
            .unwrap();
    }
    assert_eq!(both(kept.path(), &[]), Flaws::new());
    let (code, out, err) = kept.prune(&prune);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert_eq!((kept.segments(one), kept.segments(two)), (vec![3], vec![]));
    assert_eq!(fs::read(ledger_path(kept.path())).unwrap(), said);
    assert_eq!(both(kept.path(), &[]), Flaws::new());
    // What came back is held to the tombstone.
    let (path, text) = &files[1];
    fs::write(path, String::from_utf8_lossy(text).replace("evil", "good")).unwrap();
    let (code, out, _) = kept.prune(&["--max-size", "1"]);
    assert_eq!(code, Some(1), "{out}");
    assert_eq!(kept.segments(one), [2, 3]);

    // The same said again is no contradiction.
    let LedgerEvent::LogPruned(last) = entries(kept.path())[kept_tombstone(&kept, one)]
        .event
        .clone()
    else {
        panic!("not a tombstone");
    };
    fs::remove_file(path).unwrap();
    open_ledger(kept.path())
        .append(&[LedgerEvent::LogPruned(last)], SECOND)
        .unwrap();
    assert_eq!(both(kept.path(), &[]), Flaws::new());
}

/// The place of the last tombstone of a session.
fn kept_tombstone(kept: &Kept, session: SessionId) -> usize {
    let of = |entry: &Entry| matches!(&entry.event, LedgerEvent::LogPruned(pruned) if pruned.session == session);
    entries(kept.path()).iter().rposition(of).unwrap()
}
