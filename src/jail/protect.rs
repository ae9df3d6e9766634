//! Protected paths: read-only inside every writable root, present or not.
//!
//! A path that is there is bound read-only over itself. One that is not gets a placeholder (an empty
//! folder that git and people overlook, [`super::placeholder`]) where its first missing component
//! would be, bound read-only: what cannot be made cannot be filled. Every folder between the root and
//! a mount is pinned by a bind over itself, because rename(2) refuses mount points alone (EBUSY): a
//! folder above one could be moved away and made anew.
//!
//! What this cannot hold: when a process *outside* replaces a protected file by rename(2), the kernel
//! drops the mount on it from every jail (detach_mounts, Linux 3.18), and the new file is writable
//! inside until the next session.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::Stat;

use super::error::JailError;
use super::layout::Layout;
use super::placeholder::{AHEAD, Place, Sweeper, is_placeholder};
use super::source::{is_dir, is_plain_relative, open_beneath};
use super::spec::{Access, Mount, MountKind, SourceId, covering};
use super::start::JailRequest;

/// A bind that can be written, at its own place.
struct Root {
    path: PathBuf,
    source: SourceId,
}

/// Protects every writable root. Starts the sweeper when there are placeholders and none runs.
pub(crate) fn apply(
    layout: &mut Layout,
    request: &JailRequest<'_>,
    sweeper: &mut Option<Sweeper>,
) -> Result<(), JailError> {
    for root in writable_roots(layout) {
        if !layout.projects.contains(&root.path) {
            continue;
        }
        // Claims go ahead of their answers, because the sweeper is just starting and takes a millisecond:
        // this looks at the other paths meanwhile.
        let mut claims = VecDeque::new();
        for path in &request.policy.protected {
            claims.extend(protect(layout, &root, path, sweeper, request)?);
            if claims.len() == AHEAD {
                settle(layout, &root, claims.pop_front(), sweeper.as_mut())?;
            }
        }
        while !claims.is_empty() {
            settle(layout, &root, claims.pop_front(), sweeper.as_mut())?;
        }
    }
    pin_all(layout, |mount| {
        matches!(mount.kind, MountKind::Bind { .. } | MountKind::Data { .. })
    })
}

/// Binds every folder between a writable root and these mounts over itself, so that none of them can be
/// moved away. Not for a profile's masks: these follow their folder wherever it is moved.
pub(crate) fn pin_all(
    layout: &mut Layout,
    holds: impl Fn(&Mount) -> bool,
) -> Result<(), JailError> {
    for root in writable_roots(layout) {
        pin(layout, &root, &holds)?;
    }
    Ok(())
}

fn writable_roots(layout: &Layout) -> Vec<Root> {
    let root = |mount: &Mount| match &mount.kind {
        MountKind::Bind {
            host,
            source,
            access: Access::ReadWrite,
        } if *host == mount.dest => Some(Root {
            path: host.clone(),
            source: *source,
        }),
        _ => None,
    };
    layout.mounts.iter().filter_map(root).collect()
}

/// What stands at a protected path.
enum Found {
    /// This part of it, to be bound read-only.
    Stands(PathBuf, OwnedFd),
    /// Nothing from this part on; the folder above it.
    Missing(PathBuf, OwnedFd, Stat),
}

/// A placeholder that was asked for.
struct Claim<'p> {
    /// The protected path that wants it.
    path: &'p Path,
    /// As much of it as the placeholder stands for.
    part: PathBuf,
    /// The folder that it is to stand in.
    folder: Stat,
}

/// Protects what stands at a path; claims a placeholder where nothing does.
fn protect<'p>(
    layout: &mut Layout,
    root: &Root,
    path: &'p Path,
    sweeper: &mut Option<Sweeper>,
    request: &JailRequest<'_>,
) -> Result<Option<Claim<'p>>, JailError> {
    if !is_plain_relative(path) {
        let cause = "is not a plain path below the workspace".to_owned();
        return Err(refuse(root, path, (cause, "write it as .git/hooks")));
    }
    let found = seek(layout, root, path);
    match found.map_err(|error| refuse(root, path, explain_seek(&error)))? {
        Found::Stands(part, fd) => {
            protect_part(layout, root, &part, fd);
            Ok(None)
        }
        Found::Missing(part, folder, stat) => {
            let sweeper = match sweeper {
                Some(sweeper) => sweeper,
                None => sweeper.insert(Sweeper::start(request.init)?),
            };
            sweeper.claim(&folder, part.file_name().unwrap_or_default())?;
            let folder = stat;
            Ok(Some(Claim { path, part, folder }))
        }
    }
}

/// Binds the placeholder of the oldest claim.
fn settle(
    layout: &mut Layout,
    root: &Root,
    claim: Option<Claim<'_>>,
    sweeper: Option<&mut Sweeper>,
) -> Result<(), JailError> {
    let (Some(Claim { path, part, folder }), Some(sweeper)) = (claim, sweeper) else {
        return Ok(());
    };
    match sweeper.answer()? {
        Place::Stands(fd) => protect_part(layout, root, &part, fd),
        Place::Forbidden(errno) if cannot_be_made_inside(errno, &folder) => {}
        Place::Forbidden(errno) => return Err(refuse(root, path, explain_claim(errno))),
    }
    Ok(())
}

fn refuse(root: &Root, path: &Path, (cause, cure): (String, &'static str)) -> JailError {
    JailError::Protected {
        root: root.path.clone(),
        path: path.to_owned(),
        cause,
        cure,
    }
}

/// Cause and cure when a protected path cannot be walked.
fn explain_seek(error: &io::Error) -> (String, &'static str) {
    if error.raw_os_error() == Some(nix::libc::ELOOP) {
        let cause = "a symbolic link is in the way, so what it protects could be replaced";
        return (cause.to_owned(), "replace the link by what it points to");
    }
    (error.to_string(), "make it readable")
}

/// Cause and cure when there is no placeholder.
fn explain_claim(errno: i32) -> (String, &'static str) {
    if errno == nix::libc::EWOULDBLOCK {
        let cause = "another process holds a lock on it".to_owned();
        return (cause, "end the sessions that use this workspace");
    }
    let cause = io::Error::from_raw_os_error(errno).to_string();
    let cure = "make the folder that holds it writable, or use mode read-only";
    (cause, cure)
}

/// Whether a folder in which we could not make a placeholder is one in which the jail cannot make
/// anything either. The owner could, after a chmod(2).
fn cannot_be_made_inside(errno: i32, folder: &Stat) -> bool {
    match errno {
        nix::libc::EROFS => true,
        nix::libc::EACCES | nix::libc::EPERM => folder.st_uid != nix::unistd::geteuid().as_raw(),
        _ => false,
    }
}

/// Walks down a protected path, component by component.
fn seek(layout: &Layout, root: &Root, path: &Path) -> io::Result<Found> {
    let (mut folder, mut stat) = open_beneath(layout.sources.fd(root.source)?, Path::new("."))?;
    let mut part = PathBuf::new();
    let mut components = path.components();
    loop {
        let component = components.next().ok_or(io::ErrorKind::InvalidInput)?;
        part.push(component);
        match open_beneath(&folder, Path::new(&component)) {
            Ok((fd, found)) => {
                // A placeholder is claimed, not just bound: its sweeper must know that we use it.
                if is_placeholder(&fd, &found) {
                    return Ok(Found::Missing(part, folder, stat));
                }
                if !is_dir(&found) || part == path {
                    return Ok(Found::Stands(part, fd));
                }
                (folder, stat) = (fd, found);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Found::Missing(part, folder, stat));
            }
            Err(error) => return Err(error),
        }
    }
}

fn protect_part(layout: &mut Layout, root: &Root, part: &Path, fd: OwnedFd) {
    let dest = root.path.join(part);
    let shows = covering(&layout.mounts, &dest).is_some_and(|mount| mount.dest == root.path);
    // Below another mount it does not show, or is that mount's own affair.
    if shows {
        layout.bind_at(&dest.clone(), fd, &dest, Access::ReadOnly, "protected");
    }
}

fn pin(layout: &mut Layout, root: &Root, holds: &impl Fn(&Mount) -> bool) -> Result<(), JailError> {
    let mut between = BTreeSet::new();
    for mount in &layout.mounts {
        if holds(mount) {
            for folder in mount.dest.ancestors().skip(1) {
                let lies_in = covering(&layout.mounts, folder);
                if folder != root.path && lies_in.is_some_and(|above| above.dest == root.path) {
                    between.insert(folder.to_owned());
                }
            }
        }
    }
    for folder in between {
        let below = folder.strip_prefix(&root.path).unwrap_or(&folder);
        let opened = layout
            .sources
            .fd(root.source)
            .and_then(|root| open_beneath(root, below));
        let (fd, _) = opened.map_err(|error| JailError::Protected {
            root: root.path.clone(),
            path: below.to_owned(),
            cause: error.to_string(),
            cure: "name the workspace and the writable paths without symbolic links",
        })?;
        let reason = "cannot be moved away from under what it holds";
        layout.bind_at(&folder.clone(), fd, &folder, Access::ReadWrite, reason);
    }
    Ok(())
}
