//! Sessions that a budget ends, or warns of: time in all, idle time, and what the gate counts.

use std::io::Read;
use std::time::{Duration, Instant};

use crate::cli::{Install, Who};

fn words(install: &Install) -> Vec<String> {
    let records = install.records();
    let word = |record: &serde_json::Value| record["event"].as_str().unwrap().to_owned();
    records.iter().map(word).collect()
}

/// The record of the limit that was reached, without what no test can know.
fn limit(install: &Install) -> serde_json::Value {
    let hits = install.events("limit.hit");
    assert_eq!(hits.len(), 1, "{hits:?}");
    serde_json::json!([hits[0]["what"], hits[0]["max"], hits[0]["action"]])
}

#[test]
fn a_session_that_takes_too_long_is_killed_and_says_so_last() {
    for flags in [["--timeout", "1s"], ["--budget", "total_time=1s"]] {
        let install = Install::new(Who::User);
        let began = Instant::now();
        let run = install.run(
            &flags,
            &["sh", "-c", "trap '' TERM; echo ready; sleep 1000"],
        );
        assert!(began.elapsed() < Duration::from_mins(1));
        assert_eq!((run.status, run.stdout.as_str()), (Some(137), "ready\n"));
        let last = run.stderr.lines().last().unwrap();
        assert_eq!(
            last,
            "portcullis: session killed: total_time budget of 1s used up"
        );
        assert_eq!(
            words(&install),
            ["session.started", "limit.hit", "session.ended"]
        );
        assert_eq!(
            limit(&install),
            serde_json::json!(["total_time", 1000, "kill"])
        );
        let verified = install.portcullis(["audit", "verify"]);
        assert_eq!(verified.status.code(), Some(0));
    }
}

#[test]
fn a_session_that_is_done_in_time_never_hears_of_it() {
    let install = Install::new(Who::User);
    let run = install.run(&["--timeout", "10m"], &["sh", "-c", "exit 3"]);
    assert_eq!(run.complaint(), (Some(3), vec![]));
    assert_eq!(words(&install), ["session.started", "session.ended"]);
}

#[test]
fn time_is_kept_although_the_gate_dies() {
    let install = Install::new(Who::User);
    let script = "echo ready; sleep 1000";
    for (flag, what) in [
        ("total_time=3s", "total_time"),
        ("idle_time=3s", "idle_time"),
    ] {
        let mut command = install.command(["run", "--budget", flag, "--", "sh", "-c", script]);
        command.stdout(std::process::Stdio::piped());
        command.stderr(std::process::Stdio::piped());
        let mut session = command.spawn().unwrap();
        let mut ready = [0; 6];
        session
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut ready)
            .unwrap();
        kill_gate(session.id());
        let output = session.wait_with_output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(137), "{errors}");
        let last = errors.lines().last().unwrap();
        let expected = format!("portcullis: session killed: {what} budget of 3s used up");
        assert_eq!(last, expected, "{errors}");
    }
    assert_eq!(install.events("limit.hit").len(), 2);
    assert_eq!(install.events("gate.restarted").len(), 2);
}

/// Kills the gate of this session.
fn kill_gate(session: u32) {
    let children = format!("/proc/{session}/task/{session}/children");
    let children = std::fs::read_to_string(children).unwrap();
    let gate = children.split_whitespace().find(|pid| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
        // comm has 15 bytes.
        name.is_ok_and(|name| name.trim() == "portcullis-gate")
    });
    let gate = nix::unistd::Pid::from_raw(gate.unwrap().parse().unwrap());
    nix::sys::signal::kill(gate, nix::sys::signal::Signal::SIGKILL).unwrap();
}

#[test]
fn an_idle_session_is_killed_and_a_warning_only_warns() {
    let install = Install::new(Who::User);
    let run = install.run(&["--budget", "idle_time=1s"], &["sleep", "1000"]);
    let (status, lines) = run.complaint();
    assert_eq!(status, Some(137));
    let killed = "portcullis: session killed: idle_time budget of 1s used up";
    assert_eq!(lines.last(), Some(&killed));
    assert_eq!(
        limit(&install),
        serde_json::json!(["idle_time", 1000, "kill"])
    );

    let install = Install::new(Who::User);
    let flags = ["--budget", "total_time=1s:warn"];
    let run = install.run(&flags, &["sh", "-c", "sleep 3; exit 4"]);
    let warned = "portcullis: total_time budget of 1s used up: the session goes on";
    assert_eq!(run.complaint(), (Some(4), vec![warned]));
    assert_eq!(
        limit(&install),
        serde_json::json!(["total_time", 1000, "warn"])
    );
}

#[test]
fn a_budget_of_the_gate_kills_the_session() {
    let install = Install::new(Who::User);
    let script =
        "for i in 1 2 3; do curl -sS --max-time 20 -o /dev/null http://a.test/; done; sleep 1000";
    let flags = ["--budget", "requests=1:kill", "--allow", "a.test"];
    let run = install.run(&flags, &["sh", "-c", script]);
    let (status, lines) = run.complaint();
    assert_eq!(status, Some(137), "{run:#?}");
    let killed = "portcullis: session killed: requests budget of 1 used up";
    assert_eq!(lines.last(), Some(&killed), "{run:#?}");
    assert_eq!(limit(&install), serde_json::json!(["requests", 1, "kill"]));
}

#[test]
fn what_was_used_up_is_told_while_it_runs_and_at_the_end() {
    let install = Install::new(Who::User);
    let script = "for i in 1 2; do curl -s --max-time 20 -o /dev/null http://a.test/; done; true";
    let flags = ["--budget", "requests=1", "--allow", "a.test"];
    let run = install.run(&flags, &["sh", "-c", script]);
    let (status, lines) = run.complaint();
    assert_eq!(status, Some(0), "{run:#?}");
    for line in [
        "portcullis: requests budget of 1 used up: more is refused",
        "portcullis: requests budget of 1 used up (deny)",
    ] {
        assert!(lines.contains(&line), "{run:#?}");
    }
    let records = install.records();
    let session = records.first().unwrap()["session"].as_str().unwrap();
    let shown = install.portcullis(["audit", "show", session]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("budget     requests used up\n"), "{shown}");
}
