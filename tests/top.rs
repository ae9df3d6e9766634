//! `portcullis top` on a terminal of the test's own (pty(7)): what is on the screen, and how it leaves it.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests may panic and start programs"
)]

#[path = "support/cli.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod cli;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cli::{EVERYONE, Install, Run, Who};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{Termios, tcgetattr};
use nix::unistd::Pid;

const ROWS: usize = 24;
const COLUMNS: usize = 130;

/// A session whose command runs.
struct Session(Child);

impl Session {
    fn start(install: &Install, flags: &[&str], script: &str) -> Self {
        let script = format!("touch ready; {script}");
        let command = ["--", "sh", "-c", &script];
        let mut command = install.command([&["run"], flags, &command].concat());
        let child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let ready = install.path("work/ready");
        until("the command runs", || ready.exists());
        std::fs::remove_file(ready).unwrap();
        Self(child)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// `portcullis top` and its terminal.
struct Top {
    child: Child,
    keys: File,
    /// All that it has written.
    written: Arc<Mutex<Vec<u8>>>,
    terminal: OwnedFd,
    before: Termios,
}

impl Top {
    fn start(install: &Install) -> Self {
        let size = Winsize {
            ws_row: ROWS.try_into().unwrap(),
            ws_col: COLUMNS.try_into().unwrap(),
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pty = openpty(Some(&size), None).unwrap();
        let before = tcgetattr(&pty.slave).unwrap();
        let stream = || Stdio::from(pty.slave.try_clone().unwrap());
        let child = install
            .command(["top"])
            .env("TERM", "xterm")
            .stdin(stream())
            .stdout(stream())
            .stderr(stream())
            .spawn()
            .unwrap();
        let written = Arc::new(Mutex::new(Vec::new()));
        let to = Arc::clone(&written);
        let mut from = File::from(pty.master.try_clone().unwrap());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(got @ 1..) = from.read(&mut buffer) {
                to.lock().unwrap().extend_from_slice(&buffer[..got]);
            }
        });
        Self {
            child,
            keys: pty.master.into(),
            written,
            terminal: pty.slave,
            before,
        }
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// The screen as it is now, a line each.
    fn screen(&self) -> Vec<String> {
        let written = self.written.lock().unwrap().clone();
        shown(&String::from_utf8_lossy(&written))
    }

    /// Waits until this is to be read on the screen.
    fn shows(&self, text: &str) {
        let deadline = Instant::now() + Duration::from_mins(1);
        loop {
            let screen = self.screen().join("\n");
            if screen.contains(text) {
                return;
            }
            assert!(Instant::now() < deadline, "no {text:?} in:\n{screen}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn row(&self, of: &str) -> Vec<String> {
        let screen = self.screen();
        let row = screen.iter().find(|row| row.starts_with(of)).unwrap();
        row.split_whitespace().map(ToOwned::to_owned).collect()
    }

    /// Its status, after its terminal was found as it was before.
    fn end(mut self) -> Option<i32> {
        let status = self.child.wait().unwrap();
        assert_eq!(tcgetattr(&self.terminal).unwrap(), self.before);
        until("the screen and the cursor are back", || {
            let written = self.written.lock().unwrap();
            let text = String::from_utf8_lossy(&written);
            let last = |what: &str| text.rfind(what);
            last("\u{1b}[?1049l") > last("\u{1b}[?1049h")
                && last("\u{1b}[?25h") > last("\u{1b}[?25l")
        });
        status.code()
    }
}

impl Drop for Top {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// What a terminal makes of it: moves, erasing all, and text.
fn shown(written: &str) -> Vec<String> {
    let mut cells = vec![vec![' '; COLUMNS]; ROWS];
    let (mut row, mut column) = (0, 0);
    let mut text = written.chars();
    while let Some(c) = text.next() {
        if c != '\u{1b}' {
            if let Some(cell) = cells.get_mut(row).and_then(|row| row.get_mut(column)) {
                *cell = c;
            }
            column += 1;
            continue;
        }
        assert_eq!(text.next(), Some('['), "a control sequence");
        let mut numbers = String::new();
        let end = loop {
            match text.next() {
                Some(c) if c.is_ascii_alphabetic() => break c,
                Some(c) => numbers.push(c),
                // The rest has not come yet.
                None => break ' ',
            }
        };
        match end {
            'H' => {
                let (first, second) = numbers.split_once(';').unwrap_or(("1", "1"));
                let place = |text: &str| text.parse::<usize>().unwrap() - 1;
                (row, column) = (place(first), place(second));
            }
            'J' => cells = vec![vec![' '; COLUMNS]; ROWS],
            'm' | 'h' | 'l' | ' ' => {}
            other => unreachable!("{numbers}{other}"),
        }
    }
    let line = |row: &Vec<char>| row.iter().collect::<String>().trim_end().to_owned();
    cells.iter().map(line).collect()
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while !done() {
        assert!(Instant::now() < deadline, "{what}: not within a minute");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_first_screen_shows_the_sessions_and_q_gives_the_terminal_back() {
    for who in EVERYONE {
        let install = Install::new(who);
        let script = "while :; do :; done";
        let _busy = Session::start(&install, &["--name", "nightly", "-p", "offline"], script);
        let _idle = Session::start(&install, &["--name", "idle"], "exec sleep 1000");
        let mut top = Top::start(&install);
        top.shows("portcullis top: 2 sessions");
        top.shows("idle ");
        let screen = top.screen();
        let heading: Vec<&str> = screen[1].split_whitespace().collect();
        assert_eq!(
            heading,
            [
                "NAME",
                "PROFILE",
                "RUNNING▾",
                "UP/s",
                "DOWN/s",
                "REQUESTS",
                "REFUSED",
                "MEMORY",
                "CPU",
                "%"
            ]
        );
        assert_eq!(top.row("nightly")[1], "offline");
        // Rates need two looks. A busy loop takes something, on however loaded a machine.
        let cpu = |name: &str| top.row(name).last().unwrap().parse::<u32>().unwrap();
        until("the busy one is seen", || cpu("nightly") > 0);
        assert!(cpu("nightly") > cpu("idle"), "{:?}", top.screen());
        top.press("q");
        assert_eq!(top.end(), Some(0));
    }
}

#[test]
fn a_session_is_chosen_looked_at_and_stopped_after_a_question() {
    let install = Install::new(Who::User);
    let _first = Session::start(&install, &["--name", "first"], "exec sleep 1000");
    // What a command is called is the caller's, but it may hold anything.
    let script = "exec sleep 1000 # \u{1b}]0;taken\u{7}";
    let _second = Session::start(&install, &["--name", "second"], script);
    let mut top = Top::start(&install);
    top.shows("second ");
    top.press("j\r");
    top.shows("name         second");
    top.shows("exec sleep 1000 # \\u{1b}]0;taken\\u{7}");
    top.shows("requests     0 let through, 0 refused");
    top.press("\u{1b}");
    top.shows("first ");
    top.press("s");
    top.shows("stop second? y/n");
    top.press("n");
    top.shows("not stopped");
    top.press("s");
    top.shows("stop second? y/n");
    top.press("y");
    top.shows("second is asked to end");
    top.shows("portcullis top: 1 session");
    let ended = install.events("session.ended");
    let started = install.events("session.started");
    assert_eq!(ended.len(), 1);
    assert_eq!(ended[0]["session"], started[1]["session"]);
    assert_eq!(install.events("session.stopping").len(), 1);
    // Ctrl-C is a key here.
    top.press("\u{3}");
    assert_eq!(top.end(), Some(0));
}

#[test]
fn a_signal_gives_the_terminal_back_as_well() {
    let install = Install::new(Who::Root);
    let top = Top::start(&install);
    top.shows("no session of yours runs");
    let pid = Pid::from_raw(top.child.id().try_into().unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
    assert_eq!(top.end(), Some(128 + 15));
}

#[test]
fn without_a_terminal_there_is_a_hint() {
    let install = Install::new(Who::Root);
    let run = Run::of(&install.portcullis(["top"]));
    assert_eq!(
        run.complaint(),
        (
            Some(64),
            vec!["portcullis: top needs a terminal; for programs there is portcullis ps --json"]
        )
    );
}
