//! The sockets that come from the jail's network namespace, with what is spoken on each. Owns: their order,
//! which is the contract of `wire::gate` and `wire::transparent`.

use std::io;
use std::os::fd::OwnedFd;

use tokio::net::{TcpListener, UdpSocket};

use crate::policy::NetworkPolicy;

use super::listen::Door;

/// The sockets of one gate.
#[derive(Debug)]
pub(super) struct Sockets {
    /// Listeners, each with its protocol.
    pub(super) doors: Vec<(TcpListener, Door)>,
    /// Where the jail's programs ask for names: UDP and TCP.
    pub(super) names: Option<(UdpSocket, TcpListener)>,
    /// Whether the jail has IPv6, as far as the sockets tell.
    pub(super) ipv6: bool,
}

/// Why they are of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum SocketsError {
    /// The session and the policy disagree.
    #[error("{got} listening sockets came, the policy has {expected}")]
    Number {
        /// How many came.
        got: usize,
        /// How many belong here.
        expected: String,
    },
    /// The kernel refused something ordinary.
    #[error("take the listening sockets: {0}")]
    Io(#[from] io::Error),
}

/// Takes the sockets apart. To be called within a runtime.
pub(super) fn take(policy: &NetworkPolicy, fds: Vec<OwnedFd>) -> Result<Sockets, SocketsError> {
    let proxies = 1 + usize::from(policy.enable_socks5);
    // The last one of a transparent jail is there only with IPv6.
    let (least, most) = if policy.transparent {
        (proxies + 3, proxies + 4)
    } else {
        (proxies, proxies)
    };
    let got = fds.len();
    if !(least..=most).contains(&got) {
        let expected = if least == most {
            least.to_string()
        } else {
            format!("{least} or {most}")
        };
        return Err(SocketsError::Number { got, expected });
    }
    let mut sockets = Sockets {
        doors: Vec::new(),
        names: None,
        ipv6: got > proxies + 3,
    };
    let mut fds = fds.into_iter();
    // The doors first: zip must not take a socket that has no door.
    for (door, fd) in proxy_doors(policy).into_iter().zip(fds.by_ref()) {
        sockets.doors.push((listener(fd)?, door));
    }
    if let Some(v4) = fds.next() {
        sockets.doors.push((listener(v4)?, Door::Transparent));
    }
    if let (Some(udp), Some(tcp)) = (fds.next(), fds.next()) {
        sockets.names = Some((datagrams(udp)?, listener(tcp)?));
    }
    if let Some(v6) = fds.next() {
        sockets.doors.push((listener(v6)?, Door::Transparent));
    }
    Ok(sockets)
}

fn proxy_doors(policy: &NetworkPolicy) -> Vec<Door> {
    let mut doors = vec![Door::Http];
    doors.extend(policy.enable_socks5.then_some(Door::Socks5));
    doors
}

fn listener(fd: OwnedFd) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::from(fd);
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

fn datagrams(fd: OwnedFd) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::from(fd);
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}
