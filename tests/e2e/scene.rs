//! A workspace, a stub of the model, and a real Codex in the jail.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::cli::{Install, Run, Who};
use crate::codex_install::{CodexVersion, bin};
use crate::stub::{NAME, Stub};

/// How Codex talks to the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Sse,
    WebSocket,
}

/// Whether the profile lets the model's host through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Model {
    Allowed,
    OffTheList,
}

/// Everything one run needs.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) install: Install,
    pub(crate) stub: Stub,
    codex: PathBuf,
    profile: PathBuf,
}

impl Scene {
    /// As root, with the model allowed, over SSE.
    pub(crate) fn new(version: CodexVersion, script: &Value) -> Self {
        let codex = version.folder();
        Self::with(Who::Root, codex, Transport::Sse, Model::Allowed, script)
    }

    /// As root, with a stub that says of each request whether it came with this authorization.
    pub(crate) fn expecting(
        version: CodexVersion,
        transport: Transport,
        authorization: &str,
        script: &Value,
    ) -> Self {
        let (who, codex) = (Who::Root, version.folder());
        Self::build(who, codex, transport, Model::Allowed, script, authorization)
    }

    pub(crate) fn with(
        who: Who,
        codex: PathBuf,
        transport: Transport,
        model: Model,
        script: &Value,
    ) -> Self {
        Self::build(who, codex, transport, model, script, "Bearer not-a-key")
    }

    fn build(
        who: Who,
        codex: PathBuf,
        transport: Transport,
        model: Model,
        script: &Value,
        authorization: &str,
    ) -> Self {
        let install = Install::new(who);
        let stub = Stub::start(&install.path("stub"), script, authorization);
        install.write("codex-home/config.toml", &configuration(&stub, transport));
        let profile = install.write("profile.toml", &profile(&stub, model));
        Self {
            install,
            stub,
            codex,
            profile,
        }
    }

    /// The Codex that runs.
    pub(crate) fn codex(&self) -> &Path {
        &self.codex
    }

    /// `portcullis run -p … -- codex exec …`, to its end.
    pub(crate) fn exec(&self, arguments: &[&str]) -> Run {
        let codex = ["codex", "exec", "--json", "--skip-git-repo-check"];
        let mut command = self.command(&["run"], &codex);
        Run::of(&command.args(arguments).output().unwrap())
    }

    /// `portcullis`, this verb and its flags, with the profile and this command.
    pub(crate) fn command(&self, verb: &[&str], codex: &[&str]) -> std::process::Command {
        let path = format!("{}:/usr/bin:/bin", bin(&self.codex).display());
        let mut command = self.install.command(verb);
        command
            .arg("-p")
            .arg(&self.profile)
            .arg("--")
            .args(codex)
            .env("PATH", path)
            .env("CODEX_HOME", self.install.path("codex-home"))
            .env("OPENAI_API_KEY", "not-a-key");
        command
    }

    /// A file of the workspace, as the host sees it.
    pub(crate) fn workspace_file(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.install.work().join(name)).ok()
    }

    /// The caller's own `config.toml`.
    pub(crate) fn callers_configuration(&self) -> String {
        fs::read_to_string(self.install.path("codex-home/config.toml")).unwrap()
    }

    /// Host and port of every request that was judged, with the verdict, in order and without repeats.
    pub(crate) fn judged(&self) -> Judged {
        judged(&self.install.events("egress.decided"))
    }

    /// The same for the stub alone: what Codex needs and nothing else.
    pub(crate) fn only_the_model(&self) -> Judged {
        only_the_model(&self.stub)
    }
}

/// Host and port of every request that was judged, with the verdict.
pub(crate) type Judged = Vec<(String, u64, String)>;

/// Of these records, in order and without repeats.
pub(crate) fn judged(records: &[Value]) -> Judged {
    let decided = records
        .iter()
        .filter(|record| record["event"] == "egress.decided");
    let mut judged: Judged = decided
        .map(|record| {
            let text = |key: &str| record[key].as_str().unwrap().to_owned();
            let port = record["port"].as_u64().unwrap();
            (text("host"), port, text("verdict"))
        })
        .collect();
    judged.dedup();
    judged
}

/// The same for the stub alone.
pub(crate) fn only_the_model(stub: &Stub) -> Judged {
    vec![(NAME.to_owned(), stub.port.into(), "allow".to_owned())]
}

/// A `config.toml` of the caller's that has the stub for its model.
pub(crate) fn configuration(stub: &Stub, transport: Transport) -> String {
    format!(
        "model = \"stub\"\nmodel_provider = \"stub\"\n\
         [model_providers.stub]\nname = \"stub\"\nwire_api = \"responses\"\n\
         base_url = \"https://{NAME}:{}/v1\"\nenv_key = \"CODEX_API_KEY\"\n\
         supports_websockets = {}\n",
        stub.port,
        transport == Transport::WebSocket,
    )
}

/// The shipped profile, with the way to the stub.
pub(crate) fn profile(stub: &Stub, model: Model) -> String {
    let mut text = format!(
        "extends = \"codex\"\n\
         [network.dns]\nservers = [\"127.0.0.1:{}\"]\n\
         [network.addresses]\nallow = [\"127.0.0.1/32\"]\n\
         [environment.set]\nCODEX_CA_CERTIFICATE = {:?}\n",
        stub.dns_port,
        stub.ca().display().to_string(),
    );
    if model == Model::Allowed {
        let port = stub.port;
        let rule = "[[network.rules]]\naction = \"allow\"";
        writeln!(text, "{rule}\nhost = \"{NAME}\"\nports = [{port}]").unwrap();
    }
    text
}
