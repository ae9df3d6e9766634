//! The version of the bubblewrap that was used last, so that it need not be asked at every start: that
//! is a process, 1.3 ms of a start.
//!
//! Owns: `bubblewrap.json` in the folder of state, which no jail shows. Trusts: that file, if nobody else
//! can write it, for the very program that was asked: same file, size and times of change. Never: a reason
//! not to start; whatever is wrong with it, the program is asked again.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::trust::is_outside;
use crate::jail::JailError;
use crate::jail::bwrap::{self, Bwrap, Question};

/// The longest such file, in bytes.
const MAX: u64 = 8 << 10;

/// What the file has.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Known {
    program: Program,
    /// What it said.
    version: String,
}

/// Which program it was. One that is replaced or written to has another time of change (stat(2),
/// `st_ctim`), which nobody can set.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Program {
    path: PathBuf,
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// A version that is known or asked for.
#[derive(Debug)]
pub(super) enum Asked {
    Known(Bwrap),
    Unknown { question: Question, file: PathBuf },
}

/// The version of a bubblewrap: from the file in the folder of state, unless a session can write there, or
/// the program is asked.
pub(super) fn version(
    path: PathBuf,
    state: &Path,
    writable: &[PathBuf],
) -> Result<Asked, JailError> {
    let file = state.join("bubblewrap.json");
    let known = if is_outside(&file, writable) {
        read(&file).ok()
    } else {
        None
    };
    match (known, Program::of(&path)) {
        (Some(known), Ok(program)) if known.program == program => Ok(Asked::Known(Bwrap {
            path,
            version: known.version,
        })),
        _ => bwrap::ask(path).map(|question| Asked::Unknown { question, file }),
    }
}

impl Asked {
    /// Waits for the answer, if there is one to come, and keeps it.
    pub(super) fn answer(self) -> Result<Bwrap, JailError> {
        match self {
            Self::Known(bwrap) => Ok(bwrap),
            Self::Unknown { question, file } => {
                let bwrap = question.answer()?;
                // Without it the next start asks again.
                keep(&file, &bwrap).ok();
                Ok(bwrap)
            }
        }
    }
}

impl Program {
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = std::fs::metadata(path)?;
        Ok(Self {
            path: path.to_owned(),
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

fn read(file: &Path) -> io::Result<Known> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
        .open(file)?;
    if !is_ours(&file.metadata()?) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let mut text = Vec::new();
    file.take(MAX).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

/// Whether nobody else can write this file.
fn is_ours(metadata: &Metadata) -> bool {
    metadata.is_file()
        && metadata.uid() == nix::unistd::geteuid().as_raw()
        && metadata.mode() & 0o022 == 0
}

/// Puts the file there as a whole: another session may read it at this moment. Two that write at once
/// write the same.
fn keep(file: &Path, bwrap: &Bwrap) -> io::Result<()> {
    let known = Known {
        program: Program::of(&bwrap.path)?,
        version: bwrap.version.clone(),
    };
    let text = serde_json::to_vec(&known)?;
    let new = file.with_extension(format!("{}.new", std::process::id()));
    let written = create(&new)
        .and_then(|mut open| open.write_all(&text))
        .and_then(|()| std::fs::rename(&new, file));
    if written.is_err() {
        // Whatever of it is there is of no use.
        std::fs::remove_file(&new).ok();
    }
    written
}

fn create(file: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).open(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A program that says this version.
    fn program(folder: &Path, version: &str) -> PathBuf {
        let path = folder.join("bwrap");
        std::fs::write(&path, format!("#!/bin/sh\necho bubblewrap {version}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn said(path: &Path, state: &Path) -> (bool, String) {
        let asked = version(path.to_owned(), state, &[]).unwrap();
        let known = matches!(asked, Asked::Known(_));
        (known, asked.answer().unwrap().version)
    }

    #[test]
    fn a_program_is_asked_once_and_again_when_it_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = program(folder.path(), "0.8.0");
        let said = || said(&path, folder.path());
        assert_eq!(said(), (false, "bubblewrap 0.8.0".to_owned()));
        assert_eq!(said(), (true, "bubblewrap 0.8.0".to_owned()));
        program(folder.path(), "0.11.0");
        assert_eq!(said(), (false, "bubblewrap 0.11.0".to_owned()));
        assert_eq!(said(), (true, "bubblewrap 0.11.0".to_owned()));
        let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(names.len(), 2, "{names:?}");
    }

    #[test]
    fn a_file_that_others_can_write_or_that_is_none_of_ours_does_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let path = program(folder.path(), "0.8.0");
        let file = folder.path().join("bubblewrap.json");
        assert!(!said(&path, folder.path()).0);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).unwrap();
        assert!(!said(&path, folder.path()).0);
        std::fs::write(&file, "{").unwrap();
        assert!(!said(&path, folder.path()).0);
        let elsewhere = folder.path().join("elsewhere");
        std::fs::rename(&file, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &file).unwrap();
        assert!(!said(&path, folder.path()).0);
        assert!(said(&path, folder.path()).0, "the link was replaced");
        let writable = [folder.path().canonicalize().unwrap()];
        let asked = version(path, folder.path(), &writable).unwrap();
        assert!(matches!(asked, Asked::Unknown { .. }), "a session's");
    }

    #[test]
    fn too_old_a_program_is_not_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let path = program(folder.path(), "0.4.1");
        for _ in 0..2 {
            let asked = version(path.clone(), folder.path(), &[]).unwrap();
            assert!(matches!(asked, Asked::Unknown { .. }));
            assert!(asked.answer().unwrap_err().to_string().contains("0.4.1"));
        }
    }
}
