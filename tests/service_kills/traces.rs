//! What sessions leave on a host.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::service::{Service, User};

/// The host's mounts, and every control group of a session.
pub(crate) fn of_host(host: &Service) -> BTreeSet<String> {
    // Of whoever keeps its mount namespace.
    let mounts = host.inside("").with_file_name("mountinfo");
    let mut found: BTreeSet<String> = fs::read_to_string(mounts)
        .unwrap()
        .lines()
        .map(ToOwned::to_owned)
        .collect();
    let mut folders = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(folder) = folders.pop() {
        for path in entries(&folder) {
            let is_folder = fs::symlink_metadata(&path).is_ok_and(|file| file.is_dir());
            if is_folder {
                let name = path.file_name().unwrap().to_string_lossy();
                if name.starts_with("portcullis-") {
                    found.insert(path.display().to_string());
                }
                folders.push(path);
            }
        }
    }
    found
}

/// How many descriptors a process has.
pub(crate) fn descriptors(pid: u32) -> usize {
    entries(Path::new(&format!("/proc/{pid}/fd"))).len()
}

/// What is in the folder for the sockets of a user's sessions.
pub(crate) fn sockets(host: &Service, user: User) -> Vec<PathBuf> {
    let folder = host.inside(&format!("/run/portcullis/user/{}", user.uid));
    let mut found = entries(&folder);
    // Kept of the host, not of a session.
    found.retain(|path| path.file_name().is_some_and(|name| name != "sessions.lock"));
    found
}

/// What is in a folder.
pub(crate) fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.map(|entry| entry.unwrap().path()).collect()
}
