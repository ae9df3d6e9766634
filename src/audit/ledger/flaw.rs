//! What can be wrong with an entry of the ledger.

use serde::Serialize;

/// An entry that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{}entry {entry}: {flaw}", in_file(file.as_deref()))]
pub struct BrokenEntry {
    /// Which, counted from 1 over all segments.
    pub entry: u64,
    /// In which file, where there are several or it is packed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// What is wrong with it.
    pub flaw: EntryFlaw,
}

fn in_file(file: Option<&str>) -> String {
    file.map_or_else(String::new, |file| format!("{file}: "))
}

/// What is wrong with an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum EntryFlaw {
    /// It is no entry.
    #[error("not an entry of this form")]
    NotAnEntry,
    /// Its bytes are not those that were sealed.
    #[error("hash does not match its content: it was changed")]
    Hash,
    /// Entries before it are missing, moved or doubled.
    #[error(
        "sequence is {found} where {expected} must stand: entries were removed, moved or added"
    )]
    Sequence {
        /// The number that must stand there.
        expected: u64,
        /// The number that stands there.
        found: u64,
    },
    /// It does not follow the entry before.
    #[error("does not follow the entry before it: one of the two was changed")]
    Prev,
    /// The file ends within it, and others follow.
    #[error("the file ends within it: it was cut off")]
    Truncated,
    /// The file in which it should stand is not there, and later ones are.
    #[error("this segment of the ledger is missing: it was removed")]
    SegmentMissing,
    /// The file is packed and does not unpack.
    #[error("cannot be unpacked: {0}")]
    Packing(String),
    /// It names another host than the first entry.
    #[error("names another host")]
    OtherHost,
    /// The first entry makes no key, or a later one makes another.
    #[error("a ledger begins with its first key, and has no other beginning")]
    Beginning,
    /// It is signed with a key that is not the ledger's.
    #[error("signed with another key than the one that was in use")]
    OtherKey,
    /// The signature does not hold.
    #[error("its signature does not hold: it was forged or changed")]
    Signature,
    /// The sessions' heads contradict one another.
    #[error("a log that had more records by then, or had ended")]
    Backwards,
    /// A segment that was removed contradicts what was said before.
    #[error(
        "removes a segment that does not follow the one removed before it, or is not as it was bound"
    )]
    Pruned,
}
