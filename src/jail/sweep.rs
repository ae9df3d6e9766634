//! The sweeper of placeholders and control groups: `portcullis-init sweep`, outside of the jail.
//!
//! Owns: the placeholders of one session, from making to removing, and the removal of its control groups.
//! Trusts: its session, the same user. Never: removes anything but an empty folder that is still the one it
//! made or shared, or a control group that its session has named.
//!
//! It answers claims until the channel closes (the session ended, however), kills the jail's first process
//! if it is not dead yet and waits until it is, because removing a folder takes the mount on it away from a jail that still
//! runs, and sweeps. Several sessions can share a placeholder: each sweeper holds a shared lock
//! (flock(2)) on it, and the one that gets the exclusive lock is the last and removes it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, fstat, mkdirat, openat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal, umask};

use super::cgroup;
use super::held::Held;
use super::landlock::confine_sweeper;
use super::placeholder::{MODE, is_placeholder};
use super::source::is_plain_relative;
use crate::exit::Exit;
use crate::sys::capability::Capability;
use crate::sys::{capability, fd, harden, signal};
use crate::wire::frame::Received;
use crate::wire::sweep::{Claim, Claimed, Swept};
use crate::wire::{Channel, WireError};

/// The top of a hierarchy of control groups can be written by nobody, so that even its owner needs this to
/// remove a group in it. An ordinary user has neither.
const REMOVES_GROUPS: Capability = Capability::CAP_DAC_OVERRIDE;

/// Entry of `portcullis-init sweep`. Nobody reads its status: what it could not make it has said on
/// the channel, and what it could not remove stays as an empty folder.
pub(super) fn main() -> ExitCode {
    match run() {
        Ok(()) => Exit::Success.into(),
        Err(_) => Exit::Internal.into(),
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let channel = Channel::from(fd::inherit(3)?);
    let mut jail = JailWatch::new(File::from(fd::inherit(4)?));
    signal::ignore_all()?;
    harden::harden()?;
    capability::drop_all_but(REMOVES_GROUPS)?;
    confine_sweeper()?;
    // The mode of a placeholder is what it is known by.
    umask(Mode::empty());
    let mut held = Vec::new();
    let mut groups = Groups::default();
    while wait_for_claim(&channel, &mut jail) {
        if answer(&channel, &mut held, &mut groups).is_err() {
            // The session is gone, or not one of ours: what is held is swept in any case.
            break;
        }
    }
    jail.wait()?;
    for held in &held {
        held.sweep();
    }
    groups.remove();
    // Before the descriptors close, which takes the file system a while. A session that is gone
    // does not listen.
    channel.send(&Swept {}).ok();
    Ok(())
}

/// Waits until the channel has something to say, and meanwhile learns which process the jail's first
/// is, while its number cannot be anybody else's. False: it cannot be waited for.
fn wait_for_claim(channel: &Channel, jail: &mut JailWatch) -> bool {
    loop {
        let Some(info) = &jail.info else {
            return true;
        };
        let mut fds = [
            PollFd::new(channel, PollFlags::IN),
            PollFd::new(info, PollFlags::IN),
        ];
        if poll(&mut fds, None).is_err_and(|errno| errno != Errno::INTR) {
            return false;
        }
        let [on_channel, on_info] = fds.map(|fd| !fd.revents().is_empty());
        if on_info {
            jail.read();
        }
        if on_channel {
            return true;
        }
    }
}

/// The control groups of the session.
#[derive(Default)]
struct Groups {
    /// Where each stands, and its name.
    named: Vec<(OwnedFd, String)>,
    /// The `cgroup.kill` of those that have one.
    killers: Vec<OwnedFd>,
}

impl Groups {
    /// Ends what the jail's end has not ended, and removes the groups. A failure leaves an empty one.
    fn remove(&self) {
        if !self.named.is_empty() {
            // Not permitted: then our own rights have to do.
            capability::raise(REMOVES_GROUPS).ok();
        }
        for killer in &self.killers {
            cgroup::kill(killer).ok();
        }
        for (folder, name) in &self.named {
            cgroup::remove(folder, name).ok();
        }
    }
}

/// Answers one claim.
fn answer(channel: &Channel, held: &mut Vec<Held>, groups: &mut Groups) -> Result<(), WireError> {
    let Received {
        message: claim,
        fds,
        ..
    } = channel.recv_with::<Claim>()?;
    let claimed = match (claim, fds.into_iter().next()) {
        (Claim::Placeholder(name), Some(folder)) => claim_in(folder, name),
        (Claim::Group(name), Some(folder)) => {
            let path = Path::new(&name);
            if !is_plain_relative(path) || path.components().count() != 1 {
                return channel.send(&Claimed::Failed(Errno::INVAL.raw_os_error()));
            }
            groups.named.push((folder, name));
            return channel.send(&Claimed::Stands);
        }
        (Claim::Killer, Some(killer)) => {
            groups.killers.push(killer);
            return channel.send(&Claimed::Stands);
        }
        (_, None) => Err(Errno::BADF),
    };
    match claimed {
        Ok(Some(new)) => {
            // Held before it is announced: it is swept even when the session dies right now.
            held.push(new);
            let fds = held.last().map(|new| new.placeholder.as_fd());
            channel.send_with(&Claimed::Stands, fds.as_slice())
        }
        Ok(None) => channel.send(&Claimed::Taken),
        Err(errno) => channel.send(&Claimed::Failed(errno.raw_os_error())),
    }
}

/// Makes a placeholder, or shares the one that is there. The folder is an O_PATH descriptor.
fn claim_in(folder: OwnedFd, name: Vec<u8>) -> Result<Option<Held>, Errno> {
    let path = Path::new(OsStr::from_bytes(&name));
    if !is_plain_relative(path) || path.components().count() != 1 {
        return Err(Errno::INVAL);
    }
    loop {
        match mkdirat(&folder, path, Mode::from_raw_mode(MODE)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let placeholder = match openat(&folder, path, flags, Mode::empty()) {
            // Another sweeper removed it in between.
            Err(Errno::NOENT) => continue,
            other => other?,
        };
        share_lock(&placeholder)?;
        let stat = fstat(&placeholder)?;
        if stat.st_nlink == 0 {
            // Another sweeper had it locked for removing.
            continue;
        }
        if !is_placeholder(&placeholder, &stat) {
            return Ok(None);
        }
        return Ok(Some(Held {
            folder: Arc::new(folder),
            name,
            placeholder,
        }));
    }
}

/// Takes a shared lock. Another sweeper holds the exclusive one for as long as it takes to remove a
/// folder; somebody in another jail can hold it for ever, so this does not wait for ever: the session
/// is refused then, since without our lock the folder could be removed from under its jail.
fn share_lock(placeholder: &OwnedFd) -> Result<(), Errno> {
    let mut tries = 0..200;
    loop {
        match flock(placeholder, FlockOperation::NonBlockingLockShared) {
            Err(Errno::WOULDBLOCK) if tries.next().is_some() => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// The jail's first process, whose end is the end of every process in it (pid_namespaces(7)).
struct JailWatch {
    /// Where bubblewrap writes `{ "child-pid": N, … }`; none once that is read.
    info: Option<File>,
    text: Vec<u8>,
    pidfd: Option<OwnedFd>,
}

impl JailWatch {
    fn new(info: File) -> Self {
        Self {
            info: Some(info),
            text: Vec::new(),
            pidfd: None,
        }
    }

    /// Reads what there is. End of file before the process is named: there was no jail.
    fn read(&mut self) {
        let Some(info) = &mut self.info else { return };
        let mut part = [0; 512];
        let got = info.read(&mut part).unwrap_or(0);
        self.text
            .extend_from_slice(part.get(..got).unwrap_or_default());
        if got == 0 || self.text.contains(&b'}') {
            self.info = None;
            self.pidfd = first_process(&self.text);
        }
    }

    /// Kills it, and waits for its end. It dies with the session, but not in the first moments of its life:
    /// then it waits for a parent that is dead ([`super::orphan`]).
    fn wait(mut self) -> io::Result<()> {
        while self.info.is_some() {
            self.read();
        }
        let Some(pidfd) = self.pidfd else {
            return Ok(());
        };
        // Dead is as good. One that is somebody else's by the rules of its namespace dies with its parent.
        pidfd_send_signal(&pidfd, Signal::KILL).ok();
        loop {
            match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], None) {
                Err(Errno::INTR) => {}
                other => return other.map(drop).map_err(io::Error::from),
            }
        }
    }
}

/// A descriptor of the process that bubblewrap named; none when it is dead already.
fn first_process(info: &[u8]) -> Option<OwnedFd> {
    let pid = Pid::from_raw(named(info)?)?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

/// The number in `{ "child-pid": N, …`, which bubblewrap writes first and with all its digits at once: it may
/// have been killed before the rest.
fn named(info: &[u8]) -> Option<i32> {
    let text = std::str::from_utf8(info).ok()?;
    let (_, value) = text.split_once("\"child-pid\"")?;
    let value = value.trim_start().strip_prefix(':')?.trim_start();
    let digits = value.bytes().take_while(u8::is_ascii_digit).count();
    value.get(..digits)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_jails_first_process_is_known_as_soon_as_bubblewrap_has_named_it() {
        for (info, number) in [
            ("{\n    \"child-pid\": 5219", Some(5219)),
            (
                "{\n    \"child-pid\": 5219,\n    \"cgroup-namespace\": 40\n}\n",
                Some(5219),
            ),
            ("{\n    \"child-pid\": ", None),
            ("{\n    \"child-pid\": 99999999999", None),
            ("", None),
        ] {
            assert_eq!(named(info.as_bytes()), number, "{info}");
        }
    }
}
