//! Numbers for Prometheus: what the logs say since this process started, and how the sinks do.
//!
//! Labels are from small sets: verdicts, codes, events, the names of sinks. Never hosts, paths or anything else that
//! a jail chooses; a code that is not known to be one (a log can be forged) counts as `other`.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use jiff::Timestamp;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::config::{MessageFormat, Target, TargetPlace};
use super::cursor::Places;
use super::source::Source;
use super::worker::Shared;
use crate::audit::export::Seen;

/// The most values of one label.
const MAX_WORDS: usize = 64;

/// The most batches that are read for one answer.
const MAX_BATCHES: usize = 64;

/// The numbers.
pub struct Numbers {
    logs: Source,
    places: Places,
    ledgers: Source,
    ledger_places: Places,
    registry: Registry,
    words: BTreeSet<String>,
    decisions: Family<Decision, Counter>,
    refusals: Family<Word, Counter>,
    records: Family<Word, Counter>,
    questions: Family<Word, Counter>,
    bytes: Family<Word, Counter>,
    running: Gauge,
    broken: Gauge,
    checkpoint: Gauge,
    checkpoint_at: Option<Timestamp>,
    sinks: Vec<Shared>,
    up: Family<Sink, Gauge>,
    lag: Family<Sink, Gauge>,
    sent: Family<Sink, Counter>,
    failures: Family<Sink, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Decision {
    verdict: String,
    reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Word {
    kind: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Sink {
    sink: String,
}

impl std::fmt::Debug for Numbers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Numbers")
    }
}

impl Numbers {
    /// Counts what is recorded below this folder from now on.
    pub fn new(root: &Path, sinks: Vec<Shared>) -> io::Result<Self> {
        let target = |anchor| Target {
            name: String::new(),
            place: TargetPlace::File(root.into()),
            ca: None,
            format: MessageFormat::Jsonl,
            events: Vec::new(),
            anchor,
        };
        let mut numbers = Self {
            logs: Source::new(root, &target(false)),
            places: Places::new(),
            ledgers: Source::new(root, &target(true)),
            ledger_places: Places::new(),
            registry: Registry::with_prefix("portcullis"),
            words: BTreeSet::new(),
            decisions: Family::default(),
            refusals: Family::default(),
            records: Family::default(),
            questions: Family::default(),
            bytes: Family::default(),
            running: Gauge::default(),
            broken: Gauge::default(),
            checkpoint: Gauge::default(),
            checkpoint_at: None,
            sinks,
            up: Family::default(),
            lag: Family::default(),
            sent: Family::default(),
            failures: Family::default(),
        };
        numbers.register();
        numbers.logs.skip_to_ends(&mut numbers.places)?;
        Ok(numbers)
    }

    fn register(&mut self) {
        let of = &mut self.registry;
        of.register("decisions", "Decisions on requests", self.decisions.clone());
        of.register(
            "refusals",
            "Requests that failed outside of the rules",
            self.refusals.clone(),
        );
        of.register("records", "Records by event", self.records.clone());
        of.register(
            "dns_questions",
            "Questions for names, by what was answered",
            self.questions.clone(),
        );
        of.register(
            "bytes",
            "Payload of connections that are over, up or down",
            self.bytes.clone(),
        );
        of.register(
            "sessions_running",
            "Sessions whose log is being written",
            self.running.clone(),
        );
        of.register(
            "broken_logs",
            "Logs with a record that does not hold, of those read since the start",
            self.broken.clone(),
        );
        of.register(
            "checkpoint_age_seconds",
            "Seconds since the last checkpoint; -1: there was none",
            self.checkpoint.clone(),
        );
        of.register(
            "sink_up",
            "Whether a sink took the last batch",
            self.up.clone(),
        );
        of.register(
            "sink_lag_bytes",
            "Bytes of logs that a sink does not have yet",
            self.lag.clone(),
        );
        of.register("sink_sent", "Messages sent to a sink", self.sent.clone());
        of.register(
            "sink_failures",
            "Times that sending to a sink failed",
            self.failures.clone(),
        );
    }

    /// Prometheus's text format, 0.0.4.
    pub fn text(&mut self) -> io::Result<String> {
        for _ in 0..MAX_BATCHES {
            let batch = self.logs.next(&mut self.places)?;
            if batch.places.is_empty() {
                break;
            }
            for item in &batch.items {
                self.count(&item.seen);
            }
        }
        for _ in 0..MAX_BATCHES {
            let batch = self.ledgers.next(&mut self.ledger_places)?;
            let last = batch.items.iter().map(|item| item.seen.ts).max();
            self.checkpoint_at = self.checkpoint_at.max(last);
            if batch.places.is_empty() {
                break;
            }
        }
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let age = |at: Timestamp| Timestamp::now().as_second().saturating_sub(at.as_second());
        self.checkpoint.set(self.checkpoint_at.map_or(-1, age));
        self.running.set(signed(self.logs.running(&self.places)));
        self.broken.set(signed(Source::broken(&self.places)));
        for shared in &self.sinks {
            let status = shared
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            let sink = Sink { sink: status.name };
            self.up.get_or_create(&sink).set(i64::from(status.up));
            self.lag.get_or_create(&sink).set(signed(status.lag_bytes));
            let set = |counter: &Family<Sink, Counter>, number| {
                counter
                    .get_or_create(&sink)
                    .inner()
                    .store(number, Ordering::Relaxed);
            };
            set(&self.sent, status.sent);
            set(&self.failures, status.failures);
        }
        let mut text = String::new();
        encode(&mut text, &self.registry).map_err(io::Error::other)?;
        Ok(classic(&text))
    }

    fn count(&mut self, seen: &Seen) {
        let kind = self.word(&seen.event);
        self.records.get_or_create(&kind).inc();
        let reason = seen.reason().unwrap_or_default();
        let code = reason.split(' ').next().unwrap_or_default();
        match seen.event.as_str() {
            "egress.decided" => {
                let decision = Decision {
                    verdict: self.word(seen.text("verdict").unwrap_or_default()).kind,
                    reason: self.word(code).kind,
                };
                self.decisions.get_or_create(&decision).inc();
            }
            "egress.refused" => {
                let kind = self.word(code);
                self.refusals.get_or_create(&kind).inc();
            }
            "dns.asked" => {
                let kind = self.word(seen.text("answer").unwrap_or_default());
                self.questions.get_or_create(&kind).inc();
            }
            "egress.closed" => {
                for (kind, field) in [("up", "bytes_up"), ("down", "bytes_down")] {
                    let kind = Word { kind: kind.into() };
                    let bytes = seen.number(field).unwrap_or_default();
                    self.bytes.get_or_create(&kind).inc_by(bytes);
                }
            }
            _ => {}
        }
    }

    /// A word that may be a label's value: lower case, and one of a bounded number.
    fn word(&mut self, word: &str) -> Word {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '.');
        let known = self.words.contains(word);
        if known || (word.len() <= 40 && word.chars().all(fits) && self.words.len() < MAX_WORDS) {
            if !known {
                self.words.insert(word.to_owned());
            }
            return Word { kind: word.into() };
        }
        Word {
            kind: "other".into(),
        }
    }
}

/// OpenMetrics 1.0 as the text format that all readers know: there a counter's name has its `_total` in the
/// description as well, and nothing marks the end.
fn classic(text: &str) -> String {
    let counters: BTreeSet<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut classic = String::with_capacity(text.len());
    for line in text.lines().filter(|line| *line != "# EOF") {
        let described = ["# HELP ", "# TYPE "].into_iter().find_map(|kind| {
            let (name, rest) = line.strip_prefix(kind)?.split_once(' ')?;
            counters.contains(name).then_some((kind, name, rest))
        });
        match described {
            Some((kind, name, rest)) => classic.extend([kind, name, "_total ", rest]),
            None => classic.push_str(line),
        }
        classic.push('\n');
    }
    classic
}
