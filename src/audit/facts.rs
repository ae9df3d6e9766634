//! What readers look at in a record, read leniently: events and fields that are not known here are passed
//! over, and a field of another type than expected is no field.
//!
//! Most records speak of a connection that an earlier one decided. [`Links`] knows those, so that a byte
//! count can be found by the host that it was for.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use jiff::Timestamp;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// How many of a session's connections without an end on record are remembered at least.
const REMEMBERED: u64 = 1 << 15;

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
#[derive(Deserialize)]
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

/// Those that every record has.
#[derive(Deserialize)]
struct Head<'a> {
    seq: u64,
    ts: Timestamp,
    #[serde(borrow)]
    user: Cow<'a, str>,
    #[serde(borrow)]
    event: Cow<'a, str>,
}

impl<'a> Facts<'a> {
    /// What a line says. `None`: it is no record.
    pub fn read(line: &'a [u8]) -> Option<Self> {
        match serde_json::from_slice::<Raw<'a>>(line) {
            Ok(raw) => Some(Self::of(raw)),
            Err(_) => serde_json::from_slice(line).ok().map(Self::of_head),
        }
    }

    fn of_head(head: Head<'a>) -> Self {
        Self {
            seq: head.seq,
            at: head.ts,
            user: head.user,
            event: head.event,
            about: About::default(),
            verdict: None,
            reason: None,
            status: None,
            conn: None,
            question: None,
            up: 0,
            down: 0,
            texts: Vec::new(),
        }
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

    /// Whether later records go back to this one.
    pub fn begins(&self) -> Option<Link> {
        match &*self.event {
            "egress.decided" => self.conn.map(Link::Conn),
            "approval.asked" => self.question.map(Link::Question),
            _ => None,
        }
    }

    /// Which earlier record this one goes back to.
    pub fn goes_back_to(&self) -> Option<Link> {
        match &*self.event {
            "egress.decided" | "approval.asked" => None,
            _ => self
                .conn
                .map(Link::Conn)
                .or(self.question.map(Link::Question)),
        }
    }
}

impl<'a> About<'a> {
    /// The name of the program: the last part of its path.
    pub fn program(&self) -> Option<&str> {
        self.exe
            .as_deref()
            .map(|exe| exe.rsplit('/').next().unwrap_or(exe))
    }

    /// Takes from an earlier record what this one leaves open.
    pub fn complete(&mut self, earlier: &About<'_>) {
        fn take(own: &mut Option<Cow<'_, str>>, earlier: Option<&Cow<'_, str>>) {
            if own.is_none() {
                *own = earlier.map(|text| text.clone().into_owned().into());
            }
        }
        // A port belongs to its host.
        if self.host.is_none() {
            self.port = earlier.port;
        }
        take(&mut self.host, earlier.host.as_ref());
        take(&mut self.method, earlier.method.as_ref());
        take(&mut self.path, earlier.path.as_ref());
        take(&mut self.rule, earlier.rule.as_ref());
        take(&mut self.exe, earlier.exe.as_ref());
        take(&mut self.thread, earlier.thread.as_ref());
    }

    fn into_owned(self) -> About<'static> {
        let own = |text: Option<Cow<'a, str>>| text.map(|text| text.into_owned().into());
        About {
            host: own(self.host),
            port: self.port,
            method: own(self.method),
            path: own(self.path),
            rule: own(self.rule),
            exe: own(self.exe),
            thread: own(self.thread),
        }
    }
}

/// What ties a record to an earlier one of its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Link {
    /// The `egress.decided` of a connection.
    Conn(u64),
    /// The `approval.asked` of a question.
    Question(u64),
}

/// Where a record stands: the number of the segment within its session, and the byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Place {
    /// The segment, from 1.
    pub segment: u32,
    /// Where in its plain text.
    pub offset: u64,
}

/// The records of one session that later ones go back to.
#[derive(Debug, Clone, Default)]
pub struct Links {
    known: HashMap<Link, Known>,
    taken: u64,
}

#[derive(Debug, Clone)]
struct Known {
    about: About<'static>,
    place: Place,
    order: u64,
}

impl Links {
    /// Completes the facts of the next record and answers where the one stands that it goes back to.
    pub fn follow(&mut self, facts: &mut Facts<'_>, place: Place) -> Option<Place> {
        if let Some(link) = facts.begins() {
            if facts.verdict.as_deref() == Some("deny") {
                // Nothing follows.
                self.known.remove(&link);
            } else {
                self.put(link, facts.about.clone(), place);
            }
            return None;
        }
        let link = facts.goes_back_to()?;
        let known = self.known.get(&link)?;
        facts.about.complete(&known.about);
        let place = known.place;
        if facts.event == "egress.closed" || facts.event == "approval.answered" {
            self.known.remove(&link);
        }
        Some(place)
    }

    /// Remembers a record that others go back to.
    pub fn put(&mut self, link: Link, about: About<'_>, place: Place) {
        let order = self.taken;
        self.taken += 1;
        let about = about.into_owned();
        let known = Known {
            about,
            place,
            order,
        };
        self.known.insert(link, known);
        if self.known.len() as u64 > 2 * REMEMBERED {
            let oldest = self.taken.saturating_sub(REMEMBERED);
            self.known.retain(|_, known| known.order >= oldest);
        }
    }

    /// Those that later records may go back to, and where they stand, oldest first.
    pub fn open(&self) -> Vec<(Link, Place)> {
        let open = self.known.iter();
        let mut open: Vec<_> = open
            .map(|(link, known)| (known.order, *link, known.place))
            .collect();
        open.sort_unstable();
        open.into_iter()
            .map(|(_, link, place)| (link, place))
            .collect()
    }
}

// === Lenient fields ===

/// A text, or what says the same: the name of a variant that holds more. Anything else is none.
#[derive(Default)]
struct Word<'a>(Option<Cow<'a, str>>);

/// A number; anything else is none.
#[derive(Default)]
struct Number(Option<u64>);

/// The texts of a list; anything else has none.
#[derive(Default)]
struct Words<'a>(Vec<Cow<'a, str>>);

/// A process in a jail.
#[derive(Default)]
struct Process<'a> {
    exe: Option<Cow<'a, str>>,
    argv: Vec<Cow<'a, str>>,
}

/// Whatever stands there.
#[derive(Default)]
struct Loose<'a> {
    text: Option<Cow<'a, str>>,
    number: Option<u64>,
    items: Vec<Cow<'a, str>>,
    exe: Option<Cow<'a, str>>,
    argv: Vec<Cow<'a, str>>,
}

struct LooseVisitor;

impl<'de> Visitor<'de> for LooseVisitor {
    type Value = Loose<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Loose<'de>, E> {
        Ok(Loose {
            text: Some(text.into()),
            ..Loose::default()
        })
    }

    fn visit_str<E>(self, text: &str) -> Result<Loose<'de>, E> {
        Ok(Loose {
            text: Some(text.to_owned().into()),
            ..Loose::default()
        })
    }

    fn visit_u64<E>(self, number: u64) -> Result<Loose<'de>, E> {
        Ok(Loose {
            number: Some(number),
            ..Loose::default()
        })
    }

    fn visit_i64<E>(self, _: i64) -> Result<Loose<'de>, E> {
        Ok(Loose::default())
    }

    fn visit_f64<E>(self, _: f64) -> Result<Loose<'de>, E> {
        Ok(Loose::default())
    }

    fn visit_bool<E>(self, _: bool) -> Result<Loose<'de>, E> {
        Ok(Loose::default())
    }

    fn visit_unit<E>(self) -> Result<Loose<'de>, E> {
        Ok(Loose::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Loose<'de>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element::<Word<'de>>()? {
            items.extend(item.0);
        }
        Ok(Loose {
            items,
            ..Loose::default()
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Loose<'de>, A::Error> {
        let mut found = Loose::default();
        while let Some(key) = map.next_key::<Word<'de>>()? {
            match key.0.as_deref() {
                Some("exe") => found.exe = map.next_value::<Word<'de>>()?.0,
                Some("argv") => found.argv = map.next_value::<Words<'de>>()?.0,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
            if found.text.is_none() {
                found.text = key.0;
            }
        }
        Ok(found)
    }
}

macro_rules! lenient {
    ([$($life:lifetime)?] $name:ty, $found:ident => $value:expr) => {
        impl<'de $(: $life, $life)?> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let $found = deserializer.deserialize_any(LooseVisitor)?;
                Ok($value)
            }
        }
    };
}

lenient!(['a] Word<'a>, found => Word(found.text));
lenient!([] Number, found => Number(found.number));
lenient!(['a] Words<'a>, found => Words(found.items));
lenient!(['a] Process<'a>, found => Process { exe: found.exe, argv: found.argv });

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
