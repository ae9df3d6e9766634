//! What goes, what stays, and that what stays reads as before.

use std::fs::{self, File, FileTimes};
use std::time::{Duration, SystemTime};

use portcullis::audit::AuditEvent;
use portcullis::audit::bodies;
use portcullis::audit::folder::LogFolder;
use portcullis::audit::http::{BodyKept, BodySide};
use portcullis::audit::ledger::LedgerEvent;
use portcullis::audit::retention::prune::alone;
use portcullis::ids::{ConnId, SessionId};

use crate::keep::{Kept, age, everything, said, segment, story, write};
use crate::ledger::{Flaws, both, entries, open_ledger};

/// The tombstones: session, segment, first and last record.
fn tombstones(kept: &Kept) -> Vec<(SessionId, u32, u64, u64)> {
    let entries = entries(kept.path()).into_iter();
    entries
        .filter_map(|entry| match entry.event {
            LedgerEvent::LogPruned(pruned) => {
                Some((pruned.session, pruned.segment, pruned.first, pruned.last))
            }
            _ => None,
        })
        .collect()
}

#[test]
fn what_is_too_old_goes_and_the_ledger_says_so_first() {
    let kept = Kept::new();
    let (old, partly, new) = (
        kept.log([100, 100, 100]),
        kept.log([100, 91, 1]),
        kept.log([2, 1, 1]),
    );
    let (code, out, err) = kept.prune(&["--older-than", "90d"]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert_eq!(out.lines().count(), 6, "{out}");
    assert!(
        out.lines().last().unwrap().starts_with("5 segments ("),
        "{out}"
    );
    assert_eq!(kept.segments(old), Vec::<u32>::new());
    assert_eq!(kept.segments(partly), [3]);
    assert_eq!(kept.segments(new), [1, 2, 3]);
    let expected = vec![
        (old, 1, 1, 3),
        (old, 2, 4, 6),
        (old, 3, 7, 8),
        (partly, 1, 1, 3),
        (partly, 2, 4, 6),
    ];
    assert_eq!(tombstones(&kept), expected);
    assert_eq!(both(kept.path(), &[]), Flaws::new());
    let (_, out, _) = kept.portcullis(&["verify"]);
    assert!(
        out.contains("\npruned    1 log as a whole, as the ledger says\n"),
        "{out}"
    );
    let rest = format!(
        "complete  {partly}  2 records after 6 that were pruned, as the ledger says, head "
    );
    assert!(out.contains(&rest), "{out}");

    let (code, out, _) = kept.prune(&["--older-than", "90d"]);
    assert_eq!(code, Some(0));
    assert!(out.starts_with("nothing to do"), "{out}");
    assert_eq!(tombstones(&kept), expected);
}

#[test]
fn what_is_too_much_goes_by_the_rules_of_the_file_the_oldest_first() {
    let kept = Kept::new();
    let (newer, older) = (kept.log([5, 4, 3]), kept.log([9, 8, 2]));
    let size = |session, number| kept.segment(session, number).metadata().unwrap().len();
    let stays = size(newer, 2) + size(newer, 3) + size(older, 3);
    kept.settings(&format!(
        "[retention.logs]\nsize = '{stays}'\n[[forward]]\nname = 'j'\nkind = 'journald'\n"
    ));
    let (code, out, err) = kept.prune(&["--json"]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    let last: serde_json::Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    assert_eq!(
        (&last["step"], &last["removed"]),
        (&"summary".into(), &3.into())
    );
    assert!(
        out.lines().next().unwrap().contains("\"why\":\"size\""),
        "{out}"
    );
    assert_eq!(kept.segments(older), [3]);
    assert_eq!(kept.segments(newer), [2, 3]);
    assert_eq!(both(kept.path(), &[]), Flaws::new());
    // Flags are over the file.
    let (_, out, _) = kept.prune(&["--max-size", "1K", "--dry-run"]);
    assert!(out.contains(" would be removed"), "{out}");
}

#[test]
fn a_log_without_its_first_segments_is_told_exported_and_found() {
    let kept = Kept::new();
    let id = kept.log([100, 1, 1]);
    let name = id.to_string();
    let all = kept.portcullis(&["export", "-f", "jsonl", &name]).1;
    // The index knows all of it.
    assert_eq!(kept.portcullis(&["query", "--count"]).1, "8\n");
    assert_eq!(kept.prune(&["--older-than", "90d"]).0, Some(0));

    let (code, out, err) = kept.portcullis(&["show", &name]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert!(
        out.contains("\nbefore     records 1 to 3 are gone, and with them how it started"),
        "{out}"
    );
    assert!(out.contains("evil.test:443"), "{out}");
    let (code, out, _) = kept.portcullis(&["show", &format!("{name}:5")]);
    assert!(code == Some(0) && out.contains("evil.test"), "{out}");
    let (code, _, err) = kept.portcullis(&["show", &format!("{name}:2")]);
    assert!(
        code == Some(64) && err.contains("5 records hold from record 4 on"),
        "{err}"
    );
    let (code, out, _) = kept.portcullis(&["tail", "-n", "50", &name]);
    assert_eq!((code, out.lines().count()), (Some(0), 5), "{out}");
    let (code, out, err) = kept.portcullis(&["export", "-f", "jsonl", &name]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    let rest: String = all.split_inclusive('\n').skip(3).collect();
    assert_eq!(out, rest);
    // What closed a connection that was decided in what is gone is there, and of no host any more.
    for again in [&["query", "--json"][..], &["query", "--json", "--rebuild"]] {
        let (code, out, err) = kept.portcullis(again);
        assert_eq!(
            (code, err.as_str(), out.lines().count()),
            (Some(0), "", 5),
            "{out}"
        );
    }
    let (code, out, err) = kept.portcullis(&["query", "--json", "--host", "api.test"]);
    assert_eq!(
        (code, err.as_str(), out.lines().count()),
        (Some(0), "", 2),
        "{out}"
    );
    let (code, out, err) = kept.portcullis(&["report", &name, "--format", "md"]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert!(out.contains("evil.test"), "{out}");
}

#[test]
fn what_is_held_stays_until_it_is_released_and_both_are_on_record() {
    let kept = Kept::new();
    let (held, other) = (kept.log([100, 100, 100]), kept.log([100, 100, 100]));
    let name = held.to_string();
    let (code, out, err) = kept.portcullis(&["hold", &name, "--reason", "case 17"]);
    assert_eq!(
        (code, out, err.as_str()),
        (Some(0), format!("held      {name}\n"), "")
    );
    let (_, out, _) = kept.portcullis(&["hold"]);
    assert!(
        out.starts_with(&format!("{name}  since ")) && out.ends_with(": case 17\n"),
        "{out}"
    );
    assert_eq!(
        kept.portcullis(&["hold", &name]).0,
        Some(64),
        "a hold has a reason"
    );
    assert_eq!(
        kept.prune(&["--older-than", "1d", "--max-size", "1"]).0,
        Some(0)
    );
    assert_eq!(
        (kept.segments(held), kept.segments(other)),
        (vec![1, 2, 3], vec![])
    );

    // Whoever removes the file has not lifted the hold.
    fs::remove_file(kept.path().join("holds").join(&name)).unwrap();
    assert_eq!(kept.prune(&["--older-than", "1d"]).0, Some(0));
    assert_eq!(kept.segments(held), [1, 2, 3]);
    let (_, out, _) = kept.portcullis(&["hold"]);
    assert!(out.contains("the ledger says that it is held"), "{out}");

    let (code, out, err) = kept.portcullis(&["release", &name, "--reason", "closed"]);
    assert_eq!(
        (code, out, err.as_str()),
        (Some(0), format!("released  {name}\n"), "")
    );
    assert_eq!(kept.portcullis(&["hold"]).1, "nothing is held\n");
    assert_eq!(kept.prune(&["--older-than", "1d"]).0, Some(0));
    assert_eq!(kept.segments(held), Vec::<u32>::new());
    assert_eq!(both(kept.path(), &[]), Flaws::new());
    let said: Vec<_> = entries(kept.path())
        .into_iter()
        .filter_map(|entry| match entry.event {
            LedgerEvent::HoldSet {
                session, reason, ..
            } => Some((session, Some(reason))),
            LedgerEvent::HoldReleased {
                session, reason, ..
            } => Some((session, reason)),
            _ => None,
        })
        .collect();
    let reason = |text: &str| Some(text.to_owned());
    assert_eq!(said, [(held, reason("case 17")), (held, reason("closed"))]);
}

#[test]
fn what_is_broken_is_evidence_and_what_is_written_is_not_over() {
    let kept = Kept::new();
    let [changed, cut, whole] = [0, 1, 2].map(|_| kept.log([100, 100, 100]));
    let path = kept.segment(changed, 2);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("evil.test", "good.test")).unwrap();
    // By itself this one holds; the ledger knows of more.
    fs::remove_file(kept.segment(cut, 3)).unwrap();
    let (running, log) = write(kept.path(), Some(&kept.ledger()), None, &story()[..2]);
    for (session, numbers) in [(changed, 1..=3), (cut, 1..=2), (running, 1..=2)] {
        for number in numbers {
            let modified = SystemTime::now() - Duration::from_hours(2400);
            let file = File::open(kept.segment(session, number)).unwrap();
            file.set_times(FileTimes::new().set_modified(modified))
                .unwrap();
        }
    }
    let (code, out, err) = kept.prune(&["--older-than", "90d"]);
    assert_eq!((code, err.as_str()), (Some(1), ""), "{out}");
    assert!(out.contains(&format!("BROKEN    {changed}  ")), "{out}");
    assert!(
        out.contains(&format!("BROKEN    {cut}  record 7 is missing")),
        "{out}"
    );
    assert!(
        out.ends_with("2 broken logs stay: see portcullis audit verify\n"),
        "{out}"
    );
    assert_eq!(kept.segments(changed), [1, 2, 3]);
    assert_eq!(kept.segments(cut), [1, 2]);
    assert_eq!(kept.segments(whole), Vec::<u32>::new());
    // Its writer goes on where it is.
    assert_eq!(kept.segments(running), [2]);
    let mut log = log;
    log.stage(story()[2][1].clone()).unwrap();
    log.commit().unwrap();
    drop(log);
    assert_eq!(kept.segments(running), [2, 3]);
    let found: Vec<_> = both(kept.path(), &[]).into_iter().collect();
    let mut expected = vec![(changed.to_string(), 5), (cut.to_string(), 7)];
    expected.sort();
    assert_eq!(found, expected);
}

#[test]
fn a_packed_log_reads_as_before_and_can_be_pruned() {
    let kept = Kept::new();
    let id = kept.log([9, 8, 7]);
    let name = id.to_string();
    let read = || {
        let verbs: [&[&str]; 5] = [
            &["show", &name],
            &["show", "--json", &name],
            &["query", "--json"],
            &["query", "--json", "--host", "api.test"],
            &["export", "-f", "jsonl"],
        ];
        verbs.map(|verb| kept.portcullis(verb))
    };
    let before = read();
    let (code, out, err) = kept.portcullis(&["prune", "--pack-after", "12h"]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert!(out.contains("3 packed, which saved "), "{out}");
    assert!(!kept.segment(id, 2).exists());
    assert_eq!(read(), before);
    assert_eq!(both(kept.path(), &[]), Flaws::new());
    let (_, out, _) = kept.portcullis(&["prune", "--pack-after", "12h"]);
    assert!(out.starts_with("nothing to do"), "{out}");
    let (code, out, _) = kept.prune(&["--older-than", "204h"]);
    assert!(code == Some(0) && out.starts_with("removed   "), "{out}");
    assert_eq!(kept.segments(id), [2, 3]);
    assert_eq!(both(kept.path(), &[]), Flaws::new());
}

#[test]
fn a_dry_run_says_what_would_be_done_and_changes_nothing() {
    let kept = Kept::new();
    let (old, new) = (kept.log([100, 100, 100]), kept.log([2, 2, 2]));
    let before = everything(kept.path());
    let arguments = [
        "prune",
        "--older-than",
        "90d",
        "--pack-after",
        "1d",
        "--dry-run",
    ];
    let (code, out, err) = kept.portcullis(&arguments);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert!(
        out.contains("remove    ") && out.contains("pack      "),
        "{out}"
    );
    assert!(
        out.contains("3 segments (") && out.ends_with(" would be removed, 3 would be packed\n"),
        "{out}"
    );
    assert_eq!(everything(kept.path()), before);
    assert_eq!(kept.portcullis(&arguments[..5]).0, Some(0));
    assert_eq!(
        (kept.segments(old), kept.segments(new)),
        (vec![], vec![1, 2, 3])
    );
}

#[test]
fn two_at_once_do_not_undo_each_others_work() {
    let kept = Kept::new();
    let old: Vec<_> = (0..6).map(|_| kept.log([100, 100, 100])).collect();
    let prune = ["prune", "--older-than", "90d", "--pack-after", "1d"];
    {
        let folder = LogFolder::open(kept.path()).unwrap();
        let _alone = alone(&folder).unwrap();
        let (code, _, err) = kept.portcullis(&prune);
        assert_eq!(code, Some(69));
        assert!(
            err.contains("somebody else is removing or packing"),
            "{err}"
        );
    }
    assert_eq!(kept.segments(old[0]), [1, 2, 3]);
    let both_run: Vec<_> = (0..4)
        .map(|_| {
            let mut command = kept.command(&prune);
            command.stdout(std::process::Stdio::piped());
            command
                .stderr(std::process::Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let codes: Vec<_> = both_run
        .into_iter()
        .map(|child| said(&child.wait_with_output().unwrap()).0)
        .collect();
    assert!(codes.contains(&Some(0)), "{codes:?}");
    assert!(
        codes.iter().all(|code| [Some(0), Some(69)].contains(code)),
        "{codes:?}"
    );
    assert_eq!(tombstones(&kept).len(), 18);
    assert!(old.iter().all(|session| kept.segments(*session).is_empty()));
    assert_eq!(both(kept.path(), &[]), Flaws::new());
}

#[test]
fn without_a_ledger_that_holds_nothing_is_removed() {
    let kept = Kept::new();
    let id = kept.log([100, 100, 100]);
    let ledger = kept.path().join("ledger/ledger.jsonl");
    let text = fs::read_to_string(&ledger).unwrap();
    fs::write(&ledger, text.replacen("\"records\":3", "\"records\":2", 1)).unwrap();
    let (code, _, err) = kept.prune(&["--older-than", "90d"]);
    assert!(code == Some(1) && err.contains("it does not hold"), "{err}");
    fs::remove_dir_all(kept.path().join("ledger")).unwrap();
    let before = everything(kept.path());
    for more in [
        &["--older-than", "90d"][..],
        &["--older-than", "90d", "--dry-run"],
    ] {
        let (code, _, err) = kept.prune(more);
        assert!(
            code == Some(69) && err.contains("it has no ledger"),
            "{err}"
        );
    }
    assert_eq!(everything(kept.path()), before);
    // Packing loses nothing.
    let (code, ..) = kept.portcullis(&["prune", "--pack-after", "1d"]);
    assert_eq!((code, kept.segment(id, 1).exists()), (Some(0), false));
    let (code, _, err) = kept.portcullis(&["hold", &id.to_string(), "--reason", "x"]);
    assert!(code == Some(0) && err.contains("not on record"), "{err}");
}

#[test]
fn bodies_go_by_their_own_rules_and_those_of_held_logs_stay() {
    let kept = Kept::new();
    let bodies = kept.path().join("bodies");
    fs::create_dir(&bodies).unwrap();
    let names = ["one", "two", "three"].map(|text| {
        let name = bodies::name(text.as_bytes());
        fs::write(bodies.join(&name), text).unwrap();
        name
    });
    for name in &names[..2] {
        let modified = SystemTime::now() - Duration::from_hours(960);
        let file = File::open(bodies.join(name)).unwrap();
        file.set_times(FileTimes::new().set_modified(modified))
            .unwrap();
    }
    let mut told = story();
    told[0].push(AuditEvent::BodyKept(BodyKept {
        conn: ConnId(1),
        direction: BodySide::Request,
        sha256: names[0].clone(),
        bytes: 3,
        truncated: false,
        encoding: None,
        redactions: 0,
    }));
    let (held, log) = write(kept.path(), Some(&kept.ledger()), None, &told);
    drop(log);
    kept.settings("[retention.bodies]\nage = '30d'\n");
    let (code, ..) = kept.portcullis(&["hold", &held.to_string(), "--reason", "case"]);
    assert_eq!(code, Some(0));
    let left = || names.clone().map(|name| bodies.join(name).exists());
    let (code, out, err) = kept.prune(&[]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert!(out.starts_with("removed   1 file, 3 B in "), "{out}");
    assert_eq!(left(), [true, false, true]);
    assert_eq!(kept.portcullis(&["release", &held.to_string()]).0, Some(0));
    assert_eq!(kept.prune(&[]).0, Some(0));
    assert_eq!(left(), [false, false, true]);
    let pruned = entries(kept.path());
    let pruned = pruned.iter().filter_map(|entry| match entry.event {
        LedgerEvent::BodiesPruned { count, bytes, .. } => Some((count, bytes)),
        _ => None,
    });
    assert_eq!(pruned.collect::<Vec<_>>(), [(1, 3), (1, 3)]);
    assert_eq!(both(kept.path(), &[]), Flaws::new());
}

#[test]
fn the_logs_of_all_users_of_a_host_go_by_one_ledger() {
    let kept = Kept::new();
    let ledger = open_ledger(kept.path());
    let of = |uid: u32| {
        let base = kept.path().join(uid.to_string());
        fs::create_dir_all(&base).unwrap();
        let (session, log) = write(&base, Some(&ledger), Some(uid), &story());
        drop(log);
        age(&base, session, [100, 100, 1]);
        (base, session)
    };
    let [(base, one), (other, two)] = [1000, 1001].map(of);
    let (code, out, err) = kept.portcullis(&["hold", &two.to_string(), "--reason", "case"]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert!(other.join("holds").join(two.to_string()).exists());
    let (code, out, err) = kept.prune(&["--older-than", "90d"]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert!(!segment(&base, one, 2).exists() && segment(&base, one, 3).exists());
    assert!(segment(&other, two, 1).exists());
    assert_eq!(both(kept.path(), &[]), Flaws::new());
    let (_, out, _) = kept.portcullis(&["verify"]);
    assert!(out.contains("2 records after 6 that were pruned"), "{out}");
}
