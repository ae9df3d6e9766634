//! Starter → gate and starter → audit writer: what each is to work with.
//!
//! The starter is whoever starts the two: the session itself in standalone, the service where there is
//! one. Each of the two has a supply channel from it, beside the channel of the session. What comes
//! there is what no session may choose for them, and what replaces a companion that died: a new audit
//! writer reaches a gate that runs, and a new gate a writer that runs, as one more frame.
//!
//! A closed supply channel changes nothing for a gate or a writer that runs; only nothing is replaced
//! any more.

use std::os::fd::{AsFd, OwnedFd};

use rustix::net::RecvFlags;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::audit::AuditBoot;
use super::frame::{Ancillary, MAX_FDS, WireError, body_length, decode};

/// The longest frame that a companion takes while it works, in bytes.
const LONGEST: usize = 64 << 10;

/// Starter → gate, each with one descriptor, if it does not say otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum GateSupply {
    /// First: the memory of the session's gates, a file without a name that the starter keeps and never
    /// reads (memfd_create(2)). A gate finds in it what the one before it left.
    Memory,
    /// Under the service: nothing is allowed beyond what the host's admin insists on, whatever the session says.
    /// Brings the file with the requirements; without a descriptor there are none.
    Terms,
    /// Then, and again whenever the audit writer is another: the channel to it. A later one replaces the
    /// one before, whose writer died.
    Lane,
}

/// Starter → audit writer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum WriterSupply {
    /// First: the log that is to be begun. With one descriptor if there is an `audit.toml`: that.
    Boot(AuditBoot),
    /// First, instead: the log that is to be continued, because its writer died. With the same.
    Resume(AuditBoot),
    /// Then, with one descriptor: the channel of a gate. A later one replaces the one before, whose gate
    /// died.
    Gate,
}

/// Frames with descriptors, read without ever waiting for the rest of one.
#[derive(Debug, Default)]
pub struct Deliveries {
    /// The next frame as far as it has come, header included.
    frame: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl Deliveries {
    /// The next whole frame and its descriptors, if they are there. Reads no byte beyond it, because the
    /// descriptors of a frame come with its first byte.
    pub fn next<T: DeserializeOwned>(
        &mut self,
        channel: impl AsFd,
    ) -> Result<Option<(T, Vec<OwnedFd>)>, WireError> {
        loop {
            let have = self.frame.len();
            let whole = match self.frame.first_chunk() {
                None => 4,
                Some(header) => 4 + body_length(*header)?,
            };
            if whole > LONGEST {
                return Err(WireError::TooLong(whole));
            }
            if have >= 4 && have == whole {
                let message = decode(self.frame.get(4..).unwrap_or_default())?;
                self.frame.clear();
                return Ok(Some((message, std::mem::take(&mut self.fds))));
            }
            self.frame.resize(whole, 0);
            let mut came = Ancillary::default();
            let rest = self.frame.get_mut(have..).unwrap_or_default();
            let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
            let got = came.receive(channel.as_fd(), rest, flags);
            self.frame.truncate(have + got.unwrap_or(0));
            self.fds.append(&mut came.fds);
            if self.fds.len() > MAX_FDS {
                return Err(WireError::TooLong(self.fds.len()));
            }
            match got {
                Ok(0) | Err(rustix::io::Errno::CONNRESET) => return Err(WireError::Closed),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(None),
                Err(error) => return Err(WireError::Io(error.into())),
            }
        }
    }
}

/// The one descriptor of a frame that has exactly one.
pub fn only(fds: Vec<OwnedFd>) -> Option<OwnedFd> {
    let mut fds = fds.into_iter();
    fds.next().filter(|_| fds.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::super::Channel;
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    #[test]
    fn each_frame_comes_with_its_own_descriptors_however_it_arrives() {
        let (a, b) = UnixStream::pair().unwrap();
        let sender = Channel::new(a.try_clone().unwrap());
        let mut deliveries = Deliveries::default();
        assert!(deliveries.next::<GateSupply>(&b).unwrap().is_none());
        let (one, other) = Channel::pair().unwrap();
        sender
            .send_with(&GateSupply::Memory, &[one.as_fd()])
            .unwrap();
        sender
            .send_with(&GateSupply::Lane, &[one.as_fd(), other.as_fd()])
            .unwrap();
        let mut next = || deliveries.next::<GateSupply>(&b);
        let mut number = || next().unwrap().map(|(message, fds)| (message, fds.len()));
        assert_eq!(number(), Some((GateSupply::Memory, 1)));
        assert_eq!(number(), Some((GateSupply::Lane, 2)));
        assert_eq!(number(), None);
        let bytes = super::super::frame::encode(&GateSupply::Lane).unwrap();
        let (first, rest) = bytes.split_at(6);
        (&a).write_all(first).unwrap();
        assert_eq!(number(), None);
        (&a).write_all(rest).unwrap();
        assert_eq!(number(), Some((GateSupply::Lane, 0)));
        drop((a, sender));
        assert!(matches!(next(), Err(WireError::Closed)));
    }

    #[test]
    fn a_frame_over_the_cap_is_refused_by_its_header() {
        let (a, b) = UnixStream::pair().unwrap();
        (&a).write_all(&(64_u32 << 10).to_le_bytes()).unwrap();
        let next = Deliveries::default().next::<GateSupply>(&b);
        assert!(matches!(next, Err(WireError::TooLong(_))));
    }

    #[test]
    fn exactly_one_descriptor_is_one() {
        let fd = || OwnedFd::from(UnixStream::pair().unwrap().0);
        assert!(only(vec![fd()]).is_some());
        assert!(only(vec![]).is_none() && only(vec![fd(), fd()]).is_none());
    }
}
