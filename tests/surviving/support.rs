//! A session whose command does what the test tells it, its companions, and its log while it is written.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::cli::{Install, Who};
use crate::dns::{Answer, DnsStub};
use crate::upstream::Origin;

/// Longer than anything here takes on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// Hosts of the profile.
pub(crate) const ALLOWED: &str = "allowed.test";
pub(crate) const OTHER: &str = "other.test";
pub(crate) const DENIED: &str = "denied.test";

/// An installation, what is outside of it, and a profile.
pub(crate) struct Scene {
    pub(crate) install: Install,
    pub(crate) allowed: Origin,
    pub(crate) denied: Origin,
    _names: DnsStub,
    profile: String,
}

impl Scene {
    /// With more lines for `[network]`, and more tables.
    pub(crate) fn new(who: Who, network: &str, tables: &str) -> Self {
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let hosts: BTreeMap<_, _> = [ALLOWED, OTHER, DENIED]
            .map(|host| (host.to_owned(), loopback))
            .into();
        let names = DnsStub::start(move |name, _| {
            let found = hosts.get(name);
            found
                .map(|address| Answer::Address(*address))
                .into_iter()
                .collect()
        });
        let (allowed, denied) = (Origin::echo(), Origin::echo());
        let rules = [ALLOWED, OTHER].map(|host| {
            let port = allowed.port();
            format!("[[network.rules]]\nhost = '{host}'\nports = [{port}]\naction = 'allow'\n")
        });
        let text = format!(
            "extends = 'base'\n[network]\n{network}\n{}[network.addresses]\nallow = ['127.0.0.0/8']\n\
             [network.dns]\nservers = ['{}']\n{tables}\n",
            rules.concat(),
            names.address
        );
        let install = Install::new(who);
        let profile = install.write("profile.toml", &text).display().to_string();
        install.write("work/client.py", include_str!("client.py"));
        Self {
            install,
            allowed,
            denied,
            _names: names,
            profile,
        }
    }

    pub(crate) fn session(&self, flags: &[&str]) -> Session {
        self.session_with(flags, &[])
    }

    /// The same, with variables of the caller's.
    pub(crate) fn session_with(&self, flags: &[&str], variables: &[(&str, &str)]) -> Session {
        let client = ["--", "/usr/bin/python3", "client.py"];
        let arguments = [&["run", "-p", &self.profile], flags, &client].concat();
        let mut command: Command = self.install.command(arguments);
        let mut child = command
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut session = Session {
            input: child.stdin.take(),
            output: BufReader::new(child.stdout.take().unwrap()),
            errors: child.stderr.take().unwrap(),
            child,
        };
        let first = session.line();
        if first != "ready\n" {
            let mut why = String::new();
            session.errors.read_to_string(&mut why).unwrap();
            panic!("not started: {first:?} {why}");
        }
        session
    }

    /// An act on the origin that is allowed.
    pub(crate) fn act(&self, act: &str, path: &str) -> Value {
        json!([act, ALLOWED, self.allowed.port(), path])
    }

    /// Every record so far; the last line may be on its way.
    pub(crate) fn records(&self) -> Vec<Value> {
        records_of(&self.install)
    }

    pub(crate) fn count(&self, event: &str) -> usize {
        let records = self.records();
        records
            .iter()
            .filter(|record| record["event"] == event)
            .count()
    }

    /// The log of the only session.
    pub(crate) fn log(&self) -> PathBuf {
        log_of(&self.install)
    }

    pub(crate) fn gate(&self) -> Pid {
        self.companion("portcullis-gate")
    }

    pub(crate) fn writer(&self) -> Pid {
        self.companion("portcullis-audit")
    }

    /// Its program is that of other helpers, too.
    pub(crate) fn witness(&self) -> Pid {
        self.only("portcullis-init", |pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.ends_with(b"\0witness\0")
        })
    }

    /// The only running process of this program.
    fn companion(&self, name: &str) -> Pid {
        self.only(name, |_| true)
    }

    fn only(&self, name: &str, is: impl Fn(Pid) -> bool) -> Pid {
        let program = self.install.path("bin").join(name);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut found = running(&program);
            found.retain(|pid| is(*pid));
            if let [one] = found[..] {
                return one;
            }
            assert!(Instant::now() < deadline, "{name}: {found:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Kills the gate and waits until another one serves.
    pub(crate) fn kill_gate(&self) {
        let before = self.count("gate.restarted");
        kill(self.gate(), Signal::SIGKILL).unwrap();
        self.until("gate.restarted", before + 1);
    }

    /// Kills the writer and waits until another one writes.
    pub(crate) fn kill_writer(&self) {
        let before = self.count("log.resumed");
        kill(self.writer(), Signal::SIGKILL).unwrap();
        self.until("log.resumed", before + 1);
    }

    /// Waits until there are so many records of this event.
    pub(crate) fn until(&self, event: &str, count: usize) {
        let what = format!("{count} records {event}");
        eventually(&what, || self.count(event) >= count);
    }

    pub(crate) fn assert_verified(&self) {
        let verified = self.install.portcullis(["audit", "verify"]);
        assert_eq!(verified.status.code(), Some(0), "{verified:?}");
    }

    /// Every request that reached an origin, and every one that was answered 200, has a record that it is
    /// allowed; whoever is denied never got anything else.
    pub(crate) fn assert_enforced(&self, said: &[Said]) {
        let records = self.records();
        let decided = |verdict: &str, path: &str| {
            records.iter().any(|record| {
                record["event"] == "egress.decided"
                    && record["verdict"] == verdict
                    && record["path"] == path
            })
        };
        let seen = self.allowed.log.text();
        for one in said.iter().filter(|one| one.act == "http") {
            if seen.contains(&format!("GET {} ", one.path)) || one.outcome == "200" {
                assert!(decided("allow", &one.path), "{one:?}");
            }
        }
        // A tunnel has no path: as many as were answered were allowed at least.
        for (act, transport) in [("socks", "socks5"), ("plain", "transparent")] {
            let answered = said
                .iter()
                .filter(|one| one.act == act && one.outcome == "200");
            let allowed = records.iter().filter(|record| {
                record["event"] == "egress.decided"
                    && record["verdict"] == "allow"
                    && record["transport"] == transport
            });
            let (answered, allowed) = (answered.count(), allowed.count());
            assert!(answered <= allowed, "{act}: {answered} of {allowed}");
        }
        assert_eq!(self.denied.log.connections(), 0);
    }
}

/// What came of one request of a loop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) act: String,
    pub(crate) host: String,
    pub(crate) path: String,
    pub(crate) outcome: String,
}

/// A running session.
pub(crate) struct Session {
    pub(crate) child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    errors: ChildStderr,
}

impl Session {
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    /// Has something done and does not wait.
    pub(crate) fn begin(&mut self, act: &Value) {
        writeln!(self.input.as_mut().unwrap(), "{act}").unwrap();
    }

    /// What came of what was begun.
    pub(crate) fn outcome(&mut self) -> Value {
        let line = self.line();
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line:?}"))
    }

    pub(crate) fn does(&mut self, act: &Value) -> String {
        self.begin(act);
        self.outcome().as_str().unwrap().to_owned()
    }

    /// What a loop said.
    pub(crate) fn said(&mut self) -> Vec<Said> {
        let outcome = self.outcome();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let said = outcome.as_array().unwrap().iter();
        said.map(|one| Said {
            act: text(&one[0]),
            host: text(&one[1]),
            path: text(&one[2]),
            outcome: text(&one[3]),
        })
        .collect()
    }

    /// Ends the command; its status, and what portcullis said.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        drop(self.input.take());
        let mut errors = String::new();
        self.errors.read_to_string(&mut errors).unwrap();
        (self.child.wait().unwrap().code(), errors)
    }
}

/// Every record so far of the only session; the last line may be on its way.
pub(crate) fn records_of(install: &Install) -> Vec<Value> {
    let text = fs::read(log_of(install)).unwrap();
    text.split_inclusive(|byte| *byte == b'\n')
        .filter(|line| line.ends_with(b"\n"))
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect()
}

fn log_of(install: &Install) -> PathBuf {
    let folder = install.path("home/.local/state/portcullis/audit");
    let files = fs::read_dir(folder).unwrap();
    let mut files = files.map(|entry| entry.unwrap().path());
    files
        .find(|file| file.extension().is_some_and(|found| found == "jsonl"))
        .unwrap()
}

/// Running processes of a program.
pub(crate) fn running(program: &std::path::Path) -> Vec<Pid> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap() {
        let path = entry.unwrap().path();
        let pid = path
            .file_name()
            .and_then(|name| name.to_str()?.parse().ok());
        let is = fs::read_link(path.join("exe")).is_ok_and(|exe| exe == program);
        found.extend(pid.filter(|_| is).map(Pid::from_raw));
    }
    found
}

/// Waits until it is so.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
