//! The test bench: a workspace, a home and the programs in a folder that both callers can reach.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use portcullis::policy::FilesystemMode;
use tempfile::TempDir;

use crate::act::{Act, Answer};
use crate::order::{Order, Outcome};
use crate::probe::probe;

/// Who starts the jail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    Root,
    User,
    /// A user whose session the daemon has started, in a namespace that is root's.
    Served,
}

/// All of them.
pub(crate) const CALLERS: [Caller; 3] = [Caller::Root, Caller::User, Caller::Served];

impl Caller {
    pub(crate) fn uid(self) -> u32 {
        match self {
            Self::Root => 0,
            Self::User | Self::Served => 4001,
        }
    }
}

/// A workspace with an order for a jail around it.
pub(crate) struct Bench {
    pub(crate) caller: Caller,
    pub(crate) order: Order,
    folder: TempDir,
}

impl Bench {
    pub(crate) fn new(caller: Caller) -> Self {
        let folder = tempfile::Builder::new().prefix("bench").tempdir().unwrap();
        fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let at = |name: &str| folder.path().join(name);
        copy(env!("CARGO_BIN_EXE_portcullis-init").as_ref(), &at("init"));
        copy(probe(), &at("probe"));
        for name in ["workspace", "home", "outcome"] {
            fs::create_dir(at(name)).unwrap();
        }
        let order = Order {
            init: at("init"),
            workspace: at("workspace"),
            home: at("home"),
            mode: FilesystemMode::WorkspaceWrite,
            writable: Vec::new(),
            readable: Vec::new(),
            masked: Vec::new(),
            protected: Vec::new(),
            hidden: Vec::new(),
            shown: vec![(at("probe"), "/run/probe".into())],
            replaced: Vec::new(),
            files: Vec::new(),
            sockets: BTreeMap::new(),
            listen: Vec::new(),
            floor: 1,
            argv: Vec::new(),
            env: vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())],
            outcome: at("outcome/outcome.json"),
        };
        let bench = Self {
            caller,
            order,
            folder,
        };
        bench.own(bench.folder.path());
        bench
    }

    /// A path outside of the workspace.
    pub(crate) fn host(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A path in the workspace; the same inside and outside.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.order.workspace.join(name)
    }

    /// Writes a file of the caller's, with the folders above it.
    pub(crate) fn file(&self, path: &Path, content: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self.own(self.folder.path());
    }

    /// Gives a tree to the caller.
    pub(crate) fn own(&self, path: &Path) {
        let owner = format!("{0}:{0}", self.caller.uid());
        let status = Command::new("chown")
            .args(["-hR", &owner])
            .arg(path)
            .status();
        assert!(status.unwrap().success());
    }

    /// Acts in a jail.
    pub(crate) fn inside(&mut self, acts: &[Act]) -> Vec<Answer> {
        let (output, outcome) = self.run_acts(acts);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        serde_json::from_str(&said).unwrap_or_else(|_| unreachable!("{outcome:?} {output:?}"))
    }

    /// One act in a jail.
    pub(crate) fn try_inside(&mut self, act: Act) -> Answer {
        self.inside(&[act]).remove(0)
    }

    fn run_acts(&mut self, acts: &[Act]) -> (Output, Outcome) {
        self.order.argv = vec![
            "/run/probe".to_owned(),
            serde_json::to_string(acts).unwrap(),
        ];
        self.run()
    }

    /// Runs the order as it is.
    pub(crate) fn run(&self) -> (Output, Outcome) {
        let output = self.session().output().unwrap();
        (output, self.outcome())
    }

    /// Why there is no jail.
    pub(crate) fn refusal(&mut self) -> String {
        self.order.argv = vec!["true".to_owned()];
        let (output, outcome) = self.run();
        outcome
            .refused
            .unwrap_or_else(|| unreachable!("{output:?}"))
    }

    fn outcome(&self) -> Outcome {
        serde_json::from_slice(&fs::read(&self.order.outcome).unwrap()).unwrap()
    }

    /// The session process, ready to be started.
    pub(crate) fn session(&self) -> Command {
        let order = self.host("order.json");
        fs::write(&order, serde_json::to_vec(&self.order).unwrap()).unwrap();
        let probe = self.host("probe");
        let mut command = if self.caller == Caller::Served {
            let mut command = Command::new(&probe);
            command.args(["enter", "given", "4001", "70001", ""]);
            command.arg(&probe).stdin(Stdio::null()).env("HOME", "/");
            command
        } else {
            self.as_caller(&probe)
        };
        command.arg("session").arg(order);
        command
    }

    /// Starts acts in a jail and leaves them running.
    pub(crate) fn start(&mut self, acts: &[Act]) -> Child {
        self.order.argv = vec![
            "/run/probe".to_owned(),
            serde_json::to_string(acts).unwrap(),
        ];
        self.session().stdout(Stdio::null()).spawn().unwrap()
    }

    /// The probe as the caller without a jail.
    pub(crate) fn twin(&self, acts: &str) -> Command {
        let mut command = self.as_caller(&self.host("probe"));
        command.arg(acts).current_dir(&self.order.workspace);
        command
    }

    /// The session as a child of this shell script, which executes its arguments.
    pub(crate) fn through_shell(&self, script: &str) -> Command {
        let session = self.session();
        let mut command = match self.caller {
            // The daemon's part is root's.
            Caller::Served => Command::new("/bin/bash"),
            _ => self.as_caller(Path::new("/bin/bash")),
        };
        command.arg("-c").arg(script).arg(session.get_program());
        command.args(session.get_args());
        command
    }

    /// A process of the caller's that does nothing.
    pub(crate) fn sleeper(&self) -> Child {
        let mut command = self.as_caller(Path::new("/bin/sleep"));
        command.arg("1000").spawn().unwrap()
    }

    /// Acts as the caller without a jail: the twin.
    pub(crate) fn outside(&self, acts: &[Act]) -> Vec<Answer> {
        let mut command = self.twin(&serde_json::to_string(acts).unwrap());
        let output = command.output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| unreachable!("{output:?}"))
    }

    /// One act without a jail.
    pub(crate) fn try_outside(&self, act: Act) -> Answer {
        self.outside(&[act]).remove(0)
    }

    fn as_caller(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.stdin(Stdio::null());
        if self.caller != Caller::Root {
            command.uid(4001).gid(4001).env("HOME", "/");
        }
        command
    }
}

/// Waits for what must come; the bound only turns a hang into a failure.
pub(crate) fn until(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_mins(1);
    while !is_so() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Copies a program, in a process of its own: a fork of another test would otherwise hold it open for
/// writing for a moment, and it could not be executed (ETXTBSY).
fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg(from).arg(to).status();
    assert!(status.unwrap().success());
}
