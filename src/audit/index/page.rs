//! 256 rows in a few bytes each: when, and where in which log.

use super::codec;

/// Rows of a page.
pub(super) const ROWS: u64 = 256;

/// One record, as the index knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Row {
    /// When it was taken, in microseconds since 1970, as exact as records say it.
    pub(super) at: i64,
    /// The segment that it stands in, by the index's number.
    pub(super) segment: u64,
    /// Where in the segment's plain text.
    pub(super) offset: u64,
    /// Where the record stands that it goes back to, by the index's number of the segment.
    pub(super) about: Option<(u64, u64)>,
}

const ABOUT: u64 = 1;
const SAME_SEGMENT: u64 = 2;
const ABOUT_SAME_SEGMENT: u64 = 4;

/// Appends a row to a page, after its last one.
pub(super) fn put(page: &mut Vec<u8>, last: &Row, row: &Row) {
    let same = row.segment == last.segment;
    let about_same = row.about.is_some_and(|(segment, _)| segment == row.segment);
    let flags = [
        (row.about.is_some(), ABOUT),
        (same, SAME_SEGMENT),
        (about_same, ABOUT_SAME_SEGMENT),
    ];
    let flags = flags
        .iter()
        .filter(|(set, _)| *set)
        .map(|(_, flag)| flag)
        .sum();
    codec::put(page, flags);
    codec::put_signed(page, row.at.wrapping_sub(last.at));
    if same {
        codec::put_signed(page, difference(row.offset, last.offset));
    } else {
        codec::put(page, row.segment);
        codec::put(page, row.offset);
    }
    if let Some((segment, offset)) = row.about {
        if about_same {
            codec::put_signed(page, difference(row.offset, offset));
        } else {
            codec::put(page, segment);
            codec::put(page, offset);
        }
    }
}

/// The rows of a page. `None`: it is none.
pub(super) fn rows(mut page: &[u8]) -> Option<Vec<Row>> {
    let mut rows = Vec::with_capacity(256);
    let mut last = Row::default();
    while !page.is_empty() {
        let flags = codec::take(&mut page)?;
        let has = |flag| flags & flag != 0;
        let at = last.at.wrapping_add(codec::take_signed(&mut page)?);
        let (segment, offset) = if has(SAME_SEGMENT) {
            let offset = last
                .offset
                .wrapping_add_signed(codec::take_signed(&mut page)?);
            (last.segment, offset)
        } else {
            (codec::take(&mut page)?, codec::take(&mut page)?)
        };
        let about = match (has(ABOUT), has(ABOUT_SAME_SEGMENT)) {
            (false, _) => None,
            (true, true) => {
                let back = codec::take_signed(&mut page)?;
                Some((segment, offset.wrapping_sub(back.cast_unsigned())))
            }
            (true, false) => Some((codec::take(&mut page)?, codec::take(&mut page)?)),
        };
        last = Row {
            at,
            segment,
            offset,
            about,
        };
        rows.push(last);
    }
    Some(rows)
}

fn difference(own: u64, other: u64) -> i64 {
    own.wrapping_sub(other).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back() {
        let row = |at, segment, offset, about| Row {
            at,
            segment,
            offset,
            about,
        };
        let all = vec![
            row(1_700_000_000_000_001, 1, 0, None),
            row(1_700_000_000_000_001, 1, 800, Some((1, 0))),
            row(1_699_999_999_999_999, 7, 5, Some((1, 800))),
            row(-5, 7, 2, None),
        ];
        let mut page = Vec::new();
        let mut last = Row::default();
        for row in &all {
            put(&mut page, &last, row);
            last = *row;
        }
        assert_eq!(rows(&page), Some(all));
        assert_eq!(rows(&page[..page.len() - 1]), None);
    }
}
