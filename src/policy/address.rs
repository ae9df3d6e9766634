//! Addresses: which may be dialed. Checked on the address itself, after resolution.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
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

/// Exceptions to the refused classes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddressPolicy {
    /// Networks that may be dialed although their class is refused.
    pub allow: Vec<IpNet>,
}

impl AddressPolicy {
    /// `Err` with the class when this address may not be dialed. An IPv6 address that carries an IPv4
    /// address (mapped, compatible, NAT64, 6to4, Teredo, ISATAP) is judged by both.
    pub fn check(&self, _address: IpAddr) -> Result<(), AddressClass> {
        Err(AddressClass::Reserved)
    }
}
