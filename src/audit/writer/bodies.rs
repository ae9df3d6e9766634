//! Bodies of requests and answers, kept beside the log under the hash of what is in them.
//!
//! Owns: the descriptor of their folder, which is all that the confined writer can make files in. Never: trusts a
//! gate to have taken the secrets out, writes more than [`bodies::ALL`] bytes for a session.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use data_encoding::BASE64;
use rustix::fs::Mode;
use rustix::io::Errno;

use super::confine::{BODY_MODE, READ};
use crate::audit::http::{BodyKept, BodySkipped, SkipReason};
use crate::audit::log::NEW_SEGMENT;
use crate::audit::{AuditEvent, bodies, redact};
use crate::policy::Durability;
use crate::wire::audit::BodyOffer;

/// The folder, and how much may still be put there.
#[derive(Debug)]
pub(super) struct Bodies {
    /// `None`: there is none that can be used.
    folder: Option<OwnedFd>,
    durability: Durability,
    /// Bytes. Another writer of the same session counts from the beginning.
    left: u64,
}

/// What was offered is no body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoBody;

impl Bodies {
    /// Opens the folder within that of logs, and makes it where it is missing.
    pub(super) fn open(logs: &OwnedFd, durability: Durability) -> Self {
        Self {
            folder: bodies::open_or_create(logs).ok(),
            durability,
            left: bodies::ALL,
        }
    }

    /// Where files may be made.
    pub(super) fn folder(&self) -> Option<BorrowedFd<'_>> {
        self.folder.as_ref().map(AsFd::as_fd)
    }

    /// Keeps a body; answers what is to be recorded.
    pub(super) fn keep(&mut self, offer: BodyOffer) -> Result<AuditEvent, NoBody> {
        let content = BASE64
            .decode(offer.content.as_bytes())
            .map_err(|_| NoBody)?;
        if content.len() > bodies::LONGEST {
            return Err(NoBody);
        }
        let (content, found) = redact::bytes(&content);
        // What stands for a secret may be longer than it was.
        let whole = content.len() <= bodies::LONGEST;
        let content = content.get(..bodies::LONGEST).unwrap_or(&content);
        let (conn, direction) = (offer.conn, offer.direction);
        let skipped = |reason| {
            AuditEvent::BodySkipped(BodySkipped {
                conn,
                direction,
                reason,
            })
        };
        let bytes = content.len() as u64;
        let Some(left) = self.left.checked_sub(bytes) else {
            return Ok(skipped(SkipReason::Limit));
        };
        let sha256 = bodies::name(content);
        if self.write(&sha256, content).is_err() {
            return Ok(skipped(SkipReason::Storage));
        }
        self.left = left;
        Ok(AuditEvent::BodyKept(BodyKept {
            conn,
            direction,
            sha256,
            bytes,
            truncated: offer.truncated || !whole,
            encoding: offer.encoding,
            redactions: offer.redactions.saturating_add(found),
        }))
    }

    /// Writes the file, as durably as a record, unless one with the same bytes is there. One that its writer died over
    /// stays as it is, because no file that is there can be opened to be written: another is made beside it.
    fn write(&self, sha256: &str, content: &[u8]) -> io::Result<()> {
        let folder = self.folder.as_ref().ok_or(io::ErrorKind::NotFound)?;
        for name in bodies::places(sha256) {
            match rustix::fs::openat(folder, &name, NEW_SEGMENT, BODY_MODE) {
                Err(Errno::EXIST) if self.has(folder, &name, content) => return Ok(()),
                Err(Errno::EXIST) => {}
                made => {
                    let file = made?;
                    let filled = self.fill(folder, &file, content);
                    if filled.is_err() {
                        // What the disk did not take is not to be found there the next time.
                        rustix::fs::ftruncate(&file, 0).ok();
                    }
                    return filled;
                }
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Whether a file is there with these bytes and no more, as durably as a record: whoever wrote it may have died before
    /// it was.
    fn has(&self, folder: &OwnedFd, name: &str, content: &[u8]) -> bool {
        let Ok(file) = rustix::fs::openat(folder, name, READ, Mode::empty()) else {
            return false;
        };
        let synced = || rustix::fs::fdatasync(&file).and_then(|()| rustix::fs::fdatasync(folder));
        has_alone(&file, content) && (self.durability != Durability::Each || synced().is_ok())
    }

    fn fill(&self, folder: &OwnedFd, file: &OwnedFd, content: &[u8]) -> io::Result<()> {
        let mut rest = content;
        while !rest.is_empty() {
            match rustix::io::write(file, rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if self.durability == Durability::Each {
            // A record that is on disk speaks of a file that is.
            rustix::fs::fdatasync(file)?;
            rustix::fs::fdatasync(folder)?;
        }
        Ok(())
    }
}

/// Whether a file has these bytes and no more.
fn has_alone(file: &OwnedFd, content: &[u8]) -> bool {
    let mut rest = content;
    let mut buffer = [0; 4096];
    loop {
        match rustix::io::read(file, &mut buffer) {
            Ok(0) => return rest.is_empty(),
            Ok(read) => {
                let part = buffer.get(..read).unwrap_or_default();
                let Some(left) = rest.strip_prefix(part) else {
                    return false;
                };
                rest = left;
            }
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::http::BodySide;
    use crate::ids::ConnId;

    fn offer(content: &[u8]) -> BodyOffer {
        BodyOffer {
            conn: ConnId(1),
            direction: BodySide::Request,
            truncated: false,
            encoding: None,
            redactions: 1,
            content: BASE64.encode(content),
        }
    }

    fn kept(content: &[u8], bytes: u64, redactions: u32) -> AuditEvent {
        AuditEvent::BodyKept(BodyKept {
            conn: ConnId(1),
            direction: BodySide::Request,
            sha256: bodies::name(content),
            bytes,
            truncated: false,
            encoding: None,
            redactions,
        })
    }

    fn skipped(reason: SkipReason) -> AuditEvent {
        AuditEvent::BodySkipped(BodySkipped {
            conn: ConnId(1),
            direction: BodySide::Request,
            reason,
        })
    }

    #[test]
    fn a_body_is_kept_under_its_hash_without_what_the_gate_overlooked() {
        let base = tempfile::tempdir().unwrap();
        let logs: OwnedFd = std::fs::File::open(base.path()).unwrap().into();
        let mut store = Bodies::open(&logs, Durability::Each);
        let clean = b"password=[redacted:assigned]";
        assert_eq!(store.keep(offer(b"password=x")), Ok(kept(clean, 28, 2)));
        assert_eq!(bodies::read(&logs, &bodies::name(clean)).unwrap(), clean);
        // Again, which makes no other file, and beside one that somebody died over.
        let folder = base.path().join(bodies::FOLDER);
        let files = || std::fs::read_dir(&folder).unwrap().count();
        assert_eq!(store.keep(offer(clean)), Ok(kept(clean, 28, 1)));
        assert_eq!(files(), 1);
        for dead in ["passwo", "password=[redacted:assigned] and then more"] {
            std::fs::remove_dir_all(&folder).unwrap();
            let mut store = Bodies::open(&logs, Durability::Each);
            std::fs::write(folder.join(bodies::name(clean)), dead).unwrap();
            assert!(bodies::read(&logs, &bodies::name(clean)).is_err());
            assert_eq!(store.keep(offer(clean)), Ok(kept(clean, 28, 1)));
            assert_eq!(bodies::read(&logs, &bodies::name(clean)).unwrap(), clean);
            assert_eq!(files(), 2);
        }
    }

    #[test]
    fn what_cannot_be_kept_is_told_with_its_reason() {
        let base = tempfile::tempdir().unwrap();
        let logs: OwnedFd = std::fs::File::open(base.path()).unwrap().into();
        let mut store = Bodies {
            left: 10,
            ..Bodies::open(&logs, Durability::Batch)
        };
        assert_eq!(store.keep(offer(b"12345678")), Ok(kept(b"12345678", 8, 1)));
        assert_eq!(store.keep(offer(b"123")), Ok(skipped(SkipReason::Limit)));
        assert_eq!(store.keep(offer(b"12")), Ok(kept(b"12", 2, 1)));
        let mut nowhere = Bodies {
            folder: None,
            durability: Durability::Batch,
            left: 10,
        };
        assert_eq!(nowhere.keep(offer(b"1")), Ok(skipped(SkipReason::Storage)));
        let mut bad = offer(b"");
        bad.content = "?".to_owned();
        assert_eq!(store.keep(bad), Err(NoBody));
        assert_eq!(store.keep(offer(&vec![0; (1 << 20) + 1])), Err(NoBody));
        // A link in the folder's place is not followed.
        let other = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(base.path(), other.path().join(bodies::FOLDER)).unwrap();
        let logs: OwnedFd = std::fs::File::open(other.path()).unwrap().into();
        assert!(Bodies::open(&logs, Durability::Batch).folder().is_none());
    }
}
