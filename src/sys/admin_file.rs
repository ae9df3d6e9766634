//! Files of the host's admin. They bind others, so they count only where nobody else can write them.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::libc::{S_IWGRP, S_IWOTH};

use crate::sys::userns;

/// The longest file; a larger one is none.
const MAX_FILE: u64 = 1 << 20;

/// Opens a file of the admin's; `None`: there is none. The error is one line.
///
/// The file and its folder belong to root, and nobody else can write them. The file is asked after it
/// was opened; a folder that only root can change holds no other by the time it is asked. In a namespace that
/// root made, others show under root's number as well: the folder is below `/etc`.
pub fn open(file: &Path) -> Result<Option<File>, String> {
    let told = |error: io::Error| format!("read {}: {error}", file.display());
    let open = match File::open(file) {
        Ok(open) => open,
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(told(error)),
    };
    let folder = file.parent().unwrap_or(file);
    let root = userns::uid_of_root().map_err(told)?;
    let folder_metadata = folder.metadata().map_err(told)?;
    for (path, metadata) in [
        (folder, folder_metadata),
        (file, open.metadata().map_err(told)?),
    ] {
        if metadata.uid() != root || metadata.mode() & (S_IWGRP | S_IWOTH) != 0 {
            return Err(format!(
                "{}: others than root can write it, so it does not count as the admin's; \
                 chown root and chmod go-w it",
                path.display()
            ));
        }
    }
    Ok(Some(open))
}

/// Reads a file of the admin's; as [`open`].
pub fn read(file: &Path) -> Result<Option<String>, String> {
    let told = |error: io::Error| format!("read {}: {error}", file.display());
    let Some(open) = open(file)? else {
        return Ok(None);
    };
    text(open).map(Some).map_err(told)
}

/// What an open file says, if it is not too long.
pub fn text(file: File) -> io::Result<String> {
    let mut text = String::new();
    file.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(io::Error::other("longer than 1 MiB"));
    }
    Ok(text)
}

/// Whether nothing is there. A folder that may not be searched hides the admin's word: that is an error.
fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}
