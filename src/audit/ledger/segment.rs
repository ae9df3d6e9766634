//! The segments of the ledger: files that follow one another, named as those of a log are.
//!
//! The first is `ledger.jsonl`, the next `ledger.0002.jsonl` and so on; a closed one may be packed (`….zst`). The
//! chain goes on over the border. None is ever removed by us: the numbers begin with 1 and have no gap.

use std::fs::File;
use std::io::{self, BufRead};
use std::os::fd::AsFd;

use rustix::fs::{FileType, Mode, OFlags};

use crate::audit::reader::Lines;
use crate::audit::segment;

/// What the names of all segments begin with.
const STEM: &str = "ledger";

/// Which file of the ledger. Ordered as their entries are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LedgerSegment {
    /// Which part of it, from 1.
    pub number: u32,
    /// Whether it is packed. Only closed segments are.
    pub packed: bool,
}

impl LedgerSegment {
    /// The plain one of this number.
    pub fn plain(number: u32) -> Self {
        let packed = false;
        Self { number, packed }
    }

    /// The same, packed or not.
    #[must_use]
    pub fn twin(self) -> Self {
        let packed = !self.packed;
        Self { packed, ..self }
    }

    /// The segment whose file has this name.
    pub fn parse(file_name: &str) -> Option<Self> {
        let (stem, number, packed) = segment::parts(file_name)?;
        (stem == STEM).then_some(Self { number, packed })
    }

    /// The name of its file.
    pub fn file_name(self) -> String {
        segment::file_name(STEM, self.number, self.packed)
    }

    /// Its lines, from its open file.
    pub fn lines(self, file: File) -> io::Result<Lines<Box<dyn BufRead + Send>>> {
        segment::lines(file, self.packed)
    }

    /// Opens it to read. Only a regular file in this very folder is one.
    pub fn open(self, folder: impl AsFd) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        regular(rustix::fs::openat(folder, self.file_name(), flags, Mode::empty())?.into())
    }

    /// Opens it, or its twin where it was packed since it was listed.
    pub fn open_either(self, folder: impl AsFd) -> io::Result<(Self, File)> {
        match self.open(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let file = self.twin().open(folder).map_err(|_| error)?;
                Ok((self.twin(), file))
            }
            opened => Ok((self, opened?)),
        }
    }
}

/// The segments in this folder, in their order. Of one that is there plain and packed, as it is for a moment while it is
/// packed, the plain one.
pub fn list(folder: impl AsFd) -> io::Result<Vec<LedgerSegment>> {
    let mut segments = Vec::new();
    for entry in rustix::fs::Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_str().ok();
        segments.extend(name.and_then(LedgerSegment::parse));
    }
    segments.sort_unstable();
    segments.dedup_by_key(|segment| segment.number);
    Ok(segments)
}

/// A pipe or a folder is no segment.
pub(super) fn regular(file: File) -> io::Result<File> {
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode);
    if kind != FileType::RegularFile {
        return Err(io::Error::other("not a regular file"));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_listed_in_their_order_and_nothing_else_is() {
        let base = tempfile::tempdir().unwrap();
        for name in [
            "ledger.0010.jsonl",
            "ledger.0002.jsonl.zst",
            "ledger.jsonl.zst",
            "ledger.jsonl",
            "ledger.2.jsonl",
            "ledger.0001.jsonl",
            "ledger.0003.jsonl.zst.new",
            "key",
            "0192f0c1a2b37c4d8e5f60718293a4b5.jsonl",
        ] {
            std::fs::write(base.path().join(name), "").unwrap();
        }
        let listed = list(File::open(base.path()).unwrap()).unwrap();
        let names: Vec<_> = listed.iter().map(|one| one.file_name()).collect();
        assert_eq!(
            names,
            ["ledger.jsonl", "ledger.0002.jsonl.zst", "ledger.0010.jsonl"]
        );
    }
}
