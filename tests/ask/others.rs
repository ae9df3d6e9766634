//! Answers from another terminal, from rules, and from nobody.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::cli::{Install, Who};
use crate::scene::{
    OWN, Session, asking, eventually, install, origin, portcullis, profile, question,
};

#[test]
fn another_process_of_the_user_sees_the_question_and_answers_it() {
    let install = install(&asking(""));
    let (first, second) = (origin(), origin());
    let mut session = Session::start(&install, &[]);
    session.begin(first);
    let asked = question(&install);
    assert_eq!(
        asked,
        json!({
            "id": 1, "host": "127.0.0.2", "port": first.port(), "transport": "forward",
            "method": "GET", "path": "/", "exact": false, "budget": false, "wait_seconds": 120,
        })
    );
    let line = session.said();
    assert!(
        line.starts_with(&format!(
            "portcullis: waiting for approval of GET http://127.0.0.2:{}/ (question 1): portcullis approvals allow ",
            first.port()
        )),
        "{line}"
    );
    let allow = ["approvals", "allow", "1", "--scope", "session"];
    let done = format!("allowed GET http://{first}/ (session) by root");
    assert_eq!(portcullis(&install, &allow), (Some(0), done));
    assert_eq!(session.status(), "200");
    assert_eq!(session.fetch(first), "200", "for the session");
    // Answered once is answered.
    let again = portcullis(&install, &allow);
    assert_eq!(
        again,
        (
            Some(1),
            "portcullis: question 1 does not wait for an answer (any more)".to_owned()
        )
    );
    session.begin(second);
    assert_eq!(question(&install)["id"], 2);
    let id = line.split_whitespace().rev().nth(1).unwrap();
    let prefix = id.get(..20).unwrap();
    let deny = portcullis(&install, &["approvals", "deny", prefix, "2"]);
    assert_eq!(
        deny,
        (
            Some(0),
            format!("denied GET http://{second}/ (once) by root")
        )
    );
    assert_eq!(session.status(), "403");
    let (status, counters) = portcullis(&install, &["counters", "--json"]);
    let counters: Value = serde_json::from_str(&counters).unwrap();
    assert_eq!(
        (
            status,
            &counters["counters"]["requests"],
            &counters["counters"]["denied"]
        ),
        (Some(0), &json!(2), &json!(1))
    );
    session.end();
    let answered = install.events("approval.answered");
    assert_eq!(
        (
            &answered[0]["by"],
            &answered[0]["scope"],
            &answered[1]["end"]
        ),
        (&json!("root"), &json!("session"), &json!("denied"))
    );
    assert_eq!(
        install.portcullis(["audit", "verify"]).status.code(),
        Some(0)
    );
    let none = portcullis(&install, &["approvals", "allow", "1"]);
    assert_eq!(none.0, Some(69), "the session is over: {none:?}");
    let left = fs::read_dir(install.path("home/.local/state/portcullis/run")).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["sessions.lock"], "no socket is left");
}

#[test]
fn a_person_is_told_that_nothing_waits_and_a_program_gets_an_empty_list() {
    let install = install(&profile(""));
    let none = install.portcullis(["approvals"]);
    let said = |output: &std::process::Output| String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((none.status.code(), none.stdout.len()), (Some(0), 0));
    assert_eq!(
        said(&none),
        "portcullis: no session of yours runs, so nothing waits for an answer\n"
    );
    let session = Session::start(&install, &[]);
    let idle = install.portcullis(["approvals", "list"]);
    assert_eq!((idle.status.code(), idle.stdout.len()), (Some(0), 0));
    let words = "portcullis: nothing waits for an answer in session ";
    assert!(said(&idle).starts_with(words), "{idle:?}");
    let listed = install.portcullis(["approvals", "list", "--json"]);
    assert_eq!(said(&listed), "");
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(listed["questions"], json!([]));
    session.end();
}

#[test]
fn a_process_in_another_network_is_taken_for_a_jail() {
    let install = install(&profile(""));
    let session = Session::start(&install, &[]);
    let template = install.command(["approvals", "list", "--json"]);
    let mut command = Command::new("unshare");
    command.args(["--net", "--"]).arg(template.get_program());
    command.args(template.get_args()).env_clear();
    for (name, value) in template.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    let refused = command.output().unwrap();
    assert_eq!(
        (refused.status.code(), refused.stdout),
        (Some(69), Vec::new())
    );
    let (status, _) = portcullis(&install, &["approvals", "list", "--json"]);
    assert_eq!(status, Some(0), "the twin");
    session.end();
}

#[test]
fn a_user_without_an_account_answers_as_well() {
    let install = Install::new(Who::User);
    install.write(OWN, &asking("[approvals]\nwait_seconds = 60\n"));
    for folder in [
        "home/.config",
        "home/.config/portcullis",
        "home/.config/portcullis/profiles",
    ] {
        install.own(folder);
    }
    let origin = origin();
    let script = format!(
        "exec curl -s -o /dev/null -w '%{{http_code}}' -x http://127.0.0.1:3128 http://{origin}/"
    );
    let session = install
        .command(["run", "-p", "p", "--", "sh", "-c", script.as_str()])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    question(&install);
    let allowed = portcullis(&install, &["approvals", "allow", "1"]);
    assert_eq!(
        allowed,
        (
            Some(0),
            format!("allowed GET http://{origin}/ (once) by uid 4001")
        )
    );
    let output = session.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "200");
}

#[test]
fn rules_of_the_profile_answer_before_anybody_is_asked() {
    let (yes, no) = (origin(), origin());
    let rules = format!(
        "[[approvals.rules]]\nhost = \"127.0.0.2\"\nports = [{}]\nverdict = \"allow\"\n\
         [[approvals.rules]]\nhost = \"127.0.0.2\"\nports = [{}]\nverdict = \"deny\"\n",
        yes.port(),
        no.port()
    );
    let install = install(&asking(&rules));
    let mut session = Session::start(&install, &[]);
    assert_eq!(session.fetch(yes), "200");
    assert_eq!(session.fetch(no), "403");
    session.end();
    let by: Vec<_> = install
        .events("approval.answered")
        .into_iter()
        .map(|record| record["by"].clone())
        .collect();
    assert_eq!(by, ["approvals.rules[0]", "approvals.rules[1]"]);
}

#[test]
fn nobody_in_time_is_a_no_and_with_ask_none_nobody_is_asked() {
    let origin = origin();
    let install = install(&asking("[approvals]\nwait_seconds = 1\n"));
    let mut session = Session::start(&install, &[]);
    assert_eq!(session.fetch(origin), "403");
    session.end();
    assert_eq!(install.events("approval.answered")[0]["end"], "expired");
    let mut session = Session::start(&install, &["--ask", "none"]);
    assert_eq!(session.fetch(origin), "403");
    session.end();
    assert_eq!(
        install.events("approval.asked").len(),
        1,
        "the first session's"
    );
}

#[test]
fn an_answer_for_the_profile_is_kept_and_not_asked_again() {
    let origin = origin();
    let install = install(&format!("# mine\n{}", asking("")));
    let mut session = Session::start(&install, &[]);
    session.begin(origin);
    question(&install);
    let done = portcullis(&install, &["approvals", "allow", "1", "--scope", "profile"]);
    let file = install.path(OWN);
    assert_eq!(
        done,
        (
            Some(0),
            format!(
                "allowed GET http://{origin}/ (profile) by root, kept in {}",
                file.display()
            )
        )
    );
    assert_eq!(session.status(), "200");
    session.end();
    let text = fs::read_to_string(&file).unwrap();
    let rule = format!(
        "\n[[network.rules]]\nhost = \"127.0.0.2\"\nports = [{}]\naction = \"allow\"\n",
        origin.port()
    );
    assert!(
        text.starts_with("# mine\n") && text.ends_with(&rule),
        "{text}"
    );
    let mut session = Session::start(&install, &[]);
    assert_eq!(session.fetch(origin), "200");
    session.end();
    assert_eq!(install.events("approval.asked").len(), 1);
}

#[test]
fn a_profile_in_the_workspace_is_not_written_for_the_session() {
    let origin = origin();
    let install = Install::new(Who::Root);
    install.write("work/p.toml", &asking(""));
    let mut session = Session::start(&install, &["-p", "./p.toml"]);
    session.begin(origin);
    question(&install);
    let (status, line) = portcullis(&install, &["approvals", "allow", "1", "--scope", "profile"]);
    assert!(
        status == Some(0) && line.contains("(session) by root, not kept: "),
        "{line}"
    );
    assert_eq!(session.status(), "200");
    assert_eq!(
        fs::read_to_string(install.path("work/p.toml")).unwrap(),
        asking("")
    );
    session.end();
}

// G06
#[test]
fn no_jail_sees_the_socket_whatever_its_mode_and_wherever_it_is() {
    for runtime in [None, Some("runtime")] {
        let install = install(&profile(""));
        install.write("runtime/x", "");
        fs::set_permissions(install.path("runtime"), fs::Permissions::from_mode(0o700)).unwrap();
        let folder = match runtime {
            Some(runtime) => install.path(runtime).join("portcullis"),
            None => install.path("home/.local/state/portcullis/run"),
        };
        for mode in ["workspace-write", "danger-full-access"] {
            let script = format!("ls -A {}; echo end", folder.display());
            let mut command =
                install.command(["run", "--mode", mode, "--", "sh", "-c", script.as_str()]);
            if let Some(runtime) = runtime {
                command.env("XDG_RUNTIME_DIR", install.path(runtime));
            }
            let output = command.output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            assert_eq!(text, "end\n", "{mode} {runtime:?}");
        }
        assert!(folder.is_dir(), "the twin: it was there for us");
    }
}

#[test]
fn the_terminal_answers_with_the_code_that_it_was_shown() {
    let origin = origin();
    let install = install(&asking(""));
    let fetch = format!(
        "curl -s -o /dev/null -w 'got %{{http_code}}' -x http://127.0.0.1:3128 http://{origin}/ </dev/null"
    );
    for (answer, expected) in [("y", "got 200"), ("n", "got 403")] {
        let program = install.path("bin/portcullis");
        let line = format!(
            "{} run -p p --ask terminal -- sh -c \"{}\"",
            program.display(),
            fetch.replace('"', "\\\"")
        );
        // script(1) is a terminal with somebody at it.
        let template = install.command(["x"]);
        let mut command = Command::new("script");
        command.args(["-qefc", &line, "/dev/null"]);
        command.current_dir(install.work()).env_clear();
        for (name, value) in template.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        let mut terminal = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut keys = terminal.stdin.take().unwrap();
        let mut screen = terminal.stdout.take().unwrap();
        let mut seen = String::new();
        let mut until = |what: &str| {
            let mut byte = [0];
            while !seen.contains(what) {
                assert_eq!(screen.read(&mut byte).unwrap(), 1, "no {what} in {seen}");
                seen.push(char::from(byte[0]));
            }
            seen.clone()
        };
        let asked = until(", then Enter");
        let code = asked.split("Type ").nth(1).unwrap().get(..4).unwrap();
        // What was typed for somebody else is no answer.
        writeln!(keys, "y").unwrap();
        writeln!(keys, "{code} {answer}").unwrap();
        until(expected);
        drop(keys);
        terminal.wait().unwrap();
    }
}

#[test]
fn a_dead_sessions_socket_is_removed_by_the_next() {
    let install = install(&profile(""));
    let mut dead = Session::start(&install, &[]);
    let folder = install.path("home/.local/state/portcullis/run");
    let names = || {
        let entries = fs::read_dir(&folder).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.retain(|name| name != "sessions.lock");
        names.sort();
        names
    };
    let left = names();
    assert_eq!(left.len(), 1);
    dead.child.kill().unwrap();
    drop(dead);
    assert_eq!(names(), left);
    let next = Session::start(&install, &[]);
    eventually("the dead one's is gone", || {
        let now = names();
        (now.len() == 1 && now != left).then_some(())
    });
    next.end();
}
