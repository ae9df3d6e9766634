//! splice(2): socket to pipe to socket, without a copy through our memory.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::relay::Direction;
use super::tally::Tally;

/// Asked of one call; a pipe of the default size takes 16 segments, whatever they hold (pipe(7)).
const MOST: usize = 1 << 20;

/// A pipe that holds what is between two sockets. Empty between two calls of [`pump`]'s loop.
#[derive(Debug)]
pub(super) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

impl Pipe {
    /// A pipe of the default size: a larger one counts against the user's share of pipe pages.
    pub(super) fn new() -> io::Result<Self> {
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
        Ok(Self { read, write })
    }
}

/// Relays until `from` is at its end of file.
pub(super) async fn pump(
    pipe: &Pipe,
    from: &TcpStream,
    to: &TcpStream,
    tally: &Tally,
    direction: Direction,
) -> io::Result<()> {
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    loop {
        let filled = from
            .async_io(Interest::READABLE, || {
                again(|| rustix::pipe::splice(from, None, &pipe.write, None, MOST, flags))
            })
            .await?;
        if filled == 0 {
            return Ok(());
        }
        let mut left = filled;
        // How much of it may be sent.
        let mut taken = 0;
        while left > 0 {
            if taken == 0 {
                taken = tally.reserve(direction, left).await?.min(left);
            }
            let sent = to
                .async_io(Interest::WRITABLE, || {
                    again(|| rustix::pipe::splice(&pipe.read, None, to, None, taken, flags))
                })
                .await?;
            if sent == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            left -= sent.min(left);
            taken -= sent.min(taken);
            direction.count(tally, sent);
        }
    }
}

/// Repeats a call that a signal interrupted.
fn again(mut call: impl FnMut() -> Result<usize, Errno>) -> io::Result<usize> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other.map_err(io::Error::from),
        }
    }
}
