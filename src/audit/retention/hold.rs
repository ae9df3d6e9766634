//! Legal holds: sessions of which nothing is removed, whatever the rules say, until the hold is lifted.
//!
//! A hold is a file `holds/<session>` beside the logs that says who set it, when and why. Who may set one may
//! lift it: whoever may remove the logs. Both are entries of the ledger as well, so that neither is done unseen.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use jiff::Timestamp;
use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::ids::SessionId;

/// The folder of holds, in a folder of logs.
pub const FOLDER: &str = "holds";

/// The longest file of a hold.
const MAX_FILE: u64 = 64 << 10;

/// The longest reason, in bytes.
pub const MAX_REASON: usize = 1 << 10;

/// A hold on a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hold {
    /// What is held.
    pub session: SessionId,
    /// Who holds it.
    pub by: String,
    /// Since when.
    pub since: Timestamp,
    /// Why, in one line.
    pub reason: String,
}

/// The sessions that are held. A hold whose file cannot be read holds all the same.
pub fn held(logs: impl AsFd) -> io::Result<BTreeSet<SessionId>> {
    let Some(folder) = open_folder(logs)? else {
        return Ok(BTreeSet::new());
    };
    let mut held = BTreeSet::new();
    for entry in Dir::read_from(&folder)? {
        let name = entry?;
        let name = name.file_name().to_str().ok();
        held.extend(name.and_then(|name| name.parse::<SessionId>().ok()));
    }
    Ok(held)
}

/// Every hold, by session. `Err` for one that cannot be read: it holds, but nobody knows why.
pub fn all(logs: impl AsFd) -> io::Result<Vec<(SessionId, io::Result<Hold>)>> {
    let Some(folder) = open_folder(&logs)? else {
        return Ok(Vec::new());
    };
    let held = held(logs)?.into_iter();
    Ok(held
        .map(|session| (session, read(&folder, session)))
        .collect())
}

fn read(folder: &OwnedFd, session: SessionId) -> io::Result<Hold> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(folder, session.to_string(), flags, Mode::empty())?;
    let mut text = String::new();
    File::from(file).take(MAX_FILE).read_to_string(&mut text)?;
    Ok(serde_json::from_str(&text)?)
}

/// Sets a hold, and answers whether there was none: one that stands stays as it is.
pub fn set(logs: impl AsFd, hold: &Hold) -> io::Result<bool> {
    match rustix::fs::mkdirat(&logs, FOLDER, Mode::RWXU | Mode::RGRP | Mode::XGRP) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    let folder = open_folder(logs)?.ok_or(io::ErrorKind::NotFound)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP;
    let file = match rustix::fs::openat(&folder, hold.session.to_string(), flags, mode) {
        Err(Errno::EXIST) => return Ok(false),
        opened => opened?,
    };
    let mut file = File::from(file);
    serde_json::to_writer(&mut file, hold)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    rustix::fs::fsync(&folder)?;
    Ok(true)
}

/// Lifts a hold, and answers whether there was one.
pub fn lift(logs: impl AsFd, session: SessionId) -> io::Result<bool> {
    let Some(folder) = open_folder(logs)? else {
        return Ok(false);
    };
    match rustix::fs::unlinkat(&folder, session.to_string(), AtFlags::empty()) {
        Ok(()) => {
            rustix::fs::fsync(&folder)?;
            Ok(true)
        }
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// `None`: nothing was ever held.
fn open_folder(logs: impl AsFd) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    match rustix::fs::openat(logs, FOLDER, flags, Mode::empty()) {
        Ok(folder) => Ok(Some(folder)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::folder::LogFolder;

    #[test]
    fn a_hold_stands_until_it_is_lifted_and_says_who_and_why() {
        let base = tempfile::tempdir().unwrap();
        let logs = LogFolder::open(base.path()).unwrap();
        let hold = Hold {
            session: SessionId::generate(),
            by: "ada".into(),
            since: Timestamp::now(),
            reason: "case 17".into(),
        };
        assert_eq!(held(&logs).unwrap(), BTreeSet::new());
        assert!(set(&logs, &hold).unwrap());
        assert!(!set(&logs, &hold).unwrap(), "it stands already");
        assert_eq!(held(&logs).unwrap(), BTreeSet::from([hold.session]));
        let known = all(&logs).unwrap();
        assert_eq!(known[0].1.as_ref().unwrap(), &hold);
        assert!(lift(&logs, hold.session).unwrap());
        assert!(!lift(&logs, hold.session).unwrap());
        assert_eq!(held(&logs).unwrap(), BTreeSet::new());
    }

    #[test]
    fn a_hold_that_cannot_be_read_holds() {
        let base = tempfile::tempdir().unwrap();
        let session = SessionId::generate();
        std::fs::create_dir(base.path().join(FOLDER)).unwrap();
        std::fs::write(base.path().join(FOLDER).join(session.to_string()), "?").unwrap();
        let logs = LogFolder::open(base.path()).unwrap();
        assert_eq!(held(&logs).unwrap(), BTreeSet::from([session]));
        assert!(all(&logs).unwrap()[0].1.is_err());
    }
}
