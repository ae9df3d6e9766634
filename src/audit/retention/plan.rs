//! Which segments have to go: pure, so that `--dry-run` says what would happen.
//!
//! A log loses its segments from the first on and never one in the middle, so that what is left of it is one piece.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::inventory::Stored;
use super::rules::Keep;
use crate::ids::SessionId;

/// A segment that has to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Removal {
    /// Which.
    pub stored: Stored,
    /// Why.
    pub why: Why,
}

/// Why something goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// It is older than is kept.
    Age,
    /// All together are more than is kept, and it is the oldest.
    Size,
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Age => "age",
            Self::Size => "size",
        })
    }
}

/// Which segments have to go by these rules, in the order in which they do. `now` is the time since the epoch.
pub fn plan(
    stored: &[Stored],
    held: &BTreeSet<SessionId>,
    keep: Keep,
    now: Duration,
) -> Vec<Removal> {
    let mut logs = logs(stored, held);
    let mut removals = Vec::new();
    if let Some(age) = keep.age {
        for log in logs.values_mut() {
            while let Some(stored) = log.first()
                && now.saturating_sub(stored.modified) > age
            {
                removals.push(Removal {
                    stored: *stored,
                    why: Why::Age,
                });
                log.remove(0);
            }
        }
    }
    if let Some(most) = keep.size {
        let gone: u64 = removals.iter().map(|removal| removal.stored.bytes).sum();
        let mut total: u64 = stored.iter().map(|stored| stored.bytes).sum();
        total = total.saturating_sub(gone);
        while total > most {
            let firsts = logs.values().filter_map(|log| log.first().copied());
            let Some(oldest) = firsts.min_by_key(|stored| (stored.modified, stored.name)) else {
                break;
            };
            total = total.saturating_sub(oldest.bytes);
            removals.push(Removal {
                stored: oldest,
                why: Why::Size,
            });
            if let Some(log) = logs.get_mut(&oldest.name.session) {
                log.remove(0);
            }
        }
    }
    removals
}

/// The segments of each log that may go: those that are closed, up to the first that is not.
fn logs(stored: &[Stored], held: &BTreeSet<SessionId>) -> BTreeMap<SessionId, Vec<Stored>> {
    let mut logs: BTreeMap<SessionId, Vec<Stored>> = BTreeMap::new();
    for one in stored {
        if !held.contains(&one.name.session) {
            logs.entry(one.name.session).or_default().push(*one);
        }
    }
    for log in logs.values_mut() {
        log.sort_unstable_by_key(|stored| stored.name);
        let open = log.iter().position(|stored| !stored.closed);
        log.truncate(open.unwrap_or(log.len()));
    }
    logs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::segment::SegmentName;

    const DAY: Duration = Duration::from_hours(24);
    const NOW: Duration = Duration::from_hours(2400);

    /// A closed segment of so many bytes, last written so many days ago.
    fn stored(session: SessionId, number: u32, bytes: u64, days: u32) -> Stored {
        Stored {
            name: SegmentName {
                session,
                number,
                packed: false,
            },
            bytes,
            modified: NOW.saturating_sub(days * DAY),
            closed: true,
        }
    }

    fn planned(all: &[Stored], held: &[SessionId], keep: Keep) -> Vec<(u32, Why)> {
        let held = held.iter().copied().collect();
        let removals = plan(all, &held, keep, NOW);
        removals
            .iter()
            .map(|removal| (removal.stored.name.number, removal.why))
            .collect()
    }

    fn age(days: u32) -> Keep {
        Keep {
            age: Some(days * DAY),
            size: None,
        }
    }

    fn size(bytes: u64) -> Keep {
        Keep {
            age: None,
            size: Some(bytes),
        }
    }

    #[test]
    fn without_rules_nothing_goes() {
        let all = [stored(SessionId::generate(), 1, 1 << 40, 99)];
        assert_eq!(planned(&all, &[], Keep::default()), []);
    }

    #[test]
    fn what_is_older_than_is_kept_goes_from_the_first_segment_on() {
        let session = SessionId::generate();
        let all = [
            stored(session, 1, 10, 30),
            stored(session, 2, 10, 20),
            stored(session, 3, 10, 5),
        ];
        assert_eq!(planned(&all, &[], age(15)), [(1, Why::Age), (2, Why::Age)]);
        assert_eq!(planned(&all, &[], age(30)), []);
        // A young segment before an old one: the log stays one piece.
        let odd = [stored(session, 1, 10, 5), stored(session, 2, 10, 30)];
        assert_eq!(planned(&odd, &[], age(15)), []);
    }

    #[test]
    fn what_is_too_much_goes_the_oldest_first_over_all_logs() {
        let (one, two) = (SessionId::generate(), SessionId::generate());
        let all = [
            stored(one, 1, 10, 9),
            stored(one, 2, 10, 1),
            stored(two, 3, 10, 5),
        ];
        assert_eq!(planned(&all, &[], size(30)), []);
        assert_eq!(planned(&all, &[], size(20)), [(1, Why::Size)]);
        assert_eq!(
            planned(&all, &[], size(5)),
            [(1, Why::Size), (3, Why::Size), (2, Why::Size)]
        );
    }

    #[test]
    fn what_is_gone_by_age_is_not_counted_again() {
        let session = SessionId::generate();
        let all = [stored(session, 1, 10, 30), stored(session, 2, 10, 1)];
        let keep = Keep {
            age: Some(15 * DAY),
            size: Some(10),
        };
        assert_eq!(planned(&all, &[], keep), [(1, Why::Age)]);
    }

    #[test]
    fn what_is_held_or_written_stays_and_counts() {
        let (held, running) = (SessionId::generate(), SessionId::generate());
        let mut open = stored(running, 2, 10, 40);
        open.closed = false;
        let all = [stored(held, 7, 10, 99), stored(running, 1, 10, 50), open];
        assert_eq!(planned(&all, &[held], age(15)), [(1, Why::Age)]);
        assert_eq!(planned(&all, &[held], size(1)), [(1, Why::Size)]);
        // Its positive twin.
        assert_eq!(planned(&all, &[], age(15)).len(), 2);
    }
}
