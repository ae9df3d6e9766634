//! bubblewrap: which one, and how it is told. Its arguments are data in a sealed memfd
//! (`--args FD`): nothing that a user, a profile or an agent wrote is ever on its command line, and
//! `ps` shows none of it.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Child;

use super::error::JailError;
use super::footing::Footing;
use super::spec::{Access, JailSpec, Mount, MountKind, SourceId};
use super::stage::{self, Source};
use crate::sys::process::{Spawn, find_in_path};

/// init's descriptor of the control channel.
pub const CONTROL_FD: i32 = 3;
/// init's descriptor of the sealed plan.
pub const PLAN_FD: i32 = 4;
/// bubblewrap's descriptor of its arguments.
pub const ARGS_FD: i32 = 5;
/// The descriptor of the program `portcullis-init`, executed as `/proc/self/fd/6`: it shows
/// nowhere in the jail.
pub const INIT_FD: i32 = 6;
/// Where bubblewrap writes which process is the jail's first.
pub const INFO_FD: i32 = 7;
/// The first of the bind sources.
pub const FIRST_SOURCE_FD: i32 = 8;

/// Bind sources as `/proc/self/fd/N` work from this version on.
const OLDEST: (u32, u32) = (0, 8);

/// A bubblewrap that can build our jails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bwrap {
    /// The program.
    pub path: PathBuf,
    /// What it says of itself, as `bubblewrap 0.8.0`.
    pub version: String,
}

/// A bubblewrap that was asked for its version and has not answered yet.
#[derive(Debug)]
pub struct Question {
    path: PathBuf,
    child: Child,
}

/// The first bubblewrap on `path` that is `trusted`, because a trusted folder can hold a link to what is
/// not, else the first of `bundled` that is there.
pub fn find(
    path: &OsStr,
    trusted: impl Fn(&Path) -> bool,
    bundled: &[PathBuf],
) -> Result<PathBuf, JailError> {
    std::env::split_paths(path)
        .filter_map(|folder| find_in_path(OsStr::new("bwrap"), folder.as_os_str()))
        .map(PathBuf::from)
        .find(|found| trusted(found))
        .or_else(|| bundled.iter().find(|path| path.is_file()).cloned())
        .ok_or(JailError::BwrapMissing)
}

/// Asks it for its version. The answer comes while the caller does something else: [`Question::answer`].
pub fn ask(path: PathBuf) -> Result<Question, JailError> {
    match Spawn::new(&path).arg("--version").pipe_stdout().start() {
        Ok(child) => Ok(Question { path, child }),
        Err(error) => Err(JailError::BwrapBroken {
            path,
            cause: error.to_string(),
        }),
    }
}

impl Question {
    /// Waits for the answer and judges it.
    pub fn answer(mut self) -> Result<Bwrap, JailError> {
        let said = listen(&mut self.child);
        judge(self.path, said)
    }
}

fn judge(path: PathBuf, said: std::io::Result<String>) -> Result<Bwrap, JailError> {
    let broken = |cause: String| JailError::BwrapBroken {
        path: path.clone(),
        cause,
    };
    let said = said.map_err(|error| broken(error.to_string()))?;
    let version = said.trim().to_owned();
    let new_enough = match parse_version(&version) {
        Some(number) => number >= OLDEST,
        // Codex's own says what it was built for, not which version it is.
        None if version.starts_with("bubblewrap ") => {
            has_options_of_0_8(&path).map_err(|error| broken(error.to_string()))?
        }
        None => return Err(broken(format!("said {version:?}"))),
    };
    if !new_enough {
        return Err(JailError::BwrapTooOld {
            path,
            found: version,
        });
    }
    Ok(Bwrap { path, version })
}

/// Whether its help has the option that came with 0.8.
fn has_options_of_0_8(path: &Path) -> std::io::Result<bool> {
    let mut child = Spawn::new(path).arg("--help").pipe_stdout().start()?;
    Ok(listen(&mut child)?.contains("--disable-userns"))
}

/// All that a child says, as far as a bubblewrap would have anything to say.
fn listen(child: &mut Child) -> std::io::Result<String> {
    let mut said = String::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(64 << 10).read_to_string(&mut said)?;
    }
    child.wait()?;
    Ok(said)
}

/// Major and minor number of `bubblewrap 0.8.0`.
fn parse_version(said: &str) -> Option<(u32, u32)> {
    let mut numbers = said.strip_prefix("bubblewrap ")?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The arguments for `--args`: namespaces, identity, mounts. Source n is descriptor
/// [`FIRST_SOURCE_FD`] + n.
pub fn argv(spec: &JailSpec) -> Vec<OsString> {
    let mut argv = Argv::default();
    match spec.footing {
        Footing::Own => argv.add(["--unshare-user"]),
        Footing::Given => {}
    }
    argv.add(NAMESPACES);
    if spec.footing == Footing::Given {
        argv.add(TAKEOVER);
    }
    argv.add(["--hostname", spec.hostname.as_str()]);
    if spec.reports_pid {
        argv.add(["--info-fd", &INFO_FD.to_string()]);
    }
    for mount in &spec.mounts {
        argv.mount(spec, mount);
    }
    for dest in &spec.sealed {
        argv.add([OsStr::new("--remount-ro"), dest.as_os_str()]);
    }
    // Where it has no rights any more by then, init goes there.
    let folder = match spec.footing {
        Footing::Own => spec.workspace.as_os_str(),
        Footing::Given => OsStr::new("/"),
    };
    argv.add([OsStr::new("--chdir"), folder]);
    argv.0
}

/// Every further namespace there is, none of them optional; no capabilities; nothing of our environment.
/// No `--new-session`: the command keeps its terminal, and what that would let it do to the
/// terminal is refused by seccomp.
const NAMESPACES: [&str; 9] = [
    "--unshare-pid",
    "--unshare-net",
    "--unshare-ipc",
    "--unshare-uts",
    "--unshare-cgroup",
    "--die-with-parent",
    "--clearenv",
    "--cap-drop",
    "ALL",
];

/// What init needs to become the user, and has given up before anything else happens.
const TAKEOVER: [&str; 6] = [
    "--cap-add",
    "CAP_CHOWN",
    "--cap-add",
    "CAP_SETUID",
    "--cap-add",
    "CAP_SETPCAP",
];

#[derive(Default)]
struct Argv(Vec<OsString>);

impl Argv {
    fn add(&mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) {
        self.0
            .extend(arguments.into_iter().map(|arg| arg.as_ref().to_owned()));
    }

    fn mount(&mut self, spec: &JailSpec, mount: &Mount) {
        let dest = mount.dest.as_os_str();
        match &mount.kind {
            MountKind::Bind { source, access, .. } => {
                let option = match access {
                    Access::ReadOnly => "--ro-bind",
                    Access::ReadWrite => "--bind",
                };
                let source = match stage::source_of(spec, mount) {
                    Source::Descriptor => format!("/proc/self/fd/{}", number(*source)).into(),
                    Source::Stage(place) => place,
                    Source::Within(_) => return,
                };
                self.add([OsStr::new(option), source.as_os_str(), dest]);
            }
            MountKind::Folder => {
                self.add(["--perms", "0755"]);
                self.add([OsStr::new("--dir"), dest]);
            }
            MountKind::Tmpfs { mode } => {
                self.add(["--perms", &format!("{mode:04o}")]);
                self.add([OsStr::new("--tmpfs"), dest]);
            }
            MountKind::Symlink { target } => {
                self.add([OsStr::new("--symlink"), target.as_os_str(), dest]);
            }
            MountKind::Proc => self.add([OsStr::new("--proc"), dest]),
            MountKind::Devices => self.add([OsStr::new("--dev"), dest]),
            MountKind::Copy { source } => self.file("--file", *source, dest),
            MountKind::Data { source } => self.file("--ro-bind-data", *source, dest),
        }
    }

    fn file(&mut self, option: &str, source: SourceId, dest: &OsStr) {
        self.add(["--perms", "0444", option, &number(source).to_string()]);
        self.add([dest]);
    }
}

/// The number under which bubblewrap inherits a source.
pub(super) fn number(source: SourceId) -> i32 {
    i32::try_from(source.0).map_or(i32::MAX, |place| FIRST_SOURCE_FD.saturating_add(place))
}

/// The arguments as bubblewrap reads them from a file: each ended by a NUL. None if one has a NUL in
/// it, which would make two of it.
pub(super) fn nul_separated(argv: &[OsString]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for argument in argv {
        if argument.as_encoded_bytes().contains(&0) {
            return None;
        }
        bytes.extend_from_slice(argument.as_encoded_bytes());
        bytes.push(0);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_other_programs_are_not_taken_for_bubblewrap() {
        assert_eq!(parse_version("bubblewrap 0.8.0"), Some((0, 8)));
        assert_eq!(parse_version("bubblewrap 0.12.0-rc1"), Some((0, 12)));
        for foreign in ["", "bubblewrap", "bubblewrap x.y", "BusyBox v1.36"] {
            assert_eq!(parse_version(foreign), None, "{foreign:?}");
        }
    }

    #[test]
    fn an_argument_cannot_become_two() {
        let argv = ["--hostname".into(), "a\0--share-net".into()];
        assert_eq!(nul_separated(&argv), None);
        assert_eq!(nul_separated(&argv[..1]), Some(b"--hostname\0".to_vec()));
    }

    #[test]
    fn no_bubblewrap_is_an_error_that_names_the_package() {
        let error = find(OsStr::new("/nonexistent"), |_| true, &[]).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("install the package `bubblewrap`")
        );
    }
}
