//! `portcullis audit stats`: sums over what was recorded.

use super::filters::FilterArgs;
use super::indexed::{Place, failure, tell};
use super::logs::Logs;
use super::{FolderArg, escape, finish, no_sessions, phrase};
use crate::audit::index::{By, Group, Stats};
use crate::cli::failure::{Failure, Outcome};
use crate::cli::print::line;
use crate::exit::Exit;

/// What to sum up.
#[derive(Debug, clap::Args)]
pub struct StatsArgs {
    /// One row for each
    #[arg(long, value_enum, default_value = "host")]
    by: Groups,
    /// How many rows at most
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    limit: usize,
    #[command(flatten)]
    filters: FilterArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    folder: FolderArg,
}

/// What a row is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Groups {
    /// Host as asked for
    Host,
    /// User
    User,
    /// Program in the jail
    Program,
    /// Session
    Session,
    /// Rule that decided
    Rule,
    /// Day, UTC
    Day,
}

/// Sums up and prints.
pub(super) fn stats(arguments: &StatsArgs) -> Outcome {
    let path = arguments.folder.path()?;
    let Some(logs) = Logs::find(&arguments.folder)? else {
        return no_sessions(&path);
    };
    let filter = arguments.filters.filter(&logs)?;
    let (by, name) = match arguments.by {
        Groups::Host => (By::Host, "HOST"),
        Groups::User => (By::User, "USER"),
        Groups::Program => (By::Program, "PROGRAM"),
        Groups::Session => (By::Session, "SESSION"),
        Groups::Rule => (By::Rule, "RULE"),
        Groups::Day => (By::Day, "DAY"),
    };
    let place = Place::of(&logs)?;
    let stats = place.index(&logs).stats(&filter, by, &mut tell);
    let mut stats = stats.map_err(|error| failure(&error))?;
    let groups = stats.groups.len();
    stats.groups.truncate(arguments.limit);
    if arguments.json {
        let text = serde_json::to_string(&stats);
        let text = text.map_err(|error| Failure::new(Exit::Internal, error))?;
        return finish(line(super::tail::shown(&text)));
    }
    let printed = told(&stats, name).into_iter().try_for_each(line);
    let more = groups - stats.groups.len();
    if more > 0 {
        return finish(printed.and_then(|()| line(format_args!("and {more} more"))));
    }
    finish(printed)
}

fn told(stats: &Stats, name: &str) -> Vec<String> {
    let total = &stats.total;
    let mut lines = vec![format!(
        "records {}, sessions {}: {} allowed, {} denied, {} asked; {} up, {} down",
        total.records,
        stats.sessions,
        total.allowed,
        total.denied,
        total.asked,
        phrase::bytes(total.bytes_up),
        phrase::bytes(total.bytes_down)
    )];
    if stats.groups.is_empty() {
        return lines;
    }
    lines.push(String::new());
    let heading = [name, "RECORDS", "ALLOWED", "DENIED", "ASKED", "UP", "DOWN"];
    let rows: Vec<[String; 7]> = std::iter::once(heading.map(ToOwned::to_owned))
        .chain(stats.groups.iter().map(cells))
        .collect();
    let mut widths = [0; 7];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    lines.extend(rows.iter().map(|row| {
        let cells = row.iter().zip(widths).enumerate();
        let cells = cells.map(|(at, (cell, width))| match at {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        cells.collect::<Vec<_>>().join("  ")
    }));
    lines
}

fn cells(group: &Group) -> [String; 7] {
    [
        escape(&group.name),
        group.records.to_string(),
        group.allowed.to_string(),
        group.denied.to_string(),
        group.asked.to_string(),
        phrase::bytes(group.bytes_up),
        phrase::bytes(group.bytes_down),
    ]
}
