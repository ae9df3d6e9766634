//! Somebody who looks at a session's terminal over a stream socket, and perhaps types.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::wire::session::Size;

/// How long the command may wait for one viewer that reads slowly, before that one is cut off.
const PATIENCE: Duration = Duration::from_secs(5);

/// Keys that one viewer may have typed ahead, in bytes.
const KEYS: usize = 4 << 10;

/// One viewer.
#[derive(Debug)]
pub(super) struct Viewer {
    stream: UnixStream,
    /// Who, for the record.
    pub(super) name: String,
    pub(super) read_only: bool,
    pub(super) size: Size,
    /// What it has not taken yet.
    pending: Vec<u8>,
    /// Since when.
    since: Option<Instant>,
    /// What it typed and the command has not taken yet.
    pub(super) keys: Vec<u8>,
}

/// It left, or has to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gone;

impl Viewer {
    /// A new one, and the end that it gets.
    pub(super) fn new(name: String, size: Size, read_only: bool) -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let viewer = Self {
            stream: ours,
            name,
            read_only,
            size,
            pending: Vec::new(),
            since: None,
            keys: Vec::new(),
        };
        Ok((viewer, theirs.into()))
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Whether something waits for it to read.
    pub(super) fn is_behind(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Whether it may type.
    pub(super) fn may_type(&self) -> bool {
        self.keys.is_empty()
    }

    /// When it is cut off.
    pub(super) fn due(&self) -> Option<Instant> {
        self.since.map(|since| since + PATIENCE)
    }

    /// Has something shown.
    pub(super) fn show(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// Gives it what it takes; never waits.
    pub(super) fn flush(&mut self) -> Result<(), Gone> {
        while !self.pending.is_empty() {
            match (&self.stream).write(&self.pending) {
                Ok(0) => return Err(Gone),
                Ok(taken) => drop(self.pending.drain(..taken)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let since = *self.since.get_or_insert_with(Instant::now);
                    return if since.elapsed() < PATIENCE {
                        Ok(())
                    } else {
                        Err(Gone)
                    };
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(Gone),
            }
        }
        self.since = None;
        Ok(())
    }

    /// Whether it is gone, whatever it typed before.
    fn has_hung_up(&self) -> bool {
        let mut fds = [PollFd::new(&self.stream, PollFlags::empty())];
        poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    /// Takes what it typed; never waits, and not more before the command has taken that.
    pub(super) fn listen(&mut self) -> Result<(), Gone> {
        if !self.may_type() {
            return if self.has_hung_up() {
                Err(Gone)
            } else {
                Ok(())
            };
        }
        let mut chunk = [0; KEYS];
        match (&self.stream).read(&mut chunk) {
            Ok(0) => Err(Gone),
            Ok(got) => {
                if !self.read_only {
                    self.keys
                        .extend_from_slice(chunk.get(..got).unwrap_or_default());
                }
                Ok(())
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                Ok(())
            }
            Err(_) => Err(Gone),
        }
    }
}
