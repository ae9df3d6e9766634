//! The files of a group: short texts, read and written whole.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

/// The most that is read of one.
const MAX: u64 = 64 << 10;

/// Opens a file of a group, to read it or to write it.
pub(super) fn open(folder: impl AsFd, file: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    openat(folder, file, flags | OFlags::CLOEXEC, Mode::empty())
}

/// Its text.
pub(super) fn text(folder: impl AsFd, file: &str) -> Result<String, Errno> {
    let mut text = String::new();
    let file = File::from(open(folder, file, OFlags::RDONLY)?);
    file.take(MAX)
        .read_to_string(&mut text)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::INVAL))?;
    Ok(text)
}

/// Writes a text, in one call: the kernel takes each call for a whole.
pub(super) fn put(folder: impl AsFd, file: &str, text: &str) -> Result<(), Errno> {
    let file = open(folder, file, OFlags::WRONLY)?;
    rustix::io::write(file, text.as_bytes()).map(drop)
}
