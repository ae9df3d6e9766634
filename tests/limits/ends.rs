//! Nothing of a session's groups is left, however it ends and whoever is killed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cli::{Install, Who};
use crate::scene::{Session, eventually, groups, has_groups, hits, sessions};

const LIMITS: [&str; 4] = ["--limit", "memory=256M", "--limit", "cpu=100%"];

fn only(install: &Install) -> String {
    let sessions = sessions(install);
    sessions.last().unwrap().clone()
}

fn are_gone(session: &str) {
    eventually("groups are left", || groups(session).is_empty());
}

/// Processes whose command line ends so, of this installation.
fn find(install: &Install, is: impl Fn(&Path, &[u8]) -> bool) -> Vec<Pid> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap() {
        let path: PathBuf = entry.unwrap().path();
        let number = path
            .file_name()
            .and_then(|name| name.to_str()?.parse().ok());
        let exe = fs::read_link(path.join("exe")).unwrap_or_default();
        let line = fs::read(path.join("cmdline")).unwrap_or_default();
        let ours = exe.starts_with(install.path("bin"))
            || fs::read_link(path.join("cwd")).is_ok_and(|cwd| cwd == install.work());
        if let Some(number) = number
            && ours
            && is(&exe, &line)
        {
            found.push(Pid::from_raw(number));
        }
    }
    found
}

// N04
#[test]
fn a_killed_session_leaves_no_group() {
    let install = Install::new(Who::Root);
    if !has_groups(&install) {
        return;
    }
    for _ in 0..3 {
        let mut session = Session::start(&install, &LIMITS, "echo ready; sleep 1000 & sleep 1000");
        let id = only(&install);
        assert!(!groups(&id).is_empty());
        session.child.kill().unwrap();
        session.child.wait().unwrap();
        are_gone(&id);
    }
}

// N04
#[test]
fn a_killed_sweeper_leaves_no_group() {
    let install = Install::new(Who::Root);
    if !has_groups(&install) {
        return;
    }
    let mut session = Session::start(&install, &LIMITS, "echo ready; sleep 1; exit 6");
    let id = only(&install);
    let sweepers = find(&install, |_, line| line.ends_with(b"\0sweep\0"));
    assert_eq!(sweepers.len(), 1);
    kill(sweepers[0], Signal::SIGKILL).unwrap();
    assert_eq!(session.child.wait().unwrap().code(), Some(6));
    assert_eq!(groups(&id), Vec::<PathBuf>::new());
}

// N04
#[test]
fn groups_of_a_session_killed_with_its_sweeper_go_with_the_next_session_or_ps() {
    let install = Install::new(Who::Root);
    if !has_groups(&install) {
        return;
    }
    let living = Session::start(&install, &LIMITS, "echo ready; sleep 1000");
    let others = only(&install);
    for look in [
        &["ps"][..],
        &[
            "run",
            "-q",
            "--limit",
            "memory=256M",
            "--limit",
            "cpu=100%",
            "--",
            "true",
        ],
    ] {
        let mut session = Session::start(&install, &LIMITS, "echo ready; sleep 1000");
        let id = only(&install);
        let sweepers = find(&install, |_, line| line.ends_with(b"\0sweep\0"));
        // Its own is the younger one.
        let own = sweepers
            .into_iter()
            .max_by_key(|pid| started(*pid))
            .unwrap();
        kill(own, Signal::SIGKILL).unwrap();
        session.child.kill().unwrap();
        session.child.wait().unwrap();
        // The session of another test may look first.
        eventually("the jail is left", || {
            groups(&id).iter().all(|group| {
                let procs = fs::read_to_string(group.join("cgroup.procs"));
                procs.ok().is_none_or(|procs| procs.is_empty())
            })
        });
        let looked = install.portcullis(look);
        assert_eq!(looked.status.code(), Some(0), "{looked:?}");
        assert_eq!(groups(&id), Vec::<PathBuf>::new(), "{look:?}");
        assert!(!groups(&others).is_empty(), "one that lives keeps its own");
    }
    drop(living);
}

/// When a process started, in ticks since boot.
fn started(pid: Pid) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = text.rsplit_once(") ").unwrap();
    fields.split(' ').nth(19).unwrap().parse().unwrap()
}

// N04
#[test]
fn a_killed_bubblewrap_leaves_no_group() {
    let install = Install::new(Who::Root);
    if !has_groups(&install) {
        return;
    }
    let mut session = Session::start(&install, &LIMITS, "echo ready; sleep 1000");
    let id = only(&install);
    let outer = find(&install, |exe, _| {
        exe.file_name().is_some_and(|name| name == "bwrap")
    });
    assert!(!outer.is_empty());
    kill(outer[0], Signal::SIGKILL).unwrap();
    session.child.wait().unwrap();
    are_gone(&id);
}

// N04
#[test]
fn whatever_ends_while_a_session_starts_no_group_is_left() {
    let install = Install::new(Who::Root);
    if !has_groups(&install) {
        return;
    }
    let own = OwnGroups::new();
    let join = "for group; do echo 0 > \"$group/cgroup.procs\" || exit; done; \
                exec \"$PORTCULLIS\" run -q --limit memory=256M -- sleep 0.3";
    for round in 0..12 {
        let mut command = install.command(["--version"]);
        let environment: Vec<_> = command
            .get_envs()
            .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
            .collect();
        command = Command::new("sh");
        let mut session = command
            .env_clear()
            .envs(environment)
            .env("PORTCULLIS", install.path("bin/portcullis"))
            .current_dir(install.work())
            .args(["-c", join, "sh"])
            .args(&own.0)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(round * 9));
        let number = i32::try_from(session.id()).unwrap();
        let signal = [Signal::SIGKILL, Signal::SIGTERM][usize::try_from(round % 2).unwrap()];
        // It may have ended by itself.
        kill(Pid::from_raw(number), signal).ok();
        session.wait().unwrap();
        eventually("groups are left", || own.is_empty());
    }
}

/// A group in each hierarchy, for a session to make its groups in.
struct OwnGroups(Vec<PathBuf>);

impl OwnGroups {
    fn new() -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let points = mounts.lines().filter(|line| {
            let named = ["memory", "pids", "cpu"]
                .iter()
                .any(|name| line.ends_with(name));
            line.contains(" - cgroup2 ") || (line.contains(" - cgroup ") && named)
        });
        let made = points.map(|line| {
            let point = Path::new(line.split(' ').nth(4).unwrap());
            let group = point.join(format!("limits-test-{}", std::process::id()));
            fs::create_dir(&group).unwrap();
            group
        });
        Self(made.collect())
    }

    /// Whether there is no group in them.
    fn is_empty(&self) -> bool {
        self.0.iter().all(|group| {
            let mut inside = fs::read_dir(group).unwrap();
            inside.all(|entry| !entry.unwrap().file_type().unwrap().is_dir())
        })
    }
}

impl Drop for OwnGroups {
    fn drop(&mut self) {
        for group in &self.0 {
            // Companions take a moment to go.
            for _ in 0..500 {
                if fs::remove_dir(group).is_ok() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

#[test]
fn a_session_that_is_ended_by_a_budget_is_not_said_to_lack_memory() {
    let install = Install::new(Who::Root);
    let run = install.run(
        &["--timeout", "1s", "--limit", "memory=256M"],
        &["sleep", "1000"],
    );
    let last = "portcullis: session killed: total_time budget of 1s used up";
    assert_eq!(
        (run.status, run.stderr.lines().last()),
        (Some(137), Some(last))
    );
    assert_eq!(hits(&install).len(), 1);
}
