//! Packs a closed segment (zstd, RFC 8878), and removes the plain file only when the packed one was read back and
//! is the same, byte for byte, and on the disk.

use std::fs::{File, FileTimes, Permissions};
use std::io::{self, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use crate::audit::folder::LogFolder;
use crate::audit::ledger::segment::LedgerSegment;
use crate::audit::segment::SegmentName;

/// How hard it is packed: logs of ours shrink to about a tenth, and 6 costs a fraction of what 19 does.
const LEVEL: i32 = 6;

/// What follows the name of a packed segment that is still being written.
const UNFINISHED: &str = ".new";

/// What packing came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packed {
    /// Bytes of the plain file.
    pub before: u64,
    /// Bytes of the packed one.
    pub after: u64,
}

/// Packs a segment of a log that nobody writes any more. Whatever fails, the plain file stays.
pub fn pack(folder: &LogFolder, plain: SegmentName) -> io::Result<Packed> {
    let packed = SegmentName {
        packed: true,
        ..plain
    };
    let source = folder.open_segment(plain)?;
    replace(folder, (&source, &plain.file_name()), &packed.file_name())
}

/// The same of a segment of the ledger, in the ledger's folder.
pub fn pack_ledger(folder: impl AsFd, plain: LedgerSegment) -> io::Result<Packed> {
    let source = plain.open(&folder)?;
    let packed = plain.twin().file_name();
    replace(&folder, (&source, &plain.file_name()), &packed)
}

/// Puts the packed file in the place of the plain one.
fn replace(folder: impl AsFd, (source, plain): (&File, &str), packed: &str) -> io::Result<Packed> {
    let metadata = source.metadata()?;
    let folder = &folder;
    let unfinished = format!("{packed}{UNFINISHED}");
    // What a packer left that was killed.
    remove(folder, &unfinished)?;
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    let target = File::from(rustix::fs::openat(folder, &unfinished, flags, mode)?);
    let written = write(source, &target, &metadata);
    let after = written.inspect_err(|_| {
        // The error that counts is the first.
        drop(remove(folder, &unfinished));
    })?;
    rustix::fs::renameat(folder, &unfinished, folder, packed)?;
    rustix::fs::fsync(folder)?;
    remove(folder, plain)?;
    rustix::fs::fsync(folder)?;
    Ok(Packed {
        before: metadata.size(),
        after,
    })
}

/// Writes the packed file whole, with the owner, rights and time of the plain one, and reads it back.
fn write(source: &File, target: &File, metadata: &std::fs::Metadata) -> io::Result<u64> {
    let mut encoder = zstd::Encoder::new(target, LEVEL)?;
    encoder.include_checksum(true)?;
    let sum = copy(source, &mut encoder)?;
    encoder.finish()?;
    let mine = target.metadata()?;
    if (mine.uid(), mine.gid()) != (metadata.uid(), metadata.gid()) {
        fchown(target, Some(metadata.uid()), Some(metadata.gid()))?;
    }
    target.set_permissions(Permissions::from_mode(metadata.mode() & 0o7777))?;
    target.set_times(FileTimes::new().set_modified(metadata.modified()?))?;
    target.sync_all()?;
    rustix::fs::seek(target, rustix::fs::SeekFrom::Start(0))?;
    let again = copy(zstd::Decoder::new(BufReader::new(target))?, &mut io::sink())?;
    if again != sum {
        return Err(io::Error::other(
            "it does not read back as it was: check the disk and the memory of this machine",
        ));
    }
    target.metadata().map(|metadata| metadata.size())
}

/// Copies, and answers the SHA-256 of what was copied.
fn copy(mut from: impl Read, to: &mut impl Write) -> io::Result<[u8; 32]> {
    let mut sum = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        let read = from.read(&mut buffer)?;
        let part = buffer.get(..read).unwrap_or_default();
        if part.is_empty() {
            return Ok(sum.finalize().into());
        }
        sum.update(part);
        to.write_all(part)?;
    }
}

/// Removes a file, if it is there.
pub(super) fn remove(folder: impl AsFd, name: &str) -> io::Result<()> {
    match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::SessionId;

    #[test]
    fn a_packed_segment_takes_the_place_of_the_plain_one_with_its_rights_and_time() {
        let base = tempfile::tempdir().unwrap();
        let folder = LogFolder::open(base.path()).unwrap();
        let name = SegmentName::first(SessionId::generate());
        let path = base.path().join(name.file_name());
        let text = "{\"a\":1}\n".repeat(10_000);
        std::fs::write(&path, &text).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        let before = path.metadata().unwrap();
        // What a packer left that was killed is in nobody's way.
        std::fs::write(
            base.path().join(format!("{}.zst.new", name.file_name())),
            "?",
        )
        .unwrap();

        let packed = pack(&folder, name).unwrap();

        assert_eq!(packed.before, text.len() as u64);
        assert!(packed.after < packed.before / 10);
        let left: Vec<_> = folder.segments(name.session).unwrap();
        assert_eq!(
            left,
            [SegmentName {
                packed: true,
                ..name
            }]
        );
        let after = base.path().join(left[0].file_name());
        let metadata = after.metadata().unwrap();
        assert_eq!(metadata.mode(), before.mode());
        assert_eq!(metadata.modified().unwrap(), before.modified().unwrap());
        let read = zstd::decode_all(File::open(after).unwrap()).unwrap();
        assert_eq!(read, text.as_bytes());
        assert_eq!(std::fs::read_dir(base.path()).unwrap().count(), 1);
    }

    #[test]
    fn where_there_is_no_room_the_plain_file_stays() {
        let base = tempfile::tempdir().unwrap();
        let folder = LogFolder::open(base.path()).unwrap();
        let name = SegmentName::first(SessionId::generate());
        std::fs::write(base.path().join(name.file_name()), "line\n").unwrap();
        // A folder in the way of the file to be written stands for every failure to write it.
        let way = format!("{}.zst.new", name.file_name());
        std::fs::create_dir(base.path().join(way)).unwrap();
        assert!(pack(&folder, name).is_err());
        assert_eq!(folder.segments(name.session).unwrap(), [name]);
    }
}
