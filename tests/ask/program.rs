//! A program of the operator's that answers.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::cli::Install;
use crate::scene::{Session, asking, eventually, install, origin};

fn script(install: &Install, place: &str, text: &str) -> String {
    let path = install.write(place, &format!("#!/bin/sh\n{text}\n"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

fn with_command(install: &Install, place: &str, text: &str) -> String {
    let program = script(install, place, text);
    let table = format!("[approvals]\ncommand = [{program:?}, \"an argument\"]\n");
    install.write(crate::scene::OWN, &asking(&table));
    program
}

#[test]
fn a_program_outside_the_jail_gets_the_question_and_answers_it() {
    let origin = origin();
    let install = install("");
    let log = install.path("asked");
    let text = format!(
        "read -r question; echo \"$question\" >> {0}; echo \"$1\" >> {0}\n\
         echo '{{\"verdict\":\"allow\",\"scope\":\"session\"}}'; exec sleep 1000",
        log.display()
    );
    let program = with_command(&install, "decide", &text);
    let mut session = Session::start(&install, &[]);
    assert_eq!(session.fetch(origin), "200");
    assert_eq!(session.fetch(origin), "200", "asked once for the session");
    session.end();
    let text = fs::read_to_string(log).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let mut asked: Value = serde_json::from_str(lines[0]).unwrap();
    let session = asked["session"].take();
    assert!(session.is_string(), "{asked}");
    assert_eq!(
        asked,
        json!({
            "session": null, "profile": "p", "id": 1, "host": "127.0.0.2", "port": origin.port(),
            "transport": "forward", "method": "GET", "path": "/", "exact": false, "budget": false,
            "wait_seconds": 120,
        })
    );
    assert_eq!(lines[1..], ["an argument"]);
    assert_eq!(install.events("approval.answered")[0]["by"], program);
}

#[test]
fn a_program_that_says_no_or_nothing_sensible_is_a_no() {
    let origin = origin();
    for (text, note) in [
        ("echo '{\"verdict\":\"deny\"}'", None),
        ("echo yes", Some("no answer")),
        ("exit 0", Some("no answer")),
        ("exec yes", Some("no answer")),
    ] {
        let install = install("");
        with_command(&install, "decide", text);
        let mut session = Session::start(&install, &[]);
        assert_eq!(session.fetch(origin), "403", "{text}");
        let said = session.end();
        assert_eq!(
            note.is_some_and(|note| said.contains(note)),
            note.is_some(),
            "{text}: {said}"
        );
    }
}

#[test]
fn a_program_that_hangs_is_ended_with_its_question() {
    let origin = origin();
    let install = install("");
    let program = script(&install, "decide", "exec sleep 1000");
    let table = format!("[approvals]\ncommand = [{program:?}]\nwait_seconds = 1\n");
    install.write(crate::scene::OWN, &asking(&table));
    let mut session = Session::start(&install, &[]);
    assert_eq!(session.fetch(origin), "403");
    session.end();
    assert_eq!(install.events("approval.answered")[0]["end"], "expired");
}

#[test]
fn a_program_does_not_outlive_a_session_that_is_killed() {
    let origin = origin();
    let install = install("");
    let place = install.path("pid");
    let text = format!("echo $$ > {}; exec sleep 1000", place.display());
    with_command(&install, "decide", &text);
    let mut session = Session::start(&install, &[]);
    session.begin(origin);
    let pid = eventually("the program runs", || {
        let text = fs::read_to_string(&place).ok()?;
        text.strip_suffix('\n').map(str::to_owned)
    });
    session.kill();
    eventually("the program is gone", || {
        fs::read_to_string(format!("/proc/{pid}/stat"))
            .map_or(true, |stat| stat.contains(") Z "))
            .then_some(())
    });
}

#[test]
fn a_program_that_the_session_could_write_starts_no_session() {
    let install = install("");
    let program = with_command(&install, "work/decide", "echo '{\"verdict\":\"allow\"}'");
    let run = install.run(&["-p", "p"], &["true"]);
    let line = format!(
        "portcullis: approvals: command: {program}: the session could change it; put it where the session cannot write"
    );
    assert_eq!(run.complaint(), (Some(125), vec![line.as_str()]));
    let asked = install.run(&["-p", "p", "--ask", "none"], &["true"]);
    assert_eq!(asked.status, Some(0), "it is not needed: {asked:?}");
}
