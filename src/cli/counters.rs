//! `portcullis counters`: what a running session moves, and how far its budgets are used up.

use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::audit::phrase;
use super::failure::{Failure, Outcome};
use super::{print, sessions};
use crate::exit::Exit;
use crate::ids::SessionId;
use crate::session::caller::Caller;
use crate::wire::Channel;
use crate::wire::gate::{BudgetUse, Counters, HostCounters};
use crate::wire::session::{SessionReply, SessionRequest};

/// Between two looks of `--watch`.
const PAUSE: Duration = Duration::from_secs(1);

/// Arguments of `counters`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  portcullis counters                of the only session of yours that runs
  portcullis counters 0197 --watch   again every second, until it ends
  portcullis counters --json         one line, for a program")]
pub struct CountersArguments {
    /// The session: the beginning of its id; may be left out if only one runs
    session: Option<String>,
    /// Answer in JSON, one line each time
    #[arg(long)]
    json: bool,
    /// Print them again whenever they have changed, until the session ends
    #[arg(long)]
    watch: bool,
}

/// Prints them.
pub fn run(arguments: &CountersArguments) -> Outcome {
    let CountersArguments {
        session,
        json,
        watch,
    } = arguments;
    let caller = Caller::current();
    let (session, channel) = sessions::find(&caller, session.as_deref())?;
    let mut last = ask(&channel)?;
    if tell(session, &last, *json) && *watch {
        // The session's end is no failure here.
        while let Ok(next) = {
            std::thread::sleep(PAUSE);
            ask(&channel)
        } {
            if next != last && !tell(session, &next, *json) {
                break;
            }
            last = next;
        }
    }
    Ok(Exit::Success)
}

/// Asks a session for them.
pub(super) fn ask(channel: &Channel) -> Result<Box<Counters>, Failure> {
    match sessions::ask(channel, &SessionRequest::Counters)? {
        SessionReply::Counters(counters) => Ok(counters),
        _ => Err(sessions::unexpected()),
    }
}

/// Prints one look; false when nobody reads any more.
fn tell(session: SessionId, counters: &Counters, json: bool) -> bool {
    let text = if json {
        json!({ "session": session, "counters": counters }).to_string()
    } else {
        text_of(session, counters).join("\n")
    };
    print::line(text).is_ok()
}

/// The counters for a person.
fn text_of(session: SessionId, counters: &Counters) -> Vec<String> {
    let mut lines = vec![format!("session      {session}")];
    lines.extend(page(counters));
    lines
}

/// The same without the session.
pub(super) fn page(counters: &Counters) -> Vec<String> {
    let mut lines = vec![
        format!(
            "requests     {} let through, {} refused",
            counters.requests, counters.denied
        ),
        format!(
            "connections  {} open, {} opened in all",
            counters.connections_open, counters.connections_total
        ),
        format!(
            "bytes        {} up, {} down",
            phrase::bytes(counters.bytes_up),
            phrase::bytes(counters.bytes_down)
        ),
    ];
    lines.extend(counters.budgets.iter().map(budget));
    if !counters.hosts.is_empty() {
        lines.push(format!(
            "{:<40} {:>10} {:>10} {:>10}",
            "DESTINATION", "REQUESTS", "UP", "DOWN"
        ));
    }
    lines.extend(counters.hosts.iter().map(host));
    lines
}

fn budget(budget: &BudgetUse) -> String {
    let BudgetUse {
        what,
        host,
        used,
        max,
    } = budget;
    let of = host.as_ref().map_or_else(String::new, |host| {
        format!(" for {}", print::escape(&host.to_string()))
    });
    // 128-bit: a product of two large amounts.
    let percent = u128::from(*used) * 100 / u128::from(*max).max(1);
    format!(
        "budget       {what}{of}: {} of {} ({percent} %)",
        what.amount(*used),
        what.amount(*max)
    )
}

fn host(row: &HostCounters) -> String {
    let name = match (&row.host, row.port) {
        (Some(host), Some(port)) => phrase::destination(host, port),
        _ => "all others".to_owned(),
    };
    format!(
        "{name:<40} {:>10} {:>10} {:>10}",
        row.requests,
        phrase::bytes(row.bytes_up),
        phrase::bytes(row.bytes_down)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{BudgetKind, Host, Port};

    #[test]
    fn counters_are_a_page() {
        let session: SessionId = "0197f0e0aabb7ccc8ddd0123456789ab".parse().unwrap();
        let counters = Counters {
            bytes_up: 2003,
            bytes_down: 10,
            requests: 3,
            connections_open: 1,
            connections_total: 2,
            denied: 1,
            hosts: vec![
                HostCounters {
                    host: Host::parse("a.test").ok(),
                    port: Port::new(443),
                    requests: 2,
                    bytes_up: 2000,
                    bytes_down: 10,
                },
                HostCounters {
                    requests: 1,
                    bytes_up: 3,
                    ..HostCounters::default()
                },
            ],
            budgets: vec![BudgetUse {
                what: BudgetKind::BytesUp,
                host: None,
                used: 1 << 19,
                max: 1 << 20,
            }],
        };
        let expected = [
            &format!("session      {session}"),
            "requests     3 let through, 1 refused",
            "connections  1 open, 2 opened in all",
            "bytes        2.0 kB up, 10 B down",
            "budget       bytes_up: 512K of 1M (50 %)",
            "DESTINATION                                REQUESTS         UP       DOWN",
            "a.test:443                                        2     2.0 kB       10 B",
            "all others                                        1        3 B        0 B",
        ];
        assert_eq!(text_of(session, &counters), expected);
    }
}
