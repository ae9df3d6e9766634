//! What could not be recorded, counted until it can be told: `records.lost`.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::event::{AuditEvent, LostBy};

/// Records that are lost so far.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Losses {
    /// When the first and the last of them came.
    span: Option<(Timestamp, Timestamp)>,
    /// How many of each event, by its name: as many names as there are events.
    kinds: BTreeMap<&'static str, u64>,
}

impl Losses {
    /// Counts one.
    pub fn add(&mut self, event: &'static str, at: Timestamp) {
        let (from, _) = self.span.unwrap_or((at, at));
        self.span = Some((from, at));
        let count = self.kinds.entry(event).or_default();
        *count = count.saturating_add(1);
    }

    /// Counts all of another list.
    pub fn add_all(&mut self, others: Self) {
        let Some((from, to)) = others.span else {
            return;
        };
        let (own_from, own_to) = self.span.unwrap_or((from, to));
        self.span = Some((own_from.min(from), own_to.max(to)));
        for (event, more) in others.kinds {
            let count = self.kinds.entry(event).or_default();
            *count = count.saturating_add(more);
        }
    }

    /// The record that tells of them; `None`: there are none.
    pub fn told(&self, by: LostBy, why: &str) -> Option<AuditEvent> {
        let (from, to) = self.span?;
        let kinds = self.kinds.iter();
        Some(AuditEvent::RecordsLost {
            count: self.kinds.values().sum(),
            kinds: kinds
                .map(|(event, count)| ((*event).to_owned(), *count))
                .collect(),
            from,
            to,
            why: why.to_owned(),
            by,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_counted_by_event_from_the_first_to_the_last() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let (mut losses, mut more) = (Losses::default(), Losses::default());
        assert_eq!(losses.told(LostBy::Writer, "x"), None);
        losses.add("egress.decided", at(5));
        losses.add("egress.closed", at(6));
        more.add("egress.decided", at(4));
        losses.add_all(more);
        losses.add_all(Losses::default());
        let expected = AuditEvent::RecordsLost {
            count: 3,
            kinds: [
                ("egress.decided".to_owned(), 2),
                ("egress.closed".to_owned(), 1),
            ]
            .into(),
            from: at(4),
            to: at(6),
            why: "disk full".into(),
            by: LostBy::Gate,
        };
        assert_eq!(losses.told(LostBy::Gate, "disk full"), Some(expected));
    }
}
