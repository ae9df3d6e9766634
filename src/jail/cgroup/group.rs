//! One group of a session: made, limited, killed, removed. Knows numbers and descriptors, no paths.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, openat, unlinkat};
use rustix::io::Errno;

use super::Missing;
use super::file::{open, put, text};
use super::hierarchy::Version;
use super::leftover;
use super::place::Place;
use crate::policy::{Resource, ResourceLimits};

/// bubblewrap's two processes are in the group as well, and not what a limit of tasks is about.
const OUR_TASKS: u64 = 2;

/// The period in which time on processors is given out, in microseconds: the kernel's default.
const PERIOD: u64 = 100_000;

/// How often a group is made that somebody else takes for a dead session's.
const TRIES: u32 = 100;

/// How long a group may stay busy after its last process has ended.
const REMOVAL: Duration = Duration::from_secs(5);

/// A group that stands.
#[derive(Debug)]
pub(super) struct Group {
    /// Its kind.
    pub(super) version: Version,
    /// The folder that it is in; `None`: it is somebody else's to remove.
    pub(super) parent: Option<OwnedFd>,
    /// Its own folder.
    pub(super) folder: OwnedFd,
    /// `cgroup.procs`, to be written. Of somebody else's group: a socket on which they are asked.
    pub(super) procs: OwnedFd,
    /// `cgroup.kill`, to be written (version 2, Linux 5.14).
    pub(super) kill: Option<OwnedFd>,
    /// What it limits; nothing, where it is there to be killed.
    pub(super) resources: Vec<Resource>,
}

impl Group {
    /// Makes a group of this name with these limits. A limit that cannot be set is missing; the group stands
    /// all the same.
    pub(super) fn make(
        place: Place,
        name: &str,
        limits: &ResourceLimits,
        missing: &mut Vec<Missing>,
    ) -> Result<Self, Errno> {
        let folder = made(&place.parent, name)?;
        let made = Self::opened(place, folder, limits, missing);
        made.map_err(|(parent, errno)| {
            unlinkat(parent, name, AtFlags::REMOVEDIR).ok();
            errno
        })
    }

    fn opened(
        place: Place,
        folder: OwnedFd,
        limits: &ResourceLimits,
        missing: &mut Vec<Missing>,
    ) -> Result<Self, (OwnedFd, Errno)> {
        let opened = || {
            // Below a group of threads no process can be in any.
            if place.version == Version::V2 && text(&folder, "cgroup.type")?.trim_end() != "domain"
            {
                return Err(Errno::OPNOTSUPP);
            }
            open(&folder, "cgroup.procs", OFlags::WRONLY)
        };
        let procs = match opened() {
            Ok(procs) => procs,
            Err(errno) => return Err((place.parent, errno)),
        };
        let mut resources = Vec::new();
        for resource in place.resources {
            let Some(amount) = limits.get(resource) else {
                continue;
            };
            match limit(folder.as_fd(), place.version, resource, amount) {
                Ok(()) => resources.push(resource),
                Err(errno) => missing.push(Missing {
                    resource,
                    cause: format!(
                        "the kernel does not take {}: {errno}",
                        resource.amount(amount)
                    ),
                }),
            }
        }
        let kill = match place.version {
            Version::V2 => open(&folder, "cgroup.kill", OFlags::WRONLY).ok(),
            Version::V1 => None,
        };
        Ok(Self {
            version: place.version,
            parent: Some(place.parent),
            folder,
            procs,
            kill,
            resources,
        })
    }
}

/// Makes the folder of a group, locked as that of a session that lives.
fn made(parent: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
    for _ in 0..TRIES {
        match mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
            // Ours from the time before, which somebody wanted to remove.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(parent, name, flags, Mode::empty()) {
            Ok(folder) if leftover::hold(parent, name, &folder)? => return Ok(folder),
            Ok(_) | Err(Errno::NOENT) => std::thread::sleep(Duration::from_millis(2)),
            Err(errno) => return Err(errno),
        }
    }
    Err(Errno::BUSY)
}

/// Sets one limit (cgroup-v2.rst; for version 1 cgroup-v1/memory.rst, pids.rst, and sched-bwc.rst).
fn limit(
    folder: BorrowedFd<'_>,
    version: Version,
    resource: Resource,
    amount: u64,
) -> Result<(), Errno> {
    let quota = amount.saturating_mul(PERIOD / 100);
    match (resource, version) {
        // What would go to swap would be memory beyond the limit. Without swap the file is not there.
        // One process too large ends alone: memory.oom.group stays 0.
        (Resource::Memory, Version::V2) => {
            put(folder, "memory.max", &amount.to_string())?;
            optional(put(folder, "memory.swap.max", "0"))
        }
        (Resource::Memory, Version::V1) => {
            put(folder, "memory.limit_in_bytes", &amount.to_string())?;
            let both = put(folder, "memory.memsw.limit_in_bytes", &amount.to_string());
            optional(both)
        }
        (Resource::Tasks, _) => {
            let tasks = amount.saturating_add(OUR_TASKS);
            put(folder, "pids.max", &tasks.to_string())
        }
        (Resource::Cpu, Version::V2) => put(folder, "cpu.max", &format!("{quota} {PERIOD}")),
        (Resource::Cpu, Version::V1) => {
            put(folder, "cpu.cfs_period_us", &PERIOD.to_string())?;
            put(folder, "cpu.cfs_quota_us", &quota.to_string())
        }
        (Resource::OpenFiles | Resource::FileSize, _) => Err(Errno::INVAL),
    }
}

/// A file that not every kernel has.
fn optional(put: Result<(), Errno>) -> Result<(), Errno> {
    match put {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

/// Kills every process in a group, through its `cgroup.kill`.
pub(crate) fn kill(kill: impl AsFd) -> Result<(), Errno> {
    rustix::io::write(kill, b"1").map(drop)
}

/// Removes a group. The kernel needs a moment after the last process has ended. Gone already is as good.
pub(crate) fn remove(parent: impl AsFd, name: &str) -> Result<(), Errno> {
    let until = Instant::now() + REMOVAL;
    loop {
        match unlinkat(&parent, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::BUSY) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}
