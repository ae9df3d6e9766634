//! Groups that somebody with more rights makes, and hands over as descriptors: the session cannot take its
//! own limits off then, and neither can its user.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, fchmod, openat};

use super::group::{Group, kill, remove};
use super::hierarchy::Version;
use super::{Groups, Missing, Places, place};
use crate::policy::ResourceLimits;
use crate::wire::service::GroupWords;

/// One group, as it crosses.
#[derive(Debug)]
pub struct Handed {
    /// What is said of it.
    pub words: GroupWords,
    /// Its folder, its `cgroup.procs`, and its `cgroup.kill` if it has one.
    pub fds: Vec<OwnedFd>,
}

/// Makes the groups of a session with root's rights, for somebody else. They stand until [`remove_all`].
pub fn make(session: &str, limits: &ResourceLimits) -> (Vec<Handed>, Vec<Missing>) {
    let (groups, missing) = Places::find(limits).make(&Groups::name_of(session), limits);
    let mut handed = Vec::new();
    if let Some(mut groups) = groups {
        // Not dropped with `groups`: they are to stand.
        for group in groups.groups.drain(..) {
            // The session reads its counters there. Whoever makes all else for root alone (umask(2)) would keep it out.
            fchmod(&group.folder, Mode::from_raw_mode(0o755)).ok();
            let words = GroupWords {
                version: match group.version {
                    Version::V1 => 1,
                    Version::V2 => 2,
                },
                resources: group.resources,
            };
            let fds = [group.folder, group.procs].into_iter().chain(group.kill);
            handed.push(Handed {
                words,
                fds: fds.collect(),
            });
        }
    }
    (handed, missing)
}

/// Ends what is left in the groups of a session, and removes them. To be called with root's rights.
pub fn remove_all(session: &str) -> io::Result<()> {
    let name = Groups::name_of(session);
    for hierarchy in place::seen()? {
        let beside = place::for_sessions(&hierarchy);
        for path in [&hierarchy.own, &hierarchy.mount]
            .into_iter()
            .chain(&beside)
        {
            let Ok(parent) = File::open(path) else {
                continue;
            };
            let killer = format!("{name}/cgroup.kill");
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            if let Ok(killer) = openat(&parent, killer.as_str(), flags, Mode::empty()) {
                kill(killer).ok();
            }
            remove(&parent, &name)?;
        }
    }
    Ok(())
}

impl Groups {
    /// Takes groups over. What is not as it should be is left out.
    pub fn take_over(session: &str, handed: Vec<Handed>) -> Option<Self> {
        let groups = handed.into_iter().filter_map(|handed| {
            let mut fds = handed.fds.into_iter();
            Some(Group {
                version: match handed.words.version {
                    1 => Version::V1,
                    2 => Version::V2,
                    _ => return None,
                },
                parent: None,
                folder: fds.next()?,
                procs: fds.next()?,
                kill: fds.next(),
                resources: handed.words.resources,
            })
        });
        let groups: Vec<_> = groups.collect();
        (!groups.is_empty()).then(|| Self {
            name: Self::name_of(session),
            groups,
        })
    }
}
