//! How many bytes went over connections: of each block, the rows that say so.

use rusqlite::{Connection, OptionalExtension};

use super::{Trouble, codec};

/// A row of a block whose connection is over, and its bytes to and from the network.
pub(super) type Bytes = (u16, u64, u64);

/// Those of a block, in the order of its rows.
pub(super) fn read(db: &Connection, block: u64) -> Result<Vec<Bytes>, Trouble> {
    let mut query = db.prepare_cached("SELECT bytes FROM sum WHERE block = ?")?;
    let kept: Option<Vec<u8>> = query.query_row([block], |row| row.get(0)).optional()?;
    let kept = kept.unwrap_or_default();
    unpack(&kept).ok_or_else(|| Trouble::disagrees("a part of it is damaged"))
}

/// Writes all of a block.
pub(super) fn write(db: &Connection, block: u64, all: &[Bytes]) -> Result<(), Trouble> {
    if all.is_empty() {
        return Ok(());
    }
    let mut write = db.prepare_cached("INSERT OR REPLACE INTO sum VALUES (?, ?)")?;
    write.execute((block, pack(all)))?;
    Ok(())
}

fn pack(all: &[Bytes]) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut next = 0;
    for (row, up, down) in all {
        let row = u64::from(*row);
        codec::put(&mut kept, row.saturating_sub(next));
        codec::put(&mut kept, *up);
        codec::put(&mut kept, *down);
        next = row + 1;
    }
    kept
}

fn unpack(mut kept: &[u8]) -> Option<Vec<Bytes>> {
    let mut all = Vec::with_capacity(kept.len() / 5);
    let mut next = 0_u64;
    while !kept.is_empty() {
        let row = next.checked_add(codec::take(&mut kept)?)?;
        let (up, down) = (codec::take(&mut kept)?, codec::take(&mut kept)?);
        all.push((u16::try_from(row).ok()?, up, down));
        next = row + 1;
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back() {
        let all = vec![
            (0, 0, 1),
            (1, 7, u64::MAX),
            (300, 1 << 40, 0),
            (u16::MAX, 2, 3),
        ];
        let kept = pack(&all);
        assert_eq!(unpack(&kept), Some(all));
        assert_eq!(unpack(&kept[..kept.len() - 1]), None);
        assert_eq!(unpack(&[0xff, 0xff, 0xff, 1, 0, 0]), None);
    }
}
