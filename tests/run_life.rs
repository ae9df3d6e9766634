//! What a session leaves behind: nothing, however it ends; and what it passes on: status and output.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests may panic and start programs"
)]

#[path = "support/cli.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod cli;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use cli::{EVERYONE, Install, Who};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[test]
fn the_status_and_the_output_are_the_commands_own() {
    for who in EVERYONE {
        let install = Install::new(who);
        let run = install.run(&[], &["sh", "-c", "echo out; echo err >&2; exit 7"]);
        assert_eq!(
            (run.status, run.stdout.as_str(), run.stderr.as_str()),
            (Some(7), "out\n", "err\n"),
            "{who:?}"
        );
        let killed = install.run(&[], &["sh", "-c", "kill -9 $$"]);
        assert_eq!(killed.status, Some(137), "{who:?}");
    }
}

#[test]
fn a_session_is_on_record_from_its_start_to_its_end() {
    for who in EVERYONE {
        let install = Install::new(who);
        install.run(&[], &["sh", "-c", "exit 3"]);
        let records = install.records();
        let words: Vec<_> = records
            .iter()
            .map(|record| record["event"].as_str().unwrap())
            .collect();
        assert_eq!(words, ["session.started", "session.ended"], "{who:?}");
        assert_eq!(
            records[0]["argv"],
            serde_json::json!(["sh", "-c", "exit 3"])
        );
        assert!(
            records[0]["isolation"]["landlock_abi"].as_u64() >= Some(1),
            "{who:?}: {}",
            records[0]
        );
        assert_eq!(records[1]["status"], serde_json::json!({ "exited": 3 }));
        assert_eq!(
            install.portcullis(["audit", "verify"]).status.code(),
            Some(0)
        );
    }
}

#[test]
fn the_workspace_is_writable_and_the_home_is_not_the_hosts() {
    for who in EVERYONE {
        let install = Install::new(who);
        install.write("home/secret", "s");
        let run = install.run(
            &[],
            &[
                "sh",
                "-c",
                "echo made > made; ls -A ~; touch ~/fine && cat made",
            ],
        );
        assert_eq!(
            (run.status, run.stdout.as_str()),
            (Some(0), "made\n"),
            "{run:#?}"
        );
        assert_eq!(
            fs::read_to_string(install.work().join("made")).unwrap(),
            "made\n"
        );
        assert!(!install.path("home/fine").exists());
    }
}

#[test]
fn read_only_mode_and_read_only_paths_cannot_be_written() {
    let install = Install::new(Who::User);
    install.write("data/file", "d");
    let data = install.path("data").display().to_string();
    let script = format!("cat {data}/file; touch here; touch {data}/there; true");
    let run = install.run(
        &["--mode", "read-only", "--ro", &data],
        &["sh", "-c", &script],
    );
    assert_eq!(
        (run.status, run.stdout.as_str()),
        (Some(0), "d"),
        "{run:#?}"
    );
    assert!(!install.work().join("here").exists() && !install.path("data/there").exists());
    let run = install.run(&["--rw", &data], &["sh", "-c", "touch here"]);
    assert!(
        run.status == Some(0) && install.work().join("here").exists(),
        "the twin writes: {run:#?}"
    );
}

#[test]
fn the_environment_is_a_list_and_not_the_callers() {
    let install = Install::new(Who::User);
    let mut command = install.command(["run", "--env", "A=1", "--env", "PASSED", "--", "env"]);
    command
        .env("PASSED", "p")
        .env("SECRET", "s")
        .env("LD_PRELOAD", "")
        .env("LC_ALL", "C");
    let output = String::from_utf8(command.output().unwrap().stdout).unwrap();
    let names: Vec<_> = output
        .lines()
        .map(|line| line.split('=').next().unwrap())
        .collect();
    for present in [
        "A",
        "PASSED",
        "LC_ALL",
        "HOME",
        "PATH",
        "HTTPS_PROXY",
        "ALL_PROXY",
    ] {
        assert!(names.contains(&present), "{present} is missing: {output}");
    }
    for absent in ["SECRET", "LD_PRELOAD"] {
        assert!(!names.contains(&absent), "{absent} leaked: {output}");
    }
}

#[test]
fn a_terminating_signal_reaches_the_command_and_nothing_is_left() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT] {
        let install = Install::new(Who::User);
        let script = format!(
            "trap 'echo caught; exit 5' {}; echo ready; while :; do sleep 0.05; done",
            signal.as_str().trim_start_matches("SIG")
        );
        let mut session = start(&install, &script);
        kill(session.pid(), signal).unwrap();
        let rest = session.rest();
        assert_eq!(
            (rest, session.child.wait().unwrap().code()),
            (vec!["caught".to_owned()], Some(5)),
            "{signal}"
        );
        assert_nothing_is_left(&install);
        assert_eq!(
            install.events("session.ended")[0]["status"],
            serde_json::json!({ "exited": 5 })
        );
    }
}

#[test]
fn a_second_signal_kills_a_command_that_ignores_the_first() {
    let install = Install::new(Who::User);
    let mut session = start(
        &install,
        "trap 'echo no' TERM; echo ready; while :; do sleep 0.05; done",
    );
    kill(session.pid(), Signal::SIGTERM).unwrap();
    let mut answer = String::new();
    session.output.read_line(&mut answer).unwrap();
    assert_eq!(answer, "no\n");
    kill(session.pid(), Signal::SIGTERM).unwrap();
    assert_eq!(session.child.wait().unwrap().code(), Some(137));
    assert_nothing_is_left(&install);
}

#[test]
fn a_killed_session_leaves_no_process_no_placeholder_and_a_closed_log() {
    for who in EVERYONE {
        let install = Install::new(who);
        let mut session = start(&install, "echo ready; sleep 1000 & sleep 1000");
        assert!(
            install.work().join(".envrc").exists(),
            "a placeholder protects what does not exist yet"
        );
        session.child.kill().unwrap();
        session.child.wait().unwrap();
        assert_nothing_is_left(&install);
        assert_eq!(install.events("session.ended")[0]["status"], "session_lost");
        assert_eq!(
            install.portcullis(["audit", "verify"]).status.code(),
            Some(0)
        );
    }
}

#[test]
fn processes_in_the_background_end_with_the_command() {
    let install = Install::new(Who::User);
    let run = install.run(&[], &["sh", "-c", "setsid sleep 1000 & exit 0"]);
    assert_eq!(run.status, Some(0));
    assert_nothing_is_left(&install);
}

#[test]
fn a_dead_gate_is_told_and_the_next_one_refuses_what_it_would_have() {
    let install = Install::new(Who::User);
    let script =
        "echo ready; read go < go; curl -s -o /dev/null -w '%{http_code}\\n' http://example.com";
    pipe(&install, "work/go");
    let mut session = start(&install, script);
    kill(companion(&install, "portcullis-gate"), Signal::SIGKILL).unwrap();
    fs::write(install.path("work/go"), "go\n").unwrap();
    assert_eq!(session.rest(), ["403"]);
    let output = session.child.wait_with_output().unwrap();
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("the gate died"),
        "{output:?}"
    );
    let records = install.records();
    let words: Vec<_> = records
        .iter()
        .map(|record| record["event"].as_str().unwrap())
        .collect();
    assert_eq!(
        words,
        [
            "session.started",
            "gate.restarted",
            "policy.applied",
            "egress.decided",
            "session.ended"
        ]
    );
}

#[test]
fn a_gate_that_cannot_be_replaced_is_told_and_the_jail_has_no_network() {
    let install = Install::new(Who::User);
    // Whoever connected before the session knew is closed; whoever comes later is refused.
    let script = "echo ready; read go < go; \
                  until curl -s --max-time 5 http://example.com; [ $? = 7 ]; do :; done; echo 7";
    pipe(&install, "work/go");
    let mut session = start(&install, script);
    let gate = companion(&install, "portcullis-gate");
    fs::remove_file(install.path("bin/portcullis-gate")).unwrap();
    kill(gate, Signal::SIGKILL).unwrap();
    fs::write(install.path("work/go"), "go\n").unwrap();
    let rest = session.rest();
    assert_eq!(rest, ["7"], "curl could not connect to its proxy");
    let output = session.child.wait_with_output().unwrap();
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("the gate died"),
        "{output:?}"
    );
    let records = install.records();
    let words: Vec<_> = records
        .iter()
        .map(|record| record["event"].as_str().unwrap())
        .collect();
    assert_eq!(words, ["session.started", "gate.lost", "session.ended"]);
}

#[test]
fn an_audit_writer_that_cannot_be_replaced_is_told_and_everything_is_refused() {
    let install = Install::new(Who::User);
    let script =
        "echo ready; read go < go; curl -s -o /dev/null -w '%{http_code}\\n' http://example.com";
    pipe(&install, "work/go");
    let mut session = start_with(&install, &["--allow", "example.com"], script);
    let writer = companion(&install, "portcullis-audit");
    // No other can take its place.
    fs::remove_file(install.path("bin/portcullis-audit")).unwrap();
    kill(writer, Signal::SIGKILL).unwrap();
    fs::write(install.path("work/go"), "go\n").unwrap();
    let rest = session.rest();
    assert_eq!(rest, ["503"], "no record, no traffic");
    let output = session.child.wait_with_output().unwrap();
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("the audit writer died"),
        "{output:?}"
    );
}

#[test]
fn a_companion_that_hangs_does_not_keep_a_session_from_its_end() {
    let install = Install::new(Who::User);
    let mut session = start(&install, "echo ready; sleep 0.5; exit 6");
    kill(companion(&install, "portcullis-audit"), Signal::SIGSTOP).unwrap();
    assert_eq!(session.child.wait().unwrap().code(), Some(6));
    assert_nothing_is_left(&install);
}

#[test]
fn a_sweeper_that_hangs_does_not_keep_a_session_from_its_end() {
    let install = Install::new(Who::User);
    let mut session = start(&install, "echo ready; sleep 0.5; exit 6");
    let sweepers = sweepers(&install);
    assert_eq!(sweepers.len(), 1);
    kill(sweepers[0], Signal::SIGSTOP).unwrap();
    let (ended, end) = std::sync::mpsc::channel();
    let waiting = std::thread::spawn(move || {
        ended.send(session.child.wait().unwrap().code()).unwrap();
    });
    let end = end.recv_timeout(Duration::from_mins(1));
    // It does its work when it goes on, however late.
    kill(sweepers[0], Signal::SIGCONT).unwrap();
    waiting.join().unwrap();
    assert_eq!(end, Ok(Some(6)));
    assert_nothing_is_left(&install);
}

#[test]
fn a_session_whose_sweeper_was_killed_removes_its_placeholders_itself() {
    for who in EVERYONE {
        let install = Install::new(who);
        let mut session = start(&install, "echo ready; sleep 0.5; exit 6");
        kill(sweepers(&install)[0], Signal::SIGKILL).unwrap();
        assert!(install.work().join(".envrc").exists());
        assert_eq!(session.child.wait().unwrap().code(), Some(6));
        assert_nothing_is_left(&install);
    }
}

#[test]
fn a_killed_sweeper_does_not_let_another_session_take_the_placeholders_away() {
    for who in EVERYONE {
        let install = Install::new(who);
        pipe(&install, "home/go");
        let go = install.path("home/go").display().to_string();
        let script = "echo ready; read go <\"$0\"; echo x >.envrc; echo $?";
        let arguments = ["run", "-q", "--ro", &go, "--", "sh", "-c", script, &go];
        let mut command = install.command(arguments);
        let mut first = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(first.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "ready");
        kill(sweepers(&install)[0], Signal::SIGKILL).unwrap();
        assert_eq!(install.run(&[], &["true"]).status, Some(0));
        assert!(install.work().join(".envrc").is_dir(), "{who:?}");
        fs::write(&go, "go\n").unwrap();
        assert_ne!(lines.next().unwrap().unwrap(), "0", "it is protected still");
        first.wait().unwrap();
        assert_nothing_is_left(&install);
    }
}

#[test]
fn a_session_killed_with_its_sweeper_leaves_placeholders_to_the_next_and_no_socket_after_ps() {
    for who in EVERYONE {
        let install = Install::new(who);
        let mut session = start(&install, "echo ready; sleep 1000");
        kill(sweepers(&install)[0], Signal::SIGKILL).unwrap();
        session.child.kill().unwrap();
        session.child.wait().unwrap();
        let sockets = || {
            let files = fs::read_dir(install.path("home/.local/state/portcullis/run")).unwrap();
            let names = files.map(|file| file.unwrap().file_name());
            names.filter(|name| name != "sessions.lock").count()
        };
        assert_eq!(sockets(), 1);
        let ps = install.portcullis(["ps"]);
        assert_eq!((ps.status.code(), ps.stdout.len()), (Some(0), 0));
        assert_eq!(sockets(), 0);
        assert!(install.work().join(".envrc").exists(), "nobody was there");
        assert_eq!(install.run(&[], &["true"]).status, Some(0));
        assert_nothing_is_left(&install);
    }
}

/// A process that is to bubblewrap's first what it is when its outer one was killed too early: the first of a
/// namespace, with the same arguments, and its parent is gone.
#[test]
fn a_jail_whose_bubblewrap_was_killed_too_early_is_ended_by_ps() {
    let install = Install::new(Who::Root);
    let mut outer = Command::new("unshare")
        .args(["--pid", "--fork", "--", "sh", "-c", "echo ready; read end"])
        .args(["--args", "5", "--", "/proc/self/fd/6"])
        .current_dir(install.work())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Should this test fail, it ends with this.
    let _input = outer.stdin.take();
    let mut line = String::new();
    let mut output = BufReader::new(outer.stdout.take().unwrap());
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    let count = || processes(&install).len();
    assert_eq!(count(), 2);
    install.portcullis(["ps"]);
    assert_eq!(count(), 2, "one that has its parent is left alone");
    outer.kill().unwrap();
    outer.wait().unwrap();
    install.portcullis(["ps"]);
    assert_nothing_is_left(&install);
}

#[test]
fn a_log_that_was_opened_has_the_end_of_a_session_that_was_killed_before_its_first_record() {
    let install = Install::new(Who::User);
    let log = || {
        let folder = fs::read_dir(install.path("home/.local/state/portcullis/audit"));
        let names = folder
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path());
        names.filter(|path| path.is_file()).count()
    };
    // Until the writer was stopped before it had opened the log, and had been told whose it is.
    for _ in 0..50 {
        let mut session = install
            .command(["run", "-q", "--", "sleep", "0.2"])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let before = log();
        let deadline = Instant::now() + Duration::from_secs(30);
        let writer = loop {
            if let Some(writer) = find(&install, "portcullis-audit") {
                break writer;
            }
            assert!(Instant::now() < deadline, "no writer");
        };
        // It may have ended by itself.
        kill(writer, Signal::SIGSTOP).ok();
        session.kill().unwrap();
        session.wait().unwrap();
        let early = log() == before;
        kill(writer, Signal::SIGCONT).ok();
        assert_nothing_is_left(&install);
        if log() > before {
            let records = install.records();
            assert_eq!(records.last().unwrap()["event"], "session.ended");
            if early {
                return;
            }
        }
    }
}

/// Every feature that has a process or a socket of its own.
const EVERYTHING: &str = "extends = 'base'\n[network]\ntransparent = true\nmitm = true\n\
                          enable_socks5_udp = true\n";

#[test]
fn whatever_ends_while_a_session_starts_nothing_is_left() {
    for (place, who) in EVERYONE.into_iter().enumerate() {
        let install = Install::new(who);
        install.write("everything.toml", EVERYTHING);
        let profile = install.path("everything.toml").display().to_string();
        let victims = ["", "", "portcullis-gate", "portcullis-audit"];
        // Moments of a start, which takes a fraction of a second; a later one is another moment.
        for round in 0..16 {
            let mut session = install
                .command(["run", "-q", "-p", &profile, "--", "sleep", "0.4"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            std::thread::sleep(Duration::from_millis(round * 11 + place as u64 * 5));
            let own = Pid::from_raw(i32::try_from(session.id()).unwrap());
            let (victim, signal) = match victims[usize::try_from(round).unwrap() % victims.len()] {
                "" if round % 4 == 0 => (Some(own), Signal::SIGTERM),
                "" => (Some(own), Signal::SIGKILL),
                name => (find(&install, name), Signal::SIGKILL),
            };
            if let Some(victim) = victim {
                // It may have ended by itself.
                kill(victim, signal).ok();
            }
            session.wait().unwrap();
            assert_nothing_is_left(&install);
        }
    }
}

/// Those outside: in the jail the same program is long gone.
fn sweepers(install: &Install) -> Vec<Pid> {
    let found = processes(install).into_iter().map(|(pid, _)| pid);
    found
        .filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.ends_with(b"\0sweep\0")
        })
        .map(Pid::from_raw)
        .collect()
}

/// A session whose command has said "ready".
struct Session {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Session {
    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    /// The lines that the command still says, to its end.
    fn rest(&mut self) -> Vec<String> {
        self.output.by_ref().lines().map(Result::unwrap).collect()
    }
}

/// A named pipe of the caller's, for a command to wait at.
fn pipe(install: &Install, below: &str) {
    let mode = nix::sys::stat::Mode::from_bits_truncate(0o666);
    nix::unistd::mkfifo(&install.path(below), mode).unwrap();
    install.own(below);
}

fn start(install: &Install, script: &str) -> Session {
    start_with(install, &[], script)
}

fn start_with(install: &Install, flags: &[&str], script: &str) -> Session {
    let arguments = [&["run"], flags, &["--", "sh", "-c", script]].concat();
    let mut command: Command = install.command(arguments);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    Session { child, output }
}

/// Every process that was started from this installation or runs in its workspace.
fn processes(install: &Install) -> Vec<(i32, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap() {
        let path: PathBuf = entry.unwrap().path();
        let Some(pid) = path
            .file_name()
            .and_then(|name| name.to_str()?.parse().ok())
        else {
            continue;
        };
        let link = |name: &str| fs::read_link(path.join(name)).unwrap_or_default();
        if link("exe").starts_with(install.path("bin")) || link("cwd").starts_with(install.work()) {
            found.push((
                pid,
                fs::read_to_string(path.join("comm"))
                    .unwrap_or_default()
                    .trim()
                    .to_owned(),
            ));
        }
    }
    found
}

fn companion(install: &Install, name: &str) -> Pid {
    find(install, name).unwrap()
}

fn find(install: &Install, name: &str) -> Option<Pid> {
    let program = install.path("bin").join(name);
    let found = processes(install);
    found
        .iter()
        .find(|(pid, _)| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == program))
        .map(|(pid, _)| Pid::from_raw(*pid))
}

/// Polls, because processes take a moment to go after their parent has; the bound is generous.
fn assert_nothing_is_left(install: &Install) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let left = processes(install);
        let files: Vec<_> = fs::read_dir(install.work())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mounted = mounts.contains(&install.work().display().to_string());
        if left.is_empty() && files.is_empty() && !mounted {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "left: {left:?}, files: {files:?}, mounted: {mounted}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}
