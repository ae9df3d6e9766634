//! A process that the daemon, or the daemon before it, started: known by a descriptor that is never
//! anybody else's (pidfd_open(2)).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};

/// For the kernel to end a process that was killed, in seconds.
const DEATH: i64 = 2;

/// The process.
#[derive(Debug)]
pub struct Process(OwnedFd);

impl Process {
    /// Knows a process by its descriptor.
    pub fn new(pidfd: OwnedFd) -> Self {
        Self(pidfd)
    }

    /// Whether it has ended; reaps it if it was ours.
    pub fn has_ended(&self) -> bool {
        let now = Timespec::default();
        let ended = poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&now));
        if !matches!(ended, Ok(1)) {
            return false;
        }
        // Not our child after a restart of the daemon: then somebody else reaps it.
        waitid(
            WaitId::PidFd(self.0.as_fd()),
            WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
        )
        .ok();
        true
    }

    /// Kills it and waits until it is dead, which takes no time but where the kernel is stuck: whatever takes
    /// its place finds the log unlocked, and the memory of the gates written by nobody. Ended already is as
    /// good.
    pub fn kill(&self) -> io::Result<()> {
        match pidfd_send_signal(&self.0, Signal::KILL) {
            Ok(()) => {}
            Err(Errno::SRCH) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
        let patience = Timespec {
            tv_sec: DEATH,
            tv_nsec: 0,
        };
        match poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&patience)) {
            Ok(0) | Err(Errno::INTR) => Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Whether this process is in this user namespace.
pub(super) fn is_within(pid: Pid, namespace: BorrowedFd<'_>) -> bool {
    let found = rustix::fs::stat(format!("/proc/{}/ns/user", pid.as_raw_nonzero()));
    match (found, rustix::fs::fstat(namespace)) {
        (Ok(found), Ok(wanted)) => (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino),
        _ => false,
    }
}

/// Which of these user namespaces have a process in them, by their places in the list. Looks once at every process
/// of the host, for however many namespaces.
pub(super) fn inhabited(namespaces: &[BorrowedFd<'_>]) -> io::Result<BTreeSet<usize>> {
    let wanted = places(namespaces)?;
    Ok(numbers()?.filter_map(|pid| place(pid, &wanted)).collect())
}

/// Kills every process in these user namespaces. Each is one of them still when its descriptor is open: the
/// namespace is asked for again then.
pub(super) fn kill_within(namespaces: &[BorrowedFd<'_>]) -> io::Result<()> {
    let wanted = places(namespaces)?;
    let mut outcome = Ok(());
    for pid in numbers()?.filter(|pid| place(*pid, &wanted).is_some()) {
        // Ended meanwhile is as good.
        if let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty())
            && place(pid, &wanted).is_some()
        {
            // One that does not end keeps none of the others.
            outcome = outcome.and(Process(pidfd).kill());
        }
    }
    outcome
}

/// Device and inode of a namespace, and its place in a list.
type Places = BTreeMap<(u64, u64), usize>;

fn places(namespaces: &[BorrowedFd<'_>]) -> io::Result<Places> {
    let one = |(place, namespace): (usize, &BorrowedFd<'_>)| {
        let found = rustix::fs::fstat(namespace)?;
        Ok(((found.st_dev, found.st_ino), place))
    };
    namespaces.iter().enumerate().map(one).collect()
}

/// The place of the user namespace that this process is in.
fn place(pid: Pid, wanted: &Places) -> Option<usize> {
    let found = rustix::fs::stat(format!("/proc/{}/ns/user", pid.as_raw_nonzero())).ok()?;
    wanted.get(&(found.st_dev, found.st_ino)).copied()
}

/// All processes.
fn numbers() -> io::Result<impl Iterator<Item = Pid>> {
    let entries: Vec<_> = std::fs::read_dir("/proc")?.collect::<io::Result<_>>()?;
    let number = |entry: std::fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    Ok(entries
        .into_iter()
        .filter_map(number)
        .filter_map(Pid::from_raw))
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
