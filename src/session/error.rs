//! Why a session did not start, and the exit code that says so.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

use crate::audit::folder::FolderError;
use crate::exit::Exit;
use crate::ids::{SessionId, SessionName};
use crate::jail::JailError;
use crate::policy::ProfileError;
use crate::wire::init::{FailureKind, InitFailure};

use super::companions::CompanionError;
use super::service::ServiceError;
use super::trust_store::TrustStoreError;
use super::upstream::UpstreamError;

/// Why a command was not executed.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The profile cannot be used, or a flag does not fit it.
    #[error("{0}")]
    Profile(#[from] ProfileError),
    /// Another session has the name.
    #[error(
        "--name {name}: session {session} of yours has it and runs; choose another, or stop that one"
    )]
    NameTaken {
        /// The name.
        name: SessionName,
        /// Whose it is.
        session: SessionId,
    },
    /// The workspace cannot be used.
    #[error("workspace {}: {source}; name an existing folder with -C DIR", path.display())]
    Workspace {
        /// As given.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// There is nothing to hold inspected origins to.
    #[error("{0}")]
    TrustStore(#[from] TrustStoreError),
    /// The service does not do its part.
    #[error("{0}")]
    Service(#[from] ServiceError),
    /// The audit folder cannot be used.
    #[error("{0}")]
    AuditFolder(#[from] FolderError),
    /// Nobody can be asked in the way that was asked for.
    #[error("approvals: {problem}")]
    Approvals {
        /// Cause and cure.
        problem: String,
    },
    /// A credential has no value that could be used.
    #[error("credential {name}: {problem}")]
    Credential {
        /// Its name in the profile.
        name: String,
        /// Source, problem, cure; never the value.
        problem: String,
    },
    /// The proxy that is to lead out cannot be used.
    #[error("{0}")]
    Upstream(#[from] UpstreamError),
    /// A limit cannot be set, and the profile requires it.
    #[error("{problem}, or let it start without with isolation.limits = \"best-effort\"")]
    Limits {
        /// Which, why, and a cure.
        problem: String,
    },
    /// The jail could not be built.
    #[error("{0}")]
    Jail(#[from] JailError),
    /// The audit writer or the gate is of no use.
    #[error("{0}")]
    Companion(#[from] CompanionError),
    /// init could not confine itself or execute the command.
    #[error("{}: {}{hint}", failure.step, failure.error)]
    Init {
        /// Its report.
        failure: InitFailure,
        /// What the session knows besides.
        hint: String,
    },
    /// The jail ended before init spoke: bubblewrap has told why on standard error.
    #[error(
        "the jail did not start: bubblewrap ended with {status} for the reason in the line above; if it \
         is about namespaces, allow them (sysctl user.max_user_namespaces, \
         kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns) or run as root"
    )]
    NoJail {
        /// How bubblewrap ended.
        status: ExitStatus,
    },
    /// The kernel refused something ordinary.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl LaunchError {
    /// The code to exit with.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Init { failure, .. } => match failure.kind {
                FailureKind::NotStarted => Exit::NotStarted,
                FailureKind::NotExecutable => Exit::NotExecutable,
                FailureKind::NotFound => Exit::NotFound,
            },
            Self::Companion(CompanionError::Interrupted(arrived)) => {
                Exit::Signal(u8::try_from(arrived.signal as i32).unwrap_or(0))
            }
            _ => Exit::NotStarted,
        }
    }
}
