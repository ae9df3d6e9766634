//! Which limits a session has reached: the kernel counts, and wakes whoever watches.
//!
//! A counter that wakes is watched until it has been told once, so that a jail that goes on cannot keep its
//! session busy.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::file::{open, put};
use super::group::Group;
use super::hierarchy::Version;
use crate::policy::Resource;

/// Watches the groups of one session. Readable when a limit may have been reached.
#[derive(Debug)]
pub struct Meter {
    epoll: OwnedFd,
    counters: Vec<Counter>,
}

/// A number in a file that is not zero once a limit was reached.
#[derive(Debug)]
struct Counter {
    resource: Resource,
    /// Stays open: its group may be gone when it is read.
    file: OwnedFd,
    /// The line that the number stands in; empty: the file is the number.
    key: &'static str,
    /// A second number, and what it must have come to.
    also: Option<(OwnedFd, u64)>,
    /// What becomes ready, where it is not the file itself.
    wake: Option<OwnedFd>,
    told: bool,
}

impl Meter {
    /// Watches these groups.
    pub(super) fn new(groups: &[Group]) -> Result<Self, Errno> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let mut counters = Vec::new();
        for group in groups {
            for resource in &group.resources {
                counters.extend(Counter::open(group, *resource)?);
            }
        }
        for counter in &counters {
            // Read once, for what is new is what came after the last reading.
            counter.reached();
            // One that does not wake is read at the end.
            match (&counter.wake, counter.resource) {
                (Some(wake), _) => epoll::add(&epoll, wake, data(), EventFlags::IN),
                (None, Resource::Cpu) => Ok(()),
                (None, _) => epoll::add(&epoll, &counter.file, data(), EventFlags::PRI),
            }
            .ok();
        }
        Ok(Self { epoll, counters })
    }

    /// The limits that were reached since the last call, each of them once. The limit of processor time is
    /// nothing to be woken for: it is told at the end.
    pub fn reached(&mut self, at_the_end: bool) -> Vec<Resource> {
        let mut reached = Vec::new();
        for counter in &mut self.counters {
            if counter.told || (counter.resource == Resource::Cpu && !at_the_end) {
                continue;
            }
            if counter.reached() {
                counter.told = true;
                reached.push(counter.resource);
                let source = counter.wake.as_ref().unwrap_or(&counter.file);
                // It was not added, or is forgotten with us.
                epoll::delete(&self.epoll, source).ok();
            } else if let Some(wake) = &counter.wake {
                // Something else woke us; without this it would do so for ever.
                rustix::io::read(wake, &mut [0; 8]).ok();
            }
        }
        reached
    }
}

impl AsFd for Meter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

/// Which one is ready is not asked: all are read.
fn data() -> EventData {
    EventData::new_u64(0)
}

// === impl Counter ===

impl Counter {
    /// `None`: this kernel does not count it.
    fn open(group: &Group, resource: Resource) -> Result<Option<Self>, Errno> {
        let (file, key) = match (resource, group.version) {
            // Times that the limit was reached and nothing could be reclaimed.
            (Resource::Memory, Version::V2) => ("memory.events", "oom"),
            (Resource::Memory, Version::V1) => ("memory.oom_control", "oom_kill"),
            // Forks that failed (Linux 4.11).
            (Resource::Tasks, _) => ("pids.events", "max"),
            // Periods in which somebody had to wait.
            (Resource::Cpu, _) => ("cpu.stat", "nr_throttled"),
            (Resource::OpenFiles | Resource::FileSize, _) => return Ok(None),
        };
        let file = match open(&group.folder, file, OFlags::RDONLY) {
            Err(Errno::NOENT) => return Ok(None),
            other => other?,
        };
        let v1_memory = (resource, group.version) == (Resource::Memory, Version::V1);
        let mut wake = None;
        let mut also = None;
        if v1_memory {
            // The kernel's killer counts here also when the whole host is out of memory: then less was in use.
            // (Linux 6.18 does not count in memory.failcnt.)
            let limit = number(
                &open(&group.folder, "memory.limit_in_bytes", OFlags::RDONLY)?,
                "",
            );
            let most = open(&group.folder, "memory.max_usage_in_bytes", OFlags::RDONLY)?;
            also = Some((most, limit - limit / 8));
            wake = out_of_memory(group, &file).ok();
        }
        Ok(Some(Self {
            resource,
            file,
            key,
            also,
            wake,
            told: false,
        }))
    }

    fn reached(&self) -> bool {
        let also = self.also.as_ref();
        also.is_none_or(|(file, least)| number(file, "") >= *least)
            && number(&self.file, self.key) > 0
    }
}

/// Has an eventfd(2) written when a group of version 1 is out of memory (cgroup-v1/memory.rst, 10).
fn out_of_memory(group: &Group, control: &OwnedFd) -> Result<OwnedFd, Errno> {
    use std::os::fd::AsRawFd;
    let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let order = format!("{} {}", wake.as_raw_fd(), control.as_raw_fd());
    put(&group.folder, "cgroup.event_control", &order)?;
    Ok(wake)
}

/// The number in a file as it is now; zero when it cannot be read.
fn number(file: &OwnedFd, key: &str) -> u64 {
    let mut buffer = [0; 4096];
    let length = rustix::io::pread(file, &mut buffer, 0).unwrap_or(0);
    let text = std::str::from_utf8(buffer.get(..length).unwrap_or_default());
    parse(text.unwrap_or_default(), key).unwrap_or(0)
}

/// `key number` a line, or the number alone.
fn parse(text: &str, key: &str) -> Option<u64> {
    if key.is_empty() {
        return text.trim_end().parse().ok();
    }
    text.lines().find_map(|line| {
        let (name, number) = line.split_once(' ')?;
        (name == key).then(|| number.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_their_whole_name() {
        let events = "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n";
        assert_eq!(parse(events, "oom"), Some(3));
        assert_eq!(parse(events, "oom_kill"), Some(2));
        assert_eq!(parse(events, "kill"), None);
        assert_eq!(parse("17\n", ""), Some(17));
        assert_eq!(parse("max\n", ""), None);
        assert_eq!(parse("max x\n", "max"), None);
    }
}
