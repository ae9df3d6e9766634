//! What of the host shows in a jail on given footing, set up before bubblewrap runs: bubblewrap then is uid 0 of
//! the namespace, which has no right of the user's over a folder that is the user's alone (as it is on NFS, or
//! where its group is not the user's), and it would look for each source by its name once more.
//!
//! A bind below another one is set up in that one, because bubblewrap could not get there either.

use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::footing::Footing;
use super::spec::{Access, JailSpec, Mount, MountKind, covering};
use crate::sys::stage::Prop;

/// The folder that is covered: no jail shows anything of it.
pub(super) const STAGE: &CStr = c"/sys";

/// Where a bind's source is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// Where its descriptor says.
    Descriptor,
    /// Here.
    Stage(PathBuf),
    /// In the source of the bind above it: it needs no mount of its own.
    Within(PathBuf),
}

/// Where the source of this mount is. With the host's whole tree, which would show the stage as well, everything
/// is bound by its descriptor.
pub(super) fn source_of(spec: &JailSpec, mount: &Mount) -> Source {
    let whole = |mount: &Mount| mount.dest == Path::new("/");
    if spec.footing == Footing::Own || spec.mounts.iter().any(whole) {
        return Source::Descriptor;
    }
    let above = mount
        .dest
        .parent()
        .and_then(|parent| covering(&spec.mounts, parent));
    let in_bind = above.filter(|above| matches!(above.kind, MountKind::Bind { .. }));
    let Some(above) = in_bind else {
        return Source::Stage(place(spec, mount));
    };
    let below = mount.dest.strip_prefix(&above.dest).unwrap_or(&mount.dest);
    match source_of(spec, above) {
        Source::Stage(place) | Source::Within(place) => Source::Within(place.join(below)),
        Source::Descriptor => Source::Descriptor,
    }
}

fn place(spec: &JailSpec, mount: &Mount) -> PathBuf {
    let number = spec
        .mounts
        .iter()
        .position(|other| other.dest == mount.dest);
    Path::new("/sys").join(number.unwrap_or_default().to_string())
}

/// Everything on the stage, in the order in which it is set up; `sources` are the specification's.
pub(super) fn props(spec: &JailSpec, sources: &[OwnedFd]) -> io::Result<Vec<Prop>> {
    let mut props = Vec::new();
    for mount in &spec.mounts {
        let MountKind::Bind {
            host,
            source,
            access,
        } = &mount.kind
        else {
            continue;
        };
        let open = sources.get(source.0).ok_or(io::ErrorKind::NotFound)?;
        let read_only = *access == Access::ReadOnly;
        let (to, within) = match source_of(spec, mount) {
            Source::Descriptor => continue,
            Source::Stage(place) => (place, false),
            Source::Within(place) => (place, true),
        };
        props.push(Prop::new(open, host, &to, within, read_only)?);
    }
    Ok(props)
}

#[cfg(test)]
mod tests {
    use super::super::spec::SourceId;
    use super::*;

    fn spec(footing: Footing, mounts: &[(&str, bool)]) -> JailSpec {
        let mounts = mounts.iter().map(|(dest, bind)| Mount {
            dest: dest.into(),
            kind: if *bind {
                MountKind::Bind {
                    host: dest.into(),
                    source: SourceId(0),
                    access: Access::ReadWrite,
                }
            } else {
                MountKind::Tmpfs { mode: 0o700 }
            },
            reason: "test",
        });
        JailSpec {
            footing,
            hostname: "jail".to_owned(),
            workspace: "/w".into(),
            mounts: mounts.collect(),
            sealed: Vec::new(),
            reports_pid: false,
        }
    }

    fn sources(spec: &JailSpec) -> Vec<Source> {
        let binds = spec
            .mounts
            .iter()
            .filter(|mount| matches!(mount.kind, MountKind::Bind { .. }));
        binds.map(|mount| source_of(spec, mount)).collect()
    }

    #[test]
    fn a_bind_below_a_bind_is_set_up_in_it_and_one_below_memory_stands_alone() {
        let mounts = [
            ("/home/u", false),
            ("/home/u/w", true),
            ("/home/u/w/.git", true),
            ("/home/u/w/.git/hooks", true),
            ("/home/u/w/mask", false),
            ("/home/u/w/mask/shown", true),
            ("/usr", true),
        ];
        let stage = |path: &str| Source::Stage(path.into());
        let within = |path: &str| Source::Within(path.into());
        let expected = [
            stage("/sys/1"),
            within("/sys/1/.git"),
            within("/sys/1/.git/hooks"),
            stage("/sys/5"),
            stage("/sys/6"),
        ];
        assert_eq!(sources(&spec(Footing::Given, &mounts)), expected);
        let by_descriptor = [const { Source::Descriptor }; 5];
        assert_eq!(sources(&spec(Footing::Own, &mounts)), by_descriptor);
        let mounts = [("/", true), ("/home/u", true)];
        assert_eq!(sources(&spec(Footing::Given, &mounts)), by_descriptor[..2]);
    }
}
