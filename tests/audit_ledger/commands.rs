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
