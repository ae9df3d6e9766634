//! Framing: a little-endian `u32` length, then that many bytes of JSON. Descriptors travel with the
//! first byte of a frame (`SCM_RIGHTS`, unix(7)).

use std::io::{self, IoSlice, IoSliceMut, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg, sockopt::set_socket_passcred,
};
use rustix::process::Pid;
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::secret::WipedBytes;

/// The longest frame body, in bytes. Must exceed the longest record (1 KiB path, 253-byte host) and
/// the largest policy a session sends; a peer that announces more is cut off.
pub const MAX_FRAME: usize = 16 << 20;

/// The most descriptors that one frame carries.
pub const MAX_FDS: usize = 8;

/// Why a frame could not be sent or read.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The peer closed the channel between two frames.
    #[error("the other side closed the channel")]
    Closed,
    /// The socket failed.
    #[error("socket: {0}")]
    Io(#[from] io::Error),
    /// A frame announced more than [`MAX_FRAME`] bytes.
    #[error("frame of {0} bytes is over the cap of {MAX_FRAME}")]
    TooLong(usize),
    /// The body is not the message that belongs here.
    #[error("unexpected message: {0}")]
    Message(#[from] serde_json::Error),
}

/// The bytes of one frame, header included.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, WireError> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let length = bytes.len() - 4;
    let header = u32::try_from(length).ok().filter(|_| length <= MAX_FRAME);
    let header = header.ok_or(WireError::TooLong(length))?;
    if let Some(slot) = bytes.first_chunk_mut() {
        *slot = header.to_le_bytes();
    }
    Ok(bytes)
}

/// [`encode`] into memory that is wiped afterwards.
pub fn encode_wiped<T: Serialize>(message: &T) -> Result<WipedBytes, WireError> {
    let mut bytes = WipedBytes::default();
    bytes.write_all(&[0; 4])?;
    serde_json::to_writer(&mut bytes, message)?;
    let length = bytes.as_slice().len() - 4;
    let header = u32::try_from(length).ok().filter(|_| length <= MAX_FRAME);
    let header = header.ok_or(WireError::TooLong(length))?;
    if let Some(slot) = bytes.as_mut_slice().first_chunk_mut() {
        *slot = header.to_le_bytes();
    }
    Ok(bytes)
}

/// The body length that a header announces.
pub fn body_length(header: [u8; 4]) -> Result<usize, WireError> {
    let length = u32::from_le_bytes(header) as usize;
    if length > MAX_FRAME {
        Err(WireError::TooLong(length))
    } else {
        Ok(length)
    }
}

/// Reads a message from a frame's body.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, WireError> {
    Ok(serde_json::from_slice(body)?)
}

/// A blocking, framed Unix stream socket.
#[derive(Debug)]
pub struct Channel {
    stream: UnixStream,
}

impl Channel {
    /// Two connected ends, both close-on-exec.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (a, b) = UnixStream::pair()?;
        Ok((Self { stream: a }, Self { stream: b }))
    }

    /// Wraps a connected socket.
    pub fn new(stream: UnixStream) -> Self {
        Self { stream }
    }

    /// The same channel once more: whoever reads must be one of the two alone.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.stream.try_clone().map(Self::new)
    }

    /// Says nothing more; the peer reads the end of the channel and may still answer.
    pub fn finish(&self) -> io::Result<()> {
        self.stream.shutdown(std::net::Shutdown::Write)
    }

    /// Gives the socket back.
    pub fn into_stream(self) -> UnixStream {
        self.stream
    }

    /// Sends one message.
    pub fn send<T: Serialize>(&self, message: &T) -> Result<(), WireError> {
        self.send_with(message, &[])
    }

    /// Sends one message with descriptors.
    pub fn send_with<T: Serialize>(
        &self,
        message: &T,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), WireError> {
        // A credential may be in it: no copy is left in our memory.
        let bytes = encode_wiped(message)?;
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(WireError::Io(io::Error::other(
                "too many descriptors for one frame",
            )));
        }
        let mut rest: &[u8] = bytes.as_slice();
        while !rest.is_empty() {
            let sent = match sendmsg(
                &self.stream,
                &[IoSlice::new(rest)],
                &mut ancillary,
                SendFlags::NOSIGNAL,
            ) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other.map_err(io::Error::from)?,
            };
            ancillary.clear();
            rest = rest.get(sent..).unwrap_or_default();
        }
        Ok(())
    }

    /// Sends one message with descriptors, or fails: never waits for a peer that does not read.
    pub fn send_now<T: Serialize>(
        &self,
        message: &T,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), WireError> {
        let bytes = encode_wiped(message)?;
        let bytes = bytes.as_slice();
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(WireError::Io(io::ErrorKind::InvalidInput.into()));
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let sent = sendmsg(&self.stream, &[IoSlice::new(bytes)], &mut ancillary, flags)
            .map_err(io::Error::from)?;
        if sent == bytes.len() {
            Ok(())
        } else {
            // The rest would have to wait: the peer is of no use any more.
            Err(WireError::Io(io::ErrorKind::WouldBlock.into()))
        }
    }

    /// From now on the kernel tells us with each frame which process sent it, as a pid of our own
    /// namespace (`SO_PASSCRED`, unix(7)): [`Received::sender`].
    pub fn learn_sender(&self) -> io::Result<()> {
        Ok(set_socket_passcred(&self.stream, true)?)
    }

    /// One byte of somebody's, and which process sent it; `None`: nobody has. Only after
    /// [`Channel::learn_sender`]. Whoever sends a descriptor with it is not listened to; it stays in the socket.
    pub fn knock(&self) -> Result<Option<Pid>, WireError> {
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
        let mut came = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let flags = RecvFlags::DONTWAIT | RecvFlags::PEEK;
        let buffers = &mut [IoSliceMut::new(&mut byte)];
        match recvmsg(&self.stream, buffers, &mut came, flags) {
            Ok(got) if got.flags.contains(ReturnFlags::CTRUNC) => {
                return Err(WireError::Io(io::Error::other("descriptors")));
            }
            Ok(got) if got.bytes == 0 => return Err(WireError::Closed),
            Ok(_) => {}
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(None),
            Err(error) => return Err(WireError::Io(error.into())),
        }
        let sender = came.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmCredentials(sender) => Some(sender.pid),
            _ => None,
        });
        rustix::net::recv(&self.stream, &mut byte, RecvFlags::DONTWAIT).map_err(io::Error::from)?;
        let unknown = || WireError::Io(io::Error::other("nobody sent it"));
        sender.map(Some).ok_or_else(unknown)
    }

    /// Lets in whoever has knocked: one byte.
    pub fn admit(&self) -> io::Result<()> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        Ok(rustix::net::send(&self.stream, b"1", flags).map(drop)?)
    }

    /// Waits for one message.
    pub fn recv<T: DeserializeOwned>(&self) -> Result<T, WireError> {
        self.recv_with().map(|received| received.message)
    }

    /// Waits for one message and what came with it.
    pub fn recv_with<T: DeserializeOwned>(&self) -> Result<Received<T>, WireError> {
        let mut ancillary = Ancillary::default();
        let mut header = [0; 4];
        self.fill(&mut header, &mut ancillary, Position::Start)?;
        // A credential may be in it.
        let mut body = Zeroizing::new(vec![0; body_length(header)?]);
        self.fill(&mut body, &mut ancillary, Position::Inside)?;
        Ok(Received {
            message: decode(&body)?,
            fds: ancillary.fds,
            sender: ancillary.sender,
        })
    }

    /// Reads until `buffer` is full. End of file is [`WireError::Closed`] only between two frames.
    fn fill(&self, buffer: &mut [u8], to: &mut Ancillary, at: Position) -> Result<(), WireError> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let between_frames = at == Position::Start && filled == 0;
            match to.receive(self.stream.as_fd(), rest, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::CONNRESET) if between_frames => {
                    return Err(WireError::Closed);
                }
                Err(error) => return Err(WireError::Io(error.into())),
                Ok(0) if between_frames => return Err(WireError::Closed),
                Ok(0) => return Err(WireError::Io(io::ErrorKind::UnexpectedEof.into())),
                Ok(bytes) => filled += bytes,
            }
        }
        Ok(())
    }
}

/// One message and what the kernel delivered with it.
#[derive(Debug)]
pub struct Received<T> {
    /// The message.
    pub message: T,
    /// The descriptors that came with it, all close-on-exec.
    pub fds: Vec<OwnedFd>,
    /// The process that sent it, if [`Channel::learn_sender`] was called before.
    pub sender: Option<Pid>,
}

/// Where in a frame a read begins: only before one may the peer be gone.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Position {
    Start,
    Inside,
}

/// What has come beside the bytes so far.
#[derive(Default)]
pub(super) struct Ancillary {
    pub(super) fds: Vec<OwnedFd>,
    sender: Option<Pid>,
}

impl Ancillary {
    pub(super) fn receive(
        &mut self,
        stream: BorrowedFd<'_>,
        buffer: &mut [u8],
        flags: RecvFlags,
    ) -> rustix::io::Result<usize> {
        let mut space = [std::mem::MaybeUninit::uninit();
            rustix::cmsg_space!(ScmRights(MAX_FDS), ScmCredentials(1))];
        let mut received = RecvAncillaryBuffer::new(&mut space);
        let result = recvmsg(stream, &mut [IoSliceMut::new(buffer)], &mut received, flags)?;
        for message in received.drain() {
            match message {
                RecvAncillaryMessage::ScmRights(fds) => self.fds.extend(fds),
                RecvAncillaryMessage::ScmCredentials(sender) => self.sender = Some(sender.pid),
                _ => {}
            }
        }
        Ok(result.bytes)
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> Self {
        channel.stream.into()
    }
}

impl From<OwnedFd> for Channel {
    fn from(fd: OwnedFd) -> Self {
        Self { stream: fd.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_and_its_descriptors_arrive_together() {
        let (a, b) = Channel::pair().unwrap();
        let (c, _d) = Channel::pair().unwrap();
        a.send_with(&"x".repeat(100_000), &[c.as_fd()]).unwrap();
        b.learn_sender().unwrap();
        let received = b.recv_with::<String>().unwrap();
        assert_eq!(
            (received.message.len(), received.fds.len(), received.sender),
            (100_000, 1, None)
        );
        a.send(&"y").unwrap();
        let sender = b.recv_with::<String>().unwrap().sender;
        assert_eq!(sender, Some(rustix::process::getpid()));
    }

    #[test]
    fn an_oversized_frame_is_cut_off_before_it_is_read() {
        let (a, b) = UnixStream::pair().unwrap();
        (&a).write_all(&u32::MAX.to_le_bytes()).unwrap();
        assert!(matches!(
            Channel::new(b).recv::<String>(),
            Err(WireError::TooLong(_))
        ));
    }

    #[test]
    fn a_closed_peer_is_told_from_a_broken_frame() {
        let (a, b) = UnixStream::pair().unwrap();
        drop(a);
        assert!(matches!(
            Channel::new(b).recv::<String>(),
            Err(WireError::Closed)
        ));
        let (a, b) = UnixStream::pair().unwrap();
        (&a).write_all(&[9, 0]).unwrap();
        drop(a);
        assert!(matches!(
            Channel::new(b).recv::<String>(),
            Err(WireError::Io(_))
        ));
    }
}
