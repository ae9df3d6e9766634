//! Packs closed segments of the ledger. None is ever removed: what was signed is what all else is held to.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use super::inventory::{modified, now};
use super::pack::{Packed, pack_ledger};
use crate::audit::ledger::segment::{LedgerSegment, list};
use crate::audit::ledger::{Ledger, LedgerError};

/// How long the lock of the ledger is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was done with a segment.
#[derive(Debug)]
pub struct Closed {
    /// Which.
    pub segment: LedgerSegment,
    /// Bytes of the plain file.
    pub bytes: u64,
    /// What packing came to; `None`: it was a dry run.
    pub packed: Option<io::Result<Packed>>,
}

/// Why nothing more was packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// Its files.
    #[error("audit ledger {0}: {1}; nothing more of it was packed")]
    Io(String, io::Error),
    /// What is closed cannot be told.
    #[error("{0}; nothing of it was packed")]
    Ledger(#[from] LedgerError),
}

/// Packs the closed segments in this folder that were last written longer ago than this, of a ledger that holds. Without
/// the ledger to be asked it is only said which would be.
pub fn pack_closed(
    folder: &Path,
    ledger: Option<&Ledger>,
    after: Duration,
    tell: &mut dyn FnMut(Closed),
) -> Result<(), PackError> {
    let failed = |error| PackError::Io(folder.display().to_string(), error);
    let opened = File::open(folder).map_err(failed)?;
    let closed = if let Some(ledger) = ledger {
        ledger.closed(PATIENCE)?
    } else {
        let mut all = list(&opened).map_err(failed)?;
        all.pop();
        all.retain(|segment| !segment.packed);
        all
    };
    for segment in closed {
        let metadata = segment.open(&opened).and_then(|file| file.metadata());
        let metadata = metadata.map_err(failed)?;
        if now().saturating_sub(modified(&metadata)) <= after {
            continue;
        }
        tell(Closed {
            segment,
            bytes: metadata.size(),
            packed: ledger.map(|_| pack_ledger(&opened, segment)),
        });
    }
    Ok(())
}
