//! The end of a socket on which others may have sent descriptors that nobody has taken (unix(7)). They are
//! released with it, and that can take as long as their owner likes: a TCP socket that lingers (SO_LINGER,
//! socket(7)) has whoever closes it last wait, unless that is a process that ends.

use std::io::{self, IoSliceMut, PipeWriter, Read};
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};

use nix::libc;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_passcred;
use rustix::net::{RecvAncillaryBuffer, RecvFlags, ReturnFlags, Shutdown, recv, recvmsg, shutdown};

/// Bytes looked at by one read.
const CHUNK: usize = 16 << 10;

/// Closes a Unix stream socket, for every process that has it, and waits for nothing. Whatever was sent before
/// still reaches the peer. Must be called by whoever reads from it, in a process with one thread.
pub fn without_waiting(socket: impl Into<OwnedFd>) {
    let socket = socket.into();
    // Nothing comes any more: what there is now is all.
    let shut = shutdown(&socket, Shutdown::Both);
    if shut.is_ok() && !brings_descriptors(socket.as_fd()) {
        return;
    }
    match leave_to_a_child() {
        // Our copy first: the child's is the last then.
        Ok(held) => {
            drop(socket);
            drop(held);
        }
        // A number less in our table is better than a daemon that waits.
        Err(_) => drop(socket.into_raw_fd()),
    }
}

/// Has a process that is nobody's child hold a copy of all that we have open, and end once what this gives is dropped.
fn leave_to_a_child() -> io::Result<PipeWriter> {
    let (mut waits, held) = io::pipe()?;
    #[expect(
        unsafe_code,
        reason = "only a process that ends releases without waiting"
    )]
    // SAFETY: the child, and its own, make bare system calls on descriptors that they have and end by _exit(2);
    // they allocate nothing and take no lock, as fork(2) asks of the child of a process with threads.
    let forked = unsafe { fork() }?;
    match forked {
        ForkResult::Parent { child } => match waitpid(child, None)? {
            WaitStatus::Exited(_, 0) => Ok(held),
            _ => Err(io::ErrorKind::WouldBlock.into()),
        },
        ForkResult::Child => {
            drop(held);
            #[expect(
                unsafe_code,
                reason = "whoever ends late must not be the caller's to reap"
            )]
            // SAFETY: as above.
            let code = match unsafe { fork() } {
                Ok(ForkResult::Child) => {
                    // Its end is the signal: nobody says anything.
                    waits.read_exact(&mut [0]).ok();
                    0
                }
                Ok(ForkResult::Parent { .. }) => 0,
                Err(_) => 1,
            };
            end(code)
        }
    }
}

fn end(code: i32) -> ! {
    #[expect(unsafe_code, reason = "the end of a forked child")]
    // SAFETY: _exit(2) runs no handler and no destructor of the parent's.
    unsafe {
        libc::_exit(code)
    }
}

/// Whether descriptors wait in it. Takes what comes before them.
fn brings_descriptors(socket: BorrowedFd<'_>) -> bool {
    // Else every byte comes with something for which there is no room.
    if set_socket_passcred(socket, false).is_err() {
        return true;
    }
    let mut chunk = [0; CHUNK];
    loop {
        match look(socket, &mut chunk) {
            // Told once, of a peer that had not read everything.
            Err(Errno::CONNRESET) => {}
            Ok(Look::Descriptors) | Err(_) => return true,
            Ok(Look::Bytes(0)) => return false,
            Ok(Look::Bytes(there)) => {
                let taken = chunk
                    .get_mut(..there)
                    .map(|seen| recv(socket, seen, RecvFlags::DONTWAIT));
                if !matches!(taken, Some(Ok(_))) {
                    return true;
                }
            }
        }
    }
}

/// What is next in a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// This many bytes, and no descriptor with them; 0: the end.
    Bytes(usize),
    /// Descriptors are among it.
    Descriptors,
}

/// Looks at what is next and leaves it there.
pub fn look(socket: BorrowedFd<'_>, chunk: &mut [u8]) -> rustix::io::Result<Look> {
    let flags = RecvFlags::DONTWAIT | RecvFlags::PEEK;
    let mut none = RecvAncillaryBuffer::default();
    let looked = recvmsg(socket, &mut [IoSliceMut::new(chunk)], &mut none, flags)?;
    // There was no room for what else came, which nobody here wants but descriptors.
    Ok(if looked.flags.contains(ReturnFlags::CTRUNC) {
        Look::Descriptors
    } else {
        Look::Bytes(looked.bytes)
    })
}
