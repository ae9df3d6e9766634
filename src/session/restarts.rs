//! How often a companion is started again: one that dies at once each time is not worth it, and one that
//! somebody makes die is a way to ask again and again for what is counted once.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Within this time.
const WINDOW: Duration = Duration::from_mins(1);

/// At most so often.
const MOST: usize = 5;

/// When one companion was started again.
#[derive(Debug, Default)]
pub struct Restarts(VecDeque<Instant>);

impl Restarts {
    /// Whether it may be started once more; counts it.
    pub fn one_more(&mut self) -> bool {
        self.one_more_at(Instant::now())
    }

    fn one_more_at(&mut self, now: Instant) -> bool {
        self.0
            .retain(|at| now.saturating_duration_since(*at) < WINDOW);
        let may = self.0.len() < MOST;
        if may {
            self.0.push_back(now);
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sixth_death_within_a_minute_is_the_last() {
        let mut restarts = Restarts::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        for second in 0..5 {
            assert!(restarts.one_more_at(at(second * 10)));
        }
        assert!(!restarts.one_more_at(at(59)));
        assert!(restarts.one_more_at(at(60)), "the first is long ago");
        assert!(!restarts.one_more_at(at(61)));
    }
}
