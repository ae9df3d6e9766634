//! Follows one log: reads what is new and holds it to what was there before.
//!
//! A record counts when its chain holds from the first record on, and when the log still is what the
//! ledger has bound of it. What does not hold is the end of it: nothing after it is read.

use std::fs::File;
use std::io::{self, BufReader, Seek, SeekFrom};

use crate::audit::chain::ChainHash;
use crate::audit::folder::LogFolder;
use crate::audit::ledger::entry::MAX_FLAW;
use crate::audit::ledger::read::{Bound, LogName};
use crate::audit::ledger::{LedgerEvent, LogHead, LogState};
use crate::audit::reader::{Ending, Lines};
use crate::audit::record::SealedLine;
use crate::audit::segment::SegmentName;
use crate::audit::verify::{Flaw, SegmentEnd};
use crate::ids::SessionId;

/// How much is read at a time.
const BUFFER: usize = 256 << 10;

/// A log that is followed.
#[derive(Debug)]
pub struct Followed {
    uid: Option<u32>,
    session: SessionId,
    /// Which segment is read, and up to where.
    segment: u32,
    /// The last record before that segment: its place and its hash.
    start: (u64, ChainHash),
    offset: u64,
    records: u64,
    head: ChainHash,
    ended: bool,
    /// How many records are bound, and the hash of the last of them.
    bound: Option<(u64, ChainHash)>,
    /// What the ledger says of a record that was not read again yet.
    expected: Option<(u64, ChainHash)>,
}

/// What is wrong with a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The first record that does not hold.
    pub record: u64,
    /// What is wrong with it.
    pub flaw: String,
}

impl Followed {
    /// A log, and what was bound of it. `None`: nothing is to be followed, it has ended or is broken.
    pub fn new((uid, session): LogName, bound: Option<&Bound>) -> Option<Self> {
        if bound.is_some_and(|bound| bound.ended || bound.broken.is_some()) {
            return None;
        }
        let last = bound.and_then(|bound| bound.heads.last_key_value());
        let last = last.map(|(records, head)| (*records, *head));
        let genesis = (0, ChainHash::genesis(session));
        let mut log = Self {
            uid,
            session,
            segment: 1,
            start: genesis,
            offset: 0,
            records: 0,
            head: genesis.1,
            ended: false,
            bound: last,
            expected: None,
        };
        match bound.and_then(|bound| bound.pruned.last()) {
            Some(end) => log.begin_behind(*end),
            None => log.restart(),
        }
        Some(log)
    }

    /// The segment that is read is to be read again. A writer takes back what it could not write as a whole (a full
    /// disk): that may have been read, and was never acknowledged.
    pub fn restart(&mut self) {
        self.offset = 0;
        (self.records, self.head) = self.start;
        self.ended = false;
        self.expected = self.bound.filter(|(records, _)| *records > self.records);
    }

    /// This segment and those before it were pruned.
    pub fn begin_behind(&mut self, end: SegmentEnd) {
        self.segment = end.segment.saturating_add(1);
        self.start = (end.records, end.head);
        self.restart();
    }

    /// Which segment is read.
    pub fn segment(&self) -> u32 {
        self.segment
    }

    /// How many records are read and not bound.
    pub fn unbound(&self) -> u64 {
        self.records
            .saturating_sub(self.bound.map_or(0, |(records, _)| records))
    }

    /// Whether its last record is the end.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// What is to be bound.
    pub fn head(&self) -> LedgerEvent {
        LedgerEvent::LogHead(LogHead {
            session: self.session,
            uid: self.uid,
            records: self.records,
            head: self.head,
            state: if self.ended {
                LogState::Ended
            } else {
                LogState::Open
            },
        })
    }

    /// It was.
    pub fn is_bound(&mut self) {
        self.bound = Some((self.records, self.head));
    }

    /// What is to be said of what was found.
    pub fn broken(&self, found: &Found) -> LedgerEvent {
        let mut flaw = found.flaw.clone();
        flaw.truncate(flaw.floor_char_boundary(MAX_FLAW));
        LedgerEvent::LogBroken {
            session: self.session,
            uid: self.uid,
            record: found.record,
            flaw,
        }
    }

    /// Brings what was read to the disk, before its head is bound: after a power cut a log is never behind
    /// the ledger.
    pub fn sync(&self, folder: &LogFolder) -> io::Result<()> {
        let segment = SegmentName {
            number: self.segment,
            ..SegmentName::first(self.session)
        };
        match folder.open_segment(segment) {
            Ok(file) => {
                rustix::fs::fdatasync(&file)?;
                if file.metadata()?.len() < self.offset {
                    // The disk failed, and the writer has heard of it before us: those were never acknowledged.
                    return Err(io::Error::other("its writer took records back"));
                }
                Ok(())
            }
            // Packed meanwhile, so it was brought there.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Reads what is new. Gives what is wrong, if anything is.
    pub fn read(&mut self, folder: &LogFolder) -> io::Result<Option<Found>> {
        loop {
            // Asked before the segment is read: once there is another one, this one is whole.
            let goes_on = self.find(folder, self.segment + 1)?.is_some();
            let Some((segment, file)) = self.find(folder, self.segment)? else {
                return Ok((self.offset > 0).then(|| self.gone()));
            };
            if let Some(found) = self.read_segment(segment, file)? {
                return Ok(Some(found));
            }
            if !goes_on {
                break;
            }
            (self.segment, self.offset) = (self.segment + 1, 0);
            self.start = (self.records, self.head);
        }
        // The whole log was read, and is not as long as it was.
        Ok(self.expected.map(|_| self.gone()))
    }

    /// A segment, plain or packed. `None`: there is none of this number.
    fn find(&self, folder: &LogFolder, number: u32) -> io::Result<Option<(SegmentName, File)>> {
        for packed in [false, true] {
            let segment = SegmentName {
                session: self.session,
                number,
                packed,
            };
            match folder.open_segment(segment) {
                Ok(file) => return Ok(Some((segment, file))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    fn read_segment(&mut self, segment: SegmentName, mut file: File) -> io::Result<Option<Found>> {
        if segment.packed {
            return self.read_lines(segment.lines(file)?, 0);
        }
        if file.metadata()?.len() < self.offset {
            return Ok(Some(self.gone()));
        }
        file.seek(SeekFrom::Start(self.offset))?;
        self.read_lines(
            Lines::new(BufReader::with_capacity(BUFFER, file)),
            self.offset,
        )
    }

    /// Lines of a segment from this offset on.
    fn read_lines(
        &mut self,
        mut lines: Lines<impl io::BufRead>,
        from: u64,
    ) -> io::Result<Option<Found>> {
        while let Some(line) = lines.next_line()? {
            let start = from + line.offset;
            if start < self.offset {
                continue;
            }
            let flaw = match line.ending {
                // Still being written.
                Ending::Cut => break,
                Ending::TooLong => Some(Flaw::TooLong.to_string()),
                Ending::Newline => self.extend(line.bytes).err(),
            };
            if let Some(flaw) = flaw {
                let record = self.records + 1;
                return Ok(Some(Found { record, flaw }));
            }
            self.offset = start + line.bytes.len() as u64 + 1;
        }
        Ok(None)
    }

    fn extend(&mut self, line: &[u8]) -> Result<(), String> {
        if self.ended {
            return Err(Flaw::AfterEnd.to_string());
        }
        let sealed = SealedLine::parse(line).ok_or_else(|| Flaw::NotARecord.to_string())?;
        if *sealed.session != *self.session.to_string().as_bytes() {
            let other = String::from_utf8_lossy(sealed.session).into_owned();
            return Err(Flaw::OtherSession(other).to_string());
        }
        let expected = self.records + 1;
        if sealed.seq != expected {
            let found = sealed.seq;
            return Err(Flaw::Sequence { expected, found }.to_string());
        }
        if *sealed.prev != self.head.to_hex() {
            return Err(Flaw::Prev.to_string());
        }
        let hash = self.head.follow(sealed.open_record);
        if *sealed.hash != hash.to_hex() {
            return Err(Flaw::Hash.to_string());
        }
        if let Some((_, head)) = self.expected.filter(|(records, _)| *records == expected) {
            if head != hash {
                return Err(
                    "not the record that was bound: the log was written anew or replaced"
                        .to_owned(),
                );
            }
            self.expected = None;
        }
        (self.records, self.head) = (expected, hash);
        self.ended = sealed.event == b"session.ended";
        Ok(())
    }

    /// What was read is not there any more.
    fn gone(&self) -> Found {
        let was = self.expected.map_or(self.records, |(records, _)| records);
        Found {
            record: self.records.min(was.saturating_sub(1)) + 1,
            flaw: format!("missing: the log had {was} records, and was cut off or removed"),
        }
    }
}
