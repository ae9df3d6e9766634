//! User namespaces that root makes for somebody else (user_namespaces(7)).
//!
//! Root owns such a namespace: whoever is not root gets no capability in it but by being started there with
//! one ([`super::identity`]). A process of the same user outside can neither join it nor trace what runs in it,
//! and nobody needs to be allowed to make namespaces of their own.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use nix::libc;
use nix::sched::CloneFlags;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use rustix::thread::CapabilitySet;

/// The most extents that a map has (user_namespaces(7), since Linux 4.15).
const MAX_EXTENTS: usize = 340;

/// The longest map, in bytes: it is written at once, and shorter than a page.
const MAX_TEXT: usize = 4000;

/// Under this number shows who is not mapped, where the kernel does not say otherwise.
const NOBODY: u32 = 65_534;

/// Who there is in a namespace: 0, which outside is an id that nobody else has, and the caller with their
/// groups, all under their own numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMap {
    uid: u32,
    reserved: u32,
    /// The start of a run of ids inside, outside, and how many.
    groups: Vec<(u32, u32, u32)>,
}

impl IdMap {
    /// `reserved`: the uid and the gid that 0 stands for, which no account has, and no two users at once: who is
    /// 0 in one of their namespaces could otherwise signal who is 0 in another. For a caller in group 0, group 0
    /// is itself. Groups beyond [`MAX_EXTENTS`] runs, or a page of text, are left out: the caller still has their
    /// rights, but inside they have no number.
    pub fn new(uid: u32, gid: u32, groups: &[u32], reserved: (u32, u32)) -> io::Result<Self> {
        let refuse = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        let all: BTreeSet<u32> = groups.iter().copied().chain([gid]).collect();
        if uid == 0 || reserved.0 == 0 || reserved.1 == 0 {
            return refuse("root is nobody in a namespace that is made for others");
        }
        if uid == NOBODY {
            return refuse("the caller's uid is the one under which everybody shows who has none");
        }
        if uid == reserved.0 || all.contains(&reserved.1) {
            return refuse("the reserved id is the caller's own");
        }
        if [uid, reserved.0, reserved.1].contains(&u32::MAX) || all.contains(&u32::MAX) {
            return refuse("an id of all ones is none");
        }
        let zero = if all.contains(&0) { 0 } else { reserved.1 };
        // The caller's own group first: it is never left out.
        let mut runs = vec![(0, zero, 1)];
        if gid != 0 {
            runs.push((gid, gid, 1));
        }
        for id in all.into_iter().filter(|id| *id != 0 && *id != gid) {
            match runs.last_mut() {
                Some((start, _, count)) if *start != 0 && *start + *count == id => *count += 1,
                _ => runs.push((id, id, 1)),
            }
        }
        while runs.len() > MAX_EXTENTS || lines(&runs).len() > MAX_TEXT {
            runs.pop();
        }
        Ok(Self {
            uid,
            reserved: reserved.0,
            groups: runs,
        })
    }

    fn uid_map(&self) -> String {
        lines(&[(0, self.reserved, 1), (self.uid, self.uid, 1)])
    }

    fn gid_map(&self) -> String {
        lines(&self.groups)
    }
}

fn lines(runs: &[(u32, u32, u32)]) -> String {
    let line = |(inside, outside, count): &(u32, u32, u32)| format!("{inside} {outside} {count}\n");
    runs.iter().map(line).collect()
}

/// Makes a user namespace with these ids, owned by whoever calls this: root. It lasts as long as the descriptor
/// or a process in it. Forks a child that makes it, which has ended on return; the caller must not reap children
/// meanwhile that it does not know.
pub fn make(map: &IdMap) -> io::Result<OwnedFd> {
    let (mut made, says) = io::pipe()?;
    let (waits, hold) = io::pipe()?;
    #[expect(unsafe_code, reason = "only a process can make a user namespace")]
    // SAFETY: the child makes bare system calls on descriptors that it has and ends by _exit(2); it allocates
    // nothing and takes no lock, as fork(2) asks of the child of a process with threads.
    let forked = unsafe { fork() }?;
    let child = match forked {
        ForkResult::Child => {
            drop((made, hold));
            stand(says, waits)
        }
        ForkResult::Parent { child } => child,
    };
    drop((says, waits));
    let mut answer = [0];
    let namespace = match made.read(&mut answer) {
        Ok(1) => match answer {
            [0] => describe(child, map),
            [errno] => Err(io::Error::from_raw_os_error(errno.into())),
        },
        Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
        Err(error) => Err(error),
    };
    drop(hold);
    reap(child)?;
    namespace
}

/// The child: makes the namespace, says how that went (0, or the errno), and waits until nobody needs it.
fn stand(mut says: io::PipeWriter, mut waits: io::PipeReader) -> ! {
    let made = nix::sched::unshare(CloneFlags::CLONE_NEWUSER);
    let answer = made.map_or_else(
        |errno| u8::try_from(errno as i32).unwrap_or(u8::MAX),
        |()| 0,
    );
    if says.write(&[answer]).is_ok() {
        // Its end is the signal, whatever it says.
        waits.read_exact(&mut [0]).ok();
    }
    #[expect(unsafe_code, reason = "the end of a forked child")]
    // SAFETY: _exit(2) runs no handler and no destructor of the parent's.
    unsafe {
        libc::_exit(0)
    }
}

/// Gives the child's namespace its ids, while its number cannot be anybody else's.
fn describe(child: Pid, map: &IdMap) -> io::Result<OwnedFd> {
    let at = |file: &str| format!("/proc/{child}/{file}");
    std::fs::write(at("gid_map"), map.gid_map())?;
    std::fs::write(at("uid_map"), map.uid_map())?;
    Ok(File::open(at("ns/user"))?.into())
}

fn reap(child: Pid) -> io::Result<()> {
    loop {
        match waitpid(child, None) {
            Err(nix::errno::Errno::EINTR) | Ok(WaitStatus::StillAlive) => {}
            other => return other.map(drop).map_err(io::Error::from),
        }
    }
}

/// Whether this process was started in a namespace of [`make`] and can be its uid 0: it is not, it has
/// CAP_SETUID there, and there is nobody but 0 and its own user. The last, because somebody who has that
/// capability on the host itself would become root by it.
pub fn is_given() -> io::Result<bool> {
    let effective = rustix::thread::capabilities(None)?.effective;
    Ok(effective.contains(CapabilitySet::SETUID) && is_made()?)
}

/// Under which uid the files of the host's root show. In a namespace of [`make`] that is one that all share who
/// have no number there: it tells only that something is not the caller's.
pub fn uid_of_root() -> io::Result<u32> {
    if is_made()? {
        let text = std::fs::read_to_string("/proc/sys/kernel/overflowuid");
        Ok(text.map_or(NOBODY, |text| text.trim().parse().unwrap_or(NOBODY)))
    } else {
        Ok(0)
    }
}

fn is_made() -> io::Result<bool> {
    let us = rustix::process::geteuid().as_raw();
    let map = std::fs::read_to_string("/proc/self/uid_map")?;
    Ok(us != 0 && is_made_for(us, &map))
}

/// Whether a `uid_map` is one that [`make`] writes for this user.
fn is_made_for(us: u32, map: &str) -> bool {
    let mut lines = map.lines().map(|line| {
        let mut numbers = line.split_ascii_whitespace().map(|word| word.parse().ok());
        let mut next = || -> Option<u32> { numbers.next()? };
        Some((next()?, next()?, next()?))
    });
    let (first, second) = (lines.next().flatten(), lines.next().flatten());
    let zero = matches!(first, Some((0, outside, 1)) if outside != 0 && outside != us);
    zero && second == Some((us, us, 1)) && lines.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_has_everybody_once_and_never_more_than_the_kernel_takes() {
        let map = IdMap::new(4001, 4001, &[4003, 4001, 4002, 4003, 27], (70_001, 70_002)).unwrap();
        assert_eq!(map.uid_map(), "0 70001 1\n4001 4001 1\n");
        assert_eq!(
            map.gid_map(),
            "0 70002 1\n4001 4001 1\n27 27 1\n4002 4002 2\n"
        );
        let member_of_0 = IdMap::new(4001, 4001, &[0], (70_001, 70_002)).unwrap();
        assert_eq!(member_of_0.gid_map(), "0 0 1\n4001 4001 1\n");
        let in_0 = IdMap::new(4001, 0, &[], (70_001, 70_002)).unwrap();
        assert_eq!(in_0.gid_map(), "0 0 1\n");
        let many: Vec<u32> = (0..2000).map(|n| 1_000_000_000 + 2 * n).collect();
        let map = IdMap::new(4001, 4001, &many, (70_001, 70_002)).unwrap();
        assert!(map.groups.len() > 100 && map.gid_map().len() <= MAX_TEXT);
        assert!(map.gid_map().starts_with("0 70002 1\n4001 4001 1\n"));
        let few: Vec<u32> = (0..500).map(|n| 10 + 2 * n).collect();
        let map = IdMap::new(4001, 4001, &few, (70_001, 70_002)).unwrap();
        assert_eq!(map.groups.len(), MAX_EXTENTS);
    }

    #[test]
    fn ids_that_would_be_two_people_are_refused() {
        for (uid, gid, groups, reserved) in [
            (0, 4001, vec![], (70_001, 70_001)),
            (4001, 4001, vec![], (0, 70_001)),
            (4001, 4001, vec![], (70_001, 0)),
            (4001, 4001, vec![], (4001, 70_001)),
            (4001, 4001, vec![70_001], (70_001, 70_001)),
            (4001, 70_001, vec![], (70_001, 70_001)),
            (u32::MAX, 4001, vec![], (70_001, 70_001)),
            (NOBODY, 4001, vec![], (70_001, 70_001)),
        ] {
            let map = IdMap::new(uid, gid, &groups, reserved);
            assert!(map.is_err(), "{uid} {gid} {groups:?} {reserved:?}");
        }
    }

    #[test]
    fn only_a_map_of_zero_and_us_is_one_that_was_made_for_us() {
        let ours = "         0      70001          1\n      4001       4001          1\n";
        assert!(is_made_for(4001, ours));
        for other in [
            "",
            "0 0 4294967295\n",
            "0 0 1\n4001 4001 1\n",
            "0 4001 1\n4001 4001 1\n",
            "0 70001 2\n4001 4001 1\n",
            "0 70001 1\n4001 4002 1\n",
            "0 70001 1\n4002 4002 1\n",
            "0 70001 1\n4001 4001 1\n5 5 1\n",
            "0 100000 65536\n",
            "4001 4001 1\n",
            "x",
        ] {
            assert!(!is_made_for(4001, other), "{other:?}");
        }
    }

    #[test]
    fn nobody_is_given_a_namespace_by_chance() {
        assert!(!is_given().unwrap());
        assert_eq!(uid_of_root().unwrap(), 0);
    }
}
