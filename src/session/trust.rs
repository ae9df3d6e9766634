//! What may be executed outside the jail: nothing that a session could have written, this one or one
//! before it. A workspace can bring its own `bwrap`, and an activated virtual environment puts the
//! workspace into `PATH`.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::jail::links_on_the_way;
use crate::policy::Profile;

/// Folders that the session can write: the workspace, whatever the mode is this time, and the
/// profile's own. Links are resolved where that is possible.
pub fn writable_roots(profile: &Profile, home: Option<&Path>, workspace: &Path) -> Vec<PathBuf> {
    let written =
        profile
            .filesystem
            .writable
            .iter()
            .map(|path| match (path.strip_prefix("~"), home) {
                (Ok(below), Some(home)) => home.join(below),
                // join takes an absolute path as it is.
                _ => workspace.join(path),
            });
    written
        .chain([workspace.to_owned()])
        .map(|path| path.canonicalize().unwrap_or(path))
        .collect()
}

/// Whether a path, what it leads to and every link on the way lie below none of these folders.
pub fn is_outside(path: &Path, writable: &[PathBuf]) -> bool {
    let resolved = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    !is_below(&resolved, writable) && !is_below(path, writable) && !is_led(path, writable)
}

/// Whether a link that a session can write leads a path out of what a session can write: to what it
/// leads, the jail must not be shown.
pub fn is_led_out(path: &Path, writable: &[PathBuf]) -> bool {
    path.canonicalize()
        .is_ok_and(|resolved| !is_below(&resolved, writable) && is_led(path, writable))
}

/// Whether a link on the way lies where a session can write.
fn is_led(path: &Path, writable: &[PathBuf]) -> bool {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let links = links_on_the_way(&path);
    links.iter().any(|link| is_below(link, writable))
}

fn is_below(path: &Path, folders: &[PathBuf]) -> bool {
    folders.iter().any(|folder| path.starts_with(folder))
}

/// `PATH` without relative folders and those below a writable one.
pub fn path_outside(path: &OsStr, writable: &[PathBuf]) -> OsString {
    let folders = std::env::split_paths(path)
        .filter(|folder| folder.is_absolute() && is_outside(folder, writable));
    // A folder that came out of a PATH can go into one.
    std::env::join_paths(folders).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_the_workspace_does_not_count_by_any_of_its_names() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = folder.path().join("work");
        std::fs::create_dir_all(workspace.join("bin")).unwrap();
        std::os::unix::fs::symlink(workspace.join("bin"), folder.path().join("link")).unwrap();
        let text = format!(
            "/usr/bin:{0}/work/bin:{0}/link:relative:.:/bin",
            folder.path().display()
        );
        let path = path_outside(OsStr::new(&text), &[workspace.canonicalize().unwrap()]);
        assert_eq!(path, "/usr/bin:/bin");
    }

    #[test]
    fn a_link_of_the_workspace_makes_nothing_trusted_wherever_it_leads() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let (work, outside) = (root.join("work"), root.join("outside"));
        std::fs::create_dir(&work).unwrap();
        std::fs::write(&outside, "").unwrap();
        std::fs::write(work.join("own"), "").unwrap();
        let link = |target: PathBuf, place: PathBuf| {
            std::os::unix::fs::symlink(target, place).unwrap();
        };
        link(outside.clone(), work.join("out"));
        link(work.join("out"), root.join("through"));
        link(work.join("own"), root.join("in"));
        let writable = [work.clone()];
        let judged = |path: &Path| (is_outside(path, &writable), is_led_out(path, &writable));
        assert_eq!(judged(&outside), (true, false));
        assert_eq!(judged(&work.join("own")), (false, false));
        assert_eq!(judged(&work.join("out")), (false, true));
        assert_eq!(judged(&root.join("through")), (false, true));
        assert_eq!(judged(&root.join("in")), (false, false));
    }
}
