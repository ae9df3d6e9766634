//! HTTP Archive 1.2 (W3C draft of 2012): an entry a request, a page a session.
//!
//! A request that was seen as HTTP is an entry with its method and path; a tunnel is one with the method CONNECT. A
//! denied one has status 403 and a comment that says why. Sizes and times are those of the log; header and query
//! values are not in it and not here. What could not be read as a request (`egress.refused` without a decision)
//! has no URL and no entry.
//!
//! Entries are written when they are over. Kept until then: requests that are open, at most [`MAX_OPEN`]; and one
//! short line a session, for the pages at the end.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Write};

use serde_json::{Value, json};

use super::{Form, Seen};

mod entry;

use entry::Entry;

/// The most requests that are open at a time; beyond, the oldest is written as it is.
const MAX_OPEN: usize = 65_536;

/// How many requests that are over may wait for what was exchanged in them, which is recorded apart.
const MAX_OVER: usize = 256;

/// The most characters of a command in a page's title.
const MAX_TITLE: usize = 200;

/// The archive.
pub(super) struct Archive<W> {
    output: W,
    entries: u64,
    pages: Vec<Value>,
    open: BTreeMap<u64, Entry>,
    /// Those of `open` that are over.
    over: VecDeque<u64>,
}

impl<W: Write> Archive<W> {
    /// Begins the archive.
    pub(super) fn new(mut output: W) -> io::Result<Self> {
        let creator = json!({ "name": "Portcullis", "version": env!("CARGO_PKG_VERSION") });
        write!(
            output,
            r#"{{"log":{{"version":"1.2","creator":{creator},"entries":["#
        )?;
        Ok(Self {
            output,
            entries: 0,
            pages: Vec::new(),
            open: BTreeMap::new(),
            over: VecDeque::new(),
        })
    }

    fn write(&mut self, entry: &Entry) -> io::Result<()> {
        let comma = if self.entries == 0 { "" } else { "," };
        self.entries += 1;
        write!(self.output, "{comma}\n{}", entry.to_json())
    }

    /// The request on this connection is over.
    fn close(&mut self, conn: u64) -> io::Result<()> {
        match self.open.remove(&conn) {
            Some(entry) if entry.is_request() => self.write(&entry),
            _ => Ok(()),
        }
    }

    fn close_all(&mut self) -> io::Result<()> {
        self.over.clear();
        while let Some((_, entry)) = self.open.pop_first() {
            if entry.is_request() {
                self.write(&entry)?;
            }
        }
        Ok(())
    }

    fn page(&mut self, seen: &Seen) {
        let known = self.pages.last().and_then(|page| page.get("id"));
        if known.and_then(Value::as_str) == Some(&seen.session) {
            return;
        }
        let argv = seen.fields.get("argv").and_then(Value::as_array);
        let words: Vec<_> = argv
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let title: String = words.join(" ").chars().take(MAX_TITLE).collect();
        self.pages.push(json!({
            "startedDateTime": format!("{:.6}", seen.ts),
            "id": seen.session,
            "title": if title.is_empty() { &seen.session } else { &title },
            "pageTimings": {},
        }));
    }

    fn decided(&mut self, conn: u64, seen: &Seen) -> io::Result<()> {
        let asked = self.open.get(&conn).and_then(Entry::asked);
        self.close(conn)?;
        let entry = Entry::decided(seen, asked);
        if seen.text("verdict") == Some("deny") {
            return self.write(&entry);
        }
        self.open.insert(conn, entry);
        if self.open.len() > MAX_OPEN
            && let Some(oldest) = self.open.keys().next().copied()
        {
            self.close(oldest)?;
        }
        Ok(())
    }
}

impl<W: Write> Form for Archive<W> {
    fn record(&mut self, line: &[u8]) -> io::Result<()> {
        let seen = Seen::parse(line)?;
        self.page(&seen);
        let Some(conn) = seen.conn() else {
            // What a gate that died held has no end on record.
            return match seen.event.as_str() {
                "gate.restarted" | "gate.lost" => self.close_all(),
                _ => Ok(()),
            };
        };
        if seen.event == "egress.decided" {
            return self.decided(conn, &seen);
        }
        let Some(entry) = self.open.get_mut(&conn) else {
            return Ok(());
        };
        entry.add(&seen);
        match seen.event.as_str() {
            "egress.refused" => self.close(conn),
            "egress.closed" if entry.is_whole() => self.close(conn),
            "egress.closed" => {
                self.over.push_back(conn);
                let full = self.over.len() > MAX_OVER;
                match full.then(|| self.over.pop_front()).flatten() {
                    Some(oldest) => self.close(oldest),
                    None => Ok(()),
                }
            }
            "http.exchanged" if entry.is_over() => self.close(conn),
            _ => Ok(()),
        }
    }

    fn session_over(&mut self) -> io::Result<()> {
        self.close_all()
    }

    fn finish(&mut self) -> io::Result<()> {
        self.close_all()?;
        let pages = Value::Array(std::mem::take(&mut self.pages));
        writeln!(self.output, "\n],\"pages\":{pages}}}}}")?;
        self.output.flush()
    }
}
