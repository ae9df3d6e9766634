//! Placeholders: empty folders on the host that stand where a protected path is missing, for as long
//! as a session runs. A process of their own makes and removes them ([`super::sweep`]), so that they
//! go away even when the session process is killed. Where the sweeper is killed, the session does its work
//! at its own end; where both are, the next session in the workspace takes over what stands there.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, RawDir, Stat, fstat, openat};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use super::error::JailError;
use super::held::Held;
use super::source::is_dir;
use crate::sys::beside::{self, Errors, Process};
use crate::sys::fd::proc_path;
use crate::wire::frame::Received;
use crate::wire::sweep::{Claim, Claimed, Swept};
use crate::wire::{Channel, WireError};

/// The permission bits by which a placeholder is known; a person's empty folder has others.
pub(crate) const MODE: u32 = 0o555;

/// A sweeper answers at once, but for the end of the jail. One that is stopped must not stop its session.
const ANSWER: Duration = Duration::from_secs(30);

/// Claims at once. Claims and answers of as many fit into the channel, so neither side waits for the other
/// to read.
pub(crate) const AHEAD: usize = 16;

/// What the end of a jail and a few folders take, many times over.
const SWEEP: Duration = Duration::from_secs(10);

/// The session's side: asks for placeholders. Dropping it has them swept and waits until they are.
#[derive(Debug)]
pub(crate) struct Sweeper {
    channel: Option<Channel>,
    child: Process,
    info: Option<PipeWriter>,
    /// Read by nobody here. Without a reader bubblewrap would end in the middle of its start.
    _reader: PipeReader,
    /// Claims without an answer: the folder, and the name in it.
    due: VecDeque<(Arc<OwnedFd>, Vec<u8>)>,
    /// The placeholders that stand, with the sweeper's own lock on each.
    held: Vec<Held>,
    first: First,
}

/// What is known of a jail's first process, whose end is waited for before anything is removed.
#[derive(Debug)]
pub(crate) enum First {
    /// There is no jail, or none any more.
    Nobody,
    /// Nobody has looked yet which it is.
    Unknown,
    /// This one (pidfd_open(2)).
    Known(OwnedFd),
}

/// What became of a claim.
#[derive(Debug)]
pub(crate) enum Place {
    /// A placeholder stands, and stays until the session is over.
    Stands(OwnedFd),
    /// It cannot be made: the errno.
    Forbidden(i32),
}

impl Sweeper {
    /// Starts the process: the program of init with one argument.
    pub(crate) fn start(init: &impl AsFd) -> Result<Self, JailError> {
        let failed = |source| JailError::Start {
            what: "portcullis-init sweep",
            source,
        };
        let (ours, theirs) = Channel::pair().map_err(failed)?;
        for way in [Timeout::Recv, Timeout::Send] {
            set_socket_timeout(&ours, way, Some(ANSWER)).map_err(|errno| failed(errno.into()))?;
        }
        let (info_reader, info) = io::pipe().map_err(failed)?;
        let reader = info_reader.try_clone().map_err(failed)?;
        let program = init.as_fd().try_clone_to_owned().map_err(failed)?;
        let path = proc_path(&program);
        let fds = [(theirs.into(), 3), (info_reader.into(), 4)];
        let child = beside::start(Path::new(&path), Some("sweep"), Errors::Dropped, &fds);
        let child = child.map_err(failed)?;
        Ok(Self {
            channel: Some(ours),
            child,
            info: Some(info),
            _reader: reader,
            due: VecDeque::new(),
            held: Vec::new(),
            first: First::Nobody,
        })
    }

    /// Asks for a placeholder in a folder. What becomes of it [`Sweeper::answer`] tells, in the order of
    /// the claims; of no more than [`AHEAD`] may the answer be due.
    pub(crate) fn claim(&mut self, folder: &OwnedFd, name: &OsStr) -> Result<(), JailError> {
        let channel = self.channel.as_ref().ok_or(WireError::Closed)?;
        let name = name.as_encoded_bytes().to_owned();
        channel.send_with(&Claim::Placeholder(name.clone()), &[folder.as_fd()])?;
        let folder = self.shared(folder).map_err(WireError::Io)?;
        self.due.push_back((folder, name));
        Ok(())
    }

    /// One descriptor for all claims in a row in the same folder.
    fn shared(&self, folder: &OwnedFd) -> io::Result<Arc<OwnedFd>> {
        let ours = fstat(folder)?;
        let due = self.due.back().map(|(folder, _)| folder);
        if let Some(last) = due.or(self.held.last().map(|held| &held.folder)) {
            let last_stat = fstat(last)?;
            if (last_stat.st_dev, last_stat.st_ino) == (ours.st_dev, ours.st_ino) {
                return Ok(last.clone());
            }
        }
        folder.try_clone().map(Arc::new)
    }

    /// Waits for the answer to the oldest claim that has none yet.
    pub(crate) fn answer(&mut self) -> Result<Place, JailError> {
        let channel = self.channel.as_ref().ok_or(WireError::Closed)?;
        let Received {
            message: claimed,
            fds,
            ..
        } = channel.recv_with()?;
        let (folder, name) = self.due.pop_front().ok_or(WireError::Closed)?;
        Ok(match (claimed, fds.into_iter().next()) {
            (Claimed::Stands, Some(fd)) => {
                self.held.push(Held {
                    folder,
                    name,
                    placeholder: fd.try_clone().map_err(WireError::Io)?,
                });
                Place::Stands(fd)
            }
            (Claimed::Failed(errno), _) => Place::Forbidden(errno),
            (Claimed::Stands | Claimed::Taken, _) => Place::Forbidden(nix::libc::EBUSY),
        })
    }

    /// Says that a control group is about to be made in a folder: it is removed with the placeholders.
    /// No answer to [`Sweeper::claim`] may be due.
    pub(crate) fn claim_group(&self, folder: BorrowedFd<'_>, name: &str) -> Result<(), JailError> {
        self.tell(&Claim::Group(name.to_owned()), folder)
    }

    /// Gives what kills the processes that a control group still has when the jail is dead.
    pub(crate) fn give_killer(&self, killer: BorrowedFd<'_>) -> Result<(), JailError> {
        self.tell(&Claim::Killer, killer)
    }

    fn tell(&self, claim: &Claim, fd: BorrowedFd<'_>) -> Result<(), JailError> {
        match self.ask(claim, fd)?.message {
            Claimed::Stands => Ok(()),
            Claimed::Taken | Claimed::Failed(_) => Err(WireError::Closed.into()),
        }
    }

    fn ask(&self, claim: &Claim, fd: BorrowedFd<'_>) -> Result<Received<Claimed>, JailError> {
        let channel = self.channel.as_ref().ok_or(WireError::Closed)?;
        channel.send_with(claim, &[fd])?;
        Ok(channel.recv_with()?)
    }

    /// Where bubblewrap is to write which process is the jail's first: the sweeper waits for its end.
    pub(crate) fn take_info(&mut self) -> Option<PipeWriter> {
        self.first = First::Unknown;
        self.info.take()
    }

    /// Which process the jail's first is, in case it is we who have to wait for its end. What is known already
    /// stays.
    pub(crate) fn know(&mut self, first: First) {
        if let First::Unknown = self.first {
            self.first = first;
        }
    }
}

impl Sweeper {
    /// Says that the session is over, without waiting for anything: the sweeper goes on once the jail
    /// is dead.
    pub(crate) fn begin(&mut self) {
        // Without the pipe's end no jail will ever report.
        self.info = None;
        if let Some(channel) = &self.channel {
            // The end of what we say is the signal. One that is gone is found out when it is waited for.
            channel.finish().ok();
        }
    }
}

impl Sweeper {
    /// Does what the sweeper cannot do any more: it is dead.
    fn take_over(&self) {
        let over = match &self.first {
            First::Nobody => true,
            // What stands is taken over by the next session in the workspace.
            First::Unknown => false,
            First::Known(first) => ends(first, SWEEP),
        };
        if over {
            for held in &self.held {
                held.sweep();
            }
            // It may have died between making one and telling so.
            for (folder, name) in &self.due {
                if let Some(held) = Held::find(Arc::clone(folder), name.clone()) {
                    held.sweep();
                }
            }
        }
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        self.begin();
        let said = self.channel.take().map(|channel| {
            set_socket_timeout(channel.as_fd(), Timeout::Recv, Some(SWEEP))
                .map_err(io::Error::from)?;
            channel.recv::<Swept>().map(|_| ())
        });
        let hangs = |error: &WireError| matches!(error, WireError::Io(error) if error.kind() == io::ErrorKind::WouldBlock);
        match said {
            Some(Err(error)) if !hangs(&error) => {
                // An error here means that somebody else waited: it is gone either way.
                self.child.wait().ok();
                self.take_over();
            }
            _ => {
                // Its process goes on for a moment: the file system takes milliseconds to let go of a
                // removed folder, and nobody has to wait for that; nor for one that is stopped, which
                // sweeps when it goes on.
                self.child.try_wait().ok();
            }
        }
    }
}

/// Waits for the end of a process.
fn ends(process: &OwnedFd, patience: Duration) -> bool {
    let timeout = Timespec::try_from(patience).ok();
    let mut fds = [PollFd::new(process, PollFlags::IN)];
    // A signal in between gives up early: then the next session takes over.
    poll(&mut fds, timeout.as_ref()).is_ok_and(|ready| ready > 0)
}

/// Whether this is a placeholder: one of ours, of another session, or left by a sweeper that was
/// killed.
pub(crate) fn is_placeholder(fd: &OwnedFd, stat: &Stat) -> bool {
    is_dir(stat)
        && stat.st_mode & 0o777 == MODE
        && stat.st_uid == nix::unistd::geteuid().as_raw()
        && is_empty(fd).unwrap_or(false)
}

/// Whether a folder has no entries.
pub(crate) fn is_empty(folder: impl AsFd) -> io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = openat(folder, ".", flags, Mode::empty())?;
    let mut buffer = [std::mem::MaybeUninit::uninit(); 1024];
    let mut entries = RawDir::new(folder, &mut buffer);
    while let Some(entry) = entries.next() {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}
