//! Verifies a log: every byte, in one pass, without reading the events.
//!
//! A record whose hash holds is byte for byte what its writer sealed, so nothing in it is parsed but
//! its place in the chain. What is reported is the first record that does not hold; nothing after it
//! is believed. A log without its last records looks like one that is still written: its state says
//! so, and only a head that was kept elsewhere can tell more.

use std::fs::File;
use std::io::{self, BufRead, BufReader};

use serde::Serialize;

use super::chain::ChainHash;
use super::lock;
use super::reader::{Ending, Line, Lines};
use super::record::SealedLine;
use crate::ids::SessionId;

/// What verification found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The session that the records name; `None` when there is no record.
    pub session: Option<SessionId>,
    /// How many records hold, from the first on.
    pub records: u64,
    /// The hash of the last of them: worth keeping elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head: Option<ChainHash>,
    /// How the log ends. Says nothing when `broken` is set.
    pub state: State,
    /// The first record that does not hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broken: Option<Broken>,
    /// How often a record is older than the one before: the clock was set back, or they were forged.
    pub clock_set_back: u64,
}

/// How a log ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// With `session.ended`: nothing is missing.
    Complete,
    /// Without it, and its writer holds the file.
    Running,
    /// Without it, and nobody writes: the writer was killed, or the tail was cut off.
    Open,
}

/// The first record that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("record {record} at byte {offset}: {flaw}")]
pub struct Broken {
    /// Which, counted from 1 in the file.
    pub record: u64,
    /// Where it begins in the file.
    pub offset: u64,
    /// What is wrong with it.
    pub flaw: Flaw,
}

/// What is wrong with a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Flaw {
    /// Not even JSON.
    #[error("not JSON: {0}")]
    NotJson(String),
    /// JSON, but its fields are not those of a record in their order.
    #[error("not a record of this form")]
    NotARecord,
    /// It names another session than the file does.
    #[error("belongs to another session, {0}")]
    OtherSession(String),
    /// Records before it are missing, moved or doubled.
    #[error(
        "sequence is {found} where {expected} must stand: records were removed, moved or added"
    )]
    Sequence {
        /// The number that must stand there.
        expected: u64,
        /// The number that stands there.
        found: u64,
    },
    /// It does not follow the record before.
    #[error("does not follow the record before it: one of the two was changed")]
    Prev,
    /// Its bytes are not those that were sealed.
    #[error("hash does not match its content: it was changed")]
    Hash,
    /// The file ends within it.
    #[error("the file ends within it: its writer was killed or the file was cut off")]
    Truncated,
    /// It does not end.
    #[error("longer than any record")]
    TooLong,
    /// The session was over.
    #[error("stands after session.ended: it was added")]
    AfterEnd,
}

/// Verifies a log that is an open file. `named` is the session that the file's name promises; without
/// one the first record's own is taken.
pub fn verify_file(file: &File, named: Option<SessionId>) -> io::Result<Report> {
    verify_file_seen(file, named, &mut |_, _| {})
}

/// The same, and shows the number and the hash of each record that holds.
pub fn verify_file_seen(
    file: &File,
    named: Option<SessionId>,
    seen: &mut dyn FnMut(u64, ChainHash),
) -> io::Result<Report> {
    // Asked first: a log that nobody holds now does not change while we read.
    let running = lock::is_held(file)?;
    let source = BufReader::with_capacity(256 << 10, file);
    let mut report = verify_seen(source, named, seen)?;
    if running && report.state == State::Open {
        report.state = State::Running;
        // The line that is being written right now.
        report.broken = report
            .broken
            .filter(|broken| broken.flaw != Flaw::Truncated);
    }
    Ok(report)
}

/// Verifies what a reader yields.
pub fn verify(source: impl BufRead, named: Option<SessionId>) -> io::Result<Report> {
    verify_seen(source, named, &mut |_, _| {})
}

/// The same, and shows the number and the hash of each record that holds.
pub fn verify_seen(
    source: impl BufRead,
    named: Option<SessionId>,
    seen: &mut dyn FnMut(u64, ChainHash),
) -> io::Result<Report> {
    let mut lines = Lines::new(source);
    let mut chain = Chain::new(named);
    let mut broken = None;
    while let Some(line) = lines.next_line()? {
        if let Err(flaw) = chain.extend(line) {
            broken = Some(Broken {
                record: line.number,
                offset: line.offset,
                flaw,
            });
            break;
        }
        if let Some((hash, _)) = chain.link {
            seen(chain.records, hash);
        }
    }
    Ok(Report {
        session: chain.session.map(|(session, _)| session),
        records: chain.records,
        head: chain.link.map(|(hash, _)| hash),
        state: if chain.ended {
            State::Complete
        } else {
            State::Open
        },
        broken,
        clock_set_back: chain.clock_set_back,
    })
}

/// The part of a log that holds so far.
struct Chain {
    /// The session, and the same as text: every record repeats it.
    session: Option<(SessionId, String)>,
    records: u64,
    /// The head, and the same as text: the next record repeats it.
    link: Option<(ChainHash, [u8; 64])>,
    /// Time of the last record, as text.
    ts: [u8; 27],
    ended: bool,
    clock_set_back: u64,
}

impl Chain {
    fn new(named: Option<SessionId>) -> Self {
        Self {
            session: named.map(|session| (session, session.to_string())),
            records: 0,
            link: None,
            ts: [0; 27],
            ended: false,
            clock_set_back: 0,
        }
    }

    fn extend(&mut self, line: Line<'_>) -> Result<(), Flaw> {
        match line.ending {
            _ if self.ended => return Err(Flaw::AfterEnd),
            Ending::Cut => return Err(Flaw::Truncated),
            Ending::TooLong => return Err(Flaw::TooLong),
            Ending::Newline => {}
        }
        let sealed = SealedLine::parse(line.bytes).ok_or_else(|| unreadable(line.bytes))?;
        let (prev, prev_text) = self.predecessor(sealed.session)?;
        let expected = self.records + 1;
        if sealed.seq != expected {
            return Err(Flaw::Sequence {
                expected,
                found: sealed.seq,
            });
        }
        if *sealed.prev != prev_text {
            return Err(Flaw::Prev);
        }
        let hash = prev.follow(sealed.open_record);
        let text = hash.to_hex();
        if *sealed.hash != text {
            return Err(Flaw::Hash);
        }
        self.link = Some((hash, text));
        self.records = expected;
        self.clock_set_back += u64::from(*sealed.ts < self.ts);
        self.ts = *sealed.ts;
        self.ended = sealed.event == b"session.ended";
        Ok(())
    }

    /// What the next record must name as its predecessor, given the session that it names.
    fn predecessor(&mut self, text: &[u8]) -> Result<(ChainHash, [u8; 64]), Flaw> {
        let (session, named) = if let Some(known) = &self.session {
            known
        } else {
            let text = String::from_utf8_lossy(text).into_owned();
            let session = text.parse().map_err(|_| Flaw::NotARecord)?;
            self.session.insert((session, text))
        };
        if named.as_bytes() != text {
            return Err(Flaw::OtherSession(
                String::from_utf8_lossy(text).into_owned(),
            ));
        }
        Ok(self.link.unwrap_or_else(|| {
            let genesis = ChainHash::genesis(*session);
            (genesis, genesis.to_hex())
        }))
    }
}

/// Says why a line is not in the form of a record.
fn unreadable(line: &[u8]) -> Flaw {
    match serde_json::from_slice::<serde::de::IgnoredAny>(line) {
        Ok(_) => Flaw::NotARecord,
        Err(error) => Flaw::NotJson(error.to_string()),
    }
}
