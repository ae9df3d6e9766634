//! The head of a report: who ran what where, how it ended and whether the log holds, row by row. Each page prints
//! them in its own way.

use super::super::{phrase, verify};
use super::gather::Story;

/// A row: its name, and what it says.
pub(super) type Row = (&'static str, Vec<Part>);

/// A part of what a row says.
pub(super) enum Part {
    /// Words of ours.
    Ours(String),
    /// Text of a record.
    Text(String),
    /// The same, of which every character counts.
    Code(String),
}

use Part::{Code, Ours, Text};

/// All rows, in their order.
pub(super) fn rows(story: &Story) -> Vec<Row> {
    let summary = &story.summary;
    let text = |text: &str| Text(text.to_owned());
    let code = |text: &str| Code(text.to_owned());
    let ours = |text: &str| Ours(text.to_owned());
    let mut rows = vec![(
        "user",
        vec![
            text(&summary.user),
            ours(" on host "),
            text(&summary.host_id),
        ],
    )];
    if let Some(start) = &summary.start {
        rows.push(("command", vec![Code(phrase::command(&start.argv))]));
        rows.push(("workspace", vec![code(&start.workspace)]));
        let profile = vec![
            text(&start.profile),
            ours(" ("),
            text(&start.mode),
            ours("), policy "),
            code(start.generation.as_str()),
        ];
        rows.push(("profile", profile));
        let isolation = &start.isolation;
        let mut achieved = vec![
            text(&isolation.bwrap),
            Ours(format!(
                ", Landlock ABI {}, seccomp table of {} calls",
                isolation.landlock_abi, isolation.seccomp_allowed
            )),
        ];
        for shortfall in &isolation.shortfalls {
            achieved.extend([
                ours("; without "),
                text(&shortfall.what),
                ours(" (needs "),
                text(&shortfall.needs),
                ours(")"),
            ]);
        }
        rows.push(("isolation", achieved));
        rows.push(("started", vec![Ours(format!("{:.3}", start.at))]));
    }
    rows.push((
        "ended",
        match &summary.end {
            Some(end) => vec![
                Text(phrase::status(&end.status)),
                Ours(format!(" after {}", phrase::duration(end.ms))),
            ],
            None => vec![ours("not recorded")],
        },
    ));
    if let Some(by) = &summary.stopped_by {
        rows.push(("stopped", vec![ours("by "), text(by)]));
    }
    rows.push(("chain", vec![Text(verify::findings(&story.report))]));
    rows
}
