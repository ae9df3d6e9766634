//! Hosts: names and address literals, parsed strictly into one canonical form.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// A DNS name in canonical form: lower-case ASCII labels of letters, digits, `-` and `_`, 1 to 63
/// bytes each, at most 253 in all (RFC 1035 section 2.3.4), no trailing dot, every `xn--` label valid
/// (RFC 5891), the last label not numeric (so it can never be read as an IPv4 address).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DomainName(String);

impl DomainName {
    /// The name, without trailing dot.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Where a request wants to go.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Host {
    /// A name, to be resolved after the decision.
    Name(DomainName),
    /// An address literal.
    Addr(IpAddr),
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
/// Why a text is not a host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct HostError(pub String);

impl Host {
    /// Reads a host.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        DomainName::parse(text).map(Self::Name)
    }
}
impl DomainName {
    /// Reads a name.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        Ok(Self(text.to_owned()))
    }
}
impl TryFrom<String> for DomainName {
    type Error = HostError;
    fn try_from(t: String) -> Result<Self, HostError> {
        Self::parse(&t)
    }
}
impl From<DomainName> for String {
    fn from(n: DomainName) -> Self {
        n.0
    }
}
impl TryFrom<String> for Host {
    type Error = HostError;
    fn try_from(t: String) -> Result<Self, HostError> {
        Self::parse(&t)
    }
}
impl From<Host> for String {
    fn from(h: Host) -> Self {
        h.to_string()
    }
}
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(n) => n.fmt(f),
            Self::Addr(a) => a.fmt(f),
        }
    }
}
