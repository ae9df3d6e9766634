//! SOCKS5 (RFC 1928), read strictly and exactly: the reader says how many bytes it needs next, so that
//! nothing behind the request is ever taken for part of it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::policy::{Host, Port};

/// No authentication required.
pub(super) const NO_AUTHENTICATION: u8 = 0;

/// Address types.
const IPV4: u8 = 1;
const DOMAIN: u8 = 3;
const IPV6: u8 = 4;

/// The command UDP ASSOCIATE.
const ASSOCIATE: u8 = 3;

/// Replies of RFC 1928 section 6 that the reader itself asks for.
const NOT_ALLOWED: u8 = 2;
const COMMAND_NOT_SUPPORTED: u8 = 7;
const ADDRESS_TYPE_NOT_SUPPORTED: u8 = 8;

/// What was read so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Read<T> {
    /// So many more bytes are needed, at least.
    More(usize),
    /// The whole message.
    Whole(T),
}

/// Why bytes are not a message that the gate takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed {
    /// For the record.
    pub(super) why: &'static str,
    /// What to answer; `None` where an answer would be in the wrong protocol.
    pub(super) reply: Option<u8>,
}

/// The client's greeting: whether it can do without authentication.
pub(super) fn read_greeting(bytes: &[u8]) -> Result<Read<bool>, Malformed> {
    let speaks_otherwise = |why| Malformed { why, reply: None };
    match bytes.first() {
        None | Some(5) => {}
        Some(4) => return Err(speaks_otherwise("SOCKS4 on the SOCKS5 port")),
        Some(byte) if byte.is_ascii_alphabetic() => {
            return Err(speaks_otherwise("HTTP on the SOCKS5 port"));
        }
        Some(_) => return Err(speaks_otherwise("not SOCKS5")),
    }
    let Some((head, methods)) = bytes.split_first_chunk::<2>() else {
        return Ok(Read::More(2 - bytes.len()));
    };
    let [_, count] = *head;
    let count = usize::from(count);
    let Some(methods) = methods.get(..count) else {
        return Ok(Read::More(count - methods.len()));
    };
    Ok(Read::Whole(methods.contains(&NO_AUTHENTICATION)))
}

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    /// A connection to this destination.
    Connect(Host, Port),
    /// A relay for datagrams, from this address of its own if it says one.
    Associate(Option<SocketAddr>),
}

/// The client's request; UDP ASSOCIATE is a command only where the policy relays datagrams.
pub(super) fn read_command(bytes: &[u8], associates: bool) -> Result<Read<Command>, Malformed> {
    if associates && bytes.get(..3) == Some(&[5, ASSOCIATE, 0]) {
        return read_associate(bytes);
    }
    Ok(match read_request(bytes)? {
        Read::More(more) => Read::More(more),
        Read::Whole((host, port)) => Read::Whole(Command::Connect(host, port)),
    })
}

/// UDP ASSOCIATE (RFC 1928 section 7): the client's own address, or zeros. A port without an address is
/// one of the jail's loopback, which is all that the relay's socket can hear.
fn read_associate(bytes: &[u8]) -> Result<Read<Command>, Malformed> {
    let refused = |why, reply| Malformed {
        why,
        reply: Some(reply),
    };
    let rest = bytes.get(3..).unwrap_or_default();
    let (address, port) = match rest.split_first() {
        None => return Ok(Read::More(2)),
        Some((&IPV4, rest)) => match rest.split_first_chunk::<4>() {
            Some((octets, [high, low, ..])) => {
                let address = IpAddr::V4(Ipv4Addr::from(*octets));
                (address, u16::from_be_bytes([*high, *low]))
            }
            _ => return Ok(Read::More(6 - rest.len())),
        },
        Some((&IPV6, rest)) => match rest.split_first_chunk::<16>() {
            Some((octets, [high, low, ..])) => {
                let address = IpAddr::V6(Ipv6Addr::from(*octets)).to_canonical();
                (address, u16::from_be_bytes([*high, *low]))
            }
            _ => return Ok(Read::More(18 - rest.len())),
        },
        Some(_) => {
            let why = "UDP ASSOCIATE for something that is no address";
            return Err(refused(why, ADDRESS_TYPE_NOT_SUPPORTED));
        }
    };
    match address {
        _ if port == 0 => Ok(Read::Whole(Command::Associate(None))),
        address if address.is_unspecified() => {
            let client = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            Ok(Read::Whole(Command::Associate(Some(client))))
        }
        IpAddr::V4(address) if address.is_loopback() => {
            let client = SocketAddr::from((address, port));
            Ok(Read::Whole(Command::Associate(Some(client))))
        }
        IpAddr::V4(_) | IpAddr::V6(_) => {
            let why = "UDP ASSOCIATE for an address that is not the client's";
            Err(refused(why, NOT_ALLOWED))
        }
    }
}

/// The client's request: where CONNECT is to go.
pub(super) fn read_request(bytes: &[u8]) -> Result<Read<(Host, Port)>, Malformed> {
    let malformed = |why, reply| Malformed {
        why,
        reply: Some(reply),
    };
    // Version, command, reserved, address type, and one byte more: every address has that.
    let head = match bytes.split_first_chunk::<4>() {
        Some((head, rest)) if !rest.is_empty() => head,
        _ => return Ok(Read::More(5 - bytes.len())),
    };
    let [version, command, reserved, _] = *head;
    if version != 5 || reserved != 0 {
        return Err(malformed("not a SOCKS5 request", 1));
    }
    if command != 1 {
        let why = "a SOCKS5 command other than CONNECT";
        return Err(malformed(why, COMMAND_NOT_SUPPORTED));
    }
    Ok(
        match read_destination(bytes.get(3..).unwrap_or_default())? {
            Read::More(more) => Read::More(more),
            Read::Whole((host, port, _)) => Read::Whole((host, port)),
        },
    )
}

/// An address type, an address and a port, and how many bytes they took.
pub(super) fn read_destination(bytes: &[u8]) -> Result<Read<(Host, Port, usize)>, Malformed> {
    let malformed = |why, reply| Malformed {
        why,
        reply: Some(reply),
    };
    // One byte more than the type: every address has that.
    let Some((&[kind, _], _)) = bytes.split_first_chunk::<2>() else {
        return Ok(Read::More(2 - bytes.len()));
    };
    let rest = bytes.get(1..).unwrap_or_default();
    // A domain name is preceded by its length.
    let (before, length) = match kind {
        IPV4 => (0, 4),
        DOMAIN => (1, usize::from(rest.first().copied().unwrap_or_default())),
        IPV6 => (0, 16),
        _ => {
            let why = "an unknown SOCKS5 address type";
            return Err(malformed(why, ADDRESS_TYPE_NOT_SUPPORTED));
        }
    };
    let rest = rest.get(before..).unwrap_or_default();
    let (address, port) = match rest.split_at_checked(length) {
        Some((address, [high, low, ..])) => (address, u16::from_be_bytes([*high, *low])),
        _ => return Ok(Read::More(length + 2 - rest.len())),
    };
    let host = read_host(kind, address)
        .ok_or_else(|| malformed("the SOCKS5 address is not exactly a host", NOT_ALLOWED))?;
    let port = Port::new(port).ok_or_else(|| malformed("port 0", NOT_ALLOWED))?;
    Ok(Read::Whole((host, port, 1 + before + length + 2)))
}

/// Appends an address type, an address and a port.
pub(super) fn write_destination(to: &mut Vec<u8>, host: &Host, port: Port) {
    match host {
        Host::Addr(IpAddr::V4(address)) => {
            to.push(IPV4);
            to.extend(address.octets());
        }
        Host::Addr(IpAddr::V6(address)) => {
            to.push(IPV6);
            to.extend(address.octets());
        }
        Host::Name(name) => {
            to.push(DOMAIN);
            // A name has at most 253 bytes.
            to.push(u8::try_from(name.as_str().len()).unwrap_or(u8::MAX));
            to.extend(name.as_str().as_bytes());
        }
    }
    to.extend(port.number().to_be_bytes());
}

/// A name must be a name: an address in its place would be judged by another rule than it is dialed by.
fn read_host(kind: u8, address: &[u8]) -> Option<Host> {
    let literal = match kind {
        IPV4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(address).ok()?)),
        IPV6 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(address).ok()?)),
        _ => {
            let host = Host::parse(std::str::from_utf8(address).ok()?).ok();
            return host.filter(|host| matches!(host, Host::Name(_)));
        }
    };
    // Through the parser, for the same canonical form as from every other door.
    Host::parse(&literal.to_string()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn domain(name: &[u8], port: u16) -> Vec<u8> {
        let mut bytes = vec![5, 1, 0, DOMAIN, u8::try_from(name.len()).unwrap()];
        bytes.extend(name);
        bytes.extend(port.to_be_bytes());
        bytes
    }

    fn whole(host: &str, port: u16) -> Read<(Host, Port)> {
        Read::Whole((Host::parse(host).unwrap(), Port::new(port).unwrap()))
    }

    fn refused(bytes: &[u8]) -> Option<u8> {
        read_request(bytes).unwrap_err().reply
    }

    #[test]
    fn names_and_addresses_are_read() {
        assert_eq!(
            read_request(&domain(b"a.test", 443)),
            Ok(whole("a.test", 443))
        );
        assert_eq!(
            read_request(&[5, 1, 0, 1, 192, 0, 2, 1, 0, 80]),
            Ok(whole("192.0.2.1", 80))
        );
        let v6 = [&[5, 1, 0, 4][..], &Ipv6Addr::LOCALHOST.octets(), &[0, 80]].concat();
        assert_eq!(read_request(&v6), Ok(whole("::1", 80)));
    }

    #[test]
    fn what_is_not_exactly_a_connect_to_a_host_is_refused_with_its_own_reply() {
        assert_eq!(
            refused(&[5, 2, 0, 1, 1]),
            Some(COMMAND_NOT_SUPPORTED),
            "BIND"
        );
        assert_eq!(
            refused(&[5, 3, 0, 1, 1]),
            Some(COMMAND_NOT_SUPPORTED),
            "UDP ASSOCIATE"
        );
        assert_eq!(refused(&[5, 1, 0, 2, 1]), Some(ADDRESS_TYPE_NOT_SUPPORTED));
        assert_eq!(refused(&[4, 1, 0, 1, 1]), Some(1));
        assert_eq!(refused(&[5, 1, 9, 1, 1]), Some(1));
        for name in [
            &b""[..],
            b"evil.test\0.a.test",
            b"127.0.0.1",
            b"::1",
            b"0x7f.1",
            b"\xff",
            b"a b",
        ] {
            assert_eq!(refused(&domain(name, 80)), Some(NOT_ALLOWED), "{name:?}");
        }
        assert_eq!(refused(&domain(b"a.test", 0)), Some(NOT_ALLOWED));
    }

    #[test]
    fn an_association_is_asked_for_with_an_address_of_the_client_or_none() {
        let asked = |address: &[u8], port: u16| {
            let request = [&[5, 3, 0][..], address, &port.to_be_bytes()].concat();
            read_command(&request, true).map_err(|malformed| malformed.reply)
        };
        let associate = |client: Option<&str>| {
            let client = client.map(|client| client.parse().unwrap());
            Ok(Read::Whole(Command::Associate(client)))
        };
        assert_eq!(asked(&[1, 0, 0, 0, 0], 0), associate(None));
        assert_eq!(asked(&[4; 17], 0), associate(None));
        assert_eq!(asked(&[1, 127, 0, 0, 1], 9), associate(Some("127.0.0.1:9")));
        assert_eq!(asked(&[1, 0, 0, 0, 0], 9), associate(Some("127.0.0.1:9")));
        assert_eq!(asked(&[1, 192, 0, 2, 1], 9), Err(Some(NOT_ALLOWED)));
        assert_eq!(
            asked(b"\x03\x06a.test", 9),
            Err(Some(ADDRESS_TYPE_NOT_SUPPORTED))
        );
        let request = [5, 3, 0, 1, 127, 0, 0, 1, 0, 9];
        for have in 0..request.len() {
            let read = read_command(&request[..have], true);
            let Ok(Read::More(more)) = read else {
                panic!("{have}: {read:?}")
            };
            assert!(more > 0 && have + more <= request.len(), "{have} {more}");
        }
        let off = read_command(&request, false).unwrap_err();
        assert_eq!(off.reply, Some(COMMAND_NOT_SUPPORTED));
        assert_eq!(
            read_command(&domain(b"a.test", 443), true),
            Ok(Read::Whole(Command::Connect(
                Host::parse("a.test").unwrap(),
                Port::HTTPS
            )))
        );
    }

    #[test]
    fn other_protocols_are_told_from_socks5_by_their_first_byte() {
        assert_eq!(
            read_greeting(&[4, 1]).unwrap_err().why,
            "SOCKS4 on the SOCKS5 port"
        );
        assert_eq!(
            read_greeting(b"C").unwrap_err().why,
            "HTTP on the SOCKS5 port"
        );
        assert_eq!(read_greeting(&[22]).unwrap_err().why, "not SOCKS5");
        assert_eq!(read_greeting(&[5, 2, 0, 1]), Ok(Read::Whole(true)));
        assert_eq!(read_greeting(&[5, 1, 2]), Ok(Read::Whole(false)));
        assert_eq!(read_greeting(&[5, 0]), Ok(Read::Whole(false)));
    }

    proptest! {
        #[test]
        fn asking_for_more_never_asks_past_the_end(name in "[a-z]{1,40}\\.test", port in 1_u16..) {
            let bytes = domain(name.as_bytes(), port);
            let mut have = 0;
            loop {
                match read_request(&bytes[..have]).unwrap() {
                    Read::More(more) => have += more,
                    Read::Whole(read) => {
                        prop_assert_eq!(Read::Whole(read), whole(&name, port));
                        break;
                    }
                }
                prop_assert!(have <= bytes.len());
            }
            prop_assert_eq!(have, bytes.len());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            drop(read_greeting(&bytes));
            drop(read_request(&bytes));
            drop(read_command(&[&[5, 3, 0][..], &bytes].concat(), true));
            drop(read_request(&[&[5, 1, 0][..], &bytes].concat()));
        }
    }
}
