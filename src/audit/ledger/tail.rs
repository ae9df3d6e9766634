//! What an appender must know, which stands at the end of the ledger: the last entry and, at most a batch before it,
//! the key that signs. Read is a part of the newest segment and, where that was only begun, of the one before.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::entry::{self, Entry, LedgerEvent};
use super::key::PublicKey;
use super::newest::Newest;
use crate::audit::chain::ChainHash;

/// How much of the end is looked at, the second and third where the one before did not hold a key.
const WINDOWS: [u64; 3] = [8 << 10, 128 << 10, 4 << 20];

/// The end of the ledger.
#[derive(Debug)]
pub(super) struct Tail {
    pub(super) host_id: String,
    pub(super) seq: u64,
    pub(super) head: ChainHash,
    /// The key that signs; `None`: the ledger is empty.
    pub(super) key: Option<PublicKey>,
    /// When the last entry of the newest segment was made; `None`: that has none.
    pub(super) ts: Option<String>,
    /// Where the next line begins in that one. What stands there is cut off.
    pub(super) length: u64,
    pub(super) size: u64,
    /// Whether that one says by itself how it goes on, so that those before are needed by nobody who appends.
    pub(super) settled: bool,
}

/// Why there is none.
#[derive(Debug)]
pub(super) enum TailError {
    Io(io::Error),
    NotContinued(&'static str),
}

impl From<io::Error> for TailError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// The end of one segment.
#[derive(Debug, Default)]
struct End {
    last: Option<Entry>,
    key: Option<PublicKey>,
    length: u64,
    size: u64,
}

impl Tail {
    /// Reads it, under the lock. `host_id` begins a ledger that is empty.
    pub(super) fn read(newest: &Newest, host_id: &str) -> Result<Self, TailError> {
        let own = End::read(&newest.file)?;
        let settled = own.last.is_some() && own.key.is_some();
        let earlier = match &newest.before {
            Some(before) if !settled => End::read(before)?,
            _ => End::default(),
        };
        if earlier.length != earlier.size {
            return Err(TailError::NotContinued(
                "the segment before its last one was changed",
            ));
        }
        let ts = own.last.as_ref().map(|last| last.ts.clone());
        let (length, size) = (own.length, own.size);
        let key = own.key.or(earlier.key);
        let (host_id, seq, head) = match own.last.or(earlier.last) {
            Some(last) if key.is_some() => (last.host_id, last.seq, last.hash),
            None if newest.number == 1 => (host_id.to_owned(), 0, entry::genesis(host_id)),
            _ => {
                return Err(TailError::NotContinued(
                    "no key and no checkpoint stands at its end",
                ));
            }
        };
        Ok(Self {
            host_id,
            seq,
            head,
            key,
            ts,
            length,
            size,
            settled,
        })
    }
}

impl End {
    fn read(file: &File) -> Result<Self, TailError> {
        let stat = rustix::fs::fstat(file).map_err(io::Error::from)?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        for window in WINDOWS {
            let from = size.saturating_sub(window);
            let text = from_to(file, from, size)?;
            let whole = memchr::memrchr(b'\n', &text).map_or(0, |newline| newline + 1);
            let lines = text.get(..whole).unwrap_or_default();
            let length = from + whole as u64;
            let (last, key) = last_and_key(lines, from == 0)?;
            if key.is_some() || from == 0 {
                return Ok(Self {
                    last,
                    key,
                    length,
                    size,
                });
            }
        }
        Err(TailError::NotContinued(
            "no key and no checkpoint stands at its end",
        ))
    }
}

/// The last entry of these lines and the key that signs, as far as they hold them.
fn last_and_key(
    lines: &[u8],
    from_start: bool,
) -> Result<(Option<Entry>, Option<PublicKey>), TailError> {
    let mut last = None;
    let Some(lines) = lines.strip_suffix(b"\n") else {
        return Ok((None, None));
    };
    let count = lines.split(|byte| *byte == b'\n').count();
    for (place, line) in lines.rsplit(|byte| *byte == b'\n').enumerate() {
        if place + 1 == count && !from_start {
            // The first one is a part of a line.
            break;
        }
        let entry = entry::parse(line)
            .map_err(|_| TailError::NotContinued("an entry at its end was changed"))?;
        let key = match &entry.event {
            LedgerEvent::KeyCreated { key } | LedgerEvent::Checkpoint { key, .. } => Some(*key),
            LedgerEvent::KeyRotated { new, .. } => Some(*new),
            LedgerEvent::LogHead(_)
            | LedgerEvent::LogBroken { .. }
            | LedgerEvent::LogPruned(_)
            | LedgerEvent::BodiesPruned { .. }
            | LedgerEvent::HoldSet { .. }
            | LedgerEvent::HoldReleased { .. }
            | LedgerEvent::Unknown => None,
        };
        last.get_or_insert(entry);
        if key.is_some() {
            return Ok((last, key));
        }
    }
    Ok((last, None))
}

fn from_to(file: &File, start: u64, end: u64) -> io::Result<Vec<u8>> {
    let length = usize::try_from(end - start).map_err(io::Error::other)?;
    let mut text = vec![0; length];
    file.read_exact_at(&mut text, start)?;
    Ok(text)
}
