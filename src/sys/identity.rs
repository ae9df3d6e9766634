//! Who a child is: set between fork(2) and execve(2), by bare system calls (the C library's would also tell
//! threads that a forked child does not have).

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::process::{Gid, Uid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, LinkNameSpaceType, clear_ambient_capability_set,
    configure_capability_in_ambient_set, move_into_link_name_space, set_capabilities,
    set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::process::Spawn;

/// What a process has that was started in a namespace of [`super::userns::make`]: it can be that namespace's
/// uid 0, which has every other capability there by the next execve(2), and end what is that. Nothing more:
/// each further one would only save that step.
const GIVEN: [CapabilitySet; 2] = [CapabilitySet::SETUID, CapabilitySet::KILL];

/// A user with their groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
}

impl Identity {
    /// `groups`: the supplementary ones.
    pub fn new(uid: u32, gid: u32, groups: &[u32]) -> Self {
        let raw = Gid::from_raw;
        Self {
            uid: Uid::from_raw(uid),
            gid: raw(gid),
            groups: groups.iter().map(|gid| raw(*gid)).collect(),
        }
    }

    /// Becomes this user, without any capability, for good.
    pub fn assume(&self) -> io::Result<()> {
        self.assume_groups()?;
        set_thread_res_uid(self.uid, self.uid, self.uid)?;
        clear_ambient_capability_set()?;
        Ok(set_capabilities(None, NONE)?)
    }

    /// Becomes this user in a namespace that was made for them, with [`GIVEN`] as all there is in the permitted,
    /// effective, inheritable and ambient sets. The process must be root's and have one thread.
    pub fn assume_in(&self, namespace: impl AsFd) -> io::Result<()> {
        // While the groups are root's to set: outside, those count that have no number inside as well.
        self.assume_groups()?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::User))?;
        // Joining gave every capability there, and going from a uid that is not its 0 takes none.
        set_thread_res_uid(self.uid, self.uid, self.uid)?;
        let given = GIVEN[0].union(GIVEN[1]);
        let sets = CapabilitySets {
            effective: given,
            permitted: given,
            inheritable: given,
        };
        set_capabilities(None, sets)?;
        clear_ambient_capability_set()?;
        for capability in GIVEN {
            configure_capability_in_ambient_set(capability, true)?;
        }
        Ok(())
    }

    fn assume_groups(&self) -> io::Result<()> {
        set_thread_groups(&self.groups)?;
        Ok(set_thread_res_gid(self.gid, self.gid, self.gid)?)
    }
}

const NONE: CapabilitySets = CapabilitySets {
    effective: CapabilitySet::empty(),
    permitted: CapabilitySet::empty(),
    inheritable: CapabilitySet::empty(),
};

impl Spawn {
    /// Starts it as this user, without any capability. The steps that are asked for later are done as this
    /// user; [`Spawn::die_with_us`] has to be one of them, because the kernel forgets it with a change of user.
    #[must_use]
    pub fn as_user(self, user: Identity) -> Self {
        self.before_exec(move || user.assume())
    }

    /// The same in a namespace of [`super::userns::make`], with what it takes to be its uid 0.
    #[must_use]
    pub fn as_user_in(self, namespace: OwnedFd, user: Identity) -> Self {
        self.before_exec(move || user.assume_in(&namespace))
    }

    /// Starts it as uid 0 of the namespace that we were given ([`super::userns::is_given`]), with our groups: it
    /// has every capability there.
    #[must_use]
    pub fn as_root_of_namespace(self) -> Self {
        self.before_exec(|| Ok(set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)?))
    }
}
