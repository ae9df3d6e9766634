//! One entry of an archive: a request from its decision to its end.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::super::Seen;
use super::super::row::names;
use super::super::seen::{address, authority};

/// What is known of a request so far.
#[derive(Debug)]
pub(super) struct Entry {
    session: String,
    /// When it came, or when somebody was asked.
    started: Timestamp,
    decided: Timestamp,
    /// Method CONNECT, whatever the door was: nobody sees what is in it.
    tunnel: bool,
    verdict: String,
    method: String,
    url: String,
    resolved: Option<Timestamp>,
    dialed: Option<Timestamp>,
    address: Option<String>,
    /// Status, and why, of one that was not let through or failed.
    denied: Option<(u16, String)>,
    closed: Option<Closed>,
    exchanged: Option<Exchanged>,
    /// What HAR has no place for.
    about: Map<String, Value>,
}

#[derive(Debug)]
struct Closed {
    up: Option<u64>,
    down: Option<u64>,
    ms: Option<u64>,
}

#[derive(Debug)]
struct Exchanged {
    status: Option<u64>,
    http: Option<String>,
    up: Option<u64>,
    down: Option<u64>,
    request_type: Option<String>,
    response_type: Option<String>,
    first_byte: Option<u64>,
    ms: Option<u64>,
}

impl Entry {
    /// A request that was just decided, on a connection on which somebody was asked at this time.
    pub(super) fn decided(seen: &Seen, asked: Option<Timestamp>) -> Self {
        let host = seen.text("host").unwrap_or("unknown.invalid");
        let tunnel = !seen.is_http();
        let reason = seen.reason();
        let mut about = Map::new();
        about.insert("session".into(), seen.session.clone().into());
        about.insert("seq".into(), seen.seq.into());
        for name in [
            "conn",
            "transport",
            "verdict",
            "reason",
            "rule",
            "process",
            "thread",
            "turn",
        ] {
            if let Some(value) = seen.fields.get(name) {
                about.insert(name.into(), value.clone());
            }
        }
        let rule = seen.text("rule");
        let rule = rule.map(|rule| format!(", by {rule}")).unwrap_or_default();
        Self {
            session: seen.session.clone(),
            started: asked.unwrap_or(seen.ts),
            decided: seen.ts,
            tunnel,
            verdict: seen.text("verdict").unwrap_or_default().to_owned(),
            method: match seen.text("method") {
                _ if tunnel => "CONNECT".into(),
                Some(method) => method.to_owned(),
                None => "GET".into(),
            },
            url: url(seen, host),
            resolved: None,
            dialed: None,
            address: address(host).map(|address| address.to_string()),
            denied: reason.map(|reason| (403, format!("denied by Portcullis: {reason}{rule}"))),
            closed: None,
            exchanged: None,
            about,
        }
    }

    /// Since when somebody is being asked about it.
    pub(super) fn asked(&self) -> Option<Timestamp> {
        (self.verdict == "ask").then_some(self.started)
    }

    /// Whether it is more than a question.
    pub(super) fn is_request(&self) -> bool {
        self.verdict != "ask" || self.closed.is_some() || self.denied.is_some()
    }

    /// Whether nothing more is known by any record to come, once it is closed.
    pub(super) fn is_whole(&self) -> bool {
        self.tunnel || self.exchanged.is_some()
    }

    /// Whether it is closed.
    pub(super) fn is_over(&self) -> bool {
        self.closed.is_some()
    }

    /// Takes in another record of its connection.
    pub(super) fn add(&mut self, seen: &Seen) {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        match seen.event.as_str() {
            "dns.query" => self.resolved = Some(seen.ts),
            "egress.dialed" => {
                self.dialed = Some(seen.ts);
                match seen.text("via") {
                    Some(via) => drop(self.about.insert("via".into(), via.into())),
                    None => self.address = seen.text("address").and_then(ip_of),
                }
            }
            "egress.refused" => {
                let reason = seen.reason().unwrap_or_default();
                let status = match &*reason {
                    "resolve_failed"
                    | "dial_failed"
                    | "upstream_proxy_failed"
                    | "certificate_refused" => 502,
                    "timed_out" => 504,
                    _ => 403,
                };
                let detail = seen.text("detail").unwrap_or_default();
                self.denied = Some((status, format!("refused by Portcullis: {reason}: {detail}")));
            }
            "egress.closed" => {
                let number = |name| seen.number(name);
                self.closed = Some(Closed {
                    up: number("bytes_up"),
                    down: number("bytes_down"),
                    ms: number("ms"),
                });
                if let Some(by) = seen.fields.get("ended_by") {
                    self.about.insert("ended_by".into(), by.clone());
                }
            }
            "http.exchanged" => {
                self.exchanged = Some(Exchanged {
                    status: seen.number("status"),
                    http: owned(seen.text("version")),
                    up: seen.any_number(names::UP),
                    down: seen.any_number(names::DOWN),
                    request_type: owned(seen.text("request_type")),
                    response_type: owned(seen.text("response_type")),
                    first_byte: seen.number("first_byte_ms"),
                    ms: seen.number("ms"),
                });
                for name in ["thread", "turn"] {
                    if let Some(value) = seen.fields.get(name) {
                        self.about.insert(name.to_owned(), value.clone());
                    }
                }
            }
            _ => {}
        }
    }

    /// The entry. -1 and the empty text stand for what is not known, as the format has it.
    pub(super) fn to_json(&self) -> Value {
        let exchanged = self.exchanged.as_ref();
        let closed = self.closed.as_ref();
        let version = exchanged.and_then(|one| one.http.as_deref());
        let version = version.unwrap_or_default();
        let sent = exchanged
            .and_then(|one| one.up)
            .or(closed.and_then(|one| one.up));
        let got = exchanged
            .and_then(|one| one.down)
            .or(closed.and_then(|one| one.down));
        let (status, comment) = self.status();
        let media_type = exchanged.and_then(|one| one.response_type.as_deref());
        let request_type = exchanged.and_then(|one| one.request_type.as_deref());
        let request_type =
            request_type.map(|value| json!([{ "name": "content-type", "value": value }]));
        let (time, timings) = self.timings();
        let mut entry = json!({
            "pageref": self.session,
            "startedDateTime": format!("{:.6}", self.started),
            "time": time,
            "request": {
                "method": self.method,
                "url": self.url,
                "httpVersion": version,
                "cookies": [],
                "headers": request_type.unwrap_or_else(|| json!([])),
                "queryString": [],
                "headersSize": -1,
                "bodySize": sent.map_or_else(|| json!(-1), |sent| json!(sent)),
            },
            "response": {
                "status": status,
                "statusText": status_text(status),
                "httpVersion": version,
                "cookies": [],
                "headers": [],
                "content": {
                    "size": got.unwrap_or_default(),
                    "mimeType": media_type.unwrap_or("x-unknown"),
                },
                "redirectURL": "",
                "headersSize": -1,
                "bodySize": got.map_or_else(|| json!(-1), |got| json!(got)),
            },
            "cache": {},
            "timings": timings,
            "_portcullis": self.about,
        });
        if let Some(entry) = entry.as_object_mut() {
            let mut put = |name: &str, value: Option<String>| {
                if let Some(value) = value {
                    entry.insert(name.into(), value.into());
                }
            };
            put("comment", comment);
            put("serverIPAddress", self.address.clone());
            let conn = self.about.get("conn").and_then(Value::as_u64);
            put("connection", conn.map(|conn| conn.to_string()));
        }
        entry
    }

    /// The status, and what is to be said of it.
    fn status(&self) -> (u64, Option<String>) {
        if let Some(status) = self.exchanged.as_ref().and_then(|one| one.status) {
            return (status, self.denied.as_ref().map(|(_, why)| why.clone()));
        }
        match &self.denied {
            Some((status, why)) => (u64::from(*status), Some(why.clone())),
            None if self.tunnel && self.dialed.is_some() => (200, None),
            None if self.closed.is_none() => (0, Some("its end is not on record".into())),
            None => (0, Some("its status is not on record".into())),
        }
    }

    /// Milliseconds in all and in parts. The connection is made between the decision and the first byte; what
    /// the client waited for an answer of its user is `blocked`.
    fn timings(&self) -> (f64, Value) {
        let blocked = (self.started < self.decided).then(|| between(self.started, self.decided));
        let dns = self.resolved.map(|at| between(self.decided, at));
        let before = self.resolved.unwrap_or(self.decided);
        let connect = self.dialed.map(|at| between(before, at));
        let made = dns.unwrap_or_default() + connect.unwrap_or_default();
        let exchanged = self.exchanged.as_ref();
        // Both count from the decision.
        let all = exchanged.and_then(|one| one.ms);
        let all = all.or(self.closed.as_ref().and_then(|one| one.ms)).map(ms);
        let rest = (all.unwrap_or_default() - made).max(0.0);
        let wait = exchanged.and_then(|one| one.first_byte).map(ms);
        let wait = wait.map_or(0.0, |first| (first - made).clamp(0.0, rest));
        let receive = rest - wait;
        let time = blocked.unwrap_or_default() + made + wait + receive;
        let known = |part: Option<f64>| part.unwrap_or(-1.0);
        let timings = json!({
            "blocked": known(blocked), "dns": known(dns), "connect": known(connect), "ssl": -1,
            "send": 0, "wait": wait, "receive": receive,
        });
        (time, timings)
    }
}

fn between(from: Timestamp, to: Timestamp) -> f64 {
    let micros = to.as_microsecond().saturating_sub(from.as_microsecond());
    f64::from(u32::try_from(micros.max(0)).unwrap_or(u32::MAX)) / 1000.0
}

fn ms(number: u64) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

fn ip_of(socket: &str) -> Option<String> {
    let socket: std::net::SocketAddr = socket.parse().ok()?;
    Some(socket.ip().to_string())
}

fn status_text(status: u64) -> &'static str {
    let status = u16::try_from(status).ok();
    let status = status.and_then(|status| hyper::StatusCode::from_u16(status).ok());
    status
        .and_then(|status| status.canonical_reason())
        .unwrap_or_default()
}

/// Where it went. A tunnel's scheme is what its port is for.
fn url(seen: &Seen, host: &str) -> String {
    let port = seen.port();
    let scheme = match (seen.text("transport"), port) {
        (Some("socks5_udp"), _) => "udp",
        (Some("forward"), _) | (_, Some(80)) => "http",
        (Some("inspected"), _) | (_, Some(443)) => "https",
        _ => "tcp",
    };
    let usual = matches!((scheme, port), ("http", Some(80)) | ("https", Some(443)));
    let authority = authority(host, port.filter(|_| !usual));
    let mut url = format!("{scheme}://{authority}");
    if seen.is_http() {
        push_path(&mut url, seen.text("path").unwrap_or("/"));
    } else {
        url.push('/');
    }
    url
}

/// Appends a path (RFC 3986, 3.3): whatever may not stand in one is percent-encoded.
fn push_path(url: &mut String, path: &str) {
    if !path.starts_with('/') {
        url.push('/');
    }
    let bytes = path.as_bytes();
    for (at, byte) in bytes.iter().copied().enumerate() {
        let hex = |after: usize| bytes.get(at + after).is_some_and(u8::is_ascii_hexdigit);
        if byte.is_ascii_alphanumeric()
            || b"-._~!$&'()*+,;=:@/".contains(&byte)
            || (byte == b'%' && hex(1) && hex(2))
        {
            url.push(char::from(byte));
        } else {
            url.push('%');
            url.push_str(&data_encoding::HEXUPPER.encode(&[byte]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_in_a_url_whatever_a_jail_sent() {
        let of = |path: &str| {
            let mut url = String::new();
            push_path(&mut url, path);
            url
        };
        assert_eq!(of("/a b\u{1b}?#é%41%zz"), "/a%20b%1B%3F%23%C3%A9%41%25zz");
        assert_eq!(of("x"), "/x");
    }
}
