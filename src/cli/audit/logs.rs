//! The logs that the caller may read: those in a folder of their own and, where that is the service's own folder, in
//! those of users below it; and those that the service keeps, which the daemon opens for whoever may read them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::{FolderArg, folder_failure, log_failure};
use crate::audit::folder::{FolderError, LogFolder, file_name, users};
use crate::audit::index::{Source, Stamp};
use crate::audit::reader::ReadError;
use crate::audit::segment::{SegmentName, SegmentStore};
use crate::audit::{AuditRecord, bodies, notary};
use crate::cli::failure::Failure;
use crate::cli::{print, service};
use crate::exit::Exit;
use crate::ids::SessionId;

/// Where logs are: a folder, those of users below it as the service keeps them, and the service itself.
#[derive(Debug)]
pub(super) struct Logs {
    path: PathBuf,
    /// The folder, if there is one, and those of users below it: whose each is.
    folders: Vec<(Option<u32>, LogFolder)>,
    /// Those that the service keeps.
    kept: BTreeSet<SessionId>,
    /// Whether the service may have more by now.
    service: bool,
    /// The segments in each of the folders, as they were at the first look.
    listed: OnceLock<Vec<Listed>>,
}

/// The segments of the sessions in one folder.
type Listed = BTreeMap<SessionId, Vec<SegmentName>>;

/// Where the log of a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Home {
    /// The daemon opens it.
    Service,
    /// In this one of the folders.
    Folder(usize),
}

/// The logs of one home: two may have one of the same session.
pub(super) struct Within<'a>(&'a Logs, Home);

impl Logs {
    /// Looks where they are. `None`: nothing was ever recorded.
    pub(super) fn find(argument: &FolderArg) -> Result<Option<Self>, Failure> {
        let path = argument.path()?;
        // Who names a folder means that one.
        let service = argument.path.is_none() && service::is_there();
        let mut logs = Self {
            path,
            folders: Vec::new(),
            kept: BTreeSet::new(),
            service,
            listed: OnceLock::new(),
        };
        logs.look()?;
        logs.ask();
        Ok((!logs.folders.is_empty() || service).then_some(logs))
    }

    /// Opens the folders that are not open yet.
    fn look(&mut self) -> Result<(), Failure> {
        let users = users(&self.path).into_iter().map(Some);
        for uid in std::iter::once(None).chain(users) {
            if self.folders.iter().any(|(known, _)| *known == uid) {
                continue;
            }
            match LogFolder::open(&of_user(&self.path, uid)) {
                Ok(folder) => self.folders.push((uid, folder)),
                Err(FolderError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(folder_failure(error)),
            }
        }
        Ok(())
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

    /// Every log there is and where, sorted by session. One that the service keeps is that one, whatever else there is.
    pub(super) fn all(&self) -> Result<Vec<(SessionId, Home)>, Failure> {
        let mut all: Vec<_> = self.kept.iter().map(|id| (*id, Home::Service)).collect();
        for (place, (_, folder)) in self.folders.iter().enumerate() {
            let sessions = folder.sessions().map_err(folder_failure)?.into_iter();
            let own = sessions.filter(|session| !self.kept.contains(session));
            all.extend(own.map(|session| (session, Home::Folder(place))));
        }
        all.sort_unstable();
        Ok(all)
    }

    /// The sessions that have a log, oldest first.
    pub(super) fn sessions(&self) -> Result<Vec<SessionId>, Failure> {
        let mut all: Vec<_> = self
            .all()?
            .into_iter()
            .map(|(session, _)| session)
            .collect();
        all.dedup();
        Ok(all)
    }

    /// The same as it is now.
    pub(super) fn sessions_now(&mut self) -> Result<Vec<SessionId>, Failure> {
        self.look()?;
        self.ask();
        self.sessions()
    }

    /// Where the log of a session is; of several, the first. `None`: there is none.
    fn home(&self, session: SessionId) -> Option<Home> {
        if self.kept.contains(&session) {
            return Some(Home::Service);
        }
        let listed = self.listed().ok().into_iter().flatten();
        let mut listed = listed.map(|listed| listed.contains_key(&session));
        let known = listed.position(|known| known);
        let is_new = || {
            let mut folders = self.folders.iter();
            folders.position(|(_, folder)| {
                folder
                    .segments(session)
                    .is_ok_and(|segments| !segments.is_empty())
            })
        };
        known.or_else(is_new).map(Home::Folder)
    }

    /// The logs of this home alone.
    pub(super) fn within(&self, home: Home) -> Within<'_> {
        Within(self, home)
    }

    /// Whose logs are there, as the ledger of the folder names them.
    pub(super) fn uid(&self, home: Home) -> Option<u32> {
        match home {
            Home::Service => None,
            Home::Folder(place) => self.folders.get(place).and_then(|(uid, _)| *uid),
        }
    }

    /// Where the log of a session is, for messages.
    pub(super) fn log(&self, session: SessionId) -> PathBuf {
        let home = self.home(session).unwrap_or(Home::Folder(0));
        self.place(home).join(file_name(session))
    }

    /// Where a home is, for messages.
    pub(super) fn place(&self, home: Home) -> &Path {
        match home {
            Home::Service => Path::new(notary::LOGS),
            Home::Folder(place) => {
                let folder = self.folders.get(place);
                folder.map_or(&*self.path, |(_, folder)| folder.path())
            }
        }
    }

    /// The segments of a session's log, in their order.
    pub(super) fn segments(&self, session: SessionId) -> Result<Vec<SegmentName>, Failure> {
        let home = self.home(session);
        home.map_or_else(|| Ok(Vec::new()), |home| self.segments_in(home, session))
    }

    fn segments_in(&self, home: Home, session: SessionId) -> Result<Vec<SegmentName>, Failure> {
        let Home::Folder(place) = home else {
            return service::segments(session);
        };
        let folder = self.folders.get(place);
        let segments = folder.map(|(_, folder)| folder.segments(session));
        Ok(segments
            .transpose()
            .map_err(folder_failure)?
            .unwrap_or_default())
    }

    /// Opens a segment to read.
    pub(super) fn open_segment(&self, segment: SegmentName) -> io::Result<File> {
        let home = self.home(segment.session).ok_or(io::ErrorKind::NotFound)?;
        self.open_in(home, segment)
    }

    fn open_in(&self, home: Home, segment: SegmentName) -> io::Result<File> {
        match home {
            Home::Service => service::open_segment(segment).map(File::from),
            Home::Folder(place) => self.folder(place)?.open_segment(segment),
        }
    }

    fn folder(&self, place: usize) -> io::Result<&LogFolder> {
        let folder = self.folders.get(place).map(|(_, folder)| folder);
        folder.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// One look at each of the folders for all of their sessions.
    fn listed(&self) -> io::Result<&[Listed]> {
        if let Some(listed) = self.listed.get() {
            return Ok(listed);
        }
        let mut all = Vec::new();
        for (_, folder) in &self.folders {
            let segments = folder.all_segments();
            let segments = segments.map_err(|error| io::Error::other(error.to_string()))?;
            let mut listed = Listed::new();
            for segment in segments {
                let of_session = listed.entry(segment.session).or_default();
                // Plain and packed for a moment, while it is packed: the plain one.
                if of_session.last().map(|last: &SegmentName| last.number) != Some(segment.number) {
                    of_session.push(segment);
                }
            }
            all.push(listed);
        }
        Ok(self.listed.get_or_init(|| all))
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
            let log = self.log(session).with_file_name(segment.file_name());
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

    /// Reads a body that is kept beside a session's log, and holds it against its hash.
    pub(super) fn read_body(&self, session: SessionId, sha256: &str) -> io::Result<Vec<u8>> {
        match self.home(session).ok_or(io::ErrorKind::NotFound)? {
            Home::Service => bodies::read_by(sha256, service::open_body),
            Home::Folder(place) => bodies::read(self.folder(place)?, sha256),
        }
    }
}

/// The folder of a user's logs below that of all, or that one.
pub(super) fn of_user(path: &Path, uid: Option<u32>) -> PathBuf {
    uid.map_or_else(|| path.to_owned(), |uid| path.join(uid.to_string()))
}

impl SegmentStore for Within<'_> {
    fn list(&self, session: SessionId) -> io::Result<Vec<SegmentName>> {
        let Home::Folder(place) = self.1 else {
            return self.list_now(session);
        };
        let listed = self.0.listed()?.get(place);
        let listed = listed.and_then(|listed| listed.get(&session));
        Ok(listed.cloned().unwrap_or_default())
    }

    fn list_now(&self, session: SessionId) -> io::Result<Vec<SegmentName>> {
        let listed = self.0.segments_in(self.1, session);
        listed.map_err(|failure| io::Error::other(failure.message))
    }

    fn open(&self, segment: SegmentName) -> io::Result<File> {
        self.0.open_in(self.1, segment)
    }
}

impl SegmentStore for Logs {
    fn list(&self, session: SessionId) -> io::Result<Vec<SegmentName>> {
        let home = self.home(session);
        home.map_or_else(|| Ok(Vec::new()), |home| self.within(home).list(session))
    }

    fn list_now(&self, session: SessionId) -> io::Result<Vec<SegmentName>> {
        let home = self.home(session);
        home.map_or_else(
            || Ok(Vec::new()),
            |home| self.within(home).list_now(session),
        )
    }

    fn open(&self, segment: SegmentName) -> io::Result<File> {
        self.open_segment(segment)
    }
}

impl Source for Logs {
    fn segments(&self) -> io::Result<Vec<SegmentName>> {
        let mut all: Vec<SegmentName> = Vec::new();
        let mut known = self.kept.clone();
        for (_, folder) in &self.folders {
            let mut here = folder.all_segments().map_err(io::Error::other)?;
            // Of a session that is in two folders, the first.
            here.retain(|segment| !known.contains(&segment.session));
            known.extend(here.iter().map(|segment| segment.session));
            all.extend(here);
        }
        for session in &self.kept {
            // The first of them may be pruned, or packed, and there may be more.
            all.extend(self.within(Home::Service).list_now(*session)?);
        }
        Ok(all)
    }

    fn stamp(&self, segment: SegmentName, ended: bool) -> io::Result<Option<Stamp>> {
        match self.home(segment.session).ok_or(io::ErrorKind::NotFound)? {
            Home::Service if ended => Ok(None),
            Home::Service => Stamp::of(&self.open_segment(segment)?).map(Some),
            Home::Folder(place) => self.folder(place)?.stamp(segment, ended),
        }
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
