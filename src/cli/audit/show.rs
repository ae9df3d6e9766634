//! `portcullis audit show`: a session's story, or one record.

use serde::Serialize;

use super::logs::Logs;
use super::{FolderArg, body, finish, log_failure, naming, phrase, verify};
use crate::audit::Counted;
use crate::audit::summary::{Destination, SessionSummary, Start};
use crate::audit::verify::{Report, State, verify_rest};
use crate::cli::failure::{Failure, Outcome};
use crate::cli::print::{escape, line};
use crate::exit::Exit;
use crate::ids::SessionId;
use crate::policy::{self, EgressRequest, Transport};

/// What to show.
#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    /// Session id or its beginning; with `:SEQ` one of its records
    #[arg(value_name = "SESSION[:SEQ]")]
    id: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print the body that the record says is kept, after a look at its hash; escaped on a terminal
    #[arg(long, conflicts_with = "json")]
    body: bool,
    #[command(flatten)]
    folder: FolderArg,
}

/// Finds it and tells it.
pub(super) fn show(arguments: &ShowArgs) -> Outcome {
    let (name, seq) = parse_id(&arguments.id)?;
    let path = arguments.folder.path()?;
    let folder = Logs::find(&arguments.folder)?.ok_or_else(|| naming::unknown(&path, name))?;
    let session = naming::find(&folder, name)?;
    let log = folder.log(session);
    let report = verify_rest(&folder, session).map_err(|error| log_failure(&log, &error))?;
    match seq {
        Some(seq) if arguments.body => body::show(&folder, (session, seq), report.records),
        Some(seq) => show_record(&folder, (session, seq), &report, arguments.json),
        None if arguments.body => {
            let text = "a body is that of a record; write SESSION:SEQ, of a record body.kept";
            Err(Failure::new(Exit::Usage, text))
        }
        None => show_session(&folder, session, &report, arguments.json),
    }
}

/// `SESSION`, `SESSION:SEQ` or `SESSION/SEQ`.
fn parse_id(id: &str) -> Result<(&str, Option<u64>), Failure> {
    let Some((session, seq)) = id.split_once([':', '/']) else {
        return Ok((id, None));
    };
    let number = seq.parse().ok().filter(|seq| *seq > 0);
    let failure = || {
        let text = format!(
            "record {:?}: not a number from 1; write SESSION:SEQ",
            escape(seq)
        );
        Failure::new(Exit::Usage, text)
    };
    number.map(|seq| (session, Some(seq))).ok_or_else(failure)
}

// === one record ===

fn show_record(
    folder: &Logs,
    (session, seq): (SessionId, u64),
    report: &Report,
    json: bool,
) -> Outcome {
    let mut found = None;
    folder.each_record(session, report.records, |record, text| {
        if record.seq == seq {
            found = Some(String::from_utf8_lossy(text).into_owned());
        }
        found.is_none()
    })?;
    let Some(text) = found else {
        let broken = report.broken.as_ref().map(|broken| format!("; {broken}"));
        let from = report.part.map(|first| format!(" from record {first} on"));
        let count = format!(
            "{} records hold{}{}",
            report.records,
            from.unwrap_or_default(),
            broken.unwrap_or_default()
        );
        let text = format!("session {session} has no record {seq}: {}", escape(&count));
        return Err(Failure::new(
            if report.broken.is_some() {
                Exit::No
            } else {
                Exit::Usage
            },
            text,
        ));
    };
    if json {
        return finish(line(super::tail::shown(&text)));
    }
    let internal = |error| Failure::new(Exit::Internal, error);
    let fields: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(&text).map_err(internal)?;
    finish(fields.iter().try_for_each(|(name, value)| {
        let value = value
            .as_str()
            .map_or_else(|| value.to_string(), ToOwned::to_owned);
        line(format_args!("{:<10}  {}", escape(name), escape(&value)))
    }))
}

// === a session ===

/// The story as JSON.
#[derive(Serialize)]
struct Story<'a> {
    session: SessionId,
    #[serde(flatten)]
    summary: &'a SessionSummary,
    chain: &'a Report,
}

fn show_session(folder: &Logs, session: SessionId, report: &Report, json: bool) -> Outcome {
    let mut summary = SessionSummary::default();
    folder.each_record(session, report.records, |record, _| {
        summary.add(record);
        true
    })?;
    let lines = if json {
        let story = Story {
            session,
            summary: &summary,
            chain: report,
        };
        let text = serde_json::to_string(&story);
        vec![text.map_err(|error| Failure::new(Exit::Internal, error))?]
    } else {
        tell(session, &summary, report)
    };
    let printed = lines.into_iter().try_for_each(line);
    if report.broken.is_some() {
        Ok(Exit::No)
    } else {
        finish(printed)
    }
}

/// What of the session's own failed.
fn failures(summary: &SessionSummary) -> Vec<String> {
    let mut lines = Vec::new();
    let times = |count| match count {
        1 => "once".to_owned(),
        more => format!("{more} times"),
    };
    if summary.gate_restarts > 0 {
        let often = times(summary.gate_restarts);
        lines.push(format!(
            "gate       restarted {often}: connections that it held have no end on record"
        ));
    }
    if summary.log_resumed > 0 {
        let often = times(summary.log_resumed);
        lines.push(format!(
            "log        resumed {often} by another writer: a record may stand there twice"
        ));
    }
    if summary.sync_failures > 0 {
        let often = times(summary.sync_failures);
        lines.push(format!(
            "disk       failed {often} to take what was written: see log.sync_failed"
        ));
    }
    if summary.records_lost > 0 {
        let count = summary.records_lost;
        lines.push(format!(
            "lost       {count} records that could not be kept: see records.lost"
        ));
    }
    if summary.ledger_lost > 0 {
        let often = times(summary.ledger_lost);
        lines.push(format!("unsigned   {often} for a while: see ledger.lost"));
    }
    if summary.gate_lost {
        lines.push("gate       lost: connections that it held have no end on record".to_owned());
    }
    if summary.witness_restarts > 0 {
        let often = times(summary.witness_restarts);
        lines.push(format!(
            "witness    restarted {often}: connections made meanwhile name no process"
        ));
    }
    if summary.witness_lost {
        lines.push("witness    lost: connections made since name no process".to_owned());
    }
    lines
}

fn tell(session: SessionId, summary: &SessionSummary, report: &Report) -> Vec<String> {
    let mut lines = vec![format!("session    {session}")];
    if let Some(start) = &summary.start {
        lines.extend(tell_start(start));
    }
    if summary.last.is_some() {
        let (user, host) = (escape(&summary.user), escape(&summary.host_id));
        lines.push(format!("user       {user} on host {host}"));
    }
    if let Some(first) = report.part {
        let before = first.saturating_sub(1);
        lines.push(format!(
            "before     records 1 to {before} are gone, and with them how it started: pruned, or removed, as \
             `portcullis audit verify` says"
        ));
    }
    lines.push(format!("ended      {}", ending(summary, report)));
    if let Some(by) = &summary.stopped_by {
        lines.push(format!("stopped    by {}", escape(by)));
    }
    if summary.forwarded > 0 {
        let times = match summary.forwarded {
            1 => "once".to_owned(),
            more => format!("{more} times"),
        };
        lines.push(format!(
            "entered    {times} from outside, by portcullis forward"
        ));
    }
    lines.extend(failures(summary));
    if let Some(files) = &summary.files {
        lines.push(format!("files      {}", phrase::changes(files)));
        lines.extend(files.executed_later.iter().map(|file| {
            let what = if file.created { "created" } else { "modified" };
            format!("           {what} {} (by {})", escape(&file.path), file.by)
        }));
        if files.executed_later_more > 0 {
            let more = files.executed_later_more;
            lines.push(format!("           and {more} more that others execute"));
        }
    }
    for limit in &summary.limits {
        let host = limit.host.as_ref();
        let host = host.map_or_else(String::new, |host| {
            format!(" for {}", escape(&host.to_string()))
        });
        let times = if limit.count == 1 {
            String::new()
        } else {
            format!(" ({} times)", limit.count)
        };
        lines.push(match limit.what {
            Counted::Budget(what) => format!("budget     {what}{host} used up{times}"),
            Counted::Resource(what) => format!("limit      {what} reached{times}"),
        });
    }
    if !summary.destinations.is_empty() {
        lines.push(String::new());
        lines.extend(table(&summary.destinations));
    }
    if summary.beyond_cap > 0 {
        lines.push(format!(
            "and {} requests to further destinations",
            summary.beyond_cap
        ));
    }
    lines.extend(tell_refusals(summary));
    lines.extend(tell_programs(summary));
    lines.extend(tell_remedies(&summary.destinations));
    lines.push(String::new());
    lines.push(format!(
        "chain      {}: {}",
        verify::word(report).trim_end(),
        verify::findings(report)
    ));
    lines
}

fn tell_start(start: &Start) -> Vec<String> {
    let isolation = &start.isolation;
    let shortfalls = isolation.shortfalls.iter().map(|shortfall| {
        let (what, needs) = (escape(&shortfall.what), escape(&shortfall.needs));
        format!("; without {what} (needs {needs})")
    });
    let achieved = format!(
        "{}, Landlock ABI {}, seccomp table of {} calls{}",
        escape(&isolation.bwrap),
        isolation.landlock_abi,
        isolation.seccomp_allowed,
        shortfalls.collect::<String>()
    );
    let (profile, mode) = (escape(&start.profile), escape(&start.mode));
    vec![
        format!("command    {}", phrase::command(&start.argv)),
        format!("workspace  {}", escape(&start.workspace)),
        format!(
            "profile    {profile} ({mode}), policy {}",
            escape(start.generation.as_str())
        ),
        format!("isolation  {achieved}"),
        format!("started    {:.3}", start.at),
    ]
}

fn ending(summary: &SessionSummary, report: &Report) -> String {
    match (&summary.end, report.state) {
        (Some(end), _) => {
            format!(
                "{} after {}",
                phrase::status(&end.status),
                phrase::duration(end.ms)
            )
        }
        (None, State::Running) => "still running".into(),
        (None, _) => match summary.last {
            Some(last) => format!("not recorded; the last record that holds is of {last:.3}"),
            None => "nothing was recorded".into(),
        },
    }
}

/// One row a destination, columns as wide as they need to be.
fn table(destinations: &[Destination]) -> Vec<String> {
    let heading = ["VERDICT", "DESTINATION", "TIMES", "UP", "DOWN", "WHY"].map(String::from);
    let rows: Vec<[String; 6]> = std::iter::once(heading)
        .chain(destinations.iter().flat_map(cells))
        .collect();
    let mut widths = [0; 6];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let align = |row: &[String; 6]| {
        let cells = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(align).collect()
}

/// A row for what was let through, another for what was not.
fn cells(destination: &Destination) -> Vec<[String; 6]> {
    let name = phrase::destination(&destination.host, destination.port);
    let rule = destination.rule.as_ref().map(|rule| escape(rule.as_str()));
    let reason = destination.reason.map(|reason| reason.to_string());
    let nothing = || "-".to_owned();
    let statuses = destination.statuses.iter();
    let statuses: Vec<String> = statuses
        .map(|(status, times)| match times {
            1 => status.to_string(),
            more => format!("{status} × {more}"),
        })
        .collect();
    let mut rows = Vec::new();
    if destination.allowed > 0 {
        let mut why = rule.clone().unwrap_or_default();
        if destination.failed > 0 {
            let reason = reason.clone().unwrap_or_default();
            why = format!("{why}; {} failed: {reason}", destination.failed);
        }
        if !statuses.is_empty() {
            why = format!("{why}; answered {}", statuses.join(", "));
        }
        let (up, down) = (
            phrase::bytes(destination.bytes_up),
            phrase::bytes(destination.bytes_down),
        );
        rows.push([
            "allow".into(),
            name.clone(),
            destination.allowed.to_string(),
            up,
            down,
            why,
        ]);
    }
    if destination.denied > 0 {
        let why = [reason, rule]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join(", ");
        let times = destination.denied.to_string();
        rows.push(["DENY".into(), name, times, nothing(), nothing(), why]);
    }
    rows
}

fn tell_refusals(summary: &SessionSummary) -> Vec<String> {
    let mut lines = Vec::new();
    if !summary.refusals.is_empty() {
        lines.extend([
            String::new(),
            "refused before a destination was known".into(),
        ]);
    }
    for refusal in &summary.refusals {
        let (reason, detail) = (refusal.reason, escape(&refusal.detail));
        lines.push(format!("  {} × {reason}, as: {detail}", refusal.count));
    }
    lines
}

fn tell_programs(summary: &SessionSummary) -> Vec<String> {
    if summary.programs.is_empty() {
        return Vec::new();
    }
    let mut lines = vec![String::new(), "connections by program".into()];
    for program in &summary.programs {
        let name = match (&program.exe, program.unknown) {
            (Some(exe), _) => escape(exe),
            (None, Some(why)) => format!("unknown ({why})"),
            (None, None) => "unknown".to_owned(),
        };
        lines.push(format!("  {} × {name}", program.connections));
    }
    if summary.programs_beyond_cap > 0 {
        let more = summary.programs_beyond_cap;
        lines.push(format!("  {more} × further programs"));
    }
    lines
}

fn tell_remedies(destinations: &[Destination]) -> Vec<String> {
    let remedy = |destination: &Destination| {
        let reason = destination.reason.filter(|_| destination.denied > 0)?;
        let request = EgressRequest {
            transport: Transport::Connect,
            host: destination.host.clone(),
            port: destination.port,
            method: None,
            path: None,
            websocket: false,
        };
        policy::remedy(&request, reason)
    };
    let mut remedies: Vec<String> = destinations.iter().filter_map(remedy).collect();
    remedies.dedup();
    if remedies.is_empty() {
        return remedies;
    }
    let mut lines = vec![
        String::new(),
        "what was denied would be allowed by".to_owned(),
    ];
    lines.extend(remedies.into_iter().map(|remedy| format!("  {remedy}")));
    lines
}
