//! Bodies that are kept beside the logs: `bodies/<sha256>`, named by the hash of what is in them, so that one that
//! came twice is kept once and one that was changed shows it.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The folder, within the folder of logs.
pub const FOLDER: &str = "bodies";

/// The longest body that is kept, in bytes: what a profile may ask for at most.
pub const LONGEST: usize = 1 << 20;

/// How many names a body may have.
const PLACES: u8 = 8;

/// How large all bodies of a session may be together, in bytes.
pub const ALL: u64 = 256 << 20;

/// The name of the file that holds these bytes.
pub fn name(content: &[u8]) -> String {
    let mut name = String::with_capacity(64);
    for byte in Sha256::digest(content) {
        // Writing to a string cannot fail.
        write!(name, "{byte:02x}").ok();
    }
    name
}

/// Makes the folder where it is missing, and opens it.
pub fn open_or_create(logs: impl AsFd) -> io::Result<OwnedFd> {
    match rustix::fs::mkdirat(&logs, FOLDER, Mode::RWXU | Mode::RGRP | Mode::XGRP) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    open_folder(logs)
}

/// Reads a kept body and holds it against its name.
pub fn read(logs: impl AsFd, sha256: &str) -> io::Result<Vec<u8>> {
    let folder = open_folder(logs)?;
    read_by(sha256, |place| {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let name = place.file_name();
        Ok(rustix::fs::openat(&folder, name, flags, Mode::empty())?)
    })
}

/// The same of one whose files somebody else opens.
pub fn read_by(
    sha256: &str,
    open: impl Fn(&BodyPlace) -> io::Result<OwnedFd>,
) -> io::Result<Vec<u8>> {
    let places =
        BodyPlace::all(sha256).ok_or_else(|| io::Error::other("its name is no SHA-256"))?;
    let mut changed = false;
    for place in places {
        match open(&place).and_then(|fd| content(fd.into())) {
            Ok(content) if name(&content) == sha256 => return Ok(content),
            // Its writer died over it, or somebody changed it.
            Ok(_) => changed = true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => return Err(error),
        }
    }
    Err(if changed {
        io::Error::other("it is not what was kept: its hash is another")
    } else {
        io::ErrorKind::NotFound.into()
    })
}

/// One of the files in which a body may stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BodyPlace {
    /// The hash of the body, 64 lower-case hex digits.
    sha256: String,
    /// Which, from 0; below [`PLACES`].
    number: u8,
}

impl BodyPlace {
    /// All of them, in the order in which they are tried. `None`: this is no hash.
    fn all(sha256: &str) -> Option<impl Iterator<Item = Self>> {
        let all = (0..PLACES).map(|number| Self {
            sha256: sha256.to_owned(),
            number,
        });
        let first = all.clone().next()?;
        first.is_one().then_some(all)
    }

    /// Whether it is one: it may have come from anybody.
    pub fn is_one(&self) -> bool {
        let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        self.sha256.len() == 64 && self.sha256.bytes().all(hex) && self.number < PLACES
    }

    /// Its name, within [`FOLDER`].
    pub fn file_name(&self) -> String {
        match self.number {
            0 => self.sha256.clone(),
            number => format!("{}.{number}", self.sha256),
        }
    }
}

/// The names under which a body may stand, in the order in which they are tried: where a writer died over one, the
/// next has it.
pub fn places(sha256: &str) -> impl Iterator<Item = String> {
    let place = |number| BodyPlace {
        sha256: sha256.to_owned(),
        number,
    };
    (0..PLACES).map(move |number| place(number).file_name())
}

fn content(file: File) -> io::Result<Vec<u8>> {
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode);
    if kind != FileType::RegularFile {
        return Err(io::Error::other("not a regular file"));
    }
    let mut content = Vec::new();
    file.take(LONGEST as u64 + 1).read_to_end(&mut content)?;
    Ok(content)
}

fn open_folder(logs: impl AsFd) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    Ok(rustix::fs::openat(logs, FOLDER, flags, Mode::empty())?)
}
