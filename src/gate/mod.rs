//! The gate.
#![forbid(unsafe_code)]

use std::process::ExitCode;

/// Entry of `portcullis-gate`.
pub fn main() -> ExitCode {
    crate::exit::Exit::Internal.into()
}
