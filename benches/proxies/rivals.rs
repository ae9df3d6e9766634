//! Each proxy: how it is started, which processes are its own, and one round of a job with it.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::load::WORD;
use crate::origin::{HOST, Origin};
use crate::table::{Job, Sample};

/// What a job needs of a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Forwards requests and tunnels.
    Http,
    /// Speaks SOCKS5.
    Socks,
    /// Looks into TLS.
    Inspecting,
    /// The same, with a name of its own for each unit.
    InspectingNewHosts,
}

impl Kind {
    fn inspects(self) -> bool {
        matches!(self, Self::Inspecting | Self::InspectingNewHosts)
    }
}

/// A proxy that can be measured.
pub(crate) enum Proxy {
    /// A session of ours for each round: what it costs to start is not counted.
    Ours {
        folder: PathBuf,
        profile: PathBuf,
        port: u16,
    },
    /// A rival that runs until it is dropped.
    Rival {
        name: &'static str,
        child: Child,
        port: u16,
    },
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Self::Rival { child, .. } = self {
            for pid in family(child.id()).into_iter().rev() {
                let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
                nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).ok();
            }
            drop(child.wait());
        }
    }
}

impl Proxy {
    /// All that can do this, ours first; and the names of those that are not installed.
    pub(crate) fn of(kind: Kind, origin: &Origin, folder: &Path) -> (Vec<Self>, Vec<&'static str>) {
        let rivals: &[&'static str] = match kind {
            Kind::Http => &["squid", "tinyproxy"],
            Kind::Socks => &["microsocks", "danted"],
            Kind::Inspecting | Kind::InspectingNewHosts => &["squid", "mitmdump"],
        };
        let mut proxies = vec![Self::ours(kind, origin, folder)];
        let mut absent = Vec::new();
        for name in rivals {
            if installed(name) {
                proxies.push(Self::rival(name, kind, origin, folder));
            } else {
                absent.push(*name);
            }
        }
        (proxies, absent)
    }

    pub(crate) fn ours(kind: Kind, origin: &Origin, folder: &Path) -> Self {
        let folder = folder.join("ours");
        fs::create_dir_all(&folder).unwrap();
        let load = folder.join("load");
        if !load.exists() {
            fs::copy(load_program(), &load).unwrap();
        }
        let ca = folder.parent().unwrap().join("origin-ca.pem");
        fs::write(&ca, &origin.ca).unwrap();
        let inspection = if kind.inspects() {
            format!("mitm = true\nextra_ca = [{:?}]\n", ca.display().to_string())
        } else {
            String::new()
        };
        let (http, https) = (origin.http, origin.https);
        let text = format!(
            "extends = \"base\"\n[network]\n{inspection}[network.limits]\nconnections = 2000\n\
             [[network.rules]]\nhost = \"{HOST}\"\nports = [{http}, {https}]\naction = \"allow\"\n\
             [[network.rules]]\nhost = \"*.hosts.bench.test\"\nports = [{https}]\naction = \"allow\"\n\
             [network.addresses]\nallow = [\"127.0.0.1/32\"]\n"
        );
        let profile = folder.parent().unwrap().join(format!("ours-{kind:?}.toml"));
        fs::write(&profile, text).unwrap();
        let port = if kind == Kind::Socks { 8081 } else { 3128 };
        Self::Ours {
            folder,
            profile,
            port,
        }
    }

    fn rival(name: &'static str, kind: Kind, origin: &Origin, folder: &Path) -> Self {
        let folder = folder.join(format!("{name}-{kind:?}"));
        fs::create_dir_all(&folder).unwrap();
        // Some leave root behind.
        for above in [folder.parent().unwrap(), &folder] {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
            fs::set_permissions(above, mode).unwrap();
        }
        let ca = folder.join("origin-ca.pem");
        fs::write(&ca, &origin.ca).unwrap();
        let port = free_port();
        let mut command = match name {
            "squid" => squid(kind, &folder, port),
            "tinyproxy" => tinyproxy(&folder, port),
            "microsocks" => microsocks(port),
            "danted" => danted(&folder, port),
            "mitmdump" => mitmdump(&folder, port),
            other => panic!("{other}"),
        };
        let log = fs::File::create(folder.join("output.log")).unwrap();
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let child = command.spawn().unwrap();
        wait_for(port, name, &folder);
        Self::Rival { name, child, port }
    }

    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Ours { .. } => "portcullis",
            Self::Rival { name, .. } => name,
        }
    }

    /// One round.
    pub(crate) fn measure(&mut self, job: &Job, origin: &Origin) -> Result<Sample, String> {
        let host = if job.kind == Kind::InspectingNewHosts {
            "h{}.hosts.bench.test"
        } else {
            HOST
        };
        let secure = !matches!(job.way, "plain" | "bulk" | "idle");
        let origin = format!("{host}:{}", if secure { origin.https } else { origin.http });
        let mut load = Load::start(self.load(job, &origin))?;
        let root = match self {
            // The session's own work is not the proxy's.
            Self::Ours { .. } => Root::Companions(load.child.id()),
            Self::Rival { child, .. } => Root::Whole(child.id()),
        };
        let before = root.cpu();
        let outcome = load.go()?;
        let cpu = root.cpu() - before;
        load.end()?;
        if outcome.failed > job.units / 50 {
            return Err(format!("{} of {} failed", outcome.failed, job.units));
        }
        Ok(Sample { cpu, outcome })
    }

    fn load(&self, job: &Job, origin: &str) -> Command {
        let numbers = [job.units, job.clients, job.size].map(|n| n.to_string());
        let mut command = match self {
            Self::Ours {
                folder, profile, ..
            } => {
                let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
                command
                    .args(["run", "--quiet", "-p"])
                    .arg(profile)
                    .arg("-C")
                    .arg(folder);
                command.env("XDG_STATE_HOME", folder.parent().unwrap().join("state"));
                command.args(["--", "./load", WORD]);
                command
            }
            Self::Rival { .. } => {
                let mut command = Command::new(load_program());
                command.arg(WORD);
                command
            }
        };
        let (Self::Ours { port, .. } | Self::Rival { port, .. }) = self;
        command
            .arg(job.way)
            .arg(port.to_string())
            .arg(origin)
            .args(numbers);
        command
    }
}

/// What the load generator reports.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) done: u64,
    pub(crate) failed: u64,
    pub(crate) seconds: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

/// A load generator that waits for our word.
pub(crate) struct Load {
    pub(crate) child: Child,
    input: ChildStdin,
    output: BufReader<std::process::ChildStdout>,
}

impl Load {
    pub(crate) fn start(mut command: Command) -> Result<Self, String> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| error.to_string())?;
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut load = Self {
            child,
            input,
            output,
        };
        match load.line()?.as_str() {
            "ready" => Ok(load),
            other => Err(format!("not ready: {other:?}")),
        }
    }

    pub(crate) fn go(&mut self) -> Result<Outcome, String> {
        self.input
            .write_all(b"go\n")
            .map_err(|error| error.to_string())?;
        let line = self.line()?;
        serde_json::from_str(&line).map_err(|error| format!("{error}: {line:?}"))
    }

    pub(crate) fn end(self) -> Result<(), String> {
        let Self {
            mut child,
            input,
            output,
        } = self;
        drop((input, output));
        let status = child.wait().map_err(|error| error.to_string())?;
        if status.success() {
            Ok(())
        } else {
            Err(status.to_string())
        }
    }

    fn line(&mut self) -> Result<String, String> {
        let mut line = String::new();
        self.output
            .read_line(&mut line)
            .map_err(|error| error.to_string())?;
        Ok(line.trim().to_owned())
    }
}

/// Whose CPU time is a proxy's.
pub(crate) enum Root {
    /// A process and all below it.
    Whole(u32),
    /// The gate and the audit writer among the children of a session.
    Companions(u32),
}

impl Root {
    pub(crate) fn processes(&self) -> Vec<u32> {
        match *self {
            Self::Whole(pid) => family(pid),
            Self::Companions(session) => children(session)
                .into_iter()
                .filter(|pid| {
                    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                    name.starts_with("portcullis-gat") || name.starts_with("portcullis-aud")
                })
                .collect(),
        }
    }

    /// Seconds in user and kernel mode (proc(5), stat fields 14 and 15; 17 and 18 for what ended).
    fn cpu(&self) -> f64 {
        let ticks: u64 = self.processes().into_iter().map(ticks).sum();
        let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)
            .unwrap()
            .unwrap();
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let seconds = ticks as f64 / per_second as f64;
        seconds
    }
}

fn stat(pid: u32) -> Option<Vec<u64>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(')')?;
    Some(
        fields
            .split_whitespace()
            .map(|field| field.parse().unwrap_or(0))
            .collect(),
    )
}

fn ticks(pid: u32) -> u64 {
    // The first field after the name is the third.
    stat(pid).map_or(0, |fields| fields[11..=14].iter().sum())
}

fn children(of: u32) -> Vec<u32> {
    let all = fs::read_dir("/proc").unwrap();
    let all = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    all.filter(|pid| stat(*pid).is_some_and(|fields| fields[1] == u64::from(of)))
        .collect()
}

fn family(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let mut next = 0;
    while next < found.len() {
        found.extend(children(found[next]));
        next += 1;
    }
    found
}

fn load_program() -> PathBuf {
    std::env::current_exe().unwrap()
}

fn installed(name: &str) -> bool {
    let folders = ["/usr/sbin", "/usr/bin", "/usr/local/bin", "/usr/local/sbin"];
    folders
        .iter()
        .any(|folder| Path::new(folder).join(name).exists())
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

fn wait_for(port: u16, name: &str, folder: &Path) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
        let log = fs::read_to_string(folder.join("output.log")).unwrap_or_default();
        assert!(Instant::now() < deadline, "{name} does not listen: {log}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn squid(kind: Kind, folder: &Path, port: u16) -> Command {
    let at = folder.display();
    let mut text = format!(
        "http_access allow all\ncache deny all\naccess_log stdio:{at}/access.log\n\
         cache_log {at}/cache.log\npid_filename {at}/squid.pid\ncoredump_dir {at}\nvia off\n\
         shutdown_lifetime 0 seconds\nhosts_file /etc/hosts\n"
    );
    if kind.inspects() {
        let openssl = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
            ])
            .args(["-subj", "/CN=bench", "-days", "2", "-keyout"])
            .arg(folder.join("key.pem"))
            .arg("-out")
            .arg(folder.join("cert.pem"))
            .output();
        assert!(openssl.unwrap().status.success());
        let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
        fs::write(folder.join("ca.pem"), read("cert.pem") + &read("key.pem")).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        fs::set_permissions(folder.join("ca.pem"), mode).unwrap();
        let store = folder.join("ssl_db");
        if !store.exists() {
            let made = Command::new("/usr/lib/squid/security_file_certgen")
                .args(["-c", "-s"])
                .arg(&store)
                .args(["-M", "16MB"])
                .output();
            assert!(made.unwrap().status.success());
            let owned = Command::new("chown")
                .args(["-R", "proxy"])
                .arg(&store)
                .status();
            assert!(owned.unwrap().success());
        }
        text += &format!(
            "http_port 127.0.0.1:{port} ssl-bump tls-cert={at}/ca.pem generate-host-certificates=on \
             dynamic_cert_mem_cache_size=16MB\n\
             sslcrtd_program /usr/lib/squid/security_file_certgen -s {at}/ssl_db -M 16MB\n\
             sslcrtd_children 4\nacl first at_step SslBump1\nssl_bump peek first\nssl_bump bump all\n\
             tls_outgoing_options cafile={at}/origin-ca.pem\n"
        );
    } else {
        text += &format!("http_port 127.0.0.1:{port}\n");
    }
    let conf = folder.join("squid.conf");
    fs::write(&conf, text).unwrap();
    let mut command = Command::new("squid");
    command.args(["-N", "-f"]).arg(conf);
    command
}

fn tinyproxy(folder: &Path, port: u16) -> Command {
    let conf = folder.join("tinyproxy.conf");
    let text = format!(
        "Port {port}\nListen 127.0.0.1\nTimeout 600\nMaxClients 500\nLogLevel Connect\nLogFile \"{}/log\"\n",
        folder.display()
    );
    fs::write(&conf, text).unwrap();
    let mut command = Command::new("tinyproxy");
    command.arg("-d").arg("-c").arg(conf);
    command
}

fn microsocks(port: u16) -> Command {
    let mut command = Command::new("microsocks");
    command
        .args(["-i", "127.0.0.1", "-p"])
        .arg(port.to_string());
    command
}

fn danted(folder: &Path, port: u16) -> Command {
    let conf = folder.join("danted.conf");
    let text = format!(
        "logoutput: {}/log\ninternal: 127.0.0.1 port = {port}\nexternal: 127.0.0.1\n\
         clientmethod: none\nsocksmethod: none\nuser.privileged: root\nuser.unprivileged: nobody\n\
         client pass {{ from: 0.0.0.0/0 to: 0.0.0.0/0 }}\n\
         socks pass {{ from: 0.0.0.0/0 to: 0.0.0.0/0\n log: connect disconnect }}\n",
        folder.display()
    );
    fs::write(&conf, text).unwrap();
    let mut command = Command::new("danted");
    command
        .arg("-f")
        .arg(conf)
        .arg("-p")
        .arg(folder.join("pid"));
    command
}

fn mitmdump(folder: &Path, port: u16) -> Command {
    let mut command = Command::new("mitmdump");
    command
        .args(["--listen-host", "127.0.0.1", "-p"])
        .arg(port.to_string())
        .arg("--set")
        .arg(format!("confdir={}", folder.display()))
        .arg("--set")
        .arg(format!(
            "ssl_verify_upstream_trusted_ca={}/origin-ca.pem",
            folder.display()
        ));
    command
}
