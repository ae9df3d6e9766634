//! Sessions that run: listed, looked at and stopped from another terminal.
#![expect(
    clippy::unwrap_used,
    clippy::string_slice,
    clippy::disallowed_methods,
    reason = "tests may panic and start programs"
)]

#[path = "support/cli.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod cli;

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use cli::{EVERYONE, Install, Run, Who};
use serde_json::{Value, json};

/// A session whose command has said that it runs.
struct Session(Child);

impl Session {
    fn start(install: &Install, flags: &[&str], script: &str) -> Self {
        let script = format!("touch ready; {script}");
        let arguments = [&["run"], flags, &["--", "sh", "-c", &script]].concat();
        let mut command = install.command(arguments);
        let child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let session = Self(child.unwrap());
        let ready = install.path("work/ready");
        until("the command runs", || ready.exists());
        std::fs::remove_file(ready).unwrap();
        session
    }

    /// Waits for its end.
    fn end(mut self) -> Run {
        let mut child = std::mem::replace(
            &mut self.0,
            std::process::Command::new("true").spawn().unwrap(),
        );
        drop(child.stdin.take());
        Run::of(&child.wait_with_output().unwrap())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while !done() {
        assert!(Instant::now() < deadline, "{what}: not within a minute");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn portcullis(install: &Install, arguments: &[&str]) -> Run {
    Run::of(&install.portcullis(arguments))
}

fn lines(run: &Run) -> Vec<Value> {
    let read = |line: &str| serde_json::from_str(line).unwrap();
    run.stdout.lines().map(read).collect()
}

#[test]
fn sessions_are_listed_with_what_they_are() {
    for who in EVERYONE {
        let install = Install::new(who);
        assert_eq!(portcullis(&install, &["ps", "--json"]).stdout, "");
        let first = Session::start(
            &install,
            &["--name", "nightly", "-p", "offline", "--limit", "memory=1G"],
            "sleep 1000",
        );
        let second = Session::start(&install, &[], "exec sleep 1000");
        let listed = lines(&portcullis(&install, &["ps", "--json"]));
        let started = install.events("session.started");
        let [one, other] = listed.as_slice() else {
            unreachable!("{listed:?}");
        };
        let known = &one["session"];
        assert_eq!(
            json!([
                known["session"],
                known["name"],
                known["user"],
                known["profile"],
                known["mode"],
                known["workspace"],
                known["argv"],
                known["generation"],
                known["isolation"],
                known["limits"],
            ]),
            json!([
                started[0]["session"],
                "nightly",
                started[0]["user"],
                "offline",
                started[0]["mode"],
                install.work(),
                ["sh", "-c", "touch ready; sleep 1000"],
                started[0]["generation"],
                started[0]["isolation"],
                { "memory": 1 << 30 },
            ])
        );
        assert_eq!(one["counters"]["requests"], 0);
        assert_eq!(other["session"]["name"], Value::Null);
        let pid = &other["session"]["pid"];
        let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
        assert_eq!(comm, "sleep\n", "the command, as the host counts");
        let table = portcullis(&install, &["ps"]).stdout;
        let rows: Vec<Vec<&str>> = table
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(rows.len(), 3, "{table}");
        assert_eq!(rows[0][..3], ["ID", "NAME", "PROFILE"]);
        assert_eq!(rows[1][1..3], ["nightly", "offline"]);
        assert_eq!(rows[2][1..3], ["-", "base"]);
        let ids = portcullis(&install, &["ps", "-q"]).stdout;
        let expected: Vec<&str> = started
            .iter()
            .map(|s| s["session"].as_str().unwrap())
            .collect();
        assert_eq!(ids.lines().collect::<Vec<_>>(), expected);
        let page = portcullis(&install, &["show", "nightly"]).stdout;
        for line in [
            "name         nightly",
            "command      sh -c 'touch ready; sleep 1000' (process ",
            "limits       memory 1G",
            "requests     0 let through, 0 refused",
        ] {
            assert!(page.contains(line), "{page}");
        }
        assert_eq!(portcullis(&install, &["stop", "--all"]).status, Some(0));
        assert_eq!(
            (first.end().status, second.end().status),
            (Some(143), Some(143))
        );
        assert_eq!(portcullis(&install, &["ps", "--json"]).stdout, "");
    }
}

#[test]
fn a_name_finds_its_session_and_is_not_given_twice() {
    let install = Install::new(Who::Root);
    let first = Session::start(&install, &["--name", "a-b"], "exec sleep 1000");
    let id = portcullis(&install, &["ps", "-q"]).stdout.trim().to_owned();
    let taken = portcullis(&install, &["run", "--name", "a-b", "--", "true"]);
    assert_eq!(
        taken.complaint(),
        (
            Some(125),
            vec![
                format!(
                    "portcullis: --name a-b: session {id} of yours has it and runs; choose another, or stop that one"
                )
                .as_str()
            ]
        )
    );
    let other = Session::start(&install, &["--name", "other"], "exec sleep 1000");
    for text in ["a-b", &id, &id[..31]] {
        let counters = portcullis(&install, &["counters", text, "--json"]);
        assert_eq!(lines(&counters)[0]["session"], id, "{text}");
    }
    let none = portcullis(&install, &["stop", "nobody"]);
    assert_eq!(none.status, Some(69), "{none:?}");
    let many = portcullis(&install, &["stop"]);
    assert_eq!(many.status, Some(64), "{many:?}");
    for wrong in ["", "1st", "beef", "a b", "../x"] {
        let refused = portcullis(&install, &["run", "--name", wrong, "--", "true"]);
        assert_eq!(refused.status, Some(64), "{wrong:?}: {refused:?}");
    }
    let stopped = portcullis(&install, &["stop", "a-b", "other"]);
    assert_eq!(stopped.status, Some(0), "{stopped:?}");
    drop((first.end(), other.end()));
    let again = portcullis(&install, &["run", "--name", "a-b", "--", "true"]);
    assert_eq!(again.status, Some(0), "it is free again: {again:?}");
}

#[test]
fn a_command_is_asked_to_end_and_it_is_on_record_who_asked() {
    let install = Install::new(Who::User);
    let session = Session::start(
        &install,
        &[],
        "trap 'echo bye; exit 3' TERM; while :; do sleep 0.1; done",
    );
    let stopped = portcullis(&install, &["stop"]);
    assert_eq!(stopped.status, Some(0), "{stopped:?}");
    let ended = install.events("session.ended");
    assert_eq!(
        ended.len(),
        1,
        "its last record is written when stop returns"
    );
    assert_eq!(stopped.stdout.trim(), ended[0]["session"]);
    let run = session.end();
    assert_eq!((run.status, run.stdout.as_str()), (Some(3), "bye\n"));
    let user = &ended[0]["user"];
    assert!(run.stderr.contains("portcullis: stopped by "), "{run:?}");
    let asked = install.events("session.stopping");
    assert_eq!(
        json!([asked[0]["kill"], asked[0]["user"]]),
        json!([false, user])
    );
    let story = portcullis(&install, &["audit", "show", stopped.stdout.trim()]);
    assert!(
        story.stdout.contains("\nstopped    by uid 4001\n"),
        "{story:?}"
    );
    assert_eq!(portcullis(&install, &["audit", "verify"]).status, Some(0));
}

#[test]
fn a_command_that_does_not_end_goes_on_until_it_is_killed() {
    let install = Install::new(Who::Root);
    let session = Session::start(&install, &[], "trap '' TERM; while :; do sleep 0.1; done");
    let goes_on = portcullis(&install, &["stop", "--timeout", "0"]);
    assert_eq!(goes_on.status, Some(1), "{goes_on:?}");
    assert!(
        goes_on
            .stderr
            .contains("goes on; portcullis stop --kill ends it at once"),
        "{goes_on:?}"
    );
    let killed = portcullis(&install, &["stop", "--kill"]);
    assert_eq!(killed.status, Some(0), "{killed:?}");
    assert_eq!(session.end().status, Some(137));
    let asked = install.events("session.stopping");
    let kills: Vec<_> = asked.iter().map(|record| &record["kill"]).collect();
    assert_eq!(kills, [&json!(false), &json!(true)]);
}

#[test]
fn nobody_else_sees_or_stops_a_session() {
    let install = Install::new(Who::Root);
    let session = Session::start(&install, &[], "exec sleep 1000");
    // The same home, so the same folders, as far as their permissions let another user in.
    std::fs::set_permissions(
        install.path("home"),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    for verb in [["ps", "-q"], ["stop", "--all"]] {
        let mut command = install.command(verb);
        std::os::unix::process::CommandExt::uid(&mut command, cli::USER);
        let run = Run::of(&command.output().unwrap());
        assert_eq!((run.status, run.stdout.as_str()), (Some(0), ""), "{verb:?}");
    }
    assert_eq!(
        portcullis(&install, &["ps", "-q"]).stdout.lines().count(),
        1,
        "it goes on"
    );
    assert_eq!(portcullis(&install, &["stop"]).status, Some(0), "the twin");
    drop(session.end());
}

/// Takes what is left of this user's instances of inotify, and holds them until its input ends.
const NO_INOTIFY: &str = "
import ctypes, sys
libc = ctypes.CDLL(None)
while libc.inotify_init() >= 0:
    pass
print('none left', flush=True)
sys.stdin.read()
";

#[test]
fn a_profile_is_watched_however_many_sessions_the_user_has() {
    use std::io::{BufRead, BufReader};
    use std::os::unix::process::CommandExt;
    let install = Install::new(Who::User);
    let profile = "home/.config/portcullis/profiles/p.toml";
    install.write(profile, "");
    for folder in [
        "home/.config",
        "home/.config/portcullis",
        "home/.config/portcullis/profiles",
    ] {
        install.own(folder);
    }
    let mut others = std::process::Command::new("/usr/bin/python3")
        .args(["-c", NO_INOTIFY])
        .uid(cli::USER)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut output = BufReader::new(others.stdout.take().unwrap());
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "none left\n");
    let mut session = Session::start(&install, &["-p", "p"], "exec sleep 1000");
    let process = session.0.id();
    let instances = std::fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    let mut links = instances.map(|fd| std::fs::read_link(fd.unwrap().path()).unwrap());
    assert!(!links.any(|link| link.to_str() == Some("anon_inode:inotify")));
    let mut said = BufReader::new(session.0.stderr.take().unwrap()).lines();
    // Beside it, which is nothing, as an editor does, and in its place.
    install.write("home/.config/portcullis/profiles/other.toml", "[");
    for host in ["one.test", "two.test"] {
        let text = format!("[[network.rules]]\nhost = '{host}'\naction = 'allow'\n");
        let beside = install.write("home/.config/portcullis/profiles/.p.swp", &text);
        std::fs::rename(beside, install.path(profile)).unwrap();
        let line = said.next().unwrap().unwrap();
        let applied = line.starts_with("portcullis: policy ") && line.ends_with(" is in force");
        assert!(applied, "{line}");
    }
    std::fs::write(install.path(profile), "[network]\nmode = 3\n").unwrap();
    let line = said.next().unwrap().unwrap();
    assert!(line.contains("the policy in force stays"), "{line}");
    drop(session);
    drop(others.stdin.take());
    others.wait().unwrap();
}
