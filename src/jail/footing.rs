//! On what a jail stands: the user namespace that bubblewrap makes, or one that root made for the session.
//!
//! Owns: which of the two it is, decided once a launch; the rights that the session has in the second, until
//! nothing needs them any more; which bubblewrap may have them. Trusts: whoever made that namespace (the
//! daemon). Never: passes one of its rights on to a program of the caller's.

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::bwrap;
use super::error::JailError;
use super::source::links_on_the_way;
use super::spec::{JailSpec, MountKind, covering};
use crate::sys::capability::{Capability, keep_only};
use crate::sys::process::Spawn;
use crate::sys::userns;
use crate::wire::init::Takeover;

/// On what a jail stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Footing {
    /// bubblewrap makes a user namespace, or needs none because the caller is root.
    Own,
    /// Root made one, in which the session runs, and bubblewrap is its uid 0 for as long as it mounts.
    Given,
}

/// Where bubblewrap is looked for that will have rights which the caller does not: folders that are root's on
/// every system, whatever the caller's PATH says.
const SYSTEM_PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";

impl Footing {
    /// Which it is. From now on no program that is executed has any capability by us. To be called before the
    /// first is.
    pub fn settle() -> io::Result<Self> {
        if !userns::is_given()? {
            return Ok(Self::Own);
        }
        if rustix::thread::no_new_privs()? {
            let why = "no_new_privs is set, by which bubblewrap has no rights; start the session without it";
            return Err(io::Error::other(why));
        }
        let kept = [
            Capability::CAP_SETUID,
            Capability::CAP_SYS_ADMIN,
            Capability::CAP_KILL,
        ];
        keep_only(&kept).map_err(io::Error::other)?;
        Ok(Self::Given)
    }

    /// The jail runs, and so does every helper: what is left is the right to end them, which are uid 0's.
    pub fn step_down(self) -> io::Result<()> {
        match self {
            Self::Own => Ok(()),
            Self::Given => keep_only(&[Capability::CAP_KILL]).map_err(io::Error::other),
        }
    }

    /// A bubblewrap: as [`bwrap::find`] has it, or one that only root can have put where it is.
    pub fn find_bwrap(
        self,
        path: &OsStr,
        trusted: impl Fn(&Path) -> bool,
        bundled: &[PathBuf],
    ) -> Result<PathBuf, JailError> {
        match self {
            Self::Own => bwrap::find(path, trusted, bundled),
            Self::Given => {
                let root = userns::uid_of_root().map_err(|source| JailError::Start {
                    what: "bubblewrap",
                    source,
                })?;
                bwrap::find(SYSTEM_PATH.as_ref(), |found| is_roots(found, root), &[])
                    .map_err(|_| JailError::BwrapNotRoots)
            }
        }
    }

    /// Has a program of ours started with every capability over the jail, where that takes more than the caller
    /// has: elsewhere it joins the jail's user namespace, which is the caller's own.
    pub(crate) fn raise(self, spawn: Spawn) -> Spawn {
        match self {
            Self::Own => spawn,
            Self::Given => spawn.run_as_root_of_namespace(),
        }
    }

    /// What init does first: what bubblewrap made in memory is uid 0's, and so is init.
    pub(super) fn takeover(self, spec: &JailSpec, uid: u32) -> Option<Takeover> {
        (self == Self::Given).then(|| Takeover {
            uid,
            give: made_in_memory(spec),
            folder: spec.workspace.clone(),
        })
    }
}

/// What bubblewrap makes in folders in memory that stay writable, deepest first: whoever gives away a folder
/// before what is in it no longer reaches that. What is read-only stays uid 0's, and nobody can change it.
fn made_in_memory(spec: &JailSpec) -> Vec<PathBuf> {
    let writable = |path: &Path| {
        covering(&spec.mounts, path).is_some_and(|above| {
            matches!(above.kind, MountKind::Tmpfs { .. }) && !spec.sealed.contains(&above.dest)
        })
    };
    let made = spec.mounts.iter().filter(|mount| match mount.kind {
        MountKind::Tmpfs { .. } => writable(&mount.dest),
        MountKind::Folder | MountKind::Symlink { .. } | MountKind::Copy { .. } => {
            mount.dest.parent().is_some_and(writable)
        }
        _ => false,
    });
    let made = made.map(|mount| mount.dest.clone());
    made.rev().collect()
}

/// Whether nobody but root can have put this program there, by any name on its way. Inside, all whom the
/// namespace does not know show under root's number: the folders are ones of [`SYSTEM_PATH`], in which an admin
/// lets nobody else write.
fn is_roots(program: &Path, root: u32) -> bool {
    let Ok(resolved) = program.canonicalize() else {
        return false;
    };
    let mut names = links_on_the_way(program);
    names.extend([program.to_owned(), resolved]);
    names.iter().flat_map(|name| name.ancestors()).all(|path| {
        path.symlink_metadata().is_ok_and(|metadata| {
            // The mode of a link means nothing.
            let shared = metadata.mode() & 0o022 != 0 && !metadata.is_symlink();
            metadata.uid() == root && !shared
        })
    })
}

#[cfg(test)]
mod tests {
    use super::super::spec::{Access, Mount, SourceId};
    use super::*;

    #[test]
    fn a_program_is_roots_only_if_every_step_to_it_is() {
        let folder = tempfile::tempdir_in("/var").unwrap_or_else(|_| tempfile::tempdir().unwrap());
        // Where tests run as root, and below a folder that only root can write.
        let root = nix::unistd::geteuid().as_raw();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("bin")).unwrap();
        std::fs::write(at("bin/bwrap"), "").unwrap();
        std::os::unix::fs::symlink(at("bin/bwrap"), at("link")).unwrap();
        let mode = |name: &str, mode| {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(at(name), PermissionsExt::from_mode(mode)).unwrap();
        };
        let judge = || {
            (
                is_roots(&at("bin/bwrap"), root),
                is_roots(&at("link"), root),
            )
        };
        let good = judge();
        assert_eq!(good.0, good.1);
        if root == 0 && folder.path().starts_with("/var") {
            assert!(good.0);
        }
        for (name, bad) in [("bin/bwrap", 0o775), ("bin", 0o777), ("bin", 0o775)] {
            mode(name, bad);
            assert_eq!(judge(), (false, false), "{name} {bad:o}");
            mode(name, 0o755);
        }
        assert!(!is_roots(&at("bin/bwrap"), root + 1));
        assert!(!is_roots(&at("nothing"), root));
    }

    #[test]
    fn only_what_is_made_in_memory_and_stays_writable_is_given_away() {
        let mount = |dest: &str, kind| Mount {
            dest: dest.into(),
            kind,
            reason: "test",
        };
        let source = SourceId(0);
        let tmpfs = MountKind::Tmpfs { mode: 0o700 };
        let bind = MountKind::Bind {
            host: "/host".into(),
            source,
            access: Access::ReadWrite,
        };
        let spec = JailSpec {
            footing: Footing::Given,
            hostname: "jail".to_owned(),
            workspace: "/home/u/work".into(),
            mounts: vec![
                mount("/etc/passwd", MountKind::Copy { source }),
                mount("/home", MountKind::Folder),
                mount("/home/u", tmpfs.clone()),
                mount("/home/u/.codex", MountKind::Folder),
                mount("/home/u/.codex/config.toml", MountKind::Copy { source }),
                mount("/home/u/.codex/locked", MountKind::Data { source }),
                mount("/home/u/link", MountKind::Symlink { target: "x".into() }),
                mount("/home/u/work", bind),
                mount("/home/u/work/.git", MountKind::Copy { source }),
                mount("/home/u/work/mask", tmpfs.clone()),
                mount("/tmp", tmpfs),
            ],
            sealed: vec!["/home/u/work/mask".into(), "/".into()],
            reports_pid: false,
        };
        let expected = [
            "/tmp",
            "/home/u/link",
            "/home/u/.codex/config.toml",
            "/home/u/.codex",
            "/home/u",
        ];
        let takeover = Footing::Given.takeover(&spec, 4001).unwrap();
        assert_eq!(takeover.give, expected.map(PathBuf::from));
        assert_eq!(Footing::Own.takeover(&spec, 4001), None);
    }
}
