//! The filters of `query`, `tail` and `stats`, as they are typed.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp, Zoned};

use super::logs::Logs;
use super::{escape, naming, when};
use crate::audit::filter::{Filter, HostGlob};
use crate::cli::failure::Failure;
use crate::exit::Exit;

/// What a record must be like; all of what is given.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Filters")]
pub(super) struct FilterArgs {
    /// About this host: a name, *.below.it, **.it.and.below, or with * anywhere
    #[arg(long, value_name = "GLOB")]
    host: Option<String>,
    /// Denied or refused
    #[arg(long)]
    denied: bool,
    /// Allowed
    #[arg(long)]
    allowed: bool,
    /// Asked about
    #[arg(long)]
    asked: bool,
    /// Of this session: its id or the beginning of it
    #[arg(long = "session", value_name = "ID")]
    of_session: Option<String>,
    /// Of this user's sessions
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Not older: 2h, 3d, yesterday, 2026-11-23 or RFC 3339
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Older than this
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Of a program in the jail: its name, or its path
    #[arg(long, value_name = "NAME")]
    process: Option<String>,
    /// Of this event, as egress.closed, or egress.*
    #[arg(long, value_name = "NAME")]
    event: Option<String>,
    /// With this HTTP method
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    /// With these words in the path: /repos/acme, or begun ones: iss*
    #[arg(long = "path", value_name = "WORDS")]
    in_path: Option<String>,
    /// With this HTTP status: 404, or 4xx
    #[arg(long, value_name = "STATUS")]
    status: Option<String>,
    /// Decided by this rule
    #[arg(long, value_name = "ID")]
    rule: Option<String>,
    /// Of this thread of Codex
    #[arg(long, value_name = "ID")]
    thread: Option<String>,
    /// With these words anywhere: hosts, paths, command lines, reasons, details
    #[arg(long, value_name = "WORDS")]
    text: Option<String>,
}

impl FilterArgs {
    /// What is meant, among these logs.
    pub(super) fn filter(&self, logs: &Logs) -> Result<Filter, Failure> {
        let session = self.of_session.as_ref();
        let session = session.map(|name| naming::find(logs, name)).transpose()?;
        Ok(Filter {
            sessions: session.map(|session| BTreeSet::from([session])),
            ..self.without_session()?
        })
    }

    fn without_session(&self) -> Result<Filter, Failure> {
        let wrong = |what: &str, why: String| Failure::new(Exit::Usage, format!("--{what}: {why}"));
        let now = Zoned::now();
        let time = |what: &str, text: &Option<String>| {
            let text = text.as_deref();
            let at = text.map(|text| when::parse(text, &now)).transpose();
            let at = at.map_err(|why| wrong(what, why))?;
            Ok::<_, Failure>(at.map(whole))
        };
        let verdicts = [
            (self.denied, "deny"),
            (self.allowed, "allow"),
            (self.asked, "ask"),
        ];
        let mut filter = Filter {
            host: self.host.as_deref().map(HostGlob::parse),
            verdicts: verdicts
                .into_iter()
                .filter(|(wanted, _)| *wanted)
                .map(|(_, verdict)| verdict)
                .collect(),
            sessions: None,
            user: self.user.clone(),
            since: time("since", &self.since)?,
            until: time("until", &self.until)?,
            process: self.process.clone(),
            event: self.event.clone(),
            method: self
                .method
                .as_ref()
                .map(|method| method.to_ascii_uppercase()),
            status: self.status.as_deref().map(str::to_ascii_lowercase),
            rule: self.rule.clone(),
            thread: self.thread.clone(),
            ..Filter::default()
        };
        if let (Some(since), Some(until)) = (filter.since, filter.until)
            && since >= until
        {
            let why = format!("{until:.0} is not after --since, {since:.0}");
            return Err(wrong("until", why));
        }
        if let Some(status) = &filter.status
            && !is_status(status)
        {
            let why = format!("{:?} is no status; write 404 or 4xx", escape(status));
            return Err(wrong("status", why));
        }
        if let Some(text) = &self.in_path {
            filter.set_path(text);
            if filter.path.is_empty() {
                return Err(wrong("path", "there is no word in it".to_owned()));
            }
        }
        if let Some(text) = &self.text {
            filter.set_text(text);
            if filter.text.is_empty() {
                return Err(wrong("text", "there is no word in it".to_owned()));
            }
        }
        Ok(filter)
    }

    /// The same in words, to tell what was searched for; safe to print.
    pub(super) fn words(&self) -> String {
        let mut words = Vec::new();
        let flags = [
            (self.denied, "--denied"),
            (self.allowed, "--allowed"),
            (self.asked, "--asked"),
        ];
        words.extend(
            flags
                .into_iter()
                .filter(|(given, _)| *given)
                .map(|(_, flag)| flag.to_owned()),
        );
        let values = [
            ("host", &self.host),
            ("session", &self.of_session),
            ("user", &self.user),
            ("since", &self.since),
            ("until", &self.until),
            ("process", &self.process),
            ("event", &self.event),
            ("method", &self.method),
            ("path", &self.in_path),
            ("status", &self.status),
            ("rule", &self.rule),
            ("thread", &self.thread),
            ("text", &self.text),
        ];
        for (name, value) in values {
            words.extend(
                value
                    .as_ref()
                    .map(|value| format!("--{name} {}", escape(value))),
            );
        }
        words.join(" ")
    }
}

/// The next whole microsecond. Records have no shorter times, so that the same ones are meant, and the index
/// knows all about them.
fn whole(at: Timestamp) -> Timestamp {
    let beyond = i64::from(at.subsec_nanosecond().rem_euclid(1000));
    let rest = if beyond == 0 { 0 } else { 1000 - beyond };
    let up = at.checked_add(SignedDuration::from_nanos(rest));
    up.unwrap_or(at)
}

fn is_status(text: &str) -> bool {
    let (first, rest) = text.split_at_checked(1).unwrap_or_default();
    let digits = |text: &str| text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
    matches!(first, "1" | "2" | "3" | "4" | "5" | "6" | "7" | "8" | "9")
        && (rest == "xx" || digits(rest))
}
