//! The file that the index is kept in: its tables, who may open it, and the lock beside it.
//!
//! The lock (flock(2) on `<file>.lock`) is held as long as the file is open: shared to look things up,
//! exclusive to change or replace it. A new index is built beside and renamed into place when it is whole.

use std::cell::OnceCell;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use rustix::fs::{FlockOperation, flock};

use super::Trouble;
use super::build::Segments;

/// The tables. Sets (`post`) lie block by block: a block is written behind the others, and a search that has
/// enough with the latest blocks never sees the rest. `host` has every host once, for names with stars.
///
/// Whatever has others is not ours, or of another version: it is made anew.
const SCHEMA: &str = "\
CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE segment (id INTEGER PRIMARY KEY, session TEXT NOT NULL, number INTEGER NOT NULL, \
packed INTEGER NOT NULL, stamp TEXT NOT NULL, bytes INTEGER NOT NULL, seq INTEGER NOT NULL, \
last INTEGER, head TEXT, broken TEXT, ended INTEGER NOT NULL, gone INTEGER NOT NULL);
CREATE TABLE links (session TEXT PRIMARY KEY, open BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE block (id INTEGER PRIMARY KEY, rows INTEGER NOT NULL, oldest INTEGER NOT NULL, \
newest INTEGER NOT NULL);
CREATE TABLE page (id INTEGER PRIMARY KEY, rows BLOB NOT NULL);
CREATE TABLE post (block INTEGER NOT NULL, dim INTEGER NOT NULL, value TEXT NOT NULL, \
bits BLOB NOT NULL, PRIMARY KEY (block, dim, value)) WITHOUT ROWID;
CREATE TABLE sum (block INTEGER PRIMARY KEY, bytes BLOB NOT NULL);
CREATE TABLE host (name TEXT PRIMARY KEY) WITHOUT ROWID;
";

/// Changes with the meaning of what is kept.
const VERSION: &str = "2";

/// An open index file and its lock.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) db: Connection,
    /// Its list of logs, once it was read; see [`super::build::segments`].
    pub(super) segments: OnceCell<Segments>,
    _lock: File,
}

/// How the lock is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    Shared,
    Exclusive,
}

/// Waits for the lock of an index, and makes its folder for the caller alone.
pub(super) fn lock(path: &Path, hold: Hold) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
    }
    let file = open_own(&with_suffix(path, ".lock"))?;
    let operation = match hold {
        Hold::Shared => FlockOperation::LockShared,
        Hold::Exclusive => FlockOperation::LockExclusive,
    };
    loop {
        match flock(&file, operation) {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other.map(|()| file)?),
        }
    }
}

/// Makes or opens a file that belongs to the caller and that nobody else may read.
fn open_own(path: &Path) -> io::Result<File> {
    let nofollow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(nofollow)
        .open(path)?;
    let stat = file.metadata()?;
    let me = rustix::process::geteuid().as_raw();
    if !stat.is_file() || stat.uid() != me {
        let why = format!("{} is not a file of yours; remove it", path.display());
        return Err(io::Error::other(why));
    }
    Ok(file)
}

impl Store {
    fn of(db: Connection, lock: File) -> Self {
        Self {
            db,
            segments: OnceCell::new(),
            _lock: lock,
        }
    }

    /// Opens an index of this folder. `None`: there is none yet.
    pub(super) fn open(path: &Path, folder: &str, lock: File) -> Result<Option<Self>, Trouble> {
        match path.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
            Ok(_) => drop(open_own(path)?),
        }
        let db = connect(path)?;
        defend(&db)?;
        let schema: String = db.query_row(
            "SELECT coalesce(group_concat(sql, ';' || char(10) ORDER BY rowid), '') || ';' || char(10) \
             FROM sqlite_schema WHERE sql IS NOT NULL",
            [],
            |row| row.get(0),
        )?;
        if schema != SCHEMA {
            return Err(Trouble::disagrees("it is of another version"));
        }
        let about = |key: &str| -> Result<String, Trouble> {
            let query = "SELECT coalesce((SELECT value FROM about WHERE key = ?), '')";
            Ok(db.query_row(query, [key], |row| row.get(0))?)
        };
        if about("version")? != VERSION {
            return Err(Trouble::disagrees("it is of another version"));
        }
        if about("folder")? != folder {
            return Err(Trouble::disagrees("it is of another folder"));
        }
        Ok(Some(Self::of(db, lock)))
    }

    /// Makes an empty one beside the place of the old; [`Store::put_in_place`] puts it there.
    pub(super) fn create(path: &Path, folder: &str, lock: File) -> Result<Self, Trouble> {
        let new = with_suffix(path, ".new");
        for left in [&new, &with_suffix(&new, "-journal")] {
            remove(left)?;
        }
        drop(open_own(&new)?);
        let db = connect(&new)?;
        // Nothing reads it before it is whole.
        db.execute_batch(
            "PRAGMA page_size = 8192; PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; \
             PRAGMA locking_mode = EXCLUSIVE; PRAGMA cache_size = -262144;",
        )?;
        db.execute_batch(SCHEMA)?;
        let insert = "INSERT INTO about VALUES (?, ?)";
        db.execute(insert, ["version", VERSION])?;
        db.execute(insert, ["folder", folder])?;
        Ok(Self::of(db, lock))
    }

    /// Puts the new one in the place of the old, and opens it.
    pub(super) fn put_in_place(self, path: &Path) -> Result<Self, Trouble> {
        let Self {
            db, _lock: lock, ..
        } = self;
        db.close().map_err(|(_, error)| error)?;
        let new = with_suffix(path, ".new");
        File::open(&new)?.sync_all()?;
        remove(&with_suffix(path, "-journal"))?;
        std::fs::rename(&new, path)?;
        let db = connect(path)?;
        defend(&db)?;
        Ok(Self::of(db, lock))
    }
}

fn connect(path: &Path) -> Result<Connection, Trouble> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    // The folders above may be links; the file itself has been looked at.
    let folder = path.parent().unwrap_or(Path::new("/")).canonicalize()?;
    let real = path
        .file_name()
        .map_or(folder.clone(), |name| folder.join(name));
    let db = Connection::open_with_flags(real, flags)?;
    Ok(db)
}

/// Whoever could write the file gets nothing executed by it.
fn defend(db: &Connection) -> Result<(), Trouble> {
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    db.execute_batch("PRAGMA cell_size_check = ON; PRAGMA cache_size = -65536;")?;
    Ok(())
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
