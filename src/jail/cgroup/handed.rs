//! Groups that somebody with more rights makes, and hands over as descriptors: the session cannot take its
//! own limits off then, and neither can its user.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::{Mode, OFlags, fchmod, openat};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

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
    /// Its folder.
    pub folder: OwnedFd,
    /// Its `cgroup.procs`, which is not handed over: whoever writes to one that root has opened moves any process
    /// of the host. What crosses is a socket to whoever holds it.
    pub procs: OwnedFd,
    /// Its `cgroup.kill` if it has one.
    pub kill: Option<OwnedFd>,
}

/// How long a process waits on its way in.
const ANSWER: Duration = Duration::from_secs(30);

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
            handed.push(Handed {
                words,
                folder: group.folder,
                procs: group.procs,
                kill: group.kill,
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
    pub fn take_over(session: &str, handed: Vec<(GroupWords, Vec<OwnedFd>)>) -> Option<Self> {
        let groups = handed.into_iter().filter_map(|(words, fds)| {
            let mut fds = fds.into_iter();
            let (folder, door, kill) = (fds.next()?, fds.next()?, fds.next());
            set_socket_timeout(&door, Timeout::Recv, Some(ANSWER)).ok()?;
            Some(Group {
                version: match words.version {
                    1 => Version::V1,
                    2 => Version::V2,
                    _ => return None,
                },
                parent: None,
                folder,
                procs: door,
                kill,
                resources: words.resources,
            })
        });
        let groups: Vec<_> = groups.collect();
        (!groups.is_empty()).then(|| Self {
            name: Self::name_of(session),
            groups,
        })
    }
}
