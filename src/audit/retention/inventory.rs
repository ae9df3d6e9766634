//! What a folder of logs holds: every segment with its size, its age and whether it can still change.

use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

use crate::audit::folder::LogFolder;
use crate::audit::lock;
use crate::audit::segment::SegmentName;

/// A segment as it lies in the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Which.
    pub name: SegmentName,
    /// What it takes on the disk's account: the bytes of its file.
    pub bytes: u64,
    /// When it was last written, since the epoch.
    pub modified: Duration,
    /// Whether nothing is appended to it any more: another follows, or no writer holds it.
    pub closed: bool,
}

/// A segment could not be looked at.
#[derive(Debug, thiserror::Error)]
#[error("{}: {error}; nothing was removed", file)]
pub struct InventoryError {
    file: String,
    error: std::io::Error,
}

/// Looks at every segment of a folder, in their order.
pub fn inventory(folder: &LogFolder) -> Result<Vec<Stored>, InventoryError> {
    let path = folder.path().display();
    let failed = |file: String| move |error| InventoryError { file, error };
    let names = folder.all_segments().map_err(|error| InventoryError {
        file: path.to_string(),
        error: std::io::Error::other(error),
    })?;
    let mut stored: Vec<Stored> = Vec::with_capacity(names.len());
    for name in names {
        let shown = || format!("{path}/{}", name.file_name());
        let file = match folder.open_segment(name) {
            Ok(file) => file,
            // Somebody else removed it meanwhile.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed(shown())(error)),
        };
        let held = lock::is_held(&file).map_err(failed(shown()))?;
        let metadata = file.metadata().map_err(failed(shown()))?;
        stored.push(Stored {
            name,
            bytes: metadata.size(),
            modified: modified(&metadata),
            closed: !held,
        });
    }
    Ok(stored)
}

/// When a file was last written, since the epoch.
pub(super) fn modified(metadata: &std::fs::Metadata) -> Duration {
    let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    let since = modified.duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default()
}

/// The time now, since the epoch.
pub fn now() -> Duration {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default()
}
