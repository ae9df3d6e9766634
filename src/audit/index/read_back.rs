//! Records, read where the index says that they stand, and believed only if their hash is right.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use super::build::Segment;
use super::page::Row;
use super::{Found, Source, Trouble};
use crate::audit::chain::ChainHash;
use crate::audit::facts::Facts;
use crate::audit::filter::Filter;
use crate::audit::reader::MAX_LINE;
use crate::audit::record::SealedLine;
use crate::audit::segment::SegmentName;

/// How much is read at first: most records are shorter.
const USUAL: usize = 4 << 10;

/// The most bytes of packed segments that are kept unpacked for the next record.
const UNPACKED: usize = 256 << 20;

/// The most files that are kept open.
const OPEN: usize = 256;

/// The line of a plain file that begins here. `None`: none does.
fn line_at(file: &File, offset: u64) -> io::Result<Option<Vec<u8>>> {
    let mut line = vec![0; USUAL];
    let mut length = 0;
    loop {
        let part = line.get_mut(length..).unwrap_or_default();
        let read = match file.read_at(part, offset.saturating_add(length as u64)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        let new = part.get(..read).unwrap_or_default();
        if let Some(end) = memchr::memchr(b'\n', new) {
            line.truncate(length + end);
            return Ok(Some(line));
        }
        length += read;
        if read == 0 || length > MAX_LINE {
            return Ok(None);
        }
        line.resize((length * 2).max(USUAL), 0);
    }
}

/// The line of a segment that begins here. `None`: none does.
pub(super) fn line_of(name: SegmentName, file: &File, offset: u64) -> io::Result<Option<Vec<u8>>> {
    if !name.packed {
        return line_at(file, offset);
    }
    let mut lines = name.lines(file.try_clone()?)?;
    while let Some(line) = lines.next_line()? {
        if line.offset >= offset {
            return Ok((line.offset == offset).then(|| line.bytes.to_vec()));
        }
    }
    Ok(None)
}

/// A record whose hash is that of its content.
pub(super) fn sealed(line: &[u8]) -> Option<SealedLine<'_>> {
    let sealed = SealedLine::parse(line)?;
    let prev = String::from_utf8_lossy(sealed.prev).into_owned();
    let hash = ChainHash::try_from(prev).ok()?.follow(sealed.open_record);
    (hash.to_hex() == *sealed.hash).then_some(sealed)
}

/// Reads records back, and keeps files open meanwhile.
pub(super) struct Reader<'a, S> {
    source: &'a S,
    segments: BTreeMap<u64, &'a Segment>,
    files: BTreeMap<u64, Opened>,
    unpacked: usize,
}

enum Opened {
    Plain(File),
    Unpacked(Vec<u8>),
}

impl<'a, S: Source> Reader<'a, S> {
    pub(super) fn new(source: &'a S, segments: impl Iterator<Item = &'a Segment>) -> Self {
        Self {
            source,
            segments: segments.map(|segment| (segment.id, segment)).collect(),
            files: BTreeMap::new(),
            unpacked: 0,
        }
    }

    /// The record of a row, if the filter takes it. A row that speaks of no such record is a lie of the
    /// index's; and one that the filter does not take, where the index is `exact`.
    pub(super) fn read(
        &mut self,
        row: &Row,
        filter: &Filter,
        mut exact: bool,
    ) -> Result<Option<Found>, Trouble> {
        let lies = || Trouble::disagrees("it names a place where no such record stands");
        let (name, line) = self.line(row.segment, row.offset)?;
        let session = name.session;
        let is_of_session = |line: &[u8]| {
            sealed(line).is_some_and(|sealed| *sealed.session == *session.to_string().as_bytes())
        };
        if !is_of_session(&line) {
            return Err(lies());
        }
        let about = match row.about {
            None => None,
            // Pruned: nobody can say any more what it goes back to.
            Some((segment, _))
                if self
                    .segments
                    .get(&segment)
                    .is_some_and(|known| known.gone()) =>
            {
                exact = false;
                None
            }
            Some((segment, offset)) => {
                let (other, line) = self.line(segment, offset)?;
                if other.session != session || !is_of_session(&line) {
                    return Err(lies());
                }
                Some(line)
            }
        };
        let found = Found {
            session,
            line,
            about,
        };
        let facts = found.facts().ok_or_else(lies)?;
        if facts.at.as_microsecond() != row.at {
            return Err(lies());
        }
        let taken = filter.takes(session, &facts);
        if !taken && exact {
            return Err(lies());
        }
        drop(facts);
        Ok(taken.then_some(found))
    }

    fn line(&mut self, segment: u64, offset: u64) -> Result<(SegmentName, Vec<u8>), Trouble> {
        let lies = || Trouble::disagrees("it names a place where no record stands");
        let name = self.segments.get(&segment).ok_or_else(lies)?.name;
        let failed = |error| Trouble::Log(name, error);
        if !self.files.contains_key(&segment) {
            self.open(segment, name).map_err(failed)?;
        }
        let line = match self.files.get(&segment).ok_or_else(lies)? {
            Opened::Plain(file) => line_at(file, offset).map_err(failed)?,
            Opened::Unpacked(text) => usize::try_from(offset)
                .ok()
                .and_then(|offset| text.get(offset..))
                .and_then(|rest| rest.get(..memchr::memchr(b'\n', rest)?))
                .map(<[u8]>::to_vec),
        };
        Ok((name, line.ok_or_else(lies)?))
    }

    fn open(&mut self, segment: u64, name: SegmentName) -> io::Result<()> {
        if self.files.len() >= OPEN || self.unpacked > UNPACKED {
            self.files.clear();
            self.unpacked = 0;
        }
        let file = self.source.open(name)?;
        let opened = if name.packed {
            let mut text = Vec::new();
            zstd::Decoder::new(file)?
                .take(8 * UNPACKED as u64)
                .read_to_end(&mut text)?;
            self.unpacked += text.len();
            Opened::Unpacked(text)
        } else {
            Opened::Plain(file)
        };
        self.files.insert(segment, opened);
        Ok(())
    }
}

impl Found {
    /// What it says, with what it goes back to.
    pub fn facts(&self) -> Option<Facts<'_>> {
        let mut facts = Facts::read(&self.line)?;
        if let Some(line) = &self.about {
            let earlier = Facts::read(line)?;
            if earlier.begins().is_none() || earlier.begins() != facts.goes_back_to() {
                return None;
            }
            facts.about.complete(&earlier.about);
        }
        Some(facts)
    }
}
