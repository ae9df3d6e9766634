//! Reads a log line by line, however it was damaged: no line is trusted, none is kept beyond a cap.

use std::io::{self, BufRead, Read};

use memchr::memchr;

use super::record::AuditRecord;

/// The longest line that is read. Exceeds [`super::record::MAX_RECORD`], so that only a damaged file
/// has a longer one.
pub const MAX_LINE: usize = 1 << 20;

/// How a line ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// With a newline, as every record does.
    Newline,
    /// With the file: it was being written, or its rest was cut off.
    Cut,
    /// Not within [`MAX_LINE`] bytes. It is the last line that is read.
    TooLong,
}

/// One line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// Its number, from 1.
    pub number: u64,
    /// Where it begins in the file, in bytes.
    pub offset: u64,
    /// The line without its newline.
    pub bytes: &'a [u8],
    /// How it ended.
    pub ending: Ending,
}

/// The lines of a log, from its start.
#[derive(Debug)]
pub struct Lines<R> {
    source: R,
    /// How much of the source's buffer is the line last given out.
    given: usize,
    /// A line that did not lie in the source's buffer as a whole.
    pieces: Vec<u8>,
    number: u64,
    next_offset: u64,
    exhausted: bool,
}

impl<R: BufRead> Lines<R> {
    /// Reads from this source.
    pub fn new(source: R) -> Self {
        let (given, number, next_offset) = (0, 0, 0);
        Self {
            source,
            given,
            pieces: Vec::new(),
            number,
            next_offset,
            exhausted: false,
        }
    }

    /// The next line; `None` at the end.
    pub fn next_line(&mut self) -> io::Result<Option<Line<'_>>> {
        self.source.consume(std::mem::take(&mut self.given));
        if self.exhausted {
            return Ok(None);
        }
        let (number, offset) = (self.number + 1, self.next_offset);
        let whole = memchr(b'\n', self.source.fill_buf()?).filter(|length| *length <= MAX_LINE);
        if let Some(length) = whole {
            // Most lines lie in the buffer as a whole: no byte of them is copied.
            self.given = length + 1;
            (self.number, self.next_offset) = (number, offset + self.given as u64);
            let bytes = self.source.fill_buf()?.get(..length).unwrap_or_default();
            return Ok(Some(Line {
                number,
                offset,
                bytes,
                ending: Ending::Newline,
            }));
        }
        let ending = self.read_pieces()?;
        self.exhausted = ending != Ending::Newline;
        if ending == Ending::Cut && self.pieces.is_empty() {
            return Ok(None);
        }
        let bytes = self.pieces.as_slice();
        let newline = u64::from(ending == Ending::Newline);
        (self.number, self.next_offset) = (number, offset + bytes.len() as u64 + newline);
        Ok(Some(Line {
            number,
            offset,
            bytes,
            ending,
        }))
    }

    /// Collects a line that goes beyond the source's buffer.
    fn read_pieces(&mut self) -> io::Result<Ending> {
        self.pieces.clear();
        let cap = MAX_LINE as u64 + 1;
        let read = self
            .source
            .by_ref()
            .take(cap)
            .read_until(b'\n', &mut self.pieces)?;
        Ok(if self.pieces.pop_if(|byte| *byte == b'\n').is_some() {
            Ending::Newline
        } else if read > MAX_LINE {
            Ending::TooLong
        } else {
            Ending::Cut
        })
    }
}

/// Why a log could not be read as records.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file failed.
    #[error("{0}; check the disk and its file system")]
    Io(#[from] io::Error),
    /// A line is not a record.
    #[error(
        "record {number} at byte {offset} cannot be read: {error}; `portcullis audit verify` says \
         whether the log was changed"
    )]
    Record {
        /// Which, from 1.
        number: u64,
        /// Where it begins.
        offset: u64,
        /// What is wrong.
        error: serde_json::Error,
    },
}

impl Line<'_> {
    /// The record that stands here. `None`: a last line that is incomplete, as a log has it for a moment
    /// while it is written.
    pub fn record(&self) -> Result<Option<AuditRecord>, ReadError> {
        if self.ending == Ending::Cut {
            return Ok(None);
        }
        let record = serde_json::from_slice(self.bytes);
        record.map(Some).map_err(|error| ReadError::Record {
            number: self.number,
            offset: self.offset,
            error,
        })
    }
}
