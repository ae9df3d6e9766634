//! Frames read without blocking: for a process that waits for several peers at once. A peer that sends
//! half a frame and falls silent holds nobody up.

use std::io;
use std::os::fd::AsFd;

use rustix::net::{RecvFlags, recv};
use serde::de::DeserializeOwned;

use super::WireError;
use super::frame::{Channel, body_length, decode};
use crate::sys::close::{Look, look};

/// Bytes taken by one read.
const CHUNK: usize = 16 << 10;

/// What has come of the next frames.
#[derive(Debug)]
pub struct Inbox {
    bytes: Vec<u8>,
    /// The longest frame body; a peer that announces more is cut off.
    longest: usize,
}

impl Inbox {
    /// For a peer whose messages have at most this many bytes.
    pub fn new(longest: usize) -> Self {
        Self {
            bytes: Vec::new(),
            longest,
        }
    }

    /// The next whole message, if it is there; reads what has arrived, never waits. The end of the
    /// channel is told once every whole message before it was taken.
    pub fn next<T: DeserializeOwned>(&mut self, channel: &Channel) -> Result<Option<T>, WireError> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(Some(message));
            }
            let mut chunk = [0; CHUNK];
            match recv(channel.as_fd(), &mut chunk, RecvFlags::DONTWAIT) {
                Ok((_, 0)) | Err(rustix::io::Errno::CONNRESET) => return Err(WireError::Closed),
                Ok((_, got)) => self
                    .bytes
                    .extend_from_slice(chunk.get(..got).unwrap_or_default()),
                Err(rustix::io::Errno::AGAIN) => return Ok(None),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(WireError::Io(error.into())),
            }
        }
    }

    /// As [`Inbox::next`], of somebody who has no descriptors to send: whoever sends one is not listened to. It
    /// stays in the socket, because to close it can take as long as its owner likes, and to have it can hold up
    /// the start of a child.
    pub fn next_alone<T: DeserializeOwned>(
        &mut self,
        channel: &Channel,
    ) -> Result<Option<T>, WireError> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(Some(message));
            }
            let mut chunk = [0; CHUNK];
            let there = match look(channel.as_fd(), &mut chunk) {
                Ok(Look::Bytes(there)) => there,
                Ok(Look::Descriptors) => {
                    return Err(WireError::Io(io::Error::other("descriptors")));
                }
                Err(rustix::io::Errno::AGAIN) => return Ok(None),
                Err(rustix::io::Errno::INTR) => continue,
                Err(rustix::io::Errno::CONNRESET) => return Err(WireError::Closed),
                Err(error) => return Err(WireError::Io(error.into())),
            };
            // What was looked at and no byte more.
            let seen = chunk.get_mut(..there).unwrap_or_default();
            match recv(channel.as_fd(), seen, RecvFlags::DONTWAIT) {
                Ok((_, 0)) | Err(rustix::io::Errno::CONNRESET) => return Err(WireError::Closed),
                Ok((_, got)) => self
                    .bytes
                    .extend_from_slice(chunk.get(..got).unwrap_or_default()),
                Err(rustix::io::Errno::AGAIN) => return Ok(None),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(WireError::Io(error.into())),
            }
        }
    }

    /// Whether nothing has come that was not taken.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn take<T: DeserializeOwned>(&mut self) -> Result<Option<T>, WireError> {
        let Some(header) = self.bytes.first_chunk() else {
            return Ok(None);
        };
        let length = body_length(*header)?;
        if length > self.longest {
            return Err(WireError::TooLong(length));
        }
        let Some(body) = self.bytes.get(4..4 + length) else {
            return Ok(None);
        };
        let message = decode(body)?;
        self.bytes.drain(..4 + length);
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    #[test]
    fn messages_come_out_whole_however_they_arrive_and_the_end_comes_last() {
        let (a, b) = UnixStream::pair().unwrap();
        let channel = Channel::new(b);
        let mut inbox = Inbox::new(64);
        assert_eq!(inbox.next::<String>(&channel).unwrap(), None);
        let bytes = [
            super::super::frame::encode(&"one").unwrap(),
            super::super::frame::encode(&"two").unwrap(),
        ]
        .concat();
        let (first, rest) = bytes.split_at(6);
        (&a).write_all(first).unwrap();
        assert_eq!(inbox.next::<String>(&channel).unwrap(), None);
        (&a).write_all(rest).unwrap();
        drop(a);
        let mut take = || inbox.next::<String>(&channel);
        assert_eq!(take().unwrap(), Some("one".to_owned()));
        assert_eq!(take().unwrap(), Some("two".to_owned()));
        assert!(matches!(take(), Err(WireError::Closed)));
    }

    #[test]
    fn a_frame_over_the_cap_is_refused_by_its_header() {
        let (a, b) = UnixStream::pair().unwrap();
        (&a).write_all(&65_u32.to_le_bytes()).unwrap();
        let next = Inbox::new(64).next::<String>(&Channel::new(b));
        assert!(matches!(next, Err(WireError::TooLong(65))));
    }
}
