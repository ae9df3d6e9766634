//! `portcullis audit tail`: the last records, and with `-f` those to come.

use std::borrow::Cow;
use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::io::{self, BufReader, IsTerminal, Seek};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::Duration;

use jiff::Timestamp;

use super::filters::FilterArgs;
use super::logs::Logs;
use super::{FolderArg, finish, log_failure, naming, no_sessions, phrase};
use crate::audit::facts::{Facts, Links, Place};
use crate::audit::filter::Filter;
use crate::audit::reader::{Ending, Lines};
use crate::audit::segment::{SegmentName, SegmentStore};
use crate::audit::{AuditEvent, AuditRecord, lock};
use crate::cli::failure::{Failure, Outcome};
use crate::cli::print::{escape, line};
use crate::ids::SessionId;

/// How often a followed log is looked at.
const INTERVAL: Duration = Duration::from_millis(200);

/// How many bytes are read at a time.
const BLOCK: usize = 64 << 10;

/// What to print.
#[derive(Debug, clap::Args)]
pub struct TailArgs {
    /// Session id or its beginning; all sessions if none is given
    session: Option<String>,
    /// How many records
    #[arg(
        short = 'n',
        long = "lines",
        value_name = "COUNT",
        default_value_t = 20
    )]
    count: usize,
    /// Go on with the records to come, until the session ends
    #[arg(short, long)]
    follow: bool,
    /// Print the records as they stand in the log
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    filters: FilterArgs,
    #[command(flatten)]
    folder: FolderArg,
}

/// Prints, and follows if asked to.
pub(super) fn tail(arguments: &TailArgs) -> Outcome {
    let path = arguments.folder.path()?;
    let mut folder = Logs::find(&arguments.folder)?;
    while folder.is_none() && arguments.follow && arguments.session.is_none() {
        std::thread::sleep(INTERVAL);
        folder = Logs::find(&arguments.folder)?;
    }
    let folder = match (folder, &arguments.session) {
        (Some(folder), _) => folder,
        (None, Some(name)) => return Err(naming::unknown(&path, name)),
        (None, None) => return no_sessions(&path),
    };
    let scope = match &arguments.session {
        Some(name) => Scope::One(naming::find(&folder, name)?),
        None => Scope::All,
    };
    let filter = arguments.filters.filter(&folder)?;
    let (known, json) = (HashSet::new(), arguments.json);
    let mut view = View {
        folder,
        scope,
        followed: Vec::new(),
        known,
        json,
        filter,
    };
    let last = view.last(arguments.count, arguments.follow)?;
    if view.known.is_empty() && !arguments.follow {
        return no_sessions(&path);
    }
    let mut printed = last.iter().try_for_each(|entry| view.print(entry));
    while printed.is_ok() && arguments.follow && !view.is_over() {
        std::thread::sleep(INTERVAL);
        let new = view.new_entries()?;
        printed = new.iter().try_for_each(|entry| view.print(entry));
    }
    finish(printed)
}

/// A record as it stands in a log; as it is when a terminal might obey what is in it.
///
/// JSON leaves DEL, C1 and bidirectional overrides as they are. Within a string, which is the only place
/// where a record has them, `\u202e` means the same.
pub(super) fn shown(text: &str) -> Cow<'_, str> {
    if io::stdout().is_terminal() {
        printable(text)
    } else {
        text.into()
    }
}

fn printable(text: &str) -> Cow<'_, str> {
    if escape(text) == text {
        return text.into();
    }
    let safe = text.chars().map(|c| {
        let alone = c.to_string();
        // All that is escaped is below U+10000.
        if escape(&alone) == alone {
            alone
        } else {
            format!("\\u{:04x}", u32::from(c))
        }
    });
    Cow::Owned(safe.collect())
}

/// Which sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    One(SessionId),
    All,
}

/// A line of a log.
struct Entry {
    session: SessionId,
    /// When it was recorded; the time before it if it is no record.
    ts: Timestamp,
    text: String,
    /// The event's name and words; `None` if it is no record.
    said: Option<(&'static str, String)>,
}

struct View {
    folder: Logs,
    scope: Scope,
    /// Logs that are still written.
    followed: Vec<OpenLog>,
    /// Sessions that were seen, so that a new one is told from an old.
    known: HashSet<SessionId>,
    json: bool,
    filter: Filter,
}

impl View {
    /// The last records of all logs together, in the order of their times.
    fn last(&mut self, count: usize, follow: bool) -> Result<Vec<Entry>, Failure> {
        let mut sessions = Vec::new();
        for session in self.sessions()? {
            self.known.insert(session);
            if let Some(log) = self.open(session)? {
                let stat = log
                    .file
                    .metadata()
                    .map_err(|error| self.failure(session, &error))?;
                sessions.push(((stat.mtime(), stat.mtime_nsec()), session));
            }
        }
        // The last n records are in the n logs that were last written.
        sessions.sort_unstable_by(|a, b| b.cmp(a));
        let mut entries = Vec::new();
        for (number, (_, session)) in sessions.into_iter().enumerate() {
            let all = !self.filter.is_empty();
            let wanted = if all || number < count { count } else { 0 };
            if wanted == 0 && !follow {
                break;
            }
            let last = self.last_of(session, wanted);
            let (log, last) = last.map_err(|error| self.failure(session, &error))?;
            let Some(log) = log else {
                continue;
            };
            entries.extend(last);
            entries.sort_by_key(|entry| entry.ts);
            entries.drain(..entries.len().saturating_sub(count));
            if follow {
                self.followed.push(log);
            }
        }
        self.retire();
        Ok(entries)
    }

    /// What came since.
    fn new_entries(&mut self) -> Result<Vec<Entry>, Failure> {
        for session in self.sessions()? {
            if self.known.insert(session) {
                let log = self.open(session)?;
                self.followed.extend(log);
            }
        }
        let mut entries = Vec::new();
        let mut followed = std::mem::take(&mut self.followed);
        for log in &mut followed {
            let read = log.read_on(&self.folder, &self.filter);
            entries.extend(read.map_err(|error| self.failure(log.session, &error))?);
        }
        self.followed = followed;
        entries.sort_by_key(|entry| entry.ts);
        self.retire();
        Ok(entries)
    }

    /// Lets go of logs that nobody writes any more.
    fn retire(&mut self) {
        self.followed.retain_mut(|log| !log.is_over());
    }

    /// Whether nothing can come any more.
    fn is_over(&self) -> bool {
        self.scope != Scope::All && self.followed.is_empty()
    }

    fn sessions(&mut self) -> Result<Vec<SessionId>, Failure> {
        match self.scope {
            Scope::One(session) => Ok(vec![session]),
            Scope::All => self.folder.sessions_now(),
        }
    }

    /// The newest segment. `None`: somebody removed it since it was listed.
    fn open(&self, session: SessionId) -> Result<Option<OpenLog>, Failure> {
        let newest = match self.folder.list(session) {
            // One that is new since the first look.
            Ok(listed) if listed.is_empty() => self.folder.list_now(session),
            listed => listed,
        };
        let opened = newest.and_then(|mut listed| {
            let newest = listed.pop();
            let opened = newest.map(|newest| OpenLog::open(&self.folder, newest));
            opened.transpose().map(Option::flatten)
        });
        opened.map_err(|error| self.failure(session, &error))
    }

    /// The last records of a log, from as many segments as have them, and the newest of those, read to its end.
    fn last_of(
        &self,
        session: SessionId,
        count: usize,
    ) -> io::Result<(Option<OpenLog>, Vec<Entry>)> {
        if !self.filter.is_empty() {
            return self.last_taken(session, count);
        }
        let (mut newest, mut entries) = (None, Vec::new());
        for segment in self.folder.list(session)?.into_iter().rev() {
            let left = count.saturating_sub(entries.len());
            if left == 0 && newest.is_some() {
                break;
            }
            let Some(mut log) = OpenLog::open(&self.folder, segment)? else {
                continue;
            };
            let mut earlier = log.last(left, &self.filter)?;
            earlier.append(&mut entries);
            entries = earlier;
            newest.get_or_insert(log);
        }
        Ok((newest, entries))
    }

    /// The same of those that the filter takes: what a record goes back to may stand anywhere before it, so that all are
    /// read.
    fn last_taken(
        &self,
        session: SessionId,
        count: usize,
    ) -> io::Result<(Option<OpenLog>, Vec<Entry>)> {
        let (mut newest, mut entries): (Option<OpenLog>, _) = (None, Vec::new());
        for segment in self.folder.list(session)? {
            let Some(mut log) = OpenLog::open(&self.folder, segment)? else {
                continue;
            };
            if let Some(before) = newest.take() {
                log.goes_on(before);
            }
            entries.extend(log.last(usize::MAX, &self.filter)?);
            entries.drain(..entries.len().saturating_sub(count));
            newest = Some(log);
        }
        Ok((newest, entries))
    }

    fn failure(&self, session: SessionId, error: &io::Error) -> Failure {
        log_failure(&self.folder.log(session), error)
    }

    fn print(&self, entry: &Entry) -> io::Result<()> {
        if self.json {
            return line(shown(&entry.text));
        }
        let session = match self.scope {
            Scope::One(_) => String::new(),
            Scope::All => format!("  {:.12}", entry.session.to_string()),
        };
        match &entry.said {
            Some((name, words)) => {
                let text = format!("{:.3}{session}  {name:<15}  {words}", entry.ts);
                line(text.trim_end())
            }
            None => line(format_args!(
                "not a record{session}  {:.200}",
                escape(&entry.text)
            )),
        }
    }
}

/// A log, read up to some place of one of its segments.
struct OpenLog {
    session: SessionId,
    segment: SegmentName,
    file: File,
    offset: u64,
    ts: Timestamp,
    destinations: phrase::Destinations,
    /// What its records go back to; followed only where a filter is given.
    links: Links,
    ended: bool,
    /// How often in a row nobody held its lock: a writer locks a moment after it makes the file.
    unheld: u8,
}

impl OpenLog {
    /// `None`: somebody removed it since it was listed.
    fn open(store: &impl SegmentStore, segment: SegmentName) -> io::Result<Option<Self>> {
        match store.open(segment) {
            Ok(file) => Ok(Some(Self::new(segment, file))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn new(segment: SegmentName, file: File) -> Self {
        let (ts, destinations) = (Timestamp::MIN, phrase::Destinations::new());
        Self {
            session: segment.session,
            segment,
            file,
            offset: 0,
            ts,
            destinations,
            links: Links::default(),
            ended: false,
            unheld: 0,
        }
    }

    /// Takes over what was learnt from the segments before.
    fn goes_on(&mut self, before: Self) {
        (self.ts, self.destinations, self.links) = (before.ts, before.destinations, before.links);
    }

    /// The last whole lines, to the end of the segment.
    fn last(&mut self, count: usize, filter: &Filter) -> io::Result<Vec<Entry>> {
        if !self.segment.packed {
            self.skip_to_last(count)?;
            return self.read(filter);
        }
        // Its end is found by unpacking it.
        let mut lines = self.segment.lines(self.file.try_clone()?)?;
        let mut last = VecDeque::new();
        while let Some(read) = lines.next_line()? {
            last.push_back(read.bytes.to_vec());
            if last.len() > count {
                last.pop_front();
            }
        }
        let entries = last.iter().filter_map(|text| self.entry(text, filter));
        Ok(entries.collect())
    }

    /// The whole lines from here on, over the border of segments.
    fn read_on(&mut self, store: &impl SegmentStore, filter: &Filter) -> io::Result<Vec<Entry>> {
        let mut entries = self.read(filter)?;
        while !lock::is_held(&self.file).unwrap_or_default() {
            let later = store.list_now(self.session)?.into_iter();
            let next = later.filter(|one| one.number > self.segment.number).min();
            let Some(next) = next else { break };
            // Nobody adds to this one any more: what came since it was read.
            entries.extend(self.read(filter)?);
            let Some(log) = Self::open(store, next)? else {
                break;
            };
            (self.segment, self.file) = (log.segment, log.file);
            (self.offset, self.unheld) = (0, 0);
            entries.extend(self.read(filter)?);
        }
        Ok(entries)
    }

    /// Goes to where the last whole lines begin, looking from the end.
    fn skip_to_last(&mut self, count: usize) -> io::Result<()> {
        let mut end = self.file.metadata()?.len();
        let mut newlines_left = count;
        let mut block = vec![0; BLOCK];
        while end > 0 {
            let length = usize::try_from(end).unwrap_or(BLOCK).min(BLOCK);
            let start = end - length as u64;
            let part = block.get_mut(..length).unwrap_or_default();
            self.file.read_exact_at(part, start)?;
            for (at, _) in part
                .iter()
                .enumerate()
                .rev()
                .filter(|(_, byte)| **byte == b'\n')
            {
                if newlines_left == 0 {
                    self.offset = start + at as u64 + 1;
                    return Ok(());
                }
                newlines_left -= 1;
            }
            end = start;
        }
        self.offset = 0;
        Ok(())
    }

    /// The whole lines from here to the end that a filter takes.
    fn read(&mut self, filter: &Filter) -> io::Result<Vec<Entry>> {
        if self.segment.packed {
            // It is over, and was read as a whole.
            return Ok(Vec::new());
        }
        let mut entries = Vec::new();
        (&self.file).seek(io::SeekFrom::Start(self.offset))?;
        let mut lines = Lines::new(BufReader::with_capacity(BLOCK, self.file.try_clone()?));
        while let Some(read) = lines.next_line()? {
            match read.ending {
                Ending::Newline => self.offset += read.bytes.len() as u64 + 1,
                // Still being written.
                Ending::Cut => break,
                Ending::TooLong => {
                    return Err(io::Error::other("a line is longer than any record"));
                }
            }
            entries.extend(self.entry(read.bytes, filter));
        }
        Ok(entries)
    }

    /// What stands in a line; `None`: the filter does not take it.
    fn entry(&mut self, line: &[u8], filter: &Filter) -> Option<Entry> {
        let text = String::from_utf8_lossy(line).into_owned();
        let record: Option<AuditRecord> = serde_json::from_slice(line).ok();
        let said = record.map(|record| {
            self.ts = record.ts;
            self.ended |= matches!(record.event, AuditEvent::SessionEnded { .. });
            (
                record.event.name(),
                phrase::event(&record.event, &mut self.destinations),
            )
        });
        if !filter.is_empty() {
            let facts = Facts::read(line).map(|mut facts| {
                self.links.follow(&mut facts, Place::default());
                facts
            });
            facts.filter(|facts| filter.takes(self.session, facts))?;
        }
        Some(Entry {
            session: self.session,
            ts: self.ts,
            text,
            said,
        })
    }

    /// Whether nothing more will come: it has its end, or its writer is gone.
    fn is_over(&mut self) -> bool {
        let held = lock::is_held(&self.file).unwrap_or_default();
        self.unheld = if held {
            0
        } else {
            self.unheld.saturating_add(1)
        };
        self.ended || self.unheld > 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_on_a_terminal_is_the_same_json_without_what_a_terminal_obeys() {
        let text = "{\"path\":\"\u{9b}2J\u{202e}é\u{7f}\"}";
        let safe = printable(text);
        assert_eq!(safe, "{\"path\":\"\\u009b2J\\u202eé\\u007f\"}");
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(value(&safe), value(text));
    }

    #[test]
    fn the_last_lines_are_found_from_the_end_whatever_their_length() {
        let mut file = tempfile::tempfile().unwrap();
        let padding = "x".repeat(BLOCK);
        io::Write::write_all(&mut file, format!("a\n{padding}\nb\nc\npart").as_bytes()).unwrap();
        let mut log = OpenLog::new(SegmentName::first(SessionId::generate()), file);
        let from_end = [
            (0, 0),
            (1, 2),
            (2, 4),
            (3, BLOCK + 5),
            (4, BLOCK + 7),
            (9, BLOCK + 7),
        ];
        for (count, whole_lines) in from_end {
            log.skip_to_last(count).unwrap();
            assert_eq!(log.offset, (BLOCK + 7 - whole_lines) as u64, "{count}");
        }
    }
}
