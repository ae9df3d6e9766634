//! How far a sink has got: a place a log, in a file that is replaced as a whole.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::audit::ChainHash;

/// A place in a log: everything before it was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The segment.
    pub segment: u32,
    /// Bytes of its plain text.
    pub offset: u64,
    /// The last record before it.
    pub seq: u64,
    /// That one's hash; `None`: no record of the chain is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<ChainHash>,
    /// Whether it was the session's last.
    #[serde(default)]
    pub ended: bool,
    /// Whether a record before it did not hold.
    #[serde(default)]
    pub broken: bool,
}

impl Default for Place {
    fn default() -> Self {
        Self {
            segment: 1,
            offset: 0,
            seq: 0,
            head: None,
            ended: false,
            broken: false,
        }
    }
}

/// A place for each log, by the log's key.
pub type Places = BTreeMap<String, Place>;

/// What the file holds.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Saved {
    v: u8,
    /// Bytes that were not sent when it was saved.
    lag_bytes: u64,
    places: Places,
}

/// The file.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    /// Held while we run: two would send everything twice.
    _lock: File,
}

impl StateFile {
    /// Opens the state of the sink of this name in a folder, and reads it.
    pub fn open(folder: &Path, name: &str) -> io::Result<(Self, Places)> {
        let path = folder.join(format!("{name}.json"));
        let mut options = OpenOptions::new();
        let options = options.create(true).truncate(false).write(true).mode(0o600);
        let lock = options.open(folder.join(format!("{name}.lock")))?;
        crate::audit::lock::hold(&lock)
            .map_err(|_| io::Error::other("another `audit forward` runs with this state"))?;
        let places = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice::<Saved>(&bytes)?.places,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Places::new(),
            Err(error) => return Err(error),
        };
        Ok((Self { path, _lock: lock }, places))
    }

    /// Replaces what it holds; after a power cut the old or the new stands there.
    pub fn save(&self, places: &Places, lag_bytes: u64) -> io::Result<()> {
        let places = places.clone();
        let saved = Saved {
            v: 1,
            lag_bytes,
            places,
        };
        let temporary = self.path.with_extension("new");
        let mut options = OpenOptions::new();
        let options = options.create(true).truncate(true).write(true).mode(0o600);
        let mut file = options.open(&temporary)?;
        file.write_all(&serde_json::to_vec(&saved)?)?;
        file.sync_all()?;
        fs::rename(&temporary, &self.path)?;
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        File::open(folder)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_back_and_only_one_process_has_them() {
        let folder = tempfile::tempdir().unwrap();
        let (state, places) = StateFile::open(folder.path(), "siem").unwrap();
        assert_eq!(places, Places::new());
        let place = Place {
            segment: 2,
            offset: 7,
            ..Place::default()
        };
        let places = Places::from([("./a".to_owned(), place)]);
        state.save(&places, 3).unwrap();
        assert!(StateFile::open(folder.path(), "siem").is_err());
        drop(state);
        assert_eq!(StateFile::open(folder.path(), "siem").unwrap().1, places);
    }
}
