//! Upstream proxies: one that says what a test wants, one that gets plain requests, tinyproxy and microsocks.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::upstream::{Logged, Origin, ok};

/// An HTTP proxy that answers every request with this, and after a 2xx connects to `to`, whatever it
/// was asked for. Its log has what it was sent.
pub(crate) fn answering(answer: &'static [u8], to: SocketAddr) -> Origin {
    Origin::raw(move |mut client| {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if client.read(&mut byte)? == 0 {
                return Ok(());
            }
            head.push(byte[0]);
        }
        client.write_all(answer)?;
        if answer.starts_with(b"HTTP/1.1 200") {
            tunnel(client, TcpStream::connect(to)?)?;
        }
        Ok(())
    })
}

/// An HTTP proxy that gets requests themselves and is every origin at once: it answers with their heads, and
/// with 407 unless they bring this login, where there is one.
pub(crate) fn forwarding(login: Option<&'static str>) -> Origin {
    Origin::http(move |head, _| {
        if login.is_some_and(|login| !head.contains(login)) {
            let challenge = "Proxy-Authenticate: Basic realm=\"inner\"\r\nContent-Length: 5\r\n";
            return format!("HTTP/1.1 407 inner\r\n{challenge}\r\ninner").into_bytes();
        }
        ok(head)
    })
}

fn tunnel(mut client: Logged, origin: TcpStream) -> io::Result<()> {
    let (mut down, mut from) = (client.stream.try_clone()?, origin.try_clone()?);
    let answers = thread::spawn(move || {
        drop(io::copy(&mut from, &mut down));
        drop(down.shutdown(Shutdown::Write));
    });
    let mut up = origin;
    io::copy(&mut client, &mut up)?;
    up.shutdown(Shutdown::Write)?;
    let ended = answers.join();
    ended.map_err(|_| io::Error::other("the answers' thread panicked"))
}

/// A real proxy for whom every one of these names is 127.0.0.1. Ended when dropped.
pub(crate) struct RealProxy {
    pub(crate) address: SocketAddr,
    child: Child,
    _folder: tempfile::TempDir,
}

impl RealProxy {
    /// tinyproxy; with a login where one is given.
    pub(crate) fn tinyproxy(names: &[&str], login: Option<(&str, &str)>) -> Self {
        Self::start(names, |port, folder| {
            let mut text = format!("Port {port}\nListen 127.0.0.1\nLogLevel Error\nTimeout 60\n");
            if let Some((user, password)) = login {
                writeln!(text, "BasicAuth {user} {password}").unwrap();
            }
            let file = folder.join("tinyproxy.conf");
            std::fs::write(&file, text).unwrap();
            ["tinyproxy", "-d", "-c", file.to_str().unwrap()]
                .map(str::to_owned)
                .into()
        })
    }

    /// microsocks; with a login where one is given.
    pub(crate) fn microsocks(names: &[&str], login: Option<(&str, &str)>) -> Self {
        Self::start(names, |port, _| {
            let port = port.to_string();
            let mut line = vec!["microsocks", "-i", "127.0.0.1", "-p", &port];
            if let Some((user, password)) = login {
                line.extend(["-u", user, "-P", password]);
            }
            line.into_iter().map(str::to_owned).collect()
        })
    }

    /// In a mount namespace of its own, with a hosts file of its own.
    fn start(names: &[&str], line: impl Fn(u16, &std::path::Path) -> Vec<String>) -> Self {
        Self::launch(&format!("127.0.0.1 {}\n", names.join(" ")), line)
    }

    /// The same with these lines for a hosts file, and shared memory of its own.
    pub(crate) fn launch(lines: &str, line: impl Fn(u16, &std::path::Path) -> Vec<String>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Some proxies are somebody else by the time they read it.
        let readable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), readable).unwrap();
        let hosts = folder.path().join("hosts");
        std::fs::write(&hosts, lines).unwrap();
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let child = Command::new("unshare")
            .args(["--mount", "sh", "-c"])
            .arg("mount --bind \"$0\" /etc/hosts && mount -t tmpfs none /dev/shm && exec \"$@\"")
            .arg(&hosts)
            .args(line(address.port(), folder.path()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let proxy = Self {
            address,
            child,
            _folder: folder,
        };
        let end = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < end, "the proxy does not listen");
            thread::sleep(Duration::from_millis(10));
        }
        proxy
    }
}

impl Drop for RealProxy {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}
