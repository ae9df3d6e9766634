//! What shows in the jail, from the policy and the host as it is: the list of mounts before anything
//! is protected or masked ([`super::protect`], [`super::mask`]).
//!
//! Order is by destination, so a parent always stands before what is below it; a later entry for
//! the same destination replaces the earlier one.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::unistd::AccessFlags;

use super::error::JailError;
use super::source::{
    Opened, Sources, expand, is_dir, links_on_the_way, open_path, permits, reopen_for_reading,
};
use super::spec::{Access, Mount, MountKind, covering};
use super::start::JailRequest;
use super::{identity, system};
use crate::policy::FilesystemMode;

/// The mounts so far and the descriptors behind them.
#[derive(Debug, Default)]
pub(crate) struct Layout {
    pub(crate) mounts: Vec<Mount>,
    pub(crate) sealed: Vec<PathBuf>,
    /// The folders in which protected paths count: the workspace and the profile's writable ones.
    pub(crate) projects: Vec<PathBuf>,
    /// Sockets of the host that show, by their own names.
    pub(crate) sockets: Vec<PathBuf>,
    pub(crate) sources: Sources,
}

/// Everything that shows, unprotected and unmasked.
pub(crate) fn lay_out(request: &JailRequest<'_>) -> Result<Layout, JailError> {
    let mut layout = Layout::default();
    let workspace = open_workspace(request)?;
    match request.policy.mode {
        FilesystemMode::DangerFullAccess => layout.host_root()?,
        FilesystemMode::ReadOnly | FilesystemMode::WorkspaceWrite => layout.system(request)?,
    }
    layout.private(request)?;
    layout.listed(request)?;
    let access = granted(request.policy.mode);
    layout.bind_project(workspace, access, "the workspace");
    layout.shown(request)?;
    Ok(layout)
}

/// What the mode grants on the host's files.
fn granted(mode: FilesystemMode) -> Access {
    match mode {
        FilesystemMode::ReadOnly => Access::ReadOnly,
        FilesystemMode::WorkspaceWrite | FilesystemMode::DangerFullAccess => Access::ReadWrite,
    }
}

fn open_workspace(request: &JailRequest<'_>) -> Result<Opened, JailError> {
    let refuse = |cause: String, cure| JailError::Workspace {
        path: request.workspace.to_owned(),
        cause,
        cure,
    };
    let opened = open_path(request.workspace)
        .map_err(|error| refuse(error.to_string(), "name a folder that exists with -C DIR"))?;
    if !opened.is_dir() {
        return Err(refuse(
            "not a folder".to_owned(),
            "name a folder with -C DIR",
        ));
    }
    if opened.canonical != request.workspace {
        let cause = format!("is really {}", opened.canonical.display());
        return Err(refuse(cause, "name it by that path"));
    }
    let jails_own = ["/proc", "/sys", "/dev"]
        .iter()
        .any(|own| opened.canonical.starts_with(own));
    let whole = opened.canonical == Path::new("/")
        && request.policy.mode != FilesystemMode::DangerFullAccess;
    if (jails_own && !opened.canonical.starts_with("/dev/shm")) || whole {
        let cause = "cannot be a workspace".to_owned();
        return Err(refuse(cause, "name a project's folder with -C DIR"));
    }
    let want = AccessFlags::R_OK | AccessFlags::X_OK;
    if !permits(&opened.canonical, &opened.stat, want) {
        let cause = format!(
            "owned by uid {} and not readable for uid {} without capabilities",
            opened.stat.st_uid,
            nix::unistd::geteuid()
        );
        return Err(refuse(cause, "run as its owner, or change its mode"));
    }
    Ok(opened)
}

impl Layout {
    /// Puts a mount in, instead of any that had the same destination.
    pub(crate) fn place(
        &mut self,
        dest: impl Into<PathBuf>,
        kind: MountKind,
        reason: &'static str,
    ) {
        let dest = dest.into();
        // They stand in this order, so only the one at this place can be the same.
        let place = self.mounts.partition_point(|mount| mount.dest < dest);
        let mount = Mount { dest, kind, reason };
        match self.mounts.get_mut(place) {
            Some(there) if there.dest == mount.dest => *there = mount,
            _ => self.mounts.insert(place, mount),
        }
    }

    /// Shows a host path at its own place.
    pub(crate) fn bind(&mut self, opened: Opened, access: Access, reason: &'static str) {
        self.bind_at(
            &opened.canonical,
            opened.fd,
            &opened.canonical,
            access,
            reason,
        );
    }

    /// The same, for what can hold protected paths when it can be written.
    fn bind_project(&mut self, opened: Opened, access: Access, reason: &'static str) {
        if access == Access::ReadWrite && opened.is_dir() {
            self.projects.push(opened.canonical.clone());
        }
        self.bind(opened, access, reason);
    }

    pub(crate) fn bind_at(
        &mut self,
        host: &Path,
        fd: OwnedFd,
        dest: &Path,
        access: Access,
        reason: &'static str,
    ) {
        let source = self.sources.keep(fd);
        let host = host.to_owned();
        let kind = MountKind::Bind {
            host,
            source,
            access,
        };
        self.place(dest, kind, reason);
    }

    fn tmpfs(&mut self, dest: impl Into<PathBuf>, mode: u32, reason: &'static str) {
        self.place(dest, MountKind::Tmpfs { mode }, reason);
    }

    /// The host's whole tree, for the mode that says so.
    fn host_root(&mut self) -> Result<(), JailError> {
        let root = open_path(Path::new("/")).map_err(listed_error("filesystem.mode", "/"))?;
        self.bind(root, Access::ReadWrite, "danger-full-access");
        // Never the host's: uid 0 of a jail owns sysfs files, capabilities or not.
        self.tmpfs("/sys", 0o555, "no devices of the host");
        self.sealed.push("/sys".into());
        Ok(())
    }

    /// The system paths, and a root that is read-only when everything stands.
    fn system(&mut self, request: &JailRequest<'_>) -> Result<(), JailError> {
        for entry in system::TREES.iter().chain(system::CONFIGURATION) {
            if let Ok(opened) = open_path(Path::new(entry.path)) {
                self.system_path(Path::new(entry.path), opened, entry.reason);
            }
        }
        for (path, content) in identity::files(&request.user, request.home, &request.hostname) {
            let source = self.memory(&content)?;
            self.place(path, MountKind::Copy { source }, "who and where we are");
        }
        self.sealed.push("/".into());
        Ok(())
    }

    /// One system path: a link stays a link where its target shows, a small file is copied (cheaper
    /// than a mount), the rest is bound. What the caller cannot read is left out.
    fn system_path(&mut self, path: &Path, opened: Opened, reason: &'static str) {
        if opened.canonical != path && self.shows_host(&opened.canonical) {
            let target = opened.canonical;
            self.place(path, MountKind::Symlink { target }, reason);
        } else if opened.is_dir() {
            self.bind_at(&opened.canonical, opened.fd, path, Access::ReadOnly, reason);
        } else if let Ok(file) = reopen_for_reading(&opened.fd) {
            let source = self.sources.keep(file);
            self.place(path, MountKind::Copy { source }, reason);
        }
    }

    /// Whether a host path shows at its own place by a bind.
    fn shows_host(&self, path: &Path) -> bool {
        covering(&self.mounts, path).is_some_and(
            |mount| matches!(&mount.kind, MountKind::Bind { host, .. } if *host == mount.dest),
        )
    }

    /// What every jail has for itself.
    fn private(&mut self, request: &JailRequest<'_>) -> Result<(), JailError> {
        self.place("/proc", MountKind::Proc, "the jail's processes");
        self.place("/dev", MountKind::Devices, "devices without hardware");
        self.tmpfs("/dev/shm", 0o1777, "shared memory of its own");
        self.tmpfs("/tmp", 0o1777, "scratch space of its own");
        self.tmpfs("/var/tmp", 0o1777, "scratch space of its own");
        self.tmpfs("/run", 0o755, "no sockets of the host");
        self.sealed.extend(["/proc".into(), "/dev".into()]);
        let full = request.policy.mode == FilesystemMode::DangerFullAccess;
        if !full && request.home != Path::new("/") {
            self.tmpfs(request.home, 0o700, "a home of its own");
        }
        self.mask_proc()
    }

    /// Empties what `/proc` tells about the host, where this caller could read it at all.
    fn mask_proc(&mut self) -> Result<(), JailError> {
        let root = nix::unistd::geteuid().is_root();
        for entry in system::PROC_MASKED {
            let Ok(stat) = rustix::fs::stat(entry.path) else {
                continue;
            };
            if root || stat.st_mode & 0o004 != 0 {
                self.mask(Path::new(entry.path), is_dir(&stat), entry.reason)?;
            }
        }
        Ok(())
    }

    /// Hides a path of the jail behind something empty and read-only.
    pub(crate) fn mask(
        &mut self,
        dest: &Path,
        folder: bool,
        reason: &'static str,
    ) -> Result<(), JailError> {
        if folder {
            self.tmpfs(dest, 0o555, reason);
            // Before `/proc`, `/dev` and `/`, which come last in the list of those that seal.
            self.sealed.insert(0, dest.to_owned());
        } else {
            let source = self.memory(b"")?;
            self.place(dest, MountKind::Data { source }, reason);
        }
        Ok(())
    }

    /// The profile's further paths, at the places that the kernel says they have; where the profile
    /// names them through a symbolic link, a link stands in the jail too.
    fn listed(&mut self, request: &JailRequest<'_>) -> Result<(), JailError> {
        let policy = request.policy;
        let lists = [
            ("filesystem.readable", &policy.readable, Access::ReadOnly),
            (
                "filesystem.writable",
                &policy.writable,
                granted(policy.mode),
            ),
        ];
        for (key, paths, access) in lists {
            for path in paths {
                let given = expand(path, request.home, request.workspace);
                let opened = open_path(&given).map_err(listed_error(key, &given))?;
                if policy.mode != FilesystemMode::DangerFullAccess {
                    refuse_led_out((key, &given, &opened.canonical), request)?;
                }
                let (canonical, own) = (opened.canonical.clone(), is_jails_own(&opened.canonical));
                if own {
                    return Err(JailError::Conflict {
                        key,
                        path: given,
                        cause: "every jail has its own; take it out of the profile".to_owned(),
                    });
                }
                self.bind_project(opened, access, "named by the profile");
                // The workspace has its links by itself.
                if !given.starts_with(request.workspace) {
                    self.alias(&given, canonical);
                }
            }
        }
        Ok(())
    }

    /// A link from the name that was given to where it leads, where that name does not show yet.
    pub(crate) fn alias(&mut self, given: &Path, target: PathBuf) {
        let private = match covering(&self.mounts, given) {
            None => true,
            Some(mount) => mount.dest != given && matches!(mount.kind, MountKind::Tmpfs { .. }),
        };
        if private && given != target && !given.components().any(is_parent) {
            let kind = MountKind::Symlink { target };
            self.place(given, kind, "named by the profile through a link");
        }
    }

    /// What the session shows: host files elsewhere, and generated files.
    fn shown(&mut self, request: &JailRequest<'_>) -> Result<(), JailError> {
        for (host, dest) in &request.shown {
            let opened = open_path(host).map_err(listed_error("shown", host))?;
            self.standable(dest, request)?;
            let reason = "shown by the session";
            self.bind_at(&opened.canonical, opened.fd, dest, Access::ReadOnly, reason);
        }
        for (dest, content) in &request.files {
            self.standable(dest, request)?;
            let source = self.memory(content)?;
            // In the private home a plain file, which its program may replace; elsewhere locked.
            let own = dest.starts_with(request.home);
            let kind = match covering(&self.mounts, dest).map(|above| &above.kind) {
                None => MountKind::Copy { source },
                Some(MountKind::Tmpfs { .. }) if own => MountKind::Copy { source },
                Some(_) => MountKind::Data { source },
            };
            self.place(dest, kind, "made by the session");
        }
        Ok(())
    }

    /// Makes sure that bubblewrap never creates a mount point on the host: below a bind the path must
    /// be there already. In `danger-full-access` a folder that the caller cannot write anyway (as
    /// `/etc`) is rebuilt in memory from its own entries to take the file.
    fn standable(&mut self, dest: &Path, request: &JailRequest<'_>) -> Result<(), JailError> {
        let Some(Mount {
            dest: above,
            kind: MountKind::Bind { host, .. },
            ..
        }) = covering(&self.mounts, dest)
        else {
            return Ok(());
        };
        let on_host = host.join(dest.strip_prefix(above).unwrap_or(dest));
        if on_host.symlink_metadata().is_ok() {
            return Ok(());
        }
        let folder = on_host.ancestors().skip(1).find(|folder| folder.is_dir());
        let full = request.policy.mode == FilesystemMode::DangerFullAccess;
        match folder {
            Some(folder) if full && folder == Path::new("/etc") => {
                let folder = folder.to_owned();
                self.rebuild(&folder)
                    .map_err(listed_error("shown", &folder))
            }
            _ => Err(JailError::Conflict {
                key: "shown",
                path: dest.to_owned(),
                cause: "lies in a folder of the host and is not there; create it, or choose \
                        another workspace"
                    .to_owned(),
            }),
        }
    }

    /// A folder in memory with every entry of the host's folder bound into it: new entries stay in
    /// the jail, the old ones are the host's.
    fn rebuild(&mut self, folder: &Path) -> io::Result<()> {
        self.tmpfs(folder, 0o755, "takes files that the host does not have");
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if self.mounts.iter().any(|mount| mount.dest == path) {
                continue;
            }
            let reason = "the host's own entry";
            if let Ok(target) = std::fs::read_link(&path) {
                self.place(&path, MountKind::Symlink { target }, reason);
            } else {
                let opened = open_path(&path)?;
                self.bind_at(&path, opened.fd, &path, Access::ReadWrite, reason);
            }
        }
        Ok(())
    }

    /// Names every folder above a mount that lies in memory: bubblewrap would make some of them
    /// unreadable (its parents of a 0700 folder are 0700).
    pub(crate) fn add_parents(&mut self) {
        let mut parents = BTreeSet::new();
        for mount in &self.mounts {
            for folder in mount.dest.ancestors().skip(1) {
                let in_memory = covering(&self.mounts, folder).is_none_or(|above| {
                    matches!(above.kind, MountKind::Tmpfs { .. }) && above.dest != folder
                });
                if in_memory && folder != Path::new("/") {
                    parents.insert(folder.to_owned());
                }
            }
        }
        for folder in parents {
            self.place(folder, MountKind::Folder, "holds what is mounted below");
        }
    }

    pub(crate) fn memory(&mut self, content: &[u8]) -> Result<super::spec::SourceId, JailError> {
        self.sources
            .keep_bytes("jail-file", content)
            .map_err(|source| JailError::Memory {
                what: "a file for the jail",
                source,
            })
    }
}

/// Refuses a path that a session, this one or one before, could have led elsewhere: a link in a folder
/// that sessions can write leads to what they cannot.
fn refuse_led_out(
    (key, given, canonical): (&'static str, &Path, &Path),
    request: &JailRequest<'_>,
) -> Result<(), JailError> {
    let listed = request.policy.writable.iter();
    let roots = listed.map(|path| expand(path, request.home, request.workspace));
    let roots: Vec<PathBuf> = roots
        .filter_map(|path| path.canonicalize().ok())
        // What the path itself adds does not speak for it.
        .filter(|root| !canonical.starts_with(root) || given.starts_with(root))
        .chain([request.workspace.to_owned()])
        .collect();
    let below = |path: &Path| roots.iter().any(|root| path.starts_with(root));
    let link = links_on_the_way(given).into_iter().find(|link| below(link));
    match link {
        Some(link) if !below(canonical) => Err(JailError::Conflict {
            key,
            path: given.to_owned(),
            cause: format!(
                "the link {} lies where a session could have changed it; write {}, if that is meant",
                link.display(),
                canonical.display()
            ),
        }),
        _ => Ok(()),
    }
}

/// Whether a path is one that every jail has for itself, whatever the host has there.
pub(crate) fn is_jails_own(path: &Path) -> bool {
    let at_root = ["/", "/dev", "/proc", "/sys", "/run", "/tmp", "/var/tmp"];
    at_root.iter().any(|own| path == Path::new(own))
        || ["/proc", "/sys", "/dev"]
            .iter()
            .any(|own| path.starts_with(own))
}

fn is_parent(component: std::path::Component<'_>) -> bool {
    component == std::path::Component::ParentDir
}

pub(crate) fn listed_error(
    key: &'static str,
    path: impl AsRef<Path>,
) -> impl FnOnce(io::Error) -> JailError {
    let path = path.as_ref().to_owned();
    move |source| JailError::Path { key, path, source }
}
