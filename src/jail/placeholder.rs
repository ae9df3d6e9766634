//! Placeholders: empty folders on the host that stand where a protected path is missing, for as long
//! as a session runs. A process of their own makes and removes them ([`super::sweep`]), so that they
//! go away even when the session process is killed.

use std::ffi::OsStr;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Mode, OFlags, RawDir, Stat, openat};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use super::error::JailError;
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
        })
    }

    /// Asks for a placeholder in a folder. What becomes of it [`Sweeper::answer`] tells, in the order of
    /// the claims; of no more than [`AHEAD`] may the answer be due.
    pub(crate) fn claim(&self, folder: &OwnedFd, name: &OsStr) -> Result<(), JailError> {
        let channel = self.channel.as_ref().ok_or(WireError::Closed)?;
        let claim = Claim::Placeholder(name.as_encoded_bytes().to_owned());
        Ok(channel.send_with(&claim, &[folder.as_fd()])?)
    }

    /// Waits for the answer to the oldest claim that has none yet.
    pub(crate) fn answer(&self) -> Result<Place, JailError> {
        let channel = self.channel.as_ref().ok_or(WireError::Closed)?;
        let Received {
            message: claimed,
            fds,
            ..
        } = channel.recv_with()?;
        Ok(match (claimed, fds.into_iter().next()) {
            (Claimed::Stands, Some(fd)) => Place::Stands(fd),
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
        self.info.take()
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

impl Drop for Sweeper {
    fn drop(&mut self) {
        self.begin();
        let said = self.channel.take().map(|channel| {
            set_socket_timeout(channel.as_fd(), Timeout::Recv, Some(SWEEP))
                .map_err(io::Error::from)?;
            channel.recv::<Swept>().map(|_| ())
        });
        if let Some(Err(WireError::Closed)) = said {
            // An error here means that somebody else waited: it is gone either way.
            self.child.wait().ok();
        } else {
            // Its process goes on for a moment: the file system takes milliseconds to let go of a
            // removed folder, and nobody has to wait for that; nor for one that is stopped, which
            // sweeps when it goes on.
            self.child.try_wait().ok();
        }
    }
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
