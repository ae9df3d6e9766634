//! Whoever sits in front of a session of the service has it as one of their own: Ctrl-C, the end of their terminal,
//! a signal, a slow line.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use nix::fcntl::OFlag;
use nix::pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt};
use rustix::process::{Pid, Signal, kill_process};

use crate::cli::Who;
use crate::service::{ADA, Service};
use crate::terminal::{Terminal, until};

/// `portcullis run` with a script, in a shell that leaves this to the terminal and sends the rest elsewhere.
fn run(host: &Service, redirected: &str, script: &str) -> Command {
    let program = host.path("bin/portcullis");
    let line = format!("exec \"$0\" run --name here -- sh -c \"$1\" {redirected}");
    let words = ["sh", "-c", &line, program.to_str().unwrap(), script];
    let mut command = host.command(ADA, &host.work(ADA), &words);
    command.current_dir("/");
    command
}

fn runs(host: &Service) -> bool {
    host.run(ADA, &["ps"]).stdout.contains("here")
}

/// The process that waits for the session, and not the shells before it.
fn waiting(host: &Service) -> Pid {
    let pids = host.processes("portcullis");
    let words = |pid: &String| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        text.split('\0').nth(1).map(str::to_owned)
    };
    let mut pids = pids
        .iter()
        .filter(|pid| words(pid).as_deref() == Some("run"));
    Pid::from_raw(pids.next().unwrap().parse().unwrap()).unwrap()
}

/// A terminal that can go away, with a program on it.
struct Window {
    child: Child,
    master: PtyMaster,
}

impl Window {
    fn open(program: &Command) -> Self {
        // Nobody else may have it, or it never goes away.
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let master = posix_openpt(flags).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname_r(&master).unwrap();
        let slave = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OFlag::O_NOCTTY.bits())
            .open(name)
            .unwrap();
        let stream = || Stdio::from(slave.try_clone().unwrap());
        let mut command = Command::new("setsid");
        command.args(["--ctty", "--wait"]);
        command.arg(program.get_program()).args(program.get_args());
        command.env_clear();
        command.envs(program.get_envs().filter_map(|(k, v)| Some((k, v?))));
        command.stdin(stream()).stdout(stream()).stderr(stream());
        let child = command.spawn().unwrap();
        Self { child, master }
    }
}

#[test]
fn a_session_ends_with_the_terminal_of_whoever_sits_in_front_of_it() {
    for redirected in ["", "2>/dev/null", "</dev/null >/dev/null 2>&1"] {
        let host = Service::start("");
        let Window { mut child, master } = Window::open(&run(&host, redirected, "sleep 1000"));
        until("it runs", || runs(&host));
        drop(master);
        until("it ends", || !runs(&host));
        until("nobody waits for it", || {
            child.try_wait().unwrap().is_some()
        });
        let ends = host.run(ADA, &["audit", "tail", "--json", "-n", "1"]);
        let record: serde_json::Value = serde_json::from_str(&ends.stdout).unwrap();
        assert_eq!(record["event"], "session.ended", "{redirected:?}");
    }
}

#[test]
fn what_is_typed_is_a_question_to_all_that_the_command_has_in_front() {
    let script = "trap 'echo INT' INT; for i in 1 2 3; do echo ready $i; sleep 100$i; echo slept $?; done; exit 5";
    for redirected in ["", "2>/dev/null"] {
        let host = Service::start("");
        let command = run(&host, redirected, script);
        let mut terminal = Terminal::new(&command, Who::Root, (30, 100));
        for round in 1..=3 {
            terminal.shows(&format!("ready {round}"));
            // The shell has printed that, and starts the other program.
            until("it sleeps", || sleeps(round));
            terminal.types("\u{3}");
            until("it has heard that", || {
                terminal.shown().matches("slept 130").count() == round
            });
        }
        assert_eq!(terminal.status(), Some(5), "{}", terminal.shown());
        assert_eq!(terminal.shown().matches("INT").count(), 3);
    }
}

/// Whether the program of this round runs, on this machine, under the user's number.
fn sleeps(round: usize) -> bool {
    let sleep = format!("sleep\0100{round}\0");
    let entries = std::fs::read_dir("/proc").unwrap();
    entries.flatten().any(|entry| {
        let read = |name: &str| std::fs::read_to_string(entry.path().join(name));
        let hers = read("status").is_ok_and(|text| text.contains("Uid:\t4001\t"));
        hers && read("cmdline").is_ok_and(|line| line == sleep)
    })
}

#[test]
fn a_signal_to_whoever_sits_in_front_is_the_sessions() {
    let script = "trap 'echo asked; exit 9' TERM; echo ready; while :; do sleep 0.1; done";
    for redirected in ["", "2>/dev/null"] {
        let host = Service::start("");
        let command = run(&host, redirected, script);
        let mut terminal = Terminal::new(&command, Who::Root, (30, 100));
        terminal.shows("ready");
        kill_process(waiting(&host), Signal::TERM).unwrap();
        assert_eq!(terminal.status(), Some(9), "{}", terminal.shown());
        until("it ends", || !runs(&host));
    }
}

#[test]
fn a_line_that_was_slow_is_still_the_sessions_terminal() {
    let host = Service::start("");
    let script = "echo ready; read -r line; seq 1 200000; while read -r line; do echo \"got $line\"; \
                  test \"$line\" = end && exit 6; done";
    let line = Arc::new(Mutex::new(()));
    let shared = Arc::clone(&line);
    let command = run(&host, "", script);
    let mut terminal = Terminal::answering(&command, Who::Root, (30, 100), move |_| {
        drop(shared.lock().unwrap());
        Vec::new()
    });
    terminal.shows("ready");
    let stalled = line.lock().unwrap();
    terminal.types("go\n");
    // It is cut off after five seconds: on record.
    until("the session lets go", || {
        let run = host.run(ADA, &["audit", "tail", "--json"]);
        run.stdout.contains("session.detached")
    });
    drop(stalled);
    until("it is in front again", || {
        let run = host.run(ADA, &["audit", "tail", "--json"]);
        run.stdout.matches("session.attached").count() == 2
    });
    terminal.types("end\n");
    terminal.shows("got end");
    assert_eq!(terminal.status(), Some(6));
}
