//! Whatever is done to logs and ledger, both verifiers name the first thing that does not hold.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use portcullis::audit::ledger::LedgerEvent;
use portcullis::audit::ledger::entry::{self, Entry};
use portcullis::audit::ledger::key::SigningKey;

use super::support::{
    Flaws, Host, both, copy_all, entries, flaws, ledger_path, lines, log_path, reseal_log,
    rewrite_ledger, secret_key,
};

static HOST: LazyLock<Host> = LazyLock::new(Host::new);

/// Places of the entries of [`HOST`], from 1: key.created, then log.head and checkpoint by turns; key.rotated is 8.
const ROTATED: u64 = 8;
const LAST: u64 = 15;

fn first() -> String {
    HOST.sessions[0].to_string()
}

/// Changes a copy and gives what both verifiers say of it, with the first key noted.
fn after(change: impl FnOnce(&Path)) -> Flaws {
    let copy = HOST.copy();
    change(copy.path());
    let key = HOST.keys[0].to_string();
    both(copy.path(), &["--key", &key])
}

fn after_log(change: impl FnOnce(&mut Vec<String>)) -> Flaws {
    after(|base| {
        let path = log_path(base, HOST.sessions[0]);
        let mut lines = lines(&path);
        change(&mut lines);
        fs::write(path, lines.concat()).unwrap();
    })
}

fn after_ledger(change: impl FnOnce(&mut Vec<String>)) -> Flaws {
    after(|base| {
        let path = ledger_path(base);
        let mut lines = lines(&path);
        change(&mut lines);
        fs::write(path, lines.concat()).unwrap();
    })
}

/// Entries that are sealed anew: the chain holds, what is signed does not.
fn after_forging(change: impl FnOnce(&mut Vec<Entry>)) -> Flaws {
    after(|base| {
        let mut entries = entries(base);
        change(&mut entries);
        rewrite_ledger(base, &entries, None);
    })
}

#[test]
fn untouched_logs_and_their_ledger_hold() {
    assert_eq!(entries(HOST.base.path()).len() as u64, LAST);
    assert_eq!(after(|_| {}), Flaws::new());
    let none = both(HOST.base.path(), &[]);
    assert_eq!(none, Flaws::new());
    // Either key, whichever was noted.
    let second = HOST.keys[1].to_string();
    assert_eq!(both(HOST.base.path(), &["--key", &second]), Flaws::new());
}

#[test]
fn a_changed_byte_in_any_field_of_a_record_is_named() {
    let path = log_path(HOST.base.path(), HOST.sessions[0]);
    let line = lines(&path)[3].clone();
    for field in [
        "\"v\":",
        "\"seq\":",
        "\"ts\":\"",
        "\"host_id\":\"",
        "\"session\":\"",
        "\"user\":\"",
        "\"event\":\"",
        "\"conn\":",
        "\"bytes_up\":",
        "\"bytes_down\":",
        "\"ms\":",
        "\"ended_by\":\"",
        "\"prev\":\"",
        "\"hash\":\"",
    ] {
        let at = line.find(field).unwrap() + field.len();
        let changed = after_log(|lines| {
            let byte = line.as_bytes()[at];
            let other = if byte == b'2' { '3' } else { '2' };
            lines[3].replace_range(at..=at, &other.to_string());
        });
        assert_eq!(changed, flaws([(&first(), 4)]), "{field}");
    }
}

#[test]
fn every_mutation_of_a_log_is_named_at_its_first_record() {
    type Change = fn(&mut Vec<String>);
    let id = HOST.sessions[0];
    let table: Vec<(&str, Change, u64)> = vec![
        ("the first is deleted", |l| drop(l.remove(0)), 1),
        ("one is deleted", |l| drop(l.remove(3)), 4),
        ("the last is deleted", |l| drop(l.pop()), 8),
        ("two are swapped", |l| l.swap(2, 3), 3),
        ("one is doubled", |l| l.insert(3, l[2].clone()), 4),
        ("cut at a record's border", |l| l.truncate(5), 6),
        ("cut to nothing", Vec::clear, 1),
        ("cut within a line", |l| l[7].truncate(100), 8),
    ];
    for (what, change, record) in table {
        assert_eq!(after_log(change), flaws([(&first(), record)]), "{what}");
    }

    // Sealed anew, so that the log alone holds: the ledger knows better.
    let forged = after_log(|lines| {
        let stranger = lines[4].replace("\"bytes_up\":5", "\"bytes_up\":99");
        lines.insert(4, stranger);
        reseal_log(lines, 5, id);
    });
    assert_eq!(forged, flaws([(&first(), 6)]), "a forged one is inserted");
    let forged = after_log(|lines| {
        lines[7] = lines[7].replace("\"ms\":9", "\"ms\":1");
        reseal_log(lines, 8, id);
    });
    assert_eq!(forged, flaws([(&first(), 8)]), "the end is forged");
    let forged = after_log(|lines| {
        lines.remove(0);
        reseal_log(lines, 1, id);
    });
    assert_eq!(
        forged,
        flaws([(&first(), 3)]),
        "the first is removed and all sealed anew"
    );
}

#[test]
fn a_log_that_is_replaced_replayed_or_removed_is_named() {
    let [one, two, three] = HOST.sessions;
    let (first, second) = (one.to_string(), two.to_string());
    let removed = after(|base| fs::remove_file(log_path(base, one)).unwrap());
    assert_eq!(removed, flaws([(&first, 1)]));
    let open = after(|base| fs::remove_file(log_path(base, three)).unwrap());
    assert_eq!(open, flaws([(&three.to_string(), 1)]));
    let swapped = after(|base| {
        let (a, b) = (log_path(base, one), log_path(base, two));
        fs::rename(&a, base.join("x")).unwrap();
        fs::rename(&b, &a).unwrap();
        fs::rename(base.join("x"), &b).unwrap();
    });
    assert_eq!(swapped, flaws([(&first, 1), (&second, 1)]));
    let replayed = after(|base| {
        let path = log_path(base, one);
        let old = lines(&path)[..6].concat();
        fs::write(path, old).unwrap();
    });
    assert_eq!(replayed, flaws([(&first, 7)]));
    let emptied = after(|base| fs::write(log_path(base, two), "").unwrap());
    assert_eq!(emptied, flaws([(&second, 1)]));
}

#[test]
fn every_mutation_of_the_ledger_is_named_at_its_first_entry() {
    type Change = fn(&mut Vec<String>);
    let table: Vec<(&str, Change, u64)> = vec![
        (
            "a time is changed",
            |l| l[2] = l[2].replace("\"ts\":\"2", "\"ts\":\"1"),
            3,
        ),
        (
            "a number of records is changed",
            |l| l[1] = l[1].replace("\"records\":3", "\"records\":4"),
            2,
        ),
        ("the first is removed", |l| drop(l.remove(0)), 1),
        ("a head is removed", |l| drop(l.remove(3)), 4),
        ("a checkpoint is removed", |l| drop(l.remove(4)), 5),
        ("two are swapped", |l| l.swap(3, 4), 4),
        ("one is doubled", |l| l.insert(3, l[2].clone()), 4),
        ("one is no entry", |l| l[5] = "{}\n".into(), 6),
        ("one is empty", |l| l.insert(5, "\n".into()), 6),
    ];
    for (what, change, entry) in table {
        assert_eq!(after_ledger(change), flaws([("ledger", entry)]), "{what}");
    }
}

#[test]
fn what_is_forged_and_sealed_anew_is_not_signed() {
    let changed = after_forging(|entries| {
        let LedgerEvent::LogHead(head) = &mut entries[5].event else {
            panic!("not a head");
        };
        head.records = 5;
    });
    // The checkpoint that follows signed another chain; and the log never had that head.
    assert_eq!(changed, flaws([("ledger", 7), (&first(), 5)]));

    let removed = after_forging(|entries| drop(entries.drain(3..5)));
    assert_eq!(
        removed,
        flaws([("ledger", 5)]),
        "a head and its checkpoint are removed"
    );

    let forged = after_forging(|entries| {
        let LedgerEvent::Checkpoint { signature, .. } = &entries[2].event else {
            panic!("not a checkpoint");
        };
        let other = *signature;
        let LedgerEvent::Checkpoint { signature, .. } = &mut entries[14].event else {
            panic!("not a checkpoint");
        };
        *signature = other;
    });
    assert_eq!(forged, flaws([("ledger", LAST)]), "another signature");

    let stranger = SigningKey::generate().unwrap();
    let forged = after_forging(|entries| {
        let message = entry::checkpoint_message(entries[14].place(), &stranger.public());
        let signature = stranger.sign(&message).unwrap();
        let key = stranger.public();
        entries[14].event = LedgerEvent::Checkpoint { key, signature };
    });
    assert_eq!(forged, flaws([("ledger", LAST)]), "a stranger signs");
}

#[test]
fn a_rotation_that_one_of_both_did_not_sign_is_none() {
    let stranger = SigningKey::generate().unwrap();
    let place = usize::try_from(ROTATED).unwrap() - 1;
    let forged = after_forging(|entries| {
        let at = entries[place].clone();
        let LedgerEvent::KeyRotated { new, .. } = &mut entries[place].event else {
            panic!("not a rotation");
        };
        assert_eq!(*new, HOST.keys[1]);
        let old = HOST.keys[0];
        let message = entry::rotation_message(at.place(), &old, &stranger.public());
        let signature = stranger.sign(&message).unwrap();
        entries[place].event = LedgerEvent::KeyRotated {
            old,
            new: stranger.public(),
            old_signature: signature,
            new_signature: signature,
        };
    });
    assert_eq!(
        forged,
        flaws([("ledger", ROTATED)]),
        "the old key did not sign"
    );

    let forged = after_forging(|entries| {
        let LedgerEvent::KeyRotated {
            old_signature,
            new_signature,
            ..
        } = &mut entries[place].event
        else {
            panic!("not a rotation");
        };
        *new_signature = *old_signature;
    });
    assert_eq!(
        forged,
        flaws([("ledger", ROTATED)]),
        "the new key did not sign"
    );

    let second = after_forging(|entries| {
        let created = entries[0].clone();
        entries.insert(3, created);
    });
    assert_eq!(second, flaws([("ledger", 4)]), "a second beginning");
}

#[test]
fn a_ledger_written_anew_with_another_key_holds_only_against_the_key_beside_it() {
    let stranger = SigningKey::generate().unwrap();
    let rewrite = |base: &Path| {
        let mut entries = entries(base);
        entries.retain(|entry| !matches!(entry.event, LedgerEvent::KeyRotated { .. }));
        entries[0].event = LedgerEvent::KeyCreated {
            key: stranger.public(),
        };
        rewrite_ledger(base, &entries, Some(&stranger));
    };
    assert_eq!(after(rewrite), flaws([("ledger", 0)]));
    let copy = HOST.copy();
    rewrite(copy.path());
    assert_eq!(
        both(copy.path(), &[]),
        flaws([("ledger", 0)]),
        "key.pub was left"
    );
    fs::write(
        copy.path().join("ledger/key.pub"),
        format!("{}\n", stranger.public()),
    )
    .unwrap();
    assert_eq!(
        both(copy.path(), &[]),
        Flaws::new(),
        "and this is why it is noted elsewhere"
    );
}

/// The checkpoints of [`HOST`] as a journal has them.
fn forwarded(base: &Path) -> String {
    let lines = lines(&ledger_path(base));
    let checkpoints = lines
        .iter()
        .filter(|line| line.contains("\"event\":\"checkpoint\""));
    let forwarded = checkpoints.map(|line| format!("Nov 23 12:00:00 host portcullis[1]: {line}"));
    forwarded.collect::<Vec<_>>().concat()
}

#[test]
fn a_ledger_that_lost_its_tail_is_told_by_checkpoints_kept_elsewhere() {
    let kept = tempfile::tempdir().unwrap();
    let anchor = kept.path().join("anchor");
    let anchor = anchor.to_str().unwrap();
    let escaped = forwarded(HOST.base.path()).replace('"', "\\\"");
    for text in [forwarded(HOST.base.path()), escaped] {
        fs::write(anchor, text).unwrap();
        assert_eq!(both(HOST.base.path(), &["--anchor", anchor]), Flaws::new());

        let copy = HOST.copy();
        let path = ledger_path(copy.path());
        let cut = lines(&path)[..13].concat();
        fs::write(&path, cut).unwrap();
        // What was bound by then was bound: the rest is as if it had never been.
        assert_eq!(both(copy.path(), &[]), Flaws::new());
        assert_eq!(
            both(copy.path(), &["--anchor", anchor]),
            flaws([("anchor", LAST)])
        );
    }

    // Written anew from the middle on, with the very key.
    let copy = HOST.copy();
    let mut all = entries(copy.path());
    all.remove(11);
    all.remove(11);
    let first_part = lines(&ledger_path(copy.path()))[..11].concat();
    fs::write(ledger_path(copy.path()), first_part).unwrap();
    let ledger = super::support::open_ledger(copy.path());
    ledger
        .append(&[all[11].event.clone()], super::support::SECOND)
        .unwrap();
    drop(secret_key(copy.path()));
    assert_eq!(both(copy.path(), &[]), Flaws::new());
    let both_anchors = both(copy.path(), &["--anchor", anchor]);
    assert_eq!(both_anchors, flaws([("anchor", 13), ("anchor", 15)]));
}

#[test]
fn a_checkpoint_of_another_ledger_is_not_taken_for_one_of_this() {
    let other = Host::new();
    let kept = tempfile::tempdir().unwrap();
    let anchor = kept.path().join("anchor");
    let last = forwarded(other.base.path())
        .lines()
        .last()
        .unwrap()
        .to_owned();
    fs::write(&anchor, last).unwrap();
    let anchor = anchor.to_str().unwrap();
    assert_eq!(
        both(HOST.base.path(), &["--anchor", anchor]),
        flaws([("anchor", LAST)])
    );
    assert_eq!(both(other.base.path(), &["--anchor", anchor]), Flaws::new());
}

#[test]
fn a_whole_folder_that_is_replayed_is_told_by_checkpoints_kept_elsewhere() {
    let host = Host::new();
    let old = host.copy();
    let mut later = super::support::Session::start(host.base.path());
    let ledger = super::support::open_ledger(host.base.path());
    ledger
        .append(&[later.write(8)], super::support::SECOND)
        .unwrap();
    let kept = tempfile::tempdir().unwrap();
    let anchor = kept.path().join("anchor");
    fs::write(&anchor, forwarded(host.base.path())).unwrap();
    let anchor = anchor.to_str().unwrap();
    assert_eq!(both(host.base.path(), &["--anchor", anchor]), Flaws::new());
    fs::remove_file(log_path(host.base.path(), later.id)).unwrap();
    copy_all(old.path(), host.base.path());
    assert_eq!(both(host.base.path(), &[]), Flaws::new());
    assert_eq!(
        both(host.base.path(), &["--anchor", anchor]),
        flaws([("anchor", LAST + 2)])
    );
}
