//! `portcullis ps`: the caller's running sessions, a line each. Sweeps up what dead ones left.

use std::io::IsTerminal;

use clap::Args;
use jiff::Timestamp;
use serde_json::json;

use super::audit::phrase;
use super::failure::Outcome;
use super::{counters, print, sessions};
use crate::exit::Exit;
use crate::session::caller::Caller;
use crate::session::running::{self, RunningSession};
use crate::wire::gate::Counters;
use crate::wire::session::Description;

/// Characters of a command that fit a terminal's line beside the rest.
const COMMAND: usize = 48;

/// Arguments of `ps`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  portcullis ps              the oldest first
  portcullis ps --all        those of others too, for operators and auditors
  portcullis ps --json       one line a session, for a program
  portcullis ps -q           the ids alone: portcullis ps -q | xargs -n 1 portcullis stop")]
pub struct PsArguments {
    /// Those of others too, where the service lets you see them
    #[arg(short, long)]
    all: bool,
    /// Print the ids alone
    #[arg(short, long, conflicts_with = "json")]
    quiet: bool,
    /// Answer in JSON, one line a session
    #[arg(long)]
    json: bool,
}

/// Prints them.
pub fn run(arguments: &PsArguments) -> Outcome {
    let caller = Caller::current();
    running::sweep_leftovers(&caller);
    let mut headed = false;
    let sessions = if arguments.all {
        sessions::of_everybody(&caller)?
    } else {
        running::all(&caller)
    };
    for session in sessions {
        let line = if arguments.quiet {
            session.id.to_string()
        } else {
            describe(&session, arguments)
        };
        let plain = !arguments.quiet && !arguments.json;
        let head = (plain && !headed).then(|| heading(arguments.all));
        headed = true;
        if head
            .into_iter()
            .chain([line])
            .any(|line| print::line(line).is_err())
        {
            break;
        }
    }
    if !headed && !arguments.json && std::io::stdout().is_terminal() {
        print::error("no session of yours runs; portcullis run starts one");
    }
    Ok(Exit::Success)
}

/// What a session says of itself. One that does not answer is asked for nothing more.
fn describe(session: &RunningSession, arguments: &PsArguments) -> String {
    let json = arguments.json;
    let known = match running::describe(session) {
        Ok(known) => known,
        Err(problem) if json => {
            let problem = problem.to_string();
            return json!({ "session": { "session": session.id }, "problem": problem }).to_string();
        }
        Err(problem) => {
            let problem = print::escape(&problem.to_string());
            return format!("{}  does not answer: {problem}", session.id);
        }
    };
    let counters = counters::ask(&session.channel).ok();
    if json {
        json!({ "session": known, "counters": counters }).to_string()
    } else {
        row(&known, counters.as_deref(), arguments.all)
    }
}

fn heading(all: bool) -> String {
    columns([
        "ID",
        if all { "USER/NAME" } else { "NAME" },
        "PROFILE",
        "RUNNING",
        "UP",
        "DOWN",
        "REFUSED",
        "COMMAND",
    ])
}

fn row(session: &Description, counters: Option<&Counters>, all: bool) -> String {
    let name = session.name.as_ref().map_or("-", |name| name.as_str());
    let name = if all {
        format!("{}/{name}", print::escape(&session.user))
    } else {
        name.to_owned()
    };
    let number = |value: fn(&Counters) -> String| counters.map_or_else(|| "?".to_owned(), value);
    let mut command = phrase::command(&session.argv);
    if let Some(why) = &session.audit {
        command = format!("[{}] {command}", audit_word(why));
    }
    if std::io::stdout().is_terminal() && command.chars().count() > COMMAND {
        command = command.chars().take(COMMAND - 1).chain(['…']).collect();
    }
    columns([
        &session.session.to_string(),
        &name,
        &print::escape(&session.profile),
        &age(session.started),
        &number(|c| phrase::bytes(c.bytes_up)),
        &number(|c| phrase::bytes(c.bytes_down)),
        &number(|c| c.denied.to_string()),
        &command,
    ])
}

fn columns([id, name, profile, running, up, down, refused, command]: [&str; 8]) -> String {
    format!(
        "{id:<32}  {name:<12}  {profile:<12}  {running:>12}  {up:>9}  {down:>9}  {refused:>7}  {command}"
    )
}

/// Two words for a session whose records cannot be kept.
pub(super) fn audit_word(why: &str) -> &'static str {
    if why.starts_with("blocked") {
        "audit blocked"
    } else {
        "audit behind"
    }
}

/// How long ago that was. A clock that was set back since makes it no time.
pub(super) fn age(since: Timestamp) -> String {
    let ms = Timestamp::now().as_millisecond() - since.as_millisecond();
    phrase::duration(u64::try_from(ms).unwrap_or(0))
}
