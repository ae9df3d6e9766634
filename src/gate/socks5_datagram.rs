//! The header of a datagram between a SOCKS5 client and its relay (RFC 1928 section 7).

use crate::policy::{Host, Port};

use super::socks5_wire::{self, Read};

/// What a datagram asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Datagram {
    /// Where to: a name or an address.
    pub(super) to: (Host, Port),
    /// What to send there.
    pub(super) payload: Vec<u8>,
}

/// Reads a datagram of a client. The reason is for the record.
pub(super) fn read(bytes: &[u8]) -> Result<Datagram, &'static str> {
    let (head, rest) = bytes
        .split_first_chunk::<3>()
        .ok_or("a datagram without a whole SOCKS5 header")?;
    match head {
        [0, 0, 0] => {}
        // Reassembly is optional (section 7), and a second parser for whoever sends in pieces.
        [0, 0, _] => return Err("a fragment of a datagram"),
        _ => return Err("a datagram whose reserved bytes are not 0"),
    }
    match socks5_wire::read_destination(rest) {
        Ok(Read::Whole((host, port, length))) => Ok(Datagram {
            to: (host, port),
            payload: rest.get(length..).unwrap_or_default().to_vec(),
        }),
        Ok(Read::More(_)) => Err("a datagram without a whole SOCKS5 header"),
        Err(malformed) => Err(malformed.why),
    }
}

/// The header of what comes back. It names the origin as the client named it: which address a name
/// led to is none of the jail's business.
pub(super) fn header((host, port): &(Host, Port)) -> Vec<u8> {
    let mut header = vec![0, 0, 0];
    socks5_wire::write_destination(&mut header, host, *port);
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn to(host: &str, port: u16) -> (Host, Port) {
        (Host::parse(host).unwrap(), Port::new(port).unwrap())
    }

    #[test]
    fn a_header_reads_back_with_what_follows_it() {
        for host in ["a.test", "192.0.2.1", "2001:db8::1"] {
            let to = to(host, 53);
            for payload in [&b""[..], b"x", &[0; 1400]] {
                let bytes = [&header(&to)[..], payload].concat();
                let expected = Datagram {
                    to: to.clone(),
                    payload: payload.to_vec(),
                };
                assert_eq!(read(&bytes), Ok(expected));
            }
        }
    }

    #[test]
    fn fragments_and_headers_that_are_none_are_told_apart() {
        let with = |head: [u8; 3], rest: &[u8]| [&head[..], rest].concat();
        let address = [1, 192, 0, 2, 1, 0, 53];
        for (bytes, why) in [
            (with([0, 0, 1], &address), "a fragment of a datagram"),
            (with([0, 0, 0x80], &address), "a fragment of a datagram"),
            (with([0, 1, 0], &address), "reserved bytes"),
            (with([0, 0, 0], &address[..6]), "without a whole"),
            (with([0, 0, 0], &[]), "without a whole"),
            (vec![0], "without a whole"),
            (with([0, 0, 0], &[9, 1]), "unknown SOCKS5 address type"),
            (with([0, 0, 0], &[1, 192, 0, 2, 1, 0, 0]), "port 0"),
            (
                with([0, 0, 0], &[&[3, 9][..], b"127.0.0.1", &[0, 53]].concat()),
                "not exactly a host",
            ),
        ] {
            let said = read(&bytes).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(datagram) = read(&bytes) {
                prop_assert!(datagram.payload.len() < bytes.len());
            }
            drop(read(&[&[0, 0, 0][..], &bytes].concat()));
        }
    }
}
