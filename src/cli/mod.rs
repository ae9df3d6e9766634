//! The command line: one file per verb, and the only place that prints.
#![forbid(unsafe_code)]

pub mod failure;
pub mod policy;
pub mod print;

use std::process::ExitCode;

/// Entry of `portcullis`.
pub fn main() -> ExitCode {
    crate::exit::Exit::Internal.into()
}
