//! `portcullis show`: what one running session is, and what it has done so far.

use clap::Args;
use serde_json::json;

use super::audit::phrase;
use super::failure::{Failure, Outcome};
use super::{counters, print, ps, sessions};
use crate::exit::Exit;
use crate::policy::Resource;
use crate::session::caller::Caller;
use crate::session::running::{self, RunningSession};
use crate::wire::session::Description;

/// Arguments of `show`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  portcullis show                    the only session of yours that runs
  portcullis show nightly            by name, or by the beginning of its id
  portcullis show 0197 --json        one line, for a program

What a session did that is over: portcullis audit show.")]
pub struct ShowArguments {
    /// The session: its name or the beginning of its id; may be left out if only one runs
    session: Option<String>,
    /// Answer in JSON, on one line
    #[arg(long)]
    json: bool,
}

/// Prints it.
pub fn run(arguments: &ShowArguments) -> Outcome {
    let caller = Caller::current();
    let (id, channel) = sessions::find(&caller, arguments.session.as_deref())?;
    let session = RunningSession { id, channel };
    let description = running::describe(&session).map_err(|error| {
        Failure::new(Exit::Unavailable, {
            let problem = print::escape(&error.to_string());
            format!("session {id}: {problem}")
        })
    })?;
    let counters = counters::ask(&session.channel).ok();
    if arguments.json {
        let text = json!({ "session": description, "counters": counters });
        drop(print::line(text));
        return Ok(Exit::Success);
    }
    let mut lines = page(&description);
    match &counters {
        Some(counters) => lines.extend(counters::page(counters)),
        None => lines.push("network      none any more: the gate died".to_owned()),
    }
    drop(print::line(lines.join("\n")));
    Ok(Exit::Success)
}

/// What it is, for a person.
pub(super) fn page(session: &Description) -> Vec<String> {
    let Description {
        session: id,
        name,
        user,
        pid,
        started,
        profile,
        generation,
        mode,
        workspace,
        argv,
        isolation,
        limits,
        audit,
    } = session;
    let mut lines = vec![format!("session      {id}")];
    lines.extend(name.iter().map(|name| format!("name         {name}")));
    lines.extend([
        format!("user         {}", print::escape(user)),
        format!("command      {} (process {pid})", phrase::command(argv)),
        format!(
            "workspace    {} ({})",
            print::escape(workspace),
            print::escape(mode)
        ),
        format!("running      {}, since {started:.0}", ps::age(*started)),
        format!(
            "policy       {}, profile {}",
            print::escape(generation.as_str()),
            print::escape(profile)
        ),
        format!(
            "isolation    {}, Landlock ABI {}, {} system calls",
            print::escape(&isolation.bwrap),
            isolation.landlock_abi,
            isolation.seccomp_allowed
        ),
    ]);
    if !limits.is_empty() {
        let amount = |(resource, amount): (&Resource, &u64)| {
            format!("{resource} {}", resource.amount(*amount))
        };
        let all: Vec<String> = limits.iter().map(amount).collect();
        lines.push(format!("limits       {}", all.join(", ")));
    }
    let audit = audit.iter().map(|why| print::escape(why));
    lines.extend(audit.map(|why| format!("audit        {why}")));
    lines.extend(isolation.shortfalls.iter().map(|shortfall| {
        format!(
            "missing      {} ({})",
            print::escape(&shortfall.what),
            print::escape(&shortfall.needs)
        )
    }));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_session_says_of_itself_is_obeyed_by_a_terminal() {
        let bad = "\u{1b}[2J";
        let session = json!({
            "session": "0197f0e0aabb7ccc8ddd0123456789ab", "name": null, "user": bad, "pid": 1,
            "started": "2026-01-01T00:00:00Z", "profile": bad, "generation": bad, "mode": bad,
            "workspace": bad, "argv": [bad], "limits": {}, "audit": bad,
            "isolation": {
                "bwrap": bad, "landlock_abi": 1, "seccomp_allowed": 1,
                "shortfalls": [{ "what": bad, "needs": bad }],
            },
        });
        let lines = page(&serde_json::from_value(session).unwrap());
        assert!(lines.len() > 7);
        assert!(!lines.concat().contains(char::is_control), "{lines:?}");
    }
}
