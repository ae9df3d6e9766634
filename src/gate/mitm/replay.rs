//! A stream some of whose bytes were read already.

use hyper::body::Bytes;
use tokio::io::ReadBuf;

use crate::gate::tap::{Tap, Tapped};

/// What was read already.
#[derive(Debug)]
pub(super) struct Early(Bytes);

/// Gives what is early first, then what the stream gives.
pub(super) type Replay<S> = Tapped<S, Early>;

/// Puts `early` before the stream's own.
pub(super) fn replay<S>(early: Bytes, stream: S) -> Replay<S> {
    Tapped::new(stream, Early(early))
}

impl Tap for Early {
    fn give(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let length = self.0.len().min(buffer.remaining());
        buffer.put_slice(&self.0.split_to(length));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn what_was_read_comes_first_and_nothing_is_lost() {
        let mut replay = replay(Bytes::from_static(b"abc"), &b"def"[..]);
        let mut two = [0; 2];
        replay.read_exact(&mut two).await.unwrap();
        let mut rest = Vec::new();
        replay.read_to_end(&mut rest).await.unwrap();
        assert_eq!((&two, &rest[..]), (b"ab", &b"cdef"[..]));
    }
}
