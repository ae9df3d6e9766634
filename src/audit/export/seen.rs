//! A record as exports see it: what every record has, and the rest by name, whatever it is.

use std::borrow::Cow;
use std::net::IpAddr;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value};

/// A record. Only what its form promises must be there (see [`crate::audit::record`]).
#[derive(Debug, Clone, Deserialize)]
pub struct Seen {
    /// The version of the form. Here so that it is none of `fields`.
    #[serde(rename = "v")]
    _version: u8,
    /// The place in the session's chain.
    pub seq: u64,
    /// When the writer took it.
    pub ts: Timestamp,
    /// Which host.
    pub host_id: String,
    /// Which session.
    pub session: String,
    /// Whose session.
    pub user: String,
    /// What happened.
    pub event: String,
    /// The hash of the record before, as hex digits.
    #[serde(rename = "prev")]
    _prev: String,
    /// The hash of this record, as hex digits.
    pub hash: String,
    /// Everything that belongs to the event.
    #[serde(flatten)]
    pub fields: Map<String, Value>,
}

impl Seen {
    /// The record in a line of a log.
    pub fn parse(line: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(line)
    }

    /// An entry of the ledger, which is of a host and of no session.
    pub fn of_ledger(entry: &Value) -> Self {
        let text = |name: &str| {
            let text = entry.get(name).and_then(Value::as_str);
            text.unwrap_or_default().to_owned()
        };
        Self {
            _version: 1,
            seq: entry.get("seq").and_then(Value::as_u64).unwrap_or_default(),
            ts: text("ts").parse().unwrap_or_default(),
            host_id: text("host_id"),
            session: String::new(),
            user: String::new(),
            event: text("event"),
            _prev: text("prev"),
            hash: text("hash"),
            fields: Map::new(),
        }
    }

    /// A field that is a text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.fields.get(name)?.as_str()
    }

    /// A field that is a number from 0.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.fields.get(name)?.as_u64()
    }

    /// The first of these fields that is a number from 0.
    pub fn any_number(&self, names: &[&str]) -> Option<u64> {
        names.iter().find_map(|name| self.number(name))
    }

    /// The connection or request it speaks of.
    pub fn conn(&self) -> Option<u64> {
        self.number("conn")
    }

    /// The port asked for.
    pub fn port(&self) -> Option<u16> {
        self.number("port")?.try_into().ok()
    }

    /// Why something was denied: the code, and what it speaks of in parentheses, as `address_refused (private)`.
    pub fn reason(&self) -> Option<Cow<'_, str>> {
        match self.fields.get("reason")? {
            Value::String(code) => Some(Cow::Borrowed(code)),
            Value::Object(one) => {
                let (code, of) = one.iter().next()?;
                let of = of.as_str().map_or_else(|| of.to_string(), str::to_owned);
                Some(Cow::Owned(format!("{code} ({of})")))
            }
            _ => None,
        }
    }

    /// The process in the jail that it comes from, where it is known.
    pub fn process(&self) -> Option<Process<'_>> {
        Process::of(self.fields.get("process")?)
    }

    /// Whether method and path of the request are in sight: it came as HTTP.
    pub fn is_http(&self) -> bool {
        matches!(self.text("transport"), Some("forward" | "inspected"))
    }
}

/// A process in a jail. Every part may be missing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Process<'a> {
    /// Its number within the jail.
    pub pid: Option<u64>,
    /// Its number on the host.
    pub host_pid: Option<u64>,
    /// Its executable.
    pub exe: Option<&'a str>,
    /// Its command line, as words for a person.
    pub command_line: Option<String>,
    /// Its parent, that one's parent and so on.
    pub parents: Vec<Process<'a>>,
}

/// The most parents that are looked at.
const MAX_PARENTS: usize = 32;

impl<'a> Process<'a> {
    fn of(value: &'a Value) -> Option<Self> {
        let one = value.as_object()?;
        let parents = one.get("parents").and_then(Value::as_array);
        let parents = parents.into_iter().flatten().take(MAX_PARENTS);
        Some(Self {
            parents: parents
                .filter_map(Value::as_object)
                .map(Self::alone)
                .collect(),
            ..Self::alone(one)
        })
    }

    fn alone(one: &'a Map<String, Value>) -> Self {
        Self {
            pid: one.get("pid").and_then(Value::as_u64),
            host_pid: one.get("host_pid").and_then(Value::as_u64),
            exe: one
                .get("exe")
                .and_then(Value::as_str)
                .filter(|exe| !exe.is_empty()),
            command_line: match one.get("argv") {
                Some(Value::Array(words)) => {
                    let words: Vec<_> = words.iter().filter_map(Value::as_str).collect();
                    Some(words.join(" "))
                }
                _ => None,
            },
            parents: Vec::new(),
        }
    }

    /// The last part of the executable's path.
    pub fn name(&self) -> Option<&'a str> {
        let exe = self.exe?;
        // What the kernel adds to one that is gone (proc(5)).
        let exe = exe.strip_suffix(" (deleted)").unwrap_or(exe);
        exe.rsplit('/').find(|part| !part.is_empty())
    }
}

/// The address that a host is, if it is one and no name.
pub(super) fn address(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[')
        .trim_end_matches(']')
        .parse()
        .ok()
}

/// A host and a port as they stand in URLs.
pub(super) fn authority(host: &str, port: Option<u16>) -> String {
    let host = match address(host) {
        Some(IpAddr::V6(address)) => format!("[{address}]"),
        _ => host.to_owned(),
    };
    port.map_or_else(|| host.clone(), |port| format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unknown_stays_and_what_is_known_is_found() {
        let line = r#"{"v":1,"seq":2,"ts":"2026-01-01T00:00:00.000001Z","host_id":"h","session":"s","user":"u",
            "event":"egress.decided","conn":7,"port":443,"reason":{"address_refused":"private"},"new":[1],
            "process":{"pid":3,"host_pid":33,"exe":"/usr/bin/pip","argv":["pip","x y"],"parents":[{"pid":1,"exe":"/bin/sh"}]},
            "prev":"p","hash":"q"}"#;
        let seen = Seen::parse(line.as_bytes()).unwrap();
        assert_eq!(seen.reason().unwrap(), "address_refused (private)");
        assert_eq!((seen.conn(), seen.port()), (Some(7), Some(443)));
        let process = seen.process().unwrap();
        assert_eq!(process.name(), Some("pip"));
        assert_eq!(process.command_line.as_deref(), Some("pip x y"));
        assert_eq!(process.parents.len(), 1);
        let names: Vec<_> = seen.fields.keys().map(String::as_str).collect();
        assert_eq!(names, ["conn", "new", "port", "process", "reason"]);
    }

    #[test]
    fn an_address_of_ipv6_is_bracketed_in_urls() {
        assert_eq!(authority("::1", Some(443)), "[::1]:443");
        assert_eq!(authority("a.test", None), "a.test");
    }
}
