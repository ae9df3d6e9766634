//! Sums over records, by what they are found by.

use std::collections::HashMap;

use serde::Serialize;

use super::bits::Bits;
use super::build;
use super::find::{Pages, Search};
use super::store::Store;
use super::term::Dim;
use super::{Trouble, bits};
use crate::audit::filter::Filter;
use crate::ids::SessionId;

/// Milliseconds of a day.
const DAY: i64 = 24 * 60 * 60 * 1000;

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

/// What is known of a block.
struct Sums {
    rows: Bits,
    verdicts: [Bits; 3],
    /// Rows of connections that are over, in order, and their bytes.
    closed: Bits,
    bytes: HashMap<u16, (u64, u64)>,
}

pub(super) fn stats(store: &Store, filter: &Filter, by: By) -> Result<Stats, Trouble> {
    let segments = build::segments(store)?;
    let search = Search::new(store, filter)?;
    let mut blocks = HashMap::new();
    let mut days: HashMap<i64, Group> = HashMap::new();
    let mut stats = Stats::default();
    for block in &search.blocks {
        let Some(rows) = search.rows_of(block)? else {
            continue;
        };
        let mut sums = Sums {
            rows,
            verdicts: [Bits::none(), Bits::none(), Bits::none()],
            closed: Bits::none(),
            bytes: HashMap::new(),
        };
        for (bits, verdict) in sums.verdicts.iter_mut().zip(["allow", "deny", "ask"]) {
            search.add(bits, (Dim::Verdict, verdict), block.id)?;
        }
        sums.read_pages(store, block.id, (by == By::Day).then_some(&mut days))?;
        let rows = sums.rows.clone();
        sums.add_to(&rows, &mut stats.total);
        blocks.insert(block.id, sums);
    }
    let mut groups: HashMap<String, Group> = HashMap::new();
    let mut sessions: HashMap<SessionId, u64> = HashMap::new();
    let names: HashMap<String, SessionId> = segments
        .values()
        .map(|segment| (segment.id.to_string(), segment.name.session))
        .collect();
    let of_dim = |dim: Dim, take: &mut dyn FnMut(&str, &Sums, &Bits)| -> Result<(), Trouble> {
        let query = "SELECT value, block, bits FROM post WHERE dim = ?";
        let mut query = store.db.prepare_cached(query)?;
        let mut rows = query.query([dim as u8])?;
        let damaged = || Trouble::disagrees("a part of it is damaged");
        while let Some(row) = rows.next()? {
            let Some(sums) = blocks.get(&row.get::<_, u64>(1)?) else {
                continue;
            };
            let mut bits = Bits::none();
            let kept = row.get_ref(2)?.as_blob().map_err(|_| damaged())?;
            bits.add(kept).ok_or_else(damaged)?;
            bits.and(&sums.rows);
            if !bits.is_empty() {
                take(
                    row.get_ref(0)?.as_str().map_err(|_| damaged())?,
                    sums,
                    &bits,
                );
            }
        }
        Ok(())
    };
    of_dim(Dim::Segment, &mut |value, sums, bits| {
        if let Some(session) = names.get(value) {
            *sessions.entry(*session).or_default() += bits.count();
            if by == By::Session {
                sums.add_to(bits, groups.entry(session.to_string()).or_default());
            }
        }
    })?;
    stats.sessions = sessions.len() as u64;
    let dim = match by {
        By::Host => Some(Dim::Host),
        By::User => Some(Dim::User),
        By::Program => Some(Dim::Program),
        By::Rule => Some(Dim::Rule),
        By::Session | By::Day => None,
    };
    if let Some(dim) = dim {
        of_dim(dim, &mut |value, sums, bits| {
            let group = match groups.get_mut(value) {
                Some(group) => group,
                None => groups.entry(value.to_owned()).or_default(),
            };
            sums.add_to(bits, group);
        })?;
    }
    for (day, group) in days {
        let at = jiff::Timestamp::from_millisecond(day.saturating_mul(DAY));
        let name = at.map_or_else(
            |_| day.to_string(),
            |at| at.strftime("%Y-%m-%d").to_string(),
        );
        groups.insert(name, group);
    }
    let groups = groups.into_iter();
    stats.groups = groups
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

impl Sums {
    /// Reads the bytes of its rows, and sums up their days.
    fn read_pages(
        &mut self,
        store: &Store,
        block: u64,
        mut days: Option<&mut HashMap<i64, Group>>,
    ) -> Result<(), Trouble> {
        let mut pages = Pages::new(&store.db);
        let all: Vec<u16> = self.rows.rows().collect();
        for local in all {
            let row = pages.row(block * bits::ROWS as u64 + u64::from(local))?;
            if let Some(bytes) = row.bytes {
                self.closed.set(local);
                self.bytes.insert(local, bytes);
            }
            if let Some(days) = &mut days {
                let group = days.entry(row.ms.div_euclid(DAY)).or_default();
                let [allowed, denied, asked] = self
                    .verdicts
                    .each_ref()
                    .map(|bits| u64::from(bits.has(local)));
                let (up, down) = row.bytes.unwrap_or_default();
                add(group, [1, allowed, denied, asked, up, down]);
            }
        }
        Ok(())
    }

    fn add_to(&self, rows: &Bits, group: &mut Group) {
        let [allowed, denied, asked] = self.verdicts.each_ref().map(|bits| bits.count_with(rows));
        add(group, [rows.count(), allowed, denied, asked, 0, 0]);
        let mut closed = rows.clone();
        closed.and(&self.closed);
        for local in closed.rows() {
            let (up, down) = self.bytes.get(&local).copied().unwrap_or_default();
            add(group, [0, 0, 0, 0, up, down]);
        }
    }
}

fn add(group: &mut Group, [records, allowed, denied, asked, up, down]: [u64; 6]) {
    let sum = |own: &mut u64, more: u64| *own = own.saturating_add(more);
    sum(&mut group.records, records);
    sum(&mut group.allowed, allowed);
    sum(&mut group.denied, denied);
    sum(&mut group.asked, asked);
    sum(&mut group.bytes_up, up);
    sum(&mut group.bytes_down, down);
}
