//! A folder as the service keeps it, with a folder a user: every verb that reads finds the sessions below.

use std::fs;

use portcullis::audit::folder::file_name;

use super::support::{audit, decided, record, story};

/// What a verb reads below `--dir`.
#[test]
fn every_verb_that_reads_finds_the_sessions_of_all_users() {
    let base = tempfile::tempdir().unwrap();
    let folder = base.path();
    let of = |uid: &str| folder.join(uid);
    for uid in ["1000", "1001"] {
        fs::create_dir(of(uid)).unwrap();
    }
    // What is no user's is not looked at, nor is a file.
    fs::create_dir(of("ledger")).unwrap();
    fs::write(of("1002"), "").unwrap();
    let (hers, his) = (record(&of("1000"), story()), record(&of("1001"), story()));
    for session in [hers, his] {
        let id = session.to_string();
        let ran = |arguments: &[&str]| {
            let ran = audit(folder, arguments);
            assert_eq!(
                (ran.code, ran.err.as_str()),
                (0, ""),
                "{arguments:?} {ran:?}"
            );
            ran.out
        };
        for verb in [
            vec!["verify", &id],
            vec!["show", &id],
            vec!["show", &format!("{id}:2")],
            vec!["tail", &id],
            vec!["report", &id, "--format", "md"],
            vec!["export", "-f", "csv", &id],
        ] {
            assert!(ran(&verb).contains(&id) || verb[0] == "tail", "{verb:?}");
        }
        for verb in [
            vec!["verify"],
            vec!["tail", "-n", "100"],
            vec!["export", "-f", "jsonl"],
        ] {
            let said = ran(&verb);
            assert!(said.contains(&id[..12]), "{verb:?} {said}");
        }
    }
    // By a prefix that both have, as their times are the same to a day.
    let ambiguous = audit(folder, &["show", &hers.to_string()[..6]]);
    assert_eq!(ambiguous.code, 64, "{ambiguous:?}");
    for (session, uid) in [(hers, "1000"), (his, "1001")] {
        let told = format!("{session} in {}", of(uid).display());
        assert!(ambiguous.err.contains(&told), "{ambiguous:?}");
    }
    // A log that does not hold is named with its own folder's path.
    let log = of("1001").join(file_name(his));
    fs::write(&log, "no record\n").unwrap();
    let broken = audit(folder, &["verify", &his.to_string(), "--json"]);
    assert_eq!(broken.code, 1, "{broken:?}");
    assert!(
        broken.out.contains(&log.display().to_string()),
        "{broken:?}"
    );
}

#[test]
fn queries_find_what_users_below_did() {
    let base = tempfile::tempdir().unwrap();
    let cache = tempfile::tempdir().unwrap();
    for (uid, host) in [("1000", "hers.test"), ("1001", "his.test")] {
        fs::create_dir(base.path().join(uid)).unwrap();
        record(&base.path().join(uid), vec![decided(1, (host, 443), None)]);
    }
    let query = |host: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_portcullis"));
        let output = command
            .args(["audit", "query", "--host", host, "--count", "--dir"])
            .arg(base.path())
            .env("XDG_CACHE_HOME", cache.path())
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    for (host, count) in [("hers.test", "1\n"), ("his.test", "1\n"), ("*.test", "2\n")] {
        assert_eq!(query(host), count, "{host}");
    }
}

#[test]
fn a_session_in_two_folders_is_verified_in_both_and_read_from_neither_unnamed() {
    let base = tempfile::tempdir().unwrap();
    let of = |uid: &str| base.path().join(uid);
    for uid in ["1000", "1001"] {
        fs::create_dir(of(uid)).unwrap();
    }
    let session = record(&of("1000"), story());
    let copy = of("1001").join(file_name(session));
    fs::copy(of("1000").join(file_name(session)), &copy).unwrap();
    let verified = audit(base.path(), &["verify", "--json"]);
    assert_eq!(verified.code, 0, "{verified:?}");
    for uid in ["1000", "1001"] {
        let log = of(uid).join(file_name(session));
        assert!(
            verified.out.contains(&log.display().to_string()),
            "{verified:?}"
        );
    }
    let shown = audit(base.path(), &["show", &session.to_string()]);
    assert_eq!(shown.code, 64, "{shown:?}");
    let told = "2 folders have a log of it; name one of them with --dir";
    assert!(shown.err.contains(told), "{shown:?}");
    let shown = audit(&of("1001"), &["show", &session.to_string()]);
    assert_eq!(shown.code, 0, "{shown:?}");
}
