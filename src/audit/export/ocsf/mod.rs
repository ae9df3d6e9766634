//! Events of the Open Cybersecurity Schema Framework, [`VERSION`]: an event a record, whatever it is.
//!
//! | record | class |
//! |---|---|
//! | `egress.*` of a tunnel | Network Activity (4001) |
//! | `egress.*` of a request in sight, `http.exchanged` | HTTP Activity (4002) |
//! | `dns.*` | DNS Activity (4003) |
//! | `approval.*`, `credential.used` | Authorize Session (3003) |
//! | `session.started`, `session.ended`, `gate.restarted`, `gate.lost`, `witness.*` | Application Lifecycle (6002) |
//! | everything else | Base Event (0) |
//!
//! What the class has no attribute for stands in `unmapped`, so nothing of a record is lost but `prev`. Kept: where
//! the last [`MAX_KNOWN`] connections of a session went and its open questions, since a record that follows says
//! neither.

mod envelope;
mod grant;
mod network;

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde_json::{Map, Value};

use super::{Form, Seen};
use envelope::{BASE, Event, LIFECYCLE};

/// The version of the schema.
pub const VERSION: &str = "1.8.0";

/// The most connections, and questions, of a session that are remembered.
const MAX_KNOWN: usize = 4096;

/// A JSON object a line.
pub(super) struct Lines<W> {
    output: W,
    session: Session,
}

impl<W: Write> Lines<W> {
    /// Writes here.
    pub(super) fn new(output: W) -> Self {
        let session = Session::default();
        Self { output, session }
    }
}

impl<W: Write> Form for Lines<W> {
    fn record(&mut self, line: &[u8]) -> io::Result<()> {
        let event = self.session.event(&Seen::parse(line)?);
        writeln!(self.output, "{event}")
    }

    fn session_over(&mut self) -> io::Result<()> {
        self.session = Session::default();
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

/// What is remembered of a session, whose records come in their order.
#[derive(Debug, Default)]
pub struct Session {
    connections: BTreeMap<u64, Connection>,
    /// What a question is about, in words.
    questions: BTreeMap<u64, String>,
}

/// Where a connection goes.
#[derive(Debug, Clone, Default)]
struct Connection {
    /// `dst_endpoint`.
    endpoint: Value,
    /// `http_request`, if the request is in sight.
    request: Option<Value>,
    /// The process in the jail.
    process: Option<Value>,
}

impl Session {
    /// The event that says what this record says.
    pub fn event(&mut self, seen: &Seen) -> Value {
        let mut event = match seen.event.as_str() {
            "egress.decided" => network::decided(self, seen),
            "egress.dialed" | "egress.refused" | "egress.closed" => network::followed(self, seen),
            "http.exchanged" => network::exchanged(self, seen),
            "dns.asked" | "dns.query" | "dns.dropped" => network::dns(self, seen),
            "approval.asked" => grant::asked(self, seen),
            "approval.answered" => grant::answered(self, seen),
            "credential.used" => grant::credential(seen),
            "session.started" => lifecycle(seen, 3, "Start"),
            "session.ended" | "gate.lost" | "witness.lost" => lifecycle(seen, 4, "Stop"),
            "gate.restarted" | "witness.restarted" => lifecycle(seen, 5, "Restart"),
            _ => Event::new(&BASE, 99, "Other"),
        };
        if matches!(
            seen.event.as_str(),
            "gate.lost"
                | "witness.lost"
                | "ledger.lost"
                | "policy.rejected"
                | "log.resumed"
                | "log.sync_failed"
                | "records.lost"
                | "dns.dropped"
        ) {
            event.alarming();
        }
        let known = seen.conn().and_then(|conn| self.connections.get(&conn));
        let process = known.and_then(|known| known.process.clone());
        event.finish(seen, process)
    }

    fn remember(&mut self, conn: Option<u64>, connection: Connection) {
        if let Some(conn) = conn {
            self.connections.insert(conn, connection);
        }
        if self.connections.len() > MAX_KNOWN {
            self.connections.pop_first();
        }
    }
}

fn lifecycle(seen: &Seen, activity: u64, name: &'static str) -> Event {
    let mut event = Event::new(&LIFECYCLE, activity, name);
    let mut app = Map::new();
    let what = match seen.event.split_once('.') {
        Some(("session", _)) => "Portcullis session",
        Some(("witness", _)) => "portcullis-init witness",
        _ => "portcullis-gate",
    };
    app.insert("name".into(), what.into());
    app.insert("vendor_name".into(), "Portcullis".into());
    app.insert("uid".into(), seen.session.clone().into());
    event.set("app", Value::Object(app));
    if let Some(ms) = event.take_number(seen, &["ms"]) {
        event.set("duration", ms.into());
    }
    event
}
