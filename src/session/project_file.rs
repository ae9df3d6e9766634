//! Finds the file of the project that a workspace belongs to.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::libc::{ELOOP, O_NOFOLLOW, O_NONBLOCK, S_IWGRP, S_IWOTH};
use nix::unistd::Uid;

use crate::policy::ProfileError;
use crate::policy::profile::{LayerText, PROJECT_FILE};

/// The longest file; a larger one is none.
const MAX_FILE: u64 = 1 << 20;

/// The file of a workspace: there, else in the closest folder above that has one. The search ends at a
/// folder that others than the caller and root can write: what lies there may be anybody's.
///
/// A folder of that name is none: another session's placeholder may be one. A link is refused: what it
/// leads to is not the project's.
pub(super) fn find(workspace: &Path, caller: Uid) -> Result<Option<LayerText>, ProfileError> {
    for (i, folder) in workspace.ancestors().enumerate() {
        if i > 0 && !is_kept(folder, caller) {
            break;
        }
        let file = folder.join(PROJECT_FILE);
        let place = file.display().to_string();
        let text = read(&file).map_err(|error| ProfileError::Load {
            profile: place.clone(),
            problem: format!("read it: {error}; mend or remove it"),
        })?;
        if let Some(text) = text {
            return Ok(Some(LayerText { text, place }));
        }
    }
    Ok(None)
}

/// Whether only the caller and root can put a file into a folder.
fn is_kept(folder: &Path, caller: Uid) -> bool {
    folder.metadata().is_ok_and(|metadata| {
        let owner = metadata.uid();
        let shared = metadata.mode() & (S_IWGRP | S_IWOTH) != 0;
        (owner == 0 || owner == caller.as_raw()) && !shared
    })
}

fn read(file: &Path) -> io::Result<Option<String>> {
    let opened = File::options()
        .read(true)
        // A link or a fifo that somebody left there is not waited for.
        .custom_flags(O_NOFOLLOW | O_NONBLOCK)
        .open(file);
    let mut open = match opened {
        Ok(open) => open,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(ELOOP) => {
            return Err(io::Error::other("is a link"));
        }
        Err(error) => return Err(error),
    };
    let metadata = open.metadata()?;
    if metadata.is_dir() {
        return Ok(None);
    }
    if !metadata.is_file() {
        return Err(io::Error::other("is no file"));
    }
    let mut text = String::new();
    (&mut open).take(MAX_FILE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(io::Error::other("longer than 1 MiB"));
    }
    Ok(Some(text))
}
