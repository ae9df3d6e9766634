//! Sessions that outlive their terminal: started with `run -d`, looked at with `attach` and `logs`.
#![expect(
    clippy::unwrap_used,
    clippy::string_slice,
    clippy::disallowed_methods,
    reason = "tests may panic and start programs"
)]

#[path = "support/cli.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod cli;
#[path = "support/terminal.rs"]
mod terminal;

use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use cli::{EVERYONE, Install, Run, Who};
use serde_json::json;
use terminal::{Terminal, until};

/// An installation whose sessions end with it.
struct Scene(Install, Who);

impl Scene {
    fn new(who: Who) -> Self {
        Self(Install::new(who), who)
    }

    fn portcullis(&self, arguments: &[&str]) -> Run {
        Run::of(&self.0.portcullis(arguments))
    }

    /// Starts a session that goes on, and gives its id.
    fn detach(&self, flags: &[&str], script: &str) -> String {
        let arguments = [&["run", "-d"], flags, &["--", "sh", "-c", script]].concat();
        let run = self.portcullis(&arguments);
        assert_eq!((run.status, run.stderr.as_str()), (Some(0), ""), "{run:?}");
        let id = run.stdout.trim().to_owned();
        assert_eq!(run.stdout, format!("{id}\n"));
        id
    }

    fn logs(&self, id: &str) -> String {
        let run = self.portcullis(&["logs", id]);
        assert_eq!(run.status, Some(0), "{run:?}");
        run.stdout
    }

    fn log_file(&self, id: &str) -> std::path::PathBuf {
        self.0
            .path("home/.local/state/portcullis/sessions")
            .join(format!("{id}.log"))
    }

    fn runs(&self) -> bool {
        !self.portcullis(&["ps", "-q"]).stdout.is_empty()
    }

    /// `portcullis` at a terminal of its own.
    fn at_terminal(&self, arguments: &[&str], (rows, columns): (u16, u16)) -> Terminal {
        Terminal::new(&self.0.command(arguments), self.1, (rows, columns))
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.portcullis(&["stop", "--all", "--kill"]);
    }
}

#[test]
fn a_detached_session_tells_its_id_and_goes_on_until_it_is_stopped() {
    for who in EVERYONE {
        let scene = Scene::new(who);
        let id = scene.detach(
            &["--name", "nightly"],
            "trap 'echo bye; exit 3' TERM; tty -s && echo terminal; stty size; while :; do sleep 0.1; done",
        );
        assert_eq!(scene.portcullis(&["ps", "-q"]).stdout.trim(), id);
        until("it prints", || scene.logs(&id[..31]).contains("24 80"));
        let log = scene.logs("nightly");
        assert_eq!(log, "terminal\n24 80\n", "lines end as in a file");
        let file = scene.log_file(&id);
        let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
        let stopped = scene.portcullis(&["stop", "nightly"]);
        assert_eq!(
            (stopped.status, stopped.stdout.trim()),
            (Some(0), id.as_str())
        );
        assert_eq!(scene.logs(&id), "terminal\n24 80\nbye\n");
        assert_eq!(scene.logs(&id[..31]), scene.portcullis(&["logs"]).stdout);
        let ended = scene.0.events("session.ended");
        assert_eq!(ended[0]["status"], json!({ "exited": 3 }));
        assert_eq!(scene.portcullis(&["audit", "verify"]).status, Some(0));
    }
}

#[test]
fn a_launch_that_fails_is_told_with_the_status_of_run() {
    let scene = Scene::new(Who::User);
    for (arguments, status, told) in [
        (vec!["run", "-d", "--", "/nowhere/x"], 127, "No such file"),
        (
            vec!["run", "-d", "--", "/etc/passwd"],
            126,
            "ermission denied",
        ),
        (vec!["run", "-d", "-p", "none", "--", "true"], 125, "none"),
        (
            vec!["run", "-d", "--ask", "terminal", "--", "true"],
            64,
            "--ask",
        ),
    ] {
        let run = scene.portcullis(&arguments);
        assert_eq!(
            (run.status, run.stdout.as_str()),
            (Some(status), ""),
            "{run:?}"
        );
        assert!(run.stderr.contains(told), "{run:?}");
    }
    assert!(!scene.runs());
    // What bubblewrap says goes to the terminal that nobody sees.
    let bwrap = scene.0.path("fake/bwrap");
    std::fs::create_dir(bwrap.parent().unwrap()).unwrap();
    let script = "#!/bin/sh\ncase $1 in --version) echo bubblewrap 0.8.0;; \
                  *) echo 'bwrap: no namespaces here' >&2; exit 1;; esac\n";
    std::fs::write(&bwrap, script).unwrap();
    std::fs::set_permissions(&bwrap, PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = scene.0.command(["run", "-d", "--", "true"]);
    command.env("PATH", bwrap.parent().unwrap());
    let run = Run::of(&command.output().unwrap());
    assert_eq!(
        (run.status, run.stdout.as_str()),
        (Some(125), ""),
        "{run:?}"
    );
    let said = "portcullis: bwrap: no namespaces here\nportcullis: the jail did not start: ";
    assert!(run.stderr.starts_with(said), "{run:?}");
    let logs = scene.portcullis(&["logs"]);
    assert_eq!(logs.status, Some(69), "nothing is kept of them: {logs:?}");
    let none = scene.portcullis(&["logs", "nobody"]);
    assert_eq!(none.status, Some(69), "{none:?}");
    let by_hand = scene.portcullis(&["detached-session"]);
    assert_eq!(by_hand.status, Some(64), "{by_hand:?}");
}

#[test]
fn a_session_survives_the_end_of_its_callers_terminal() {
    let scene = Scene::new(Who::User);
    let mut terminal = scene.at_terminal(
        &["run", "-d", "--", "sh", "-c", "stty size; exec sleep 1000"],
        (30, 100),
    );
    assert_eq!(terminal.status(), Some(0), "{}", terminal.shown());
    until("the id is told", || terminal.shown().contains('\n'));
    let id = terminal.shown().trim().to_owned();
    // The terminal goes: whoever still belonged to it would get a SIGHUP.
    drop(terminal);
    until("it prints", || scene.logs(&id).contains("30 100"));
    let process = pid(&scene, "detached-session");
    // As from kill(1): the profile is read again, as with any session without a terminal of the caller's.
    nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGHUP).unwrap();
    let counters = scene.portcullis(&["counters", &id]);
    assert_eq!(counters.status, Some(0), "{counters:?}");
    assert_eq!(scene.portcullis(&["stop"]).status, Some(0));
}

/// The one process of this installation with this argument.
fn pid(scene: &Scene, argument: &str) -> nix::unistd::Pid {
    let program = scene.0.path("bin/portcullis");
    let wanted = format!("{}\0{argument}\0", program.display());
    let found = std::fs::read_dir("/proc").unwrap().find_map(|entry| {
        let entry = entry.unwrap();
        let line = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
        (line == wanted).then(|| entry.file_name().to_str().unwrap().parse().unwrap())
    });
    nix::unistd::Pid::from_raw(found.unwrap())
}

#[test]
fn somebody_attaches_types_leaves_and_comes_back() {
    for who in EVERYONE {
        let scene = Scene::new(who);
        let id = scene.detach(
            &[],
            "trap 'echo caught' INT; echo hello; while :; do read line && echo \"<$line>\"; \
             [ \"$line\" = end ] && exit 7; done",
        );
        until("it prints", || scene.logs(&id).contains("hello"));
        let mut first = scene.at_terminal(&["attach"], (40, 120));
        first.shows("hello");
        first.types("one\r");
        first.shows("<one>");
        first.types("\x03");
        first.shows("caught");
        // Nobody could continue what this key would stop.
        first.types("\x1a");
        first.types("two\r");
        first.shows("<two>");
        first.types("\x1dd");
        assert_eq!(first.status(), Some(0), "{}", first.shown());
        first.shows("it goes on");
        assert!(scene.runs());
        let mut again = scene.at_terminal(&["attach", &id], (40, 120));
        again.shows("<one>");
        again.types("end\r");
        assert_eq!(again.status(), Some(7), "{}", again.shown());
        assert!(!scene.runs(), "its last record is written");
        let words: Vec<_> = scene
            .0
            .records()
            .iter()
            .map(|record| record["event"].as_str().unwrap().to_owned())
            .collect();
        let (on, off) = ("session.attached", "session.detached");
        let expected = ["session.started", on, off, on, off, "session.ended"];
        assert_eq!(words, expected);
        let record = &scene.0.events(on)[0];
        assert_eq!(record["read_only"], false);
        let user = if who == Who::Root { "root" } else { "uid 4001" };
        assert_eq!(record["by"], user);
    }
}

#[test]
fn the_command_has_the_size_of_the_smallest_terminal_that_types() {
    let scene = Scene::new(Who::Root);
    let id = scene.detach(&[], "while :; do stty size; sleep 0.1; done");
    let size = |wanted: &str| {
        until(wanted, || {
            let logs = scene.portcullis(&["logs", &id, "-n", "2"]).stdout;
            logs == format!("{wanted}\n{wanted}\n")
        });
    };
    size("24 80");
    let first = scene.at_terminal(&["attach"], (40, 120));
    size("40 120");
    first.resize(50, 90);
    size("50 90");
    let second = scene.at_terminal(&["attach"], (20, 100));
    size("20 90");
    let looks = scene.at_terminal(&["attach", "--read-only"], (10, 10));
    looks.shows("20 90");
    size("20 90");
    drop(second);
    size("50 90");
    drop((first, looks));
    size("50 90");
}

#[test]
fn a_terminal_is_as_it_was_after_every_end() {
    let scene = Scene::new(Who::Root);
    scene.detach(&[], "printf '\\033[?1049h\\033[?25lready'; exec sleep 1000");
    let ends: [(&str, Option<i32>); 4] = [
        ("keys", Some(0)),
        ("TERM", Some(143)),
        ("HUP", Some(129)),
        ("stop", Some(143)),
    ];
    for (end, status) in ends {
        let mut terminal = scene.at_terminal(&["attach"], (24, 80));
        terminal.shows("\x1b[?1049h");
        let modes = |terminal: &Terminal| {
            let modes = rustix::termios::tcgetattr(&terminal.slave).unwrap();
            modes
                .local_modes
                .contains(rustix::termios::LocalModes::ICANON)
        };
        until("raw", || !modes(&terminal));
        match end {
            "keys" => terminal.types("\x1dd"),
            "stop" => assert_eq!(scene.portcullis(&["stop"]).status, Some(0)),
            signal => {
                let signal: nix::sys::signal::Signal = format!("SIG{signal}").parse().unwrap();
                nix::sys::signal::kill(pid(&scene, "attach"), signal).unwrap();
            }
        }
        assert_eq!(terminal.status(), status, "{end}");
        assert!(modes(&terminal), "{end}");
        until("the screen is back", || {
            let shown = terminal.shown();
            shown.rfind("\x1b[?1049l") > shown.rfind("\x1b[?1049h")
                && shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l")
        });
    }
}

#[test]
fn who_only_looks_types_nothing_and_sees_no_sequence_that_acts() {
    let scene = Scene::new(Who::User);
    let id = scene.detach(
        &[],
        "printf 'a\\033]52;c;eA==\\007b\\033[6nc\\033[1md\\n'; read line; echo \"<$line>\"",
    );
    until("it prints", || scene.logs(&id).contains('d'));
    let mut looks = scene.at_terminal(&["attach", "--read-only"], (24, 80));
    looks.shows("abc\x1b[1md");
    looks.types("typed\r");
    let mut drives = scene.at_terminal(&["attach"], (24, 80));
    drives.shows("abc\x1b[1md");
    drives.types("really\r");
    assert_eq!(drives.status(), Some(0));
    assert_eq!(looks.status(), Some(0));
    looks.shows("<");
    let shown = looks.shown();
    assert!(
        !shown.contains("typed>") && !shown.contains("]52"),
        "{shown}"
    );
    let raw = scene.portcullis(&["logs", &id, "--raw"]).stdout;
    assert!(
        raw.contains("a\x1b]52;c;eA==\x07b\x1b[6nc\x1b[1md\r\n"),
        "{raw:?}"
    );
    assert!(scene.logs(&id).contains("abc\x1b[1md\n"));
    assert_eq!(scene.0.events("session.attached")[0]["read_only"], true);
}

#[test]
fn a_question_to_the_terminal_is_answered_while_nobody_is_there() {
    let scene = Scene::new(Who::Root);
    let id = scene.detach(
        &[],
        "stty raw -echo; printf '\\033[6n'; head -c 6 | od -An -c; stty sane; echo done",
    );
    until("it ends", || !scene.runs());
    let log = scene.logs(&id);
    assert!(log.contains("033   [   1   ;   1   R"), "{log}");
}

#[test]
fn a_log_is_followed_to_the_end() {
    let scene = Scene::new(Who::User);
    let id = scene.detach(
        &[],
        "for n in 1 2 3; do echo $n; sleep 0.2; done; touch seen; sleep 0.2; echo 4",
    );
    let followed = scene.portcullis(&["logs", "-f", &id]);
    assert_eq!(
        (followed.status, followed.stdout.as_str()),
        (Some(0), "1\n2\n3\n4\n")
    );
    for (lines, shown) in [("2", "3\n4\n"), ("0", ""), ("9", "1\n2\n3\n4\n")] {
        let run = scene.portcullis(&["logs", &id, "-n", lines]);
        assert_eq!(run.stdout, shown);
    }
}

#[test]
fn a_viewer_that_does_not_read_does_not_stall_a_fast_writer_and_the_log_is_bounded() {
    let scene = Scene::new(Who::Root);
    let id = scene.detach(
        &[],
        "yes $(printf %0500d 0) | head -c 70000000; echo; echo the end",
    );
    let stuck = scene.at_terminal(&["attach", "--read-only"], (24, 80));
    until("it is attached", || {
        !scene.0.events("session.attached").is_empty()
    });
    nix::sys::signal::kill(pid_of(&scene, "attach"), nix::sys::signal::Signal::SIGSTOP).unwrap();
    until("the command ends", || !scene.runs());
    drop(stuck);
    let size = scene.log_file(&id).metadata().unwrap().len();
    assert!((32 << 20..=64 << 20).contains(&size), "{size}");
    let last = scene.portcullis(&["logs", &id, "-n", "2"]).stdout;
    assert!(last.ends_with("the end\n"), "{last}");
    assert_eq!(scene.0.events("session.detached").len(), 1);
}

/// The process of this installation whose first argument this is.
fn pid_of(scene: &Scene, verb: &str) -> nix::unistd::Pid {
    let program = scene.0.path("bin/portcullis");
    let wanted = format!("{}\0{verb}\0", program.display());
    let found = std::fs::read_dir("/proc").unwrap().find_map(|entry| {
        let entry = entry.unwrap();
        let line = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
        line.starts_with(&wanted)
            .then(|| entry.file_name().to_str().unwrap().parse().unwrap())
    });
    nix::unistd::Pid::from_raw(found.unwrap())
}

#[test]
fn nobody_else_attaches_or_reads_the_log_and_the_jail_does_not_see_it() {
    let scene = Scene::new(Who::Root);
    let folder = scene.0.path("home/.local/state/portcullis");
    let id = scene.detach(
        &["--mode", "danger-full-access"],
        &format!(
            "ls -A {0}; cat {0}/sessions/*.log; echo seen; exec sleep 1000",
            folder.display()
        ),
    );
    until("it prints", || scene.logs(&id).contains("seen"));
    let log = scene.logs(&id);
    assert!(
        !log.contains(".log\n") && log.contains("No such file"),
        "{log}"
    );
    std::fs::set_permissions(scene.0.path("home"), PermissionsExt::from_mode(0o755)).unwrap();
    for verb in [vec!["attach", "--read-only", &id], vec!["logs", &id]] {
        let mut command = scene.0.command(&verb);
        std::os::unix::process::CommandExt::uid(&mut command, cli::USER);
        let run = Run::of(&command.output().unwrap());
        assert_eq!(
            (run.status, run.stdout.as_str()),
            (Some(69), ""),
            "{verb:?} {run:?}"
        );
    }
    assert!(scene.runs());
}

#[test]
fn a_session_that_shares_its_callers_streams_has_no_terminal_to_attach_to() {
    let scene = Scene::new(Who::Root);
    let mut command = scene
        .0
        .command(["run", "--", "sh", "-c", "touch ready; read line"]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    until("it runs", || scene.0.path("work/ready").exists());
    let run = scene.portcullis(&["attach", "--read-only"]);
    assert_eq!(run.status, Some(1));
    assert!(run.stderr.contains("not started with -d"), "{run:?}");
    let piped = scene.portcullis(&["attach"]);
    assert_eq!(piped.status, Some(64), "{piped:?}");
    drop(child.stdin.take());
    child.wait().unwrap();
}
