//! The folders of logs that one ledger speaks of: the one it lies in, and below that, as the service keeps them, a
//! folder a user. For the verbs that remove or hold logs; those that read them go by [`super::logs`].

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::{FolderArg, folder_failure, key, prove};
use crate::audit::folder::{FolderError, LogFolder, users};
use crate::audit::ledger::anchor::Anchors;
use crate::audit::ledger::read::Contents;
use crate::audit::ledger::{FOLDER, Ledger, LedgerEvent};
use crate::audit::retention::PruneError;
use crate::audit::retention::prune::alone;
use crate::cli::failure::Failure;
use crate::cli::print::escape;
use crate::exit::Exit;
use crate::ids::SessionId;

/// How long the lock of the ledger is waited for.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

/// The folders, nobody else removing anything from them until this is dropped.
pub(super) struct Places {
    path: PathBuf,
    /// In whose name the ledger speaks of each.
    pub(super) folders: Vec<(Option<u32>, LogFolder)>,
    _alone: Vec<OwnedFd>,
}

impl Places {
    /// `None`: nothing was ever recorded.
    pub(super) fn hold(argument: &FolderArg) -> Result<Option<Self>, Failure> {
        let path = argument.path()?;
        let own = match LogFolder::open(&path) {
            Ok(own) => own,
            Err(FolderError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(None);
            }
            Err(error) => return Err(folder_failure(error)),
        };
        let mut folders = vec![(None, own)];
        for uid in users(&path) {
            let folder = LogFolder::open(&path.join(uid.to_string()));
            folders.push((Some(uid), folder.map_err(folder_failure)?));
        }
        let locks = folders.iter().map(|(_, folder)| alone(folder));
        let alone = locks
            .collect::<Result<_, _>>()
            .map_err(|error| prune_failure(&error))?;
        Ok(Some(Self {
            path,
            folders,
            _alone: alone,
        }))
    }

    /// What the ledger says. `None`: there is none, or nothing is in it. An error where it does not hold.
    pub(super) fn contents(&self) -> Result<Option<Contents>, Failure> {
        let (contents, proof) = prove::ledger(&self.path, None, Anchors::default())?;
        match proof {
            Some(proof) if !proof.holds() => {
                let path = escape(&self.path.join(FOLDER).to_string_lossy());
                let why = "it does not hold, so what it says is no proof: see portcullis audit verify; nothing was done";
                Err(Failure::new(
                    Exit::No,
                    format!("audit ledger {path}: {why}"),
                ))
            }
            Some(_) if contents.entries > 0 => Ok(Some(contents)),
            _ => Ok(None),
        }
    }

    /// The ledger, to be appended to.
    pub(super) fn ledger(&self) -> Result<Ledger, Failure> {
        key::open_ledger(&self.path.join(FOLDER)).map(|(ledger, _)| ledger)
    }

    /// Puts these on record. Answers whether there is a ledger.
    pub(super) fn record(&self, events: &[LedgerEvent]) -> Result<bool, Failure> {
        if events.is_empty() || self.contents()?.is_none() {
            return Ok(events.is_empty());
        }
        let appended = self.ledger()?.append(events, PATIENCE);
        appended.map_err(key::ledger_failure)?;
        Ok(true)
    }

    /// Every session that has a log, and in which folder.
    pub(super) fn sessions(&self) -> Result<Vec<(usize, SessionId)>, Failure> {
        let mut all = Vec::new();
        for (place, (_, folder)) in self.folders.iter().enumerate() {
            let sessions = folder.sessions().map_err(folder_failure)?;
            all.extend(sessions.into_iter().map(|session| (place, session)));
        }
        Ok(all)
    }

    /// The folder, for messages.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// Nothing more was done.
pub(super) fn prune_failure(error: &PruneError) -> Failure {
    let exit = match error {
        PruneError::Segment(_, error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Exit::NoPermission
        }
        _ => Exit::Unavailable,
    };
    Failure::new(exit, escape(&error.to_string()))
}
