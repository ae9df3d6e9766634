//! How a verb fails: one line (what failed, which thing, what to do) and an exit code.

use std::fmt::Display;

use crate::exit::Exit;

/// A verb's failure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What failed, which thing, what to do; one line.
    pub message: String,
}

impl Failure {
    /// A failure with this code and message.
    pub fn new(exit: Exit, message: impl Display) -> Self {
        Self {
            exit,
            message: message.to_string(),
        }
    }
}

/// What every verb answers.
pub type Outcome = Result<Exit, Failure>;
