//! The command: what is executed in the jail, and what the jail must show for it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::codex;
use crate::codex::auth::AuthFile;
use crate::codex::environment::KEY_VARIABLES;
use crate::policy::{FilesystemMode, Profile};
use crate::sys::process::find_in_path;

use super::caller::Caller;
use super::trust::is_led_out;

/// Variables that name a file of certificates; when one is passed through, its file is shown too.
const CERTIFICATE_VARIABLES: [&str; 8] = [
    "CODEX_CA_CERTIFICATE",
    "SSL_CERT_FILE",
    "NODE_EXTRA_CA_CERTS",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
    "CARGO_HTTP_CAINFO",
];

/// Files of the caller's own Codex configuration that a jailed Codex gets as copies. Copies, because
/// Codex writes them (the answer to "trust this folder?", a refreshed token) and goes no further when
/// it cannot. Never written back: what a session changes ends with it.
const CODEX_FILES: [&str; 4] = ["config.toml", "auth.json", "AGENTS.md", "installation_id"];

/// A command, ready for the jail.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Command {
    /// What init executes.
    pub argv: Vec<String>,
    /// Where the first word was found on the host, for a better "not found".
    pub on_host: Option<PathBuf>,
    /// Host paths the jail shows read-only, with their place there.
    pub shown: Vec<(PathBuf, PathBuf)>,
    /// Files made for the jail.
    pub files: Vec<(PathBuf, Vec<u8>)>,
    /// Folders that come first in `PATH`.
    pub path_first: Vec<PathBuf>,
    /// Variables for the command.
    pub environment: Vec<(String, String)>,
    /// Codex's own bubblewrap, used when the host has none.
    pub bundled_bwrap: Vec<PathBuf>,
    /// The mode that Codex was told on its command line: the jail narrows itself to it.
    pub asked_mode: Option<FilesystemMode>,
}

/// Prepares a command line: a Codex launcher is replaced by the native binary it would start.
///
/// What a link that a session can write leads to elsewhere is left out: the jail would be shown whatever
/// an earlier session chose.
pub fn prepare(
    argv: &[String],
    caller: &Caller,
    profile: &Profile,
    writable: &[PathBuf],
) -> Command {
    let mut command = Command {
        argv: argv.to_vec(),
        ..Command::default()
    };
    command.on_host = argv.first().and_then(|name| locate(name, caller));
    if let Some(layout) = command.on_host.as_deref().and_then(native_codex) {
        let confined = codex::confine(argv);
        command.argv = confined.argv;
        command.asked_mode = confined.asked;
        if let Some(first) = command.argv.first_mut() {
            *first = layout.binary.to_string_lossy().into_owned();
        }
        command.shown.push((layout.folder.clone(), layout.folder));
        command.path_first = layout.path_dirs;
        command.bundled_bwrap.extend(layout.bundled_bwrap);
    } else {
        // A host without bubblewrap may have Codex, which brings one.
        let codex = locate("codex", caller).and_then(|codex| native_codex(&codex));
        command
            .bundled_bwrap
            .extend(codex.and_then(|codex| codex.bundled_bwrap));
    }
    if profile.codex.enabled {
        configure_codex(&mut command, caller, profile, writable);
    }
    show_certificates(&mut command, caller, profile, writable);
    command
}

/// Where the caller's shell would have found the command, links resolved.
fn locate(name: &str, caller: &Caller) -> Option<PathBuf> {
    let path = caller
        .variable("PATH")
        .unwrap_or(OsStr::new("/usr/bin:/bin"));
    let found = find_in_path(OsStr::new(name), path)?;
    std::fs::canonicalize(found).ok()
}

/// npm's launcher, or a binary that is called like it.
fn native_codex(resolved: &Path) -> Option<codex::NativeLayout> {
    if !["codex.js", "codex"]
        .iter()
        .any(|name| resolved.file_name() == Some(OsStr::new(name)))
    {
        return None;
    }
    let arch = codex::Arch::from_rust(std::env::consts::ARCH)?;
    codex::package::find(resolved, arch, Path::exists)
}

fn configure_codex(
    command: &mut Command,
    caller: &Caller,
    profile: &Profile,
    writable: &[PathBuf],
) {
    let managed = codex::managed_config(&profile.codex.config);
    command
        .files
        .push((codex::MANAGED_CONFIG.into(), managed.into_bytes()));
    let host_home = caller
        .variable("CODEX_HOME")
        .map_or_else(|| caller.home.join(".codex"), PathBuf::from);
    let jail_home = caller.home.join(".codex");
    for name in CODEX_FILES {
        let file = host_home.join(name);
        if !file.is_file() || is_led_out(&file, writable) {
            continue;
        }
        // One that the caller cannot read, Codex could not either.
        if let Ok(content) = std::fs::read(file) {
            command.files.push((jail_home.join(name), content));
        }
    }
    let sign_in = jail_home.join("auth.json");
    let account = command.files.iter().any(|(place, text)| {
        *place == sign_in && AuthFile::parse(text).is_ok_and(|file| file.is_chatgpt())
    });
    let variable = |name: &str| caller.variable(name).and_then(OsStr::to_str);
    let [codex, openai] = KEY_VARIABLES.map(variable);
    command
        .environment
        .extend(codex::credentials(codex, openai, account));
}

fn show_certificates(
    command: &mut Command,
    caller: &Caller,
    profile: &Profile,
    writable: &[PathBuf],
) {
    for name in CERTIFICATE_VARIABLES {
        let passed = profile
            .environment
            .pass
            .iter()
            .any(|pattern| pattern == name);
        let set = profile.environment.set.get(name).map(PathBuf::from);
        let file = set.or_else(|| {
            // Where TLS is inspected, the session's own bundle takes its place.
            (passed && !profile.network.inspects())
                .then(|| caller.variable(name).map(PathBuf::from))
                .flatten()
        });
        let fits =
            |file: &PathBuf| file.is_absolute() && file.is_file() && !is_led_out(file, writable);
        if let Some(file) = file.filter(fits) {
            // Several variables often name one file; it can be shown once.
            let shown = (file.clone(), file);
            if !command.shown.contains(&shown) {
                command.shown.push(shown);
            }
        }
    }
}
