//! Runs the real binaries the way a user would: installed in one folder, with a home of their own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// A uid without an account, as many a container user is.
pub(crate) const USER: u32 = 4001;

/// Who runs the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    Root,
    User,
}

/// Root first: what fails for root alone is seen first.
pub(crate) const EVERYONE: [Who; 2] = [Who::Root, Who::User];

/// An installation with a home and a workspace, owned by whoever runs it; gone when dropped.
#[derive(Debug)]
pub(crate) struct Install {
    root: TempDir,
    who: Who,
}

impl Install {
    pub(crate) fn new(who: Who) -> Self {
        let root = tempfile::Builder::new()
            .prefix("portcullis-")
            .tempdir()
            .unwrap();
        let install = Self { root, who };
        fs::set_permissions(install.path(""), fs::Permissions::from_mode(0o755)).unwrap();
        for folder in ["bin", "home", "work"] {
            fs::create_dir(install.path(folder)).unwrap();
        }
        for program in [
            env!("CARGO_BIN_EXE_portcullis"),
            env!("CARGO_BIN_EXE_portcullis-gate"),
            env!("CARGO_BIN_EXE_portcullis-init"),
            env!("CARGO_BIN_EXE_portcullis-audit"),
            env!("CARGO_BIN_EXE_portcullis-auditor"),
        ] {
            let name = Path::new(program).file_name().unwrap();
            // A hard link would keep the build folder's permissions out of reach of an ordinary user.
            fs::copy(program, install.path("bin").join(name)).unwrap();
        }
        install.own("home");
        install.own("work");
        install
    }

    /// A path below the installation.
    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.root.path().join(below)
    }

    /// The workspace.
    pub(crate) fn work(&self) -> PathBuf {
        self.path("work")
    }

    /// Gives a path to whoever runs the command.
    pub(crate) fn own(&self, below: &str) {
        if self.who == Who::User {
            std::os::unix::fs::chown(self.path(below), Some(USER), Some(USER)).unwrap();
        }
    }

    /// Writes a file, owned by whoever runs the command.
    pub(crate) fn write(&self, below: &str, text: &str) -> PathBuf {
        let path = self.path(below);
        if let Some(parent) = path.parent().filter(|parent| !parent.exists()) {
            fs::create_dir_all(parent).unwrap();
        }
        fs::write(&path, text).unwrap();
        self.own(below);
        path
    }

    /// `portcullis` with these arguments, in the workspace, with a small environment.
    pub(crate) fn command<S: AsRef<std::ffi::OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
    ) -> Command {
        let mut command = Command::new(self.path("bin/portcullis"));
        command.args(arguments).current_dir(self.work()).env_clear();
        command
            .env("HOME", self.path("home"))
            .env("PATH", "/usr/local/bin:/usr/bin:/bin");
        command.stdin(std::process::Stdio::null());
        if self.who == Who::User {
            command.uid(USER).gid(USER);
        }
        command
    }

    /// Runs it to its end.
    pub(crate) fn portcullis<S: AsRef<std::ffi::OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
    ) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// `portcullis run -- …`: status and what it printed.
    pub(crate) fn run<'a>(&self, flags: &[&'a str], command: &[&'a str]) -> Run {
        let arguments: Vec<&str> = [&["run"], flags, &["--"], command].concat();
        Run::of(&self.portcullis(arguments))
    }

    /// The records of every session, oldest first, as JSON.
    pub(crate) fn records(&self) -> Vec<serde_json::Value> {
        let folder = self.path("home/.local/state/portcullis/audit");
        let mut files: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        files.retain(|file| {
            file.extension()
                .is_some_and(|extension| extension == "jsonl")
        });
        files.sort();
        let text: String = files
            .iter()
            .map(|file| fs::read_to_string(file).unwrap())
            .collect();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// The records of one event.
    pub(crate) fn events(&self, event: &str) -> Vec<serde_json::Value> {
        self.records()
            .into_iter()
            .filter(|record| record["event"] == event)
            .collect()
    }
}

/// How a command went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    pub(crate) fn of(output: &Output) -> Self {
        Self {
            status: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The status, and standard error as lines.
    pub(crate) fn complaint(&self) -> (Option<i32>, Vec<&str>) {
        (self.status, self.stderr.lines().collect())
    }
}
