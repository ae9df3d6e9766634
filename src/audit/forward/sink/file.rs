//! Lines appended to a file, on the disk before they count.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::super::source::Item;
use super::SinkError;

/// The file.
pub(in super::super) struct Append {
    path: PathBuf,
}

impl Append {
    pub(super) fn new(path: &Path) -> Self {
        let path = path.to_owned();
        Self { path }
    }

    /// Opened anew each time: a file that was rotated, or a mount that came back, is the right one again.
    pub(super) fn send(&self, items: &[Item]) -> Result<(), SinkError> {
        let mut options = OpenOptions::new();
        let mut file: File = options
            .append(true)
            .create(true)
            .mode(0o640)
            .open(&self.path)?;
        let mut lines = String::new();
        for item in items {
            lines.push_str(&item.text);
            lines.push('\n');
        }
        file.write_all(lines.as_bytes())?;
        Ok(file.sync_all()?)
    }
}
