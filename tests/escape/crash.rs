//! Ends that nobody planned, and sessions that share a workspace.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;

use crate::act::{Act, Answer};
use crate::bench::{Bench, CALLERS, Caller, until};

/// A jail that waits for a file in its workspace.
fn waiting(bench: &mut Bench) -> Child {
    bench.order.protected = vec![".codex".into()];
    let ready = bench.path("ready");
    let acts = [Act::create(&ready), Act::WaitFor(bench.path("go"))];
    let child = bench.start(&acts);
    until("the jail runs", || ready.exists());
    child
}

/// Processes that have this in their command line.
fn processes(text: &Path) -> Vec<PathBuf> {
    let text = text.to_str().unwrap();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&line).contains(text) {
            found.push(entry.path());
        }
    }
    found
}

#[test]
fn a_killed_session_leaves_no_process_and_no_placeholder() {
    for caller in CALLERS {
        let mut bench = Bench::new(caller);
        let mut session = waiting(&mut bench);
        assert!(bench.path(".codex").exists());
        assert!(!processes(&bench.order.workspace).is_empty());
        session.kill().unwrap();
        session.wait().unwrap();
        until("placeholders go away", || !bench.path(".codex").exists());
        until("processes go away", || {
            processes(&bench.host("")).is_empty()
        });
    }
}

#[test]
fn a_killed_bubblewrap_leaves_no_process_and_no_placeholder() {
    for caller in CALLERS {
        let mut bench = Bench::new(caller);
        let mut session = waiting(&mut bench);
        let children = format!("/proc/{0}/task/{0}/children", session.id());
        let children = fs::read_to_string(children).unwrap();
        let bwrap = children.split_whitespace().find(|pid| {
            fs::read_to_string(format!("/proc/{pid}/comm"))
                .unwrap()
                .trim()
                == "bwrap"
        });
        let bwrap = nix::unistd::Pid::from_raw(bwrap.unwrap().parse().unwrap());
        nix::sys::signal::kill(bwrap, nix::sys::signal::Signal::SIGKILL).unwrap();
        session.wait().unwrap();
        assert!(!bench.path(".codex").exists());
        until("processes go away", || {
            processes(&bench.host("")).is_empty()
        });
    }
}

#[test]
fn sessions_that_share_a_workspace_share_placeholders_and_the_last_removes_them() {
    let mut first = Bench::new(Caller::User);
    let mut session = waiting(&mut first);
    let mut second = Bench::new(Caller::User);
    second.order.workspace = first.order.workspace.clone();
    second.order.protected = vec![".codex".into()];
    let answer = second.try_inside(Act::mkdir(first.path(".codex")));
    assert_eq!(answer, Answer::Errno(nix::libc::EEXIST));
    assert!(first.path(".codex").exists());
    fs::write(first.path("go"), "").unwrap();
    session.wait().unwrap();
    assert!(!first.path(".codex").exists());
}

#[test]
fn a_placeholder_that_was_left_behind_is_adopted() {
    let mut bench = Bench::new(Caller::User);
    bench.order.protected = vec![".git/hooks".into()];
    fs::create_dir(bench.path(".git")).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o555);
    fs::set_permissions(bench.path(".git"), mode).unwrap();
    bench.own(&bench.path(".git"));
    let answer = bench.try_inside(Act::mkdir(bench.path(".git/hooks")));
    assert_eq!(answer, Answer::Errno(nix::libc::EROFS));
    assert!(!bench.path(".git").exists());
}

#[test]
fn a_placeholder_that_somebody_filled_meanwhile_stays() {
    let mut bench = Bench::new(Caller::Root);
    let mut session = waiting(&mut bench);
    fs::write(bench.path(".codex/kept"), "text").unwrap();
    fs::write(bench.path("go"), "").unwrap();
    session.wait().unwrap();
    assert_eq!(
        fs::read_to_string(bench.path(".codex/kept")).unwrap(),
        "text"
    );
}

#[test]
fn a_placeholder_that_is_locked_for_good_refuses_the_next_session() {
    let mut bench = Bench::new(Caller::User);
    let mut session = waiting(&mut bench);
    // As a hostile command in the first jail could: flock(2) asks for no right to write.
    let placeholder = fs::File::open(bench.path(".codex")).unwrap();
    assert!(placeholder.try_lock().is_err(), "the session shares a lock");
    let mut second = Bench::new(Caller::User);
    second.order.workspace = bench.order.workspace.clone();
    second.order.protected = vec![".git".into()];
    let git = bench.path(".git");
    fs::create_dir(&git).unwrap();
    fs::set_permissions(&git, std::os::unix::fs::PermissionsExt::from_mode(0o555)).unwrap();
    bench.own(&git);
    let git = fs::File::open(git).unwrap();
    git.lock().unwrap();
    let refusal = second.refusal();
    assert!(refusal.contains("end the sessions"), "{refusal}");
    drop(git);
    assert!(second.try_inside(Act::mkdir(bench.path(".git/x"))) == Answer::Errno(nix::libc::EROFS));
    fs::write(bench.path("go"), "").unwrap();
    session.wait().unwrap();
}
