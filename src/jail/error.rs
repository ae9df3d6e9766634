//! Why a jail could not be built.

use std::io;
use std::path::PathBuf;

use crate::sys::seccomp::SeccompError;
use crate::wire::WireError;

/// Why a jail could not be built; each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// No bubblewrap anywhere.
    #[error(
        "bubblewrap is not installed: neither `bwrap` on PATH (folders that a session can write do not \
         count) nor one beside Codex; install the package `bubblewrap`"
    )]
    BwrapMissing,
    /// None that may have rights which the caller does not have.
    #[error(
        "no bubblewrap that is root's: a session of the service uses one in /usr/bin or another system folder \
         that only root can write, with every folder above it; install the package `bubblewrap`"
    )]
    BwrapNotRoots,
    /// The program is not a bubblewrap that works.
    #[error("{} --version: {cause}; reinstall the package `bubblewrap`", path.display())]
    BwrapBroken {
        /// The program.
        path: PathBuf,
        /// What it did instead.
        cause: String,
    },
    /// Descriptors as bind sources need 0.8.
    #[error(
        "{} is version {found}, needed is 0.8 or later; install a newer package `bubblewrap`",
        path.display()
    )]
    BwrapTooOld {
        /// The program.
        path: PathBuf,
        /// Its version.
        found: String,
    },
    /// The workspace cannot be used.
    #[error("workspace {}: {cause}; {cure}", path.display())]
    Workspace {
        /// The workspace.
        path: PathBuf,
        /// What is wrong.
        cause: String,
        /// What to do.
        cure: &'static str,
    },
    /// A path of the profile, or one that the session shows, cannot be opened.
    #[error("{key} {}: {source}; create it, or take it out of the profile", path.display())]
    Path {
        /// The list it is in, as `filesystem.writable`.
        key: &'static str,
        /// The path.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// A path of the profile contradicts another or cannot be in a jail.
    #[error("{key} {}: {cause}", path.display())]
    Conflict {
        /// The list it is in.
        key: &'static str,
        /// The path.
        path: PathBuf,
        /// With what, and what to do.
        cause: String,
    },
    /// A protected path cannot be protected.
    #[error("protected path {} in {}: {cause}; {cure}", path.display(), root.display())]
    Protected {
        /// The writable root.
        root: PathBuf,
        /// The path below it.
        path: PathBuf,
        /// What is in the way.
        cause: String,
        /// What to do.
        cure: &'static str,
    },
    /// A process of the jail could not be started.
    #[error("starting {what}: {source}")]
    Start {
        /// Which one.
        what: &'static str,
        /// What the kernel says.
        source: io::Error,
    },
    /// The plan or the arguments could not be put into memory.
    #[error("{what}: {source}")]
    Memory {
        /// What was to be written.
        what: &'static str,
        /// What the kernel says.
        source: io::Error,
    },
    /// The sweeper of placeholders broke off.
    #[error("portcullis-init sweep: {0}")]
    Sweeper(#[from] WireError),
    /// Connections of programs that know no proxy cannot be made to lead to the gate.
    #[error("network.transparent: {0}")]
    Intercept(String),
    /// The seccomp filter could not be built.
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
}
