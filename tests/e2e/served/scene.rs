//! A host with the service, a stub of the model, and a Codex that its users can read.

use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::process::{Child, Command};

use serde_json::Value;

use crate::cli::Run;
use crate::codex_install::{CodexVersion, bin};
use crate::credentials::sealed_profile;
use crate::scene::{Model, Transport, configuration, profile};
use crate::service::{ADA, Service, User};
use crate::stub::Stub;
use crate::terminal::until;

/// What the model is asked with, unless a test says else.
const KEY: &str = "not-a-key";

/// Everything that a session of [`ADA`]'s needs. The admin's profiles `model` and `sealed` have the stub in the place
/// of the API.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) host: Service,
    pub(super) stub: Stub,
    codex: PathBuf,
}

impl Served {
    pub(super) fn new(version: CodexVersion, transport: Transport, script: &Value) -> Self {
        Self::expecting(version, transport, &format!("Bearer {KEY}"), script)
    }

    /// With a stub that says of each request whether it came with this authorization.
    pub(super) fn expecting(
        version: CodexVersion,
        transport: Transport,
        authorization: &str,
        script: &Value,
    ) -> Self {
        let host = Service::start("");
        let stub = Stub::start(&host.path("stub"), script, authorization);
        // The checkout may be where only its owner can look.
        let codex = host.path("codex");
        fs::create_dir(&codex).unwrap();
        let mut mount = host.enter();
        mount.args(["mount", "--bind"]);
        mount.args([&version.folder(), &codex]);
        assert!(mount.status().unwrap().success());
        host.admin("profiles/model.toml", &profile(&stub, Model::Allowed));
        host.admin("profiles/sealed.toml", &sealed_profile(&stub));
        let served = Self { host, stub, codex };
        let configuration = configuration(&served.stub, transport);
        served.give(ADA, ".codex/config.toml", &configuration);
        served
    }

    /// A file in a folder of its own in a user's home, for that user alone.
    pub(super) fn give(&self, user: User, below: &str, text: &str) -> PathBuf {
        let file = self.host.path("home").join(user.name).join(below);
        let folder = file.parent().unwrap();
        fs::create_dir_all(folder).unwrap();
        fs::write(&file, text).unwrap();
        for (path, mode) in [(&*file, 0o600), (folder, 0o700)] {
            chown(path, Some(user.uid), Some(user.uid)).unwrap();
            fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        }
        file
    }

    /// `portcullis run … -- codex …` by [`ADA`].
    pub(super) fn command(&self, flags: &[&str], codex: &[&str]) -> Command {
        let words = [&["run"], flags, &["--", "codex"], codex].concat();
        let mut command = self.host.portcullis(ADA, &words);
        command
            .env("PATH", format!("{}:/usr/bin:/bin", bin(&self.codex).display()))
            .env("TERM", "xterm-256color")
            .env("OPENAI_API_KEY", KEY)
            // What the gate trusts at origins is the caller's own choice of authorities.
            .env("SSL_CERT_FILE", self.stub.ca());
        command
    }

    /// `codex exec` in a session of this profile.
    pub(super) fn exec(&self, profile: &str) -> Command {
        let codex = ["exec", "--json", "--skip-git-repo-check", "work"];
        self.command(&["-p", profile], &codex)
    }

    /// A file of the workspace.
    pub(super) fn workspace_file(&self, name: &str) -> PathBuf {
        self.host.work(ADA).join(name)
    }

    /// The records of all sessions of [`ADA`]'s, as the service shows them to her.
    pub(super) fn records(&self) -> Vec<Value> {
        let tail = ["audit", "tail", "--json", "-n", "10000"];
        let run = self.host.run(ADA, &tail);
        assert_eq!(run.status, Some(0), "{run:#?}");
        let lines = run.stdout.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// How many of them are of this event.
    pub(super) fn count(&self, event: &str) -> usize {
        let records = self.records();
        let of_it = records.iter().filter(|record| record["event"] == event);
        of_it.count()
    }

    /// Whether every log of hers holds.
    #[track_caller]
    pub(super) fn assert_verified(&self) {
        let run = self.host.run(ADA, &["audit", "verify"]);
        assert_eq!(run.status, Some(0), "{run:#?}");
    }
}

/// A command that runs; ended when dropped.
#[derive(Debug)]
pub(super) struct Turn {
    child: Child,
    streams: [File; 2],
}

impl Turn {
    pub(super) fn begin(mut command: Command) -> Self {
        let streams = [(); 2].map(|()| tempfile::tempfile().unwrap());
        let [stdout, stderr] = streams.each_ref().map(|file| file.try_clone().unwrap());
        let child = command.stdout(stdout).stderr(stderr).spawn().unwrap();
        Self { child, streams }
    }

    /// Waits until it has ended by itself.
    pub(super) fn end(mut self) -> Run {
        let mut ended = None;
        until("it ends", || {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        });
        let [stdout, stderr] = self.streams.each_ref().map(|mut file| {
            let mut bytes = Vec::new();
            file.rewind().unwrap();
            file.read_to_end(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes).into_owned()
        });
        Run {
            status: ended.and_then(|status| status.code()),
            stdout,
            stderr,
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
