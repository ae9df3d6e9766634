//! Sessions of every kind, started without waiting for them, and an origin that their commands ask.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crate::cli::{Install, Who};
use crate::random::Random;

/// A plain HTTP origin on loopback, and how often it was asked.
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    requests: Arc<AtomicU64>,
}

impl Origin {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.2:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(AtomicU64::new(0));
        let counter = requests.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let counter = counter.clone();
                thread::spawn(move || serve(stream.unwrap(), &counter));
            }
        });
        Self { address, requests }
    }

    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

/// Gates die at any moment of an exchange.
fn serve(mut stream: TcpStream, requests: &AtomicU64) {
    let mut head = [0; 4096];
    while stream.read(&mut head).is_ok_and(|got| got > 0) {
        requests.fetch_add(1, Ordering::Relaxed);
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        if stream.write_all(answer).is_err() {
            return;
        }
    }
}

/// An installation whose sessions are killed.
pub(crate) struct Ground {
    pub(crate) install: Install,
    pub(crate) who: Who,
    plain: String,
    everything: String,
    /// What asks the origin, again and again, among processes that only wait.
    script: String,
    started: u64,
}

impl Ground {
    pub(crate) fn new(who: Who, origin: SocketAddr) -> Self {
        let install = Install::new(who);
        let allowed = format!(
            "[[network.rules]]\nhost = '127.0.0.2'\nports = [{}]\naction = 'allow'\n\
             [network.addresses]\nallow = ['127.0.0.0/8']\n",
            origin.port()
        );
        let plain = install.write("plain.toml", &format!("extends = 'base'\n{allowed}"));
        // Every feature that has a process, a socket, a rule or a secret of its own.
        let everything = format!(
            "extends = 'base'\n[network]\ntransparent = true\nmitm = true\nenable_socks5_udp = true\n{allowed}\
             [network.tls]\n'api.test' = 'inspect'\n\
             [[network.credentials]]\nname = 'k'\nhost = 'api.test'\nheader = 'authorization'\n\
             value = 'Bearer ${{env:API_TOKEN}}'\n"
        );
        let everything = install.write("everything.toml", &everything);
        let script = format!(
            "curl -s -o /dev/null --rate 5/s --noproxy '' -x http://127.0.0.1:3128 'http://{origin}/[1-100000]' & \
             sleep 1000 & sh -c 'sleep 1000; true' & wait"
        );
        let ground = Self {
            plain: plain.display().to_string(),
            everything: everything.display().to_string(),
            install,
            who,
            script,
            started: 0,
        };
        // What is kept of the host is there from now on.
        let mut first = ground.quiet(&["run", "-p", &ground.everything, "--", "true"]);
        assert_eq!(first.wait().unwrap().code(), Some(0));
        ground
    }

    /// Starts a session of some kind; does not wait for anything. Its name can be forwarded to.
    pub(crate) fn start(&mut self, random: &mut Random, can_limit: bool) -> (Child, String) {
        self.started += 1;
        let name = format!("session-{}", self.started);
        let profile = if random.percent(40) {
            &self.everything
        } else {
            &self.plain
        };
        let mut arguments = vec!["run", "-q", "-p", profile, "--name", &name];
        if random.percent(30) {
            arguments.push("-d");
        }
        if can_limit && self.who == Who::Root && random.percent(50) {
            arguments.extend(["--limit", "memory=256M", "--limit", "tasks=100"]);
        }
        arguments.extend(["--", "sh", "-c", &self.script]);
        let child = self.quiet(&arguments);
        (child, name)
    }

    /// Somebody at another terminal wants a port of a session's jail.
    pub(crate) fn forward(&self, session: &str) -> Child {
        self.quiet(&["forward", session, "0:3000"])
    }

    /// Started in a process group of its own, so that one that has ended is not mixed up with us.
    fn quiet(&self, arguments: &[&str]) -> Child {
        let mut command = self.install.command(arguments);
        command.env("API_TOKEN", "the-real-secret-value");
        command.process_group(0);
        let command = command.stdout(Stdio::piped()).stderr(Stdio::null());
        command.spawn().unwrap()
    }

    /// The logs of all sessions.
    pub(crate) fn logs(&self) -> Vec<PathBuf> {
        let folder = self.install.path("home/.local/state/portcullis/audit");
        let entries = std::fs::read_dir(folder).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        // Beside them the ledger, and the folder of bodies.
        paths.filter(|path| path.is_file()).collect()
    }
}
