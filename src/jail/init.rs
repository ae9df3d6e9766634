//! The first process in the jail.

use std::process::ExitCode;

/// Entry of `portcullis-init`.
pub fn main() -> ExitCode {
    crate::exit::Exit::Internal.into()
}
