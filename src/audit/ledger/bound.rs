//! What the ledger says of one session's log.

use std::collections::BTreeMap;

use super::entry::{LogHead, LogPruned, LogState};
use crate::audit::chain::ChainHash;
use crate::audit::verify::SegmentEnd;
use crate::ids::SessionId;

/// In whose folder a log is (`None`: in the ledger's own), and whose it is.
pub type LogName = (Option<u32>, SessionId);

/// What it says of one session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bound {
    /// Heads by the number of records.
    pub heads: BTreeMap<u64, ChainHash>,
    /// Whether the last of them is the end.
    pub ended: bool,
    /// The log was found to be broken: first record and flaw.
    pub broken: Option<(u64, String)>,
    /// The segments that were removed, from the first on: the log begins behind the last of them. Signed, all of them.
    pub pruned: Vec<SegmentEnd>,
}

impl Bound {
    /// The hash that a record must have.
    pub fn head(&self, record: u64) -> Option<ChainHash> {
        let pruned = || self.pruned.iter().find(|end| end.records == record);
        let head = self.heads.get(&record).copied();
        head.or_else(|| pruned().map(|end| end.head))
    }

    /// A head that was bound; answers whether it can be.
    pub(super) fn bind(&mut self, head: &LogHead) -> bool {
        let last = self.heads.last_key_value();
        let repeats = last == Some((&head.records, &head.head));
        let backwards = last.is_some_and(|(records, _)| *records >= head.records);
        let contradicts = self
            .head(head.records)
            .is_some_and(|known| known != head.head);
        if contradicts || (backwards || self.ended) && !repeats {
            return false;
        }
        self.heads.insert(head.records, head.head);
        self.ended |= head.state == LogState::Ended;
        true
    }

    /// A segment that was removed: it follows the one before it, or says the same again. `None`: it contradicts what
    /// was said before; otherwise, whether it is new.
    pub(super) fn prune(&mut self, pruned: &LogPruned) -> Option<bool> {
        let end = SegmentEnd {
            segment: pruned.segment,
            records: pruned.last,
            head: pruned.head,
        };
        let before = self.pruned.last();
        if before == Some(&end) {
            // Whoever was to remove it was killed.
            return Some(false);
        }
        let (segment, records) = before.map_or((0, 0), |end| (end.segment, end.records));
        let follows = segment.checked_add(1) == Some(pruned.segment)
            && records.checked_add(1) == Some(pruned.first)
            && pruned.first <= pruned.last;
        let agrees = |head: &ChainHash| *head == pruned.head;
        let holds = follows && self.heads.get(&pruned.last).is_none_or(agrees);
        holds.then(|| {
            self.pruned.push(end);
            true
        })
    }
}
