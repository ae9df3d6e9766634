//! Compares a log, while it is verified, with what the ledger says of it.

use serde::Serialize;

use super::read::Bound;
use crate::audit::chain::ChainHash;
use crate::audit::verify::Report;

/// What is known of one log.
#[derive(Debug)]
pub struct Comparison<'a> {
    bound: Option<&'a Bound>,
    /// Up to where it is as it was bound.
    agrees: u64,
    differs: Option<u64>,
}

/// How a log stands to the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// How many of its records are bound.
    pub bound: u64,
    /// How many are not yet, or never will be.
    pub unbound: u64,
    /// What is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flaw: Option<HeadFlaw>,
}

/// What the ledger says against a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum HeadFlaw {
    /// Records are missing at its end.
    #[error(
        "record {record} is missing: the log ends before it, and the ledger has bound {bound} records"
    )]
    Truncated {
        /// The first one that is missing.
        record: u64,
        /// How many there were.
        bound: u64,
    },
    /// Other records stand there.
    #[error(
        "record {record} is not the one that the ledger has bound: records from {first} on were written anew, or the \
         log was replaced"
    )]
    Differs {
        /// The bound record.
        record: u64,
        /// Up to the one before this it is as it was bound.
        first: u64,
    },
    /// The whole log is gone.
    #[error("record 1 is missing: the log is gone, and the ledger has bound {bound} records")]
    Missing {
        /// How many there were.
        bound: u64,
    },
    /// The notary found it broken when it happened.
    #[error("record {record} did not hold when it was read: {flaw}")]
    FoundBroken {
        /// Which.
        record: u64,
        /// Why.
        flaw: String,
    },
}

impl HeadFlaw {
    /// The record that is named.
    pub fn record(&self) -> u64 {
        match self {
            Self::Missing { .. } => 1,
            Self::Truncated { record, .. }
            | Self::Differs { record, .. }
            | Self::FoundBroken { record, .. } => *record,
        }
    }
}

impl<'a> Comparison<'a> {
    /// With what the ledger says of it; `None`: nothing.
    pub fn new(bound: Option<&'a Bound>) -> Self {
        Self {
            bound,
            agrees: 0,
            differs: None,
        }
    }

    /// A record that holds, and its hash.
    pub fn see(&mut self, record: u64, hash: ChainHash) {
        let bound = self.bound.and_then(|bound| bound.head(record));
        match bound {
            Some(head) if head == hash && self.differs.is_none() => self.agrees = record,
            Some(head) if head != hash => {
                self.differs.get_or_insert(record);
            }
            Some(_) | None => {}
        }
    }

    /// How the log stands, given how it verified.
    pub fn finish(self, report: &Report) -> Standing {
        let bound = self.agrees.max(report.pruned.unwrap_or_default());
        let unbound = report.last().saturating_sub(bound);
        let flaw = self.flaw(report);
        Standing {
            bound,
            unbound,
            flaw,
        }
    }

    fn flaw(&self, report: &Report) -> Option<HeadFlaw> {
        let bound = self.bound?;
        if let Some((record, flaw)) = &bound.broken {
            let (record, flaw) = (*record, flaw.clone());
            return Some(HeadFlaw::FoundBroken { record, flaw });
        }
        if let Some(record) = self.differs {
            let first = self.agrees.max(report.pruned.unwrap_or_default()) + 1;
            return Some(HeadFlaw::Differs { record, first });
        }
        let (last, _) = bound.heads.last_key_value()?;
        // A record that does not hold is named by itself.
        let is_short = report.last() < *last && report.broken.is_none();
        let record = report.last() + 1;
        is_short.then_some(HeadFlaw::Truncated {
            record,
            bound: *last,
        })
    }
}

/// A log that is not there: pruned, or gone.
pub fn missing(known: &Bound) -> Standing {
    let last = known.heads.last_key_value();
    let last = last.map_or(0, |(records, _)| *records);
    let pruned = known.pruned.last().map_or(0, |end| end.records);
    let flaw = match &known.broken {
        _ if pruned == 0 => Some(HeadFlaw::Missing { bound: last }),
        Some((record, flaw)) => Some(HeadFlaw::FoundBroken {
            record: *record,
            flaw: flaw.clone(),
        }),
        None => (pruned < last).then_some(HeadFlaw::Truncated {
            record: pruned + 1,
            bound: last,
        }),
    };
    Standing {
        bound: pruned,
        unbound: 0,
        flaw,
    }
}
