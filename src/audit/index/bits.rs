//! Which rows of a block have a value: 65 536 bits, and the shortest of three forms to keep them in.

use super::codec;

/// Rows of a block.
pub(super) const ROWS: usize = 1 << 16;

const WORDS: usize = ROWS / 64;

/// How the bits of a value are kept; the first byte says which.
const GAPS: u8 = 0;
const MAP: u8 = 1;
const RUNS: u8 = 2;

/// A set of rows of one block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bits(Box<[u64; WORDS]>);

impl Bits {
    /// None of them.
    pub(super) fn none() -> Self {
        Self(Box::new([0; WORDS]))
    }

    /// The first so many.
    pub(super) fn first(count: usize) -> Self {
        let mut bits = Self::none();
        for (at, word) in bits.0.iter_mut().enumerate() {
            let here = count.saturating_sub(at * 64).min(64);
            *word = match here {
                64 => u64::MAX,
                _ => (1 << here) - 1,
            };
        }
        bits
    }

    pub(super) fn set(&mut self, row: u16) {
        if let Some(word) = self.0.get_mut(usize::from(row / 64)) {
            *word |= 1 << (row % 64);
        }
    }

    pub(super) fn clear(&mut self, row: u16) {
        if let Some(word) = self.0.get_mut(usize::from(row / 64)) {
            *word &= !(1 << (row % 64));
        }
    }

    pub(super) fn and(&mut self, other: &Self) {
        self.each(other, |own, other| *own &= other);
    }

    pub(super) fn and_not(&mut self, other: &Self) {
        self.each(other, |own, other| *own &= !other);
    }

    fn each(&mut self, other: &Self, combine: impl Fn(&mut u64, u64)) {
        for (own, other) in self.0.iter_mut().zip(other.0.iter()) {
            combine(own, *other);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    pub(super) fn count(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// The rows, in their order.
    pub(super) fn rows(&self) -> impl Iterator<Item = u16> {
        self.0.iter().enumerate().flat_map(|(at, word)| {
            let mut left = *word;
            std::iter::from_fn(move || {
                if left == 0 {
                    return None;
                }
                let bit = left.trailing_zeros();
                left &= left - 1;
                u16::try_from(at * 64 + bit as usize).ok()
            })
        })
    }

    /// How many there are below each 64th row.
    pub(super) fn ranks(&self) -> Vec<u32> {
        let mut below = 0;
        let ranks = self.0.iter().map(|word| {
            let rank = below;
            below += word.count_ones();
            rank
        });
        ranks.collect()
    }

    /// How many there are below this one, by the [`Bits::ranks`].
    pub(super) fn rank(&self, ranks: &[u32], row: u16) -> usize {
        let at = usize::from(row / 64);
        let word = self.0.get(at).copied().unwrap_or_default();
        let here = (word & ((1 << (row % 64)) - 1)).count_ones();
        (ranks.get(at).copied().unwrap_or_default() + here) as usize
    }

    /// Adds the rows that a kept form has. `None`: it is none.
    pub(super) fn add(&mut self, kept: &[u8]) -> Option<()> {
        if let Some((&MAP, rest)) = kept.split_first() {
            let (words, _) = rest.as_chunks::<8>();
            if rest.len() != WORDS * 8 {
                return None;
            }
            for (own, other) in self.0.iter_mut().zip(words) {
                *own |= u64::from_le_bytes(*other);
            }
            return Some(());
        }
        Self::each_kept(kept, |row| self.set(row))
    }

    /// Visits the rows that a kept form has, in their order. `None`: it is none.
    pub(super) fn each_kept(kept: &[u8], mut visit: impl FnMut(u16)) -> Option<()> {
        let (form, mut rest) = kept.split_first()?;
        match *form {
            MAP => {
                let mut bits = Self::none();
                bits.add(kept)?;
                bits.rows().for_each(visit);
            }
            GAPS => {
                let mut next = 0_u64;
                while !rest.is_empty() {
                    let row = next.checked_add(codec::take(&mut rest)?)?;
                    visit(u16::try_from(row).ok()?);
                    next = row + 1;
                }
            }
            RUNS => {
                let mut next = 0_u64;
                while !rest.is_empty() {
                    let start = next.checked_add(codec::take(&mut rest)?)?;
                    let end = start.checked_add(codec::take(&mut rest)?)?;
                    let (start, last) = (
                        u16::try_from(start).ok()?,
                        u16::try_from(end.checked_sub(1)?).ok()?,
                    );
                    (start..=last).for_each(&mut visit);
                    next = end;
                }
            }
            _ => return None,
        }
        Some(())
    }

    /// The kept form of these rows, which are in order, without doubles.
    pub(super) fn keep(rows: &[u16]) -> Vec<u8> {
        if let [row] = rows {
            // Most values of a block.
            let mut gaps = Vec::with_capacity(4);
            gaps.push(GAPS);
            codec::put(&mut gaps, u64::from(*row));
            return gaps;
        }
        let mut runs = vec![RUNS];
        let mut gaps = vec![GAPS];
        let (mut run, mut behind_run) = (None::<(u64, u64)>, 0);
        let mut next = 0;
        let mut end_run = |(start, length): (u64, u64)| {
            codec::put(&mut runs, start - behind_run);
            codec::put(&mut runs, length);
            behind_run = start + length;
        };
        for row in rows {
            let row = u64::from(*row);
            codec::put(&mut gaps, row - next);
            next = row + 1;
            run = match run {
                Some((start, length)) if start + length == row => Some((start, length + 1)),
                other => {
                    if let Some(other) = other {
                        end_run(other);
                    }
                    Some((row, 1))
                }
            };
        }
        if let Some(run) = run {
            end_run(run);
        }
        let shorter = if runs.len() < gaps.len() { runs } else { gaps };
        if shorter.len() <= WORDS * 8 {
            return shorter;
        }
        let mut bits = Self::none();
        for row in rows {
            bits.set(*row);
        }
        let mut map = Vec::with_capacity(1 + WORDS * 8);
        map.push(MAP);
        for word in bits.0.iter() {
            map.extend_from_slice(&word.to_le_bytes());
        }
        map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_comes_back() {
        let sets: [(Vec<u16>, u8, usize); 6] = [
            (vec![], GAPS, 1),
            (vec![3, 9, 65_535], GAPS, 6),
            ((100..60_000).collect(), RUNS, 5),
            ((0..=65_535).collect(), RUNS, 5),
            ((0..65_535).filter(|row| row % 3 != 0).collect(), MAP, 8193),
            ((0..65_535).filter(|row| row % 9 == 0).collect(), GAPS, 7283),
        ];
        for (rows, form, length) in sets {
            let kept = Bits::keep(&rows);
            assert_eq!((kept[0], kept.len()), (form, length));
            let mut bits = Bits::none();
            bits.add(&kept).unwrap();
            assert_eq!(bits.rows().collect::<Vec<_>>(), rows);
            assert_eq!(bits.count(), rows.len() as u64);
            let mut visited = Vec::new();
            Bits::each_kept(&kept, |row| visited.push(row)).unwrap();
            assert_eq!(visited, rows);
            let ranks = bits.ranks();
            let found: Vec<usize> = rows.iter().map(|row| bits.rank(&ranks, *row)).collect();
            assert_eq!(found, (0..rows.len()).collect::<Vec<_>>());
        }
        for damaged in [
            &[][..],
            &[9],
            &[MAP, 1],
            &[GAPS, 0xff],
            &[RUNS, 0, 0],
            &[RUNS, 9],
        ] {
            assert_eq!(Bits::none().add(damaged), None, "{damaged:?}");
        }
        assert_eq!(
            Bits::first(70).rows().collect::<Vec<_>>(),
            (0..70).collect::<Vec<_>>()
        );
        assert_eq!(Bits::first(ROWS).count(), 65_536);
    }
}
