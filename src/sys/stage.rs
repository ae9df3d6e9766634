//! A stage: what a child is to bind, made ready under plain names in a mount namespace of its own, with the
//! rights of the user who starts it (mount_namespaces(7)). The child, which has other rights, then needs none
//! over the folders on the way.
//!
//! By descriptors throughout (open_tree(2), move_mount(2), Linux 5.2; mount_setattr(2), Linux 5.12): what is
//! bound is what was opened before, whatever has its name by now, and it lands where no link has led.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::libc;
use nix::sched::CloneFlags;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat, openat2};
use rustix::io::Errno;

use super::process::Spawn;

/// One thing on a stage.
#[derive(Debug)]
pub struct Prop {
    from: CString,
    to: CString,
    /// Device and inode: what it must be.
    identity: (u64, u64),
    folder: bool,
    read_only: bool,
    /// Not a place of its own, but one below an earlier prop.
    within: bool,
}

impl Prop {
    /// Shows `host`, which is what is open, at `to`: directly below the stage, or below an earlier prop.
    pub fn new(
        open: impl AsFd,
        host: &Path,
        to: &Path,
        within: bool,
        read_only: bool,
    ) -> io::Result<Self> {
        let stat = fstat(open)?;
        Ok(Self {
            from: CString::new(host.as_os_str().as_bytes())?,
            to: CString::new(to.as_os_str().as_bytes())?,
            identity: (stat.st_dev, stat.st_ino),
            folder: FileType::from_raw_mode(stat.st_mode) == FileType::Directory,
            read_only,
            within,
        })
    }

    /// Allocates nothing.
    fn set_up(&self) -> io::Result<()> {
        let tree = open_tree(&self.from)?;
        let stat = fstat(&tree)?;
        if (stat.st_dev, stat.st_ino) != self.identity {
            return Err(Errno::STALE.into());
        }
        set_attributes(&tree, self.read_only)?;
        let mode = Mode::from_raw_mode(0o755);
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if !self.within && self.folder {
            mkdirat(CWD, &self.to, mode)?;
        } else if !self.within {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            drop(openat(CWD, &self.to, flags, mode)?);
        }
        let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let place = openat2(CWD, &self.to, flags, Mode::empty(), resolve)?;
        move_mount(&tree, &place)
    }
}

impl Spawn {
    /// Has the child do this before it is executed: go into a mount namespace of its own, and have these there,
    /// in this order, in an empty folder in memory that covers `stage`. It needs CAP_SYS_ADMIN in its user
    /// namespace.
    #[must_use]
    pub fn on_stage(self, stage: &'static CStr, props: Vec<Prop>) -> Self {
        self.before_exec(move || {
            nix::sched::unshare(CloneFlags::CLONE_NEWNS)?;
            cover(stage)?;
            props.iter().try_for_each(Prop::set_up)
        })
    }
}

/// An empty folder in memory over another.
fn cover(folder: &CStr) -> io::Result<()> {
    let (kind, options) = (c"tmpfs", c"mode=0755,size=1m");
    #[expect(unsafe_code, reason = "mount(2)")]
    // SAFETY: all four are strings that end in NUL and outlive the call; the kernel writes to none.
    let result = unsafe {
        libc::mount(
            kind.as_ptr(),
            folder.as_ptr(),
            kind.as_ptr(),
            libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC,
            options.as_ptr().cast(),
        )
    };
    answer(result.into()).map(drop)
}

/// A copy of a mount with all below it, nowhere yet.
fn open_tree(path: &CStr) -> io::Result<OwnedFd> {
    let flags =
        libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_RECURSIVE.cast_unsigned();
    #[expect(unsafe_code, reason = "open_tree(2)")]
    // SAFETY: the path is a string that ends in NUL and outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
    let number = i32::try_from(answer(result)?).map_err(|_| Errno::BADF)?;
    #[expect(unsafe_code, reason = "a new descriptor becomes an owner")]
    // SAFETY: the kernel has just made it, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// No set-user-ID, no devices, and read-only if asked, for all of a tree.
fn set_attributes(tree: &OwnedFd, read_only: bool) -> io::Result<()> {
    let read_only = if read_only {
        libc::MOUNT_ATTR_RDONLY
    } else {
        0
    };
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | read_only,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    #[expect(unsafe_code, reason = "mount_setattr(2)")]
    // SAFETY: the path is empty and the attributes are as long as is said; the kernel reads both.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw const attributes,
            size_of_val(&attributes),
        )
    };
    answer(result).map(drop)
}

fn move_mount(tree: &OwnedFd, place: &OwnedFd) -> io::Result<()> {
    let empty = c"".as_ptr();
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    let (tree, place) = (tree.as_raw_fd(), place.as_raw_fd());
    #[expect(unsafe_code, reason = "move_mount(2)")]
    // SAFETY: both paths are empty, and the kernel reads them.
    let result = unsafe { libc::syscall(libc::SYS_move_mount, tree, empty, place, empty, flags) };
    answer(result).map(drop)
}

fn answer(result: libc::c_long) -> io::Result<libc::c_long> {
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
