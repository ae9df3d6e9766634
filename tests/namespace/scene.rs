//! An installation of a user who has a number of their own, and sessions of theirs as the daemon starts them.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::cli::{Install, Run, Who};
use crate::probe::probe;

/// How a session is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// In a user namespace that root made.
    Given,
    /// By the user.
    Plain,
}

impl Start {
    fn word(self) -> &'static str {
        match self {
            Self::Given => "given",
            Self::Plain => "plain",
        }
    }
}

pub(crate) struct Scene {
    pub(crate) install: Install,
    pub(crate) uid: u32,
    /// What uid 0 of the namespace is outside.
    pub(crate) reserved: u32,
    /// Supplementary groups.
    pub(crate) groups: Vec<u32>,
    /// Nobody can make user namespaces.
    pub(crate) forbidden: bool,
}

/// Each scene has two numbers that nobody else has, so that its processes can be told.
fn next() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    100_000 + std::process::id() % 10_000 * 100 + 2 * NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Scene {
    pub(crate) fn new() -> Self {
        let install = Install::new(Who::Root);
        let uid = next();
        for folder in ["home", "work"] {
            let path = install.path(folder);
            chown(&path, Some(uid), Some(uid)).unwrap();
            // Nobody else may look into them, whoever is not root: neither may uid 0 of the namespace.
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
            fs::set_permissions(&path, mode).unwrap();
        }
        Self {
            install,
            uid,
            reserved: uid + 1,
            groups: Vec::new(),
            forbidden: false,
        }
    }

    pub(crate) fn write(&self, below: &str, text: &str) -> PathBuf {
        let path = self.install.path(below);
        fs::write(&path, text).unwrap();
        chown(&path, Some(self.uid), Some(self.uid)).unwrap();
        path
    }

    /// A program as the daemon starts it for the user.
    pub(crate) fn started(&self, start: Start, program: &str) -> Command {
        let groups: Vec<String> = self.groups.iter().map(ToString::to_string).collect();
        let modes = [if self.forbidden { "forbidden," } else { "" }, start.word()].concat();
        let like = self.install.command([""; 0]);
        let mut command = Command::new(probe());
        command
            .args(["enter", &modes])
            .args([self.uid, self.reserved].map(|id| id.to_string()))
            .args([&groups.join(","), program])
            .current_dir(self.install.work())
            .env_clear()
            .envs(
                like.get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            )
            .stdin(Stdio::null());
        command
    }

    /// `portcullis` with these arguments, in a process that the daemon has started.
    pub(crate) fn session(&self, start: Start, arguments: &[&str]) -> Command {
        let program = self.install.path("bin/portcullis");
        let mut command = self.started(start, program.to_str().unwrap());
        command.args(arguments);
        command
    }

    /// `portcullis run FLAGS -- COMMAND`, to its end.
    pub(crate) fn run(&self, start: Start, flags: &[&str], command: &[&str]) -> Run {
        let arguments = [&["run"], flags, &["--"], command].concat();
        Run::of(&self.session(start, &arguments).output().unwrap())
    }

    /// A shell script in a session: what it said.
    pub(crate) fn script(&self, start: Start, script: &str) -> String {
        let run = self.run(start, &[], &["sh", "-c", script]);
        assert_eq!(run.status, Some(0), "{run:?}");
        run.stdout
    }

    /// A session whose command has said "ready".
    pub(crate) fn ready(&self, start: Start, flags: &[&str], script: &str) -> Session {
        let script = format!("echo ready; {script}");
        let arguments = [&["run"], flags, &["--", "sh", "-c", &script]].concat();
        let mut command = self.session(start, &arguments);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Session { child, output }
    }

    /// The user's own `portcullis`, in no namespace.
    pub(crate) fn client(&self, arguments: &[&str]) -> Command {
        let mut command = self.install.command(arguments);
        command.uid(self.uid).gid(self.uid);
        command
    }

    /// A Python program of the user's that is in no namespace: what it said.
    pub(crate) fn outsider(&self, program: &str, argument: &str) -> String {
        let mut python = Command::new("/usr/bin/python3");
        python.args(["-c", program, argument]);
        let output = python.uid(self.uid).gid(self.uid).output().unwrap();
        let run = Run::of(&output);
        assert_eq!(run.status, Some(0), "{run:?}");
        run.stdout
    }

    /// The processes of the user and of uid 0 of their namespaces.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        numbers
            .filter(|process| {
                let owner = field(*process, "Uid:");
                let mut ids = owner.split_whitespace().filter_map(|id| id.parse().ok());
                ids.any(|id: u32| id == self.uid || id == self.reserved)
            })
            .collect()
    }

    pub(crate) fn assert_nothing_is_left(&self) {
        until("the end of every process", || self.processes().is_empty());
        // A sweeper removes what it has made before it ends.
        let left = fs::read_dir(self.install.work()).unwrap();
        let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, Vec::<std::ffi::OsString>::new());
    }
}

/// A session whose command runs.
pub(crate) struct Session {
    pub(crate) child: Child,
    pub(crate) output: BufReader<ChildStdout>,
}

impl Drop for Session {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A line of `/proc/PID/status`, without its name; empty where there is none.
pub(crate) fn field(process: u32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_default().trim().to_owned()
}

pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while !done() {
        assert!(Instant::now() < deadline, "{what}: not within a minute");
        std::thread::sleep(Duration::from_millis(10));
    }
}
