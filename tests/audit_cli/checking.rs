//! `verify`, and what every verb says when there is nothing to read.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use portcullis::audit::folder::file_name;
use portcullis::ids::SessionId;

use super::support::{audit, decided, head_and_start, record, record_as, says, started, story};

#[test]
fn verify_tells_whole_from_open_from_broken() {
    let folder = tempfile::tempdir().unwrap();
    let complete = record(folder.path(), story());
    let open = record(folder.path(), vec![started()]);
    let running = SessionId::generate();
    let _log = record_as(
        folder.path(),
        running,
        vec![started(), decided(1, ("a.test", 1), None)],
    );
    let head = |session| head_and_start(folder.path(), session).0;
    let lines = [
        format!(
            "complete  {complete}  15 records, head {}\n",
            head(complete)
        ),
        format!(
            "open      {open}  1 record, head {}; not closed: its writer was killed, or its tail was cut off\n",
            head(open)
        ),
        format!("running   {running}  2 records, head {}\n", head(running)),
        "ledger    there is none: a log that is gone or that was written anew does not show\n"
            .to_owned(),
    ];
    assert_eq!(
        audit(folder.path(), &["verify"]),
        says(0, &lines.concat(), "")
    );

    let path = folder.path().join(file_name(complete));
    let text = fs::read_to_string(&path).unwrap();
    let offset: usize = text.split_inclusive('\n').take(7).map(str::len).sum();
    fs::write(&path, text.replacen("other.test", "outer.test", 1)).unwrap();
    let broken = format!(
        "BROKEN    {complete}  record 8 at byte {offset}: hash does not match its content: it was changed\n"
    );
    assert_eq!(
        audit(folder.path(), &["verify"]),
        says(
            1,
            &[&broken, &lines[1], &lines[2], &lines[3]]
                .map(String::as_str)
                .concat(),
            ""
        )
    );
    let path = path.to_str().unwrap();
    assert_eq!(
        audit(folder.path(), &["verify", path]),
        says(1, &broken, "")
    );
    let json = audit(folder.path(), &["verify", "--json", path]);
    let json: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(
        (&json["broken"]["record"], &json["broken"]["flaw"]),
        (&8.into(), &"hash".into())
    );
    let shown = audit(folder.path(), &["show", &complete.to_string()]);
    assert_eq!(shown.code, 1);
    assert!(
        shown.out.contains("\nchain      BROKEN: record 8 at byte"),
        "{}",
        shown.out
    );
    assert!(
        !shown.out.contains("outer.test"),
        "nothing after a broken record is believed"
    );
}

#[test]
fn a_copy_under_another_name_does_not_verify() {
    let folder = tempfile::tempdir().unwrap();
    let session = record(folder.path(), story());
    let other = SessionId::generate();
    fs::copy(
        folder.path().join(file_name(session)),
        folder.path().join(file_name(other)),
    )
    .unwrap();
    let ran = audit(folder.path(), &["verify", &other.to_string()]);
    let expected =
        format!("BROKEN    {other}  record 1 at byte 0: belongs to another session, {session}\n");
    assert_eq!(ran, says(1, &expected, ""));
}

#[test]
fn no_sessions_is_said_and_no_failure() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    for path in [folder.path(), &missing] {
        let expected = format!(
            "no sessions in {}; `portcullis run` records one\n",
            path.display()
        );
        for verb in ["tail", "verify"] {
            assert_eq!(audit(path, &[verb]), says(0, &expected, ""), "{verb}");
        }
    }
    assert_eq!(audit(folder.path(), &["verify", "--json"]), says(0, "", ""));
}

#[test]
fn what_cannot_be_found_or_read_is_one_line_with_a_cure() {
    let folder = tempfile::tempdir().unwrap();
    let ids = [
        "0192f0c1a2b37c4d8e5f60718293a4b5",
        "0192f0c1a2b37c4d8e5f60718293a4b6",
    ];
    for id in ids {
        drop(record_as(folder.path(), id.parse().unwrap(), story()));
    }
    let path = folder.path().display();
    let unknown = format!(
        "portcullis: session \"ffff\" in {path}: no session begins so; `portcullis audit verify` lists them\n"
    );
    let ambiguous = format!(
        "portcullis: session \"0192\" in {path}: 2 sessions begin so; give more digits: {}, {}\n",
        ids[1], ids[0]
    );
    let none = format!(
        "portcullis: session \"..\" in {path}: not a session id or the beginning of one (hex digits)\n"
    );
    let record = "portcullis: record \"../etc\": not a number from 1; write SESSION:SEQ\n";
    let table = [
        ("ffff", unknown.as_str()),
        ("0192", &ambiguous),
        ("..", &none),
        ("../../etc", record),
    ];
    for (id, expected) in table {
        assert_eq!(
            audit(folder.path(), &["show", id]),
            says(64, "", expected),
            "{id}"
        );
    }
    assert_eq!(
        audit(folder.path(), &["tail", "ffff"]),
        says(64, "", &unknown)
    );
    let gone = folder.path().join("gone");
    let expected = format!(
        "portcullis: session \"0192\": there is no folder {}; check --dir\n",
        gone.display()
    );
    assert_eq!(audit(&gone, &["show", "0192"]), says(64, "", &expected));
    let file = folder.path().join("gone.jsonl");
    let expected = format!(
        "portcullis: audit log {}: No such file or directory (os error 2); check its name\n",
        file.display()
    );
    assert_eq!(
        audit(folder.path(), &["verify", file.to_str().unwrap()]),
        says(64, "", &expected)
    );
    let file = folder.path().join(file_name(ids[0].parse().unwrap()));
    fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &file).unwrap();
    let ran = audit(folder.path(), &["show", ids[0]]);
    assert_eq!((ran.code, ran.out.as_str()), (69, ""));
    assert!(
        ran.err.ends_with("; check the file and its file system\n"),
        "{}",
        ran.err
    );
}

#[test]
fn a_folder_that_is_a_link_is_named_and_one_that_is_not_ours_to_read_too() {
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(folder.path(), &link).unwrap();
    let expected = format!(
        "portcullis: audit folder {} is a symbolic link; name the folder it points to\n",
        link.display()
    );
    assert_eq!(audit(&link, &["verify"]), says(78, "", &expected));
    // As a user who may not read it; root may read everything.
    fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o700)).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    fs::set_permissions(elsewhere.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let program = elsewhere.path().join("portcullis");
    fs::copy(env!("CARGO_BIN_EXE_portcullis"), &program).unwrap();
    let auditor = elsewhere.path().join("portcullis-auditor");
    fs::copy(env!("CARGO_BIN_EXE_portcullis-auditor"), &auditor).unwrap();
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&program);
    command
        .args(["audit", "verify", "--dir"])
        .arg(folder.path());
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(77), "{output:?}");
}

#[test]
fn every_verb_explains_itself_with_an_example() {
    for verb in ["tail", "verify", "show"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        let output = command.args(["audit", verb, "--help"]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(
            text.contains(&format!("  portcullis audit {verb} ")),
            "{text}"
        );
    }
}

#[test]
fn a_program_that_was_not_installed_whole_says_what_is_missing() {
    let elsewhere = tempfile::tempdir().unwrap();
    let program = elsewhere.path().join("portcullis");
    fs::copy(env!("CARGO_BIN_EXE_portcullis"), &program).unwrap();
    let mut command = Command::new(&program);
    let output = command.args(["audit", "verify"]).output().unwrap();
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        said,
        "portcullis: portcullis-auditor: No such file or directory (os error 2); it belongs beside portcullis: \
         install it there\n"
    );
}

#[test]
fn what_the_timer_runs_takes_no_arguments_and_the_auditor_nothing_but_audit() {
    for (program, words, says) in [
        (
            env!("CARGO_BIN_EXE_portcullis-prune"),
            ["--dir", "/"],
            "portcullis-prune takes no arguments",
        ),
        (
            env!("CARGO_BIN_EXE_portcullis-auditor"),
            ["ps", "--all"],
            "this is `portcullis audit` alone",
        ),
    ] {
        let output = Command::new(program).args(words).output().unwrap();
        assert_eq!(output.status.code(), Some(64), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(says), "{said}");
    }
}
