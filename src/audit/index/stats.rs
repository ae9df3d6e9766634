//! Sums over records, by what they are found by.

use std::collections::HashMap;

use serde::Serialize;

use super::bits::Bits;
use super::build;
use super::find::{Block, Pages, Search};
use super::read_back::Reader;
use super::store::Store;
use super::sum::{self, Bytes};
use super::term::Dim;
use super::{Source, Trouble, bits};
use crate::audit::filter::Filter;
use crate::ids::SessionId;

/// Microseconds of a day.
const DAY: i64 = 24 * 60 * 60 * 1_000_000;

/// By what records are summed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The host that they are about.
    Host,
    /// Whose session.
    User,
    /// The program in the jail.
    Program,
    /// The session.
    Session,
    /// The rule that decided.
    Rule,
    /// The day, UTC.
    Day,
}

/// Sums over some records.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Group {
    /// What they have in common.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Records.
    pub records: u64,
    /// Requests that were let through.
    pub allowed: u64,
    /// Requests that were denied or failed.
    pub denied: u64,
    /// Requests about which somebody was asked.
    pub asked: u64,
    /// Bytes to the network.
    pub bytes_up: u64,
    /// Bytes from the network.
    pub bytes_down: u64,
}

/// Sums over all, and for each group, most records first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// How many sessions have such records.
    pub sessions: u64,
    /// All of them.
    pub total: Group,
    /// Each group.
    pub groups: Vec<Group>,
}

/// What is known of a block: enough to sum up any of its rows by looking at each once.
struct Sums {
    /// Of each row whether it is meant, its verdict, and whether its connection is over: the bits below.
    kinds: Vec<u8>,
    /// Rows of connections that are over, and their bytes in the order of these rows.
    closed: Bits,
    ranks: Vec<u32>,
    bytes: Vec<Bytes>,
}

const MEANT: u8 = 1;
const VERDICTS: [(&str, u8); 3] = [("allow", 2), ("deny", 4), ("ask", 8)];
const CLOSED: u8 = 16;
/// All of them together.
const KINDS: usize = 32;

pub(super) fn stats(
    store: &Store,
    source: &impl Source,
    filter: &Filter,
    by: By,
) -> Result<Stats, Trouble> {
    let segments = build::segments(store)?;
    let search = Search::new(store, filter)?;
    let mut reader = Reader::new(source, segments.values());
    let names: HashMap<String, SessionId> = segments
        .values()
        .map(|segment| (segment.id.to_string(), segment.name.session))
        .collect();
    let dim = match by {
        By::Host => Some(Dim::Host),
        By::User => Some(Dim::User),
        By::Program => Some(Dim::Program),
        By::Rule => Some(Dim::Rule),
        By::Session | By::Day => None,
    };
    let mut stats = Stats::default();
    let mut groups: HashMap<String, Group> = HashMap::new();
    let mut days: HashMap<i64, Group> = HashMap::new();
    let mut sessions: HashMap<SessionId, Group> = HashMap::new();
    for block in &search.blocks {
        let Some(rows) = search.rows_that_are(block, (&mut reader, filter))? else {
            continue;
        };
        let sums = Sums::of(store, &search, block.id, &rows)?;
        let mut all = Group::default();
        sums.add_rows(rows.rows(), &mut all);
        stats.total.add(&all);
        if by == By::Day {
            sums.add_days((store, block), (&rows, &all), &mut days)?;
        }
        search.each_value((Dim::Segment, block.id), |value, kept| {
            let Some(session) = names.get(value) else {
                return Some(());
            };
            let group = sums.group(kept)?;
            if group.records > 0 {
                sessions.entry(*session).or_default().add(&group);
            }
            Some(())
        })?;
        let Some(dim) = dim else { continue };
        search.each_value((dim, block.id), |value, kept| {
            let group = sums.group(kept)?;
            if group.records == 0 {
                return Some(());
            }
            match groups.get_mut(value) {
                Some(known) => known.add(&group),
                None => drop(groups.insert(value.to_owned(), group)),
            }
            Some(())
        })?;
    }
    stats.sessions = sessions.len() as u64;
    if by == By::Session {
        let sessions = sessions.into_iter();
        groups = sessions
            .map(|(session, group)| (session.to_string(), group))
            .collect();
    }
    groups.extend(days.into_iter().map(|(day, group)| (name_of(day), group)));
    stats.groups = groups
        .into_iter()
        .map(|(name, group)| Group { name, ..group })
        .collect();
    if by == By::Day {
        stats.groups.sort_by(|a, b| b.name.cmp(&a.name));
    } else {
        let key = |group: &Group| (std::cmp::Reverse(group.records), group.name.clone());
        stats.groups.sort_by_cached_key(key);
    }
    Ok(stats)
}

fn name_of(day: i64) -> String {
    let at = jiff::Timestamp::from_microsecond(day.saturating_mul(DAY));
    at.map_or_else(
        |_| day.to_string(),
        |at| at.strftime("%Y-%m-%d").to_string(),
    )
}

impl Sums {
    fn of(store: &Store, search: &Search<'_>, block: u64, rows: &Bits) -> Result<Self, Trouble> {
        let mut kinds = vec![0_u8; bits::ROWS];
        let mut mark = |bits: &Bits, kind: u8| {
            for row in bits.rows() {
                if let Some(own) = kinds.get_mut(usize::from(row)) {
                    *own |= kind;
                }
            }
        };
        mark(rows, MEANT);
        for (verdict, kind) in VERDICTS {
            let mut bits = Bits::none();
            search.add(&mut bits, (Dim::Verdict, verdict), block)?;
            mark(&bits, kind);
        }
        let bytes = sum::read(&store.db, block)?;
        let mut closed = Bits::none();
        for (row, ..) in &bytes {
            closed.set(*row);
        }
        mark(&closed, CLOSED);
        Ok(Self {
            kinds,
            ranks: closed.ranks(),
            closed,
            bytes,
        })
    }

    /// The sums over the rows of a kept form that are meant. `None`: it is none.
    fn group(&self, kept: &[u8]) -> Option<Group> {
        let mut group = Group::default();
        let mut found = [0; KINDS];
        Bits::each_kept(kept, |row| self.add_row(row, &mut found, &mut group))?;
        group.count(&found);
        Some(group)
    }

    fn add_rows(&self, rows: impl Iterator<Item = u16>, group: &mut Group) {
        let mut found = [0; KINDS];
        rows.for_each(|row| self.add_row(row, &mut found, group));
        group.count(&found);
    }

    fn add_row(&self, row: u16, found: &mut [u64; KINDS], group: &mut Group) {
        let kind = self.kinds.get(usize::from(row)).copied();
        let kind = kind.unwrap_or_default();
        if let Some(count) = found.get_mut(usize::from(kind)) {
            *count += 1;
        }
        if kind & (MEANT | CLOSED) == MEANT | CLOSED
            && let Some((_, up, down)) = self.bytes.get(self.closed.rank(&self.ranks, row))
        {
            group.bytes_up = group.bytes_up.saturating_add(*up);
            group.bytes_down = group.bytes_down.saturating_add(*down);
        }
    }

    /// Sums up by day; `all` are the sums over all rows.
    fn add_days(
        &self,
        (store, block): (&Store, &Block),
        (rows, all): (&Bits, &Group),
        days: &mut HashMap<i64, Group>,
    ) -> Result<(), Trouble> {
        let day = |at: i64| at.div_euclid(DAY);
        if day(block.oldest) == day(block.newest) {
            days.entry(day(block.oldest)).or_default().add(all);
            return Ok(());
        }
        let mut pages = Pages::new(&store.db);
        let mut of_days: HashMap<i64, Vec<u16>> = HashMap::new();
        for local in rows.rows() {
            let row = pages.row(block.id * bits::ROWS as u64 + u64::from(local))?;
            of_days.entry(day(row.at)).or_default().push(local);
        }
        for (day, rows) in of_days {
            let mut group = Group::default();
            self.add_rows(rows.into_iter(), &mut group);
            days.entry(day).or_default().add(&group);
        }
        Ok(())
    }
}

impl Group {
    /// Adds how many rows there are of each kind.
    fn count(&mut self, found: &[u64; KINDS]) {
        for (kind, count) in (0_u8..).zip(found) {
            if kind & MEANT == 0 {
                continue;
            }
            self.records += count;
            let own = [&mut self.allowed, &mut self.denied, &mut self.asked];
            for (own, (_, verdict)) in own.into_iter().zip(VERDICTS) {
                *own += if kind & verdict == 0 { 0 } else { *count };
            }
        }
    }

    fn add(&mut self, other: &Self) {
        let sum = |own: &mut u64, more: u64| *own = own.saturating_add(more);
        sum(&mut self.records, other.records);
        sum(&mut self.allowed, other.allowed);
        sum(&mut self.denied, other.denied);
        sum(&mut self.asked, other.asked);
        sum(&mut self.bytes_up, other.bytes_up);
        sum(&mut self.bytes_down, other.bytes_down);
    }
}
