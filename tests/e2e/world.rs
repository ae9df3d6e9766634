//! A network namespace in which the stub is OpenAI: its names resolve there, it listens on their port 443,
//! and it has their certificates. So Codex runs with nothing but what a user has: no provider of its own,
//! no address of the test in any profile.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::cli::{Install, Run, USER, Who};
use crate::codex_install::{CodexVersion, bin};
use crate::stub::{Stub, program};

/// What the stub serves. The last is there so that a request to it would be seen.
pub(crate) const MODELS: [&str; 2] = ["chatgpt.com", "api.openai.com"];
pub(crate) const SIGN_IN: &str = "auth.openai.com";

/// An address that the shipped profiles let through; in the namespace it is one of the loopback interface.
const ADDRESS: &str = "93.184.215.14";

/// The first word is the file that is the name servers' list there.
const SETUP: &str = "ip link set lo up && ip address add \"$1\" dev lo && \
    mount --bind \"$0\" /etc/resolv.conf && shift && exec \"$@\"";

/// An installation, and that network.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) install: Install,
    pub(crate) stub: Stub,
    who: Who,
    codex: PathBuf,
}

impl World {
    /// A request without this token gets 401, as there.
    pub(crate) fn new(who: Who, version: CodexVersion, token: &str, script: &Value) -> Self {
        let install = Install::new(who);
        fs::create_dir(install.path("home/.codex")).unwrap();
        install.own("home/.codex");
        let name_servers = install.write("resolv.conf", "nameserver 127.0.0.1\n");
        let mut command = Command::new("unshare");
        command
            .args(["--net", "--mount", "sh", "-c", SETUP])
            .arg(name_servers)
            .arg(ADDRESS)
            .arg(program())
            .args(["--address", ADDRESS, "--port", "443", "--dns-port", "53"]);
        for name in MODELS.into_iter().chain([SIGN_IN]) {
            command.args(["--name", name]);
        }
        command.arg("--strict");
        let expected = format!("Bearer {token}");
        let stub = Stub::start_with(command, &install.path("stub"), script, &expected);
        Self {
            install,
            stub,
            who,
            codex: version.folder(),
        }
    }

    /// The caller's own sign-in.
    pub(crate) fn sign_in(&self, file: &Value) {
        self.install
            .write("home/.codex/auth.json", &file.to_string());
    }

    /// `portcullis run -p PROFILE -- codex exec …` in that network.
    pub(crate) fn exec(&self, profile: &str, variables: &[(&str, &str)]) -> Run {
        let mut command = Command::new("nsenter");
        command
            .args(["--net", "--mount", "--target", &self.stub.pid().to_string()])
            .arg(format!("--wd={}", self.install.work().display()));
        if self.who == Who::User {
            let user = USER.to_string();
            command.args(["--setgid", &user, "--setuid", &user]);
        }
        command
            .arg(self.install.path("bin/portcullis"))
            .args(["run", "-p", profile, "--"])
            .args(["codex", "exec", "--json", "--skip-git-repo-check", "look"])
            .env_clear()
            .env("HOME", self.install.path("home"))
            .env("PATH", format!("{}:/usr/bin:/bin", bin(&self.codex).display()))
            // What the gate trusts at origins is the caller's own choice of authorities.
            .env("SSL_CERT_FILE", self.stub.ca())
            .envs(variables.iter().copied())
            .stdin(Stdio::null());
        Run::of(&command.output().unwrap())
    }
}
