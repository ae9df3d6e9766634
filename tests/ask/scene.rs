//! A session whose command fetches what the test tells it to, and an origin.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cli::{Install, Who};

/// Longer than anything here takes on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Fetches each URL that it reads and prints the status.
const FETCH: &str = "echo ready; while read url; do \
     curl -s -o /dev/null -w '%{http_code}\\n' --max-time 60 -x http://127.0.0.1:3128 \"$url\"; done";

/// A plain HTTP origin; answers 200 to whatever it is sent.
pub(crate) fn origin() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.2:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut head = [0; 4096];
                // The gate may close without a request.
                if stream.read(&mut head).is_ok_and(|got| got > 0) {
                    drop(stream.write_all(
                        b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
                    ));
                }
            });
        }
    });
    address
}

/// A profile that may dial loopback, with this text after it.
pub(crate) fn profile(text: &str) -> String {
    format!("[network.addresses]\nallow = [\"127.0.0.0/8\"]\n{text}")
}

/// A profile that asks for everything.
pub(crate) fn asking(text: &str) -> String {
    format!("[network]\ndefault = \"ask\"\n{}", profile(text))
}

/// Where a profile of the user's own stands.
pub(crate) const OWN: &str = "home/.config/portcullis/profiles/p.toml";

/// An installation with this profile as the user's own `p`.
pub(crate) fn install(text: &str) -> Install {
    let install = Install::new(Who::Root);
    install.write(OWN, text);
    install
}

/// A running session.
pub(crate) struct Session {
    pub(crate) child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    said: BufReader<std::process::ChildStderr>,
}

impl Session {
    /// `portcullis run -p p FLAGS -- …`, without a controlling terminal, as a service has none.
    pub(crate) fn start(install: &Install, flags: &[&str]) -> Self {
        let profile: &[&str] = if flags.first() == Some(&"-p") {
            &[]
        } else {
            &["-p", "p"]
        };
        let arguments = [&["run"], profile, flags, &["--", "sh", "-c", FETCH]].concat();
        let plain = install.command(arguments);
        let mut command = Command::new("setsid");
        command.arg(plain.get_program()).args(plain.get_args());
        command.current_dir(install.work()).env_clear();
        for (name, value) in plain.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let said = BufReader::new(child.stderr.take().unwrap());
        let mut session = Self {
            input: child.stdin.take(),
            child,
            output,
            said,
        };
        if session.line() != "ready" {
            let mut why = String::new();
            session.said.read_to_string(&mut why).unwrap();
            panic!("not started: {why}");
        }
        session
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// Has the command fetch from an origin and does not wait.
    pub(crate) fn begin(&mut self, origin: SocketAddr) {
        writeln!(self.input.as_mut().unwrap(), "http://{origin}/").unwrap();
    }

    /// The status of what was begun.
    pub(crate) fn status(&mut self) -> String {
        self.line()
    }

    pub(crate) fn fetch(&mut self, origin: SocketAddr) -> String {
        self.begin(origin);
        self.status()
    }

    /// Kills the session process alone.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
    }

    /// The next line that portcullis itself said.
    pub(crate) fn said(&mut self) -> String {
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// Ends the command; everything that was said and not read.
    pub(crate) fn end(mut self) -> String {
        self.input = None;
        let mut rest = String::new();
        self.said.read_to_string(&mut rest).unwrap();
        self.child.wait().unwrap();
        rest
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.input = None;
        drop(self.child.wait());
    }
}

/// Runs `portcullis` to its end: status and standard output, or what it complained about.
pub(crate) fn portcullis(install: &Install, arguments: &[&str]) -> (Option<i32>, String) {
    let output = install.portcullis(arguments);
    let text = if output.stdout.is_empty() {
        output.stderr
    } else {
        output.stdout
    };
    (
        output.status.code(),
        String::from_utf8(text).unwrap().trim().to_owned(),
    )
}

/// The question that waits, once there is one.
pub(crate) fn question(install: &Install) -> Value {
    eventually("a question", || {
        let (_, text) = portcullis(install, &["approvals", "list", "--json"]);
        let listed: Value = serde_json::from_str(&text).ok()?;
        listed["questions"].get(0).cloned()
    })
}

pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "never: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Replaces a profile as an editor does.
pub(crate) fn edit(install: &Install, text: &str) {
    let beside = install.write("home/.config/portcullis/profiles/.p.swp", text);
    fs::rename(beside, install.path(OWN)).unwrap();
}
