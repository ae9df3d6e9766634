//! What a report tells, gathered in one pass over a session's log, as far as the log holds.

use std::collections::{BTreeMap, VecDeque};
use std::io;

use jiff::Timestamp;
use serde_json::Value;

use super::super::logs::Logs;
use super::super::{log_failure, phrase};
use super::series::Series;
use crate::audit::facts::{Facts, Links, Place};
use crate::audit::summary::SessionSummary;
use crate::audit::verify::{Report, verify_rest};
use crate::audit::{AuditEvent, AuditRecord};
use crate::cli::failure::Failure;
use crate::ids::SessionId;
use crate::policy::{self, DenyReason, EgressRequest, Host, Port, Transport, Verdict};

/// How many things of one kind are told apart: the jail chooses how many there are.
const KINDS: usize = 4096;

/// How many of the first and of the last records are shown.
const ENDS: usize = 10;

/// The most fields of one record that a later version may have added.
const MORE_FIELDS: usize = 16;

/// How many events of each list are kept.
const EVENTS: usize = 1000;

/// A session's story.
pub(super) struct Story {
    pub(super) session: SessionId,
    pub(super) summary: SessionSummary,
    pub(super) report: Report,
    pub(super) series: Series,
    /// Requests of each program: let through, and not.
    pub(super) programs: BTreeMap<String, (u64, u64)>,
    pub(super) denials: Vec<Denial>,
    pub(super) approvals: Vec<Approval>,
    /// What somebody should have seen, in words, beside requests.
    pub(super) events: Vec<Event>,
    /// Events beyond those kept.
    pub(super) more_events: u64,
    /// What changed in the workspace, if the log says.
    pub(super) files: Option<Value>,
    /// Statuses of HTTP answers, and how many.
    pub(super) statuses: BTreeMap<String, u64>,
    pub(super) first: Vec<Event>,
    pub(super) last: VecDeque<Event>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) seq: u64,
    pub(super) at: Timestamp,
    pub(super) name: String,
    /// Safe to print, and not yet for a page.
    pub(super) words: String,
}

/// Requests that were denied alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Denial {
    pub(super) host: Host,
    pub(super) port: Port,
    pub(super) reason: DenyReason,
    pub(super) rule: Option<String>,
    pub(super) count: u64,
    /// The last of them: method and path.
    pub(super) request: String,
    pub(super) program: String,
    pub(super) remedy: Option<String>,
}

/// Something that somebody was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Approval {
    question: u64,
    pub(super) at: Timestamp,
    pub(super) what: String,
    /// What became of it, and by whom.
    pub(super) answer: Option<String>,
}

/// Reads a session's log.
pub(super) fn gather(logs: &Logs, session: SessionId) -> Result<Story, Failure> {
    let path = logs.log(session);
    let failed = |error: io::Error| log_failure(&path, &error);
    let report = verify_rest(logs, session).map_err(failed)?;
    let mut left = report.records;
    let mut story = Story {
        session,
        summary: SessionSummary::default(),
        report,
        series: Series::new(),
        programs: BTreeMap::new(),
        denials: Vec::new(),
        approvals: Vec::new(),
        events: Vec::new(),
        more_events: 0,
        files: None,
        statuses: BTreeMap::new(),
        first: Vec::new(),
        last: VecDeque::new(),
    };
    let mut earlier = Links::default();
    let mut known = phrase::Destinations::new();
    for segment in logs.segments(session)? {
        let opened = logs.open_segment(segment);
        let mut lines = opened
            .and_then(|file| segment.lines(file))
            .map_err(failed)?;
        while left > 0
            && let Some(line) = lines.next_line().map_err(failed)?
        {
            left -= 1;
            if let Some(mut facts) = Facts::read(line.bytes) {
                earlier.follow(&mut facts, Place::default());
                story.add(line.bytes, &facts, &mut known);
            }
        }
    }
    story
        .denials
        .sort_by_key(|denial| std::cmp::Reverse(denial.count));
    Ok(story)
}

impl Story {
    fn add(&mut self, line: &[u8], facts: &Facts<'_>, known: &mut phrase::Destinations) {
        let record = record(line);
        let words = match &record {
            Some(record) => phrase::event(&record.event, known),
            // An event of another version.
            None => said(facts),
        };
        let event = Event {
            seq: facts.seq,
            at: facts.at,
            name: facts.event.clone().into_owned(),
            words,
        };
        self.count(facts);
        if is_notable(&event.name) {
            if self.events.len() < EVENTS {
                self.events.push(event.clone());
            } else {
                self.more_events += 1;
            }
        }
        if event.name == "session.ended" {
            let value: Option<Value> = serde_json::from_slice(line).ok();
            self.files = value.and_then(|mut value| Some(value.get_mut("workspace")?.take()));
        }
        if self.first.len() < ENDS {
            self.first.push(event);
        } else {
            self.last.push_back(event);
            if self.last.len() > ENDS {
                self.last.pop_front();
            }
        }
        if let Some(record) = record {
            self.denied(&record.event, facts);
            self.answered(&record.event, facts);
            self.summary.add(record);
        }
        self.asked(facts);
    }

    fn count(&mut self, facts: &Facts<'_>) {
        let verdict = facts.verdict.as_deref();
        let (allowed, denied) = match verdict {
            Some("allow") => (1, 0),
            Some("deny") => (0, 1),
            _ => (0, 0),
        };
        self.series.add(facts.at, |piece| {
            piece.allowed += allowed;
            piece.denied += denied;
            if facts.event == "egress.closed" {
                piece.up = piece.up.saturating_add(facts.up);
                piece.down = piece.down.saturating_add(facts.down);
            }
        });
        if let Some(program) = facts.about.exe.as_deref().filter(|_| allowed + denied > 0) {
            let full = self.programs.len() >= KINDS;
            if let Some(counts) = self.programs.get_mut(program) {
                *counts = (counts.0 + allowed, counts.1 + denied);
            } else if !full {
                self.programs.insert(program.to_owned(), (allowed, denied));
            }
        }
        if let Some(status) = facts.status.as_deref() {
            *self.statuses.entry(status.to_owned()).or_default() += 1;
        }
    }

    fn denied(&mut self, event: &AuditEvent, facts: &Facts<'_>) {
        let AuditEvent::EgressDecided {
            host,
            port,
            verdict: Verdict::Deny,
            reason: Some(reason),
            rule,
            method,
            transport,
            ..
        } = event
        else {
            return;
        };
        let rule = rule.as_ref().map(|rule| rule.as_str().to_owned());
        let about = &facts.about;
        let request = [about.method.as_deref(), about.path.as_deref()];
        let request = request.into_iter().flatten().collect::<Vec<_>>().join(" ");
        let program = about.exe.as_deref().unwrap_or_default().to_owned();
        let full = self.denials.len() >= KINDS;
        let mut known = self.denials.iter_mut();
        let known = known.find(|denial| {
            denial.host == *host
                && denial.port == *port
                && denial.reason == *reason
                && denial.rule == rule
        });
        if let Some(denial) = known {
            denial.count += 1;
            (denial.request, denial.program) = (request, program);
        } else if !full {
            let asked = EgressRequest {
                transport: if method.is_some() {
                    *transport
                } else {
                    Transport::Connect
                },
                host: host.clone(),
                port: *port,
                method: method.clone(),
                path: None,
                websocket: false,
            };
            self.denials.push(Denial {
                host: host.clone(),
                port: *port,
                reason: *reason,
                rule,
                count: 1,
                request,
                program,
                remedy: policy::remedy(&asked, *reason),
            });
        }
    }

    fn asked(&mut self, facts: &Facts<'_>) {
        if facts.event != "approval.asked" || self.approvals.len() >= EVENTS {
            return;
        }
        self.approvals
            .extend(facts.question.map(|question| Approval {
                question,
                at: facts.at,
                what: request(facts),
                answer: None,
            }));
    }

    fn answered(&mut self, event: &AuditEvent, facts: &Facts<'_>) {
        let AuditEvent::ApprovalAnswered { end, scope, by, .. } = event else {
            return;
        };
        let mut answer = end.to_string();
        answer.extend(scope.map(|scope| format!(" ({scope})")));
        answer.extend(by.as_ref().map(|by| format!(" by {by}")));
        let mut open = self.approvals.iter_mut().rev();
        if let Some(asked) = open.find(|asked| Some(asked.question) == facts.question) {
            asked.answer = Some(answer);
        }
    }
}

/// A record as this version knows it; fields that a later one has added are passed over.
fn record(line: &[u8]) -> Option<AuditRecord> {
    let error = match serde_json::from_slice(line) {
        Ok(record) => return Some(record),
        Err(error) => error,
    };
    let mut value: Value = serde_json::from_slice(line).ok()?;
    let mut error = error.to_string();
    for _ in 0..MORE_FIELDS {
        let (_, after) = error.split_once("unknown field `")?;
        let (field, _) = after.split_once('`')?;
        value.as_object_mut()?.remove(field)?;
        error = match serde_json::from_value(value.clone()) {
            Ok(record) => return Some(record),
            Err(error) => error.to_string(),
        };
    }
    None
}

/// Destination, method and path; not safe to print.
fn request(facts: &Facts<'_>) -> String {
    let about = &facts.about;
    let mut what = about.host.as_deref().unwrap_or_default().to_owned();
    what.extend(about.port.map(|port| format!(":{port}")));
    for part in [about.method.as_deref(), about.path.as_deref()]
        .into_iter()
        .flatten()
    {
        what.push(' ');
        what.push_str(part);
    }
    what
}

/// What an event says that is not known here.
fn said(facts: &Facts<'_>) -> String {
    let mut parts = vec![request(facts)];
    parts.extend(facts.status.as_deref().map(ToOwned::to_owned));
    parts.push(facts.texts.join(" "));
    parts.retain(|part| !part.is_empty());
    parts.join(" ")
}

/// Whether an event is told by itself.
fn is_notable(name: &str) -> bool {
    !(name.starts_with("egress.")
        || name.starts_with("dns.")
        || name.starts_with("http.")
        || name.starts_with("body.")
        || name.starts_with("approval."))
}
