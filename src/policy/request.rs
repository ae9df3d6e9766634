//! What is asked: every front door of the gate ends in one [`EgressRequest`] before a rule is read.

use std::fmt;
use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};

use super::host::Host;

/// A TCP port, never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Port(NonZeroU16);

impl Port {
    /// 80, the port of `http` (RFC 9110 section 4.2.1).
    pub const HTTP: Self = Self(NonZeroU16::MIN.saturating_add(79));
    /// 443, the port of `https` (RFC 9110 section 4.2.2).
    pub const HTTPS: Self = Self(NonZeroU16::MIN.saturating_add(442));

    /// The port with this number; 0 is none.
    pub fn new(number: u16) -> Option<Self> {
        NonZeroU16::new(number).map(Self)
    }

    /// The number.
    pub fn number(self) -> u16 {
        self.0.get()
    }

    /// Reads 1 to 5 decimal digits, nothing else: no sign, no space, no empty text.
    pub fn parse(text: &str) -> Option<Self> {
        if text.is_empty() || text.len() > 5 || !text.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        text.parse().ok().and_then(Self::new)
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The front door a request came through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// An absolute-form HTTP/1.1 request (RFC 9112 section 3.2.2): the gate sees method and path.
    Forward,
    /// An HTTP CONNECT tunnel (RFC 9110 section 9.3.6).
    Connect,
    /// A SOCKS5 CONNECT (RFC 1928).
    Socks5,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Forward => "forward",
            Self::Connect => "connect",
            Self::Socks5 => "socks5",
        })
    }
}

/// An HTTP method (RFC 9110 section 9), case-sensitive: `get` is not GET.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Method(String);

impl Method {
    /// A token (RFC 9110 section 5.6.2) of at most 32 bytes in capitals and `-`; all registered methods are.
    pub fn parse(text: &str) -> Option<Self> {
        let valid = !text.is_empty()
            && text.len() <= 32
            && text.bytes().all(|b| b.is_ascii_uppercase() || b == b'-');
        valid.then(|| Self(text.to_owned()))
    }

    /// The method as it goes on the wire.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// GET, HEAD and OPTIONS: what `mode = "limited"` lets through. All are safe in the sense of RFC
    /// 9110 section 9.2.1; TRACE is safe there too, but reflects headers and is never let through.
    pub fn is_read_only(&self) -> bool {
        matches!(self.as_str(), "GET" | "HEAD" | "OPTIONS")
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<String> for Method {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
            .ok_or_else(|| format!("not an HTTP method: {text:?} (write it in capitals, as GET)"))
    }
}

impl From<Method> for String {
    fn from(method: Method) -> Self {
        method.0
    }
}

/// One request to leave the jail, whatever door it came through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressRequest {
    /// The front door.
    pub transport: Transport,
    /// Where to: a name or an address literal, never both.
    pub host: Host,
    /// The TCP port there.
    pub port: Port,
    /// The method, where the gate can see it ([`Transport::Forward`]).
    pub method: Option<Method>,
    /// The path without its query, where the gate can see it; starts with `/`.
    pub path: Option<String>,
}
