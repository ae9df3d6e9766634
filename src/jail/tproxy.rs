//! The one table of nftables in a jail whose programs need know no proxy (linux/netfilter/nf_tables.h):
//! every TCP connection that is not the jail's own goes to the gate's listener and keeps the address it was
//! made to, which the gate asks with getsockname(2). In the words of nft(8), for each address family:
//!
//! ```text
//! table ip portcullis {
//!     chain divert {
//!         type filter hook prerouting priority mangle; policy accept;
//!         meta l4proto tcp ip daddr != 127.0.0.0/8 ip daddr != OWN tproxy to 127.0.0.1:PORT
//!     }
//! }
//! ```
//!
//! No mark and no routing rule: [`super::routes`] makes what the jail sends arrive on its loopback device,
//! which is where prerouting is. A listener that is gone leaves the packet as it is; nobody listens, so the
//! connect is refused.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use nix::sys::socket::SockProtocol;

use super::netlink::{APPEND, Attributes, NEW, Netlink, Refused, Request};
use super::routes::octets;
use crate::wire::transparent::{OWN_V4, OWN_V6};

/// `NFNL_SUBSYS_NFTABLES`.
const NFTABLES: u16 = 10;
/// `NFNL_MSG_BATCH_BEGIN` and `NFNL_MSG_BATCH_END`: all requests between them happen, or none.
const BEGIN: u16 = 0x10;
const END: u16 = 0x11;
/// `NFT_MSG_NEWTABLE`, `NFT_MSG_NEWCHAIN`, `NFT_MSG_NEWRULE`.
const NEW_TABLE: u16 = 0;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;

const TABLE: &str = "portcullis";
const CHAIN: &str = "divert";

/// `NF_IP_PRI_MANGLE`.
const MANGLE: i32 = -150;
/// `NF_ACCEPT`.
const ACCEPT: u32 = 1;
/// `NFT_META_L4PROTO`.
const L4PROTO: u32 = 16;
/// `NFT_PAYLOAD_NETWORK_HEADER`.
const NETWORK_HEADER: u32 = 1;
/// `NFT_CMP_EQ` and `NFT_CMP_NEQ`.
const EQUAL: u32 = 0;
const DIFFERENT: u32 = 1;
/// `NFT_REG_1` and `NFT_REG_2`, of 16 bytes each.
const FIRST: u32 = 1;
const SECOND: u32 = 2;

/// Sends the jail's TCP to these listeners, one of each address family.
pub(super) fn install(listeners: &[SocketAddr]) -> Result<(), Refused> {
    let netlink = Netlink::open(SockProtocol::NetlinkNetFilter);
    let netlink = netlink.map_err(|source| Refused {
        step: "open an nftables socket",
        source,
    })?;
    let requests: Vec<_> = listeners.iter().flat_map(|to| table(*to)).collect();
    netlink.send_all(&requests, Some([&border(BEGIN), &border(END)]))
}

/// Begin or end of a batch; its resource is the subsystem, in network order.
fn border(kind: u16) -> Request {
    let [high, low] = NFTABLES.to_be_bytes();
    Request {
        step: "batch",
        kind,
        flags: 0,
        header: vec![0, 0, high, low],
        attributes: Attributes::default(),
    }
}

fn table(to: SocketAddr) -> [Request; 3] {
    // `NFPROTO_IPV4` and `NFPROTO_IPV6`.
    let family = if to.is_ipv4() { 2 } else { 10 };
    let request = |step, kind, flags, attributes| Request {
        step,
        kind: NFTABLES << 8 | kind,
        flags,
        header: vec![family, 0, 0, 0],
        attributes,
    };
    let table = Attributes::default().text(1, TABLE);
    // `NFTA_HOOK_HOOKNUM` (`NF_INET_PRE_ROUTING`), `NFTA_HOOK_PRIORITY`.
    let hook = Attributes::default()
        .number(1, 0)
        .number(2, MANGLE.cast_unsigned());
    // `NFTA_CHAIN_TABLE`, `_NAME`, `_HOOK`, `_POLICY`, `_TYPE`.
    let chain = Attributes::default()
        .text(1, TABLE)
        .text(3, CHAIN)
        .nest(4, &hook)
        .number(5, ACCEPT)
        .text(7, "filter");
    // `NFTA_RULE_TABLE`, `_CHAIN`, `_EXPRESSIONS`.
    let rule = Attributes::default()
        .text(1, TABLE)
        .text(2, CHAIN)
        .nest(4, &expressions(to));
    [
        request("make an nftables table", NEW_TABLE, NEW, table),
        request("make an nftables chain", NEW_CHAIN, NEW, chain),
        request("make the nftables rule (tproxy)", NEW_RULE, APPEND, rule),
    ]
}

/// The rule: conditions, then what is done. The first that does not hold ends it.
fn expressions(to: SocketAddr) -> Attributes {
    // `NFTA_META_DREG`, `NFTA_META_KEY`.
    let protocol = Attributes::default().number(1, FIRST).number(2, L4PROTO);
    let mut list = expression(Attributes::default(), "meta", &protocol);
    // `IPPROTO_TCP`.
    list = compare(list, EQUAL, &[6]);
    // Where the destination stands in the IPv4 and the IPv6 header, which part of it is loopback's, and
    // how long it is.
    let (offset, loopback, own) = match to {
        SocketAddr::V4(_) => (16, vec![127], IpAddr::V4(OWN_V4)),
        SocketAddr::V6(_) => (24, octets(Ipv6Addr::LOCALHOST.into()), IpAddr::V6(OWN_V6)),
    };
    for address in [loopback, octets(own)] {
        // `NFTA_PAYLOAD_DREG`, `_BASE`, `_OFFSET`, `_LEN`.
        let load = Attributes::default()
            .number(1, FIRST)
            .number(2, NETWORK_HEADER)
            .number(3, offset)
            .number(4, u32::try_from(address.len()).unwrap_or(0));
        list = expression(list, "payload", &load);
        list = compare(list, DIFFERENT, &address);
    }
    let (address, port) = (octets(to.ip()), to.port().to_be_bytes());
    for (register, value) in [(FIRST, address.as_slice()), (SECOND, &port)] {
        // `NFTA_IMMEDIATE_DREG`, `_DATA`.
        let immediate = Attributes::default()
            .number(1, register)
            .nest(2, &data(value));
        list = expression(list, "immediate", &immediate);
    }
    // `NFTA_TPROXY_FAMILY`, `_REG_ADDR`, `_REG_PORT`.
    let tproxy = Attributes::default()
        .number(1, if to.is_ipv4() { 2 } else { 10 })
        .number(2, FIRST)
        .number(3, SECOND);
    expression(list, "tproxy", &tproxy)
}

/// `NFTA_CMP_SREG`, `_OP`, `_DATA`.
fn compare(list: Attributes, operation: u32, value: &[u8]) -> Attributes {
    let compare = Attributes::default()
        .number(1, FIRST)
        .number(2, operation)
        .nest(3, &data(value));
    expression(list, "cmp", &compare)
}

/// `NFTA_DATA_VALUE`.
fn data(value: &[u8]) -> Attributes {
    Attributes::default().add(1, value)
}

/// `NFTA_LIST_ELEM` with `NFTA_EXPR_NAME` and `NFTA_EXPR_DATA`.
fn expression(list: Attributes, name: &str, inner: &Attributes) -> Attributes {
    let element = Attributes::default().text(1, name).nest(2, inner);
    list.nest(1, &element)
}

/// Where the IPv4 and the IPv6 listener are bound: a port of loopback that the kernel chooses.
pub(super) const LISTEN: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];
