//! A connection of the jail → the inode of its socket: sock_diag(7), one question and one answer whatever the
//! number of connections; or, where the kernel lacks that, the tables of proc(5), `/proc/pid/net`.
//!
//! A question is `inet_diag_req_v2` of linux/inet_diag.h (56 bytes), an answer `inet_diag_msg` (72 bytes), each behind
//! a netlink header of 16 bytes. Addresses and ports are in network order, all else in the machine's.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

use super::folder::Folder;
use crate::wire::witness::Protocol;

/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
/// `NLMSG_ERROR`.
const ERROR: u16 = 2;
/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;
/// `INET_DIAG_NOCOOKIE`: whichever socket has these addresses.
const NO_COOKIE: [u8; 8] = [0xff; 8];
/// `TCP_LISTEN`.
const LISTEN: u8 = 10;
/// Answers to earlier questions that may still wait.
const STALE: usize = 16;
/// Bytes that are read of one table.
const TABLE: usize = 1 << 20;

/// The two ends of a socket in the jail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ends {
    /// What it is.
    pub(super) protocol: Protocol,
    /// Its own address.
    pub(super) client: SocketAddr,
    /// Where it leads.
    pub(super) server: SocketAddr,
}

/// Makes a socket that asks about the sockets of this process's network namespace, and of no other, whoever
/// has it.
pub(in crate::jail) fn diagnostics() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let kind = SockType::Raw;
    let protocol = SockProtocol::NetlinkSockDiag;
    Ok(socket(AddressFamily::Netlink, kind, flags, protocol)?)
}

/// Whether the kernel answers about TCP: it knows this listener.
pub(super) fn works(diagnostics: &OwnedFd, listener: SocketAddr) -> bool {
    let nowhere = match listener {
        SocketAddr::V4(_) => SocketAddr::from(([0; 4], 0)),
        SocketAddr::V6(_) => SocketAddr::from(([0; 16], 0)),
    };
    let ends = Ends {
        protocol: Protocol::Tcp,
        client: listener,
        server: nowhere,
    };
    ask(diagnostics, 1, ends).is_ok_and(|row| row.is_some_and(|row| row.state == LISTEN))
}

/// Takes what still waits of an earlier question: the next one has numbers of its own.
pub(super) fn drain(diagnostics: &OwnedFd) {
    let mut buffer = [0; 4096];
    while recv(diagnostics.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT).is_ok() {}
}

/// The inode of the socket; `None`: there is none, or nobody has it open any more.
pub(super) fn inode(diagnostics: &OwnedFd, number: u32, ends: Ends) -> io::Result<Option<u64>> {
    // A listener has the client's port where the client itself is gone.
    let row = ask(diagnostics, number, ends)?.filter(|row| {
        row.port == ends.client.port() && (ends.protocol == Protocol::Udp || row.state != LISTEN)
    });
    Ok(row.map(|row| row.inode.into()).filter(|inode| *inode != 0))
}

/// What is told of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Row {
    state: u8,
    port: u16,
    inode: u32,
}

fn ask(diagnostics: &OwnedFd, number: u32, ends: Ends) -> io::Result<Option<Row>> {
    let bytes = question(number, ends);
    send(diagnostics.as_raw_fd(), &bytes, MsgFlags::empty())?;
    let mut buffer = [0; 4096];
    // The kernel has answered before send(2) returns.
    for _ in 0..STALE {
        let got = recv(diagnostics.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT)?;
        if let Some(answer) = answer(buffer.get(..got).unwrap_or_default(), number) {
            return answer;
        }
    }
    Err(io::Error::other("no answer about a socket"))
}

fn question(number: u32, ends: Ends) -> Vec<u8> {
    // For datagrams the kernel has the two the other way round ("for historical reasons", net/ipv4/udp_diag.c).
    let (protocol, source, destination) = match ends.protocol {
        Protocol::Tcp => (libc::IPPROTO_TCP, ends.client, ends.server),
        Protocol::Udp => (libc::IPPROTO_UDP, ends.server, ends.client),
    };
    let family = match ends.client {
        SocketAddr::V4(_) => libc::AF_INET,
        SocketAddr::V6(_) => libc::AF_INET6,
    };
    let byte = |number: i32| u8::try_from(number).unwrap_or_default();
    let mut bytes = Vec::with_capacity(72);
    bytes.extend(72_u32.to_ne_bytes());
    bytes.extend(BY_FAMILY.to_ne_bytes());
    bytes.extend(REQUEST.to_ne_bytes());
    bytes.extend(number.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend([byte(family), byte(protocol), 0, 0]);
    bytes.extend(u32::MAX.to_ne_bytes());
    bytes.extend(source.port().to_be_bytes());
    bytes.extend(destination.port().to_be_bytes());
    bytes.extend(padded(source.ip()));
    bytes.extend(padded(destination.ip()));
    bytes.extend([0; 4]);
    bytes.extend(NO_COOKIE);
    bytes
}

fn padded(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V6(v6) => v6.octets(),
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        }
    }
}

/// The answer to this question, if it is that.
fn answer(bytes: &[u8], number: u32) -> Option<io::Result<Option<Row>>> {
    let word = |at: usize| bytes.get(at..)?.first_chunk::<4>().copied();
    if u32::from_ne_bytes(word(8)?) != number {
        return None;
    }
    let [low, high, _, _] = word(4)?;
    match u16::from_ne_bytes([low, high]) {
        ERROR => {
            let errno = i32::from_ne_bytes(word(16)?).saturating_neg();
            Some(if errno == libc::ENOENT {
                Ok(None)
            } else {
                Err(io::Error::from_raw_os_error(errno))
            })
        }
        BY_FAMILY => {
            let [_, state, _, _] = word(16)?;
            let [high, low, _, _] = word(20)?;
            let port = u16::from_be_bytes([high, low]);
            let inode = u32::from_ne_bytes(word(84)?);
            Some(Ok(Some(Row { state, port, inode })))
        }
        _ => None,
    }
}

/// The same from the tables of the network namespace in which a process is.
pub(super) fn inode_in_tables(process: &Folder, ends: Ends) -> io::Result<Option<u64>> {
    let names = match ends.protocol {
        Protocol::Tcp => ["net/tcp", "net/tcp6"],
        Protocol::Udp => ["net/udp", "net/udp6"],
    };
    for name in names {
        let text = match process.read(name, TABLE) {
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            text => text?,
        };
        let text = String::from_utf8_lossy(&text);
        if let Some(inode) = text.lines().find_map(|line| in_row(line, ends)) {
            return Ok(Some(inode).filter(|inode| *inode != 0));
        }
    }
    Ok(None)
}

/// A row is `sl local remote state queues timer retransmits uid timeout inode …`.
fn in_row(row: &str, ends: Ends) -> Option<u64> {
    let mut words = row.split_ascii_whitespace().skip(1);
    let (local, remote) = (read(words.next()?)?, read(words.next()?)?);
    let same = |a: SocketAddr, b: SocketAddr| {
        (a.ip().to_canonical(), a.port()) == (b.ip().to_canonical(), b.port())
    };
    let fits = match ends.protocol {
        Protocol::Tcp => same(local, ends.client) && same(remote, ends.server),
        // One that is not connected may be bound to no address.
        Protocol::Udp => {
            let bound = local.ip().is_unspecified() || same(local, ends.client);
            bound && local.port() == ends.client.port()
        }
    };
    fits.then(|| words.nth(6)?.parse().ok())?
}

/// An address in hexadecimal digits, four bytes at a time as a number of this machine.
fn read(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut octets = Vec::new();
    let (words, rest) = ip.as_bytes().as_chunks::<8>();
    if !rest.is_empty() {
        return None;
    }
    for word in words {
        let digits = std::str::from_utf8(word).ok()?;
        octets.extend(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes());
    }
    let ip: IpAddr = match octets.len() {
        4 => <[u8; 4]>::try_from(octets).ok()?.into(),
        16 => <[u8; 16]>::try_from(octets).ok()?.into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::fs::MetadataExt;

    fn inode_of(socket: &impl AsRawFd) -> u64 {
        let path = format!("/proc/self/fd/{}", socket.as_raw_fd());
        std::fs::metadata(path).unwrap().ino()
    }

    fn both(ends: Ends) -> [Option<u64>; 2] {
        let own = Folder::of(std::process::id()).unwrap();
        [
            inode(&diagnostics().unwrap(), 7, ends).unwrap(),
            inode_in_tables(&own, ends).unwrap(),
        ]
    }

    fn connected(at: &str, to: impl Fn(u16) -> String) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(at).unwrap();
        let port = listener.local_addr().unwrap().port();
        #[expect(clippy::disallowed_methods, reason = "a loopback of the test's own")]
        let client = TcpStream::connect(to(port)).unwrap();
        (client, listener.accept().unwrap().0)
    }

    #[test]
    fn a_connection_leads_to_its_clients_socket_until_that_is_closed() {
        for (at, host) in [
            ("127.0.0.1:0", "127.0.0.1"),
            ("[::1]:0", "[::1]"),
            // The client's socket is one of IPv6 there.
            ("127.0.0.1:0", "[::ffff:127.0.0.1]"),
        ] {
            let (client, taken) = connected(at, |port| format!("{host}:{port}"));
            let ends = Ends {
                protocol: Protocol::Tcp,
                client: taken.peer_addr().unwrap(),
                server: taken.local_addr().unwrap(),
            };
            assert_eq!(both(ends), [Some(inode_of(&client)); 2], "{host}");
            drop(client);
            assert_eq!(both(ends), [None; 2], "{host}");
        }
    }

    #[test]
    fn a_datagram_leads_to_its_senders_socket_connected_or_not() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = server.local_addr().unwrap();
        for connects in [false, true] {
            let client = UdpSocket::bind("0.0.0.0:0").unwrap();
            if connects {
                client.connect(to).unwrap();
            }
            client.send_to(b"x", to).unwrap();
            let (_, from) = server.recv_from(&mut [0]).unwrap();
            let ends = Ends {
                protocol: Protocol::Udp,
                client: from,
                server: to,
            };
            assert_eq!(both(ends), [Some(inode_of(&client)); 2], "{connects}");
        }
    }

    #[test]
    fn a_listener_with_the_clients_port_is_not_taken_for_the_client() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let ends = Ends {
            protocol: Protocol::Tcp,
            client: at,
            server: "127.0.0.1:9".parse().unwrap(),
        };
        assert_eq!(both(ends), [None; 2]);
        let asks = diagnostics().unwrap();
        assert!(works(&asks, at));
        drop(listener);
        assert!(!works(&asks, at));
    }
}
