//! Limits that cannot be set: what refuses the start, and what is on record where nothing does.

use serde_json::json;

use crate::cli::{Install, Who};

const REQUIRED: &str = "[isolation]\nlimits = 'required'\n[limits]\nmemory = '64M'\n";

/// An ordinary user may make no groups beside those of root.
fn install(profile: &str) -> (Install, String) {
    let install = Install::new(Who::User);
    let path = install.write("p.toml", profile).display().to_string();
    (install, path)
}

#[test]
fn a_required_limit_that_cannot_be_set_refuses_the_start() {
    let (install, profile) = install(REQUIRED);
    let run = install.run(&["-p", &profile], &["echo", "ran"]);
    assert_eq!((run.status, run.stdout.as_str()), (Some(125), ""));
    let line = &run.stderr;
    assert!(
        line.starts_with("portcullis: not limited: memory (64M): "),
        "{line}"
    );
    assert!(
        line.ends_with(
            "start it with `systemd-run --user --scope -p Delegate=yes portcullis run …`, or let it \
             start without with isolation.limits = \"best-effort\"\n"
        ),
        "{line}"
    );
    assert_eq!(line.lines().count(), 1);
    // What setrlimit(2) can hold needs no group.
    let run = install.run(
        &[
            "-p",
            &profile,
            "--limit",
            "memory=none",
            "--limit",
            "open_files=64",
        ],
        &["echo", "ran"],
    );
    assert_eq!(
        (run.status, run.stdout.as_str(), run.stderr.as_str()),
        (Some(0), "ran\n", "")
    );
}

#[test]
fn at_best_effort_the_session_starts_and_what_is_missing_is_told_and_recorded() {
    let (install, profile) = install("[limits]\nmemory = '64M'\ncpu = '50%'\ntasks = 100\n");
    let run = install.run(&["-p", &profile], &["echo", "ran"]);
    assert_eq!((run.status, run.stdout.as_str()), (Some(0), "ran\n"));
    let line = &run.stderr;
    assert!(
        line.starts_with("portcullis: not limited: memory (64M), cpu (50%): "),
        "{line}"
    );
    assert_eq!(line.lines().count(), 1);
    let started = &install.events("session.started")[0];
    let shortfalls = started["isolation"]["shortfalls"].as_array().unwrap();
    let missing: Vec<_> = shortfalls
        .iter()
        .map(|shortfall| &shortfall["what"])
        .collect();
    let limits: Vec<_> = missing
        .into_iter()
        .filter(|what| what.as_str().unwrap().starts_with("limits."))
        .collect();
    assert_eq!(limits, [&json!("limits.memory"), &json!("limits.cpu")]);
    let session = started["session"].as_str().unwrap();
    let shown = install.portcullis(["audit", "show", session]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(
        shown.contains("; without limits.memory (needs a control group; "),
        "{shown}"
    );
}

#[test]
fn a_user_is_not_told_of_limits_that_nobody_asked_for() {
    let (install, _) = install("");
    let run = install.run(&[], &["true"]);
    assert_eq!((run.status, run.stderr.as_str()), (Some(0), ""));
}
