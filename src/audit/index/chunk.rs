//! Rows that were read and are not in the index yet: collected, put in the order of their times, and written
//! block by block.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension};

use super::Trouble;
use super::bits::{self, Bits};
use super::page::{self, Row};
use super::sum;
use super::term::Dim;

/// After how many rows a chunk is written: eight blocks.
const FULL: usize = 8 * bits::ROWS;

/// Bytes to and from the network, of a connection that is over.
type Transferred = Option<(u64, u64)>;

/// Rows and what they are found by.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    /// Dimension and value, in one key, and their number.
    numbers: HashMap<Box<[u8]>, u32>,
    /// Where a row's terms end, the row, and its bytes.
    rows: Vec<(usize, Row, Transferred)>,
    /// The terms of all rows.
    terms: Vec<u32>,
    key: Vec<u8>,
}

impl Chunk {
    pub(super) fn is_full(&self) -> bool {
        self.rows.len() >= FULL
    }

    /// Adds something that the next row is found by.
    pub(super) fn put(&mut self, dim: Dim, value: &str) {
        self.key.clear();
        self.key.push(dim as u8);
        self.key.extend_from_slice(value.as_bytes());
        let number = if let Some(number) = self.numbers.get(self.key.as_slice()) {
            *number
        } else {
            let number = u32::try_from(self.numbers.len()).unwrap_or(u32::MAX);
            self.numbers.insert(self.key.as_slice().into(), number);
            number
        };
        self.terms.push(number);
    }

    /// Ends a row, whose terms were put before.
    pub(super) fn end_row(&mut self, row: Row, bytes: Transferred) {
        self.rows.push((self.terms.len(), row, bytes));
    }

    /// Writes everything.
    pub(super) fn write(&self, db: &Connection) -> Result<(), Trouble> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let mut order: Vec<usize> = (0..self.rows.len()).collect();
        order.sort_by_key(|at| self.rows.get(*at).map(|(_, row, _)| row.at));
        let mut names: Vec<(&[u8], u32)> = self
            .numbers
            .iter()
            .map(|(key, number)| (&**key, *number))
            .collect();
        // In the order of the tree: each one goes behind the others.
        names.sort_unstable();
        write_hosts(db, &names)?;
        let mut next = super::find::next_row(db)?;
        let mut left = order.as_slice();
        let mut postings: Vec<Vec<u16>> = vec![Vec::new(); names.len()];
        while !left.is_empty() {
            let used = usize::try_from(next % bits::ROWS as u64).unwrap_or_default();
            let (here, rest) = left.split_at(left.len().min(bits::ROWS - used));
            left = rest;
            self.write_rows(db, next, here)?;
            self.write_sum(db, next, here)?;
            for (local, at) in (used..).zip(here) {
                let start = at.checked_sub(1).and_then(|before| self.rows.get(before));
                let start = start.map_or(0, |(end, ..)| *end);
                let end = self.rows.get(*at).map_or(start, |(end, ..)| *end);
                let local = u16::try_from(local).unwrap_or(u16::MAX);
                for term in self.terms.get(start..end).unwrap_or_default() {
                    if let Some(rows) = postings.get_mut(*term as usize)
                        && rows.last() != Some(&local)
                    {
                        rows.push(local);
                    }
                }
            }
            write_postings(
                db,
                next / bits::ROWS as u64,
                (used > 0, &names),
                &mut postings,
            )?;
            next += here.len() as u64;
        }
        Ok(())
    }

    /// Writes the pages of one block's rows, and the block itself.
    fn write_rows(&self, db: &Connection, first: u64, order: &[usize]) -> Result<(), Trouble> {
        let mut write = db.prepare_cached("INSERT OR REPLACE INTO page VALUES (?, ?)")?;
        let (mut oldest, mut newest) = (i64::MAX, i64::MIN);
        let mut page = Vec::new();
        let mut last = Row::default();
        if !first.is_multiple_of(page::ROWS) {
            let query = "SELECT rows FROM page WHERE id = ?";
            page = db.query_row(query, [first / page::ROWS], |row| row.get(0))?;
            last = page::rows(&page)
                .and_then(|rows| rows.last().copied())
                .ok_or_else(|| Trouble::disagrees("a page of it is damaged"))?;
        }
        for (id, at) in (first..).zip(order) {
            let Some((_, row, _)) = self.rows.get(*at) else {
                continue;
            };
            if id.is_multiple_of(page::ROWS) && id > first {
                write.execute((id / page::ROWS - 1, &page))?;
                page.clear();
                last = Row::default();
            }
            page::put(&mut page, &last, row);
            last = *row;
            (oldest, newest) = (oldest.min(row.at), newest.max(row.at));
        }
        let end = first + order.len() as u64;
        if !page.is_empty() {
            write.execute((end.saturating_sub(1) / page::ROWS, &page))?;
        }
        let rows = order.len() as u64;
        db.prepare_cached(
            "INSERT INTO block VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET \
             rows = rows + excluded.rows, oldest = min(oldest, excluded.oldest), \
             newest = max(newest, excluded.newest)",
        )?
        .execute((first / bits::ROWS as u64, rows, oldest, newest))?;
        Ok(())
    }

    /// Writes how many bytes went over the connections of one block that are over.
    fn write_sum(&self, db: &Connection, first: u64, order: &[usize]) -> Result<(), Trouble> {
        let block = first / bits::ROWS as u64;
        let begun = !first.is_multiple_of(bits::ROWS as u64);
        let mut kept = if begun {
            sum::read(db, block)?
        } else {
            Vec::new()
        };
        for (local, at) in (first % bits::ROWS as u64..).zip(order) {
            if let Some((_, _, Some((up, down)))) = self.rows.get(*at) {
                kept.push((u16::try_from(local).unwrap_or(u16::MAX), *up, *down));
            }
        }
        sum::write(db, block, &kept)
    }
}

/// Adds the hosts to the list of them.
fn write_hosts(db: &Connection, names: &[(&[u8], u32)]) -> Result<(), Trouble> {
    let mut write = db.prepare_cached("INSERT OR IGNORE INTO host VALUES (?)")?;
    for (key, _) in names {
        if let Some((dim, host)) = key.split_first()
            && *dim == Dim::Host as u8
        {
            write.execute([String::from_utf8_lossy(host)])?;
        }
    }
    Ok(())
}

/// Writes which rows of a block have which values. `begun`: the block has rows already.
fn write_postings(
    db: &Connection,
    block: u64,
    (begun, names): (bool, &[(&[u8], u32)]),
    postings: &mut [Vec<u16>],
) -> Result<(), Trouble> {
    let mut read =
        db.prepare_cached("SELECT bits FROM post WHERE block = ? AND dim = ? AND value = ?")?;
    let mut write = db.prepare_cached("INSERT OR REPLACE INTO post VALUES (?, ?, ?, ?)")?;
    for (key, number) in names {
        let Some(rows) = postings
            .get_mut(*number as usize)
            .filter(|rows| !rows.is_empty())
        else {
            continue;
        };
        let Some((dim, value)) = key.split_first() else {
            continue;
        };
        let value = String::from_utf8_lossy(value);
        let known: Option<Vec<u8>> = if begun {
            read.query_row((block, dim, &value), |row| row.get(0))
                .optional()?
        } else {
            None
        };
        let kept = match known {
            None => Bits::keep(rows),
            Some(known) => {
                let mut bits = Bits::none();
                bits.add(&known)
                    .ok_or_else(|| Trouble::disagrees("a set of it is damaged"))?;
                for row in rows.iter() {
                    bits.set(*row);
                }
                Bits::keep(&bits.rows().collect::<Vec<_>>())
            }
        };
        write.execute((block, dim, &value, kept))?;
        rows.clear();
    }
    Ok(())
}
