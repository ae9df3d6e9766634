//! Masks: host paths that are empty inside, wherever a mount would show them. They are computed from
//! the finished list of mounts, so no later mount can uncover one.

use std::io;
use std::path::{Path, PathBuf};

use super::error::JailError;
use super::layout::Layout;
use super::protect;
use super::source::{expand, is_dir, open_path};
use super::spec::{Mount, MountKind, covering};
use super::start::JailRequest;

/// Masks what the profile lists and what is ours.
pub(crate) fn apply(layout: &mut Layout, request: &JailRequest<'_>) -> Result<(), JailError> {
    for path in &request.policy.masked {
        let path = expand(path, request.home, request.workspace);
        mask(layout, request, "filesystem.masked", &path)?;
    }
    let mut own = Vec::new();
    for path in &request.hidden {
        own.extend(mask(layout, request, "Portcullis's own folder", path)?);
    }
    // A mask follows its folder; what is believed outside of the jail is found by its name.
    protect::pin_all(layout, |mount| own.contains(&mount.dest))
}

/// Masks a host path wherever it shows; answers with the places.
fn mask(
    layout: &mut Layout,
    request: &JailRequest<'_>,
    key: &'static str,
    path: &Path,
) -> Result<Vec<PathBuf>, JailError> {
    let opened = match open_path(path) {
        Ok(opened) => opened,
        // What is not there, or cannot be reached with the caller's rights, shows nowhere.
        Err(error) if is_unreachable(&error) => return Ok(Vec::new()),
        Err(source) => {
            let path = path.to_owned();
            return Err(JailError::Path { key, path, source });
        }
    };
    let places = places(&layout.mounts, key, &opened.canonical, request)?;
    for dest in &places {
        layout.mask(dest, is_dir(&opened.stat), "masked")?;
    }
    Ok(places)
}

fn is_unreachable(error: &io::Error) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    matches!(error.kind(), NotFound | NotADirectory | PermissionDenied)
}

/// Where in the jail a host path shows. The workspace and the profile's further paths cannot lie in a
/// mask: one of the two is a mistake. What the session itself shows can: that is why it shows it.
pub(crate) fn places(
    mounts: &[Mount],
    key: &'static str,
    masked: &Path,
    request: &JailRequest<'_>,
) -> Result<Vec<PathBuf>, JailError> {
    let mut places = Vec::new();
    for mount in mounts {
        let MountKind::Bind { host, .. } = &mount.kind else {
            continue;
        };
        let by_session = request.shown.iter().any(|(_, dest)| *dest == mount.dest);
        let whole = host == masked && mount.dest == request.workspace;
        if whole || (host != masked && host.starts_with(masked) && !by_session) {
            return Err(JailError::Conflict {
                key,
                path: masked.to_owned(),
                cause: format!(
                    "hides {}, which the jail is to show; choose one of the two",
                    host.display()
                ),
            });
        }
        let Ok(below) = masked.strip_prefix(host) else {
            continue;
        };
        // Component by component: joining an empty path would leave a slash at the end.
        let dest: PathBuf = mount.dest.components().chain(below.components()).collect();
        if covering(mounts, &dest).is_some_and(|covering| covering.dest == mount.dest) {
            places.push(dest);
        }
    }
    Ok(places)
}
