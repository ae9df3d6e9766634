//! Generated files that stand in for the host's own: wherever a mount would show the host's, and nowhere
//! else. They are computed from the finished list of mounts, as masks are.

use std::path::{Path, PathBuf};

use super::error::JailError;
use super::layout::Layout;
use super::spec::{Mount, MountKind, covering};
use super::start::JailRequest;

/// What a place in the jail has of the host's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    /// The file itself, below a bind or as one.
    Bound,
    /// A copy of it.
    Copied,
}

/// Puts each file over the host's.
pub(crate) fn apply(layout: &mut Layout, request: &JailRequest<'_>) -> Result<(), JailError> {
    for (path, content) in &request.replaced {
        // What is not there shows nowhere.
        let Ok(canonical) = path.canonicalize() else {
            continue;
        };
        for (dest, shown) in places(&layout.mounts, path, &canonical) {
            let source = layout.memory(content)?;
            let kind = match shown {
                Shown::Bound => MountKind::Data { source },
                Shown::Copied => MountKind::Copy { source },
            };
            layout.place(dest, kind, "made by the session, instead of the host's");
        }
    }
    Ok(())
}

/// Where in the jail a host file shows.
fn places(mounts: &[Mount], path: &Path, canonical: &Path) -> Vec<(PathBuf, Shown)> {
    let mut places = Vec::new();
    for mount in mounts {
        let dest = match &mount.kind {
            MountKind::Bind { host, .. } => canonical.strip_prefix(host).ok().map(|below| {
                // Component by component: joining an empty path would leave a slash at the end.
                let dest = mount.dest.components().chain(below.components());
                (dest.collect::<PathBuf>(), Shown::Bound)
            }),
            MountKind::Copy { .. } if mount.dest == path || mount.dest == canonical => {
                Some((mount.dest.clone(), Shown::Copied))
            }
            _ => None,
        };
        let Some((dest, shown)) = dest else { continue };
        if covering(mounts, &dest).is_some_and(|covering| covering.dest == mount.dest) {
            places.push((dest, shown));
        }
    }
    places
}
