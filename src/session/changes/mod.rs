//! Which files changed while the session ran, found when it is over: by the time that the kernel notes for
//! every change of a file (st_ctime, inode(7)). A jail cannot set it, nor the clock that it is taken from.
//!
//! Nothing is looked at when the session starts, so this costs nothing then; in return nobody can tell what was
//! removed. It looks at names and times and opens no file. What stands there is the jail's work: no link is
//! followed, and both the number of files and the time are bounded.

mod kind;

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Statx, StatxFlags};
use rustix::io::Errno;
use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::audit::changes::{ChangedFile, ExecutedBy, FileChanges, MAX_NAMED};

/// How many files are looked at, at most: about a third of a second's work.
const MAX_FILES: u32 = 200_000;

/// How long they are looked at, at most.
const MAX_TIME: Duration = Duration::from_secs(1);

/// How deep: a descriptor is open for each folder on the way.
const MAX_DEPTH: usize = 100;

/// How many files that are executed later are collected, of which the first are named.
const MAX_COLLECTED: usize = 4096;

/// When a session's command was about to start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Beginning {
    /// By the clock that stamps files.
    wall: Timespec,
    /// By one that nobody sets.
    steady: Timespec,
}

impl Beginning {
    /// It is now.
    pub(super) fn now() -> Self {
        Self {
            wall: clock_gettime(ClockId::RealtimeCoarse),
            steady: clock_gettime(ClockId::Boottime),
        }
    }

    /// From when on a change counts. Where the clock was set back since, by as much earlier: a change then bears
    /// a time before the beginning.
    fn cutoff(self) -> Timespec {
        let now = Self::now();
        let lasted = seconds(now.steady) - seconds(self.steady);
        let seen = seconds(now.wall) - seconds(self.wall);
        let back = (lasted - seen).max(0);
        if back < 2 {
            return self.wall;
        }
        Timespec {
            tv_sec: self.wall.tv_sec - back,
            tv_nsec: 0,
        }
    }
}

fn seconds(time: Timespec) -> i64 {
    time.tv_sec
}

/// What changed below these folders since the session began.
pub(super) fn since(beginning: Beginning, roots: &[PathBuf]) -> FileChanges {
    let mut search = Search {
        cutoff: beginning.cutoff(),
        until: Instant::now() + MAX_TIME,
        left: MAX_FILES,
        found: FileChanges {
            complete: true,
            ..FileChanges::default()
        },
    };
    for root in outermost(roots) {
        search.root(root);
    }
    search.finish()
}

/// The folders that lie in no other of them.
fn outermost(roots: &[PathBuf]) -> Vec<&Path> {
    let mut sorted: Vec<&Path> = roots.iter().map(PathBuf::as_path).collect();
    sorted.sort_unstable();
    sorted.dedup_by(|inner, outer| inner.starts_with(*outer));
    sorted
}

/// What the files of a folder mean.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// The session's work.
    Work,
    /// A repository's own folder, from this depth on: git's work, of which only a part is executed.
    Git(usize),
}

struct Search {
    cutoff: Timespec,
    until: Instant,
    left: u32,
    found: FileChanges,
}

impl Search {
    /// Looks at a folder that could be written. The way to it may hold no link: it was resolved before the
    /// command could change any.
    fn root(&mut self, root: &Path) {
        let opened = rustix::fs::openat2(
            rustix::fs::CWD,
            root,
            OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK,
            Mode::empty(),
            ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
        );
        let Ok(fd) = opened else {
            // A root that is not there was not there for the session either.
            self.found.complete &= root.symlink_metadata().is_err();
            return;
        };
        let Ok(stat) = rustix::fs::fstat(&fd) else {
            self.found.complete = false;
            return;
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => self.folder(&fd, root, &mut Vec::new(), Place::Work),
            _ => self.lone_file(root),
        }
    }

    /// A single file that could be written.
    fn lone_file(&mut self, file: &Path) {
        let (Some(folder), Some(name)) = (file.parent(), file.file_name()) else {
            return;
        };
        match rustix::fs::statx(
            rustix::fs::CWD,
            file,
            AtFlags::SYMLINK_NOFOLLOW,
            StatxFlags::BASIC_STATS | StatxFlags::BTIME,
        ) {
            Ok(stat) => self.file(&stat, folder, &[text(name)], Place::Work),
            Err(_) => self.found.complete = false,
        }
    }

    fn folder(&mut self, fd: &OwnedFd, root: &Path, parts: &mut Vec<String>, place: Place) {
        if parts.len() >= MAX_DEPTH {
            self.found.complete = false;
            return;
        }
        let Ok(entries) = Dir::read_from(fd) else {
            self.found.complete = false;
            return;
        };
        for entry in entries {
            let Ok(entry) = entry else {
                self.found.complete = false;
                return;
            };
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            if self.left == 0 || Instant::now() >= self.until {
                self.found.complete = false;
                return;
            }
            self.left -= 1;
            let name = OsStr::from_bytes(name.to_bytes());
            let looked = self.entry(fd.as_fd(), name, root, parts, place);
            // What is gone again is no change that stays.
            if looked.is_err_and(|errno| errno != Errno::NOENT) {
                self.found.complete = false;
            }
        }
    }

    fn entry(
        &mut self,
        folder: impl AsFd,
        name: &OsStr,
        root: &Path,
        parts: &mut Vec<String>,
        place: Place,
    ) -> Result<(), Errno> {
        let stat = rustix::fs::statx(
            &folder,
            name,
            AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT,
            StatxFlags::BASIC_STATS | StatxFlags::BTIME,
        )?;
        parts.push(text(name));
        let kind = FileType::from_raw_mode(stat.stx_mode.into());
        let looked = if kind == FileType::Directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let opened = rustix::fs::openat(&folder, name, flags, Mode::empty());
            opened.map(|fd| {
                let below = match place {
                    Place::Work if name == ".git" => Place::Git(parts.len()),
                    place => place,
                };
                // Of all that git keeps, only the data is much.
                if !matches!(
                    (below, name.as_bytes()),
                    (Place::Git(_), b"objects" | b"lfs")
                ) {
                    self.folder(&fd, root, parts, below);
                }
            })
        } else {
            self.file(&stat, root, parts, place);
            Ok(())
        };
        parts.pop();
        looked
    }

    fn file(&mut self, stat: &Statx, root: &Path, parts: &[String], place: Place) {
        let reached = |time: rustix::fs::StatxTimestamp| {
            let time = (time.tv_sec, i64::from(time.tv_nsec));
            time >= (self.cutoff.tv_sec, self.cutoff.tv_nsec)
        };
        if !reached(stat.stx_ctime) {
            return;
        }
        // Where the file system keeps no time of birth, a file that changed was there before as far as we know.
        let has_birth = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME);
        let created = has_birth && reached(stat.stx_btime);
        let names: Vec<&str> = parts.iter().map(String::as_str).collect();
        let by = match place {
            Place::Work => {
                let regular =
                    FileType::from_raw_mode(stat.stx_mode.into()) == FileType::RegularFile;
                kind::executed_by(&names, regular && stat.stx_mode & 0o111 != 0)
            }
            Place::Git(depth) => kind::executed_by_git(names.get(depth..).unwrap_or_default()),
        };
        // What git does to its own files with every command is no change of the work.
        if by.is_some() || matches!(place, Place::Work) {
            let count = if created {
                &mut self.found.created
            } else {
                &mut self.found.modified
            };
            *count += 1;
        }
        if let Some(by) = by {
            self.collect(root, &names, created, by);
        }
    }

    fn collect(&mut self, root: &Path, names: &[&str], created: bool, by: ExecutedBy) {
        if self.found.executed_later.len() >= MAX_COLLECTED {
            self.found.executed_later_more += 1;
            return;
        }
        let path = names
            .iter()
            .fold(root.to_owned(), |path, part| path.join(part));
        let path = path.to_string_lossy().into_owned();
        self.found
            .executed_later
            .push(ChangedFile { path, created, by });
    }

    fn finish(mut self) -> FileChanges {
        let files = &mut self.found.executed_later;
        files.sort_by_cached_key(|file| {
            let depth = file.path.matches('/').count();
            (file.by == ExecutedBy::Anybody, depth, file.path.clone())
        });
        let beyond = files.len().saturating_sub(MAX_NAMED);
        files.truncate(MAX_NAMED);
        self.found.executed_later_more += beyond as u64;
        self.found
    }
}

/// A name as a record has it: what is no UTF-8 shows as U+FFFD.
fn text(name: &OsStr) -> String {
    name.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    /// A folder with something in it, and a moment that is certainly later: files may bear the exact time, while the
    /// clock of the beginning moves in steps and lags behind it.
    fn before() -> (tempfile::TempDir, Beginning) {
        let base = tempfile::tempdir().unwrap();
        fs::create_dir_all(base.path().join("src")).unwrap();
        fs::write(base.path().join("src/old.rs"), "old").unwrap();
        fs::write(base.path().join("Makefile"), "all:").unwrap();
        let written = clock_gettime(ClockId::Realtime);
        loop {
            let now = Beginning::now();
            if (now.wall.tv_sec, now.wall.tv_nsec) > (written.tv_sec, written.tv_nsec) {
                return (base, now);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn changes(base: &Path, beginning: Beginning) -> FileChanges {
        since(beginning, &[base.canonicalize().unwrap()])
    }

    #[test]
    fn a_folder_in_which_nothing_happened_has_no_changes() {
        let (base, beginning) = before();
        let none = FileChanges {
            complete: true,
            ..FileChanges::default()
        };
        assert_eq!(changes(base.path(), beginning), none);
    }

    #[test]
    fn new_and_changed_files_are_counted_and_those_executed_later_are_named() {
        let (base, beginning) = before();
        let path = base.path().canonicalize().unwrap();
        fs::write(path.join("src/new.rs"), "new").unwrap();
        fs::write(path.join("src/old.rs"), "changed").unwrap();
        fs::write(path.join("Makefile"), "all: evil").unwrap();
        fs::create_dir_all(path.join(".git/hooks")).unwrap();
        fs::create_dir_all(path.join(".git/objects/ab")).unwrap();
        fs::write(path.join(".git/hooks/pre-commit"), "").unwrap();
        fs::write(path.join(".git/index"), "").unwrap();
        fs::write(path.join("tool"), "").unwrap();
        fs::set_permissions(path.join("tool"), PermissionsExt::from_mode(0o755)).unwrap();
        let file = |name: &str, created, by| ChangedFile {
            path: path.join(name).to_string_lossy().into_owned(),
            created,
            by,
        };
        let expected = FileChanges {
            created: 3,
            modified: 2,
            complete: true,
            executed_later: vec![
                file("Makefile", false, ExecutedBy::Build),
                file(".git/hooks/pre-commit", true, ExecutedBy::Git),
                file("tool", true, ExecutedBy::Anybody),
            ],
            executed_later_more: 0,
        };
        assert_eq!(changes(base.path(), beginning), expected);
    }

    #[test]
    fn a_time_that_was_set_back_with_touch_hides_nothing() {
        let (base, beginning) = before();
        let file = base.path().join("src/old.rs");
        fs::write(&file, "changed").unwrap();
        let long_ago = std::time::SystemTime::UNIX_EPOCH;
        let opened = fs::File::options().write(true).open(&file).unwrap();
        opened.set_modified(long_ago).unwrap();
        assert_eq!(changes(base.path(), beginning).modified, 1);
    }

    #[test]
    fn links_lead_nowhere_and_count_themselves() {
        let (base, _) = before();
        let (outside, beginning) = before();
        fs::write(outside.path().join("secret"), "").unwrap();
        symlink(outside.path(), base.path().join("link")).unwrap();
        symlink("/nowhere", base.path().join("conftest.py")).unwrap();
        let found = changes(base.path(), beginning);
        assert_eq!((found.created, found.executed_later.len()), (2, 1));
        // A root that was exchanged for a link is not looked at, and that is said.
        let root = base.path().join("root");
        symlink(outside.path(), &root).unwrap();
        let found = since(beginning, &[root]);
        assert_eq!((found.created, found.complete), (0, false));
    }

    #[test]
    fn more_than_is_named_is_counted_with_the_nearest_named() {
        let (base, beginning) = before();
        let deep = base.path().join("a/b/c");
        fs::create_dir_all(&deep).unwrap();
        for number in 0..100 {
            fs::write(deep.join(format!("{number}.mk")), "").unwrap();
        }
        fs::write(base.path().join(".envrc"), "").unwrap();
        let found = changes(base.path(), beginning);
        assert_eq!(found.executed_later.len(), MAX_NAMED);
        assert_eq!(found.executed_later_more, 101 - MAX_NAMED as u64);
        assert!(found.executed_later[0].path.ends_with("/.envrc"));
    }

    #[test]
    fn a_chain_of_folders_without_end_is_left_and_said() {
        let (base, beginning) = before();
        let mut deep = base.path().to_owned();
        for _ in 0..=MAX_DEPTH {
            deep.push("d");
        }
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("Makefile"), "").unwrap();
        let found = changes(base.path(), beginning);
        assert_eq!((found.created, found.complete), (0, false));
    }

    #[test]
    fn folders_within_folders_are_looked_at_once() {
        let roots = ["/a/b", "/a", "/c", "/ab"].map(PathBuf::from);
        assert_eq!(outermost(&roots), ["/a", "/ab", "/c"].map(Path::new));
    }
}
