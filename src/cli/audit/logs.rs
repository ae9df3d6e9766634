//! The logs that the caller may read: those in a folder of their own, and those that the service keeps, which
//! the daemon opens for whoever may read them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::{FolderArg, folder_failure, log_failure};
use crate::audit::folder::{FolderError, LogFolder};
use crate::audit::index::{Source, Stamp};
use crate::audit::reader::ReadError;
use crate::audit::segment::{SegmentName, SegmentStore};
use crate::audit::{AuditRecord, bodies};
use crate::cli::failure::Failure;
use crate::cli::{print, service};
use crate::exit::Exit;
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
    /// The segments in the folder, as they were at the first look.
    listed: OnceLock<BTreeMap<SessionId, Vec<SegmentName>>>,
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
            listed: OnceLock::new(),
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

    /// Whether those that the service keeps are among them.
    pub(super) fn has_service(&self) -> bool {
        self.service
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

    /// The segments of a session's log, in their order.
    pub(super) fn segments(&self, session: SessionId) -> Result<Vec<SegmentName>, Failure> {
        if self.kept.contains(&session) {
            return service::segments(session);
        }
        let folder = self.folder.as_ref();
        let segments = folder.map(|folder| folder.segments(session)).transpose();
        Ok(segments.map_err(folder_failure)?.unwrap_or_default())
    }

    /// Opens a segment to read.
    pub(super) fn open_segment(&self, segment: SegmentName) -> io::Result<File> {
        if self.kept.contains(&segment.session) {
            return service::open_segment(segment).map(File::from);
        }
        let folder = self.folder.as_ref().ok_or(io::ErrorKind::NotFound)?;
        folder.open_segment(segment)
    }

    /// Calls `visit` with each of the first records of a session's log, as many as are given (those that hold), and the line it
    /// stands in, until it answers `false`.
    pub(super) fn each_record(
        &self,
        session: SessionId,
        mut records: u64,
        mut visit: impl FnMut(AuditRecord, &[u8]) -> bool,
    ) -> Result<(), Failure> {
        for segment in self.segments(session)? {
            let log = self.path.join(segment.file_name());
            let failed = |error: io::Error| log_failure(&log, &error);
            let opened = self
                .open_segment(segment)
                .and_then(|file| segment.lines(file));
            let mut lines = opened.map_err(failed)?;
            while records > 0
                && let Some(line) = lines.next_line().map_err(failed)?
            {
                let record = line.record().map_err(|error| unreadable(&log, &error))?;
                // A last line that is incomplete is the last there is.
                if !record.is_some_and(|record| visit(record, line.bytes)) {
                    return Ok(());
                }
                records -= 1;
            }
        }
        Ok(())
    }

    /// Reads a body that is kept beside the logs, and holds it against its hash. What the service keeps is read
    /// by those who may read its folder, who name it.
    pub(super) fn read_body(&self, session: SessionId, sha256: &str) -> io::Result<Vec<u8>> {
        if self.kept.contains(&session) {
            let cure = "the service hands out logs alone: name its folder with --dir";
            return Err(io::Error::new(io::ErrorKind::Unsupported, cure));
        }
        let folder = self.folder.as_ref().ok_or(io::ErrorKind::NotFound)?;
        bodies::read(folder, sha256)
    }
}

impl SegmentStore for Logs {
    fn list(&self, session: SessionId) -> io::Result<Vec<SegmentName>> {
        if self.kept.contains(&session) {
            return self.list_now(session);
        }
        // One look at the folder for all of its sessions.
        if self.listed.get().is_none() {
            let folder = self.folder.as_ref();
            let all = folder.map(LogFolder::all_segments).transpose();
            let all = all.map_err(|error| io::Error::other(error.to_string()))?;
            let mut listed: BTreeMap<_, Vec<_>> = BTreeMap::new();
            for segment in all.unwrap_or_default() {
                let of_session = listed.entry(segment.session).or_default();
                // Plain and packed for a moment, while it is packed: the plain one.
                if of_session.last().map(|last: &SegmentName| last.number) != Some(segment.number) {
                    of_session.push(segment);
                }
            }
            self.listed.set(listed).ok();
        }
        let listed = self.listed.get().and_then(|listed| listed.get(&session));
        Ok(listed.cloned().unwrap_or_default())
    }

    fn list_now(&self, session: SessionId) -> io::Result<Vec<SegmentName>> {
        let listed = self.segments(session);
        listed.map_err(|failure| io::Error::other(failure.message))
    }

    fn open(&self, segment: SegmentName) -> io::Result<File> {
        self.open_segment(segment)
    }
}

impl Source for Logs {
    fn segments(&self) -> io::Result<Vec<SegmentName>> {
        let folder = self.folder.as_ref();
        let own = folder.map(LogFolder::all_segments).transpose();
        let mut all = own.map_err(io::Error::other)?.unwrap_or_default();
        all.retain(|segment| !self.kept.contains(&segment.session));
        for session in &self.kept {
            // The first of them may be pruned, or packed, and there may be more.
            all.extend(self.list_now(*session)?);
        }
        Ok(all)
    }

    fn stamp(&self, segment: SegmentName, ended: bool) -> io::Result<Option<Stamp>> {
        if self.kept.contains(&segment.session) {
            if ended {
                return Ok(None);
            }
            return Stamp::of(&self.open_segment(segment)?).map(Some);
        }
        let folder = self.folder.as_ref().ok_or(io::ErrorKind::NotFound)?;
        folder.stamp(segment, ended)
    }

    fn open(&self, segment: SegmentName) -> io::Result<File> {
        self.open_segment(segment)
    }
}

fn unreadable(log: &Path, error: &ReadError) -> Failure {
    let log = print::escape(&log.to_string_lossy());
    let error = print::escape(&error.to_string());
    Failure::new(Exit::No, format!("audit log {log}: {error}"))
}
