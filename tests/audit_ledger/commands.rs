//! `portcullis audit verify` and `portcullis audit key`, as people use them.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::support::{Flaws, Host, SECOND, Session, both, lines, log_path, open_ledger};

fn portcullis(base: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    let output = command
        .arg("audit")
        .args(arguments)
        .arg("--dir")
        .arg(base)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn verify_says_what_is_signed_and_with_which_key_and_whose_word_that_is() {
    let host = Host::new();
    let (code, out, err) = portcullis(host.base.path(), &["verify"]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    let said: Vec<&str> = out.lines().collect();
    assert_eq!(said.len(), 5, "{out}");
    assert!(
        said[0].starts_with(&format!("complete  {}  8 records, head ", host.sessions[0])),
        "{out}"
    );
    assert!(said[3].starts_with("ledger    15 entries, head "), "{out}");
    assert!(
        said[3].contains("; signed up to entry 15, ") && said[3].contains(" s ago, with key "),
        "{out}"
    );
    assert!(said[3].ends_with(&host.keys[1].to_string()), "{out}");
    assert!(
        said[4].contains("it proves nothing against who owns that folder"),
        "{out}"
    );

    // With a key that was noted, given as a file, there is nothing to warn of.
    let noted = host.base.path().join("noted");
    fs::write(&noted, format!("{}\n", host.keys[1])).unwrap();
    let (code, out, _) = portcullis(
        host.base.path(),
        &["verify", "--key", noted.to_str().unwrap()],
    );
    assert_eq!((code, out.lines().count()), (Some(0), 4), "{out}");

    // What is not bound yet, and what is gone.
    let mut later = Session::start(host.base.path());
    later.write(3);
    fs::remove_file(log_path(host.base.path(), host.sessions[0])).unwrap();
    let (code, out, _) = portcullis(host.base.path(), &["verify"]);
    assert_eq!(code, Some(1));
    let gone = format!(
        "BROKEN    {}  record 1 is missing: the log is gone, and the ledger has bound 8 records",
        host.sessions[0]
    );
    assert_eq!(out.lines().next(), Some(gone.as_str()), "{out}");
    assert!(
        out.contains(&format!("running   {}  3 records, ", later.id)),
        "{out}"
    );
    assert!(out.contains("; not in the ledger\n"), "{out}");

    // One session alone is held to the ledger as well.
    let path = log_path(host.base.path(), host.sessions[1]);
    fs::write(&path, lines(&path)[..4].concat()).unwrap();
    let (code, out, _) = portcullis(host.base.path(), &["verify", &host.sessions[1].to_string()]);
    assert_eq!(code, Some(1));
    let short = format!(
        "BROKEN    {}  record 5 is missing: the log ends before it, and the ledger has bound 8 records\n",
        host.sessions[1]
    );
    assert!(out.starts_with(&short), "{out}");
}

#[test]
fn a_key_or_an_anchor_that_is_none_is_told_and_so_is_a_ledger_that_was_removed() {
    let host = Host::new();
    let (code, _, err) = portcullis(host.base.path(), &["verify", "--key", "abc"]);
    assert_eq!(code, Some(64));
    assert!(err.contains("--key abc: "), "{err}");
    let empty = host.base.path().join("empty");
    fs::write(&empty, "nothing\n").unwrap();
    let (code, _, err) = portcullis(
        host.base.path(),
        &["verify", "--anchor", empty.to_str().unwrap()],
    );
    assert_eq!(code, Some(1));
    assert!(err.contains("no checkpoint stands in it"), "{err}");
    let key = host.keys[0].to_string();
    assert_eq!(
        portcullis(host.base.path(), &["verify", "--key", &key]).0,
        Some(0)
    );
    fs::remove_dir_all(host.base.path().join("ledger")).unwrap();
    let (code, out, _) = portcullis(host.base.path(), &["verify", "--key", &key]);
    assert_eq!(code, Some(1));
    assert!(out.contains("BROKEN    ledger  is missing"), "{out}");
    let (code, out, _) = portcullis(host.base.path(), &["verify"]);
    assert_eq!(code, Some(0));
    assert!(out.contains("ledger    there is none"), "{out}");
    let (code, _, err) = portcullis(host.base.path(), &["key", "show"]);
    assert_eq!(code, Some(69));
    assert!(err.contains("there is no ledger"), "{err}");
}

#[test]
fn a_key_is_shown_and_replaced_and_both_halves_of_the_ledger_hold() {
    let host = Host::new();
    let (code, out, _) = portcullis(host.base.path(), &["key", "show"]);
    assert_eq!((code, out), (Some(0), format!("{}\n", host.keys[1])));
    let (code, out, err) = portcullis(host.base.path(), &["key", "rotate", "--json"]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    let said: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(said["old"], host.keys[1].to_string());
    let (_, out, _) = portcullis(host.base.path(), &["key", "show"]);
    assert_eq!(said["key"], out.trim());
    let mut later = Session::start(host.base.path());
    open_ledger(host.base.path())
        .append(&[later.write(8)], SECOND)
        .unwrap();
    for key in [
        host.keys[0].to_string(),
        host.keys[1].to_string(),
        out.trim().to_owned(),
    ] {
        assert_eq!(both(host.base.path(), &["--key", &key]), Flaws::new());
    }
}

/// The key of a ledger that has none beside it, as the service manager gives it.
struct Credential(tempfile::TempDir);

impl Credential {
    fn new(seeds: &[&str]) -> Self {
        let credential = Self(tempfile::tempdir().unwrap());
        credential.hold(seeds);
        credential
    }

    fn hold(&self, seeds: &[&str]) {
        let text = seeds.join("\n") + "\n";
        fs::write(self.0.path().join("audit-key"), text).unwrap();
    }

    fn portcullis(&self, base: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        let output = command
            .arg("audit")
            .args(arguments)
            .arg("--dir")
            .arg(base)
            .env("CREDENTIALS_DIRECTORY", self.0.path())
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    }
}

// RFC 8032, section 7.1, tests 2 and 3.
const SEEDS: [&str; 2] = [
    "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
    "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
];
const PUBLIC: [&str; 2] = [
    "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
    "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
];

/// A host whose key is in this credential: one log, bound.
fn signed_by(credential: &Credential) -> tempfile::TempDir {
    let base = tempfile::tempdir().unwrap();
    fs::create_dir(base.path().join("1000")).unwrap();
    fs::create_dir(base.path().join("state")).unwrap();
    let mut session = Session::start(&base.path().join("1000"));
    session.write(8);
    drop(session);
    let mut notary = Command::new(env!("CARGO_BIN_EXE_portcullis-notary"))
        .arg(base.path())
        .arg(base.path().join("state"))
        .env("CREDENTIALS_DIRECTORY", credential.0.path())
        .spawn()
        .unwrap();
    let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
    let ledger = base.path().join("ledger/ledger.jsonl");
    while !fs::read_to_string(&ledger).is_ok_and(|text| text.contains("checkpoint")) {
        assert!(std::time::Instant::now() < until);
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let pid = nix::unistd::Pid::from_raw(notary.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(notary.wait().unwrap().success());
    base
}

#[test]
fn a_key_that_is_a_credential_is_rotated_to_the_one_on_its_next_line() {
    let credential = Credential::new(&SEEDS[..1]);
    let base = signed_by(&credential);
    // Without it nothing signs, and nothing is made in its place.
    let (code, out, err) = portcullis(base.path(), &["key", "rotate"]);
    assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
    assert!(err.contains("its key is gone"), "{err}");
    assert!(!base.path().join("ledger/key").exists());
    // With one line it is told what to do.
    let rotate = || credential.portcullis(base.path(), &["key", "rotate", "--json"]);
    let (code, out, err) = rotate();
    assert_eq!((code, out.as_str()), (Some(69), ""), "{err}");
    for word in [
        "second line of 64 hex digits",
        "restart portcullis-notary.service",
    ] {
        assert!(err.contains(word), "{err}");
    }
    // With two it is done, and told what may be done next.
    credential.hold(&SEEDS);
    let (code, out, err) = rotate();
    assert_eq!(code, Some(0), "{err}");
    let shown: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&shown["old"], &shown["key"]),
        (&PUBLIC[0].into(), &PUBLIC[1].into())
    );
    for key in PUBLIC {
        assert_eq!(both(base.path(), &["--key", key]), Flaws::new());
    }
    let (code, _, err) = rotate();
    assert_eq!(code, Some(69), "{err}");
    // Afterwards the new one is enough, and it is as the admin wrote it.
    credential.hold(&SEEDS[1..]);
    let hold = ["hold", "--reason", "a case"];
    let (code, _, err) = credential.portcullis(base.path(), &[&hold[..], &["0"]].concat());
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert_eq!(both(base.path(), &["--key", PUBLIC[1]]), Flaws::new());
    let text = fs::read_to_string(credential.0.path().join("audit-key")).unwrap();
    assert_eq!(text, format!("{}\n", SEEDS[1]));
}

#[test]
fn prune_signs_with_the_key_that_is_a_credential() {
    let credential = Credential::new(&SEEDS[..1]);
    let base = signed_by(&credential);
    let logs = fs::read_dir(base.path().join("1000")).unwrap();
    for log in logs {
        let log = fs::File::open(log.unwrap().path()).unwrap();
        let day = std::time::Duration::from_hours(24);
        log.set_modified(std::time::SystemTime::now() - day)
            .unwrap();
    }
    let words = ["prune", "--older-than", "1h"];
    let (code, _, err) = portcullis(base.path(), &words);
    assert!(code == Some(1) && err.contains("its key is gone"), "{err}");
    let (code, out, err) = credential.portcullis(base.path(), &words);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert!(out.contains("1 segment"), "{out}");
    let (code, out, _) = portcullis(base.path(), &["verify", "--key", PUBLIC[0]]);
    assert_eq!(code, Some(0), "{out}");
    assert!(
        out.contains("pruned    1 log as a whole, as the ledger says"),
        "{out}"
    );
}
