//! Taking logs in: what is new since the last time, each record held to the chain before it is believed.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{Seek, SeekFrom};

use rusqlite::Row as SqlRow;

use super::chunk::Chunk;
use super::page::Row;
use super::store::Store;
use super::term::{self, Dim};
use super::{Note, Source, Stamp, Trouble, read_back, take_in};
use crate::audit::chain::ChainHash;
use crate::audit::facts::{Facts, Link, Links, Place};
use crate::audit::reader::{Ending, Line};
use crate::audit::record::SealedLine;
use crate::audit::segment::SegmentName;
use crate::ids::SessionId;

/// From how many bytes of new records on somebody is told that it takes a while.
const A_WHILE: u64 = 256 << 20;

/// A segment, as far as it is in the index.
#[derive(Debug, Clone)]
pub(super) struct Segment {
    pub(super) id: u64,
    pub(super) name: SegmentName,
    pub(super) stamp: Stamp,
    /// Bytes of whole records that are in the index.
    pub(super) bytes: u64,
    /// The place in the chain of the last of them; 0: none.
    pub(super) seq: u64,
    /// Where that one begins.
    pub(super) last: Option<u64>,
    /// Its hash.
    pub(super) head: Option<String>,
    /// The first record that does not hold, in words.
    pub(super) broken: Option<String>,
    pub(super) ended: bool,
    pub(super) gone: bool,
}

/// What there is to do.
#[derive(Debug)]
pub(super) struct Work {
    known: Segments,
    /// Segments that are new or were written to.
    changed: Vec<(SegmentName, Stamp)>,
    /// Segments that went away or came back.
    moved: Vec<(u64, bool)>,
}

/// The segments that are in an index, by their sessions and numbers.
pub(super) type Segments = BTreeMap<(SessionId, u32), Segment>;

/// The segments that are in the index.
pub(super) fn segments(store: &Store) -> Result<&Segments, Trouble> {
    if let Some(known) = store.segments.get() {
        return Ok(known);
    }
    let mut query = store.db.prepare(
        "SELECT id, session, number, packed, stamp, bytes, seq, last, head, broken, ended, gone \
         FROM segment",
    )?;
    let rows = query.query_map([], |row| Ok(segment(row)))?;
    let mut all = BTreeMap::new();
    for row in rows {
        let segment = row??;
        all.insert((segment.name.session, segment.name.number), segment);
    }
    Ok(store.segments.get_or_init(|| all))
}

fn segment(row: &SqlRow<'_>) -> Result<Segment, Trouble> {
    let damaged = || Trouble::disagrees("its list of logs is damaged");
    // Every query reads all of them.
    let text = |at| row.get_ref(at)?.as_str().map_err(|_| damaged());
    let (session, stamp) = (text(1)?, text(4)?);
    let mut parts = stamp.split(' ');
    let mut next = || parts.next().ok_or_else(damaged);
    let stamp = Stamp {
        device: next()?.parse().map_err(|_| damaged())?,
        inode: next()?.parse().map_err(|_| damaged())?,
        size: next()?.parse().map_err(|_| damaged())?,
        written: next()?.parse().map_err(|_| damaged())?,
    };
    Ok(Segment {
        id: row.get(0)?,
        name: SegmentName {
            session: session.parse().map_err(|_| damaged())?,
            number: row.get(2)?,
            packed: row.get(3)?,
        },
        stamp,
        bytes: row.get(5)?,
        seq: row.get(6)?,
        last: row.get(7)?,
        head: row.get(8)?,
        broken: row.get(9)?,
        ended: row.get(10)?,
        gone: row.get(11)?,
    })
}

/// The logs that do not hold from some record on.
pub(super) fn broken(store: &Store) -> Result<Vec<(SessionId, String)>, Trouble> {
    let all = segments(store)?.values();
    Ok(all
        .filter(|segment| !segment.gone)
        .filter_map(|segment| Some((segment.name.session, segment.broken.clone()?)))
        .collect())
}

impl Work {
    /// Compares the index with the logs. `None`: nothing is new.
    pub(super) fn find(store: &Store, source: &impl Source) -> Result<Option<Self>, Trouble> {
        let known = segments(store)?;
        let mut found = source.segments()?;
        found.sort_unstable();
        // Of one that is there plain and packed, the plain one.
        found.dedup_by_key(|name| (name.session, name.number));
        let mut changed = Vec::new();
        let mut moved = Vec::new();
        let mut seen = BTreeSet::new();
        let mut broken = None;
        for name in found {
            let key = (name.session, name.number);
            let before = known.get(&key);
            if broken == Some(name.session) && before.is_none() {
                // What follows what does not hold is not believed.
                continue;
            }
            seen.insert(key);
            let ended = before.is_some_and(|segment| segment.ended);
            let stamp = source
                .stamp(name, ended)
                .map_err(|error| Trouble::Log(name, error))?;
            moved.extend(
                before
                    .filter(|segment| segment.gone)
                    .map(|segment| (segment.id, false)),
            );
            match (before, stamp) {
                (Some(segment), Some(stamp))
                    if segment.stamp != stamp || segment.name.packed != name.packed =>
                {
                    segment.check_growth(name, stamp, source)?;
                    changed.push((name, stamp));
                }
                // Over, so that its file was not looked at; and packed since.
                (Some(segment), None) if segment.name.packed != name.packed => {
                    changed.push((name, Stamp::default()));
                }
                (None, stamp) => changed.push((name, stamp.unwrap_or_default())),
                (Some(segment), _) if segment.broken.is_some() => broken = Some(name.session),
                (Some(_), _) => {}
            }
        }
        let gone = known
            .iter()
            .filter(|(key, segment)| !seen.contains(key) && !segment.gone);
        moved.extend(gone.map(|(_, segment)| (segment.id, true)));
        let idle = changed.is_empty() && moved.is_empty();
        Ok((!idle).then(|| Self {
            known: known.clone(),
            changed,
            moved,
        }))
    }

    /// Does it, in one transaction. Logs are read here; a thread of its own writes what was read meanwhile.
    pub(super) fn take_in(
        self,
        store: &mut Store,
        source: &impl Source,
        tell: &mut dyn FnMut(Note),
    ) -> Result<(), Trouble> {
        let new = self.changed.iter().map(|(name, stamp)| {
            let known = self.known.get(&(name.session, name.number));
            stamp
                .size
                .saturating_sub(known.map_or(0, |segment| segment.bytes))
        });
        let new: u64 = new.sum();
        if new >= A_WHILE {
            tell(Note::Building(new));
        }
        let Self {
            known,
            changed,
            moved,
        } = self;
        let open = take_in::links(&store.db, &changed, &known)?;
        let next_id = known.values().map(|known| known.id + 1).max();
        take_in::written(&mut store.db, moved, |chunks| {
            let mut builder = Builder {
                source,
                next_id: next_id.unwrap_or(1),
                known,
                chunk: Chunk::default(),
                chunks,
                open,
                read: take_in::Read::default(),
            };
            let mut changed = changed.as_slice();
            while let Some((name, _)) = changed.first() {
                let of_session = changed
                    .iter()
                    .take_while(|(other, _)| other.session == name.session);
                let (here, rest) = changed.split_at(of_session.count());
                builder.session(name.session, here)?;
                changed = rest;
            }
            builder.pass_chunk()?;
            Ok(builder.read)
        })?;
        store.segments = OnceCell::new();
        Ok(())
    }
}

impl Segment {
    /// Whether its file is not there any more.
    pub(super) fn gone(&self) -> bool {
        self.gone
    }

    /// A log only ever grows, or its incomplete last line is cut off, or it is packed.
    fn check_growth(
        &self,
        name: SegmentName,
        stamp: Stamp,
        source: &impl Source,
    ) -> Result<(), Trouble> {
        let changed = || {
            let log = self.name.file_name();
            Trouble::disagrees(format!("the log {log} was changed behind it"))
        };
        if name.packed != self.name.packed {
            // Its lines are counted again when the rest of it is read; answers are checked anyway.
            return Ok(());
        }
        let same_file = (stamp.device, stamp.inode) == (self.stamp.device, self.stamp.inode);
        if stamp.size < self.bytes || (same_file && stamp.size == self.stamp.size) {
            return Err(changed());
        }
        let Some(last) = self.last else {
            return Ok(());
        };
        let opened = source.open(name);
        let file = opened.map_err(|error| Trouble::Log(name, error))?;
        let line = read_back::line_of(name, &file, last)
            .map_err(|error| Trouble::Log(name, error))?
            .ok_or_else(changed)?;
        let sealed = read_back::sealed(&line).ok_or_else(changed)?;
        if self.head.as_deref().map(str::as_bytes) == Some(sealed.hash.as_slice()) {
            Ok(())
        } else {
            Err(changed())
        }
    }
}

struct Builder<'a, S> {
    source: &'a S,
    next_id: u64,
    known: Segments,
    chunk: Chunk,
    /// Where full chunks go.
    chunks: &'a take_in::Chunks,
    /// What the next records of each session may go back to.
    open: HashMap<SessionId, Vec<(Link, Place)>>,
    /// How far logs have been read.
    read: take_in::Read,
}

/// Where in its chain a session's log has been read to.
struct Chain {
    session: SessionId,
    text: String,
    /// The last record; `None`: records before the first one that is there were dropped.
    link: Option<(u64, ChainHash)>,
    links: Links,
    ended: bool,
}

impl<S: Source> Builder<'_, S> {
    /// Takes in what is new of a session's log.
    fn session(
        &mut self,
        session: SessionId,
        changed: &[(SegmentName, Stamp)],
    ) -> Result<(), Trouble> {
        let mut chain = Chain {
            session,
            text: session.to_string(),
            link: None,
            links: Links::default(),
            ended: false,
        };
        let mut resumed = false;
        for (name, stamp) in changed {
            let key = (session, name.number);
            let mut segment = self.known.get(&key).cloned().unwrap_or_else(|| {
                let id = self.next_id;
                self.next_id += 1;
                Segment {
                    id,
                    name: *name,
                    stamp: Stamp::default(),
                    bytes: 0,
                    seq: 0,
                    last: None,
                    head: None,
                    broken: None,
                    ended: false,
                    gone: false,
                }
            });
            if !resumed {
                self.resume_links(&mut chain)?;
                resumed = true;
            }
            self.resume(&mut chain, &segment)?;
            (segment.name, segment.stamp, segment.broken) = (*name, *stamp, None);
            segment.gone = false;
            self.known.insert(key, segment.clone());
            let opened = self.source.open(*name);
            let file = opened.map_err(|error| Trouble::Log(*name, error))?;
            if segment.stamp == Stamp::default() {
                segment.stamp = Stamp::of(&file)?;
            }
            self.segment(&mut segment, file, &mut chain)?;
            let stop = segment.broken.is_some();
            self.read.segments.push(segment.clone());
            self.known.insert(key, segment);
            if stop {
                break;
            }
        }
        let open = if chain.ended {
            Vec::new()
        } else {
            chain.links.open()
        };
        self.read.links.push((session, open));
        Ok(())
    }

    /// Finds where the chain goes on, in this segment.
    fn resume(&self, chain: &mut Chain, segment: &Segment) -> Result<(), Trouble> {
        let damaged = || Trouble::disagrees("its list of logs is damaged");
        let first = (chain.session, 0);
        let until = (chain.session, segment.name.number);
        let mut before = self.known.range(first..=until).rev();
        let reached = before.find_map(|(_, segment)| {
            let head = segment.head.clone()?;
            Some((segment.seq, head, segment.ended))
        });
        if let Some((seq, head, ended)) = reached {
            chain.link = Some((seq, ChainHash::try_from(head).map_err(|_| damaged())?));
            chain.ended = ended;
        } else if segment.name.number == 1 {
            chain.link = Some((0, ChainHash::genesis(chain.session)));
        }
        Ok(())
    }

    /// Reads what the next records may go back to.
    fn resume_links(&mut self, chain: &mut Chain) -> Result<(), Trouble> {
        for (link, place) in self.open.remove(&chain.session).unwrap_or_default() {
            let Some(known) = self.known.get(&(chain.session, place.segment)) else {
                continue;
            };
            let opened = self.source.open(known.name);
            // Its segment may have been dropped since.
            let Ok(file) = opened else { continue };
            let line = read_back::line_of(known.name, &file, place.offset);
            let line = line.map_err(|error| Trouble::Log(known.name, error))?;
            let line = line.unwrap_or_default();
            if let Some(facts) = Facts::read(&line).filter(|facts| facts.begins() == Some(link)) {
                chain.links.put(link, facts.about, place);
            }
        }
        Ok(())
    }

    /// Takes in what is new of a segment.
    fn segment(
        &mut self,
        segment: &mut Segment,
        mut file: File,
        chain: &mut Chain,
    ) -> Result<(), Trouble> {
        let name = segment.name;
        let failed = |error| Trouble::Log(name, error);
        let held = crate::audit::lock::is_held(&file).unwrap_or_default();
        let start = segment.bytes;
        let base = if name.packed {
            0
        } else {
            file.seek(SeekFrom::Start(start)).map_err(failed)?
        };
        let mut lines = name.lines(file).map_err(failed)?;
        while let Some(line) = lines.next_line().map_err(failed)? {
            let offset = base + line.offset;
            if offset < start {
                continue;
            }
            match line.ending {
                Ending::Cut => {
                    if !held {
                        segment.broken = Some("its last line is incomplete".to_owned());
                    }
                    break;
                }
                Ending::TooLong => {
                    segment.broken = Some(format!("a line at byte {offset} does not end"));
                    break;
                }
                Ending::Newline => {}
            }
            if let Err(why) = self.record(segment, (&line, offset), chain) {
                let number = chain.link.map_or(0, |(seq, _)| seq) + 1;
                segment.broken = Some(format!("record {number} at byte {offset}: {why}"));
                break;
            }
            segment.bytes = offset + line.bytes.len() as u64 + 1;
            if self.chunk.is_full() {
                self.pass_chunk()?;
            }
        }
        Ok(())
    }

    /// Takes in the next record, if it holds.
    fn record(
        &mut self,
        segment: &mut Segment,
        (line, offset): (&Line<'_>, u64),
        chain: &mut Chain,
    ) -> Result<(), &'static str> {
        if chain.ended {
            return Err("stands after session.ended");
        }
        let sealed = SealedLine::parse(line.bytes).ok_or("not a record of this form")?;
        if sealed.session != chain.text.as_bytes() {
            return Err("belongs to another session");
        }
        let (seq, prev) = if let Some(before) = chain.link {
            before
        } else {
            let text = String::from_utf8_lossy(sealed.prev).into_owned();
            let prev = ChainHash::try_from(text).map_err(|_| "not a record of this form")?;
            (sealed.seq.saturating_sub(1), prev)
        };
        if sealed.seq != seq + 1 || *sealed.prev != prev.to_hex() {
            return Err("does not follow the record before it");
        }
        let hash = prev.follow(sealed.open_record);
        let hex = hash.to_hex();
        if *sealed.hash != hex {
            return Err("its hash does not match its content");
        }
        let mut facts = Facts::read(line.bytes).ok_or("not a record")?;
        let place = Place {
            segment: segment.name.number,
            offset,
        };
        let about = chain.links.follow(&mut facts, place);
        let about = about.and_then(|place| {
            let of = self.known.get(&(chain.session, place.segment))?;
            Some((of.id, place.offset))
        });
        term::each(&facts, &mut |dim, value| self.chunk.put(dim, value));
        self.chunk.put(Dim::Segment, &segment.id.to_string());
        let closed = facts.event == "egress.closed";
        let row = Row {
            at: facts.at.as_microsecond(),
            segment: segment.id,
            offset,
            about,
        };
        let bytes = closed.then_some((facts.up, facts.down));
        self.chunk.end_row(row, bytes);
        chain.ended = sealed.event == b"session.ended";
        segment.ended |= chain.ended;
        segment.seq = seq + 1;
        segment.last = Some(offset);
        segment.head = Some(String::from_utf8_lossy(&hex).into_owned());
        chain.link = Some((seq + 1, hash));
        Ok(())
    }

    /// Hands what was collected to whoever writes it.
    fn pass_chunk(&mut self) -> Result<(), Trouble> {
        self.chunks.pass(std::mem::take(&mut self.chunk))
    }
}
