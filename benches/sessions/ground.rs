//! Where sessions run: started by whoever calls, or by the service for users of its host.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use nix::sched::{CloneFlags, setns, unshare};

use crate::service::{ADA, BOB, OPERATOR, Service, User};
use crate::sum::{Sum, Sums, children, of_trees};
use crate::{AT_ONCE, COMMAND};

/// The users of the service, each of whom starts one session after the other.
const USERS: [User; AT_ONCE] = [ADA, BOB];

/// A place for sessions. Dropping it ends all of them.
pub(crate) enum Ground {
    Standalone(Standalone),
    Service(Box<Service>),
}

impl Ground {
    /// Standalone, with folders below this one.
    pub(crate) fn standalone(folder: &Path) -> Self {
        let workspace = folder.join("workspace");
        fs::create_dir_all(&workspace).unwrap();
        let state = folder.join("state");
        Self::Standalone(Standalone { state, workspace })
    }

    /// Under a daemon of its own.
    pub(crate) fn service() -> Self {
        Self::Service(Box::new(Service::start("")))
    }

    /// Starts so many sessions, some of them at once; how many a second. Each is counted once its command runs.
    pub(crate) fn start(&self, count: usize) -> f64 {
        let since = Instant::now();
        std::thread::scope(|scope| {
            for user in USERS {
                scope.spawn(move || {
                    if let Self::Service(host) = self {
                        enter(host);
                    }
                    for _ in 0..count / AT_ONCE {
                        self.start_one(user);
                    }
                });
            }
        });
        count as f64 / since.elapsed().as_secs_f64()
    }

    fn start_one(&self, user: User) {
        let mut command = match self {
            Self::Standalone(standalone) => standalone.portcullis(),
            Self::Service(host) => {
                // What `Service::portcullis` has in between would be counted with the session.
                let mut command = Command::new(host.path("bin/portcullis"));
                command
                    .uid(user.uid)
                    .gid(user.uid)
                    .current_dir(host.work(user))
                    .env_clear()
                    .env("HOME", host.path("home").join(user.name))
                    .env("PATH", std::env::var_os("PATH").unwrap())
                    .stdin(Stdio::null());
                command
            }
        };
        command.args(["run", "-d", "-q", "--", "/bin/sh", "-c", COMMAND]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// What the sessions take, without the daemon.
    pub(crate) fn sums(&self) -> Sums {
        of_trees(&match self {
            Self::Standalone(standalone) => standalone.sessions(),
            // Each session has three processes that the daemon has started.
            Self::Service(host) => children(number(host)),
        })
    }

    /// What the daemon takes.
    pub(crate) fn daemon(&self) -> Option<Sum> {
        match self {
            Self::Standalone(_) => None,
            Self::Service(host) => Some(Sum::of(number(host))),
        }
    }

    /// How many sessions `portcullis ps` lists.
    pub(crate) fn listed(&self) -> usize {
        let listed = match self {
            Self::Standalone(standalone) => standalone.portcullis().args(["ps", "-q"]).output(),
            Self::Service(host) => host.portcullis(OPERATOR, &["ps", "--all", "-q"]).output(),
        };
        String::from_utf8(listed.unwrap().stdout)
            .unwrap()
            .lines()
            .count()
    }
}

fn number(host: &Service) -> i32 {
    i32::try_from(host.daemon()).unwrap()
}

/// Has this thread, and whatever it starts, be on the service's host.
fn enter(host: &Service) {
    let namespace = File::open(format!("/proc/{}/ns/mnt", host.daemon())).unwrap();
    // The current folder and the root are all threads' otherwise (setns(2)).
    unshare(CloneFlags::CLONE_FS).unwrap();
    setns(namespace, CloneFlags::CLONE_NEWNS).unwrap();
}

/// Sessions without the service.
pub(crate) struct Standalone {
    state: PathBuf,
    workspace: PathBuf,
}

impl Standalone {
    fn portcullis(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command
            .current_dir(&self.workspace)
            .env("XDG_STATE_HOME", &self.state)
            .env_remove("XDG_RUNTIME_DIR")
            .stdin(Stdio::null());
        command
    }

    /// The session processes, known by their program and its argument, in this folder.
    fn sessions(&self) -> Vec<i32> {
        let program = Path::new(env!("CARGO_BIN_EXE_portcullis"));
        let numbers = fs::read_dir("/proc").unwrap();
        let numbers = numbers.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
        let ours = |number: &i32| {
            let folder = PathBuf::from(format!("/proc/{number}"));
            let line = fs::read(folder.join("cmdline")).unwrap_or_default();
            fs::read_link(folder.join("exe")).is_ok_and(|exe| exe == program)
                && line.ends_with(b"\0detached-session\0")
                && fs::read_link(folder.join("cwd")).is_ok_and(|cwd| cwd == self.workspace)
        };
        numbers.filter(ours).collect()
    }
}

impl Drop for Standalone {
    fn drop(&mut self) {
        self.portcullis()
            .args(["stop", "--all", "--kill"])
            .output()
            .unwrap();
    }
}
