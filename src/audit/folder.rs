//! The folder of logs: where it is, whom it must belong to, and which sessions are in it.
//!
//! Everything after opening goes through the folder's descriptor, so that a path that changes under
//! our feet changes nothing.

use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};

use super::segment::{SegmentName, SegmentStore};
use crate::exit::Exit;
use crate::ids::SessionId;

/// Name of the file that a session's log begins with, within the folder.
pub fn file_name(session: SessionId) -> String {
    SegmentName::first(session).file_name()
}

/// The session to whose log a file of this name belongs.
pub fn session_of(file_name: &str) -> Option<SessionId> {
    SegmentName::parse(file_name).map(|name| name.session)
}

/// The users who have a folder of logs below this one, as the service keeps them: folders named by a number.
pub fn users(path: &Path) -> Vec<u32> {
    let uid = |name: &OsStr| -> Option<u32> { name.to_str()?.parse().ok() };
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut users: Vec<u32> = folders
        .filter_map(|entry| uid(&entry.file_name()))
        .collect();
    users.sort_unstable();
    users
}

/// Why there is no folder to use. Each message is one line with cause and cure.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// Neither variable helps.
    #[error("audit folder: neither XDG_STATE_HOME nor HOME is an absolute path; set one of them")]
    NoHome,
    /// The kernel refused.
    #[error("audit folder {}: {error}; {}", path.display(), cure(error))]
    Io {
        /// Which folder.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The folder itself is a symbolic link.
    #[error("audit folder {} is a symbolic link; name the folder it points to", path.display())]
    SymbolicLink {
        /// Which folder.
        path: PathBuf,
    },
    /// Somebody else owns it.
    #[error("audit folder {} belongs to uid {owner}; use a folder of your own", path.display())]
    ForeignOwner {
        /// Which folder.
        path: PathBuf,
        /// Who owns it.
        owner: u32,
    },
    /// Somebody else could change the logs.
    #[error(
        "audit folder {} can be written by others (mode {mode:04o}); run `chmod go-w` on it",
        path.display()
    )]
    WritableByOthers {
        /// Which folder.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
}

fn cure(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "check the path",
        io::ErrorKind::PermissionDenied => {
            "not writable or readable for you: choose another folder"
        }
        io::ErrorKind::ReadOnlyFilesystem => "choose a folder on a writable file system",
        io::ErrorKind::NotADirectory => {
            "a part of the path is not a folder: remove it or choose another"
        }
        _ => "choose another folder",
    }
}

impl FolderError {
    /// The exit code of verbs that read; `run` answers 125 to every one of them.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Io { error, .. } if error.kind() == io::ErrorKind::PermissionDenied => {
                Exit::NoPermission
            }
            Self::ForeignOwner { .. } => Exit::NoPermission,
            Self::Io { .. }
            | Self::NoHome
            | Self::SymbolicLink { .. }
            | Self::WritableByOthers { .. } => Exit::Config,
        }
    }
}

/// Where a session without the service keeps its log: `$XDG_STATE_HOME/portcullis/audit`, by default
/// `~/.local/state/portcullis/audit`. A relative variable counts as unset (XDG Base Directory
/// Specification 0.8). `variable` looks one up in the environment.
pub fn standalone(
    variable: impl Fn(&'static str) -> Option<OsString>,
) -> Result<PathBuf, FolderError> {
    let absolute = |name| {
        variable(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .map(|state| state.join("portcullis/audit"))
        .ok_or(FolderError::NoHome)
}

/// An open folder of logs.
#[derive(Debug)]
pub struct LogFolder {
    fd: OwnedFd,
    path: PathBuf,
}

/// Opens the folder to write into, and makes it where it is missing, readable by the caller alone.
/// Refuses one that is a symbolic link, that somebody else owns or that others can write: whoever can
/// write the folder can put another file in a log's place.
pub fn open_or_create(path: &Path) -> Result<LogFolder, FolderError> {
    let created = DirBuilder::new().recursive(true).mode(0o700).create(path);
    // A symbolic link to nowhere is "exists" here; opening it says what it is.
    if let Err(error) = created
        && error.kind() != io::ErrorKind::AlreadyExists
    {
        return Err(FolderError::Io {
            path: path.to_owned(),
            error,
        });
    }
    let folder = LogFolder::open(path)?;
    let stat = rustix::fs::fstat(&folder.fd).map_err(|error| folder.error(error.into()))?;
    let mode = stat.st_mode & 0o7777;
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(FolderError::ForeignOwner {
            path: folder.path,
            owner: stat.st_uid,
        });
    }
    if mode & 0o022 != 0 {
        return Err(FolderError::WritableByOthers {
            path: folder.path,
            mode,
        });
    }
    nix::unistd::faccessat(
        &folder.fd,
        ".",
        nix::unistd::AccessFlags::W_OK,
        nix::fcntl::AtFlags::empty(),
    )
    .map_err(|error| folder.error(error.into()))?;
    Ok(folder)
}

impl LogFolder {
    /// Opens a folder to read from. An auditor may read what others own.
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(fd) => Ok(Self {
                fd,
                path: path.to_owned(),
            }),
            Err(_) if path.is_symlink() => Err(FolderError::SymbolicLink {
                path: path.to_owned(),
            }),
            Err(error) => Err(FolderError::Io {
                path: path.to_owned(),
                error: error.into(),
            }),
        }
    }

    /// The same from an open folder; the path is for messages.
    pub fn from_fd(fd: OwnedFd, path: &Path) -> Self {
        let path = path.to_owned();
        Self { fd, path }
    }

    /// Where it is, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The sessions that have a log here, oldest first (a session's identifier begins with its time).
    pub fn sessions(&self) -> Result<Vec<SessionId>, FolderError> {
        let segments = self.all_segments()?.into_iter();
        let mut sessions: Vec<_> = segments.map(|segment| segment.session).collect();
        sessions.dedup();
        Ok(sessions)
    }

    /// The segments of a session's log, in their order. Of one that is there plain and packed, as it is for a
    /// moment while it is packed, the plain one.
    pub fn segments(&self, session: SessionId) -> Result<Vec<SegmentName>, FolderError> {
        let mut segments = self.all_segments()?;
        segments.retain(|segment| segment.session == session);
        segments.dedup_by_key(|segment| segment.number);
        Ok(segments)
    }

    /// Every segment of every log, in their order.
    pub fn all_segments(&self) -> Result<Vec<SegmentName>, FolderError> {
        let failed = |error: rustix::io::Errno| self.error(error.into());
        let mut segments = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.fd).map_err(failed)? {
            let name = entry.map_err(failed)?;
            let name = name.file_name().to_str().ok();
            segments.extend(name.and_then(SegmentName::parse));
        }
        segments.sort_unstable();
        Ok(segments)
    }

    /// Opens the first segment of a session's log to read.
    pub fn open_log(&self, session: SessionId) -> io::Result<File> {
        self.open_segment(SegmentName::first(session))
    }

    /// Opens a segment to read. Only a regular file in this very folder is one: a symbolic link is refused,
    /// and a pipe does not keep us waiting.
    pub fn open_segment(&self, segment: SegmentName) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, segment.file_name(), flags, Mode::empty())?;
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode);
        if kind != FileType::RegularFile {
            return Err(io::Error::other("not a regular file"));
        }
        Ok(fd.into())
    }

    fn error(&self, error: io::Error) -> FolderError {
        FolderError::Io {
            path: self.path.clone(),
            error,
        }
    }
}

impl SegmentStore for LogFolder {
    fn list(&self, session: SessionId) -> io::Result<Vec<SegmentName>> {
        self.segments(session).map_err(|error| match error {
            FolderError::Io { error, .. } => error,
            other => io::Error::other(other.to_string()),
        })
    }

    fn open(&self, segment: SegmentName) -> io::Result<File> {
        self.open_segment(segment)
    }
}

impl AsFd for LogFolder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<LogFolder> for OwnedFd {
    fn from(folder: LogFolder) -> Self {
        folder.fd
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_standalone_folder_follows_the_state_home_and_ignores_relative_ones() {
        let path = |state: &'static str, home: &'static str| {
            standalone(|name| Some(if name == "HOME" { home } else { state }.into())).ok()
        };
        assert_eq!(path("/s", "/h"), Some("/s/portcullis/audit".into()));
        assert_eq!(
            path("", "/h"),
            Some("/h/.local/state/portcullis/audit".into())
        );
        assert_eq!(
            path("s", "/h"),
            Some("/h/.local/state/portcullis/audit".into())
        );
        assert_eq!(path("s", "h"), None);
    }

    #[test]
    fn a_missing_folder_is_made_for_the_caller_alone() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("a/b");
        let folder = open_or_create(&path).unwrap();
        assert_eq!(folder.path(), path);
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(&path), mode(&base.path().join("a"))), (0o700, 0o700));
        assert!(open_or_create(&path).is_ok());
    }

    #[test]
    fn a_folder_that_others_could_change_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let (open, link, lost) = ("open", "link", "lost").map_paths(base.path());
        std::fs::create_dir(&open).unwrap();
        std::fs::set_permissions(&open, PermissionsExt::from_mode(0o775)).unwrap();
        std::os::unix::fs::symlink(base.path(), &link).unwrap();
        std::os::unix::fs::symlink("nowhere", &lost).unwrap();
        assert!(matches!(
            open_or_create(&open),
            Err(FolderError::WritableByOthers { mode: 0o775, .. })
        ));
        assert!(matches!(
            open_or_create(&link),
            Err(FolderError::SymbolicLink { .. })
        ));
        assert!(matches!(
            open_or_create(&lost),
            Err(FolderError::SymbolicLink { .. })
        ));
        std::fs::write(base.path().join("file"), "").unwrap();
        let error = open_or_create(&base.path().join("file")).unwrap_err();
        assert!(
            matches!(&error, FolderError::Io { error, .. } if error.kind() == io::ErrorKind::NotADirectory)
        );
        assert_eq!(error.exit(), Exit::Config);
    }

    trait MapPaths {
        fn map_paths(self, base: &Path) -> (PathBuf, PathBuf, PathBuf);
    }
    impl MapPaths for (&str, &str, &str) {
        fn map_paths(self, base: &Path) -> (PathBuf, PathBuf, PathBuf) {
            (base.join(self.0), base.join(self.1), base.join(self.2))
        }
    }

    #[test]
    fn only_logs_in_their_one_spelling_are_sessions() {
        let base = tempfile::tempdir().unwrap();
        let session = SessionId::generate();
        let upper = format!("{}.jsonl", session.to_string().to_uppercase());
        for name in [&file_name(session), &upper, "notes.txt", ".jsonl"] {
            std::fs::write(base.path().join(name), "").unwrap();
        }
        let folder = LogFolder::open(base.path()).unwrap();
        assert_eq!(folder.sessions().unwrap(), [session]);
        assert!(folder.open_log(session).is_ok());
    }

    #[test]
    fn a_log_that_is_a_link_or_a_pipe_is_not_opened() {
        let base = tempfile::tempdir().unwrap();
        let folder = LogFolder::open(base.path()).unwrap();
        let (link, pipe) = (SessionId::generate(), SessionId::generate());
        std::os::unix::fs::symlink("/etc/passwd", base.path().join(file_name(link))).unwrap();
        nix::unistd::mkfifo(
            &base.path().join(file_name(pipe)),
            nix::sys::stat::Mode::S_IRWXU,
        )
        .unwrap();
        assert!(folder.open_log(link).is_err());
        assert!(folder.open_log(pipe).is_err());
    }
}
