//! Host paths, opened once: what was checked is what gets bound, whatever happens to the name.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat, fstat, open, openat2};

use super::spec::SourceId;
use crate::sys::fd::{proc_path, sealed};

/// The descriptors that bubblewrap will inherit.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    fds: Vec<OwnedFd>,
}

/// A host path that was opened.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) fd: OwnedFd,
    /// The name of what was opened, free of symbolic links.
    pub(crate) canonical: PathBuf,
    pub(crate) stat: Stat,
}

impl Sources {
    /// Keeps a descriptor for the jail.
    pub(crate) fn keep(&mut self, fd: impl Into<OwnedFd>) -> SourceId {
        self.fds.push(fd.into());
        SourceId(self.fds.len() - 1)
    }

    /// Keeps bytes for the jail, as a file that nobody can change.
    pub(crate) fn keep_bytes(&mut self, name: &str, content: &[u8]) -> io::Result<SourceId> {
        Ok(self.keep(sealed(name, content)?))
    }

    /// A kept descriptor.
    pub(crate) fn fd(&self, source: SourceId) -> io::Result<&OwnedFd> {
        self.fds
            .get(source.0)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// All of them, in the order of their [`SourceId`].
    pub(crate) fn into_fds(self) -> Vec<OwnedFd> {
        self.fds
    }
}

impl Opened {
    pub(crate) fn is_dir(&self) -> bool {
        is_dir(&self.stat)
    }
}

/// Whether this is a folder.
pub(crate) fn is_dir(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// Opens a path for binding only (O_PATH, open(2)), following symbolic links.
pub(crate) fn open_path(path: &Path) -> io::Result<Opened> {
    let fd = open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let canonical = std::fs::read_link(proc_path(&fd))?;
    let stat = fstat(&fd)?;
    Ok(Opened {
        fd,
        canonical,
        stat,
    })
}

/// Opens a path for binding below a folder, without following any symbolic link (openat2(2)).
pub(crate) fn open_beneath(folder: impl AsFd, path: &Path) -> io::Result<(OwnedFd, Stat)> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    loop {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        match openat2(&folder, path, flags, Mode::empty(), resolve) {
            // A rename raced with the walk (openat2(2), EAGAIN).
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
            Ok(fd) => {
                let stat = fstat(&fd)?;
                return Ok((fd, stat));
            }
        }
    }
}

/// Opens what an O_PATH descriptor refers to for reading its content.
pub(crate) fn reopen_for_reading(fd: &OwnedFd) -> io::Result<File> {
    File::open(proc_path(fd))
}

/// A path of a profile: `~/` is the home, relative ones count from the workspace, and `..` is
/// resolved by the kernel when it is opened.
pub(crate) fn expand(path: &Path, home: &Path, workspace: &Path) -> PathBuf {
    match path.strip_prefix("~") {
        Ok(rest) => home.join(rest),
        Err(_) => workspace.join(path),
    }
}

/// The symbolic links on the way to what an absolute path leads to, each by its own place: whoever can
/// write the folder of one can lead the path elsewhere.
pub fn links_on_the_way(path: &Path) -> Vec<PathBuf> {
    /// As many as the kernel follows (path_resolution(7)).
    const MOST: usize = 40;
    let mut links = Vec::new();
    let mut at = PathBuf::from("/");
    let mut left: Vec<PathBuf> = Vec::new();
    let add = |left: &mut Vec<PathBuf>, path: &Path| {
        left.extend(path.components().rev().map(|part| part.as_os_str().into()));
    };
    add(&mut left, path);
    while let Some(part) = left.pop() {
        match part.components().next() {
            Some(Component::Normal(name)) => at.push(name),
            Some(Component::ParentDir) => {
                at.pop();
                continue;
            }
            Some(Component::RootDir) => {
                at = PathBuf::from("/");
                continue;
            }
            Some(Component::CurDir | Component::Prefix(_)) | None => continue,
        }
        if let Ok(target) = std::fs::read_link(&at) {
            links.push(at.clone());
            if links.len() == MOST {
                break;
            }
            at.pop();
            add(&mut left, &target);
        }
    }
    links
}

/// Whether the path is made of plain names only.
pub(crate) fn is_plain_relative(path: &Path) -> bool {
    path.components().next().is_some()
        && path
            .components()
            .all(|component| matches!(component, Component::Normal(_)))
}

/// Whether this file may be written and searched by the caller stripped of all capabilities, which
/// is what the jail is. Only root needs the second look: access(2) answers with its capabilities.
pub(crate) fn permits(path: &Path, stat: &Stat, want: nix::unistd::AccessFlags) -> bool {
    let by_kernel = nix::unistd::access(path, want).is_ok();
    if !by_kernel || !nix::unistd::geteuid().is_root() {
        return by_kernel;
    }
    let shift = match (stat.st_uid, stat.st_gid) {
        (0, _) => 6,
        (_, 0) => 3,
        _ => 0,
    };
    let bits = u32::try_from(want.bits()).unwrap_or(u32::MAX);
    (stat.st_mode >> shift) & 0o7 & bits == bits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_a_profile_are_expanded_from_home_and_workspace() {
        let expand = |path: &str| expand(Path::new(path), Path::new("/home/u"), Path::new("/ws"));
        assert_eq!(expand("~/.ssh"), Path::new("/home/u/.ssh"));
        assert_eq!(expand("~"), Path::new("/home/u"));
        assert_eq!(expand("build"), Path::new("/ws/build"));
        assert_eq!(expand("/srv/x"), Path::new("/srv/x"));
    }

    #[test]
    fn every_link_on_the_way_is_found_at_its_own_place() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let at = |path: &str| root.join(path);
        std::fs::create_dir_all(at("a/b")).unwrap();
        std::fs::write(at("a/file"), "").unwrap();
        let link = |target: &str, place: &str| {
            std::os::unix::fs::symlink(target, at(place)).unwrap();
        };
        link("a/b", "way");
        link("../file", "a/b/up");
        link("loop", "loop");
        assert!(links_on_the_way(&at("a/file")).is_empty());
        let expected = [at("way"), at("a/b/up")];
        assert_eq!(links_on_the_way(&at("way/up")), expected);
        assert_eq!(links_on_the_way(&at("a/../way/./up")), expected);
        assert_eq!(links_on_the_way(&at("loop")).len(), 40);
    }

    #[test]
    fn a_symbolic_link_beneath_a_folder_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("real")).unwrap();
        std::os::unix::fs::symlink("real", folder.path().join("link")).unwrap();
        let root = open_path(folder.path()).unwrap();
        assert!(open_beneath(&root.fd, Path::new("real")).is_ok());
        let error = open_beneath(&root.fd, Path::new("link")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(nix::libc::ELOOP));
        assert!(open_beneath(&root.fd, Path::new("../x")).is_err());
    }
}
