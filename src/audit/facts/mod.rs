//! What readers look at in a record, read leniently: events and fields that are not known here are passed
//! over, and a field of another type than expected is no field.
//!
//! Most records speak of a connection that an earlier one decided. [`Links`] knows those, so that a byte
//! count can be found by the host that it was for.

mod lenient;
mod links;

use std::borrow::Cow;

use jiff::Timestamp;
use serde::Deserialize;

use lenient::{Number, Process, Word, Words};
pub use links::{Link, Links, Place};

/// What a record says, or the one that it goes back to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct About<'a> {
    /// The host, as asked for.
    pub host: Option<Cow<'a, str>>,
    /// The port.
    pub port: Option<u64>,
    /// The method.
    pub method: Option<Cow<'a, str>>,
    /// The path.
    pub path: Option<Cow<'a, str>>,
    /// The rule that decided.
    pub rule: Option<Cow<'a, str>>,
    /// The executable of the process in the jail.
    pub exe: Option<Cow<'a, str>>,
    /// The thread of Codex.
    pub thread: Option<Cow<'a, str>>,
}

/// What readers look at in a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts<'a> {
    /// Its place in the session's chain.
    pub seq: u64,
    /// When it was taken.
    pub at: Timestamp,
    /// Whose session.
    pub user: Cow<'a, str>,
    /// The name of the event.
    pub event: Cow<'a, str>,
    /// What it is about.
    pub about: About<'a>,
    /// `allow`, `deny` or `ask`, if it says so itself.
    pub verdict: Option<Cow<'a, str>>,
    /// Why it was denied.
    pub reason: Option<Cow<'a, str>>,
    /// The status of an HTTP answer.
    pub status: Option<Cow<'a, str>>,
    /// The connection.
    pub conn: Option<u64>,
    /// The question.
    pub question: Option<u64>,
    /// Bytes to the network, of a connection that is over.
    pub up: u64,
    /// Bytes from the network.
    pub down: u64,
    /// Other texts in it.
    pub texts: Vec<Cow<'a, str>>,
}

/// A record as it stands, every field lenient.
#[derive(Default, Deserialize)]
struct Raw<'a> {
    seq: u64,
    ts: Timestamp,
    #[serde(borrow)]
    user: Cow<'a, str>,
    #[serde(borrow)]
    event: Cow<'a, str>,
    #[serde(borrow, default)]
    host: Word<'a>,
    #[serde(borrow, default)]
    name: Word<'a>,
    #[serde(default)]
    port: Number,
    #[serde(borrow, default)]
    method: Word<'a>,
    #[serde(borrow, default)]
    path: Word<'a>,
    #[serde(borrow, default)]
    verdict: Word<'a>,
    #[serde(borrow, default)]
    answer: Word<'a>,
    #[serde(borrow, default)]
    reason: Word<'a>,
    #[serde(borrow, default)]
    rule: Word<'a>,
    #[serde(default)]
    status: Number,
    #[serde(borrow, default)]
    thread: Word<'a>,
    #[serde(default)]
    conn: Number,
    #[serde(default)]
    question: Number,
    #[serde(default)]
    bytes_up: Number,
    #[serde(default)]
    bytes_down: Number,
    #[serde(borrow, default)]
    process: Process<'a>,
    #[serde(borrow, default)]
    argv: Words<'a>,
    #[serde(borrow, default)]
    detail: Word<'a>,
    #[serde(borrow, default)]
    error: Word<'a>,
    #[serde(borrow, default)]
    by: Word<'a>,
    #[serde(borrow, default)]
    credential: Word<'a>,
    #[serde(borrow, default)]
    profile: Word<'a>,
    #[serde(borrow, default)]
    workspace: Word<'a>,
}

/// Those that every record has: all that is read of one that repeats a field.
#[derive(Deserialize)]
struct Head<'a> {
    seq: u64,
    ts: Timestamp,
    #[serde(borrow)]
    user: Cow<'a, str>,
    #[serde(borrow)]
    event: Cow<'a, str>,
}

impl<'a> Head<'a> {
    /// A record without any other field.
    fn alone(self) -> Raw<'a> {
        Raw {
            seq: self.seq,
            ts: self.ts,
            user: self.user,
            event: self.event,
            ..Raw::default()
        }
    }
}

impl<'a> Facts<'a> {
    /// What a line says. `None`: it is no record.
    pub fn read(line: &'a [u8]) -> Option<Self> {
        let raw = serde_json::from_slice::<Raw<'a>>(line);
        let raw = raw.or_else(|_| serde_json::from_slice(line).map(Head::alone));
        raw.ok().map(Self::of)
    }

    fn of(raw: Raw<'a>) -> Self {
        let (event, mut host) = (raw.event, raw.host.0);
        let mut verdict = raw.verdict.0;
        let mut name = raw.name.0;
        if event.starts_with("dns.") {
            host = host.or_else(|| name.take());
            let refused = matches!(
                raw.answer.0.as_deref(),
                Some("refused" | "malformed" | "full")
            );
            verdict = verdict.or(refused.then_some(Cow::Borrowed("deny")));
        }
        if event == "egress.refused" {
            verdict = verdict.or(Some(Cow::Borrowed("deny")));
        }
        let words = [
            name,
            raw.detail.0,
            raw.error.0,
            raw.by.0,
            raw.credential.0,
            raw.profile.0,
            raw.workspace.0,
        ];
        let mut texts: Vec<_> = words.into_iter().flatten().collect();
        texts.extend(raw.argv.0);
        texts.extend(raw.process.argv);
        Self {
            seq: raw.seq,
            at: raw.ts,
            user: raw.user,
            event,
            about: About {
                host,
                port: raw.port.0,
                method: raw.method.0,
                path: raw.path.0,
                rule: raw.rule.0,
                exe: raw.process.exe,
                thread: raw.thread.0,
            },
            verdict,
            reason: raw.reason.0,
            status: raw.status.0.map(|status| status.to_string().into()),
            conn: raw.conn.0,
            question: raw.question.0,
            up: raw.bytes_up.0.unwrap_or_default(),
            down: raw.bytes_down.0.unwrap_or_default(),
            texts,
        }
    }
}

impl About<'_> {
    /// The name of the program: the last part of its path.
    pub fn program(&self) -> Option<&str> {
        self.exe
            .as_deref()
            .map(|exe| exe.rsplit('/').next().unwrap_or(exe))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = r#""v":1,"seq":7,"ts":"2026-11-23T10:00:00.000001Z","host_id":"h","session":"s","user":"alice""#;

    fn read(rest: &str) -> String {
        format!("{{{HEAD},{rest},\"prev\":\"\",\"hash\":\"\"}}")
    }

    #[test]
    fn unknown_events_and_odd_fields_are_no_obstacle() {
        let line = read(
            r#""event":"new.thing","host":{"odd":[1]},"port":"x","conn":-1,"status":{"exited":3},"more":[{}],"process":7"#,
        );
        let facts = Facts::read(line.as_bytes()).unwrap();
        assert_eq!((facts.seq, &*facts.event), (7, "new.thing"));
        assert_eq!(
            (facts.about.port, facts.conn, facts.status),
            (None, None, None)
        );
        assert_eq!(facts.about.host.as_deref(), Some("odd"));
        assert!(Facts::read(b"{\"seq\":1}").is_none());
    }

    #[test]
    fn of_a_record_that_repeats_a_field_what_every_record_has_is_known() {
        let line = read(r#""event":"egress.refused","conn":3,"conn":4,"detail":"x""#);
        let facts = Facts::read(line.as_bytes()).unwrap();
        assert_eq!((facts.seq, &*facts.user), (7, "alice"));
        assert_eq!((facts.conn, facts.texts.len()), (None, 0));
        assert_eq!(facts.verdict.as_deref(), Some("deny"));
    }

    #[test]
    fn a_close_is_about_what_was_decided() {
        let decided = read(
            r#""event":"egress.decided","conn":3,"host":"a.test","port":443,"verdict":"allow","reason":{"address_refused":"private"},"process":{"pid":3,"exe":"/usr/bin/p\u0069p","argv":["pip","install"],"parents":[]}"#,
        );
        let closed = read(r#""event":"egress.closed","conn":3,"bytes_up":5,"bytes_down":6"#);
        let mut links = Links::default();
        let mut first = Facts::read(decided.as_bytes()).unwrap();
        let place = Place {
            segment: 1,
            offset: 9,
        };
        assert_eq!(links.follow(&mut first, place), None);
        assert_eq!(first.about.program(), Some("pip"));
        assert_eq!(first.reason.as_deref(), Some("address_refused"));
        assert_eq!(first.texts, ["pip", "install"]);
        assert_eq!(links.open(), [(Link::Conn(3), place)]);
        let mut second = Facts::read(closed.as_bytes()).unwrap();
        assert_eq!(links.follow(&mut second, Place::default()), Some(place));
        assert_eq!(second.about, first.about);
        assert_eq!((second.up, second.down, second.verdict), (5, 6, None));
        assert_eq!(links.open(), []);
    }
}
