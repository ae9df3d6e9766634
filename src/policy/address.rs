//! Addresses: which may be dialed. Checked on the address itself, after resolution, so that no name,
//! spelling or rebinding leads into a private network.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// A class of addresses that is refused unless `network.addresses.allow` names the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AddressClass {
    /// `0.0.0.0/8`, `::` (RFC 1122 section 3.2.1.3).
    Unspecified,
    /// `127.0.0.0/8`, `::1`.
    Loopback,
    /// `10/8`, `172.16/12`, `192.168/16` (RFC 1918), `fc00::/7` (RFC 4193).
    Private,
    /// `169.254/16` (RFC 3927), `fe80::/10`.
    LinkLocal,
    /// The addresses at which clouds answer with credentials, as `169.254.169.254`.
    Metadata,
    /// `100.64/10`, carrier-grade NAT (RFC 6598).
    SharedCgnat,
    /// Multicast.
    Multicast,
    /// Documentation, benchmarking, reserved, broadcast and other special-purpose blocks of the IANA registries.
    Reserved,
}

/// Exceptions to the refused classes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddressPolicy {
    /// Networks that may be dialed although their class is refused.
    pub allow: Vec<IpNet>,
}

impl AddressPolicy {
    /// `Err` with the class when this address may not be dialed.
    ///
    /// An IPv4-mapped address is the IPv4 address that the kernel dials for it, and nothing else. Any
    /// other IPv6 address that carries an IPv4 address (compatible, NAT64, 6to4, Teredo, ISATAP) is
    /// judged by itself *and* by each IPv4 address in it: every one that is refused needs an exception
    /// of its own. So `10.0.0.0/8` lifts `::ffff:10.1.1.1` and `64:ff9b::10.1.1.1`, but not
    /// `2002:0a01:0101::1`, whose 6to4 prefix is refused as well; and a range of IPv6 addresses never
    /// lifts the IPv4 address inside.
    ///
    /// [`AddressClass::Metadata`] is lifted by exactly that address (`/32`, `/128`), by no range.
    pub fn check(&self, address: IpAddr) -> Result<(), AddressClass> {
        let address = address.to_canonical();
        if let IpAddr::V6(outer) = address {
            for inner in embedded(outer).into_iter().flatten() {
                self.check_one(IpAddr::V4(inner))?;
            }
        }
        self.check_one(address)
    }

    /// One address, without looking inside it.
    fn check_one(&self, address: IpAddr) -> Result<(), AddressClass> {
        let Some(class) = class_of(address) else {
            return Ok(());
        };
        let exact_only = class == AddressClass::Metadata;
        let lifted = self.allow.iter().any(|net| {
            net.contains(&address) && (!exact_only || net.prefix_len() == net.max_prefix_len())
        });
        if lifted { Ok(()) } else { Err(class) }
    }
}

/// The refused class of an address, if it has one; metadata addresses lie inside other blocks and
/// are asked first.
fn class_of(address: IpAddr) -> Option<AddressClass> {
    if METADATA.contains(&address) {
        return Some(AddressClass::Metadata);
    }
    match address {
        IpAddr::V4(v4) => V4_BLOCKS
            .iter()
            .find(|(net, _)| net.contains(&v4))
            .map(|&(_, class)| class),
        IpAddr::V6(v6) => V6_BLOCKS
            .iter()
            .find(|(net, _)| net.contains(&v6))
            .map(|&(_, class)| class),
    }
}

/// The IPv4 addresses that an IPv6 address carries, by the form that its prefix or interface
/// identifier announces. At most two: a Teredo server and client.
fn embedded(outer: Ipv6Addr) -> [Option<Ipv4Addr>; 2] {
    let last = v4_of(outer, 0);
    match outer.segments() {
        // Compatible (RFC 4291 section 2.5.5.1); `::` and `::1` are not of that form.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => [None, None],
        // Compatible, translated ::ffff:0:0:0/96 (RFC 2765 section 2.1), NAT64 (RFC 6052 section 2.1),
        // and local NAT64 with a /96 (RFC 8215).
        [0, 0, 0, 0, 0 | 0xffff, 0, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => [Some(last), None],
        [0x64, 0xff9b, 1, ..] => [Some(last), Some(v4_after_48(outer))],
        // Teredo (RFC 4380 section 4): the server, and the client with every bit inverted.
        [0x2001, 0, ..] => [
            Some(v4_of(outer, 64)),
            Some(Ipv4Addr::from_bits(!last.to_bits())),
        ],
        // 6to4 (RFC 3056 section 2).
        [0x2002, ..] => [Some(v4_of(outer, 80)), isatap(outer)],
        _ => [isatap(outer), None],
    }
}

/// ISATAP (RFC 5214 section 6.1): an interface identifier of `0000:5efe` or `0200:5efe`.
fn isatap(outer: Ipv6Addr) -> Option<Ipv4Addr> {
    matches!(outer.segments(), [_, _, _, _, 0 | 0x200, 0x5efe, _, _]).then(|| v4_of(outer, 0))
}

/// The 32 bits that end `shift` bits before the end of the address.
fn v4_of(outer: Ipv6Addr, shift: u32) -> Ipv4Addr {
    let [.., a, b, c, d] = (outer.to_bits() >> shift).to_be_bytes();
    Ipv4Addr::new(a, b, c, d)
}

/// The IPv4 address behind a NAT64 prefix of 48 bits, split round bits 64 to 71 (RFC 6052 section 2.2).
fn v4_after_48(outer: Ipv6Addr) -> Ipv4Addr {
    let [_, _, _, _, _, _, a, b, _, c, d, ..] = outer.octets();
    Ipv4Addr::new(a, b, c, d)
}

/// Where clouds hand out credentials to whoever asks from the machine.
const METADATA: [IpAddr; 13] = [
    v4_address(169, 254, 169, 254), // EC2, GCE, Azure, OCI and most others
    v4_address(169, 254, 170, 2),   // ECS task roles
    v4_address(169, 254, 170, 23),  // EKS pod identity
    v4_address(169, 254, 169, 253), // EC2 resolver, answers for instance names
    v4_address(169, 254, 0, 23),    // Tencent Cloud
    v4_address(169, 254, 42, 42),   // Scaleway
    v4_address(100, 100, 100, 200), // Alibaba Cloud
    v4_address(192, 0, 0, 192),     // Oracle Cloud Classic
    v4_address(168, 63, 129, 16),   // Azure WireServer, a public address
    v6_address([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254]), // EC2
    v6_address([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23]), // EKS pod identity
    v6_address([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254]), // GCE
    v6_address([0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42]), // Scaleway
];

/// IPv4 blocks that are not globally reachable (IANA IPv4 Special-Purpose Address Registry, RFC 6890).
const V4_BLOCKS: [(Ipv4Net, AddressClass); 17] = [
    (v4(0, 0, 0, 0, 8), AddressClass::Unspecified), // "this network", RFC 791 section 3.2
    (v4(10, 0, 0, 0, 8), AddressClass::Private),    // RFC 1918
    (v4(100, 64, 0, 0, 10), AddressClass::SharedCgnat), // RFC 6598
    (v4(127, 0, 0, 0, 8), AddressClass::Loopback),  // RFC 1122 section 3.2.1.3
    (v4(169, 254, 0, 0, 16), AddressClass::LinkLocal), // RFC 3927
    (v4(172, 16, 0, 0, 12), AddressClass::Private), // RFC 1918
    (v4(192, 0, 0, 0, 24), AddressClass::Reserved), // IETF protocol assignments, RFC 6890
    (v4(192, 0, 2, 0, 24), AddressClass::Reserved), // TEST-NET-1, RFC 5737
    (v4(192, 31, 196, 0, 24), AddressClass::Reserved), // AS112-v4, RFC 7535: DNS sinks, no service
    (v4(192, 88, 99, 0, 24), AddressClass::Reserved), // 6to4 relays, RFC 7526
    (v4(192, 168, 0, 0, 16), AddressClass::Private), // RFC 1918
    (v4(192, 175, 48, 0, 24), AddressClass::Reserved), // AS112, RFC 7534
    (v4(198, 18, 0, 0, 15), AddressClass::Reserved), // benchmarking, RFC 2544
    (v4(198, 51, 100, 0, 24), AddressClass::Reserved), // TEST-NET-2, RFC 5737
    (v4(203, 0, 113, 0, 24), AddressClass::Reserved), // TEST-NET-3, RFC 5737
    (v4(224, 0, 0, 0, 4), AddressClass::Multicast), // RFC 5771
    (v4(240, 0, 0, 0, 4), AddressClass::Reserved),  // RFC 1112 section 4, and broadcast, RFC 919
];

/// IPv6 blocks that are not globally reachable (IANA IPv6 Special-Purpose Address Registry, RFC 6890),
/// in the order they are asked. NAT64's `64:ff9b::/96` is reachable: it is judged by what it embeds.
const V6_BLOCKS: [(Ipv6Net, AddressClass); 18] = [
    (v6([0, 0, 0, 0, 0, 0, 0, 0], 128), AddressClass::Unspecified), // RFC 4291 section 2.5.2
    (v6([0, 0, 0, 0, 0, 0, 0, 1], 128), AddressClass::Loopback),    // RFC 4291 section 2.5.3
    (
        v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48),
        AddressClass::Reserved,
    ), // local NAT64, RFC 8215
    (v6([0, 0, 0, 0, 0, 0, 0, 0], 96), AddressClass::Reserved), // compatible, RFC 4291 section 2.5.5.1
    (
        v6([0, 0, 0, 0, 0xffff, 0, 0, 0], 96),
        AddressClass::Reserved,
    ), // translated, RFC 2765
    (v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64), AddressClass::Reserved), // discard-only, RFC 6666
    (v6([0x100, 0, 0, 1, 0, 0, 0, 0], 64), AddressClass::Reserved), // dummy prefix, RFC 9780
    (
        v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23),
        AddressClass::Reserved,
    ), // IETF protocols, RFC 2928: Teredo, ORCHID …
    (
        v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32),
        AddressClass::Reserved,
    ), // documentation, RFC 3849
    (
        v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16),
        AddressClass::Reserved,
    ), // 6to4, RFC 7526
    (
        v6([0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0], 48),
        AddressClass::Reserved,
    ), // AS112, RFC 7534
    (
        v6([0x3ffe, 0, 0, 0, 0, 0, 0, 0], 16),
        AddressClass::Reserved,
    ), // 6bone, returned, RFC 3701
    (
        v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20),
        AddressClass::Reserved,
    ), // documentation, RFC 9637
    (
        v6([0x5f00, 0, 0, 0, 0, 0, 0, 0], 16),
        AddressClass::Reserved,
    ), // SRv6 SIDs, RFC 9602
    (v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7), AddressClass::Private), // unique local, RFC 4193
    (
        v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10),
        AddressClass::LinkLocal,
    ), // RFC 4291 section 2.5.6
    (v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10), AddressClass::Private), // site-local, RFC 3879
    (
        v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8),
        AddressClass::Multicast,
    ), // RFC 4291 section 2.7
];

const fn v4_address(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

#[expect(clippy::many_single_char_names, reason = "the eight segments")]
const fn v6_address([a, b, c, d, e, f, g, h]: [u16; 8]) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(a, b, c, d, e, f, g, h))
}

const fn v4(a: u8, b: u8, c: u8, d: u8, length: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length)
}

#[expect(clippy::many_single_char_names, reason = "the eight segments")]
const fn v6([a, b, c, d, e, f, g, h]: [u16; 8], length: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), length)
}

impl fmt::Display for AddressClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unspecified => "unspecified",
            Self::Loopback => "loopback",
            Self::Private => "private",
            Self::LinkLocal => "link_local",
            Self::Metadata => "metadata",
            Self::SharedCgnat => "shared_cgnat",
            Self::Multicast => "multicast",
            Self::Reserved => "reserved",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowing(allow: &[&str]) -> AddressPolicy {
        let allow = allow.iter().map(|net| net.parse().unwrap()).collect();
        AddressPolicy { allow }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn check(allow: &[&str], address: &str) -> Result<(), AddressClass> {
        allowing(allow).check(ip(address))
    }

    #[test]
    fn public_addresses_may_be_dialed() {
        for public in [
            "1.1.1.1",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.255.255",
            "172.32.0.1",
            "192.0.1.1",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2606:4700::1111",
            "2001:200::1",
            "2a00::1",
            "::ffff:1.1.1.1",
            "64:ff9b::1.1.1.1",
            "2a00::5efe:101:101",
        ] {
            assert_eq!(check(&[], public), Ok(()), "{public}");
        }
    }

    #[test]
    fn special_purpose_blocks_are_refused_by_class_from_first_to_last_address() {
        use AddressClass as C;
        for (address, class) in [
            ("0.0.0.0", C::Unspecified),
            ("0.255.255.255", C::Unspecified),
            ("10.0.0.0", C::Private),
            ("10.255.255.255", C::Private),
            ("100.64.0.0", C::SharedCgnat),
            ("100.127.255.255", C::SharedCgnat),
            ("127.0.0.1", C::Loopback),
            ("127.255.255.255", C::Loopback),
            ("169.254.0.0", C::LinkLocal),
            ("169.254.255.255", C::LinkLocal),
            ("172.16.0.0", C::Private),
            ("172.31.255.255", C::Private),
            ("192.0.0.0", C::Reserved),
            ("192.0.2.255", C::Reserved),
            ("192.88.99.1", C::Reserved),
            ("192.168.0.0", C::Private),
            ("192.168.255.255", C::Private),
            ("198.18.0.0", C::Reserved),
            ("198.19.255.255", C::Reserved),
            ("198.51.100.7", C::Reserved),
            ("203.0.113.7", C::Reserved),
            ("224.0.0.1", C::Multicast),
            ("239.255.255.255", C::Multicast),
            ("240.0.0.0", C::Reserved),
            ("255.255.255.255", C::Reserved),
            ("::", C::Unspecified),
            ("::1", C::Loopback),
            ("100::1", C::Reserved),
            ("2001:1::1", C::Reserved),
            ("2001:20::1", C::Reserved),
            ("2001:db8::1", C::Reserved),
            ("3fff:fff::1", C::Reserved),
            ("5f00::1", C::Reserved),
            ("fc00::1", C::Private),
            ("fdff:ffff::1", C::Private),
            ("fe80::1", C::LinkLocal),
            ("febf::1", C::LinkLocal),
            ("fec0::1", C::Private),
            ("ff02::1", C::Multicast),
        ] {
            assert_eq!(check(&[], address), Err(class), "{address}");
        }
    }

    #[test]
    fn an_address_inside_an_address_is_judged_too() {
        use AddressClass as C;
        for (address, class) in [
            ("::ffff:127.0.0.1", C::Loopback),
            ("::ffff:0.0.0.0", C::Unspecified),
            ("::ffff:169.254.169.254", C::Metadata),
            ("::127.0.0.1", C::Loopback),
            ("::1.1.1.1", C::Reserved),
            ("::ffff:0:10.0.0.1", C::Private),
            ("64:ff9b::10.0.0.1", C::Private),
            ("64:ff9b::169.254.169.254", C::Metadata),
            ("64:ff9b:1::10.0.0.1", C::Private),
            ("64:ff9b:1:a00:0:100::", C::Unspecified),
            ("64:ff9b:1:101:1:100:101:101", C::Reserved),
            ("2002:7f00:1::", C::Loopback),
            ("2002:a9fe:a9fe::1", C::Metadata),
            ("2002:101:101::1", C::Reserved),
            ("2001:0:a00:1:0:0:fefe:fefe", C::Private),
            ("2001:0:101:101:0:0:80ff:fffe", C::Loopback),
            ("2001:0:101:101:0:0:fefe:fefe", C::Reserved),
            ("2a00::5efe:a00:1", C::Private),
            ("2a00::200:5efe:7f00:1", C::Loopback),
        ] {
            assert_eq!(check(&[], address), Err(class), "{address}");
        }
    }

    #[test]
    fn an_exception_lifts_the_range_it_names_in_every_form_that_dials_it() {
        assert_eq!(check(&["10.0.0.0/8"], "10.1.1.1"), Ok(()));
        assert_eq!(check(&["10.0.0.0/8"], "::ffff:10.1.1.1"), Ok(()));
        assert_eq!(check(&["10.0.0.0/8"], "64:ff9b::10.1.1.1"), Ok(()));
        assert_eq!(check(&["fd12::/16"], "fd12::1"), Ok(()));
        assert_eq!(
            check(&["2002::/16", "10.0.0.0/8"], "2002:a01:101::1"),
            Ok(())
        );
    }

    #[test]
    fn an_exception_lifts_nothing_else() {
        use AddressClass::{Private, Reserved};
        assert_eq!(check(&["10.0.0.0/8"], "192.168.0.1"), Err(Private));
        assert_eq!(check(&["10.0.0.0/8"], "2002:a01:101::1"), Err(Reserved));
        assert_eq!(check(&["2002::/16"], "2002:a01:101::1"), Err(Private));
        assert_eq!(check(&["::ffff:0:0/96"], "::ffff:10.1.1.1"), Err(Private));
        assert_eq!(check(&["64:ff9b::/96"], "64:ff9b::10.1.1.1"), Err(Private));
    }

    #[test]
    fn no_range_lifts_a_metadata_address_only_the_address_itself() {
        for address in METADATA {
            let exact = format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 });
            let broad = ["0.0.0.0/0", "::/0", "169.254.0.0/16", "fd00::/8"];
            assert_eq!(
                check(&broad, &address.to_string()),
                Err(AddressClass::Metadata)
            );
            assert_eq!(check(&[&exact], &address.to_string()), Ok(()));
        }
        let mapped = "::ffff:169.254.169.254";
        assert_eq!(check(&["169.254.169.254/32"], mapped), Ok(()));
    }
}
