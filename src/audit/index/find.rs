//! Looking records up.

use std::collections::HashSet;

use rusqlite::{Connection, OptionalExtension};

use super::bits::{self, Bits};
use super::build;
use super::page::{self, Row};
use super::plan::{Condition, Plan};
use super::read_back::Reader;
use super::store::Store;
use super::term::{Dim, OVERFLOW};
use super::{Source, Trouble};
use crate::audit::filter::Filter;
use crate::ids::SessionId;

/// How many records are read back even for a mere number.
const COUNTED_BACK: u64 = 1000;

/// How many candidates are looked at together where not all of them may be meant, at first and at last.
const TOGETHER: (usize, usize) = (1024, 1 << 17);

/// Of how many hosts each is looked up for itself; where a glob means more of them, those of a block are read.
const FEW_HOSTS: usize = 64;

/// Of how many segments each is looked up for itself; where there are more, those of a block are read.
const FEW_SEGMENTS: usize = 8;

/// Which records come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// The latest.
    #[default]
    Newest,
    /// The first.
    Oldest,
}

/// A record, as it stands in its log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Whose log.
    pub session: SessionId,
    /// The line.
    pub line: Vec<u8>,
    /// The line of the record that it goes back to.
    pub about: Option<Vec<u8>>,
}

/// The number of the next row.
pub(super) fn next_row(db: &Connection) -> Result<u64, Trouble> {
    let query = "SELECT id, rows FROM block ORDER BY id DESC LIMIT 1";
    let last: Option<(u64, u64)> = db
        .query_row(query, [], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    Ok(last.map_or(0, |(id, rows)| id * bits::ROWS as u64 + rows))
}

/// How many records there are.
pub(super) fn rows(store: &Store) -> Result<u64, Trouble> {
    next_row(&store.db)
}

/// The records that a filter takes.
pub(super) fn find(
    store: &Store,
    source: &impl Source,
    filter: &Filter,
    (order, limit): (Order, usize),
) -> Result<Vec<Found>, Trouble> {
    let segments = build::segments(store)?;
    let search = Search::new(store, filter)?;
    let mut reader = Reader::new(source, segments.values());
    let mut found = Vec::new();
    let mut after = None;
    let mut together = TOGETHER.0;
    while found.len() < limit {
        let wanted = if search.plan.exact {
            limit
        } else {
            limit.max(together)
        };
        // Blocks are looked at anew for the next ones: soon there are few rounds.
        together = TOGETHER.1.min(4 * together);
        let candidates = search.candidates(order, wanted, after)?;
        for (key, row) in &candidates {
            after = Some(*key);
            found.extend(reader.read(row, filter, search.plan.exact)?);
            if found.len() == limit {
                break;
            }
        }
        if candidates.len() < wanted {
            break;
        }
    }
    Ok(found)
}

/// How many records a filter takes.
pub(super) fn count(store: &Store, source: &impl Source, filter: &Filter) -> Result<u64, Trouble> {
    let segments = build::segments(store)?;
    let search = Search::new(store, filter)?;
    let mut reader = Reader::new(source, segments.values());
    let mut count = 0;
    let mut few = Vec::new();
    for block in &search.blocks {
        let Some(rows) = search.rows_that_are(block, (&mut reader, filter))? else {
            continue;
        };
        count += rows.count();
        if search.plan.exact && count <= COUNTED_BACK {
            few.push((block, rows));
        }
    }
    if search.plan.exact && count <= COUNTED_BACK {
        for (block, rows) in few {
            search.read_back(block, &rows, (&mut reader, filter), |_| ())?;
        }
    }
    Ok(count)
}

/// A block, as its row tells.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block {
    pub(super) id: u64,
    rows: u64,
    pub(super) oldest: i64,
    pub(super) newest: i64,
}

/// The order of candidates: by time, then by row.
type Key = (i64, u64);

/// A filter that is being looked up.
pub(super) struct Search<'a> {
    db: &'a Connection,
    plan: Plan,
    pub(super) blocks: Vec<Block>,
}

impl<'a> Search<'a> {
    pub(super) fn new(store: &'a Store, filter: &Filter) -> Result<Self, Trouble> {
        let db = &store.db;
        let overflows = |dim: Dim| {
            let query = "SELECT EXISTS (SELECT 1 FROM block CROSS JOIN post \
                         ON post.block = block.id AND post.dim = ? AND post.value = ?)";
            let found = db.query_row(query, (dim as u8, OVERFLOW), |row| row.get(0));
            found.unwrap_or(true)
        };
        let mut plan = Plan::of(filter, build::segments(store)?.values(), overflows);
        for condition in &mut plan.all {
            find_hosts(db, condition)?;
        }
        plan.all.sort_by_key(Condition::cost);
        let mut query = db.prepare_cached("SELECT id, rows, oldest, newest FROM block")?;
        let rows = query.query_map([], |row| {
            Ok(Block {
                id: row.get(0)?,
                rows: row.get(1)?,
                oldest: row.get(2)?,
                newest: row.get(3)?,
            })
        })?;
        let mut blocks = rows
            .filter(|block| {
                block.as_ref().map_or(true, |block| {
                    block.newest >= plan.since && block.oldest < plan.until
                })
            })
            .collect::<Result<Vec<Block>, _>>()?;
        if plan.all.iter().any(Condition::is_none) {
            blocks.clear();
        }
        Ok(Self { db, plan, blocks })
    }

    /// The rows of a block that are found. `None`: none is.
    pub(super) fn rows_of(&self, block: &Block) -> Result<Option<Bits>, Trouble> {
        let rows = usize::try_from(block.rows).unwrap_or(usize::MAX);
        let mut found = Bits::first(rows.min(bits::ROWS));
        for condition in &self.plan.all {
            found.and(&self.rows_with(condition, block.id)?);
            if found.is_empty() {
                return Ok(None);
            }
        }
        if !self.plan.gone.is_empty() {
            let mut gone = Bits::none();
            self.add_segments(&mut gone, &self.plan.gone, block.id)?;
            found.and_not(&gone);
        }
        if block.oldest < self.plan.since || block.newest >= self.plan.until {
            let all: Vec<u16> = found.rows().collect();
            let mut pages = Pages::new(self.db);
            for local in all {
                let row = pages.row(row_of(block, local))?;
                if row.at < self.plan.since || row.at >= self.plan.until {
                    found.clear(local);
                }
            }
        }
        Ok((!found.is_empty()).then_some(found))
    }

    /// The rows of a block whose records the filter takes: read back where the sets do not say all. `None`:
    /// none is.
    pub(super) fn rows_that_are(
        &self,
        block: &Block,
        (reader, filter): (&mut Reader<'_, impl Source>, &Filter),
    ) -> Result<Option<Bits>, Trouble> {
        let found = self.rows_of(block)?;
        let Some(candidates) = found.as_ref().filter(|_| !self.plan.exact) else {
            return Ok(found);
        };
        let mut taken = Bits::none();
        self.read_back(block, candidates, (reader, filter), |row| taken.set(row))?;
        Ok((!taken.is_empty()).then_some(taken))
    }

    /// Reads the records of these rows; `take` gets those that the filter takes.
    fn read_back(
        &self,
        block: &Block,
        rows: &Bits,
        (reader, filter): (&mut Reader<'_, impl Source>, &Filter),
        mut take: impl FnMut(u16),
    ) -> Result<(), Trouble> {
        let mut pages = Pages::new(self.db);
        for local in rows.rows() {
            let row = pages.row(row_of(block, local))?;
            if reader.read(&row, filter, self.plan.exact)?.is_some() {
                take(local);
            }
        }
        Ok(())
    }

    /// The rows of a block that satisfy a condition.
    fn rows_with(&self, condition: &Condition, block: u64) -> Result<Bits, Trouble> {
        let mut any = Bits::none();
        for (dim, value) in &condition.values {
            self.add(&mut any, (*dim, value), block)?;
        }
        self.add_segments(&mut any, &condition.segments, block)?;
        for (dim, from, to) in &condition.ranges {
            let query =
                "SELECT bits FROM post WHERE block = ? AND dim = ? AND value >= ? AND value < ?";
            let mut query = self.db.prepare_cached(query)?;
            let mut rows = query.query((block, *dim as u8, from, to))?;
            while let Some(row) = rows.next()? {
                let kept = row.get_ref(0)?.as_blob().map_err(|_| damaged())?;
                any.add(kept).ok_or_else(damaged)?;
            }
        }
        if let Some(glob) = &condition.hosts {
            self.add_all(&mut any, (Dim::Host, block), |host| glob.covers(host))?;
        }
        Ok(any)
    }

    /// Adds the rows of a block that are of these segments.
    fn add_segments(
        &self,
        bits: &mut Bits,
        segments: &HashSet<String>,
        block: u64,
    ) -> Result<(), Trouble> {
        if segments.len() > FEW_SEGMENTS {
            return self.add_all(bits, (Dim::Segment, block), |value| {
                segments.contains(value)
            });
        }
        segments
            .iter()
            .try_for_each(|value| self.add(bits, (Dim::Segment, value), block))
    }

    /// Adds the rows of a block that have any of the values that are wanted, looking at every value.
    fn add_all(
        &self,
        bits: &mut Bits,
        (dim, block): (Dim, u64),
        wanted: impl Fn(&str) -> bool,
    ) -> Result<(), Trouble> {
        self.each_value((dim, block), |value, kept| {
            if wanted(value) {
                bits.add(kept)
            } else {
                Some(())
            }
        })
    }

    /// Visits every value of a block and the kept form of its rows. `None`: it is none.
    pub(super) fn each_value(
        &self,
        (dim, block): (Dim, u64),
        mut visit: impl FnMut(&str, &[u8]) -> Option<()>,
    ) -> Result<(), Trouble> {
        let query = "SELECT value, bits FROM post WHERE block = ? AND dim = ?";
        let mut query = self.db.prepare_cached(query)?;
        let mut rows = query.query((block, dim as u8))?;
        while let Some(row) = rows.next()? {
            let value = row.get_ref(0)?.as_str().map_err(|_| damaged())?;
            let kept = row.get_ref(1)?.as_blob().map_err(|_| damaged())?;
            visit(value, kept).ok_or_else(damaged)?;
        }
        Ok(())
    }

    /// Adds the rows of a block that have a value.
    pub(super) fn add(
        &self,
        bits: &mut Bits,
        (dim, value): (Dim, &str),
        block: u64,
    ) -> Result<(), Trouble> {
        let query = "SELECT bits FROM post WHERE block = ? AND dim = ? AND value = ?";
        let mut query = self.db.prepare_cached(query)?;
        let mut rows = query.query((block, dim as u8, value))?;
        if let Some(row) = rows.next()? {
            let kept = row.get_ref(0)?.as_blob().map_err(|_| damaged())?;
            bits.add(kept).ok_or_else(damaged)?;
        }
        Ok(())
    }

    /// The next rows that are found, at most so many, in their order; those behind `after`.
    fn candidates(
        &self,
        order: Order,
        limit: usize,
        after: Option<Key>,
    ) -> Result<Vec<(Key, Row)>, Trouble> {
        // As if time ran backwards, the newest is the oldest.
        let turn = |key: Key| match order {
            Order::Oldest => (i128::from(key.0), i128::from(key.1)),
            Order::Newest => (-i128::from(key.0), -i128::from(key.1)),
        };
        let first = |block: &Block| match order {
            Order::Oldest => i128::from(block.oldest),
            Order::Newest => -i128::from(block.newest),
        };
        let last = |block: &Block| match order {
            Order::Oldest => i128::from(block.newest),
            Order::Newest => -i128::from(block.oldest),
        };
        let after = after.map(turn);
        let mut blocks: Vec<&Block> = self.blocks.iter().collect();
        blocks.sort_by_key(|block| first(block));
        let mut best: Vec<(Key, Row)> = Vec::new();
        let mut worst = None;
        let mut pages = Pages::new(self.db);
        for block in blocks {
            if worst.is_some_and(|(worst, _)| first(block) > worst) {
                break;
            }
            if after.is_some_and(|(after, _)| last(block) < after) {
                continue;
            }
            let Some(found) = self.rows_of(block)? else {
                continue;
            };
            for local in found.rows() {
                let id = row_of(block, local);
                let row = pages.row(id)?;
                let key = (row.at, id);
                let turned = turn(key);
                if after.is_none_or(|after| turned > after)
                    && worst.is_none_or(|worst| turned < worst)
                {
                    best.push((key, row));
                }
            }
            if best.len() > limit {
                best.select_nth_unstable_by_key(limit, |(key, _)| turn(*key));
                best.truncate(limit);
            }
            if best.len() == limit {
                worst = best.iter().map(|(key, _)| turn(*key)).max();
            }
        }
        best.sort_by_key(|(key, _)| turn(*key));
        Ok(best)
    }
}

/// Pages, the last one kept: rows that are asked for one after the other are on one page.
pub(super) struct Pages<'a> {
    db: &'a Connection,
    page: Option<(u64, Vec<Row>)>,
}

impl<'a> Pages<'a> {
    pub(super) fn new(db: &'a Connection) -> Self {
        Self { db, page: None }
    }

    pub(super) fn row(&mut self, id: u64) -> Result<Row, Trouble> {
        let number = id / page::ROWS;
        if self.page.as_ref().is_none_or(|(kept, _)| *kept != number) {
            let mut query = self
                .db
                .prepare_cached("SELECT rows FROM page WHERE id = ?")?;
            let mut rows = query.query([number])?;
            let row = rows.next()?.ok_or_else(damaged)?;
            let kept = row.get_ref(0)?.as_blob().map_err(|_| damaged())?;
            self.page = Some((number, page::rows(kept).ok_or_else(damaged)?));
        }
        let at = usize::try_from(id % page::ROWS).unwrap_or(usize::MAX);
        let page = self.page.as_ref();
        let row = page.and_then(|(_, rows)| rows.get(at));
        row.copied().ok_or_else(damaged)
    }
}

/// The number of a block's row.
fn row_of(block: &Block, local: u16) -> u64 {
    block.id * bits::ROWS as u64 + u64::from(local)
}

/// Looks up which hosts a glob means: few of them are looked up like any other value.
fn find_hosts(db: &Connection, condition: &mut Condition) -> Result<(), Trouble> {
    let Some(glob) = &condition.hosts else {
        return Ok(());
    };
    let mut query = db.prepare_cached("SELECT name FROM host")?;
    let mut rows = query.query([])?;
    let mut few = Vec::new();
    while let Some(row) = rows.next()? {
        let host = row.get_ref(0)?.as_str().map_err(|_| damaged())?;
        if glob.covers(host) {
            few.push((Dim::Host, host.to_owned()));
            if few.len() > FEW_HOSTS {
                return Ok(());
            }
        }
    }
    condition.values.append(&mut few);
    condition.hosts = None;
    Ok(())
}

fn damaged() -> Trouble {
    Trouble::disagrees("a part of it is damaged")
}
