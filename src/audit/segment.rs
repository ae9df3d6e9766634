//! The segments of a session's log: files that follow one another, so that a long log can be kept and
//! dropped in parts.
//!
//! The first is `<session>.jsonl`, the next `<session>.0002.jsonl` and so on; a closed one may be packed
//! (zstd, RFC 8878), which its name shows: `<session>.0002.jsonl.zst`. The chain goes on over the border:
//! the first record of a segment names the last one of the segment before.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader};

use super::reader::Lines;
use crate::ids::SessionId;

/// What follows a session's identifier and the segment's number.
const PLAIN: &str = ".jsonl";

/// What follows in the name of a packed segment.
const PACKED: &str = ".jsonl.zst";

/// How much of a file is read at a time.
const BUFFER: usize = 256 << 10;

/// Where segments are read from: a folder, or whoever opens them for us.
pub trait SegmentStore {
    /// The segments of a session's log, in their order; as they were not long ago, where that is cheaper.
    fn list(&self, session: SessionId) -> io::Result<Vec<SegmentName>>;

    /// The same as they are now.
    fn list_now(&self, session: SessionId) -> io::Result<Vec<SegmentName>> {
        self.list(session)
    }

    /// Opens one to read.
    fn open(&self, segment: SegmentName) -> io::Result<File>;
}

/// Which file of which log. Ordered: a session's segments in the order of its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    /// Whose log.
    pub session: SessionId,
    /// Which part of it, from 1.
    pub number: u32,
    /// Whether it is packed. Only closed segments are.
    pub packed: bool,
}

impl SegmentName {
    /// The segment that a log begins with.
    pub fn first(session: SessionId) -> Self {
        Self {
            session,
            number: 1,
            packed: false,
        }
    }

    /// The segment whose file has this name.
    pub fn parse(file_name: &str) -> Option<Self> {
        let (stem, number, packed) = parts(file_name)?;
        let name = Self {
            session: stem.parse().ok()?,
            number,
            packed,
        };
        (name.file_name() == file_name).then_some(name)
    }

    /// The name of its file.
    pub fn file_name(self) -> String {
        file_name(self.session, self.number, self.packed)
    }

    /// Its lines, from its open file. Offsets are those of the plain text.
    pub fn lines(self, file: File) -> io::Result<Lines<Box<dyn BufRead + Send>>> {
        lines(file, self.packed)
    }
}

/// The name of the file of a segment of what is called `stem`.
pub(super) fn file_name(stem: impl fmt::Display, number: u32, packed: bool) -> String {
    let suffix = if packed { PACKED } else { PLAIN };
    match number {
        1 => format!("{stem}{suffix}"),
        _ => format!("{stem}.{number:04}{suffix}"),
    }
}

/// What a file's name says: the stem, the number, and whether it is packed. One spelling only counts, or one segment
/// could have two files.
pub(super) fn parts(name: &str) -> Option<(&str, u32, bool)> {
    let (rest, packed) = match name.strip_suffix(PACKED) {
        Some(rest) => (rest, true),
        None => (name.strip_suffix(PLAIN)?, false),
    };
    let (stem, number) = match rest.split_once('.') {
        Some((stem, number)) => (stem, number.parse().ok()?),
        None => (rest, 1),
    };
    (number > 0 && file_name(stem, number, packed) == name).then_some((stem, number, packed))
}

/// The lines of a segment's open file.
pub(super) fn lines(file: File, packed: bool) -> io::Result<Lines<Box<dyn BufRead + Send>>> {
    Ok(Lines::new(if packed {
        let plain = zstd::Decoder::new(file)?;
        Box::new(BufReader::with_capacity(BUFFER, plain))
    } else {
        Box::new(BufReader::with_capacity(BUFFER, file))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_segment_has_one_name() {
        let session: SessionId = "0192f0c1a2b37c4d8e5f60718293a4b5".parse().unwrap();
        for (number, packed, name) in [
            (1, false, "0192f0c1a2b37c4d8e5f60718293a4b5.jsonl"),
            (2, false, "0192f0c1a2b37c4d8e5f60718293a4b5.0002.jsonl"),
            (1, true, "0192f0c1a2b37c4d8e5f60718293a4b5.jsonl.zst"),
            (
                10_000,
                true,
                "0192f0c1a2b37c4d8e5f60718293a4b5.10000.jsonl.zst",
            ),
        ] {
            let segment = SegmentName {
                session,
                number,
                packed,
            };
            assert_eq!(segment.file_name(), name);
            assert_eq!(SegmentName::parse(name), Some(segment));
        }
        for bad in [
            "0192f0c1a2b37c4d8e5f60718293a4b5.0001.jsonl",
            "0192f0c1a2b37c4d8e5f60718293a4b5.2.jsonl",
            "0192f0c1a2b37c4d8e5f60718293a4b5.0000.jsonl",
            "0192F0C1A2B37C4D8E5F60718293A4B5.jsonl",
            "notes.jsonl",
            ".jsonl",
        ] {
            assert_eq!(SegmentName::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_packed_segment_reads_as_the_plain_one() {
        let base = tempfile::tempdir().unwrap();
        let (plain, packed) = (base.path().join("plain"), base.path().join("packed"));
        std::fs::write(&plain, "one\ntwo\n").unwrap();
        std::fs::write(&packed, zstd::encode_all(&b"one\ntwo\n"[..], 0).unwrap()).unwrap();
        let name = SegmentName::first(SessionId::generate());
        let read = |path, packed| {
            let mut lines = SegmentName { packed, ..name }
                .lines(File::open(path).unwrap())
                .unwrap();
            let mut all = Vec::new();
            while let Some(line) = lines.next_line().unwrap() {
                all.push((line.offset, line.bytes.to_vec()));
            }
            all
        };
        assert_eq!(read(plain, false), read(packed, true));
    }
}
