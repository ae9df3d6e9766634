//! The logs that the caller may read: those in a folder of their own, and those that the service keeps, which
//! the daemon opens for whoever may read them.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::{FolderArg, folder_failure};
use crate::audit::folder::{FolderError, LogFolder};
use crate::cli::failure::Failure;
use crate::cli::{print, service};
use crate::ids::SessionId;

/// Where logs are.
#[derive(Debug)]
pub(super) struct Logs {
    path: PathBuf,
    /// `None`: there is no such folder.
    folder: Option<LogFolder>,
    /// Those that the service keeps.
    kept: BTreeSet<SessionId>,
    /// Whether the service may have more by now.
    service: bool,
}

impl Logs {
    /// Looks where they are. `None`: nothing was ever recorded.
    pub(super) fn find(argument: &FolderArg) -> Result<Option<Self>, Failure> {
        let path = argument.path()?;
        let folder = match LogFolder::open(&path) {
            Ok(folder) => Some(folder),
            Err(FolderError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(folder_failure(error)),
        };
        // Who names a folder means that one.
        let service = argument.path.is_none() && service::is_there();
        let mut logs = Self {
            path,
            folder,
            kept: BTreeSet::new(),
            service,
        };
        logs.ask();
        Ok((logs.folder.is_some() || service).then_some(logs))
    }

    /// The logs of one's own can be read without the service.
    fn ask(&mut self) {
        if !self.service {
            return;
        }
        match service::logs() {
            Ok(kept) => self.kept = kept.into_iter().collect(),
            Err(failure) => {
                self.service = false;
                print::error(failure.message);
            }
        }
    }

    /// The folder, for messages.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The sessions that have a log, oldest first.
    pub(super) fn sessions(&self) -> Result<Vec<SessionId>, Failure> {
        let folder = self.folder.as_ref();
        let own = folder.map(LogFolder::sessions).transpose();
        let own = own.map_err(folder_failure)?.unwrap_or_default();
        let mut all: Vec<_> = own.into_iter().chain(self.kept.iter().copied()).collect();
        all.sort_unstable();
        all.dedup();
        Ok(all)
    }

    /// The same as it is now.
    pub(super) fn sessions_now(&mut self) -> Result<Vec<SessionId>, Failure> {
        self.ask();
        self.sessions()
    }

    /// Opens one to read.
    pub(super) fn open_log(&self, session: SessionId) -> io::Result<File> {
        if self.kept.contains(&session) {
            let opened = service::open_log(session);
            return opened
                .map(File::from)
                .map_err(|failure| io::Error::other(failure.message));
        }
        let folder = self.folder.as_ref().ok_or(io::ErrorKind::NotFound)?;
        folder.open_log(session)
    }
}
