//! A session whose command listens, and a `portcullis forward` that leads there.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cli::Install;

/// A session in which `server.py` runs and listens.
pub(crate) struct Session {
    pub(crate) child: Child,
    /// TCP ports that somebody listened on in the jail before the command did.
    pub(crate) gate_ports: Vec<u16>,
}

impl Session {
    pub(crate) fn start(install: &Install, flags: &[&str]) -> Self {
        install.write("work/server.py", include_str!("server.py"));
        let server = ["--", "/usr/bin/python3", "server.py"];
        let mut command = install.command([&["run"], flags, &server].concat());
        let errors = File::create(install.path("session.err")).unwrap();
        let child = command
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .unwrap();
        let mut session = Self {
            child,
            gate_ports: Vec::new(),
        };
        let ready = install.path("work/ready");
        until("the servers listen", || {
            let ended = session.child.try_wait().unwrap();
            let said = || text_of(install.path("session.err"));
            assert!(ended.is_none(), "{}", said());
            ready.exists()
        });
        let ports = text_of(&ready);
        session.gate_ports = ports
            .split_whitespace()
            .map(|port| port.parse().unwrap())
            .collect();
        std::fs::remove_file(ready).unwrap();
        session
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A `portcullis forward` that listens.
pub(crate) struct Forwarding {
    pub(crate) child: Child,
    /// Where, in the order of its arguments that are no flags.
    pub(crate) places: Vec<SocketAddr>,
    errors: PathBuf,
}

impl Forwarding {
    pub(crate) fn start(install: &Install, session: &str, forwards: &[&str]) -> Self {
        let errors = install.path("forward.err");
        let mut child = install
            .command([&["forward", "--json", session], forwards].concat())
            .stdout(Stdio::piped())
            .stderr(File::create(&errors).unwrap())
            .spawn()
            .unwrap();
        let count = forwards.iter().filter(|one| !one.starts_with('-')).count();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let places = lines
            .take(count)
            .map(|line| {
                let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
                line["listen"].as_str().unwrap().parse().unwrap()
            })
            .collect::<Vec<_>>();
        assert_eq!(places.len(), count, "{}", text_of(&errors));
        Self {
            child,
            places,
            errors,
        }
    }

    pub(crate) fn connect(&self, place: usize) -> TcpStream {
        let client = TcpStream::connect(self.places[place]).unwrap();
        client
            .set_read_timeout(Some(Duration::from_mins(1)))
            .unwrap();
        client
    }

    /// Something comes back from an echo.
    pub(crate) fn echo(&self, place: usize) {
        let mut client = self.connect(place);
        client.write_all(b"echo").unwrap();
        let mut answer = [0; 4];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"echo");
    }

    /// A connection is closed before a byte comes.
    pub(crate) fn assert_closed(&self, place: usize) {
        let mut rest = Vec::new();
        match self.connect(place).read_to_end(&mut rest) {
            Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => {
                panic!("{error}");
            }
            _ => assert_eq!(rest, Vec::<u8>::new()),
        }
    }

    pub(crate) fn stderr(&self) -> String {
        text_of(&self.errors)
    }
}

impl Drop for Forwarding {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

pub(crate) fn text_of(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap()
}

/// How many descriptors a process has.
pub(crate) fn descriptors(process: u32) -> usize {
    std::fs::read_dir(format!("/proc/{process}/fd"))
        .unwrap()
        .count()
}

/// The children of a process whose command line has this in it.
pub(crate) fn children(process: u32, word: &str) -> Vec<u32> {
    let children = text_of(format!("/proc/{process}/task/{process}/children"));
    children
        .split_whitespace()
        .map(|child| child.parse().unwrap())
        .filter(|child: &u32| {
            let line = std::fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(word)
        })
        .collect()
}

pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while !done() {
        assert!(Instant::now() < deadline, "{what}: not within a minute");
        std::thread::sleep(Duration::from_millis(20));
    }
}
