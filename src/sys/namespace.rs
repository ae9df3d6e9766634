//! Network namespaces as descriptors (namespaces(7), ioctl_ns(2)).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::sched::{CloneFlags, setns};
use rustix::fs::fstat;

/// `_IO(0xb7, 1)` of linux/nsfs.h: the user namespace that owns a namespace.
const NS_GET_USERNS: nix::libc::Ioctl = 0xb701;
/// `_IO(0xb7, 3)`: the kind of a namespace, as the flag of clone(2) that makes one.
const NS_GET_NSTYPE: nix::libc::Ioctl = 0xb703;

/// The network namespace of this process.
pub fn own_network() -> io::Result<OwnedFd> {
    File::open("/proc/self/ns/net").map(OwnedFd::from)
}

/// Makes a network namespace that is not ours this process's own, with every capability over it: joins
/// the user namespace that owns it first, which the user who made that may do (user_namespaces(7)), unless
/// that is our own, in which we must have them already. The process must have one thread. Refuses our own namespace: whoever calls this is about to change routes,
/// and the host's are not to be changed.
pub fn enter_network(network: &impl AsFd) -> io::Result<()> {
    if ask(network, NS_GET_NSTYPE)? != nix::libc::CLONE_NEWNET {
        return Err(io::Error::other("the descriptor is no network namespace"));
    }
    let (theirs, ours) = (fstat(network)?, fstat(own_network()?)?);
    if (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino) {
        return Err(io::Error::other("it is the host's network namespace"));
    }
    let owner = ask(network, NS_GET_USERNS)?;
    #[expect(unsafe_code, reason = "a new descriptor becomes an owner")]
    // SAFETY: NS_GET_USERNS answers a new descriptor (ioctl_ns(2)) that nothing else owns.
    let owner = unsafe { OwnedFd::from_raw_fd(owner) };
    let (theirs, ours) = (fstat(&owner)?, fstat(File::open("/proc/self/ns/user")?)?);
    // To one's own the kernel says EINVAL.
    if (theirs.st_dev, theirs.st_ino) != (ours.st_dev, ours.st_ino) {
        setns(owner, CloneFlags::CLONE_NEWUSER)?;
    }
    setns(network, CloneFlags::CLONE_NEWNET)?;
    Ok(())
}

fn ask(namespace: &impl AsFd, question: nix::libc::Ioctl) -> io::Result<i32> {
    let number = namespace.as_fd().as_raw_fd();
    #[expect(
        unsafe_code,
        reason = "ioctl(2) has no safe wrapper for these requests"
    )]
    // SAFETY: both requests take no argument and touch no memory of ours; what they answer is a number.
    let answer = unsafe { nix::libc::ioctl(number, question) };
    if answer == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_our_own_namespace_nor_another_kind_is_entered() {
        let own = own_network().unwrap();
        let error = enter_network(&own).unwrap_err().to_string();
        assert_eq!(error, "it is the host's network namespace");
        let mounts = File::open("/proc/self/ns/mnt").unwrap();
        let error = enter_network(&mounts).unwrap_err().to_string();
        assert_eq!(error, "the descriptor is no network namespace");
        assert!(enter_network(&File::open("/dev/null").unwrap()).is_err());
    }
}
