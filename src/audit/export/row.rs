//! A record as a row of a table: the columns, and what stands in them.
//!
//! What has no column stands in `other`, so that a table says all that the log says but `prev`.

use serde_json::{Map, Value};

use super::cell::{Cell, Kind};
use super::seen::Seen;

/// The columns, in their order. New ones are added at the end: scripts count.
pub const COLUMNS: [(&str, Kind); 35] = [
    ("time", Kind::Time),
    ("session", Kind::Text),
    ("seq", Kind::Number),
    ("user", Kind::Text),
    ("host_id", Kind::Text),
    ("event", Kind::Text),
    ("conn", Kind::Number),
    ("transport", Kind::Text),
    ("verdict", Kind::Text),
    ("reason", Kind::Text),
    ("rule", Kind::Text),
    ("host", Kind::Text),
    ("port", Kind::Number),
    ("method", Kind::Text),
    ("path", Kind::Text),
    ("status", Kind::Number),
    ("bytes_up", Kind::Number),
    ("bytes_down", Kind::Number),
    ("ms", Kind::Number),
    ("first_byte_ms", Kind::Number),
    ("request_type", Kind::Text),
    ("response_type", Kind::Text),
    ("address", Kind::Text),
    ("via", Kind::Text),
    ("name", Kind::Text),
    ("program", Kind::Text),
    ("pid", Kind::Number),
    ("host_pid", Kind::Number),
    ("command_line", Kind::Text),
    ("parents", Kind::Text),
    ("thread", Kind::Text),
    ("turn", Kind::Text),
    ("detail", Kind::Text),
    ("other", Kind::Text),
    ("hash", Kind::Text),
];

/// Names under which several events say the same.
pub(super) mod names {
    /// Bytes of payload to the network.
    pub(in super::super) const UP: &[&str] = &["bytes_up", "request_bytes"];
    /// Bytes of payload from the network.
    pub(in super::super) const DOWN: &[&str] = &["bytes_down", "response_bytes"];
}

/// The cells of a record, one a column.
pub(super) fn cells(seen: &Seen) -> [Cell<'_>; COLUMNS.len()] {
    let mut rest = Rest::new(&seen.fields);
    let process = seen.process();
    if process.is_some() {
        rest.used.push("process");
    }
    let process = process.unwrap_or_default();
    let reason = seen.reason();
    if reason.is_some() {
        rest.used.push("reason");
    }
    let parents: Vec<_> = process
        .parents
        .iter()
        .map(|parent| {
            let name = parent.exe.or(parent.command_line.as_deref());
            let pid = parent.pid.map(|pid| format!("{pid} "));
            format!("{}{}", pid.unwrap_or_default(), name.unwrap_or("?"))
        })
        .collect();
    let parents = (!parents.is_empty()).then(|| parents.join(" < "));
    [
        Cell::Time(seen.ts),
        Cell::from(seen.session.as_str()),
        Cell::from(seen.seq),
        Cell::from(seen.user.as_str()),
        Cell::from(seen.host_id.as_str()),
        Cell::from(seen.event.as_str()),
        rest.number(&["conn"]),
        rest.text(&["transport"]),
        rest.text(&["verdict"]),
        Cell::from(reason),
        rest.text(&["rule"]),
        rest.text(&["host"]),
        rest.number(&["port"]),
        rest.text(&["method"]),
        rest.text(&["path"]),
        rest.number(&["status"]),
        rest.number(names::UP),
        rest.number(names::DOWN),
        rest.number(&["ms"]),
        rest.number(&["first_byte_ms"]),
        rest.text(&["request_type"]),
        rest.text(&["response_type"]),
        rest.text(&["address"]),
        rest.text(&["via"]),
        rest.text(&["name"]),
        Cell::from(process.exe),
        Cell::from(process.pid),
        Cell::from(process.host_pid),
        Cell::from(process.command_line),
        Cell::from(parents),
        rest.text(&["thread"]),
        rest.text(&["turn"]),
        rest.text(&["detail"]),
        rest.other(),
        Cell::from(seen.hash.as_str()),
    ]
}

/// The fields of an event, and which of them have a column.
struct Rest<'a> {
    fields: &'a Map<String, Value>,
    used: Vec<&'a str>,
}

impl<'a> Rest<'a> {
    fn new(fields: &'a Map<String, Value>) -> Self {
        Self {
            fields,
            used: Vec::new(),
        }
    }

    fn text(&mut self, names: &[&'static str]) -> Cell<'a> {
        self.take(names, |value| value.as_str().map(Cell::from))
    }

    fn number(&mut self, names: &[&'static str]) -> Cell<'a> {
        self.take(names, |value| value.as_u64().map(Cell::from))
    }

    fn take(
        &mut self,
        names: &[&'static str],
        read: impl Fn(&'a Value) -> Option<Cell<'a>>,
    ) -> Cell<'a> {
        let found = names
            .iter()
            .find_map(|name| Some((*name, read(self.fields.get(*name)?)?)));
        let Some((name, cell)) = found else {
            return Cell::Empty;
        };
        self.used.push(name);
        cell
    }

    /// What no column has, as a JSON object.
    fn other(&self) -> Cell<'a> {
        let rest = self.fields.iter();
        let rest = rest.filter(|(name, _)| !self.used.contains(&name.as_str()));
        let rest: Map<_, _> = rest
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        if rest.is_empty() {
            Cell::Empty
        } else {
            Cell::from(Value::Object(rest).to_string())
        }
    }
}
