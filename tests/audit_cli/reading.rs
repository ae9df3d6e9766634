//! `show` and `tail`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use portcullis::audit::folder::file_name;
use portcullis::audit::{AuditEvent, Status};
use portcullis::ids::SessionId;

use super::support::{audit, decided, head_and_start, record, record_as, says, started, story};

#[test]
fn show_tells_the_story_and_what_would_allow_what_was_denied() {
    let folder = tempfile::tempdir().unwrap();
    let session = record(folder.path(), story());
    let (head, start) = head_and_start(folder.path(), session);
    let expected = format!(
        r"session    {session}
command    codex exec 'fix the tests' '\u{{1b}}[2J\u{{202e}}\u{{9b}}31m'
workspace  /home/u/w
profile    codex (workspace-write), policy 0123456789abcdef
isolation  bubblewrap 0.8.0, Landlock ABI 4, seccomp table of 301 calls; without landlock: scoped signals (needs Landlock ABI 6 (Linux 6.12))
started    {start}
user       alice on host 00112233aabbccdd
ended      exited with 2 after 1 min 5 s

VERDICT  DESTINATION     TIMES  UP      DOWN    WHY
allow    api.test:443    3      2.0 kB  3.0 MB  --allow api.test; 1 failed: sni_mismatch
DENY     other.test:443  2      -       -       host_not_allowed
DENY     api.test:8443   1      -       -       port_not_allowed
DENY     evil.test:80    1      -       -       host_denied, network.domains.{q}evil.test{q}

refused before a destination was known
  1 × malformed, as: \u{{1b}}[2J\u{{202e}}\u{{9b}}31m

what was denied would be allowed by
  --allow other.test:443, or in the profile [network.domains] {q}other.test{q} = {q}allow{q}
  --allow api.test:8443, or in the profile [[network.rules]] host = {q}api.test{q}, ports = [8443], action = {q}allow{q}

chain      complete: 15 records, head {head}
",
        q = '"'
    );
    assert_eq!(
        audit(folder.path(), &["show", &session.to_string()]),
        says(0, &expected, "")
    );
}

#[test]
fn show_prints_one_record_and_its_raw_line() {
    let folder = tempfile::tempdir().unwrap();
    let session = record(folder.path(), story());
    let text = fs::read_to_string(folder.path().join(file_name(session))).unwrap();
    let line = text.lines().nth(12).unwrap();
    for id in [format!("{session}:13"), format!("{session}/13")] {
        assert_eq!(
            audit(folder.path(), &["show", &id, "--json"]),
            says(0, &format!("{line}\n"), "")
        );
    }
    let shown = audit(folder.path(), &["show", &format!("{session}:13")]).out;
    assert!(
        shown.contains("detail      server name is other.test\n"),
        "{shown}"
    );
    let escaped = audit(folder.path(), &["show", &format!("{session}:14")]).out;
    assert!(
        escaped.contains("detail      \\u{1b}[2J\\u{202e}\\u{9b}31m\n"),
        "{escaped}"
    );
    let missing = format!("portcullis: session {session} has no record 16: 15 records hold\n");
    assert_eq!(
        audit(folder.path(), &["show", &format!("{session}:16")]),
        says(64, "", &missing)
    );
}

#[test]
fn show_as_json_is_one_object_with_the_state_of_the_chain() {
    let folder = tempfile::tempdir().unwrap();
    let session = record(folder.path(), story());
    let ran = audit(folder.path(), &["show", "--json", &session.to_string()]);
    let story: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(story["chain"]["state"], "complete");
    assert_eq!(story["destinations"][0]["bytes_down"], 3_000_000);
    assert_eq!(story["end"]["status"]["exited"], 2);
}

#[test]
fn tail_prints_a_line_a_record_and_nothing_a_terminal_obeys() {
    let folder = tempfile::tempdir().unwrap();
    let session = record(folder.path(), story());
    let ran = audit(folder.path(), &["tail", &session.to_string()[..20]]);
    let lines: Vec<&str> = ran
        .out
        .lines()
        .map(|line| line.split_once("Z  ").unwrap().1)
        .collect();
    let expected = [
        r"session.started  codex exec 'fix the tests' '\u{1b}[2J\u{202e}\u{9b}31m' (profile codex, workspace-write)",
        "egress.decided   allow  api.test:443                      connect, by --allow api.test",
        "dns.query               api.test                          192.0.2.1 (refused: 10.0.0.1)",
        "egress.dialed           api.test:443                      192.0.2.1:443",
        "egress.closed           api.test:443                      1.5 kB up, 2.5 MB down, 1.2 s, by client",
        "egress.decided   allow  api.test:443                      connect, by --allow api.test",
        "egress.closed           api.test:443                      500 B up, 500.0 kB down, 1.2 s, by client",
        "egress.decided   DENY   other.test:443                    connect, host_not_allowed",
        "egress.decided   DENY   other.test:443                    connect, host_not_allowed",
        "egress.decided   DENY   api.test:8443                     connect, port_not_allowed",
        r#"egress.decided   DENY   evil.test:80                      forward POST /\u{1b}[2J\u{202e}\u{9b}31m, host_denied, by network.domains."evil.test""#,
        "egress.decided   allow  api.test:443                      connect, by --allow api.test",
        "egress.refused   DENY   api.test:443                      sni_mismatch: server name is other.test",
        r"egress.refused   DENY   connection 8                      malformed: \u{1b}[2J\u{202e}\u{9b}31m",
        "session.ended    exited with 2 after 1 min 5 s",
    ];
    assert_eq!(lines, expected);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
}

#[test]
fn tail_takes_the_last_of_all_sessions_in_the_order_of_their_times() {
    let folder = tempfile::tempdir().unwrap();
    let one = record(folder.path(), story());
    let two = record(folder.path(), story());
    let raw = |session| fs::read_to_string(folder.path().join(file_name(session))).unwrap();
    let (one, two) = (raw(one), raw(two));
    let expected: String = [one.lines().last().unwrap()]
        .into_iter()
        .chain(two.lines())
        .flat_map(|line| [line, "\n"])
        .collect();
    assert_eq!(
        audit(folder.path(), &["tail", "-n", "16", "--json"]),
        says(0, &expected, "")
    );
    assert_eq!(audit(folder.path(), &["tail", "-n", "0"]), says(0, "", ""));
}

#[test]
fn tail_follows_a_session_to_its_end_and_picks_up_new_ones() {
    let folder = tempfile::tempdir().unwrap();
    let session = SessionId::generate();
    let mut log = record_as(folder.path(), session, vec![started()]);
    let follow = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command
            .args(["audit", "tail", "-f", "--dir"])
            .arg(folder.path())
            .args(arguments);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        (child, lines.map(Result::unwrap))
    };
    let (mut one, mut one_lines) = follow(&[&session.to_string()]);
    let (mut all, mut all_lines) = follow(&[]);
    assert!(one_lines.next().unwrap().contains("session.started"));
    assert!(all_lines.next().unwrap().contains("session.started"));

    log.stage(decided(1, ("api.test", 443), None)).unwrap();
    log.commit().unwrap();
    assert!(one_lines.next().unwrap().contains("api.test:443"));
    assert!(all_lines.next().unwrap().contains("api.test:443"));

    let new = record(folder.path(), vec![started()]);
    let line = all_lines.next().unwrap();
    assert!(
        line.contains(&new.to_string()[..12]) && line.contains("session.started"),
        "{line}"
    );

    log.stage(AuditEvent::SessionEnded {
        status: Status::SessionLost,
        ms: 1,
        files: None,
    })
    .unwrap();
    log.commit().unwrap();
    assert!(
        one_lines
            .next()
            .unwrap()
            .contains("session process lost after 1 ms")
    );
    assert!(one.wait().unwrap().success(), "nothing comes after the end");
    assert!(
        all_lines
            .next()
            .unwrap()
            .contains("session process lost after 1 ms")
    );
    all.kill().unwrap();
    all.wait().unwrap();
}
