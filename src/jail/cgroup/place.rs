//! Where a session's groups can be made: per controller version 2 where our own group, or one that was
//! delegated, can give it to children, else the hierarchy of version 1 that has it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, Mode, OFlags, accessat, mkdirat, open};
use rustix::io::Errno;

use super::Missing;
use super::file::{put, text};
use super::hierarchy::{Hierarchy, Version};
use crate::policy::Resource;

/// The folder into which a session goes that is alone in a group it may divide: a group of version 2 that
/// gives controllers to children has no processes of its own (cgroups(7), "no internal processes").
const LEAF: &str = "portcullis";

/// The unit beside that of `portcullisd` whose group is there for the groups of sessions
/// (`systemd/portcullis-sessions.service`). Below the daemon's own no controller could be given away: the daemon is in
/// it, and systemd puts the next one there.
const FOR_SESSIONS: &str = "portcullis-sessions.service";

/// A folder in which a group is to be made.
#[derive(Debug)]
pub(super) struct Place {
    /// Its kind.
    pub(super) version: Version,
    /// The folder.
    pub(super) parent: OwnedFd,
    /// Its path, to know it again.
    path: PathBuf,
    /// What a group in it can limit.
    pub(super) resources: Vec<Resource>,
}

/// The controller that limits a resource; `None`: no controller does.
pub(super) fn controller(resource: Resource) -> Option<&'static str> {
    match resource {
        Resource::Memory => Some("memory"),
        Resource::Tasks => Some("pids"),
        Resource::Cpu => Some("cpu"),
        Resource::OpenFiles | Resource::FileSize => None,
    }
}

/// Finds a place for each resource. `root`: whether the top of a hierarchy may be used, where our own group
/// cannot be. Where any is found, a place of version 2 is among them if there is one: a group of it can be
/// killed as a whole.
pub(super) fn find(
    hierarchies: &[Hierarchy],
    wanted: &[Resource],
    root: bool,
) -> (Vec<Place>, Vec<Missing>) {
    let (mut places, mut missing) = (Vec::<Place>::new(), Vec::new());
    for resource in wanted {
        let Some(name) = controller(*resource) else {
            continue;
        };
        match one(hierarchies, name, root) {
            Ok((version, path, parent)) => {
                match places.iter_mut().find(|place| place.path == path) {
                    Some(known) => known.resources.push(*resource),
                    None => places.push(Place {
                        version,
                        parent,
                        path,
                        resources: vec![*resource],
                    }),
                }
            }
            Err(cause) => missing.push(Missing {
                resource: *resource,
                cause,
            }),
        }
    }
    let can_kill = places.iter().any(|place| place.version == Version::V2);
    if !places.is_empty() && !can_kill {
        places.extend(to_kill(hierarchies, root));
    }
    (places, missing)
}

/// The first folder that can give this controller to a group in it; else why there is none.
fn one(
    hierarchies: &[Hierarchy],
    name: &str,
    root: bool,
) -> Result<(Version, PathBuf, OwnedFd), String> {
    let mut cause = format!("no control group hierarchy has the {name} controller");
    for (version, path) in candidates(hierarchies, root) {
        let found = match version {
            Version::V1 if !has(hierarchies, &path, name) => continue,
            Version::V1 => writable(version, &path),
            Version::V2 => delegated(&path, name),
        };
        match found {
            Ok(Some(parent)) => return Ok((version, path, parent)),
            Ok(None) => {}
            Err(errno) => {
                let path = path.display();
                cause = match errno {
                    Errno::BUSY => {
                        format!("the control group {path} has other processes in it")
                    }
                    Errno::ACCESS | Errno::PERM => {
                        format!("the control group {path} is not this user's")
                    }
                    Errno::ROFS => format!("the control group {path} is read-only here"),
                    errno => format!("the control group {path}: {errno}"),
                };
            }
        }
    }
    Err(cause)
}

/// Folders to try, version 2 first, our own group before the top.
fn candidates(hierarchies: &[Hierarchy], root: bool) -> Vec<(Version, PathBuf)> {
    let mut folders = Vec::new();
    for version in [Version::V2, Version::V1] {
        for hierarchy in hierarchies.iter().filter(|h| h.version == version) {
            if version == Version::V2 {
                folders.extend(above_the_leaf(hierarchy).map(|above| (version, above)));
                let unit = for_sessions(hierarchy).filter(|unit| root && unit.is_dir());
                folders.extend(unit.map(|unit| (version, unit)));
            }
            folders.push((version, hierarchy.own.clone()));
            if root && hierarchy.mount != hierarchy.own {
                folders.push((version, hierarchy.mount.clone()));
            }
        }
    }
    folders
}

/// The group beside our own that is there for the groups of sessions, if there is one.
pub(super) fn for_sessions(hierarchy: &Hierarchy) -> Option<PathBuf> {
    let below = hierarchy.own != hierarchy.mount && hierarchy.version == Version::V2;
    let slice = hierarchy.own.parent().filter(|_| below)?;
    Some(slice.join(FOR_SESSIONS))
}

/// The group that we made room in, by going into a leaf of it.
fn above_the_leaf(hierarchy: &Hierarchy) -> Option<PathBuf> {
    let above = hierarchy.own.parent()?;
    let ours = hierarchy.own.file_name()? == LEAF && above.starts_with(&hierarchy.mount);
    ours.then(|| above.to_owned())
}

/// Whether a folder is of a hierarchy of version 1 with this controller.
fn has(hierarchies: &[Hierarchy], path: &Path, name: &str) -> bool {
    hierarchies
        .iter()
        .filter(|h| h.version == Version::V1 && path.starts_with(&h.mount))
        .any(|h| h.controllers.iter().any(|one| one == name))
}

/// A folder of version 2 that no controller is wanted of.
fn to_kill(hierarchies: &[Hierarchy], root: bool) -> Option<Place> {
    let folders = candidates(hierarchies, root).into_iter();
    let mut folders = folders.filter(|(version, _)| *version == Version::V2);
    folders.find_map(|(version, path)| {
        let parent = writable(version, &path).ok().flatten()?;
        Some(Place {
            version,
            parent,
            path,
            resources: Vec::new(),
        })
    })
}

/// The folder, if we may make groups in it and move processes from it into them.
fn writable(version: Version, path: &Path) -> Result<Option<OwnedFd>, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = open(path, flags, Mode::empty())?;
    let access = Access::WRITE_OK | Access::EXEC_OK;
    accessat(&folder, ".", access, AtFlags::empty())?;
    if version == Version::V2 {
        // Who moves a process must be able to write here for both groups' common ancestor.
        accessat(&folder, "cgroup.procs", Access::WRITE_OK, AtFlags::empty())?;
    }
    Ok(Some(folder))
}

/// The folder of version 2, if its children can have the controller. `None`: it does not have it itself.
fn delegated(path: &Path, name: &str) -> Result<Option<OwnedFd>, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = open(path, flags, Mode::empty())?;
    if !lists(&folder, "cgroup.controllers", name)? {
        return Ok(None);
    }
    let folder = writable(Version::V2, path)?;
    if let Some(folder) = &folder {
        // Some controllers could be given away all the same, but then nothing can be moved into a child.
        if !is_top(folder) && !text(folder, "cgroup.procs")?.is_empty() {
            return Err(Errno::BUSY);
        }
        if !lists(folder, "cgroup.subtree_control", name)? {
            put(folder, "cgroup.subtree_control", &format!("+{name}"))?;
        }
    }
    Ok(folder)
}

/// Whether a folder of version 2 is the host's top, which alone may have both processes and children with
/// controllers: it has no type.
fn is_top(folder: &OwnedFd) -> bool {
    text(folder, "cgroup.type") == Err(Errno::NOENT)
}

fn lists(folder: &OwnedFd, file: &str, name: &str) -> Result<bool, Errno> {
    let words = text(folder, file)?;
    Ok(words.split_ascii_whitespace().any(|word| word == name))
}

/// Where this process is alone in a group of version 2 that it may divide, it goes into a leaf of it. To be
/// called before it has children. Whatever does not work out is found again by [`find`].
pub(super) fn make_room(hierarchies: &[Hierarchy], wanted: &[Resource]) {
    let names = wanted.iter().filter_map(|resource| controller(*resource));
    for hierarchy in hierarchies.iter().filter(|h| h.version == Version::V2) {
        // The top may have processes and give controllers away all the same.
        if hierarchy.own != hierarchy.mount {
            move_aside(&hierarchy.own, names.clone()).ok();
        }
    }
}

fn move_aside<'a>(path: &Path, names: impl Iterator<Item = &'a str>) -> Result<(), Errno> {
    let Some(folder) = writable(Version::V2, path)? else {
        return Ok(());
    };
    let mut given = true;
    for name in names {
        given &= !lists(&folder, "cgroup.controllers", name)?
            || lists(&folder, "cgroup.subtree_control", name)?;
    }
    let us = rustix::process::getpid().as_raw_nonzero().to_string();
    let alone = text(&folder, "cgroup.procs")?
        .split_ascii_whitespace()
        .eq([us.as_str()]);
    if given || !alone {
        return Ok(());
    }
    match mkdirat(&folder, LEAF, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    put(&folder, &format!("{LEAF}/cgroup.procs"), "0")
}

/// Both texts of this process.
pub(super) fn seen() -> io::Result<Vec<Hierarchy>> {
    let mountinfo = std::fs::read_to_string("/proc/self/mountinfo")?;
    let membership = std::fs::read_to_string("/proc/self/cgroup")?;
    Ok(super::hierarchy::parse(&mountinfo, &membership))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_the_service_stand_in_the_unit_that_is_there_for_them() {
        let mount = tempfile::tempdir().unwrap();
        let slice = mount.path().join("portcullis.slice");
        let (own, unit) = (slice.join("portcullisd.service"), slice.join(FOR_SESSIONS));
        let hierarchies = [Hierarchy {
            version: Version::V2,
            controllers: Vec::new(),
            mount: mount.path().to_owned(),
            own: own.clone(),
        }];
        let tried = |root| -> Vec<PathBuf> {
            let tried = candidates(&hierarchies, root).into_iter();
            tried.map(|(_, path)| path).collect()
        };
        let top = mount.path().to_owned();
        assert_eq!(tried(true), [own.clone(), top.clone()]);
        std::fs::create_dir_all(&unit).unwrap();
        assert_eq!(tried(true), [unit, own.clone(), top]);
        // A user has a slice of their own, in which nothing of that name is ours.
        assert_eq!(tried(false), [own]);
    }
}
