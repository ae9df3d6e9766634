//! The process that writes the log.

use std::process::ExitCode;

/// Entry of `portcullis-audit`.
pub fn main() -> ExitCode {
    crate::exit::Exit::Internal.into()
}
