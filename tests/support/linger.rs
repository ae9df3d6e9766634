//! A descriptor that hurts whoever closes it last.

use std::io::{IoSlice, Write};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// Sends bytes with a socket whose close(2) takes this long, but for a process that ends: what was written to it is
/// never read. We keep no copy. Gives the peer of the socket, to be held meanwhile.
pub(crate) fn send(stream: &UnixStream, bytes: &[u8], linger: Duration) -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (peer, _) = listener.accept().unwrap();
    socket.set_nonblocking(true).unwrap();
    while (&socket).write(&[0; 4096]).is_ok() {}
    set_socket_linger(&socket, Some(linger)).unwrap();
    let fds = [socket.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
    let bytes = [IoSlice::new(bytes)];
    sendmsg(stream, &bytes, &mut ancillary, SendFlags::NOSIGNAL).unwrap();
    peer
}
