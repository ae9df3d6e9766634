//! The control groups of one session (cgroups(7)): memory, tasks and processor time of all its processes
//! together, counted and limited by the kernel.
//!
//! Owns: finding the hierarchies ([`hierarchy`]) and a place in each ([`place`]), the groups ([`group`]) and what
//! the kernel says of them ([`meter`]), what dead sessions leave ([`leftover`]). Trusts: the kernel's texts, read strictly. Never: reads anything of
//! a user's; it takes numbers and a name, and everything after [`Places::find`] goes through open
//! descriptors, so that somebody with more rights can make the groups and hand them over.
//!
//! A session's groups stand beside the groups of other sessions, in our own group: what limits us limits a
//! session as well. bubblewrap joins before it is executed, so nothing of a jail is ever outside. A jail
//! sees no hierarchy, and its end is that of its first process; the group is killed besides.

mod file;
mod group;
pub mod handed;
mod hierarchy;
mod leftover;
mod meter;
mod place;

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use rustix::io::Errno;

pub use meter::Meter;

pub(crate) use group::{kill, remove};
pub use handed::Handed;

use crate::ids::SessionId;
use crate::policy::{Resource, ResourceLimits};
use crate::sys::process::Join;
use group::Group;
use place::Place;

/// A limit that is not in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Which.
    pub resource: Resource,
    /// Why, for a person.
    pub cause: String,
}

/// Where the groups of a session can be made.
#[derive(Debug, Default)]
pub(crate) struct Places {
    places: Vec<Place>,
    missing: Vec<Missing>,
}

/// The groups of a session. Dropping them kills what is in them and removes those that are ours.
#[derive(Debug)]
pub struct Groups {
    name: String,
    groups: Vec<Group>,
}

/// Whether any of the limits is one that a group holds.
pub fn is_wanted(limits: &ResourceLimits) -> bool {
    !wanted(limits).is_empty()
}

/// Which resources a group limits.
fn wanted(limits: &ResourceLimits) -> Vec<Resource> {
    let all = Resource::ALL.into_iter();
    all.filter(|resource| place::controller(*resource).is_some())
        .filter(|resource| limits.get(*resource).is_some())
        .collect()
}

/// Goes into a leaf of our own group where that is what lets it have groups with limits: after
/// `systemd-run --scope -p Delegate=yes`. To be called before the session has children.
pub fn make_room(limits: &ResourceLimits) {
    let wanted = wanted(limits);
    if !wanted.is_empty()
        && let Ok(hierarchies) = place::seen()
    {
        place::make_room(&hierarchies, &wanted);
    }
}

/// Removes the groups of sessions that are dead, wherever we would make ours. Gives the sessions whose groups
/// stay.
pub fn sweep_leftovers() -> BTreeSet<SessionId> {
    let hierarchies = place::seen().unwrap_or_default();
    let root = rustix::process::geteuid().is_root();
    let folders = place::folders(&hierarchies, root).into_iter();
    folders.flat_map(leftover::sweep).collect()
}

/// Where hierarchies are mounted, for those who must not see them: a process that reaches the files of its own
/// group with the rights of their owner takes its limits off.
pub fn mounts() -> Vec<PathBuf> {
    let seen = place::seen().unwrap_or_default().into_iter();
    seen.map(|hierarchy| hierarchy.mount).collect()
}

// === impl Places ===

impl Places {
    /// Finds a place for each limit that a group can hold.
    pub(crate) fn find(limits: &ResourceLimits) -> Self {
        let wanted = wanted(limits);
        if wanted.is_empty() {
            return Self::default();
        }
        let hierarchies = place::seen().unwrap_or_default();
        let root = rustix::process::geteuid().is_root();
        let (places, missing) = place::find(&hierarchies, &wanted, root);
        Self { places, missing }
    }

    /// The folders in which groups will stand.
    pub(crate) fn folders(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.places.iter().map(|place| place.parent.as_fd())
    }

    /// Makes the groups, and says what is not limited.
    pub(crate) fn make(
        self,
        name: &str,
        limits: &ResourceLimits,
    ) -> (Option<Groups>, Vec<Missing>) {
        let Self {
            places,
            mut missing,
        } = self;
        let mut groups = Vec::new();
        for place in places {
            leftover::sweep(&place.parent);
            let resources = place.resources.clone();
            match Group::make(place, name, limits, &mut missing) {
                Ok(group) => groups.push(group),
                Err(errno) => missing.extend(resources.into_iter().map(|resource| Missing {
                    resource,
                    cause: format!("a control group cannot be made: {errno}"),
                })),
            }
        }
        let name = name.to_owned();
        let groups = (!groups.is_empty()).then_some(Groups { name, groups });
        (groups, missing)
    }
}

// === impl Groups ===

impl Groups {
    /// What the name of each group begins with.
    const PREFIX: &str = "portcullis-";

    /// The name that each group of a session has.
    pub(crate) fn name_of(session: &str) -> String {
        format!("{}{session}", Self::PREFIX)
    }

    /// What a process does on its way in.
    pub(crate) fn joins(&self) -> Result<Vec<Join>, Errno> {
        let groups = self.groups.iter();
        groups
            .map(|group| {
                Ok(Join {
                    way: rustix::io::fcntl_dupfd_cloexec(&group.procs, 3)?,
                    answers: group.parent.is_none(),
                    must: !group.resources.is_empty(),
                })
            })
            .collect()
    }

    /// What kills all that is in a group.
    pub(crate) fn killers(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let groups = self.groups.iter();
        groups.filter_map(|group| group.kill.as_ref().map(AsFd::as_fd))
    }

    /// Watches them.
    pub(crate) fn meter(&self) -> Result<Meter, Errno> {
        Meter::new(&self.groups)
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for killer in self.killers() {
            // Nobody in it is as good as killed.
            kill(killer).ok();
        }
        for group in &self.groups {
            // Removed by the sweeper already, as a rule. What stays is an empty folder.
            if let Some(parent) = &group.parent {
                remove(parent, &self.name).ok();
            }
        }
    }
}
