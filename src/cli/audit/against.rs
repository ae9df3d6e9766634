//! What `audit verify` holds logs to: the ledger beside them and, for those that the service keeps, the one of the host.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use super::FolderArg;
use super::host::{Host, Word};
use super::logs::{Home, Logs, of_user};
use super::prove::{self, Proof};
use crate::audit::folder::file_name;
use crate::audit::ledger::anchor::Anchors;
use crate::audit::ledger::read::{Bound, Contents};
use crate::audit::ledger::{FOLDER, PublicKey, segment};
use crate::audit::notary::LOGS;
use crate::cli::failure::Failure;
use crate::cli::service;
use crate::ids::SessionId;

/// The ledgers, as they were before any log was looked at: what comes into them while logs are read speaks of records
/// that were not there yet.
pub(super) struct Ledgers {
    path: PathBuf,
    contents: Contents,
    /// `None`: there is no ledger beside the logs.
    pub(super) proof: Option<Proof>,
    host: Option<Host>,
}

/// Whether there is a ledger beside these logs. Its first segment may be packed.
fn has_ledger(logs: &Path) -> bool {
    let folder = File::open(logs.join(FOLDER));
    let segments = folder.and_then(segment::list);
    segments.is_ok_and(|segments| !segments.is_empty())
}

/// A log as ledgers name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Name {
    /// In the folder of the ledger, or in that of a user below it.
    Beside(Option<u32>, SessionId),
    /// Kept by the service.
    Kept(SessionId),
}

impl Name {
    /// That of a log in one of its homes.
    pub(super) fn of(logs: &Logs, home: Home, session: SessionId) -> Self {
        match home {
            Home::Service => Self::Kept(session),
            Home::Folder(_) => Self::Beside(logs.uid(home), session),
        }
    }

    /// Whose log it is.
    pub(super) fn session(self) -> SessionId {
        match self {
            Self::Beside(_, session) | Self::Kept(session) => session,
        }
    }
}

impl Ledgers {
    /// Those of this folder, and what was kept of one of them elsewhere: of the one beside the logs, if there is one.
    pub(super) fn find(
        folder: &FolderArg,
        (noted, anchors): (Option<PublicKey>, &[PathBuf]),
    ) -> Result<Self, Failure> {
        let path = folder.path()?;
        // Who names a folder means that one.
        let host_is_meant = folder.path.is_none() && service::is_there();
        let own = !host_is_meant || has_ledger(&path);
        let mut host = None;
        if host_is_meant {
            let anchors = if own { &[][..] } else { anchors };
            host = Some(Host::find(noted.filter(|_| !own), anchors)?);
        }
        // A key that is the host's is not held against the one beside the logs.
        let is_hosts = noted.filter(|key| host.as_ref().is_some_and(|host| host.has(key)));
        if is_hosts.is_some() && own {
            host = Some(Host::find(is_hosts, &[])?);
        }
        let noted = noted.filter(|_| own && is_hosts.is_none());
        let anchors = if own {
            prove::anchors(anchors)?
        } else {
            Anchors::default()
        };
        let (contents, proof) = prove::ledger(&path, noted, anchors)?;
        Ok(Self {
            path,
            contents,
            proof,
            host,
        })
    }

    /// None, for logs that are somewhere else.
    pub(super) fn none(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            contents: Contents::default(),
            proof: None,
            host: None,
        }
    }

    /// The one of the host is of no use: none of its logs is verified.
    pub(super) fn forget_host(&mut self) {
        self.host = None;
    }

    /// What is to be said of the one of the host.
    pub(super) fn host(&self) -> Option<&Word> {
        self.host.as_ref().map(|host| &host.word)
    }

    /// Whether there is one at all.
    pub(super) fn any(&self) -> bool {
        self.proof.is_some() || self.host.as_ref().is_some_and(Host::is_there)
    }

    /// Whether there is a ledger that could say something of a log.
    pub(super) fn knows(&self, name: Name) -> bool {
        match name {
            Name::Kept(_) => self.host.as_ref().is_some_and(Host::is_there),
            Name::Beside(..) => self.proof.is_some(),
        }
    }

    /// What is said of a log.
    pub(super) fn bound(&self, name: Name) -> Option<&Bound> {
        match name {
            Name::Kept(session) => self.host.as_ref()?.bound(session),
            Name::Beside(uid, session) => self.contents.sessions.get(&(uid, session)),
        }
    }

    /// Where a log is, or was.
    pub(super) fn place(&self, name: Name) -> PathBuf {
        match name {
            Name::Beside(uid, session) => of_user(&self.path, uid).join(file_name(session)),
            Name::Kept(session) => {
                let uid = self.host.as_ref().map(|host| host.uid(session));
                of_user(Path::new(LOGS), uid).join(file_name(session))
            }
        }
    }

    /// Logs that are known and not among these.
    pub(super) fn gone(&self, here: &BTreeSet<Name>) -> Vec<(Name, &Bound)> {
        let own = self.contents.sessions.iter();
        let own = own.map(|((uid, session), bound)| (Name::Beside(*uid, *session), bound));
        let host = self.host.iter().flat_map(Host::sessions);
        let host = host.map(|((_, session), bound)| (Name::Kept(*session), bound));
        let mut gone: Vec<_> = own
            .chain(host)
            .filter(|(name, _)| !here.contains(name))
            .collect();
        gone.sort_by_key(|(name, _)| *name);
        gone
    }
}
