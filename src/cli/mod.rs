//! The command line: one file per verb, and the only place that prints.
//!
//! Owns: flags, help, tables, messages, exit codes of failures. Trusts: nothing that came out of a jail
//! ([`print::escape`]). Never: decides; a verb calls the module that does.
#![forbid(unsafe_code)]

pub mod approvals;
pub mod attach;
pub mod audit;
pub mod completions;
pub mod counters;
pub mod detached;
mod escape;
pub mod failure;
pub mod forward;
pub mod logs;
pub mod man;
pub mod mitm;
pub mod policy;
pub mod print;
pub mod ps;
pub mod run;
mod service;
mod sessions;
pub mod show;
pub mod stop;
pub mod top;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::exit::Exit;
use crate::sys::beside;

use failure::{Failure, Outcome};

/// Runs commands in jails whose only way out is an audited gate.
#[derive(Debug, Parser)]
#[command(name = "portcullis", version, disable_help_subcommand = true, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

const EXAMPLES: &str = "\
Examples:
  portcullis run -- make test                      no network, writes only below this folder
  portcullis run -p codex -- codex exec \"fix it\"   Codex with the OpenAI API and nothing else
  portcullis policy explain https://example.com -p codex
  portcullis audit show 0197                       what that session did (any unique prefix)";

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run a command in a jail of its own
    Run(run::RunArguments),
    /// List your sessions that run
    Ps(ps::PsArguments),
    /// Tell what a running session is, and what it has done so far
    Show(show::ShowArguments),
    /// Watch your running sessions on the whole screen
    Top(top::TopArguments),
    /// End a running session
    Stop(stop::StopArguments),
    /// Reach a port that the command of a running session listens on
    Forward(forward::ForwardArguments),
    /// Look at the terminal of a session that was started with run -d, and type there
    Attach(attach::AttachArguments),
    /// Print what the command of a session that was started with run -d has printed
    Logs(logs::LogsArguments),
    /// The session process of run -d
    #[command(hide = true)]
    DetachedSession,
    /// The session process of the service
    #[command(hide = true)]
    ServiceSession,
    /// Ask what a policy would say, and why
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Answer what running sessions ask
    Approvals(approvals::ApprovalsArguments),
    /// Print what a running session has done so far
    Counters(counters::CountersArguments),
    /// Read and verify the audit log
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Print a script that completes portcullis's words in your shell
    Completions(completions::CompletionsArguments),
    /// Write the manual pages
    #[command(hide = true)]
    Man(man::ManArguments),
}

/// Entry of `portcullis`.
pub fn main() -> ExitCode {
    start(|verb| match verb {
        Verb::Run(arguments) => run::run(arguments),
        Verb::Ps(arguments) => ps::run(&arguments),
        Verb::Show(arguments) => show::run(&arguments),
        Verb::Top(arguments) => top::run(&arguments),
        Verb::Stop(arguments) => stop::run(&arguments),
        Verb::Forward(arguments) => forward::run(&arguments),
        Verb::Attach(arguments) => attach::run(&arguments),
        Verb::Logs(arguments) => logs::run(&arguments),
        Verb::DetachedSession => detached::session(),
        Verb::ServiceSession => service::session(),
        Verb::Policy(command) => policy::run(command),
        Verb::Approvals(arguments) => approvals::run(arguments),
        Verb::Counters(arguments) => counters::run(&arguments),
        Verb::Audit(_) => auditor(),
        Verb::Completions(arguments) => Ok(completions::run(&arguments)),
        Verb::Man(arguments) => man::run(&arguments),
    })
}

/// Entry of `portcullis-auditor`, which is `portcullis audit`: a program of its own, so that what it takes to read
/// logs (SQLite, Parquet, TLS) is in no session's process.
pub fn auditor_main() -> ExitCode {
    start(|verb| match verb {
        Verb::Audit(command) => audit::run(command),
        _ => Err(Failure::new(
            Exit::Usage,
            "this is `portcullis audit` alone; for everything else there is portcullis",
        )),
    })
}

/// Entry of `portcullis-prune`.
pub fn prune_main() -> ExitCode {
    let outcome = if std::env::args_os().len() > 1 {
        Err(Failure::new(
            Exit::Usage,
            "portcullis-prune takes no arguments: it is what the service's timer runs, by [retention] in \
             /etc/portcullis/audit.toml; for other logs there is `portcullis audit prune`",
        ))
    } else {
        audit::prune_of_the_host()
    };
    end(outcome)
}

/// Has `portcullis-auditor` take the place of this process, with its arguments.
fn auditor() -> Outcome {
    let failed = |error: std::io::Error| {
        let name = "portcullis-auditor";
        Failure::new(
            Exit::Unavailable,
            format!("{name}: {error}; it belongs beside portcullis: install it there"),
        )
    };
    let program = beside::installed("portcullis-auditor").map_err(failed)?;
    Err(failed(beside::become_it(&program, std::env::args_os())))
}

fn start(run: impl FnOnce(Verb) -> Outcome) -> ExitCode {
    match Arguments::try_parse() {
        Ok(arguments) => end(run(arguments.verb)),
        Err(error) => usage(&error).into(),
    }
}

fn end(outcome: Outcome) -> ExitCode {
    outcome
        .unwrap_or_else(|failure| {
            print::error(&failure.message);
            failure.exit
        })
        .into()
}

/// clap's own text: help and version go to standard output and are no failure.
fn usage(error: &clap::Error) -> Exit {
    // Nothing is left to tell it to when the terminal is gone.
    drop(error.print());
    if error.use_stderr() {
        Exit::Usage
    } else {
        Exit::Success
    }
}
