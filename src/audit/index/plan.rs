//! What a filter looks up in the index.

use std::collections::HashSet;

use super::build::Segment;
use super::term::{self, Dim, OVERFLOW, SUFFIX_LABELS};
use crate::audit::filter::{Filter, HostGlob};
use crate::audit::words::Phrase;

/// What is looked up: rows that satisfy every condition.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) all: Vec<Condition>,
    /// Segments that are gone, by the index's numbers: no row of theirs is found.
    pub(super) gone: HashSet<String>,
    /// Rows not older than this, in microseconds since 1970.
    pub(super) since: i64,
    /// Rows older than this.
    pub(super) until: i64,
    /// Whether every row that is found has a record that the filter takes.
    pub(super) exact: bool,
}

/// Rows that have any of these.
#[derive(Debug, Default)]
pub(super) struct Condition {
    pub(super) values: Vec<(Dim, String)>,
    /// Segments, by the index's numbers.
    pub(super) segments: HashSet<String>,
    /// Values from the first to before the second.
    pub(super) ranges: Vec<(Dim, String, String)>,
    /// Hosts that are like this: every host is looked at.
    pub(super) hosts: Option<HostGlob>,
}

impl Plan {
    /// Of a filter, over these segments. `overflows`: there are records with more words than are kept.
    pub(super) fn of<'a>(
        filter: &Filter,
        segments: impl Iterator<Item = &'a Segment>,
        overflows: impl Fn(Dim) -> bool,
    ) -> Self {
        let mut plan = Self {
            exact: true,
            since: i64::MIN,
            until: i64::MAX,
            ..Self::default()
        };
        plan.times(filter);
        let mut of_sessions = Condition::default();
        for segment in segments {
            let value = segment.id.to_string();
            let wanted = filter.sessions.as_ref();
            if segment.gone() {
                plan.gone.insert(value);
            } else if wanted.is_some_and(|wanted| wanted.contains(&segment.name.session)) {
                of_sessions.segments.insert(value);
            }
        }
        if filter.sessions.is_some() {
            plan.all.push(of_sessions);
        }
        let values = [
            (Dim::User, &filter.user),
            (Dim::Method, &filter.method),
            (Dim::Rule, &filter.rule),
            (Dim::Status, &filter.status),
            (Dim::Thread, &filter.thread),
        ];
        for (dim, wanted) in values {
            if let Some(wanted) = wanted {
                plan.value(dim, wanted);
            }
        }
        if let Some(process) = &filter.process {
            let whole = process.contains('/');
            plan.value(if whole { Dim::Exe } else { Dim::Program }, process);
        }
        match filter
            .event
            .as_deref()
            .map(|event| (event, event.strip_suffix('*')))
        {
            Some((_, Some(start))) => plan.all.push(begun(&[Dim::Event], start)),
            Some((event, None)) => plan.value(Dim::Event, event),
            None => {}
        }
        if !filter.verdicts.is_empty() {
            let verdicts = filter.verdicts.iter();
            plan.all.push(Condition {
                values: verdicts
                    .map(|verdict| (Dim::Verdict, (*verdict).to_owned()))
                    .collect(),
                ..Condition::default()
            });
        }
        if let Some(host) = &filter.host {
            plan.host(host);
        }
        for phrase in &filter.path {
            plan.phrase(phrase, overflows(Dim::Path));
        }
        for phrase in &filter.text {
            plan.word(phrase, overflows(Dim::Path) || overflows(Dim::Text));
        }
        plan
    }

    fn times(&mut self, filter: &Filter) {
        let whole = |at: jiff::Timestamp| at.subsec_nanosecond() % 1000 == 0;
        if let Some(since) = filter.since {
            self.since = since.as_microsecond();
            self.exact &= whole(since);
        }
        if let Some(until) = filter.until {
            self.until = until
                .as_microsecond()
                .saturating_add(i64::from(!whole(until)));
            self.exact &= whole(until);
        }
    }

    fn value(&mut self, dim: Dim, text: &str) {
        let value = term::value(text);
        // What was cut in the index as well is told apart by the record.
        self.exact &= value.len() + 3 < term::MAX_VALUE;
        self.all.push(Condition {
            values: vec![(dim, value.to_owned())],
            ..Condition::default()
        });
    }

    fn host(&mut self, host: &HostGlob) {
        match host {
            HostGlob::Exact(name) => self.value(Dim::Host, name),
            HostGlob::Below(name) => self.value(Dim::Below, self.suffix(name)),
            HostGlob::AtOrBelow(name) => {
                let suffix = self.suffix(name).to_owned();
                self.exact &= suffix == *name;
                self.all.push(Condition {
                    values: vec![(Dim::Host, name.clone()), (Dim::Below, suffix)],
                    ..Condition::default()
                });
                return;
            }
            HostGlob::Wild(_) => self.all.push(Condition {
                hosts: Some(host.clone()),
                ..Condition::default()
            }),
        }
        if let HostGlob::Below(name) = host {
            self.exact &= self.suffix(name) == name;
        }
    }

    /// As much of a name as suffixes are looked up by.
    #[expect(clippy::unused_self, reason = "a part of `host`")]
    fn suffix<'n>(&self, name: &'n str) -> &'n str {
        let cut = name.rmatch_indices('.').nth(SUFFIX_LABELS - 1);
        cut.and_then(|(at, _)| name.get(at + 1..)).unwrap_or(name)
    }

    /// Words of a path that follow one another.
    fn phrase(&mut self, phrase: &Phrase, overflows: bool) {
        // Pairs that overlap need not be of one place.
        self.exact &= phrase.words.len() <= 2 && !overflows;
        let single = phrase.words.first().filter(|_| phrase.words.len() == 1);
        let pairs = phrase.words.windows(2).map(|pair| pair.join(" "));
        let all: Vec<String> = single.cloned().into_iter().chain(pairs).collect();
        let last = all.len().saturating_sub(1);
        for (at, word) in all.into_iter().enumerate() {
            let mut condition = if phrase.begun && at == last {
                begun(&[Dim::Path], &word)
            } else {
                Condition {
                    values: vec![(Dim::Path, word)],
                    ..Condition::default()
                }
            };
            if overflows {
                condition.values.push((Dim::Path, OVERFLOW.to_owned()));
            }
            self.all.push(condition);
        }
    }

    /// A word that stands anywhere.
    fn word(&mut self, phrase: &Phrase, overflows: bool) {
        self.exact &= !overflows;
        let dims = [Dim::Path, Dim::Text];
        for word in &phrase.words {
            let mut condition = if phrase.begun {
                begun(&dims, word)
            } else {
                Condition {
                    values: dims.map(|dim| (dim, word.clone())).to_vec(),
                    ..Condition::default()
                }
            };
            if overflows {
                let more = dims.map(|dim| (dim, OVERFLOW.to_owned()));
                condition.values.extend(more);
            }
            self.all.push(condition);
        }
    }
}

impl Condition {
    /// Whether no row can satisfy it.
    pub(super) fn is_none(&self) -> bool {
        self.values.is_empty()
            && self.segments.is_empty()
            && self.ranges.is_empty()
            && self.hosts.is_none()
    }

    /// How much of a block has to be read for it, roughly: what is cheap is asked first.
    pub(super) fn cost(&self) -> usize {
        let scans = 1000 * self.ranges.len() + 10_000 * usize::from(self.hosts.is_some());
        self.values.len() + self.segments.len().min(100) + scans
    }
}

/// Every value that begins so.
fn begun(dims: &[Dim], start: &str) -> Condition {
    let end = format!("{start}{}", char::MAX);
    let range = |dim: &Dim| (*dim, start.to_owned(), end.clone());
    Condition {
        ranges: dims.iter().map(range).collect(),
        ..Condition::default()
    }
}
