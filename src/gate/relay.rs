//! Moves bytes from one socket to another. A tunnel that moves little shares one read buffer with all
//! others and so holds no memory while idle; one that moves much gets a pipe and moves without copies.

use std::io;

use rustix::net::Shutdown;
use tokio::net::TcpStream;

use super::screen::Screened;
use super::splice;
use super::state::Gate;
use super::tally::Tally;

/// Bytes after which a direction is worth a pipe (two descriptors). Must exceed a TLS handshake and
/// the usual answer of an API.
const SPLICE_AFTER: usize = 256 << 10;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// From the jail to the network.
    Up,
    /// From the network to the jail.
    Down,
}

impl Direction {
    /// Puts bytes on the account.
    pub(super) fn count(self, tally: &Tally, bytes: usize) {
        match self {
            Self::Up => tally.add_up(bytes),
            Self::Down => tally.add_down(bytes),
        }
    }
}

impl From<io::Error> for Screened {
    fn from(_: io::Error) -> Self {
        Self::Failed
    }
}

/// Relays one direction to its end of file, and hands that on.
pub(super) async fn pump(
    gate: &Gate,
    from: &TcpStream,
    to: &TcpStream,
    tally: &Tally,
    direction: Direction,
) -> io::Result<()> {
    let mut copied = 0_usize;
    loop {
        if copied >= SPLICE_AFTER {
            // Out of descriptors: copying goes on, and a pipe is tried for again later.
            copied = 0;
            if let Ok(pipe) = gate.pipes.take() {
                splice::pump(&gate.pipes, pipe, from, to, tally, direction).await?;
                return finish(to);
            }
        }
        from.readable().await?;
        match copy_once(gate, (from, to), tally, direction) {
            Ok(Copied::End) => return finish(to),
            Ok(Copied::Bytes { read, taken, rest }) => {
                let (unsent, beyond) = rest.split_at(rest.len() - (read - taken));
                send_all(to, unsent).await?;
                direction.count(tally, taken);
                send_within(to, beyond, tally, direction).await?;
                copied = copied.saturating_add(read);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// Sends every byte for which the budgets have room, and counts it. An error when one is used up.
pub(super) async fn send_within(
    to: &TcpStream,
    mut bytes: &[u8],
    tally: &Tally,
    direction: Direction,
) -> io::Result<()> {
    while !bytes.is_empty() {
        let taken = tally.reserve(direction, bytes.len()).await?;
        let (now, later) = bytes.split_at(taken.min(bytes.len()));
        send_all(to, now).await?;
        direction.count(tally, now.len());
        bytes = later;
    }
    Ok(())
}

/// Sends every byte.
pub(super) async fn send_all(to: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        to.writable().await?;
        match to.try_write(bytes) {
            Ok(sent) => bytes = bytes.get(sent..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Tells the far side that no more is coming.
pub(super) fn finish(to: &TcpStream) -> io::Result<()> {
    match rustix::net::shutdown(to, Shutdown::Write) {
        // It has closed already.
        Ok(()) | Err(rustix::io::Errno::NOTCONN) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

enum Copied {
    End,
    Bytes {
        /// How many were read.
        read: usize,
        /// For how many of them the budgets had room.
        taken: usize,
        /// Those that the receiver did not take yet, and those beyond the budgets.
        rest: Vec<u8>,
    },
}

/// One read and one write, without waiting, through the shared buffer. An empty rest costs no memory.
fn copy_once(
    gate: &Gate,
    (from, to): (&TcpStream, &TcpStream),
    tally: &Tally,
    direction: Direction,
) -> io::Result<Copied> {
    let mut buffer = gate.scratch.borrow_mut();
    let read = from.try_read(&mut buffer)?;
    if read == 0 {
        return Ok(Copied::End);
    }
    let bytes = buffer.get(..read).unwrap_or_default();
    let taken = tally.take(direction, read);
    let within = bytes.get(..taken).unwrap_or_default();
    let sent = match within {
        [] => Ok(0),
        within => to.try_write(within),
    };
    let sent = match sent {
        Ok(sent) => sent,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
        Err(error) => return Err(error),
    };
    let rest = bytes.get(sent..).unwrap_or_default().to_vec();
    Ok(Copied::Bytes { read, taken, rest })
}
