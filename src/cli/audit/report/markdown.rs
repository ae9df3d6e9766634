//! The report as Markdown (CommonMark with the tables of GitHub).

use std::fmt::{self, Display, Write};

use serde_json::Value;

use super::super::{phrase, verify};
use super::ROWS;
use super::gather::{Event, Story};
use super::head::{self, Part};
use super::html::{items, squeezed};
use crate::cli::print::escape;

/// Text of a record: as code, in which nothing is markup. The fence is longer than any run of backticks in
/// it; a bar, which would end a cell of a table, is shown by its number.
fn text(text: impl Display) -> String {
    let shown = escape(&text.to_string()).replace('|', "\\u{7c}");
    if shown.trim().is_empty() {
        return String::new();
    }
    let runs = shown.split(|c| c != '`').map(str::len);
    let fence = "`".repeat(runs.max().unwrap_or_default() + 1);
    if fence.len() > 1 || shown.starts_with(' ') || shown.ends_with(' ') {
        format!("{fence} {shown} {fence}")
    } else {
        format!("{fence}{shown}{fence}")
    }
}

/// The page.
pub(super) fn page(story: &Story) -> Result<String, fmt::Error> {
    let mut page = String::new();
    top(&mut page, story)?;
    hosts(&mut page, story)?;
    denials(&mut page, story)?;
    rest(&mut page, story)?;
    events(
        &mut page,
        "What else happened",
        &story.events,
        story.more_events,
    )?;
    events(&mut page, "First records", &story.first, 0)?;
    let last: Vec<Event> = story.last.iter().cloned().collect();
    events(&mut page, "Last records", &last, 0)?;
    Ok(page)
}

fn top(page: &mut String, story: &Story) -> fmt::Result {
    writeln!(page, "# Session `{}`\n", story.session)?;
    writeln!(
        page,
        "- **log**: {}",
        verify::word(&story.report).trim_end()
    )?;
    for (name, parts) in head::rows(story) {
        let value: String = parts
            .into_iter()
            .map(|part| match part {
                Part::Ours(words) => words,
                Part::Text(said) | Part::Code(said) => text(said),
            })
            .collect();
        writeln!(page, "- **{name}**: {value}")?;
    }
    Ok(())
}

fn table(page: &mut String, title: &str, headings: &[&str]) -> fmt::Result {
    let rule = headings
        .iter()
        .map(|_| "---")
        .collect::<Vec<_>>()
        .join(" | ");
    writeln!(
        page,
        "\n## {title}\n\n| {} |\n| {rule} |",
        headings.join(" | ")
    )
}

fn row(page: &mut String, cells: &[String]) -> fmt::Result {
    writeln!(page, "| {} |", cells.join(" | "))
}

fn more(page: &mut String, count: usize) -> fmt::Result {
    if count > ROWS {
        writeln!(page, "\nand {} more", count - ROWS)?;
    }
    Ok(())
}

fn hosts(page: &mut String, story: &Story) -> fmt::Result {
    let summary = &story.summary;
    let mut all: Vec<_> = summary.destinations.iter().collect();
    if all.is_empty() {
        return writeln!(page, "\n## Destinations\n\nNothing was asked for.");
    }
    all.sort_by_key(|d| std::cmp::Reverse(d.allowed + d.denied));
    let headings = [
        "Destination",
        "Allowed",
        "Denied",
        "Failed",
        "Up",
        "Down",
        "Reason",
        "Rule",
    ];
    table(page, "Destinations", &headings)?;
    for d in all.iter().take(ROWS) {
        let cells = [
            text(phrase::destination(&d.host, d.port)),
            d.allowed.to_string(),
            d.denied.to_string(),
            d.failed.to_string(),
            phrase::bytes(d.bytes_up),
            phrase::bytes(d.bytes_down),
            d.reason.map(text).unwrap_or_default(),
            d.rule
                .as_ref()
                .map(|rule| text(rule.as_str()))
                .unwrap_or_default(),
        ];
        row(page, &cells)?;
    }
    more(page, all.len())?;
    if summary.beyond_cap > 0 {
        writeln!(
            page,
            "\nand {} requests to further destinations",
            summary.beyond_cap
        )?;
    }
    Ok(())
}

fn denials(page: &mut String, story: &Story) -> fmt::Result {
    if !story.denials.is_empty() {
        let headings = [
            "Times",
            "Destination",
            "Reason",
            "Rule",
            "Last request",
            "Program",
            "Would be allowed by",
        ];
        table(page, "Denied", &headings)?;
        for denial in story.denials.iter().take(ROWS) {
            let cells = [
                denial.count.to_string(),
                text(phrase::destination(&denial.host, denial.port)),
                text(denial.reason),
                text(denial.rule.as_deref().unwrap_or_default()),
                text(&denial.request),
                text(&denial.program),
                denial
                    .remedy
                    .as_deref()
                    .map_or_else(|| "nothing of the policy".to_owned(), text),
            ];
            row(page, &cells)?;
        }
        more(page, story.denials.len())?;
    }
    let refusals = &story.summary.refusals;
    if !refusals.is_empty() {
        table(
            page,
            "Refused before a destination was known",
            &["Times", "Reason", "The last one"],
        )?;
        for refusal in refusals.iter().take(ROWS) {
            let cells = [
                refusal.count.to_string(),
                text(refusal.reason),
                text(&refusal.detail),
            ];
            row(page, &cells)?;
        }
        more(page, refusals.len())?;
    }
    Ok(())
}

fn rest(page: &mut String, story: &Story) -> fmt::Result {
    if !story.approvals.is_empty() {
        table(page, "Approvals", &["Asked", "For", "Answer"])?;
        for asked in story.approvals.iter().take(ROWS) {
            let answer = asked.answer.as_deref().unwrap_or("none on record");
            row(
                page,
                &[format!("{:.3}", asked.at), text(&asked.what), text(answer)],
            )?;
        }
        more(page, story.approvals.len())?;
    }
    if !story.programs.is_empty() {
        table(page, "Programs", &["Program", "Allowed", "Denied"])?;
        for (program, (allowed, denied)) in story.programs.iter().take(ROWS) {
            row(
                page,
                &[text(program), allowed.to_string(), denied.to_string()],
            )?;
        }
        more(page, story.programs.len())?;
    }
    if !story.statuses.is_empty() {
        table(page, "HTTP answers", &["Status", "Times"])?;
        for (status, count) in story.statuses.iter().take(ROWS) {
            row(page, &[text(status), count.to_string()])?;
        }
        more(page, story.statuses.len())?;
    }
    if let Some(Value::Object(fields)) = &story.files {
        table(page, "Files in the workspace", &["What", "Which"])?;
        for (name, value) in fields.iter().take(ROWS) {
            let (items, more) = items(value);
            let mut items: Vec<_> = items.iter().map(text).collect();
            if more > 0 {
                items.push(format!("and {more} more"));
            }
            row(page, &[text(name), items.join(", ")])?;
        }
        more(page, fields.len())?;
    }
    Ok(())
}

fn events(page: &mut String, title: &str, events: &[Event], beyond: u64) -> fmt::Result {
    if events.is_empty() {
        return Ok(());
    }
    table(page, title, &["No.", "Time", "Event", "What"])?;
    for event in events.iter().take(ROWS) {
        let cells = [
            event.seq.to_string(),
            format!("{:.3}", event.at),
            text(&event.name),
            text(squeezed(&event.words)),
        ];
        row(page, &cells)?;
    }
    more(
        page,
        events.len() + usize::try_from(beyond).unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_leave_its_code_nor_its_cell() {
        let cases = [
            ("plain", "`plain`"),
            ("<script>", "`<script>`"),
            ("a`b", "`` a`b ``"),
            ("```", "```` ``` ````"),
            ("a|b\\|c", "`a\\u{7c}b\\\\u{7c}c`"),
            ("a\n\n# b", "`a\\u{a}\\u{a}# b`"),
            ("", ""),
        ];
        for (hostile, safe) in cases {
            assert_eq!(text(hostile), safe);
        }
    }
}
