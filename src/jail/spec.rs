//! What a jail is made of: an ordered list of mounts, each with its reason. Pure data.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::footing::Footing;

/// A jail, ready to be turned into bubblewrap's arguments ([`super::bwrap::argv`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JailSpec {
    /// In whose user namespace.
    pub footing: Footing,
    /// The name that uname(2) gives inside.
    pub hostname: String,
    /// The working directory inside.
    pub workspace: PathBuf,
    /// In this order; a parent stands before what is mounted below it.
    pub mounts: Vec<Mount>,
    /// Mount points that turn read-only once everything stands, in this order.
    pub sealed: Vec<PathBuf>,
    /// Whether bubblewrap reports the jail's first process to the sweeper of placeholders.
    pub reports_pid: bool,
}

/// One thing that shows in the jail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where, as an absolute path in the jail.
    pub dest: PathBuf,
    /// What.
    pub kind: MountKind,
    /// Why, for reviewers and `doctor`.
    pub reason: &'static str,
}

/// Place of a descriptor in the list that bubblewrap inherits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceId(pub usize);

/// Whether a bind can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Never.
    ReadOnly,
    /// With the caller's own rights.
    ReadWrite,
}

/// The kinds of mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountKind {
    /// A host file or folder, by a descriptor that was opened and checked beforehand.
    Bind {
        /// Its path on the host, to know what shows where; never opened again.
        host: PathBuf,
        /// The descriptor.
        source: SourceId,
        /// Whether it can be written.
        access: Access,
    },
    /// A folder above a mount, readable for everyone.
    Folder,
    /// An empty folder in memory.
    Tmpfs {
        /// Its permission bits.
        mode: u32,
    },
    /// A symbolic link.
    Symlink {
        /// Its text.
        target: PathBuf,
    },
    /// A fresh procfs that knows the jail's processes only.
    Proc,
    /// A minimal `/dev`: null, zero, full, random, urandom, tty, and pseudo-terminals of its own.
    Devices,
    /// A copy of a descriptor's content. Immutable only below a sealed mount.
    Copy {
        /// The descriptor.
        source: SourceId,
    },
    /// A copy of a descriptor's content as a read-only mount: immutable anywhere.
    Data {
        /// The descriptor.
        source: SourceId,
    },
}

impl JailSpec {
    /// The paths that Landlock lets be read (and executed), and those it lets be written as well:
    /// the mounts without those below one of the same kind, and for a copied file the folder that it
    /// is in. What is read-only or masked below a writable path is held by its mount alone: Landlock
    /// rules only add.
    pub fn landlock_paths(&self) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let (mut readable, mut writable) = (BTreeSet::new(), BTreeSet::new());
        for mount in &self.mounts {
            let dest = mount.dest.as_path();
            match &mount.kind {
                MountKind::Folder | MountKind::Symlink { .. } | MountKind::Devices => false,
                MountKind::Bind {
                    access: Access::ReadWrite,
                    ..
                } => writable.insert(dest),
                MountKind::Tmpfs { .. } if !self.sealed.contains(&mount.dest) => {
                    writable.insert(dest)
                }
                MountKind::Copy { .. } => readable.insert(dest.parent().unwrap_or(dest)),
                MountKind::Bind { .. }
                | MountKind::Tmpfs { .. }
                | MountKind::Proc
                | MountKind::Data { .. } => readable.insert(dest),
            };
        }
        let writable = outermost(writable);
        let mut readable = outermost(readable);
        readable.retain(|path| !writable.iter().any(|above| path.starts_with(above)));
        (readable, writable)
    }
}

/// Those that lie below no other.
fn outermost(paths: BTreeSet<&Path>) -> Vec<PathBuf> {
    let mut kept: Vec<PathBuf> = Vec::new();
    for path in paths {
        // In order, so what is below a path follows it.
        if !kept.last().is_some_and(|above| path.starts_with(above)) {
            kept.push(path.to_owned());
        }
    }
    kept
}

/// The mount in which a path lies: of all at or above it the deepest, and of those the last.
pub fn covering<'m>(mounts: &'m [Mount], path: &Path) -> Option<&'m Mount> {
    let mounted = |mount: &&Mount| !matches!(mount.kind, MountKind::Folder);
    mounts
        .iter()
        .filter(|mount| path.starts_with(&mount.dest))
        .filter(mounted)
        .max_by_key(|mount| mount.dest.components().count())
}
