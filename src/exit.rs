//! Exit codes: what a script may rely on. Owned here, mapped beside each process's entry function.
//!
//! `run` answers with the command's own status (128 + n when signal n ended it) and keeps 125 to 127
//! for what went wrong before the command ran, as env(1) and timeout(1) do. Everything else uses 0,
//! 1 for "the answer is no", and the numbers of sysexits.h.

use std::process::ExitCode;

/// How a process of Portcullis ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It worked; a question was answered "yes".
    Success,
    /// A question was answered "no": `audit verify` found a broken chain, `policy explain` says deny.
    No,
    /// `run`: the command's own status, passed through.
    Command(u8),
    /// `run`: signal n ended the command (128 + n).
    Signal(u8),
    /// `run`: Portcullis failed before the command was executed.
    NotStarted,
    /// `run`: the command was found but could not be executed.
    NotExecutable,
    /// `run`: the command was not found.
    NotFound,
    /// EX_USAGE: the command line is wrong.
    Usage,
    /// EX_UNAVAILABLE: a service or resource this needs is not there.
    Unavailable,
    /// EX_SOFTWARE: a bug of ours.
    Internal,
    /// EX_NOPERM: not permitted.
    NoPermission,
    /// EX_CONFIG: a profile or configuration file is wrong.
    Config,
}

impl Exit {
    /// The number the parent process sees.
    pub fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::No => 1,
            Self::Command(status) => status,
            Self::Signal(signal) => 128_u8.saturating_add(signal),
            Self::NotStarted => 125,
            Self::NotExecutable => 126,
            Self::NotFound => 127,
            Self::Usage => 64,
            Self::Unavailable => 69,
            Self::Internal => 70,
            Self::NoPermission => 77,
            Self::Config => 78,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
