//! What happened when, in at most so many pieces of time, however long it took.

use jiff::{SignedDuration, Timestamp};

/// The most pieces.
const PIECES: usize = 120;

/// What happened in a piece of time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Piece {
    /// Requests that were let through.
    pub(super) allowed: u64,
    /// Requests that were denied or failed.
    pub(super) denied: u64,
    /// Bytes to the network, of connections that ended then.
    pub(super) up: u64,
    /// Bytes from the network.
    pub(super) down: u64,
}

/// A session, cut into pieces of equal length; the length doubles when it grows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Series {
    start: Option<Timestamp>,
    /// Length of a piece in seconds.
    pub(super) seconds: i64,
    pub(super) pieces: Vec<Piece>,
}

impl Series {
    pub(super) fn new() -> Self {
        Self {
            start: None,
            seconds: 1,
            pieces: Vec::new(),
        }
    }

    /// Adds what happened at a time; what is older than the first counts as of the first.
    pub(super) fn add(&mut self, at: Timestamp, change: impl FnOnce(&mut Piece)) {
        let start = *self.start.get_or_insert(at);
        let since = at.duration_since(start).as_secs().max(0);
        let place = |seconds: i64| usize::try_from(since / seconds).unwrap_or(usize::MAX);
        while place(self.seconds) >= PIECES {
            self.halve();
        }
        let place = place(self.seconds);
        if self.pieces.len() <= place {
            self.pieces.resize(place + 1, Piece::default());
        }
        if let Some(piece) = self.pieces.get_mut(place) {
            change(piece);
        }
    }

    fn halve(&mut self) {
        self.seconds = self.seconds.saturating_mul(2);
        let pairs = self.pieces.chunks(2).map(|pair| {
            let mut sum = Piece::default();
            for piece in pair {
                sum.allowed += piece.allowed;
                sum.denied += piece.denied;
                sum.up = sum.up.saturating_add(piece.up);
                sum.down = sum.down.saturating_add(piece.down);
            }
            sum
        });
        self.pieces = pairs.collect();
    }

    /// When the first piece begins and the last one ends.
    pub(super) fn span(&self) -> Option<(Timestamp, Timestamp)> {
        let start = self.start?;
        let length = i64::try_from(self.pieces.len())
            .ok()?
            .checked_mul(self.seconds)?;
        let end = start.checked_add(SignedDuration::from_secs(length)).ok()?;
        Some((start, end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_grows_in_time_and_not_in_pieces() {
        let mut series = Series::new();
        let at = |second: i64| Timestamp::from_second(1_700_000_000 + second).unwrap();
        series.add(at(0), |piece| piece.allowed += 1);
        series.add(at(119), |piece| piece.denied += 2);
        assert_eq!((series.seconds, series.pieces.len()), (1, 120));
        series.add(at(-5), |piece| piece.allowed += 1);
        series.add(at(120), |piece| piece.up += 7);
        assert_eq!((series.seconds, series.pieces.len()), (2, 61));
        series.add(at(86_400), |_| {});
        assert_eq!((series.seconds, series.pieces.len()), (1024, 85));
        assert_eq!(
            series.pieces[0],
            Piece {
                allowed: 2,
                denied: 2,
                up: 7,
                down: 0
            }
        );
        assert_eq!(series.span(), Some((at(0), at(85 * 1024))));
    }
}
