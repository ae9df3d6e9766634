//! What a detached session's command has printed, in `$XDG_STATE_HOME/portcullis/sessions/<id>.log`: bytes
//! as they came, at most [`MAX`] of them. The folder is part of the state that no jail shows.

use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};

use crate::ids::SessionId;
use crate::session::caller::Caller;
use crate::session::socket;

/// The most that is kept, in bytes: then the older half goes.
pub const MAX: u64 = 64 << 20;

const SUFFIX: &str = ".log";

/// The log of one session, which writes it.
#[derive(Debug)]
pub struct Log {
    folder: OwnedFd,
    name: String,
    file: File,
    length: u64,
    max: u64,
}

/// Where the logs of a caller's sessions are. A caller without a home has the service's folder.
pub fn folder(caller: &Caller) -> PathBuf {
    let state = caller.state_folder();
    match socket::service_folder(caller) {
        Some(service) if !caller.home.is_dir() && !state.is_dir() => service.join("sessions"),
        _ => state.join("sessions"),
    }
}

/// Sessions of this caller that have a log, oldest first.
pub fn sessions(caller: &Caller) -> Vec<SessionId> {
    let entries = std::fs::read_dir(folder(caller)).into_iter().flatten();
    let mut sessions: Vec<SessionId> = entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            name.strip_suffix(SUFFIX)?.parse().ok()
        })
        .collect();
    sessions.sort_unstable();
    sessions
}

/// Opens a session's log to read it.
pub fn open(caller: &Caller, session: SessionId) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let path = folder(caller).join(file_name(session));
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}

fn file_name(session: SessionId) -> String {
    format!("{session}{SUFFIX}")
}

impl Log {
    /// Makes the file, and the folder if it is not there.
    pub fn create(caller: &Caller, session: SessionId) -> io::Result<Self> {
        let owner = caller.uid.as_raw();
        Self::create_in(&folder(caller), owner, &file_name(session), MAX)
    }

    fn create_in(path: &Path, owner: u32, name: &str, max: u64) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(path, flags, Mode::empty())?;
        // What was opened, whatever has the name by now.
        let stat = rustix::fs::fstat(&folder)?;
        if stat.st_uid != owner || stat.st_mode & 0o077 != 0 {
            return Err(io::Error::other(
                "the folder is not the user's own and closed to others",
            ));
        }
        let file = create(&folder, name)?;
        Ok(Self {
            folder,
            name: name.to_owned(),
            file,
            length: 0,
            max,
        })
    }

    /// Appends. After an error nothing more can be appended for sure.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.length += bytes.len() as u64;
        if self.length > self.max {
            self.halve()?;
        }
        Ok(())
    }

    /// The last bytes, at most this many, from the beginning of a line if there is one.
    pub fn tail(&self, most: usize) -> Vec<u8> {
        let start = self.length.saturating_sub(most as u64);
        let mut bytes = vec![0; usize::try_from(self.length - start).unwrap_or(0)];
        if self.file.read_exact_at(&mut bytes, start).is_err() {
            return Vec::new();
        }
        if start > 0
            && let Some(line) = memchr::memchr(b'\n', &bytes)
        {
            bytes.drain(..=line);
        }
        bytes
    }

    /// Removes it: nothing was printed that is not told elsewhere.
    pub fn remove(self) {
        // Left behind it is empty, or nearly.
        rustix::fs::unlinkat(&self.folder, self.name.as_str(), AtFlags::empty()).ok();
    }

    /// A new file with the newer half takes the old one's name: who reads the old one can read on.
    fn halve(&mut self) -> io::Result<()> {
        let name = format!("{}.new", self.name);
        let mut file = create(&self.folder, &name)?;
        let mut at = self.length - self.max / 2;
        let mut chunk = vec![0; 1 << 20];
        loop {
            let got = self.file.read_at(&mut chunk, at)?;
            if got == 0 {
                break;
            }
            file.write_all(chunk.get(..got).unwrap_or_default())?;
            at += got as u64;
        }
        rustix::fs::renameat(&self.folder, &name, &self.folder, self.name.as_str())?;
        self.length = file.metadata()?.size();
        self.file = file;
        Ok(())
    }
}

fn create(folder: &OwnedFd, name: &str) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    let create = || rustix::fs::openat(folder.as_fd(), name, flags, mode);
    let file = match create() {
        // A half that a full disk left behind.
        Err(rustix::io::Errno::EXIST) => {
            rustix::fs::unlinkat(folder.as_fd(), name, AtFlags::empty())?;
            create()?
        }
        other => other?,
    };
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_older_half_goes_and_the_newer_stays_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sessions");
        let owner = nix::unistd::getuid().as_raw();
        let mut log = Log::create_in(&path, owner, "x.log", 1000).unwrap();
        let mut all = Vec::new();
        for number in 0..500 {
            let line = format!("{number}\r\n");
            log.write(line.as_bytes()).unwrap();
            all.extend(line.bytes());
            let kept = std::fs::read(path.join("x.log")).unwrap();
            assert!(kept.len() <= 1000 && all.ends_with(&kept));
            assert!(kept.len() >= 500 || kept == all);
        }
        assert_eq!(log.tail(12), b"498\r\n499\r\n");
        assert_eq!(std::fs::read_dir(&path).unwrap().count(), 1);
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&path.join("x.log"))), (0o700, 0o600));
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        assert!(Log::create_in(&path, owner, "y.log", 1000).is_err());
    }
}
