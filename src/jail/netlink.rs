//! Netlink, as far as [`super::routes`] and [`super::tproxy`] need it (netlink(7); linux/netlink.h): an
//! encoder for requests, and a socket that sends them and reads what became of each.
//!
//! A message is a header of 16 bytes (length, type, flags, number, port), the fixed header of its family,
//! and attributes: length, type, value, each padded to four bytes. Numbers are in the byte order of the
//! machine; values of nftables are in network order, which is the caller's business.
//!
//! Trusts: the kernel, and yet checks every length that it reads. Never: waits longer than [`PATIENCE`].

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// `NLM_F_REQUEST`: for the kernel.
const REQUEST: u16 = 1;
/// `NLM_F_ACK`: with an answer, whatever becomes of it.
const ACK: u16 = 4;
/// `NLM_F_CREATE | NLM_F_EXCL`: make it, and nothing may be there.
pub(super) const NEW: u16 = 0x400 | 0x200;
/// `NLM_F_CREATE | NLM_F_APPEND`: make it, after those that are there.
pub(super) const APPEND: u16 = 0x400 | 0x800;
/// `NLMSG_ERROR`: an answer, its errno negative, or 0.
const ERROR: u16 = 2;
/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;
/// Bytes of a message's header.
const HEADER: usize = 16;
/// Bytes of an attribute's header.
const ATTRIBUTE_HEADER: usize = 4;
/// The largest answer: an error repeats the request, and ours are far below a page.
const MAX_ANSWER: usize = 32 << 10;
/// Seconds. The kernel answers at once, but for loading a module.
const PATIENCE: i64 = 20;

/// Attributes, one after the other.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Attributes(Vec<u8>);

impl Attributes {
    /// Adds an attribute. A value that does not fit the 16 bits of its length cannot be one of ours; the
    /// kernel refuses the message for it.
    pub(super) fn add(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(ATTRIBUTE_HEADER + value.len()).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        pad(&mut self.0);
        self
    }

    /// Adds a number in network order.
    pub(super) fn number(self, kind: u16, value: u32) -> Self {
        self.add(kind, &value.to_be_bytes())
    }

    /// Adds a text, with the NUL that ends it.
    pub(super) fn text(self, kind: u16, value: &str) -> Self {
        self.add(kind, &[value.as_bytes(), &[0]].concat())
    }

    /// Adds attributes within an attribute.
    pub(super) fn nest(self, kind: u16, inner: &Self) -> Self {
        self.add(kind | NESTED, &inner.0)
    }
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    /// What it does, for the error: `add the route`.
    pub(super) step: &'static str,
    /// The message type.
    pub(super) kind: u16,
    /// Flags beside `NLM_F_REQUEST` and `NLM_F_ACK`.
    pub(super) flags: u16,
    /// The fixed header of the family, a multiple of four bytes.
    pub(super) header: Vec<u8>,
    /// The attributes.
    pub(super) attributes: Attributes,
}

impl Request {
    /// The whole message, under this number.
    fn encode(&self, number: u32, acknowledged: bool) -> Vec<u8> {
        let length = HEADER + self.header.len() + self.attributes.0.len();
        let flags = REQUEST | self.flags | if acknowledged { ACK } else { 0 };
        let mut bytes = Vec::with_capacity(length);
        bytes.extend(u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
        bytes.extend(self.kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(number.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(&self.header);
        bytes.extend(&self.attributes.0);
        bytes
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// A request that the kernel did not carry out.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {source}")]
pub(super) struct Refused {
    /// [`Request::step`].
    pub(super) step: &'static str,
    /// What the kernel says.
    #[source]
    pub(super) source: io::Error,
}

/// A netlink socket to the kernel.
#[derive(Debug)]
pub(super) struct Netlink(OwnedFd);

impl Netlink {
    /// Opens one.
    pub(super) fn open(protocol: SockProtocol) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(PATIENCE))?;
        Ok(Self(socket))
    }

    /// Sends one request and waits for its answer.
    pub(super) fn carry_out(&self, request: &Request) -> Result<(), Refused> {
        self.send_all(std::slice::from_ref(request), None)
    }

    /// Sends requests in one datagram and waits for all answers. `frame`: what stands before and after
    /// them, where the family has batches; neither is answered unless it is at fault.
    pub(super) fn send_all(
        &self,
        requests: &[Request],
        frame: Option<[&Request; 2]>,
    ) -> Result<(), Refused> {
        let step = requests.first().map_or("send", |request| request.step);
        let failed = |source: io::Error| Refused { step, source };
        let mut bytes = frame.map_or_else(Vec::new, |[before, _]| before.encode(0, false));
        for (number, request) in (1..).zip(requests) {
            bytes.extend(request.encode(number, true));
        }
        bytes.extend(frame.map_or_else(Vec::new, |[_, after]| after.encode(0, false)));
        send(self.0.as_raw_fd(), &bytes, MsgFlags::empty()).map_err(|e| failed(e.into()))?;
        let mut left = requests.len();
        let mut answer = vec![0; MAX_ANSWER];
        while left > 0 {
            let got = recv(self.0.as_raw_fd(), &mut answer, MsgFlags::empty())
                .map_err(|errno| failed(errno.into()))?;
            for (number, errno) in answers(answer.get(..got).unwrap_or_default()) {
                if errno != 0 {
                    let at = usize::try_from(number).ok().and_then(|n| n.checked_sub(1));
                    let request = at.and_then(|at| requests.get(at));
                    return Err(Refused {
                        step: request.map_or(step, |request| request.step),
                        source: io::Error::from_raw_os_error(errno),
                    });
                }
                left = left.saturating_sub(1);
            }
        }
        Ok(())
    }
}

/// The answers in a datagram: which request, and its errno. Stops at the first length that is none.
fn answers(mut bytes: &[u8]) -> Vec<(u32, i32)> {
    let mut found = Vec::new();
    while let (Some(length), Some(kind), Some(number)) =
        (word(bytes, 0), word(bytes, 4), word(bytes, 8))
    {
        let length = u32::from_ne_bytes(length) as usize;
        if length < HEADER || length > bytes.len() {
            break;
        }
        let [low, high, _, _] = kind;
        if u16::from_ne_bytes([low, high]) == ERROR
            && let Some(errno) = bytes
                .get(..length)
                .and_then(|message| word(message, HEADER))
        {
            let errno = i32::from_ne_bytes(errno).saturating_neg();
            found.push((u32::from_ne_bytes(number), errno));
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// Four bytes from here.
fn word(bytes: &[u8], at: usize) -> Option<[u8; 4]> {
    bytes.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Takes attributes apart again.
    fn read(mut bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
        let mut found = Vec::new();
        while let Some([a, b, c, d]) = word(bytes, 0) {
            let length = usize::from(u16::from_ne_bytes([a, b]));
            found.push((u16::from_ne_bytes([c, d]), bytes[4..length].to_vec()));
            bytes = &bytes[length.next_multiple_of(4)..];
        }
        assert!(bytes.is_empty());
        found
    }

    proptest! {
        #[test]
        fn attributes_read_back_whatever_their_lengths(
            list in prop::collection::vec((0_u16..0x4000, prop::collection::vec(any::<u8>(), 0..40)), 0..8)
        ) {
            let add = |attributes: Attributes, (kind, value): &(u16, Vec<u8>)| attributes.add(*kind, value);
            let flat = list.iter().fold(Attributes::default(), add);
            prop_assert_eq!(read(&flat.0), list.clone());
            let nested = Attributes::default().nest(7, &flat);
            let outer = read(&nested.0);
            prop_assert_eq!(outer.len(), 1);
            prop_assert_eq!(outer[0].0, 7 | NESTED);
            prop_assert_eq!(read(&outer[0].1), list);
        }

        #[test]
        fn whatever_comes_is_read_to_its_end(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            answers(&bytes);
        }
    }

    #[test]
    fn a_request_has_the_bytes_of_the_kernels_header() {
        let request = Request {
            step: "x",
            kind: 24,
            flags: NEW,
            header: vec![2, 0, 0, 0],
            attributes: Attributes::default().add(4, &[1, 0, 0, 0]).text(1, "ab"),
        };
        let expected: Vec<u8> = [
            36_u32.to_ne_bytes().as_slice(),
            &24_u16.to_ne_bytes(),
            &0x605_u16.to_ne_bytes(),
            &9_u32.to_ne_bytes(),
            &[0; 4],
            &[2, 0, 0, 0],
            &8_u16.to_ne_bytes(),
            &4_u16.to_ne_bytes(),
            &[1, 0, 0, 0],
            &7_u16.to_ne_bytes(),
            &1_u16.to_ne_bytes(),
            b"ab\0\0",
        ]
        .concat();
        assert_eq!(request.encode(9, true), expected);
    }

    #[test]
    fn every_answer_of_a_datagram_is_read_and_a_wrong_length_ends_it() {
        let answer = |number: u32, errno: i32, length: u32| {
            [
                length.to_ne_bytes().as_slice(),
                &ERROR.to_ne_bytes(),
                &[0; 2],
                &number.to_ne_bytes(),
                &[0; 4],
                &errno.to_ne_bytes(),
            ]
            .concat()
        };
        let two = [answer(1, 0, 20), answer(2, -2, 20)].concat();
        assert_eq!(answers(&two), [(1, 0), (2, 2)]);
        let cut = [answer(1, 0, 20), answer(2, -2, 400)].concat();
        assert_eq!(answers(&cut), [(1, 0)]);
        assert_eq!(answers(&answer(1, 0, 0)), []);
    }
}
