//! What lies beside the logs and is one file each: bodies that were captured, and what detached sessions printed.
//!
//! The ledger says how many bodies were removed, because records speak of them; what was printed nothing speaks of.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use memchr::memmem;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::inventory::now;
use super::pack::remove;
use super::rules::Keep;
use crate::audit::folder::LogFolder;
use crate::audit::{AuditEvent, bodies};
use crate::ids::SessionId;

/// A file beside the logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beside {
    /// Its name in its folder.
    pub name: String,
    /// Its bytes.
    pub bytes: u64,
    /// When it was last written, since the epoch.
    pub modified: Duration,
}

/// How many files went, or would, and how many bytes they had together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gone {
    /// Files.
    pub count: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Gone {
    /// All of these.
    pub fn of(files: &[Beside]) -> Self {
        Self {
            count: files.len() as u64,
            bytes: files.iter().map(|file| file.bytes).sum(),
        }
    }
}

/// Opens a folder of such files. `None`: there is none.
pub fn open(folder: impl AsFd, name: &Path) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    match rustix::fs::openat(folder, name, flags, Mode::empty()) {
        Ok(folder) => Ok(Some(folder)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// The files that have to go by this rule, the oldest first, of those whose names are taken; the others count for
/// nothing.
pub fn surplus(
    folder: &OwnedFd,
    keep: Keep,
    takes: impl Fn(&str) -> bool,
) -> io::Result<Vec<Beside>> {
    if keep == Keep::default() {
        return Ok(Vec::new());
    }
    let mut files = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let Some(name) = entry.file_name().to_str().ok().filter(|name| takes(name)) else {
            continue;
        };
        let stat = match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(errno.into()),
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            continue;
        }
        files.push(Beside {
            name: name.to_owned(),
            bytes: u64::try_from(stat.st_size).unwrap_or_default(),
            modified: Duration::new(
                u64::try_from(stat.st_mtime).unwrap_or_default(),
                u32::try_from(stat.st_mtime_nsec).unwrap_or_default(),
            ),
        });
    }
    Ok(beyond(files, keep, now()))
}

/// Which of these have to go.
fn beyond(mut files: Vec<Beside>, keep: Keep, now: Duration) -> Vec<Beside> {
    files.sort_by(|a, b| (a.modified, &a.name).cmp(&(b.modified, &b.name)));
    let mut total: u64 = files.iter().map(|file| file.bytes).sum();
    let stays = files.iter().position(|file| {
        let old = keep
            .age
            .is_some_and(|age| now.saturating_sub(file.modified) > age);
        let much = keep.size.is_some_and(|most| total > most);
        total = total.saturating_sub(file.bytes);
        !(old || much)
    });
    files.truncate(stays.unwrap_or(files.len()));
    files
}

/// Removes them.
pub fn unlink(folder: &OwnedFd, files: &[Beside]) -> io::Result<()> {
    for file in files {
        remove(folder, &file.name)?;
    }
    Ok(rustix::fs::fsync(folder)?)
}

/// The bodies that the logs of these sessions speak of.
pub fn bodies_of(
    folder: &LogFolder,
    sessions: &BTreeSet<SessionId>,
) -> io::Result<BTreeSet<String>> {
    let mut spoken_of = BTreeSet::new();
    if sessions.is_empty() {
        return Ok(spoken_of);
    }
    for segment in folder.all_segments().map_err(io::Error::other)? {
        if !sessions.contains(&segment.session) {
            continue;
        }
        let mut lines = segment.lines(folder.open_segment(segment)?)?;
        while let Some(line) = lines.next_line()? {
            if memmem::find(line.bytes, b"\"body.kept\"").is_none() {
                continue;
            }
            if let Ok(Some(record)) = line.record()
                && let AuditEvent::BodyKept(kept) = record.event
            {
                spoken_of.insert(kept.sha256);
            }
        }
    }
    Ok(spoken_of)
}

/// The body that a file of this name holds.
pub fn body(name: &str) -> Option<&str> {
    let (sha256, _) = name.split_at_checked(64)?;
    bodies::places(sha256)
        .any(|place| place == name)
        .then_some(sha256)
}

/// Removes what sessions printed that are over, by this rule, from the folder that has it.
pub fn prune_output(
    folder: &Path,
    keep: Keep,
    stays: &BTreeSet<SessionId>,
    dry_run: bool,
) -> io::Result<Gone> {
    let Some(folder) = open(rustix::fs::CWD, folder)? else {
        return Ok(Gone::default());
    };
    let over = |name: &str| {
        let session: Option<SessionId> = name
            .strip_suffix(".log")
            .and_then(|session| session.parse().ok());
        session.is_some_and(|session| !stays.contains(&session))
    };
    let files = surplus(&folder, keep, over)?;
    if !dry_run && !files.is_empty() {
        unlink(&folder, &files)?;
    }
    Ok(Gone::of(&files))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beside(name: &str, bytes: u64, modified: u64) -> Beside {
        Beside {
            name: name.to_owned(),
            bytes,
            modified: Duration::from_secs(modified),
        }
    }

    #[test]
    fn the_oldest_go_that_are_too_old_or_too_much() {
        let files = || {
            vec![
                beside("b", 10, 20),
                beside("a", 10, 10),
                beside("c", 10, 30),
            ]
        };
        let names = |age: Option<u64>, size| -> String {
            let age = age.map(Duration::from_secs);
            let gone = beyond(files(), Keep { age, size }, Duration::from_secs(40));
            gone.into_iter().map(|file| file.name).collect()
        };
        assert_eq!(names(Some(25), None), "a");
        assert_eq!(names(Some(15), None), "ab");
        assert_eq!(names(None, Some(30)), "");
        assert_eq!(names(None, Some(29)), "a");
        assert_eq!(names(Some(25), Some(10)), "ab");
        assert_eq!(names(Some(1), Some(0)), "abc");
    }

    #[test]
    fn only_what_was_printed_by_sessions_that_are_over_goes() {
        let base = tempfile::tempdir().unwrap();
        let [over, runs] = [0, 1].map(|_| SessionId::generate());
        for name in [format!("{over}.log"), format!("{runs}.log"), "notes".into()] {
            std::fs::write(base.path().join(name), "12345").unwrap();
        }
        let keep = Keep {
            age: None,
            size: Some(0),
        };
        let stays = BTreeSet::from([runs]);
        let gone = Gone { count: 1, bytes: 5 };
        let prune = |dry_run| prune_output(base.path(), keep, &stays, dry_run).unwrap();
        assert_eq!(prune(true), gone);
        assert_eq!(std::fs::read_dir(base.path()).unwrap().count(), 3);
        assert_eq!(prune(false), gone);
        assert_eq!(prune(false), Gone::default());
        assert_eq!(std::fs::read_dir(base.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_body_is_known_by_its_name() {
        let sha256 = "0".repeat(64);
        assert_eq!(body(&sha256), Some(sha256.as_str()));
        assert_eq!(body(&format!("{sha256}.1")), Some(sha256.as_str()));
        assert_eq!(body(&format!("{sha256}.x")), None);
        assert_eq!(body("notes"), None);
    }
}
