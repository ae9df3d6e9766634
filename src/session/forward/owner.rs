//! Whose a connection is that came over a loopback address: the kernel's own tables, as proc(5) shows them.
//!
//! TCP has no SO_PEERCRED, but on a loopback the other end is a row of the same table: its local address is
//! our peer's.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use nix::unistd::Uid;

/// A table that changes while it is read may leave a row out.
const LOOKS: usize = 3;

/// The user whose process holds the other end of this connection; `None` when nobody does (any more): an
/// end that was closed has no owner, and may have been anybody's.
pub(super) fn of(peer: SocketAddr, here: SocketAddr) -> io::Result<Option<Uid>> {
    let tables = [
        ("/proc/self/net/tcp", plain(peer), plain(here)),
        // A socket of IPv6 that connected to an address of IPv4 is in the other table.
        ("/proc/self/net/tcp6", mapped(peer), mapped(here)),
    ];
    for _ in 0..LOOKS {
        for (path, peer, here) in &tables {
            let file = match File::open(path) {
                // This host has no IPv6.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                file => BufReader::new(file?),
            };
            for line in file.lines() {
                if let Some(owner) = owner(&line?, (peer, here)) {
                    return Ok(Some(owner));
                }
            }
        }
    }
    Ok(None)
}

/// A row is `sl local remote state queues timer retransmits uid timeout inode …`. One without an inode is
/// nobody's: it shows uid 0, whoever's it was.
fn owner(row: &str, (peer, here): (&str, &str)) -> Option<Uid> {
    let mut words = row.split_ascii_whitespace().skip(1);
    if words.next()? != peer || words.next()? != here {
        return None;
    }
    let uid: u32 = words.nth(4)?.parse().ok()?;
    let inode: u64 = words.nth(1)?.parse().ok()?;
    (inode != 0).then(|| Uid::from_raw(uid))
}

fn plain(address: SocketAddr) -> String {
    written(address.ip(), address.port())
}

fn mapped(address: SocketAddr) -> String {
    let ip: Ipv6Addr = match address.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    written(ip.into(), address.port())
}

/// Four bytes at a time as a number of this machine, in hexadecimal digits.
fn written(ip: IpAddr, port: u16) -> String {
    let octets = match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let (words, _) = octets.as_chunks::<4>();
    let words: Vec<String> = words
        .iter()
        .map(|word| format!("{:08X}", u32::from_ne_bytes(*word)))
        .collect();
    format!("{}:{port:04X}", words.concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::getuid;
    use std::net::{TcpListener, TcpStream};

    fn connected(at: &str, to: impl Fn(u16) -> String) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(at).unwrap();
        let port = listener.local_addr().unwrap().port();
        #[expect(clippy::disallowed_methods, reason = "a loopback of the test's own")]
        let client = TcpStream::connect(to(port)).unwrap();
        (client, listener.accept().unwrap().0)
    }

    fn owner_of(taken: &TcpStream) -> Option<Uid> {
        of(taken.peer_addr().unwrap(), taken.local_addr().unwrap()).unwrap()
    }

    #[test]
    fn a_connection_is_its_clients_and_nobodys_once_that_is_gone() {
        for (at, host) in [
            ("127.0.0.1:0", "127.0.0.1"),
            ("[::1]:0", "[::1]"),
            // The client's socket is one of IPv6 there.
            ("127.0.0.1:0", "[::ffff:127.0.0.1]"),
        ] {
            let (client, taken) = connected(at, |port| format!("{host}:{port}"));
            assert_eq!(owner_of(&taken), Some(getuid()), "{host}");
            drop(client);
            assert_eq!(owner_of(&taken), None, "{host}");
        }
    }
}
