//! Addresses and routes of a jail whose programs need know no proxy (rtnetlink(7); linux/rtnetlink.h).
//!
//! Every address is made a local one: `local default dev lo`. What the jail sends then arrives on its
//! loopback device again, where [`super::tproxy`] hands TCP to the gate's listener, and where anything else
//! finds nobody and is refused at once. Nothing of this leads out: the device is the only one there is.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::sys::socket::SockProtocol;

use super::netlink::{Attributes, NEW, Netlink, Refused, Request};
use crate::wire::transparent::{OWN_V4, OWN_V6};

/// `RTM_NEWLINK`.
const NEW_LINK: u16 = 16;
/// `RTM_NEWADDR`.
const NEW_ADDRESS: u16 = 20;
/// `RTM_NEWROUTE`.
const NEW_ROUTE: u16 = 24;
/// `IFA_ADDRESS` and `IFA_LOCAL`.
const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;
/// `RTA_DST`, `RTA_OIF`, `RTA_PRIORITY`, `RTA_PREFSRC`.
const DESTINATION: u16 = 1;
const DEVICE: u16 = 4;
const PRIORITY: u16 = 6;
const PREFERRED_SOURCE: u16 = 7;
/// `IFF_UP`.
const UP: u32 = 1;
/// `RT_TABLE_LOCAL`, which is looked at before any other.
const TABLE_LOCAL: u8 = 255;
/// `RTPROT_STATIC`.
const STATIC: u8 = 4;
/// `RT_SCOPE_HOST`.
const SCOPE_HOST: u8 = 254;
/// `IFA_F_NODAD`: usable at once.
const NO_DETECTION: u8 = 2;

/// What a route does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// `RTN_LOCAL`: to ourselves.
    Local = 2,
    /// `RTN_UNREACHABLE`: an error at once.
    Unreachable = 7,
}

/// Brings the loopback device up and makes every address a local one: IPv4, and IPv6 where the jail has it.
pub(super) fn install(loopback: u32, with_ipv6: bool) -> Result<(), Refused> {
    let netlink = Netlink::open(SockProtocol::NetlinkRoute);
    let netlink = netlink.map_err(|source| Refused {
        step: "open a routing socket",
        source,
    })?;
    for request in requests(loopback, with_ipv6) {
        match netlink.carry_out(&request) {
            // Whoever made the namespace did it already.
            Err(refused) if refused.source.kind() == io::ErrorKind::AlreadyExists => {}
            other => other?,
        }
    }
    Ok(())
}

fn requests(loopback: u32, with_ipv6: bool) -> Vec<Request> {
    let v4 = (
        IpAddr::V4(OWN_V4),
        IpAddr::V4(Ipv4Addr::new(224, 0, 0, 0)),
        4,
    );
    let multicast_v6 = Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0);
    let v6 = (IpAddr::V6(OWN_V6), IpAddr::V6(multicast_v6), 8);
    let mut requests = vec![up(loopback)];
    for (own, multicast, length) in [v4, v6].into_iter().take(1 + usize::from(with_ipv6)) {
        requests.push(address(loopback, own));
        requests.push(route(loopback, own, None, Kind::Local));
        requests.push(route(
            loopback,
            own,
            Some((multicast, length)),
            Kind::Unreachable,
        ));
    }
    requests
}

/// struct ifinfomsg.
fn up(loopback: u32) -> Request {
    let header = [
        [0; 4],
        loopback.to_ne_bytes(),
        UP.to_ne_bytes(),
        UP.to_ne_bytes(),
    ];
    Request {
        step: "bring lo up",
        kind: NEW_LINK,
        flags: 0,
        header: header.concat(),
        attributes: Attributes::default(),
    }
}

/// struct ifaddrmsg. An address beside 127.0.0.1, because getaddrinfo(3) with `AI_ADDRCONFIG` takes a
/// machine that has nothing else for one without network.
fn address(loopback: u32, own: IpAddr) -> Request {
    let header = [
        [family(own), bits(own), NO_DETECTION, 0],
        loopback.to_ne_bytes(),
    ];
    Request {
        step: "add an address to lo",
        kind: NEW_ADDRESS,
        flags: NEW,
        header: header.concat(),
        attributes: Attributes::default()
            .add(LOCAL, &octets(own))
            .add(ADDRESS, &octets(own)),
    }
}

/// struct rtmsg. Without a destination: everything that no other route of the table takes.
fn route(loopback: u32, own: IpAddr, to: Option<(IpAddr, u8)>, kind: Kind) -> Request {
    let scope = if own.is_ipv4() && kind == Kind::Local {
        SCOPE_HOST
    } else {
        0
    };
    let length = to.map_or(0, |(_, length)| length);
    let header = [
        family(own),
        length,
        0,
        0,
        TABLE_LOCAL,
        STATIC,
        scope,
        kind as u8,
        0,
        0,
        0,
        0,
    ];
    let mut attributes = Attributes::default();
    if let Some((network, _)) = to {
        attributes = attributes.add(DESTINATION, &octets(network));
    }
    if kind == Kind::Local {
        attributes = attributes
            .add(DEVICE, &loopback.to_ne_bytes())
            .add(PREFERRED_SOURCE, &octets(own));
    } else if own.is_ipv6() {
        attributes = attributes
            .add(DEVICE, &loopback.to_ne_bytes())
            .add(PRIORITY, &1_u32.to_ne_bytes());
    }
    Request {
        step: match (kind, own) {
            (Kind::Local, IpAddr::V4(_)) => "add the IPv4 route to lo",
            (Kind::Local, IpAddr::V6(_)) => "add the IPv6 route to lo",
            (Kind::Unreachable, _) => "make multicast unreachable",
        },
        kind: NEW_ROUTE,
        flags: NEW,
        header: header.to_vec(),
        attributes,
    }
}

/// `AF_INET` and `AF_INET6`.
fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { 2 } else { 10 }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_ipv6_there_is_no_request_for_it_and_lo_comes_first() {
        let steps = |with_ipv6| {
            let all = requests(1, with_ipv6);
            all.into_iter()
                .map(|request| request.step)
                .collect::<Vec<_>>()
        };
        let v4 = [
            "bring lo up",
            "add an address to lo",
            "add the IPv4 route to lo",
            "make multicast unreachable",
        ];
        assert_eq!(steps(false), v4);
        assert_eq!(steps(true).len(), 7);
    }
}
