//! What is asked: every front door of the gate ends in one [`EgressRequest`] before a rule is read.

use std::fmt;
use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};

use super::host::{Host, HostError};
use super::upstream::authority;

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
    /// A request inside a TLS connection that the gate terminates: method and path are in sight.
    Inspected,
    /// A TCP connection of a program that knows no proxy, taken over with its original destination.
    Transparent,
    /// Datagrams over a SOCKS5 UDP association (RFC 1928 section 7).
    Socks5Udp,
}

impl Transport {
    /// Whether method and path are hidden from the gate.
    pub fn is_tunnel(self) -> bool {
        match self {
            Self::Forward | Self::Inspected => false,
            Self::Connect | Self::Socks5 | Self::Transparent | Self::Socks5Udp => true,
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Forward => "forward",
            Self::Connect => "connect",
            Self::Socks5 => "socks5",
            Self::Inspected => "inspected",
            Self::Transparent => "transparent",
            Self::Socks5Udp => "socks5-udp",
        })
    }
}

/// An HTTP method (RFC 9110 section 9), case-sensitive: `get` is not GET.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
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

/// A request as a person writes it: `POST https://host/path`, with the port where it is not the scheme's own.
pub fn spelled_out(
    transport: Transport,
    method: &Method,
    (host, port): (&Host, Port),
    path: &str,
) -> String {
    let (scheme, own) = if transport == Transport::Inspected {
        ("https", ":443")
    } else {
        ("http", ":80")
    };
    let whom = authority(host, port);
    let whom = whom.strip_suffix(own).unwrap_or(&whom);
    format!("{method} {scheme}://{whom}{path}")
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
    /// The method, where the gate can see it (see [`Transport::is_tunnel`]).
    pub method: Option<Method>,
    /// The path without its query, where the gate can see it; starts with `/`.
    pub path: Option<String>,
    /// Whether it asks for a WebSocket (RFC 6455, RFC 8441), where the gate can see it.
    pub websocket: bool,
}

/// Why a text does not ask one question.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// A scheme that the gate does not carry.
    #[error(
        "{scheme:?} is no scheme the gate carries; accepted are https://host/path, http://host/path, \
         wss://, ws://, udp://host:port, host:port and host"
    )]
    Scheme {
        /// The scheme.
        scheme: String,
    },
    /// The host is none.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The port is none.
    #[error("{port:?} is no port; accepted are 1 to 65535")]
    Port {
        /// The text.
        port: String,
    },
    /// The method is none.
    #[error("{method:?} is no HTTP method; write it in capitals, as GET")]
    Method {
        /// The text.
        method: String,
    },
}

impl EgressRequest {
    /// The request that a client would make of the gate for `[METHOD] URL`, `host:port` or `host`. Plain
    /// `http://` is forwarded, its method (GET if none is given) and path in sight; everything else is a
    /// tunnel, but `udp://host:port`, which is a datagram. What may follow inside of a tunnel,
    /// [`super::Question`] tells. Nothing is looked up.
    pub fn parse(text: &str) -> Result<Self, RequestError> {
        Asked::read(text).map(|asked| asked.at_the_door())
    }
}

/// A text that asks one question, taken apart.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    /// `http`, `https`, `ws`, `wss`, `udp`; empty: the text is no URL.
    pub(super) scheme: &'a str,
    /// The method, if one is given.
    method: Option<Method>,
    host: Host,
    port: Port,
    /// What follows the authority.
    rest: &'a str,
}

impl<'a> Asked<'a> {
    /// Takes a text apart.
    pub(super) fn read(text: &'a str) -> Result<Self, RequestError> {
        let (method, target) = match text.split_once(' ') {
            Some((method, target)) => (Some(method), target.trim()),
            None => (None, text),
        };
        let read = |text: &str| {
            Method::parse(text).ok_or_else(|| RequestError::Method {
                method: text.to_owned(),
            })
        };
        let method = method.map(read).transpose()?;
        let (scheme, rest) = target.split_once("://").unwrap_or(("", target));
        let default = match scheme {
            "http" | "ws" => Port::HTTP,
            "" | "https" | "wss" | "udp" => Port::HTTPS,
            other => {
                return Err(RequestError::Scheme {
                    scheme: other.to_owned(),
                });
            }
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let datagram = scheme == "udp";
        if datagram
            && !authority
                .rsplit(']')
                .next()
                .unwrap_or_default()
                .contains(':')
        {
            return Err(RequestError::Port {
                port: String::new(),
            });
        }
        let (host, port) = parse_authority(authority, default)?;
        Ok(Self {
            scheme,
            method,
            host,
            port,
            rest: path,
        })
    }

    /// What a client asks of the gate first.
    pub(super) fn at_the_door(&self) -> EgressRequest {
        if self.scheme == "http" {
            return self.in_sight(Transport::Forward);
        }
        EgressRequest {
            transport: if self.scheme == "udp" {
                Transport::Socks5Udp
            } else {
                Transport::Connect
            },
            host: self.host.clone(),
            port: self.port,
            method: None,
            path: None,
            websocket: false,
        }
    }

    /// The request with its method and path, where the gate sees them.
    pub(super) fn in_sight(&self, transport: Transport) -> EgressRequest {
        let get = || Method("GET".to_owned());
        EgressRequest {
            transport,
            host: self.host.clone(),
            port: self.port,
            method: Some(self.method.clone().unwrap_or_else(get)),
            path: Some(path_of(self.rest)),
            websocket: self.scheme == "wss",
        }
    }
}

/// `host`, `host:port`, `[v6]`, `[v6]:port`; a bare IPv6 address is taken as one without port.
fn parse_authority(text: &str, default: Port) -> Result<(Host, Port), RequestError> {
    if let Ok(host @ Host::Addr(_)) = Host::parse(text) {
        return Ok((host, default));
    }
    match text.rsplit_once(':').filter(|_| !text.ends_with(']')) {
        None => Ok((Host::parse_bracketed(text)?, default)),
        Some((host, port)) => {
            let host = Host::parse_bracketed(host)?;
            let bad = || RequestError::Port {
                port: port.to_owned(),
            };
            Ok((host, Port::parse(port).ok_or_else(bad)?))
        }
    }
}

/// The path of what follows the authority, without query and fragment.
fn path_of(rest: &str) -> String {
    let path = rest.split(['?', '#']).next().unwrap_or_default();
    if path.is_empty() {
        "/".to_owned()
    } else {
        path.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forward(method: &str, host: &str, port: u16, path: &str) -> EgressRequest {
        EgressRequest {
            transport: Transport::Forward,
            host: Host::parse(host).unwrap(),
            port: Port::new(port).unwrap(),
            method: Method::parse(method),
            path: Some(path.to_owned()),
            websocket: false,
        }
    }

    fn tunnel(host: &str, port: u16) -> EgressRequest {
        EgressRequest {
            transport: Transport::Connect,
            host: Host::parse(host).unwrap(),
            port: Port::new(port).unwrap(),
            method: None,
            path: None,
            websocket: false,
        }
    }

    #[test]
    fn a_question_becomes_the_request_that_a_client_would_make() {
        for (text, expected) in [
            ("a.test", tunnel("a.test", 443)),
            ("a.test:22", tunnel("a.test", 22)),
            ("https://a.test/x?y", tunnel("a.test", 443)),
            ("POST https://a.test:8443", tunnel("a.test", 8443)),
            ("wss://a.test/x", tunnel("a.test", 443)),
            ("ws://a.test/x", tunnel("a.test", 80)),
            ("::1", tunnel("::1", 443)),
            ("[::1]:22", tunnel("::1", 22)),
            ("https://[::1]/", tunnel("::1", 443)),
            ("http://A.test", forward("GET", "a.test", 80, "/")),
            ("http://a.test?q", forward("GET", "a.test", 80, "/")),
            (
                "PUT http://a.test:8080/x/y?z#w",
                forward("PUT", "a.test", 8080, "/x/y"),
            ),
        ] {
            assert_eq!(EgressRequest::parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn a_question_with_several_readings_is_refused() {
        for odd in [
            "",
            "ftp://a.test",
            "https://",
            "https://u@a.test",
            "http://a.test:80@b.test/",
            "a.test:0",
            "a.test:65536",
            "a.test:+1",
            "a.test:",
            "[a.test]:1",
            "get http://a.test",
            "http://a.test\\b.test/",
            "http://127.1/",
        ] {
            assert!(EgressRequest::parse(odd).is_err(), "{odd}");
        }
    }
}
