//! A session that runs, and the control groups of it that stand.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cli::Install;

/// How long anything may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Starts as many processes as it can, up to a number; says how many, and which errno came then.
pub(crate) const FORKS: &str = "
import os, sys, time
for n in range(int(sys.argv[1])):
    try:
        child = os.fork()
    except OSError as error:
        print(n, error.errno)
        sys.exit()
    if child == 0:
        time.sleep(1000)
print(sys.argv[1], 0)
";

/// Takes this many MiB of memory.
pub(crate) const HOG: &str = "import sys; x = bytearray(int(sys.argv[1]) << 20)";

/// Whether this machine lets root make control groups with limits: a container may not.
pub(crate) fn has_groups(install: &Install) -> bool {
    let run = install.run(
        &["--limit", "memory=256M", "--limit", "cpu=400%"],
        &["true"],
    );
    assert_eq!(run.status, Some(0), "{run:#?}");
    let can = !run.stderr.contains("not limited");
    if !can {
        eprintln!("no control groups here: {}", run.stderr);
    }
    can
}

/// A session whose command has said "ready".
pub(crate) struct Session {
    pub(crate) child: Child,
    pub(crate) output: BufReader<ChildStdout>,
}

impl Session {
    pub(crate) fn start(install: &Install, flags: &[&str], script: &str) -> Self {
        let arguments = [&["run"], flags, &["--", "sh", "-c", script]].concat();
        Self::of(install.command(arguments))
    }

    pub(crate) fn of(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut session = Self { child, output };
        assert_eq!(session.said(), "ready");
        session
    }

    /// The next line of the command.
    pub(crate) fn said(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Waits for the end: status, and what the session said.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        let mut stderr = self.child.stderr.take().unwrap();
        stderr.read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().code(), said)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Of a test that failed; else it has ended, and this is an error that does not matter.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The names of the sessions that an installation has started, oldest first.
pub(crate) fn sessions(install: &Install) -> Vec<String> {
    let started = install.events("session.started").into_iter();
    started
        .map(|record| record["session"].as_str().unwrap().to_owned())
        .collect()
}

/// The control groups of a session that stand.
pub(crate) fn groups(session: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = mounts.lines().filter(|line| line.contains(" - cgroup"));
    for line in points {
        let point = line.split(' ').nth(4).unwrap();
        below(
            Path::new(point),
            &format!("portcullis-{session}"),
            &mut found,
        );
    }
    found
}

fn below(folder: &Path, name: &str, found: &mut Vec<PathBuf>) {
    // Groups of others come and go meanwhile.
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if entry.file_name().to_str() == Some(name) {
            found.push(entry.path());
        } else {
            below(&entry.path(), name, found);
        }
    }
}

/// Waits for something that takes a moment.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The group of a session in the hierarchy that has a file of this name.
pub(crate) fn group_with(session: &str, file: &str) -> PathBuf {
    let groups = groups(session);
    let found = groups.iter().find(|group| group.join(file).exists());
    found
        .unwrap_or_else(|| panic!("{file}: {groups:?}"))
        .clone()
}

/// What is on record of limits: which, and what followed.
pub(crate) fn hits(install: &Install) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let hits = install.events("limit.hit").into_iter();
    hits.map(|hit| (text(&hit["what"]), text(&hit["action"])))
        .collect()
}
