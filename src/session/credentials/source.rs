//! Where a value comes from: the caller's environment, a file, the service manager, a command, Codex.
//! An error names the source and the cure, never the value.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::libc::O_NONBLOCK;
use zeroize::{Zeroize, Zeroizing};

use crate::policy::{Credential, CredentialSource};
use crate::secret::Secret;
use crate::sys::process::{Spawn, find_in_path};

use super::super::Progress;
use super::super::caller::Caller;
use super::super::trust;
use super::codex_sign_in::SignIn;

/// The longest value; servers take heads of 8 KiB or 16 KiB in all.
const MAX_VALUE: usize = 16 << 10;

/// For a command to print a value. A person may have to touch a key meanwhile.
const PATIENCE: Duration = Duration::from_mins(1);

/// Why there is no value.
#[derive(Debug)]
pub(super) struct NoValue {
    /// The source is not there at all: what `optional` forgives.
    pub(super) missing: bool,
    /// Source, problem, cure.
    pub(super) text: String,
}

impl NoValue {
    fn missing(text: String) -> Self {
        Self {
            missing: true,
            text,
        }
    }

    fn wrong(text: String) -> Self {
        Self {
            missing: false,
            text,
        }
    }
}

/// The file that holds a value, if one does: the jail must not see it.
pub(super) fn place(rule: &Credential, caller: &Caller) -> Option<PathBuf> {
    match &rule.source {
        CredentialSource::File(path) => Some(match path.strip_prefix("~/") {
            Some(below) => caller.home.join(below),
            None => PathBuf::from(path),
        }),
        CredentialSource::Systemd(name) => {
            let folder = caller.variable("CREDENTIALS_DIRECTORY")?;
            Some(Path::new(folder).join(name))
        }
        CredentialSource::Env(_) | CredentialSource::Command(_) | CredentialSource::Codex(_) => {
            None
        }
    }
}

/// Takes the value from where the profile says.
pub(super) fn read(
    rule: &Credential,
    caller: &Caller,
    writable: &[PathBuf],
    sign_in: Option<&SignIn>,
    tell: &mut dyn FnMut(Progress<'_>),
) -> Result<Secret<String>, NoValue> {
    match &rule.source {
        CredentialSource::Env(name) => variable(name, caller),
        CredentialSource::File(_) | CredentialSource::Systemd(_) => match place(rule, caller) {
            Some(path) => file(&path, rule, writable, tell),
            None => Err(NoValue::missing(
                "CREDENTIALS_DIRECTORY is not set; start from a systemd unit with LoadCredential="
                    .to_owned(),
            )),
        },
        CredentialSource::Command(argv) => command(argv, caller, writable),
        CredentialSource::Codex(which) => sign_in
            .and_then(|sign_in| sign_in.take(*which))
            .ok_or_else(|| NoValue::missing(SignIn::cure(*which).to_owned())),
    }
}

/// A value without the newline at its end, fit for a header field.
pub(super) fn checked(
    value: &Secret<String>,
    rule: &Credential,
) -> Result<Secret<String>, NoValue> {
    let text = value.expose();
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    let source = named(&rule.source);
    if text.is_empty() {
        return Err(NoValue::missing(format!(
            "{source} is empty; put the secret there, or set optional = true"
        )));
    }
    if text.len() > MAX_VALUE {
        return Err(NoValue::wrong(format!(
            "{source} is longer than {MAX_VALUE} bytes: no header field is"
        )));
    }
    let printable = |b: u8| b.is_ascii_graphic() || b == b' ';
    if !text.bytes().all(printable) || text.trim() != text {
        return Err(NoValue::wrong(format!(
            "{source} has more lines than one, spaces at its ends, or characters that no header field takes; \
             let it hold the secret alone"
        )));
    }
    Ok(Secret::new(text.to_owned()))
}

fn named(source: &CredentialSource) -> String {
    match source {
        CredentialSource::Env(name) => format!("the variable {name}"),
        CredentialSource::File(path) => format!("the file {path}"),
        CredentialSource::Systemd(name) => format!("the service credential {name}"),
        CredentialSource::Command(argv) => {
            let program = argv.first().map(String::as_str).unwrap_or_default();
            format!("what {program} printed")
        }
        CredentialSource::Codex(_) => "Codex's sign-in".to_owned(),
    }
}

fn variable(name: &str, caller: &Caller) -> Result<Secret<String>, NoValue> {
    let text = caller.environment.get(OsStr::new(name)).ok_or_else(|| {
        NoValue::missing(format!(
            "{name} is not set; export it, or set optional = true"
        ))
    })?;
    let text = text
        .to_str()
        .ok_or_else(|| NoValue::wrong(format!("the variable {name} is not UTF-8")))?;
    Ok(Secret::new(text.to_owned()))
}

fn file(
    path: &Path,
    rule: &Credential,
    writable: &[PathBuf],
    tell: &mut dyn FnMut(Progress<'_>),
) -> Result<Secret<String>, NoValue> {
    let shown = path.display();
    if !trust::is_outside(path, writable) {
        return Err(NoValue::wrong(format!(
            "{shown} lies in a folder that the session can write; keep it elsewhere"
        )));
    }
    let failed = |error: std::io::Error| NoValue {
        missing: error.kind() == std::io::ErrorKind::NotFound,
        text: format!("read {shown}: {error}; put the secret there, or set optional = true"),
    };
    // A pipe in its place must not keep us waiting.
    let open = File::options()
        .read(true)
        .custom_flags(O_NONBLOCK)
        .open(path)
        .map_err(failed)?;
    let metadata = open.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(NoValue::wrong(format!("{shown} is no regular file")));
    }
    // The service manager keeps its own folder, where a group bit may be the mask of an access control list.
    let ours = matches!(rule.source, CredentialSource::File(_));
    if ours && metadata.mode() & 0o077 != 0 {
        tell(Progress::Note(&format!(
            "credential {}: others can read {shown}; chmod 600 it",
            rule.name
        )));
    }
    // One allocation of the full size: growing would leave copies.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_VALUE + 3));
    open.take(MAX_VALUE as u64 + 3)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    text(&bytes, &format!("{shown}"))
}

fn command(
    argv: &[String],
    caller: &Caller,
    writable: &[PathBuf],
) -> Result<Secret<String>, NoValue> {
    let (name, arguments) = argv
        .split_first()
        .ok_or_else(|| NoValue::wrong("the command is empty".to_owned()))?;
    let path = caller
        .variable("PATH")
        .unwrap_or(OsStr::new("/usr/bin:/bin"));
    let path = trust::path_outside(path, writable);
    let expanded = |word: &str| match word.strip_prefix("~/") {
        Some(below) => caller.home.join(below),
        None => PathBuf::from(word),
    };
    let program = if name.contains('/') {
        Some(expanded(name)).filter(|path| path.is_absolute())
    } else {
        find_in_path(OsStr::new(name), &path).map(PathBuf::from)
    };
    let program = program.ok_or_else(|| {
        NoValue::missing(format!(
            "no program {name:?} in PATH outside of what the session can write; name it by its absolute path"
        ))
    })?;
    let words = arguments.iter().map(|word| expanded(word));
    let named = std::iter::once(program.clone()).chain(words.filter(|word| word.is_absolute()));
    for one in named {
        if !trust::is_outside(&one, writable) {
            return Err(NoValue::wrong(format!(
                "the command names {}, which lies in a folder that the session can write",
                one.display()
            )));
        }
    }
    run(&program, arguments, caller, &path)
}

/// Runs the caller's own program with the caller's environment, but in no folder that the session can
/// write and with no input; what it complains about is for the person at the terminal.
fn run(
    program: &Path,
    arguments: &[String],
    caller: &Caller,
    path: &OsStr,
) -> Result<Secret<String>, NoValue> {
    let mut spawn = Spawn::new(program)
        .current_dir(Path::new("/"))
        .inherit_stderr();
    for (name, value) in &caller.environment {
        spawn = spawn.env(name, value);
    }
    spawn = spawn.env("PATH", path);
    for word in arguments {
        let word = match word.strip_prefix("~/") {
            Some(below) => caller.home.join(below).into_os_string(),
            None => word.into(),
        };
        spawn = spawn.arg(word);
    }
    let shown = program.display();
    let captured = spawn.capture(PATIENCE).map_err(|error| NoValue {
        missing: error.kind() == std::io::ErrorKind::NotFound,
        text: format!("run {shown}: {error}"),
    })?;
    let mut output = Zeroizing::new(captured.stdout);
    if !captured.status.success() {
        return Err(NoValue::wrong(format!(
            "{shown} ended with {}; try the command by hand",
            captured.status
        )));
    }
    let value = text(&output, &format!("what {shown} printed"));
    output.zeroize();
    value
}

fn text(bytes: &[u8], source: &str) -> Result<Secret<String>, NoValue> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(Secret::new(text.to_owned())),
        Err(_) => Err(NoValue::wrong(format!("{source} is not text"))),
    }
}
