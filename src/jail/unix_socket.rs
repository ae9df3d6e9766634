//! Unix sockets of the host in the jail: those that the profile allows are bound at their own place,
//! by the descriptor that was looked at; those that lie where the jail sees them anyway are masked.
//!
//! What this cannot hold on kernels without Landlock ABI 9: a socket that a process outside makes in a
//! shown folder after the start, or deeper in it than is looked for. A service that replaces its socket
//! has to be allowed anew: the jail keeps the old one.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use nix::libc::{S_IFMT, S_IFSOCK};
use rustix::fs::Stat;

use super::error::JailError;
use super::layout::{Layout, is_jails_own, listed_error};
use super::mask;
use super::source::{Opened, expand, links_on_the_way, open_path};
use super::spec::Access;
use super::start::JailRequest;
use crate::audit::event::{MAX_SHOWN_SOCKETS, ShownSocket};
use crate::policy::unix_socket::{KNOWN, UnixSocket, danger};

/// The key of a profile that all of this is about.
const KEY: &str = "network.unix_sockets";

/// How deep below a shown folder sockets are looked for: `tmp/sockets/app.sock` is found.
const DEPTH: usize = 3;

/// How many entries are looked at for all shown folders together: a start must not wait for a large tree.
const ENTRIES: usize = 4096;

/// Shows what the profile allows.
pub(crate) fn show(
    layout: &mut Layout,
    request: &JailRequest<'_>,
) -> Result<Vec<ShownSocket>, JailError> {
    let mut shown = Vec::new();
    for (path, action) in request.sockets {
        if *action == UnixSocket::Deny {
            continue;
        }
        let given = expand(path, request.home, request.workspace);
        let opened = open_path(&given).map_err(listed_error(KEY, &given))?;
        let refuse = |cause: String| JailError::Conflict {
            key: KEY,
            path: given.clone(),
            cause,
        };
        if shown.len() == MAX_SHOWN_SOCKETS {
            let cause = format!("is one more than {MAX_SHOWN_SOCKETS} sockets; allow fewer");
            return Err(refuse(cause));
        }
        check_place(layout, request, (&given, &opened)).map_err(refuse)?;
        let what = dangerous(&given, &opened, request.home);
        if let (UnixSocket::Allow, Some(what)) = (action, what) {
            return Err(refuse(format!(
                "{what}; if the session is to have that, write {:?} = \"allow-dangerous\" in [{KEY}]",
                path.display()
            )));
        }
        shown.push(ShownSocket {
            path: given.to_string_lossy().into_owned(),
            danger: what.map(ToOwned::to_owned),
        });
        let canonical = opened.canonical.clone();
        layout.bind(opened, Access::ReadOnly, "a socket that the profile allows");
        layout.alias(&given, canonical.clone());
        layout.sockets.push(canonical);
    }
    Ok(shown)
}

/// A socket's place, by the name that was given, by its own, and by every link between the two.
fn check_place(
    layout: &Layout,
    request: &JailRequest<'_>,
    (given, opened): (&Path, &Opened),
) -> Result<(), String> {
    if !is_socket(&opened.stat) {
        return Err("is no socket; take it out of the profile, or use filesystem.readable".into());
    }
    let canonical = &opened.canonical;
    if is_jails_own(canonical) {
        return Err("lies where every jail has its own; take it out of the profile".into());
    }
    let mut names = links_on_the_way(given);
    names.push(canonical.clone());
    let writable = layout.projects.iter().map(PathBuf::as_path);
    match writable
        .chain([request.workspace])
        .find(|root| names.iter().any(|name| name.starts_with(root)))
    {
        Some(root) => Err(format!(
            "lies below {}, where a session could put another in its place; have its service listen elsewhere",
            root.display()
        )),
        None => Ok(()),
    }
}

/// What is dangerous about a socket: by the name that was given, by its own, or because it is one of
/// the known ones under another name.
fn dangerous(given: &Path, opened: &Opened, home: &Path) -> Option<&'static str> {
    danger(given)
        .or_else(|| danger(&opened.canonical))
        .or_else(|| {
            KNOWN
                .iter()
                .find(|known| {
                    let known = expand(Path::new(known), home, Path::new("/"));
                    rustix::fs::stat(&known).is_ok_and(|stat| {
                        (stat.st_dev, stat.st_ino) == (opened.stat.st_dev, opened.stat.st_ino)
                    })
                })
                .and_then(|known| danger(Path::new(known)))
        })
}

/// Masks what was not allowed and would show: the known dangerous ones, those that the profile
/// denies, and those that lie about in shown folders.
pub(crate) fn hide_others(layout: &mut Layout, request: &JailRequest<'_>) -> Result<(), JailError> {
    let absolute = |path: &Path| expand(path, request.home, request.workspace);
    let known = KNOWN.iter().map(|path| absolute(Path::new(path)));
    let denied = request
        .sockets
        .iter()
        .filter(|(_, action)| **action == UnixSocket::Deny)
        .map(|(path, _)| absolute(path));
    let listed = request
        .policy
        .writable
        .iter()
        .chain(&request.policy.readable);
    let folders = [request.workspace.to_owned()]
        .into_iter()
        .chain(listed.map(|path| absolute(path)));
    let found = find(folders.collect());
    for path in known.chain(denied).chain(found) {
        // What cannot be opened cannot be shown either, and what is gone needs no mask.
        let Ok(opened) = open_path(&path) else {
            continue;
        };
        if !is_socket(&opened.stat) || layout.sockets.contains(&opened.canonical) {
            continue;
        }
        for dest in mask::places(&layout.mounts, KEY, &opened.canonical, request)? {
            layout.mask(&dest, false, "a socket of the host")?;
        }
    }
    Ok(())
}

/// Sockets in these folders, nearest first, as far as the bounds go.
fn find(folders: Vec<PathBuf>) -> Vec<PathBuf> {
    let mut queue: VecDeque<(PathBuf, usize)> =
        folders.into_iter().map(|folder| (folder, 1)).collect();
    let mut sockets = Vec::new();
    let mut left = ENTRIES;
    while let Some((folder, depth)) = queue.pop_front() {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries.flatten() {
            if left == 0 {
                return sockets;
            }
            left -= 1;
            match entry.file_type() {
                Ok(kind) if std::os::unix::fs::FileTypeExt::is_socket(&kind) => {
                    sockets.push(entry.path());
                }
                Ok(kind) if kind.is_dir() && depth < DEPTH => {
                    queue.push_back((entry.path(), depth + 1));
                }
                _ => {}
            }
        }
    }
    sockets
}

fn is_socket(stat: &Stat) -> bool {
    stat.st_mode & S_IFMT == S_IFSOCK
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn sockets_are_found_to_a_depth_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        std::fs::create_dir_all(at("a/b/c")).unwrap();
        std::fs::write(at("file"), "").unwrap();
        std::os::unix::fs::symlink(at("a"), at("link")).unwrap();
        for path in ["s", "a/s", "a/b/s", "a/b/c/s"] {
            UnixListener::bind(at(path)).unwrap();
        }
        let expected = ["s", "a/s", "a/b/s"].map(at);
        assert_eq!(find(vec![folder.path().to_owned()]), expected);
    }
}
