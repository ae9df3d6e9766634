//! splice(2): socket to pipe to socket, without a copy through our memory.

use std::cell::RefCell;
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

/// Pipes that are kept for the next relay: two descriptors each, and no memory while empty.
const KEPT: usize = 16;

/// Empty pipes.
#[derive(Debug, Default)]
pub(super) struct Pipes(RefCell<Vec<Pipe>>);

/// A pipe that holds what is between two sockets.
#[derive(Debug)]
pub(super) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

impl Pipes {
    /// An empty pipe. Of the default size: a larger one counts against the user's share of pipe pages.
    pub(super) fn take(&self) -> io::Result<Pipe> {
        if let Some(pipe) = self.0.borrow_mut().pop() {
            return Ok(pipe);
        }
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
        Ok(Pipe { read, write })
    }

    /// Keeps a pipe that is empty: what one tunnel left in it would be the next one's.
    fn keep(&self, pipe: Pipe) {
        let mut kept = self.0.borrow_mut();
        if kept.len() < KEPT {
            kept.push(pipe);
        }
    }
}

/// Relays until `from` is at its end of file. Only then is the pipe sure to be empty: a relay that ends
/// in any other way takes its pipe with it.
pub(super) async fn pump(
    pipes: &Pipes,
    pipe: Pipe,
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
            pipes.keep(pipe);
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
