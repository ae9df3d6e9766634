//! What is to be sent next: records of all logs below a folder, a few of each in turn.
//!
//! A log that is behind takes no more of a batch than another one. Logs are the queue: what is not sent yet stays in
//! them, and nothing of it is kept here but one batch.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::config::{MessageFormat, Target};
use super::cursor::{Place, Places};
use crate::audit::export::checked::Checked;
use crate::audit::export::{Seen, ocsf};
use crate::audit::folder::LogFolder;
use crate::audit::ledger::{self, segment::LedgerSegment};
use crate::audit::lock;
use crate::audit::reader::{Ending, Lines};
use crate::audit::segment::SegmentName;

/// The most records in a batch.
const MAX_RECORDS: usize = 512;

/// The most bytes of records in a batch, one record more or less.
const MAX_BYTES: usize = 1 << 20;

/// The most records of one log in a batch while others wait.
const FAIR_SHARE: usize = 64;

/// How often folders are looked through for new logs.
const RESCAN: Duration = Duration::from_secs(1);

/// Something to send.
#[derive(Debug)]
pub struct Item {
    /// The record.
    pub seen: Seen,
    /// What the message holds.
    pub text: String,
}

/// What is to be sent, and how far that leads.
#[derive(Debug, Default)]
pub struct Batch {
    /// In the order of their logs.
    pub items: Vec<Item>,
    /// The places behind them, also of logs of which nothing is sent.
    pub places: Vec<(String, Place)>,
}

/// All logs below a folder.
#[derive(Debug)]
pub struct Source {
    root: PathBuf,
    ledgers: bool,
    format: MessageFormat,
    events: Vec<String>,
    streams: BTreeMap<String, Stream>,
    scanned: Option<Instant>,
    /// The key of the log that the last batch ended with.
    turn: String,
    /// What the schema's events need to know, of sessions that run.
    sessions: BTreeMap<String, ocsf::Session>,
}

#[derive(Debug)]
struct Stream {
    folder: PathBuf,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Log(Vec<SegmentName>),
    /// The chain of the host, in this folder; only its checkpoints are sent.
    Ledger(Vec<LedgerSegment>),
}

impl Source {
    /// Logs in this folder and in the folders in it; of an anchor's target the ledgers instead.
    pub fn new(root: &Path, target: &Target) -> Self {
        Self {
            root: root.to_owned(),
            ledgers: target.anchor,
            format: target.format,
            events: target.events.clone(),
            streams: BTreeMap::new(),
            scanned: None,
            turn: String::new(),
            sessions: BTreeMap::new(),
        }
    }

    /// The next records behind these places.
    pub fn next(&mut self, places: &mut Places) -> io::Result<Batch> {
        if self.scanned.is_none_or(|last| last.elapsed() > RESCAN) {
            self.scan(places)?;
            self.scanned = Some(Instant::now());
        }
        let mut batch = Batch::default();
        let mut bytes = 0;
        // From the one whose turn it is, once around.
        let after = self
            .streams
            .range(self.turn.clone()..)
            .skip_while(|(key, _)| **key == self.turn);
        let before = self.streams.range(..=self.turn.clone());
        let keys: Vec<_> = after.chain(before).map(|(key, _)| key.clone()).collect();
        for key in keys {
            if batch.items.len() >= MAX_RECORDS || bytes >= MAX_BYTES {
                break;
            }
            let place = places.entry(key.clone()).or_default();
            if place.ended {
                continue;
            }
            let old = place.clone();
            let start = batch.items.len();
            let room = FAIR_SHARE.min(MAX_RECORDS - start);
            self.read(&key, place, room, &mut batch.items)?;
            let new = batch.items.get(start..).unwrap_or_default();
            bytes += new.iter().map(|item| item.text.len()).sum::<usize>();
            if *place != old {
                batch.places.push((key.clone(), place.clone()));
                self.turn = key;
            }
        }
        Ok(batch)
    }

    /// Bytes behind these places. Of packed segments, the packed bytes.
    pub fn lag(&self, places: &Places) -> u64 {
        let of = |(key, stream): (&String, &Stream)| {
            let place = places.get(key).cloned().unwrap_or_default();
            if place.ended {
                return 0;
            }
            let behind = |number: u32, name: String| {
                if number < place.segment {
                    return 0;
                }
                let file = fs::symlink_metadata(stream.folder.join(name));
                let sent = if number == place.segment {
                    place.offset
                } else {
                    0
                };
                file.map_or(0, |file| file.len()).saturating_sub(sent)
            };
            match &stream.kind {
                Kind::Ledger(segments) => segments
                    .iter()
                    .map(|segment| behind(segment.number, segment.file_name()))
                    .sum::<u64>(),
                Kind::Log(segments) => segments
                    .iter()
                    .map(|segment| behind(segment.number, segment.file_name()))
                    .sum::<u64>(),
            }
        };
        self.streams.iter().map(of).sum()
    }

    /// Takes everything that stands there now as sent.
    pub fn skip_to_ends(&mut self, places: &mut Places) -> io::Result<()> {
        self.scan(places)?;
        for (key, stream) in &self.streams {
            let (Kind::Log(segments), Ok(folder)) = (&stream.kind, LogFolder::open(&stream.folder))
            else {
                continue;
            };
            let Some(last) = segments.last().copied() else {
                continue;
            };
            // Of a log that nobody writes nothing more comes, but for a writer that takes it up again.
            let file = folder.open_segment(last);
            let length = file.and_then(|file| Ok(file.metadata()?.len()));
            let place = Place {
                segment: last.number,
                offset: length.unwrap_or_default(),
                // Not known without reading it all.
                seq: 1,
                ended: last.packed,
                ..Place::default()
            };
            places.insert(key.clone(), place);
        }
        Ok(())
    }

    /// How many logs are being written.
    pub fn running(&self, places: &Places) -> u64 {
        let is_written = |(key, stream): &(&String, &Stream)| {
            let Kind::Log(segments) = &stream.kind else {
                return false;
            };
            let last = segments.last().filter(|last| !last.packed);
            let ended = places.get(*key).is_some_and(|place| place.ended);
            let (false, Some(last)) = (ended, last) else {
                return false;
            };
            let file = LogFolder::open(&stream.folder)
                .map_err(io::Error::other)
                .and_then(|folder| folder.open_segment(*last));
            file.and_then(|file| lock::is_held(&file))
                .unwrap_or_default()
        };
        self.streams.iter().filter(is_written).count() as u64
    }

    /// How many of these logs are broken.
    pub fn broken(places: &Places) -> u64 {
        places.values().filter(|place| place.broken).count() as u64
    }

    fn scan(&mut self, places: &mut Places) -> io::Result<()> {
        let mut streams = BTreeMap::new();
        let mut folders = vec![(String::from("."), self.root.clone())];
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            // A link is no folder of ours.
            if entry.file_type()?.is_dir() {
                folders.push((
                    entry.file_name().to_string_lossy().into_owned(),
                    entry.path(),
                ));
            }
        }
        for (name, folder) in folders {
            if self.ledgers {
                let folder = folder.join(ledger::FOLDER);
                let is_folder = fs::symlink_metadata(&folder).is_ok_and(|found| found.is_dir());
                let segments = fs::File::open(&folder).and_then(ledger::segment::list);
                if let (true, Ok(segments)) = (is_folder, segments)
                    && !segments.is_empty()
                {
                    let kind = Kind::Ledger(segments);
                    streams.insert(format!("{name}/ledger"), Stream { folder, kind });
                }
                continue;
            }
            // Folders of others that we may not read are not ours to send.
            let Ok(segments) = LogFolder::open(&folder).and_then(|open| open.all_segments()) else {
                continue;
            };
            for segment in segments {
                let session = segment.session;
                let stream = streams
                    .entry(format!("{name}/{session}"))
                    .or_insert_with(|| Stream {
                        folder: folder.clone(),
                        kind: Kind::Log(Vec::new()),
                    });
                if let Kind::Log(all) = &mut stream.kind
                    && all.last().is_none_or(|last| last.number != segment.number)
                {
                    all.push(segment);
                }
            }
        }
        places.retain(|key, _| streams.contains_key(key));
        self.sessions.retain(|key, _| streams.contains_key(key));
        self.streams = streams;
        Ok(())
    }

    /// Reads up to so many records behind a place.
    fn read(
        &mut self,
        key: &str,
        place: &mut Place,
        room: usize,
        items: &mut Vec<Item>,
    ) -> io::Result<()> {
        let Some(stream) = self.streams.get(key) else {
            return Ok(());
        };
        let segments = match &stream.kind {
            Kind::Ledger(segments) => {
                let read = read_ledger(&stream.folder, segments, place, room, items);
                if read.as_ref().is_err_and(is_missing) {
                    // Packed a moment ago, or removed: the next scan tells.
                    self.scanned = None;
                    return Ok(());
                }
                return read;
            }
            Kind::Log(segments) => segments,
        };
        // Removed since.
        let Ok(folder) = LogFolder::open(&stream.folder) else {
            return Ok(());
        };
        let wanted = |item: &Seen| {
            self.events.is_empty()
                || self
                    .events
                    .iter()
                    .any(|events| matches(events, &item.event))
        };
        let mut left = room;
        loop {
            let next = segments
                .iter()
                .find(|segment| segment.number >= place.segment);
            let Some(segment) = next.copied() else {
                return Ok(());
            };
            if segment.number > place.segment {
                // Pruned before it was sent, or the first segments were gone when we came.
                (place.segment, place.offset, place.head) = (segment.number, 0, None);
            }
            let is_last = segments.last() == Some(&segment);
            let path = stream.folder.join(segment.file_name());
            let unchanged = |file: fs::Metadata| file.len() == place.offset;
            if !segment.packed && is_last && fs::symlink_metadata(path).is_ok_and(unchanged) {
                return Ok(());
            }
            let known = self.sessions.entry(key.to_owned()).or_default();
            let mut take = |seen: Seen, line: &[u8]| {
                let text = match self.format {
                    MessageFormat::Jsonl => String::from_utf8_lossy(line).into_owned(),
                    MessageFormat::Ocsf => known.event(&seen).to_string(),
                };
                if wanted(&seen) {
                    items.push(Item { seen, text });
                }
            };
            match read_segment(&folder, segment, place, &mut left, &mut take) {
                Ok(()) => {}
                // Pruned, or packed a moment ago: the next scan tells.
                Err(error) if is_missing(&error) => {
                    self.scanned = None;
                    return Ok(());
                }
                // A file that cannot be read holds up no other.
                Err(_) => place.broken = true,
            }
            if place.ended {
                self.sessions.remove(key);
            }
            if left == 0 || is_last {
                return Ok(());
            }
            // What follows in a closed segment is no whole record.
            (place.segment, place.offset) = (segment.number.saturating_add(1), 0);
        }
    }
}

/// Gives out the records of a segment behind a place, at most as many as are left.
fn read_segment(
    folder: &LogFolder,
    segment: SegmentName,
    place: &mut Place,
    left: &mut usize,
    take: &mut impl FnMut(Seen, &[u8]),
) -> io::Result<()> {
    let file = folder.open_segment(segment)?;
    let mut lines = Lines::new(plain_from(file, segment.packed, place.offset)?);
    let session = segment.session;
    let mut chain = match place.head {
        None if segment.number > 1 => Checked::from_within(session),
        head => Checked::from_head(session, head, place.seq),
    };
    while *left > 0
        && let Some(line) = lines.next_line()?
        && line.ending == Ending::Newline
    {
        place.offset += line.bytes.len() as u64 + 1;
        if chain.check(&line).is_err() {
            // Sent all the same: whoever receives it shall see what was done.
            place.broken = true;
            chain = Checked::from_within(session);
        }
        let Ok(seen) = Seen::parse(line.bytes) else {
            place.broken = true;
            continue;
        };
        (place.seq, place.head) = (seen.seq, chain.head());
        place.ended = seen.event == "session.ended";
        *left -= 1;
        take(seen, line.bytes);
    }
    Ok(())
}

/// The plain text of a segment, from this offset on.
fn plain_from(file: fs::File, packed: bool, offset: u64) -> io::Result<Box<dyn BufRead>> {
    if packed {
        let mut plain = BufReader::new(zstd::Decoder::new(file)?);
        io::copy(&mut (&mut plain).take(offset), &mut io::sink())?;
        return Ok(Box::new(plain));
    }
    let mut plain = BufReader::with_capacity(64 << 10, file);
    plain.seek(SeekFrom::Start(offset))?;
    Ok(Box::new(plain))
}

fn is_missing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

/// Gives out the checkpoints behind a place, at most so many.
fn read_ledger(
    folder: &Path,
    segments: &[LedgerSegment],
    place: &mut Place,
    mut left: usize,
    items: &mut Vec<Item>,
) -> io::Result<()> {
    let opened = fs::File::open(folder)?;
    loop {
        let next = segments
            .iter()
            .find(|segment| segment.number >= place.segment);
        let Some(segment) = next.copied() else {
            // What was sent is not there any more.
            place.broken |= !segments.is_empty();
            return Ok(());
        };
        if segment.number > place.segment {
            // Nobody of us removes any.
            (place.segment, place.offset, place.broken) = (segment.number, 0, true);
        }
        let file = segment.open(&opened)?;
        if !segment.packed && file.metadata()?.len() < place.offset {
            // It was cut off: what is there now is sent again, and whoever keeps the old ones sees it.
            (place.offset, place.broken) = (0, true);
        }
        let mut lines = Lines::new(plain_from(file, segment.packed, place.offset)?);
        while left > 0
            && let Some(line) = lines.next_line()?
            && line.ending == Ending::Newline
        {
            place.offset += line.bytes.len() as u64 + 1;
            let Ok(value) = serde_json::from_slice::<serde_json::Value>(line.bytes) else {
                place.broken = true;
                continue;
            };
            if value.get("event").and_then(serde_json::Value::as_str) != Some("checkpoint") {
                continue;
            }
            left -= 1;
            let seen = Seen::of_ledger(&value);
            place.seq = seen.seq;
            let text = String::from_utf8_lossy(line.bytes).into_owned();
            items.push(Item { seen, text });
        }
        if left == 0 || segments.last() == Some(&segment) {
            return Ok(());
        }
        (place.segment, place.offset) = (segment.number.saturating_add(1), 0);
    }
}

/// Whether an event's name is meant by a name, or by a beginning and `*`.
fn matches(wanted: &str, event: &str) -> bool {
    match wanted.strip_suffix('*') {
        Some(beginning) => event.starts_with(beginning),
        None => wanted == event,
    }
}
