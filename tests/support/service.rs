//! A host with the service: a mount namespace with its own `/etc`, `/run` and `/var/log`, and a `portcullisd` in
//! it that was started by hand.

use std::fmt::Write as _;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use tempfile::TempDir;

use crate::cli::Run;
use crate::fd_store::FdStore;

/// A user of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: &'static str,
    pub(crate) uid: u32,
    /// Supplementary groups.
    pub(crate) groups: &'static [u32],
}

pub(crate) const ADA: User = User {
    name: "ada",
    uid: 4001,
    groups: &[4050],
};
pub(crate) const BOB: User = User {
    name: "bob",
    uid: 4002,
    groups: &[],
};
pub(crate) const OPERATOR: User = User {
    name: "olga",
    uid: 4003,
    groups: &[4060],
};
pub(crate) const AUDITOR: User = User {
    name: "otto",
    uid: 4004,
    groups: &[4061],
};
pub(crate) const USERS: [User; 4] = [ADA, BOB, OPERATOR, AUDITOR];

const PASSWD: &str = "\
portcullis-gate:x:4101:4101::/nonexistent:/usr/sbin/nologin
portcullis-audit:x:4102:4102::/nonexistent:/usr/sbin/nologin
";

const GROUP: &str = "\
portcullis-gate:x:4101:
portcullis-audit:x:4102:
portcullis-operators:x:4060:olga
portcullis-auditors:x:4061:otto
staff2:x:4050:ada
";

/// What turns a shell into such a host, and then into the daemon.
const BECOME: &str = r#"
mount -t overlay overlay -o "lowerdir=$1/etc:/etc" /etc
mount --bind "$1/etc/portcullis" /etc/portcullis
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=755 tmpfs /var/log
mkdir -m 755 /run/portcullis /var/log/portcullis
exec "$1/bin/portcullisd"
"#;

/// How somebody runs a command there.
const ENTER: &str = r#"cd "$1"; shift; exec "$@""#;

/// A host with the service. Dropping it ends the daemon and all its sessions.
#[derive(Debug)]
pub(crate) struct Service {
    root: TempDir,
    daemon: Child,
    /// Keeps the mount namespace when the daemon is gone.
    keeper: Child,
    /// What the daemon has kept for the next one.
    pub(crate) store: FdStore,
}

impl Service {
    /// With this `portcullis.toml`.
    pub(crate) fn start(config: &str) -> Self {
        let root = tempfile::Builder::new()
            .prefix("portcullis-")
            .tempdir()
            .unwrap();
        let path = |below: &str| root.path().join(below);
        let mode = |below: &str, mode| {
            fs::set_permissions(path(below), PermissionsExt::from_mode(mode)).unwrap();
        };
        mode("", 0o755);
        for folder in [
            "bin",
            "etc",
            "etc/portcullis",
            "etc/portcullis/profiles",
            "home",
        ] {
            fs::create_dir(path(folder)).unwrap();
        }
        for program in [
            env!("CARGO_BIN_EXE_portcullis"),
            env!("CARGO_BIN_EXE_portcullisd"),
            env!("CARGO_BIN_EXE_portcullis-gate"),
            env!("CARGO_BIN_EXE_portcullis-init"),
            env!("CARGO_BIN_EXE_portcullis-audit"),
            env!("CARGO_BIN_EXE_portcullis-auditor"),
        ] {
            let name = Path::new(program).file_name().unwrap();
            fs::copy(program, path("bin").join(name)).unwrap();
        }
        let mut passwd = fs::read_to_string("/etc/passwd").unwrap() + PASSWD;
        let mut group = fs::read_to_string("/etc/group").unwrap() + GROUP;
        for user in USERS {
            let home = path("home").join(user.name);
            let (name, uid) = (user.name, user.uid);
            writeln!(passwd, "{name}:x:{uid}:{uid}::{}:/bin/sh", home.display()).unwrap();
            writeln!(group, "{name}:x:{uid}:").unwrap();
            fs::create_dir_all(home.join("work")).unwrap();
            fs::set_permissions(&home, PermissionsExt::from_mode(0o700)).unwrap();
            for folder in [home.join("work"), home] {
                std::os::unix::fs::chown(folder, Some(user.uid), Some(user.uid)).unwrap();
            }
        }
        fs::write(path("etc/passwd"), passwd).unwrap();
        fs::write(path("etc/group"), group).unwrap();
        fs::write(path("etc/portcullis/portcullis.toml"), config).unwrap();
        let store = FdStore::listen(&path("notify"));
        let (daemon, keeper) = boot(root.path());
        Self {
            root,
            daemon,
            keeper,
            store,
        }
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.root.path().join(below)
    }

    /// A path of the host's as it is inside.
    pub(crate) fn inside(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.keeper.id()))
    }

    /// A command of root's, with the host's mounts.
    pub(crate) fn enter(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.keeper.id()));
        command
    }

    /// The host's processes of one of our programs.
    pub(crate) fn processes(&self, program: &str) -> Vec<String> {
        let path = self.path("bin").join(program);
        let entries = fs::read_dir("/proc").unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let is_one = |name: &String| {
            let exe = fs::read_link(format!("/proc/{name}/exe"));
            name.parse::<u32>().is_ok() && exe.is_ok_and(|exe| exe == path)
        };
        names.filter(is_one).collect()
    }

    /// Kills the one process of this program (SIGKILL).
    pub(crate) fn kill(&self, program: &str) {
        use rustix::process::{Pid, Signal, kill_process};
        let pids = self.processes(program);
        let [pid] = &pids[..] else {
            panic!("{program}: {pids:?}");
        };
        let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
        kill_process(pid, Signal::KILL).unwrap();
    }

    /// A file of the admin's.
    pub(crate) fn admin(&self, name: &str, text: &str) {
        fs::write(self.path("etc/portcullis").join(name), text).unwrap();
    }

    /// A user's workspace.
    pub(crate) fn work(&self, user: User) -> PathBuf {
        self.path("home").join(user.name).join("work")
    }

    /// Any command, by a user in a folder of theirs.
    pub(crate) fn command(&self, user: User, folder: &Path, words: &[&str]) -> Command {
        let groups: Vec<String> = user.groups.iter().map(ToString::to_string).collect();
        let groups = match groups.as_slice() {
            [] => "--clear-groups".to_owned(),
            groups => format!("--groups={}", groups.join(",")),
        };
        let mut command = self.enter();
        command
            .arg("setpriv")
            .args([
                "--reuid",
                &user.uid.to_string(),
                "--regid",
                &user.uid.to_string(),
            ])
            .arg(groups)
            .args(["--", "sh", "-e", "-c", ENTER, "enter"])
            .arg(folder)
            .args(words)
            .env_clear()
            .env("HOME", self.path("home").join(user.name))
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .stdin(Stdio::null());
        command
    }

    /// `portcullis`, by a user in their workspace.
    pub(crate) fn portcullis(&self, user: User, arguments: &[&str]) -> Command {
        let program = self.path("bin/portcullis");
        let words = [&[program.to_str().unwrap()], arguments].concat();
        self.command(user, &self.work(user), &words)
    }

    /// The same, to its end.
    pub(crate) fn run(&self, user: User, arguments: &[&str]) -> Run {
        Run::of(&self.portcullis(user, arguments).output().unwrap())
    }

    /// Starts a detached session and gives its id.
    pub(crate) fn detached(&self, user: User, arguments: &[&str]) -> String {
        let run = self.run(user, &[&["run", "-d"], arguments].concat());
        assert_eq!(run.status, Some(0), "{run:#?}");
        run.stdout.trim().to_owned()
    }

    /// The daemon's process.
    pub(crate) fn daemon(&self) -> u32 {
        self.daemon.id()
    }

    /// Kills it (SIGKILL).
    pub(crate) fn kill_daemon(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
    }

    /// Starts the next daemon, with what was kept for it.
    pub(crate) fn restart_daemon(&mut self) {
        let kept = self.store.kept();
        self.start_daemon(kept);
    }

    /// The same where nothing was kept, as after `systemctl stop`.
    pub(crate) fn restart_daemon_without_store(&mut self) {
        self.start_daemon(Vec::new());
    }

    fn start_daemon(&mut self, kept: Vec<(String, OwnedFd)>) {
        let ready = self.store.ready();
        let names: Vec<&str> = kept.iter().map(|(name, _)| name.as_str()).collect();
        let mut command = self.enter();
        command
            .args(["sh", "-e", "-c", "LISTEN_PID=$$ exec \"$1\"", "restart"])
            .arg(self.path("bin/portcullisd"))
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("NOTIFY_SOCKET", self.path("notify"))
            .stdin(Stdio::null());
        if !kept.is_empty() {
            command
                .env("LISTEN_FDS", kept.len().to_string())
                .env("LISTEN_FDNAMES", names.join(":"));
        }
        let mappings = kept
            .into_iter()
            .zip(3..)
            .map(|((_, fd), child_fd)| FdMapping {
                parent_fd: fd,
                child_fd,
            });
        command.fd_mappings(mappings.collect()).unwrap();
        self.daemon = command.spawn().unwrap();
        self.until("the next daemon is ready", || self.store.ready() > ready);
    }

    /// Another daemon on the same host, with what it says.
    pub(crate) fn second_daemon(&self) -> Run {
        let output = self.enter().arg(self.path("bin/portcullisd")).output();
        Run::of(&output.unwrap())
    }

    /// The records of a session's log. The line at its end may be half written.
    pub(crate) fn records(&self, user: User, session: &str) -> Vec<serde_json::Value> {
        let log = self.inside(&format!("/var/log/portcullis/{}/{session}.jsonl", user.uid));
        let text = fs::read_to_string(&log).unwrap();
        text.split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Waits until this holds.
    #[expect(clippy::unused_self, reason = "reads as a wait for the host")]
    pub(crate) fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let until = Instant::now() + Duration::from_mins(1);
        while !holds() {
            assert!(Instant::now() < until, "{what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Starts the daemon in a namespace of its own, and somebody who keeps that.
fn boot(root: &Path) -> (Child, Child) {
    let mut daemon = Command::new("unshare")
        .args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-e",
            "-c",
            BECOME,
            "become",
        ])
        .arg(root)
        .env_clear()
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .env("NOTIFY_SOCKET", root.join("notify"))
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let socket = format!("/proc/{}/root/run/portcullis/control.sock", daemon.id());
    let until = Instant::now() + Duration::from_secs(30);
    while !Path::new(&socket).exists() {
        assert!(daemon.try_wait().unwrap().is_none(), "the daemon ended");
        assert!(Instant::now() < until, "the daemon does not listen");
        std::thread::sleep(Duration::from_millis(10));
    }
    let keeper = Command::new("nsenter")
        .arg(format!("--mount=/proc/{}/ns/mnt", daemon.id()))
        .args(["sleep", "100000"])
        .spawn()
        .unwrap();
    let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    while namespace(keeper.id()) != namespace(daemon.id()) {
        std::thread::sleep(Duration::from_millis(5));
    }
    (daemon, keeper)
}

impl Drop for Service {
    fn drop(&mut self) {
        for user in USERS {
            let stop = self.portcullis(user, &["stop", "--all", "--kill"]).output();
            drop(stop);
        }
        for child in [&mut self.daemon, &mut self.keeper] {
            child.kill().ok();
            child.wait().ok();
        }
    }
}
