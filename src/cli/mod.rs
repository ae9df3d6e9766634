//! The command line: one file per verb, and the only place that prints.
#![forbid(unsafe_code)]

pub mod audit;
pub mod failure;
pub mod print;

use std::process::ExitCode;

use clap::Parser;

use crate::exit::Exit;

/// Runs Codex sessions in jails whose only way out is an audited gate.
#[derive(Debug, Parser)]
#[command(name = "portcullis", version)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Follow, verify and tell what was recorded
    #[command(subcommand)]
    Audit(audit::AuditCommand),
}

/// Entry of `portcullis`.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            drop(error.print());
            let exit = if error.use_stderr() {
                Exit::Usage
            } else {
                Exit::Success
            };
            return exit.into();
        }
    };
    let outcome = match arguments.verb {
        Verb::Audit(command) => audit::run(command),
    };
    outcome
        .unwrap_or_else(|failure| {
            print::error(&failure);
            failure.exit
        })
        .into()
}
