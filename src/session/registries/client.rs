//! What may be run and read to find a registry: nothing below a folder that a session can write.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Environment;
use crate::session::trust::{is_outside, path_outside};
use crate::sys::process::{Spawn, find_in_path};

/// How long a client may take to tell its configuration.
const DEADLINE: Duration = Duration::from_secs(15);

/// The longest configuration file that is read.
const MAX_FILE: u64 = 1 << 20;

/// What clients read from the caller's home on their own account.
const HOME_CONFIGURATION: [&str; 4] = [".npmrc", ".config/pip", ".pip", ".cargo"];

/// Variables, by the start of their names, that make a loader or an interpreter run code of their choice.
const HOOKS: [&str; 9] = [
    "LD_",
    "PYTHON",
    "NODE_",
    "PERL",
    "RUBY",
    "BASH",
    "ENV",
    "SHELLOPTS",
    "GCONV_PATH",
];

/// The caller's programs, files and environment, without what a session can write.
#[derive(Debug)]
pub(super) struct Trusted {
    /// The caller's, without [`HOOKS`] and without variables that name a writable place: a virtual
    /// environment, a configuration file, a toolchain. `HOME` is `/` if configuration there is writable.
    environment: Environment,
    /// With every link resolved.
    writable: Vec<PathBuf>,
    /// `PATH` without folders below a writable one: an activated virtual environment of the project.
    path: OsString,
}

impl Trusted {
    pub(super) fn new(caller: &Environment, writable: &[PathBuf]) -> Self {
        let resolved = writable
            .iter()
            .map(|path| path.canonicalize().unwrap_or_else(|_| path.clone()));
        let mut trusted = Self {
            environment: Environment::new(),
            writable: resolved.collect(),
            path: OsString::new(),
        };
        let path = caller.get(OsStr::new("PATH")).cloned().unwrap_or_default();
        let path = path_outside(&path, &trusted.writable);
        let mut environment: Environment = caller
            .iter()
            .filter(|(name, value)| !is_hook(name) && !trusted.is_named_in(value))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let home = environment.get(OsStr::new("HOME")).map(PathBuf::from);
        if !home.is_some_and(|home| trusted.spares_configuration(&home)) {
            environment.insert("HOME".into(), "/".into());
        }
        trusted.path = path;
        trusted.environment = environment;
        trusted
    }

    /// Whether a variable's value names a writable place, alone or in a list or option.
    fn is_named_in(&self, value: &OsStr) -> bool {
        value
            .to_string_lossy()
            .split(|c: char| c.is_whitespace() || matches!(c, ':' | '=' | ',' | ';'))
            .filter(|piece| piece.starts_with('/'))
            .any(|piece| self.is_writable(Path::new(piece)))
    }

    /// Whether no session can write what clients read below this home.
    fn spares_configuration(&self, home: &Path) -> bool {
        home.canonicalize().is_ok_and(|home| {
            !HOME_CONFIGURATION
                .map(|name| home.join(name))
                .iter()
                .any(|path| {
                    self.is_writable(path)
                        || self.writable.iter().any(|folder| folder.starts_with(path))
                })
        })
    }

    /// Whether a path, with every link that exists resolved, lies below a writable folder.
    fn is_writable(&self, path: &Path) -> bool {
        !is_outside(path, &self.writable)
    }

    /// Whether a path exists and lies, with every link resolved, outside of what a session can write.
    pub(super) fn spares(&self, path: &Path) -> bool {
        path.is_absolute() && path.exists() && !self.is_writable(path)
    }

    /// A variable of the caller's.
    pub(super) fn variable(&self, name: &str) -> Option<OsString> {
        self.environment.get(OsStr::new(name)).cloned()
    }

    /// Every variable whose name and value are text.
    pub(super) fn variables(&self) -> impl Iterator<Item = (&str, &str)> {
        self.environment
            .iter()
            .filter_map(|(name, value)| Some((name.to_str()?, value.to_str()?)))
    }

    /// The caller's home.
    pub(super) fn home(&self) -> Option<PathBuf> {
        self.variable("HOME")
            .map(PathBuf::from)
            .filter(|home| home.is_absolute())
    }

    /// A program of the caller's `PATH`.
    pub(super) fn program(&self, name: &str) -> Result<PathBuf, String> {
        find_in_path(OsStr::new(name), &self.path)
            .map(PathBuf::from)
            .filter(|program| self.spares(program))
            .ok_or_else(|| format!("no {name} in PATH outside of the workspace"))
    }

    /// What a program answers, run in `/`, where no project's configuration lies.
    pub(super) fn ask(&self, program: &Path, arguments: &[&OsStr]) -> Result<String, String> {
        let mut spawn = Spawn::new(program).current_dir(Path::new("/"));
        for (name, value) in &self.environment {
            spawn = spawn.env(name, value);
        }
        spawn = spawn
            .env("PATH", &self.path)
            .env("PWD", "/")
            .env("LC_ALL", "C.UTF-8")
            // No client may go to the network for its own news while it is asked.
            .env("npm_config_update_notifier", "false")
            .env("COREPACK_ENABLE_NETWORK", "0")
            .env("PIP_DISABLE_PIP_VERSION_CHECK", "1")
            .env("RUSTUP_AUTO_INSTALL", "0");
        for argument in arguments {
            spawn = spawn.arg(argument);
        }
        let shown = program.display();
        let captured = spawn
            .capture(DEADLINE)
            .map_err(|error| format!("{shown}: {error}"))?;
        if !captured.status.success() {
            return Err(format!("{shown} failed: {}", captured.status));
        }
        String::from_utf8(captured.stdout).map_err(|error| format!("{shown}: {error}"))
    }

    /// The text of a file; `None` if it is not there, not text, too long or a session's to write.
    pub(super) fn read(&self, path: &Path) -> Option<String> {
        if !self.spares(path) || !path.is_file() {
            return None;
        }
        let mut text = String::new();
        let file = std::fs::File::open(path).ok()?;
        file.take(MAX_FILE).read_to_string(&mut text).ok()?;
        Some(text)
    }

    /// The entries of a folder, in order of their names; none if it is a session's to write.
    pub(super) fn list(&self, folder: &Path) -> Vec<PathBuf> {
        if !self.spares(folder) {
            return Vec::new();
        }
        let entries = std::fs::read_dir(folder).into_iter().flatten();
        let mut paths: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect();
        paths.sort_unstable();
        paths
    }
}

/// Whether a variable is one of [`HOOKS`].
fn is_hook(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    HOOKS.iter().any(|hook| name.starts_with(hook.as_bytes()))
}
