//! Where bubblewrap was uid 0 of a namespace that root made, init is, too: it gives the user what is the
//! user's, and becomes the user.
//!
//! Never: gives away what is not uid 0's and on a file system in memory, so nothing of the host; follows a
//! link; keeps a right.

use std::fmt::Display;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, chownat, fstat, fstatfs, openat2};
use rustix::io::Errno;
use rustix::process::Uid;
use rustix::thread::set_thread_res_uid;

use crate::sys::capability;
use crate::wire::init::Takeover;

/// linux/magic.h.
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// The list. The error names what was done.
pub(super) fn take_over(plan: &Takeover) -> Result<(), String> {
    let uid = Uid::from_raw(plan.uid);
    // 1. What bubblewrap made.
    for path in &plan.give {
        give(path, uid).map_err(at(&format!("give {} to its user", path.display())))?;
    }
    // 2. Nothing comes back: becoming the user takes all capabilities but those of the bounding set, and the
    //    right to empty it as well.
    capability::forbid_all().map_err(at("empty the bounding set"))?;
    // 3. The user. The groups are the user's already.
    set_thread_res_uid(uid, uid, uid).map_err(at("become the user"))?;
    // 4. The workspace, which may be one that the user alone can enter.
    std::env::set_current_dir(&plan.folder).map_err(at("enter the workspace"))
}

fn give(path: &Path, uid: Uid) -> Result<(), Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let made = openat2(CWD, path, flags, Mode::empty(), resolve)?;
    if fstatfs(&made)?.f_type != TMPFS_MAGIC || fstat(&made)?.st_uid != 0 {
        return Err(Errno::PERM);
    }
    let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
    chownat(&made, "", Some(uid), None, flags)
}

fn at<E: Display>(step: &str) -> impl FnOnce(E) -> String {
    move |error| format!("{step}: {error}")
}
