//! `portcullis audit query`: records by what they say; and `audit index rebuild`.

use super::filters::FilterArgs;
use super::indexed::{Place, failure, tell};
use super::logs::Logs;
use super::{FolderArg, escape, finish, no_sessions, phrase, tail};
use crate::audit::facts::Facts;
use crate::audit::index::{Found, Order};
use crate::cli::failure::Outcome;
use crate::cli::print::{self, line};
use crate::exit::Exit;

/// What to look for.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
pub struct QueryArgs {
    #[command(flatten)]
    filters: FilterArgs,
    /// How many records at most
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    limit: usize,
    /// The oldest first
    #[arg(long)]
    oldest_first: bool,
    /// Print how many there are, and no record
    #[arg(long, conflicts_with_all = ["limit", "oldest_first"])]
    count: bool,
    /// Print the records as they stand in the log
    #[arg(long)]
    json: bool,
    /// Build the index anew from the logs first
    #[arg(long)]
    rebuild: bool,
    #[command(flatten)]
    folder: FolderArg,
}

/// What to do with the index.
#[derive(Debug, clap::Subcommand)]
pub enum IndexCommand {
    /// Drop it and build it anew from the logs
    Rebuild(FolderArg),
}

/// Rebuilds the index.
pub(super) fn index(command: &IndexCommand) -> Outcome {
    let IndexCommand::Rebuild(folder) = command;
    let Some(logs) = Logs::find(folder)? else {
        return no_sessions(&folder.path()?);
    };
    let place = Place::of(&logs)?;
    let records = place.index(&logs).rebuild(&mut tell);
    let records = records.map_err(|error| failure(&error))?;
    finish(line(format_args!(
        "{records} records in {}",
        escape(&place.file.to_string_lossy())
    )))
}

/// Looks them up.
pub(super) fn query(arguments: &QueryArgs) -> Outcome {
    let path = arguments.folder.path()?;
    let Some(logs) = Logs::find(&arguments.folder)? else {
        return no_sessions(&path);
    };
    let filter = arguments.filters.filter(&logs)?;
    let place = Place::of(&logs)?;
    let index = place.index(&logs);
    if arguments.rebuild {
        index.rebuild(&mut tell).map_err(|error| failure(&error))?;
    }
    if arguments.count {
        let count = index.count(&filter, &mut tell);
        return finish(line(count.map_err(|error| failure(&error))?));
    }
    let order = if arguments.oldest_first {
        Order::Oldest
    } else {
        Order::Newest
    };
    let found = index.find(&filter, (order, arguments.limit), &mut tell);
    let found = found.map_err(|error| failure(&error))?;
    if found.is_empty() {
        let words = arguments.filters.words();
        let words = if words.is_empty() { "anything" } else { &words };
        let sessions = logs.sessions()?.len();
        print::error(format_args!(
            "no record; looked for {words} in {sessions} sessions of {}",
            escape(&path.to_string_lossy())
        ));
        return Ok(Exit::Success);
    }
    let lines = if arguments.json {
        let text = |found: &Found| {
            let text = String::from_utf8_lossy(&found.line).into_owned();
            tail::shown(&text).into_owned()
        };
        found.iter().map(text).collect()
    } else {
        table(&found)
    };
    finish(lines.into_iter().try_for_each(line))
}

const HEADING: [&str; 9] = [
    "TIME", "SESSION", "USER", "PROGRAM", "EVENT", "VERDICT", "METHOD", "WHERE", "WHY",
];

/// The widest cell but the last one.
const WIDEST: usize = 60;

/// One row a record, columns as wide as they need to be; one that is empty in all rows is left out.
fn table(found: &[Found]) -> Vec<String> {
    let rows: Vec<[String; 9]> = found
        .iter()
        .filter_map(|found| Some(cells(found, &found.facts()?)))
        .collect();
    let mut widths = [0; 9];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    for (width, heading) in widths.iter_mut().zip(HEADING) {
        if *width > 0 {
            *width = heading.len().max((*width).min(WIDEST));
        }
    }
    let heading = HEADING.map(ToOwned::to_owned);
    let align = |row: &[String; 9]| {
        let cells = row.iter().zip(widths).filter(|(_, width)| *width > 0);
        let cells: Vec<_> = cells
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        cells.join("  ").trim_end().to_owned()
    };
    std::iter::once(&heading).chain(&rows).map(align).collect()
}

fn cells(found: &Found, facts: &Facts<'_>) -> [String; 9] {
    let about = &facts.about;
    let text = |text: Option<&str>| escape(text.unwrap_or_default());
    let host = about.host.as_deref().unwrap_or_default();
    let host = if host.contains(':') {
        format!("[{}]", escape(host))
    } else {
        escape(host)
    };
    let port = about
        .port
        .map(|port| format!(":{port}"))
        .unwrap_or_default();
    let verdict = match facts.verdict.as_deref() {
        Some("deny") => "DENY".to_owned(),
        other => text(other),
    };
    [
        format!("{:.3}", facts.at),
        format!("{:.12}", found.session.to_string()),
        escape(&facts.user),
        text(about.program()),
        escape(&facts.event),
        verdict,
        text(about.method.as_deref()),
        format!("{host}{port}{}", text(about.path.as_deref())),
        why(facts),
    ]
}

fn why(facts: &Facts<'_>) -> String {
    let mut parts = Vec::new();
    parts.extend(facts.status.as_deref().map(escape));
    parts.extend(facts.reason.as_deref().map(escape));
    if facts.verdict.is_some() {
        parts.extend(facts.about.rule.as_deref().map(escape));
    }
    if facts.event == "egress.closed" {
        let (up, down) = (phrase::bytes(facts.up), phrase::bytes(facts.down));
        parts.push(format!("{up} up, {down} down"));
    }
    if facts.verdict.is_none() || facts.event == "egress.refused" {
        let texts: Vec<_> = facts
            .texts
            .iter()
            .take(8)
            .map(|text| escape(text))
            .collect();
        if !texts.is_empty() {
            parts.push(texts.join(" "));
        }
    }
    parts.join(", ")
}
