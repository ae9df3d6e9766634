//! Checkpoints that were kept elsewhere: each must stand in the ledger as it was forwarded.
//!
//! They are found in any text of lines: as they are, behind what syslog or a journal puts before them, or
//! in a string of another JSON object.

use std::collections::BTreeMap;
use std::io::{self, BufRead};

use memchr::memmem;
use serde::Serialize;

use super::entry::{self, LedgerEvent};
use super::read::Contents;

/// What every entry begins with.
const START: &[u8] = br#"{"v":1,"seq":"#;

/// The longest line that is looked at.
const MAX_LINE: usize = 1 << 20;

/// Checkpoints that were kept elsewhere.
#[derive(Debug, Default)]
pub struct Anchors {
    /// Each as it was forwarded, by its place; whether it was met there.
    kept: BTreeMap<u64, Vec<(Vec<u8>, String, bool)>>,
    /// How many there are.
    pub count: u64,
}

/// A checkpoint that does not stand in the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum AnchorFlaw {
    /// The ledger ends before it.
    #[error(
        "checkpoint {entry} is not in the ledger, which ends at entry {last}: the ledger was cut off"
    )]
    Truncated {
        /// Its place.
        entry: u64,
        /// The last entry that holds.
        last: u64,
    },
    /// Something else stands there.
    #[error("checkpoint {entry} is not the one in the ledger: the ledger was written anew")]
    Rewritten {
        /// Its place.
        entry: u64,
    },
    /// It is of another ledger.
    #[error("checkpoint {entry} is of host {host_id}, and the ledger of another one")]
    OtherHost {
        /// Its place.
        entry: u64,
        /// Of which.
        host_id: String,
    },
}

impl AnchorFlaw {
    /// The place of the checkpoint.
    pub fn entry(&self) -> u64 {
        match self {
            Self::Truncated { entry, .. }
            | Self::Rewritten { entry }
            | Self::OtherHost { entry, .. } => *entry,
        }
    }
}

impl Anchors {
    /// Takes every checkpoint in this text; answers how many.
    pub fn add(&mut self, mut source: impl BufRead) -> io::Result<u64> {
        let before = self.count;
        let mut line = Vec::new();
        loop {
            line.clear();
            let limit = MAX_LINE as u64;
            let read = io::Read::take(&mut source, limit).read_until(b'\n', &mut line)?;
            if read == 0 {
                return Ok(self.count - before);
            }
            self.take(&line);
        }
    }

    fn take(&mut self, line: &[u8]) {
        // In a string of another object: nothing in an entry has to be escaped but the quotes.
        let line: Vec<u8> = line.iter().copied().filter(|byte| *byte != b'\\').collect();
        for start in memmem::find_iter(&line, START) {
            let rest = line.get(start..).unwrap_or_default();
            let Some(end) = memchr::memchr(b'}', rest) else {
                continue;
            };
            let text = rest.get(..=end).unwrap_or_default();
            // One that does not hold by itself says nothing of the ledger.
            if let Ok(entry) = entry::parse(text)
                && matches!(entry.event, LedgerEvent::Checkpoint { .. })
            {
                let kept = (text.to_vec(), entry.host_id, false);
                self.kept.entry(entry.seq).or_default().push(kept);
                self.count += 1;
            }
        }
    }

    /// An entry that holds: compared with those that were kept of its place.
    pub(super) fn meet(&mut self, seq: u64, line: &[u8]) {
        for (text, _, met) in self.kept.get_mut(&seq).into_iter().flatten() {
            *met = text == line;
        }
    }

    /// Those that do not stand in the ledger, which was read.
    pub fn flaws(&self, ledger: &Contents) -> Vec<AnchorFlaw> {
        let unmet = self.kept.iter().flat_map(|(entry, kept)| {
            let unmet = kept.iter().filter(|(_, _, met)| !met);
            unmet.map(|(_, host_id, _)| (*entry, host_id))
        });
        unmet
            .map(|(entry, host_id)| {
                if ledger.host_id.as_ref().is_some_and(|own| own != host_id) {
                    let host_id = host_id.clone();
                    AnchorFlaw::OtherHost { entry, host_id }
                } else if entry > ledger.entries && ledger.broken.is_none() {
                    let last = ledger.entries;
                    AnchorFlaw::Truncated { entry, last }
                } else {
                    AnchorFlaw::Rewritten { entry }
                }
            })
            .collect()
    }
}
