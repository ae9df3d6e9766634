//! Framing: a little-endian `u32` length, then that many bytes of JSON. Descriptors travel with the
//! first byte of a frame (`SCM_RIGHTS`, unix(7)).

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

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
        let bytes = encode(message)?;
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(WireError::Io(io::Error::other(
                "too many descriptors for one frame",
            )));
        }
        let mut rest: &[u8] = &bytes;
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

    /// Waits for one message.
    pub fn recv<T: DeserializeOwned>(&self) -> Result<T, WireError> {
        self.recv_with().map(|(message, _)| message)
    }

    /// Waits for one message and the descriptors that came with it, all close-on-exec.
    pub fn recv_with<T: DeserializeOwned>(&self) -> Result<(T, Vec<OwnedFd>), WireError> {
        let mut fds = Vec::new();
        let mut header = [0; 4];
        self.fill(&mut header, &mut fds, true)?;
        let mut body = vec![0; body_length(header)?];
        self.fill(&mut body, &mut fds, false)?;
        Ok((decode(&body)?, fds))
    }

    /// Reads until `buffer` is full. End of file is [`WireError::Closed`] only between two frames.
    fn fill(
        &self,
        buffer: &mut [u8],
        fds: &mut Vec<OwnedFd>,
        at_start: bool,
    ) -> Result<(), WireError> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let mut space =
                [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::CMSG_CLOEXEC;
            let got = match recvmsg(
                &self.stream,
                &mut [IoSliceMut::new(rest)],
                &mut ancillary,
                flags,
            ) {
                Err(rustix::io::Errno::INTR) => continue,
                Err(rustix::io::Errno::CONNRESET) if at_start && filled == 0 => {
                    return Err(WireError::Closed);
                }
                other => other.map_err(io::Error::from)?,
            };
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(received) = message {
                    fds.extend(received);
                }
            }
            if got.bytes == 0 {
                return Err(if at_start && filled == 0 {
                    WireError::Closed
                } else {
                    WireError::Io(io::ErrorKind::UnexpectedEof.into())
                });
            }
            filled += got.bytes;
        }
        Ok(())
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.stream.as_raw_fd()
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
    use std::io::Write;

    #[test]
    fn a_message_and_its_descriptors_arrive_together() {
        let (a, b) = Channel::pair().unwrap();
        let (c, _d) = Channel::pair().unwrap();
        a.send_with(&"x".repeat(100_000), &[c.as_fd()])
            .unwrap_or_else(|_| unreachable!());
        let (text, fds): (String, _) = b.recv_with().unwrap();
        assert_eq!((text.len(), fds.len()), (100_000, 1));
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
