//! Why nothing was appended to the ledger.

use std::io;
use std::path::PathBuf;

use super::key::KeyError;

/// Why nothing was appended. One line with cause and cure.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The file or its folder failed.
    #[error("audit ledger {}: {error}; check its folder, and the disk", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The key is of no use.
    #[error("audit ledger {}: its key: {error}", path.display())]
    Key {
        /// Where.
        path: PathBuf,
        /// Why.
        error: KeyError,
    },
    /// The end of the ledger cannot be continued.
    #[error(
        "audit ledger {}: {why}; it is not continued: see portcullis audit verify, and move its folder away to begin \
         another",
        path.display()
    )]
    NotContinued {
        /// Where.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Somebody else has the lock.
    #[error("audit ledger {}: somebody else is writing it; try again", path.display())]
    Busy {
        /// Where.
        path: PathBuf,
    },
}
