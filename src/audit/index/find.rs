//! Looking records up.

use std::collections::HashMap;

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

/// How many candidates are looked at together where not all of them may be meant.
const TOGETHER: usize = 1024;

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
    while found.len() < limit {
        let wanted = if search.plan.exact {
            limit
        } else {
            limit.max(TOGETHER)
        };
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
    let mut count = 0;
    for block in &search.blocks {
        count += search.rows_of(block)?.map_or(0, |bits| bits.count());
    }
    if search.plan.exact && count > COUNTED_BACK {
        return Ok(count);
    }
    let mut reader = Reader::new(source, segments.values());
    let mut taken = 0;
    let mut after = None;
    loop {
        let candidates = search.candidates(Order::Newest, TOGETHER, after)?;
        for (key, row) in &candidates {
            after = Some(*key);
            taken += u64::from(reader.read(row, filter, search.plan.exact)?.is_some());
        }
        if candidates.len() < TOGETHER {
            return Ok(taken);
        }
    }
}

/// A block, as its row tells.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block {
    pub(super) id: u64,
    rows: u64,
    oldest: i64,
    newest: i64,
}

/// The order of candidates: by time, then by row.
type Key = (i64, u64);

/// A filter that is being looked up.
pub(super) struct Search<'a> {
    db: &'a Connection,
    plan: Plan,
    pub(super) blocks: Vec<Block>,
    /// What was found at once for all blocks, for each condition that has ranges.
    spread: Vec<Option<HashMap<u64, Bits>>>,
}

impl<'a> Search<'a> {
    pub(super) fn new(store: &'a Store, filter: &Filter) -> Result<Self, Trouble> {
        let db = &store.db;
        let overflows = |dim: Dim| {
            let query = "SELECT EXISTS (SELECT 1 FROM post WHERE dim = ? AND value = ?)";
            let found = db.query_row(query, (dim as u8, OVERFLOW), |row| row.get(0));
            found.unwrap_or(true)
        };
        let plan = Plan::of(filter, build::segments(store)?.values(), overflows);
        let mut query = db.prepare_cached("SELECT id, rows, oldest, newest FROM block")?;
        let rows = query.query_map([], |row| {
            Ok(Block {
                id: row.get(0)?,
                rows: row.get(1)?,
                oldest: row.get(2)?,
                newest: row.get(3)?,
            })
        })?;
        let blocks = rows
            .filter(|block| {
                block.as_ref().map_or(true, |block| {
                    block.newest >= plan.since && block.oldest < plan.until
                })
            })
            .collect::<Result<Vec<Block>, _>>()?;
        let mut search = Self {
            db,
            plan,
            blocks,
            spread: Vec::new(),
        };
        for condition in &search.plan.all {
            let spread = search.spread_of(condition)?;
            search.spread.push(spread);
        }
        Ok(search)
    }

    /// What the ranges of a condition have, in all blocks.
    fn spread_of(&self, condition: &Condition) -> Result<Option<HashMap<u64, Bits>>, Trouble> {
        if condition.ranges.is_empty() && condition.hosts.is_none() {
            return Ok(None);
        }
        let mut spread: HashMap<u64, Bits> = HashMap::new();
        let mut add = |block: u64, kept: &[u8]| {
            let bits = spread.entry(block).or_insert_with(Bits::none);
            bits.add(kept).ok_or_else(damaged)
        };
        for (dim, from, to) in &condition.ranges {
            let mut query = self.db.prepare_cached(
                "SELECT block, bits FROM post WHERE dim = ? AND value >= ? AND value < ?",
            )?;
            let mut rows = query.query((*dim as u8, from, to))?;
            while let Some(row) = rows.next()? {
                add(
                    row.get(0)?,
                    row.get_ref(1)?.as_blob().map_err(|_| damaged())?,
                )?;
            }
        }
        if let Some(glob) = &condition.hosts {
            let query = "SELECT block, bits, value FROM post WHERE dim = ?";
            let mut query = self.db.prepare_cached(query)?;
            let mut rows = query.query([Dim::Host as u8])?;
            while let Some(row) = rows.next()? {
                if glob.covers(row.get_ref(2)?.as_str().map_err(|_| damaged())?) {
                    add(
                        row.get(0)?,
                        row.get_ref(1)?.as_blob().map_err(|_| damaged())?,
                    )?;
                }
            }
        }
        Ok(Some(spread))
    }

    /// The rows of a block that are found. `None`: none is.
    pub(super) fn rows_of(&self, block: &Block) -> Result<Option<Bits>, Trouble> {
        let rows = usize::try_from(block.rows).unwrap_or(usize::MAX);
        let mut found = Bits::first(rows.min(bits::ROWS));
        // What is found already is cheap and may be all that has to be known.
        let mut order: Vec<_> = self.plan.all.iter().zip(&self.spread).collect();
        order.sort_by_key(|(_, spread)| spread.is_none());
        for (condition, spread) in order {
            let mut any = Bits::none();
            if let Some(bits) = spread.as_ref().and_then(|spread| spread.get(&block.id)) {
                any.or(bits);
            }
            for (dim, value) in &condition.values {
                self.add(&mut any, (*dim, value), block.id)?;
            }
            found.and(&any);
            if found.is_empty() {
                return Ok(None);
            }
        }
        for (dim, value) in &self.plan.none {
            let mut gone = Bits::none();
            self.add(&mut gone, (*dim, value), block.id)?;
            found.and_not(&gone);
        }
        if block.oldest < self.plan.since || block.newest >= self.plan.until {
            let all: Vec<u16> = found.rows().collect();
            let mut pages = Pages::new(self.db);
            for local in all {
                let row = pages.row(block.id * bits::ROWS as u64 + u64::from(local))?;
                if row.ms < self.plan.since || row.ms >= self.plan.until {
                    found.clear(local);
                }
            }
        }
        Ok((!found.is_empty()).then_some(found))
    }

    /// Adds the rows of a block that have a value.
    pub(super) fn add(
        &self,
        bits: &mut Bits,
        (dim, value): (Dim, &str),
        block: u64,
    ) -> Result<(), Trouble> {
        let query = "SELECT bits FROM post WHERE dim = ? AND value = ? AND block = ?";
        let mut query = self.db.prepare_cached(query)?;
        let mut rows = query.query((dim as u8, value, block))?;
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
                let id = block.id * bits::ROWS as u64 + u64::from(local);
                let row = pages.row(id)?;
                let key = (row.ms, id);
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

fn damaged() -> Trouble {
    Trouble::disagrees("a part of it is damaged")
}
