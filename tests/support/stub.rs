//! Starts the stub of the Responses API (`tests/stub`) and reads what it saw.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

/// The name the stub serves and resolves.
pub(crate) const NAME: &str = "api.stub.test";

/// A running stub; stopped when dropped.
#[derive(Debug)]
pub(crate) struct Stub {
    child: Child,
    folder: PathBuf,
    /// Where it serves HTTPS on 127.0.0.1.
    pub(crate) port: u16,
    /// Where it answers DNS on 127.0.0.1.
    pub(crate) dns_port: u16,
}

impl Stub {
    /// Starts it with a script, and with `folder` for its certificate and logs. `authorized` of a
    /// request tells whether its `Authorization` is this one.
    pub(crate) fn start(folder: &Path, script: &Value, authorization: &str) -> Self {
        let mut command = Command::new(program());
        command.args(["--name", NAME]);
        Self::start_with(command, folder, script, authorization)
    }

    /// The same by a command line that ends with the program and options of the test's own.
    pub(crate) fn start_with(
        mut command: Command,
        folder: &Path,
        script: &Value,
        authorization: &str,
    ) -> Self {
        fs::create_dir_all(folder).unwrap();
        let script_file = folder.join("script.json");
        fs::write(&script_file, script.to_string()).unwrap();
        let mut child = command
            .arg("--dir")
            .arg(folder)
            .arg("--script")
            .arg(script_file)
            .args(["--authorization", authorization])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap();
        let port = |key: &str| ready[key].as_u64().unwrap().try_into().unwrap();
        Self {
            child,
            folder: folder.to_owned(),
            port: port("port"),
            dns_port: port("dns_port"),
        }
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The certificate authority that clients must trust.
    pub(crate) fn ca(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// Every request, in order.
    pub(crate) fn requests(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.folder.join("requests.jsonl")).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// What the model was told of each command, in order.
    pub(crate) fn outputs(&self) -> Vec<String> {
        let answered = self.requests().into_iter().filter_map(|request| {
            let outputs = request["outputs"].as_array()?;
            Some(outputs.last()?.as_str()?.to_owned())
        });
        answered.collect()
    }

    /// Holds back the answers to requests that come with so many tool outputs.
    pub(crate) fn hold(&self, step: usize) {
        fs::write(self.folder.join(format!("hold-{step}")), "").unwrap();
    }

    /// Lets them go.
    pub(crate) fn release(&self, step: usize) {
        fs::remove_file(self.folder.join(format!("hold-{step}"))).unwrap();
    }

    /// Whether such a request has come. Its line may be half written.
    pub(crate) fn was_asked(&self, step: usize) -> bool {
        let text = fs::read_to_string(self.folder.join("requests.jsonl")).unwrap();
        text.lines().any(|line| {
            let request = serde_json::from_str::<Value>(line);
            request.is_ok_and(|request| request["step"] == step)
        })
    }

    /// Every name that was looked up.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        let text = fs::read_to_string(self.folder.join("dns.log")).unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Cargo builds examples beside the binaries, but not for `--test` alone.
pub(crate) fn program() -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_portcullis"))
        .with_file_name("examples")
        .join("responses-stub");
    assert!(
        program.exists(),
        "{} is not built: cargo build --example responses-stub",
        program.display()
    );
    program
}
