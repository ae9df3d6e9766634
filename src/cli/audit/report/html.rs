//! The report as a web page: one file, nothing from elsewhere, no script.

use std::fmt::{self, Display, Write};

use serde_json::Value;

use super::super::phrase;
use super::ROWS;
use super::chart;
use super::gather::{Event, Story};
use super::head::{self, Part};
use crate::audit::verify::State;
use crate::cli::print::escape;

/// Text in a page: what a terminal would obey is shown, and nothing is a tag.
fn text(text: impl Display) -> String {
    let shown = escape(&text.to_string());
    let mut safe = String::with_capacity(shown.len());
    for c in shown.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            _ => safe.push(c),
        }
    }
    safe
}

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1c2430;--dim:#5d6878;--paper:#fff;--line:#dde2e9;--soft:#f5f7fa;\
--good:#2f7d57;--bad:#c2392f;--up:#b7791f;--down:#3569b5}\
@media(prefers-color-scheme:dark){:root{--ink:#e4e8ee;--dim:#9aa5b4;--paper:#14181e;--line:#2c343f;\
--soft:#1b2129;--good:#56b487;--bad:#ef7268;--up:#dba452;--down:#79a7ea}}\
*{box-sizing:border-box}\
body{margin:0 auto;padding:2rem 1.5rem 4rem;max-width:72rem;background:var(--paper);color:var(--ink);\
font:15px/1.5 system-ui,-apple-system,'Segoe UI',sans-serif}\
h1{font-size:1.5rem;margin:0 0 .25rem}\
h2{font-size:1.05rem;margin:2.25rem 0 .6rem;padding-bottom:.3rem;border-bottom:1px solid var(--line)}\
p{margin:.4rem 0}.dim{color:var(--dim)}\
code,td.mono{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:.86em;overflow-wrap:anywhere}\
dl{display:grid;grid-template-columns:max-content 1fr;gap:.25rem 1.25rem;margin:.5rem 0}\
dt{color:var(--dim)}dd{margin:0;overflow-wrap:anywhere}\
.state{display:inline-block;padding:.1rem .6rem;border-radius:1rem;font-weight:600;font-size:.85rem;\
border:1px solid currentColor}\
.state.good{color:var(--good)}.state.bad{color:var(--bad)}.state.open{color:var(--up)}\
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(8rem,1fr));gap:.75rem;margin:1.25rem 0}\
.tile{background:var(--soft);border:1px solid var(--line);border-radius:.5rem;padding:.6rem .8rem}\
.tile b{display:block;font-size:1.2rem;white-space:nowrap;font-variant-numeric:tabular-nums}\
.tile span{color:var(--dim);font-size:.82rem}\
table{border-collapse:collapse;width:100%;font-size:.88rem}\
th{text-align:left;color:var(--dim);font-weight:600;font-size:.78rem}\
th,td{padding:.32rem .7rem .32rem 0;border-bottom:1px solid var(--line);vertical-align:top}\
td{overflow-wrap:anywhere}\
th.n{width:1%}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}\
td.t{white-space:nowrap;font-variant-numeric:tabular-nums}\
.deny{color:var(--bad);white-space:nowrap}\
svg.chart{width:100%;height:auto;display:block;margin:.4rem 0}\
svg text{fill:var(--dim);font-size:11px;font-family:inherit}\
svg .grid{stroke:var(--line);stroke-width:1}\
svg.bar{width:90px;height:10px;display:block;margin-top:.35rem}\
.allowed{fill:var(--good)}.denied{fill:var(--bad)}.up{fill:var(--up)}.down{fill:var(--down)}\
.key{display:inline-block;width:.7rem;height:.7rem;border-radius:2px;margin:0 .3rem 0 .9rem}\
.key.allowed{background:var(--good)}.key.denied{background:var(--bad)}\
.key.up{background:var(--up)}.key.down{background:var(--down)}.key:first-child{margin-left:0}\
footer{margin-top:3rem;color:var(--dim);font-size:.82rem;overflow-wrap:anywhere}\
@media print{body{max-width:none;padding:0;font-size:11px}h2{break-after:avoid}tr,.tile{break-inside:avoid}}";

/// The page.
pub(super) fn page(story: &Story) -> Result<String, fmt::Error> {
    let mut page = String::new();
    write!(
        page,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"referrer\" content=\"no-referrer\">\n\
         <title>Portcullis session {session}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n",
        session = story.session
    )?;
    top(&mut page, story)?;
    tiles(&mut page, story)?;
    page.push_str("<h2>Over time</h2>\n");
    legend(
        &mut page,
        &[("allowed", "allowed"), ("denied", "denied or failed")],
    );
    page.push_str(&chart::requests(&story.series)?);
    legend(&mut page, &[("down", "bytes down"), ("up", "bytes up")]);
    page.push_str(&chart::bytes(&story.series)?);
    page.push_str(
        "<p class=\"dim\">Bytes are drawn where their connection ended. Times are UTC.</p>\n",
    );
    hosts(&mut page, story)?;
    denials(&mut page, story)?;
    approvals(&mut page, story)?;
    programs(&mut page, story)?;
    statuses(&mut page, story)?;
    files(&mut page, story)?;
    events(
        &mut page,
        "What else happened",
        &story.events,
        story.more_events,
    )?;
    events(&mut page, "First records", &story.first, 0)?;
    if !story.last.is_empty() {
        let last: Vec<Event> = story.last.iter().cloned().collect();
        events(&mut page, "Last records", &last, 0)?;
    }
    foot(&mut page, story)?;
    page.push_str("</body>\n</html>\n");
    Ok(page)
}

fn top(page: &mut String, story: &Story) -> fmt::Result {
    let (class, word) = match (&story.report.broken, story.report.state) {
        (Some(_), _) => ("bad", "log is broken"),
        (None, State::Complete) => ("good", "log is complete"),
        (None, State::Running) => ("open", "still running"),
        (None, State::Open) => ("open", "log was never closed"),
    };
    writeln!(
        page,
        "<h1>Session <code>{session}</code></h1>\n<p><span class=\"state {class}\">{word}</span></p>\n<dl>",
        session = story.session
    )?;
    for (name, parts) in head::rows(story) {
        let value: String = parts
            .into_iter()
            .map(|part| match part {
                Part::Ours(words) => words,
                Part::Text(said) => text(said),
                Part::Code(said) => format!("<code>{}</code>", text(said)),
            })
            .collect();
        writeln!(page, "<dt>{name}</dt><dd>{value}</dd>")?;
    }
    page.push_str("</dl>\n");
    Ok(())
}

fn tiles(page: &mut String, story: &Story) -> fmt::Result {
    let destinations = &story.summary.destinations;
    let sum = |value: fn(&crate::audit::summary::Destination) -> u64| {
        destinations
            .iter()
            .map(value)
            .fold(0_u64, u64::saturating_add)
    };
    let tiles = [
        (sum(|d| d.allowed).to_string(), "allowed"),
        (sum(|d| d.denied).to_string(), "denied"),
        (sum(|d| d.failed).to_string(), "failed"),
        (destinations.len().to_string(), "destinations"),
        (phrase::bytes(sum(|d| d.bytes_up)), "up"),
        (phrase::bytes(sum(|d| d.bytes_down)), "down"),
        (story.report.records.to_string(), "records"),
    ];
    page.push_str("<div class=\"tiles\">\n");
    for (value, name) in tiles {
        writeln!(
            page,
            "<div class=\"tile\"><b>{value}</b><span>{name}</span></div>"
        )?;
    }
    page.push_str("</div>\n");
    Ok(())
}

fn legend(page: &mut String, keys: &[(&str, &str)]) {
    page.push_str("<p class=\"dim\">");
    for (class, name) in keys {
        page.extend(["<span class=\"key ", *class, "\"></span>", *name]);
    }
    page.push_str("</p>\n");
}

/// Begins a table; a heading that ends with `#` is one of numbers.
fn table(page: &mut String, title: &str, headings: &[&str]) {
    page.extend(["<h2>", title, "</h2>\n<table>\n<thead><tr>"]);
    for heading in headings {
        match heading.strip_suffix('#') {
            Some(heading) => page.extend(["<th class=\"n\">", heading, "</th>"]),
            None => page.extend(["<th>", heading, "</th>"]),
        }
    }
    page.push_str("</tr></thead>\n<tbody>\n");
}

fn end(page: &mut String, more: u64) -> fmt::Result {
    page.push_str("</tbody>\n</table>\n");
    if more > 0 {
        writeln!(page, "<p class=\"dim\">and {more} more</p>")?;
    }
    Ok(())
}

fn hosts(page: &mut String, story: &Story) -> fmt::Result {
    let summary = &story.summary;
    let mut all: Vec<_> = summary.destinations.iter().collect();
    if all.is_empty() {
        page.push_str("<h2>Destinations</h2>\n<p class=\"dim\">Nothing was asked for.</p>\n");
        return Ok(());
    }
    all.sort_by_key(|d| std::cmp::Reverse(d.allowed + d.denied));
    let requests = all.iter().map(|d| d.allowed + d.denied).max().unwrap_or(1);
    let bytes = all.iter().map(|d| d.bytes_up.saturating_add(d.bytes_down));
    let bytes = bytes.max().unwrap_or(1);
    let headings = [
        "Destination",
        "Allowed#",
        "Denied#",
        "Failed#",
        "",
        "Up#",
        "Down#",
        "",
        "Decided by",
    ];
    table(page, "Destinations", &headings);
    for d in all.iter().take(ROWS) {
        let name = text(phrase::destination(&d.host, d.port));
        let reason = d.reason.map(text);
        let rule = d.rule.as_ref().map(|rule| text(rule.as_str()));
        let why: Vec<_> = [reason, rule].into_iter().flatten().collect();
        writeln!(
            page,
            "<tr><td class=\"mono\">{name}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td>{}</td>\
             <td class=\"mono\">{}</td></tr>",
            d.allowed,
            d.denied,
            d.failed,
            chart::bar((d.allowed, d.denied), requests, ["allowed", "denied"])?,
            phrase::bytes(d.bytes_up),
            phrase::bytes(d.bytes_down),
            chart::bar((d.bytes_down, d.bytes_up), bytes, ["down", "up"])?,
            why.join(", ")
        )?;
    }
    end(page, all.len().saturating_sub(ROWS) as u64)?;
    if summary.beyond_cap > 0 {
        writeln!(
            page,
            "<p>and {} requests to further destinations</p>",
            summary.beyond_cap
        )?;
    }
    Ok(())
}

fn denials(page: &mut String, story: &Story) -> fmt::Result {
    let refusals = &story.summary.refusals;
    if !story.denials.is_empty() {
        let headings = [
            "Times#",
            "Destination",
            "Reason",
            "Rule",
            "Last request",
            "Would be allowed by",
        ];
        table(page, "Denied", &headings);
        for denial in story.denials.iter().take(ROWS) {
            let program = if denial.program.is_empty() {
                String::new()
            } else {
                format!(" <span class=\"dim\">by {}</span>", text(&denial.program))
            };
            writeln!(
                page,
                "<tr><td class=\"n\">{}</td><td class=\"mono\">{}</td><td class=\"deny\">{}</td>\
                 <td class=\"mono\">{}</td><td class=\"mono\">{}{program}</td><td class=\"mono\">{}</td></tr>",
                denial.count,
                text(phrase::destination(&denial.host, denial.port)),
                text(denial.reason),
                text(denial.rule.as_deref().unwrap_or_default()),
                text(&denial.request),
                text(denial.remedy.as_deref().unwrap_or("nothing of the policy"))
            )?;
        }
        end(page, story.denials.len().saturating_sub(ROWS) as u64)?;
    }
    if !refusals.is_empty() {
        table(
            page,
            "Refused before a destination was known",
            &["Times#", "Reason", "The last one"],
        );
        for refusal in refusals.iter().take(ROWS) {
            let (count, reason, detail) =
                (refusal.count, text(refusal.reason), text(&refusal.detail));
            writeln!(
                page,
                "<tr><td class=\"n\">{count}</td><td class=\"deny\">{reason}</td><td class=\"mono\">{detail}</td></tr>"
            )?;
        }
        end(page, refusals.len().saturating_sub(ROWS) as u64)?;
    }
    Ok(())
}

fn approvals(page: &mut String, story: &Story) -> fmt::Result {
    if story.approvals.is_empty() {
        return Ok(());
    }
    table(page, "Approvals", &["Asked", "For", "Answer"]);
    for asked in story.approvals.iter().take(ROWS) {
        writeln!(
            page,
            "<tr><td class=\"t\">{:.3}</td><td class=\"mono\">{}</td><td>{}</td></tr>",
            asked.at,
            text(&asked.what),
            text(asked.answer.as_deref().unwrap_or("none on record"))
        )?;
    }
    end(page, story.approvals.len().saturating_sub(ROWS) as u64)
}

fn programs(page: &mut String, story: &Story) -> fmt::Result {
    if story.programs.is_empty() {
        return Ok(());
    }
    let mut all: Vec<_> = story.programs.iter().collect();
    all.sort_by_key(|(_, (allowed, denied))| std::cmp::Reverse(allowed + denied));
    let most = all
        .iter()
        .map(|(_, (allowed, denied))| allowed + denied)
        .max()
        .unwrap_or(1);
    table(page, "Programs", &["Program", "Allowed#", "Denied#", ""]);
    for (program, (allowed, denied)) in all.iter().take(ROWS) {
        writeln!(
            page,
            "<tr><td class=\"mono\">{}</td><td class=\"n\">{allowed}</td><td class=\"n\">{denied}</td><td>{}</td></tr>",
            text(program),
            chart::bar((*allowed, *denied), most, ["allowed", "denied"])?
        )?;
    }
    end(page, all.len().saturating_sub(ROWS) as u64)
}

fn statuses(page: &mut String, story: &Story) -> fmt::Result {
    if story.statuses.is_empty() {
        return Ok(());
    }
    table(page, "HTTP answers", &["Status", "Times#"]);
    for (status, count) in story.statuses.iter().take(ROWS) {
        writeln!(
            page,
            "<tr><td>{}</td><td class=\"n\">{count}</td></tr>",
            text(status)
        )?;
    }
    end(page, story.statuses.len().saturating_sub(ROWS) as u64)
}

fn files(page: &mut String, story: &Story) -> fmt::Result {
    let Some(Value::Object(fields)) = &story.files else {
        return Ok(());
    };
    table(page, "Files in the workspace", &["What", "Which"]);
    for (name, value) in fields.iter().take(ROWS) {
        let (items, more) = items(value);
        let items: Vec<_> = items.iter().map(text).collect();
        let more = if more > 0 {
            format!("<br>and {more} more")
        } else {
            String::new()
        };
        writeln!(
            page,
            "<tr><td>{}</td><td class=\"mono\">{}{more}</td></tr>",
            text(name),
            items.join("<br>")
        )?;
    }
    end(page, fields.len().saturating_sub(ROWS) as u64)
}

/// What a field of a foreign form says, one text an item, and how many more there are.
pub(super) fn items(value: &Value) -> (Vec<String>, usize) {
    let plain = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Object(fields) => {
            let parts = fields.iter().map(|(name, value)| match value.as_str() {
                Some(text) => format!("{name}: {text}"),
                None => format!("{name}: {value}"),
            });
            parts.collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    };
    match value {
        Value::Array(all) => {
            let shown = all.iter().take(ROWS).map(plain).collect();
            (shown, all.len().saturating_sub(ROWS))
        }
        other => (vec![plain(other)], 0),
    }
}

fn events(page: &mut String, title: &str, events: &[Event], more: u64) -> fmt::Result {
    if events.is_empty() {
        return Ok(());
    }
    table(page, title, &["#", "Time", "Event", ""]);
    for event in events.iter().take(ROWS) {
        writeln!(
            page,
            "<tr><td class=\"n\">{}</td><td class=\"t\">{:.3}</td><td>{}</td><td class=\"mono\">{}</td></tr>",
            event.seq,
            event.at,
            text(&event.name),
            text(squeezed(&event.words))
        )?;
    }
    end(page, more + events.len().saturating_sub(ROWS) as u64)
}

/// Words without the columns of a terminal.
pub(super) fn squeezed(words: &str) -> String {
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn foot(page: &mut String, story: &Story) -> fmt::Result {
    let version = env!("CARGO_PKG_VERSION");
    let head = story.report.head.map_or_else(String::new, |head| {
        format!(" Head of the log: <code>{head}</code>.")
    });
    writeln!(
        page,
        "<footer>Written by portcullis {version} from {} records that hold.{head} \
         <code>portcullis audit verify {}</code> checks the log itself.</footer>",
        story.report.records, story.session
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_text_is_a_tag_or_an_order_to_a_terminal() {
        assert_eq!(
            text("<script>'\"&\u{202e}\u{1b}[2J"),
            "&lt;script&gt;&#39;&quot;&amp;\\u{202e}\\u{1b}[2J"
        );
    }
}
