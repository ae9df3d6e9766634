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

/// What a process has that was started in a namespace of [`super::userns::make`]: it can have a child that is
/// that namespace's uid 0, which has every other capability there by the next execve(2); set the stage for it
/// with its own user's rights; and end it. Nothing more: each further one would only save that step.
const GIVEN: [CapabilitySet; 3] = [
    CapabilitySet::SETUID,
    CapabilitySet::SYS_ADMIN,
    CapabilitySet::KILL,
];

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
        let given: CapabilitySet = GIVEN.into_iter().collect();
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
    pub fn run_as(self, user: Identity) -> Self {
        self.before_exec(move || user.assume())
    }

    /// The same in a namespace of [`super::userns::make`], with what it takes to be its uid 0.
    #[must_use]
    pub fn run_as_in(self, namespace: OwnedFd, user: Identity) -> Self {
        self.before_exec(move || user.assume_in(&namespace))
    }

    /// Starts it as uid 0 of a namespace of [`super::userns::make`], without supplementary groups: it has every capability
    /// there, and none here. We must be root, and have one thread.
    #[must_use]
    pub fn run_as_root_in(self, namespace: OwnedFd) -> Self {
        self.before_exec(move || {
            set_thread_groups(&[])?;
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::User))?;
            set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
            Ok(set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)?)
        })
    }

    /// Starts it as uid 0 of the namespace that we were given ([`super::userns::is_given`]), with our groups: it
    /// has every capability there.
    #[must_use]
    pub fn run_as_root_of_namespace(self) -> Self {
        self.before_exec(|| Ok(set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::userns::{IdMap, make};
    use super::*;
    use std::path::Path;
    use std::time::Duration;

    /// What a process that is started so is, and which signal it gets when we end.
    fn facts(start: impl FnOnce(Spawn) -> Spawn) -> Vec<String> {
        let script = "grep -E '^(Uid|Gid|Groups|Cap(Inh|Prm|Eff|Amb)):' /proc/self/status; \
                      cat /proc/self/uid_map";
        let spawn = Spawn::new(Path::new("/bin/sh")).arg("-c").arg(script);
        let captured = start(spawn.env("PATH", "/usr/bin:/bin")).capture(Duration::from_mins(1));
        let said = String::from_utf8(captured.unwrap().stdout).unwrap();
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        said.lines().map(words).collect()
    }

    #[test]
    fn a_child_is_the_user_with_their_groups_and_has_what_it_is_given_and_no_more() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let user = || Identity::new(4001, 4002, &[4003, 4009]);
        let plain = facts(|spawn| spawn.run_as(user()));
        let none = "0000000000000000";
        let who = [
            "Uid: 4001 4001 4001 4001",
            "Gid: 4002 4002 4002 4002",
            "Groups: 4003 4009",
        ];
        let sets = |set: &str| ["Inh", "Prm", "Eff", "Amb"].map(|name| format!("Cap{name}: {set}"));
        let expected = |set: &str, map: &[&str]| -> Vec<String> {
            let who = who.iter().chain(map).map(ToString::to_string);
            let mut lines: Vec<String> = who.collect();
            lines.splice(3..3, sets(set));
            lines
        };
        assert_eq!(plain, expected(none, &["0 0 4294967295"]));
        let map = IdMap::new(4001, 4002, &[4003], (70_001, 70_001)).unwrap();
        let namespace = make(&map).unwrap();
        let given = facts(|spawn| spawn.run_as_in(namespace, user()));
        // CAP_KILL is 5, CAP_SETUID 7, CAP_SYS_ADMIN 21. Whose group has no number inside has it all the same.
        let mut inside = expected("00000000002000a0", &["0 70001 1", "4001 4001 1"]);
        inside[2] = "Groups: 4003 65534".to_owned();
        assert_eq!(given, inside);
    }

    #[test]
    fn somebody_else_cannot_join_the_namespace() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let map = IdMap::new(4001, 4001, &[], (70_001, 70_001)).unwrap();
        let namespace = make(&map).unwrap();
        let user = Identity::new(4001, 4001, &[]);
        let spawn = Spawn::new(Path::new("/usr/bin/nsenter")).fd(namespace, 3);
        let script = ["--user=/proc/self/fd/3", "/bin/true"];
        let spawn = script.iter().fold(spawn, Spawn::arg).run_as(user);
        let captured = spawn.capture(Duration::from_mins(1)).unwrap();
        assert!(!captured.status.success());
    }
}
