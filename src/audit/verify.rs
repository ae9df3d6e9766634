//! Verifies a log: every byte, in one pass, without reading the events.
//!
//! A record whose hash holds is byte for byte what its writer sealed, so nothing in it is parsed but
//! its place in the chain. What is reported is the first record that does not hold; nothing after it
//! is believed. A log without its last records looks like one that is still written: its state says
//! so, and only a head that was kept elsewhere can tell more.
//!
//! A session's log is verified over all of its segments ([`verify_log`]); a segment alone only within itself
//! ([`verify_segment`]), because what came before it is not there.

use std::fs::File;
use std::io::{self, BufRead, BufReader};

use serde::Serialize;

use super::chain::ChainHash;
use super::lock;
use super::reader::{Ending, Line, Lines};
use super::record::SealedLine;
use super::segment::{SegmentName, SegmentStore};
use crate::ids::SessionId;

/// How often the list of segments is asked for until it stays as it is: a writer makes another one, somebody
/// packs one.
const LOOKS: usize = 16;

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
    /// Which record was the first, where it is a later segment that was verified: nothing is said of those before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part: Option<u64>,
    /// How many records stood before these and were pruned, as the ledger says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pruned: Option<u64>,
    /// Where each segment ends that was read as a whole.
    #[serde(skip)]
    pub ends: Vec<SegmentEnd>,
    /// The first record that does not hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broken: Option<Broken>,
    /// How often a record is older than the one before: the clock was set back, or they were forged.
    pub clock_set_back: u64,
}

/// Where a segment ends: what follows it goes on from there, whether or not it is still there itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentEnd {
    /// Its number.
    pub segment: u32,
    /// The place of its last record in the log.
    pub records: u64,
    /// The hash of that one.
    pub head: ChainHash,
}

/// Where a log may begin.
#[derive(Debug, Clone, Copy)]
pub enum Begins<'a> {
    /// With its first record, or behind one of these segments, which were pruned: what the ledger says, signed. In
    /// the order of their numbers.
    Behind(&'a [SegmentEnd]),
    /// With the first segment that is there, whose word is taken for what came before it.
    Anywhere,
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

impl Report {
    /// The place of the last record that holds.
    pub fn last(&self) -> u64 {
        let before = self.part.map_or(0, |first| first.saturating_sub(1));
        self.pruned.unwrap_or(before) + self.records
    }
}

/// The first record that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{}record {record} at byte {offset}: {flaw}", in_file(file.as_deref()))]
pub struct Broken {
    /// Which, counted from 1 over all segments of the log.
    pub record: u64,
    /// In which file, where the log has several or it is packed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Where it begins in the file, unpacked.
    pub offset: u64,
    /// What is wrong with it.
    pub flaw: Flaw,
}

fn in_file(file: Option<&str>) -> String {
    file.map_or_else(String::new, |file| format!("{file}: "))
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
    /// The file in which it should stand is not there, and later ones are.
    #[error("this segment of the log is missing: it was removed")]
    SegmentMissing,
    /// The file is packed and does not unpack.
    #[error("cannot be unpacked: {0}")]
    Packing(String),
}

/// Verifies a session's log over all of its segments, from the first record on: what `audit verify` says of one
/// session. A log without any segment has no record.
pub fn verify_log(store: &impl SegmentStore, session: SessionId) -> io::Result<Report> {
    verify_log_seen(store, session, Begins::Behind(&[]), &mut |_, _| {})
}

/// The same of a log as it is now: of one whose first segments are gone, the rest. Whether they were pruned or removed
/// says the ledger alone.
pub fn verify_rest(store: &impl SegmentStore, session: SessionId) -> io::Result<Report> {
    verify_log_seen(store, session, Begins::Anywhere, &mut |_, _| {})
}

/// The same, from where the log may begin, and shows the place and the hash of each record that holds; more than once, if the log grows meanwhile.
pub fn verify_log_seen(
    store: &impl SegmentStore,
    session: SessionId,
    begins: Begins<'_>,
    seen: &mut dyn FnMut(u64, ChainHash),
) -> io::Result<Report> {
    let mut segments = store.list(session)?;
    for _ in 0..LOOKS {
        let verified = verify_segments(store, (session, begins), &segments, seen);
        let is_final = match &verified {
            // Nothing follows, or what follows is written just now.
            Ok(report) if report.broken.is_none() => report.state != State::Open,
            Ok(report) => report.state == State::Running,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(_) => true,
        };
        // Another segment may have been begun, or one packed, since they were listed.
        let now = if is_final {
            return verified;
        } else {
            store.list_now(session)?
        };
        if now == segments {
            return verified;
        }
        segments = now;
    }
    verify_segments(store, (session, begins), &segments, seen)
}

fn verify_segments(
    store: &impl SegmentStore,
    (session, begins): (SessionId, Begins<'_>),
    segments: &[SegmentName],
    seen: &mut dyn FnMut(u64, ChainHash),
) -> io::Result<Report> {
    // Asked first: a log that nobody writes now does not change while we read.
    let running = is_written(store, segments);
    let several = segments.len() > 1;
    let mut chain = Chain::new(Some(session));
    chain.seen = Some(seen);
    let first = segments.first().map_or(u32::MAX, |first| first.number);
    let number = chain.begin(begins, first);
    let mut broken = None;
    let mut ends = Vec::new();
    for (segment, number) in segments.iter().zip(number..) {
        if segment.number != number {
            let missing = SegmentName {
                number,
                packed: false,
                ..*segment
            };
            broken = Some(Broken {
                record: chain.seq + 1,
                file: Some(missing.file_name()),
                offset: 0,
                flaw: Flaw::SegmentMissing,
            });
            break;
        }
        let is_last = segments.last() == Some(segment);
        let (segment, file) = open_either(store, *segment)?;
        broken = chain.take_segment(segment, file, several)?;
        if broken.is_some() {
            // The line that is being written right now.
            broken =
                broken.filter(|broken| !(running && is_last && broken.flaw == Flaw::Truncated));
            break;
        }
        ends.extend(chain.head().map(|head| SegmentEnd {
            segment: number,
            records: chain.seq,
            head,
        }));
    }
    let mut report = chain.report(broken, running);
    report.ends = ends;
    Ok(report)
}

/// Whether a writer holds the newest segment, or the one before while it makes another.
pub fn is_written(store: &impl SegmentStore, segments: &[SegmentName]) -> bool {
    let newest = segments.iter().rev().take(2).filter(|one| !one.packed);
    newest
        .filter_map(|segment| store.open(*segment).ok())
        .any(|file| lock::is_held(&file).unwrap_or_default())
}

/// Opens a segment, or its twin where it was packed since it was listed.
fn open_either(store: &impl SegmentStore, segment: SegmentName) -> io::Result<(SegmentName, File)> {
    match store.open(segment) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let packed = !segment.packed;
            let twin = SegmentName { packed, ..segment };
            store.open(twin).map(|file| (twin, file)).map_err(|_| error)
        }
        opened => Ok((segment, opened?)),
    }
}

/// Verifies one segment that is an open file, by itself. `named` is what the file's name promises: of a later segment the
/// first record is taken as it stands, and the report says so.
pub fn verify_segment(file: File, named: SegmentName) -> io::Result<Report> {
    let running = !named.packed && lock::is_held(&file)?;
    let mut chain = Chain::new(Some(named.session));
    chain.begins_anywhere = named.number > 1;
    let broken = chain.take_segment(named, file, false)?;
    let broken = broken.filter(|broken| !(running && broken.flaw == Flaw::Truncated));
    Ok(chain.report(broken, running))
}

/// Verifies a log of one segment that is an open file. `named` is the session that the file's name promises; without
/// one the first record's own is taken.
pub fn verify_file(file: &File, named: Option<SessionId>) -> io::Result<Report> {
    // Asked first: a log that nobody holds now does not change while we read.
    let running = lock::is_held(file)?;
    let mut report = verify(BufReader::with_capacity(256 << 10, file), named)?;
    if running && report.state == State::Open {
        report.state = State::Running;
        // The line that is being written right now.
        report.broken = report
            .broken
            .filter(|broken| broken.flaw != Flaw::Truncated);
    }
    Ok(report)
}

/// Verifies what a reader yields, from a log's first record on.
pub fn verify(source: impl BufRead, named: Option<SessionId>) -> io::Result<Report> {
    let mut chain = Chain::new(named);
    let broken = chain.take_lines(&mut Lines::new(source), None)?;
    Ok(chain.report(broken, false))
}

/// The part of a log that holds so far.
pub(super) struct Chain<'a> {
    /// The session, and the same as text: every record repeats it.
    session: Option<(SessionId, String)>,
    /// How many records hold.
    records: u64,
    /// The place of the last of them.
    pub(super) seq: u64,
    /// Whether the first record may have any place, because what comes before it is not read.
    pub(super) begins_anywhere: bool,
    /// The place of the first record, where it may have any.
    part: Option<u64>,
    /// How many records before were pruned.
    pruned: Option<u64>,
    /// The head, and the same as text: the next record repeats it.
    link: Option<(ChainHash, [u8; 64])>,
    /// Time of the last record, as text.
    ts: [u8; 27],
    pub(super) ended: bool,
    clock_set_back: u64,
    /// Who is shown each record that holds.
    seen: Option<&'a mut dyn FnMut(u64, ChainHash)>,
}

impl Chain<'_> {
    pub(super) fn new(named: Option<SessionId>) -> Self {
        Self {
            session: named.map(|session| (session, session.to_string())),
            records: 0,
            seq: 0,
            begins_anywhere: false,
            part: None,
            pruned: None,
            link: None,
            ts: [0; 27],
            ended: false,
            clock_set_back: 0,
            seen: None,
        }
    }

    /// The hash of the last record that holds.
    pub(super) fn head(&self) -> Option<ChainHash> {
        self.link.map(|(hash, _)| hash)
    }

    /// Takes up the chain where a log may begin whose first segment that is there has this number (the highest if
    /// none is), and answers the number that the first segment must have.
    fn begin(&mut self, begins: Begins<'_>, first: u32) -> u32 {
        match begins {
            Begins::Behind(ends) => {
                // What was to be removed, and is there all the same, is read as well.
                let Some(end) = ends.iter().rev().find(|end| end.segment < first) else {
                    return 1;
                };
                self.seq = end.records;
                self.link = Some((end.head, end.head.to_hex()));
                self.pruned = Some(end.records);
                end.segment.saturating_add(1)
            }
            Begins::Anywhere if first > 1 && first < u32::MAX => {
                self.begins_anywhere = true;
                first
            }
            Begins::Anywhere => 1,
        }
    }

    /// Goes on with a whole segment; answers the first record that does not hold.
    pub(super) fn take_segment(
        &mut self,
        segment: SegmentName,
        file: File,
        several: bool,
    ) -> io::Result<Option<Broken>> {
        let name = (several || segment.packed).then(|| segment.file_name());
        let mut lines = segment.lines(file)?;
        match self.take_lines(&mut lines, name.as_deref()) {
            // The disk's own errors look the same; either way it cannot be read as it should.
            Err(error) if segment.packed => Ok(Some(Broken {
                record: self.seq + 1,
                file: name,
                offset: 0,
                flaw: Flaw::Packing(error.to_string()),
            })),
            taken => taken,
        }
    }

    pub(super) fn take_lines(
        &mut self,
        lines: &mut Lines<impl BufRead>,
        file: Option<&str>,
    ) -> io::Result<Option<Broken>> {
        while let Some(line) = lines.next_line()? {
            if let Err(flaw) = self.extend(line) {
                return Ok(Some(Broken {
                    record: self.seq + 1,
                    file: file.map(ToOwned::to_owned),
                    offset: line.offset,
                    flaw,
                }));
            }
        }
        Ok(None)
    }

    fn report(self, broken: Option<Broken>, running: bool) -> Report {
        Report {
            head: self.head(),
            session: self.session.map(|(session, _)| session),
            records: self.records,
            state: match (self.ended, running) {
                (true, _) => State::Complete,
                (false, true) => State::Running,
                (false, false) => State::Open,
            },
            part: self.part,
            pruned: self.pruned,
            ends: Vec::new(),
            broken,
            clock_set_back: self.clock_set_back,
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
        if self.begins_anywhere && self.link.is_none() {
            self.begin_at(&sealed)?;
        }
        let (prev, prev_text) = self.predecessor(sealed.session)?;
        let expected = self.seq + 1;
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
        self.seq = expected;
        self.records += 1;
        self.clock_set_back += u64::from(*sealed.ts < self.ts);
        self.ts = *sealed.ts;
        self.ended = sealed.event == b"session.ended";
        if let Some(seen) = &mut self.seen {
            seen(expected, hash);
        }
        Ok(())
    }

    /// Takes the first record's word for what comes before it.
    fn begin_at(&mut self, first: &SealedLine<'_>) -> Result<(), Flaw> {
        let text = String::from_utf8_lossy(first.prev).into_owned();
        let prev = ChainHash::try_from(text).map_err(|_| Flaw::NotARecord)?;
        self.seq = first.seq.checked_sub(1).ok_or(Flaw::NotARecord)?;
        self.part = Some(first.seq);
        self.link = Some((prev, *first.prev));
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
