//! `portcullis counters`: what a running session has done so far.

use clap::Args;
use serde_json::json;

use super::failure::Outcome;
use super::{print, sessions};
use crate::exit::Exit;
use crate::session::caller::Caller;
use crate::wire::gate::Counters;
use crate::wire::session::{SessionReply, SessionRequest};

/// Arguments of `counters`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  portcullis counters 0197 --json")]
pub struct CountersArguments {
    /// The session: the beginning of its id; may be left out if only one runs
    session: Option<String>,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

/// Asks the session and prints.
pub fn run(arguments: &CountersArguments) -> Outcome {
    let caller = Caller::current();
    let (session, channel) = sessions::find(&caller, arguments.session.as_deref())?;
    let SessionReply::Counters(counters) = sessions::ask(&channel, &SessionRequest::Counters)?
    else {
        return Err(sessions::unexpected());
    };
    // Nobody reads any more: there is nothing else to do.
    if arguments.json {
        print::line(json!({ "session": session, "counters": counters })).ok();
    } else {
        for line in lines(&counters) {
            print::line(print::escape(&line)).ok();
        }
    }
    Ok(Exit::Success)
}

fn lines(counters: &Counters) -> Vec<String> {
    let mut lines = vec![
        format!(
            "{} requests let through, {} refused",
            counters.requests, counters.denied
        ),
        format!(
            "{} bytes up, {} bytes down, {} connections open of {}",
            counters.bytes_up,
            counters.bytes_down,
            counters.connections_open,
            counters.connections_total
        ),
    ];
    lines.extend(counters.hosts.iter().map(|row| {
        let host = match (&row.host, row.port) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            _ => "all others".to_owned(),
        };
        format!(
            "  {host:<40}  {} requests, {} bytes up, {} bytes down",
            row.requests, row.bytes_up, row.bytes_down
        )
    }));
    lines.extend(counters.budgets.iter().map(|budget| {
        let whose = budget
            .host
            .as_ref()
            .map_or_else(String::new, |host| format!(" of {host}"));
        format!(
            "  budget {}{whose}: {} of {}",
            budget.what, budget.used, budget.max
        )
    }));
    lines
}
