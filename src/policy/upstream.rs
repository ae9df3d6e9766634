//! The upstream proxy: the proxy that leads out where a network has no other way. Pure: whoever reads a
//! profile, an environment or a password file hands in text.
//!
//! A password is never shown, serialised with the policy or part of an error.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::host::{DomainName, Host, HostError, shown};
use super::request::Port;

/// The longest user name and the longest password (RFC 1929 section 2).
pub const MAX_LOGIN: usize = 255;

/// A password. Its text is wiped when it is dropped; its Debug form says nothing. It serialises, for
/// the one frame that carries it to the gate; no policy holds it in a field that does.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Password(Zeroizing<String>);

impl Password {
    /// A password with this text: 1 to [`MAX_LOGIN`] bytes without control characters.
    pub fn new(text: String) -> Result<Self, ProxyUrlError> {
        let text = Zeroizing::new(text);
        let usable = (1..=MAX_LOGIN).contains(&text.len()) && !text.chars().any(char::is_control);
        if usable {
            Ok(Self(text))
        } else {
            Err(ProxyUrlError::Login("the password"))
        }
    }

    /// The text, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Password {
    type Error = ProxyUrlError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(text)
    }
}

impl Serialize for Password {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.expose())
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// How a proxy is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProxyScheme {
    /// `http`: HTTP CONNECT (RFC 9110 section 9.3.6); plain requests in absolute-form (RFC 9112 section
    /// 3.2.2).
    Http,
    /// `https`: the same inside TLS, its certificate verified for the proxy's name or address.
    Https,
    /// `socks5` (RFC 1928); the gate resolves names unless `resolve` says otherwise.
    Socks5,
    /// `socks5h`: the same; the proxy resolves names.
    Socks5h,
}

impl fmt::Display for ProxyScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Socks5 => "socks5",
            Self::Socks5h => "socks5h",
        })
    }
}

/// Where a proxy is, and as whom it is used. Its text and its serialised form leave the password out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ProxyUrl {
    /// How it is spoken to.
    pub scheme: ProxyScheme,
    /// Where it is.
    pub host: Host,
    /// Its port.
    pub port: Port,
    /// As whom.
    pub user: Option<String>,
    /// With which password.
    pub password: Option<Password>,
}

impl ProxyUrl {
    /// Whether this is the same proxy, spoken to alike, as whomever.
    pub fn is_same(&self, other: &Self) -> bool {
        (self.scheme, &self.host, self.port) == (other.scheme, &other.host, other.port)
    }
}

/// Why a text is no proxy that can be used. No variant holds a user or a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProxyUrlError {
    /// None that is spoken.
    #[error(
        "{scheme} is no scheme of a proxy; accepted are http://, https://, socks5:// and socks5h://"
    )]
    Scheme {
        /// The scheme.
        scheme: String,
    },
    /// A path or a query, or a `/`, `?` or `#` in a password that is not written as %2F, %3F, %23.
    #[error(
        "a proxy is written as http://user@host:port, without a path; in a password write / ? # @ as \
         %2F %3F %23 %40"
    )]
    Path,
    /// User or password cannot be sent.
    #[error("{0} is not 1 to {MAX_LOGIN} bytes of UTF-8 without control characters")]
    Login(&'static str),
    /// RFC 7617 section 2: it would end where the password begins.
    #[error("a user name cannot have a colon in it")]
    Colon,
    /// The host.
    #[error(transparent)]
    Host(#[from] HostError),
    /// There is none, or it is no number. Clients differ in what they take then (80, 1080, 3128).
    #[error("the proxy's port is missing or no number; write it, as http://proxy.corp:3128")]
    Port,
}

impl ProxyUrl {
    /// Reads `[scheme://][user[:password]@]host:port[/]`; without a scheme it is an HTTP proxy.
    pub fn parse(text: &str) -> Result<Self, ProxyUrlError> {
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) => (read_scheme(scheme)?, rest),
            None => (ProxyScheme::Http, text),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#']) {
            return Err(ProxyUrlError::Path);
        }
        let (login, authority) = match rest.rsplit_once('@') {
            Some((login, authority)) => (Some(login), authority),
            None => (None, rest),
        };
        let (user, password) = login.map_or(Ok((None, None)), read_login)?;
        let (host, port) = authority.rsplit_once(':').ok_or(ProxyUrlError::Port)?;
        let port = Port::parse(port).ok_or(ProxyUrlError::Port)?;
        Ok(Self {
            scheme,
            host: Host::parse_bracketed(host)?,
            port,
            user,
            password,
        })
    }

    /// `host:port`, brackets round an IPv6 address: how records name the proxy.
    pub fn authority(&self) -> String {
        authority(&self.host, self.port)
    }
}

/// `host:port`, brackets round an IPv6 address (RFC 3986 section 3.2.2).
pub fn authority(host: &Host, port: Port) -> String {
    match host {
        Host::Addr(IpAddr::V6(address)) => format!("[{address}]:{port}"),
        Host::Addr(IpAddr::V4(_)) | Host::Name(_) => format!("{host}:{port}"),
    }
}

fn read_scheme(scheme: &str) -> Result<ProxyScheme, ProxyUrlError> {
    match scheme.to_ascii_lowercase().as_str() {
        "http" => Ok(ProxyScheme::Http),
        "https" => Ok(ProxyScheme::Https),
        "socks5" => Ok(ProxyScheme::Socks5),
        "socks5h" => Ok(ProxyScheme::Socks5h),
        other if other.bytes().all(|b| b.is_ascii_alphanumeric()) => Err(ProxyUrlError::Scheme {
            scheme: shown(other),
        }),
        // Whatever it is, a password may be in it.
        _ => Err(ProxyUrlError::Path),
    }
}

fn read_login(login: &str) -> Result<(Option<String>, Option<Password>), ProxyUrlError> {
    let (user, password) = match login.split_once(':') {
        Some((user, password)) => (user, Some(password)),
        None => (login, None),
    };
    let user = percent_decoded(user).ok_or(ProxyUrlError::Login("the user name"))?;
    if user.is_empty() || user.len() > MAX_LOGIN || user.chars().any(char::is_control) {
        return Err(ProxyUrlError::Login("the user name"));
    }
    if user.contains(':') {
        return Err(ProxyUrlError::Colon);
    }
    let password = password
        .filter(|text| !text.is_empty())
        .map(|text| {
            let text = percent_decoded(text).ok_or(ProxyUrlError::Login("the password"))?;
            Password::new(text)
        })
        .transpose()?;
    Ok((Some(user), password))
}

/// RFC 3986 section 2.1.
fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first == b'%' {
            let (digits, after) = after.split_first_chunk::<2>()?;
            let [high, low] = digits.map(|digit| char::from(digit).to_digit(16));
            bytes.push(u8::try_from(high? * 16 + low?).ok()?);
            rest = after;
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}

fn percent_encoded(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes()
        .map(|b| {
            if plain(b) {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        })
        .collect()
}

impl fmt::Display for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.scheme)?;
        if let Some(user) = &self.user {
            write!(f, "{}@", percent_encoded(user))?;
        }
        f.write_str(&self.authority())
    }
}

impl TryFrom<String> for ProxyUrl {
    type Error = ProxyUrlError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<ProxyUrl> for String {
    fn from(url: ProxyUrl) -> Self {
        url.to_string()
    }
}

/// Who finds the addresses of permitted names, where a proxy leads out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResolveNames {
    /// The proxy gets the name. The gate never sees the address that is dialed.
    Proxy,
    /// The gate asks its own name servers, checks the address as ever, and the proxy gets the address.
    Local,
}

/// What the profile says of an upstream proxy. Counts only where the profile allows one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamPolicy {
    /// The proxy; `None`: the one that the caller's environment names, if it names one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<ProxyUrl>,
    /// A file of the caller's with the password on its first line; absolute, or below `~/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// What is dialed directly, beside what the environment says.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub no_proxy: Vec<NoProxy>,
    /// Who resolves; `None`: the gate for `socks5://`, else the proxy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolve: Option<ResolveNames>,
}

/// One entry of a `NO_PROXY` list, as curl reads it: what is dialed directly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NoProxy {
    what: Exempt,
    port: Option<Port>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Exempt {
    /// `*`.
    All,
    /// `x` or `.x`: x and every name below it.
    AtOrBelow(DomainName),
    /// `*.x`: every name below x.
    Below(DomainName),
    /// An address or a range; matches address literals, for no name is resolved to find out.
    Net(IpNet),
}

/// Why a text is no entry of a `NO_PROXY` list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text} exempts nothing; accepted are \"*\", \"host.corp\" (and below), \"*.corp\", \"10.0.0.0/8\", \
     \"192.0.2.1\" and each with a port, as \"host.corp:8443\""
)]
pub struct NoProxyError {
    text: String,
}

impl NoProxy {
    /// Reads one entry.
    pub fn parse(text: &str) -> Result<Self, NoProxyError> {
        let error = || NoProxyError { text: shown(text) };
        let (what, port) = match text.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                (host, Some(Port::parse(port).ok_or_else(error)?))
            }
            _ => (text, None),
        };
        let inner = what.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
        let what = inner.unwrap_or(what);
        let name = |text| DomainName::parse(text).map_err(|_| error());
        let what = if what == "*" {
            Exempt::All
        } else if let Ok(net) = what.parse::<IpNet>() {
            Exempt::Net(net.trunc())
        } else if let Ok(address) = what.parse::<IpAddr>() {
            Exempt::Net(address.to_canonical().into())
        } else if let Some(below) = what.strip_prefix("*.") {
            Exempt::Below(name(below)?)
        } else {
            Exempt::AtOrBelow(name(what.strip_prefix('.').unwrap_or(what))?)
        };
        Ok(Self { what, port })
    }

    /// Whether a destination is dialed directly.
    pub fn matches(&self, host: &Host, port: Port) -> bool {
        let spoken_of = match (&self.what, host) {
            (Exempt::All, _) => true,
            (Exempt::Net(net), Host::Addr(address)) => net.contains(&address.to_canonical()),
            (Exempt::AtOrBelow(above), Host::Name(name)) => name == above || is_below(name, above),
            (Exempt::Below(above), Host::Name(name)) => is_below(name, above),
            (Exempt::Net(_), Host::Name(_))
            | (Exempt::AtOrBelow(_) | Exempt::Below(_), Host::Addr(_)) => false,
        };
        spoken_of && self.port.is_none_or(|only| only == port)
    }
}

fn is_below(name: &DomainName, above: &DomainName) -> bool {
    name.as_str()
        .strip_suffix(above.as_str())
        .is_some_and(|rest| rest.ends_with('.'))
}

impl fmt::Display for NoProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.what, self.port) {
            (Exempt::All, _) => f.write_str("*")?,
            (Exempt::AtOrBelow(name), _) => name.fmt(f)?,
            (Exempt::Below(name), _) => write!(f, "*.{name}")?,
            (Exempt::Net(IpNet::V6(net)), Some(_)) => write!(f, "[{net}]")?,
            (Exempt::Net(net), _) => net.fmt(f)?,
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

impl TryFrom<String> for NoProxy {
    type Error = NoProxyError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<NoProxy> for String {
    fn from(entry: NoProxy) -> Self {
        entry.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_reads_back_from_its_own_text_without_its_password() {
        for (text, again, password) in [
            ("http://proxy.corp:3128", "http://proxy.corp:3128", None),
            ("proxy:3128/", "http://proxy:3128", None),
            ("http://ada@10.0.0.1:8080", "http://ada@10.0.0.1:8080", None),
            (
                "SOCKS5://corp%5Cada:p%40ss%3a@[2001:DB8::1]:1080",
                "socks5://corp%5Cada@[2001:db8::1]:1080",
                Some("p@ss:"),
            ),
            ("socks5h://a:@localhost:9", "socks5h://a@localhost:9", None),
            (
                "HTTPS://a:p%40ss@proxy.corp:1/",
                "https://a@proxy.corp:1",
                Some("p@ss"),
            ),
        ] {
            let url = ProxyUrl::parse(text).unwrap();
            assert_eq!(url.password.as_ref().map(Password::expose), password);
            assert_eq!(url.to_string(), again);
            let bare = ProxyUrl {
                password: None,
                ..url.clone()
            };
            assert_eq!(ProxyUrl::parse(again), Ok(bare));
            assert!(!format!("{url:?}").contains("p@ss"), "{url:?}");
        }
    }

    #[test]
    fn what_is_no_proxy_is_refused_without_showing_what_may_be_a_password() {
        for (text, cure) in [
            ("ftp://proxy.corp:3128", "scheme"),
            ("https://proxy.corp", "port"),
            ("https://u:sec/ret@proxy.corp:1", "without a path"),
            ("http://proxy.corp", "port"),
            ("http://proxy.corp:0", "port"),
            ("http://proxy.corp:http", "port"),
            ("http://proxy.corp:3128/path", "without a path"),
            ("http://u:sec/ret@proxy.corp:1", "without a path"),
            ("u:sec?ret://proxy.corp:1", "without a path"),
            ("http://:secret@proxy.corp:1", "user name"),
            ("http://u:sec%0aret@proxy.corp:1", "password"),
            ("http://u:sec%zzret@proxy.corp:1", "password"),
            ("http://a%3ab:secret@proxy.corp:1", "colon"),
            ("http://2130706433:1", "ends in a number"),
            ("http://[proxy]:1", "brackets"),
        ] {
            let message = ProxyUrl::parse(text).unwrap_err().to_string();
            assert!(message.contains(cure), "{text}: {message}");
            assert!(!message.contains("ret"), "{message}");
        }
    }

    fn exempt(entry: &str, host: &str, port: u16) -> bool {
        NoProxy::parse(entry)
            .unwrap()
            .matches(&Host::parse(host).unwrap(), Port::new(port).unwrap())
    }

    #[test]
    fn exemptions_match_as_curls_do() {
        for (entry, host, port) in [
            ("*", "a.test", 1),
            ("*", "192.0.2.1", 1),
            ("a.test", "a.test", 1),
            ("A.test.", "b.a.test", 1),
            (".a.test", "a.test", 1),
            ("*.a.test", "b.a.test", 1),
            ("a.test:8443", "a.test", 8443),
            ("10.0.0.0/8", "10.1.2.3", 1),
            ("10.1.2.3", "10.1.2.3", 1),
            ("fd00::/8", "fd12::1", 1),
            ("[::1]:80", "::1", 80),
        ] {
            assert!(exempt(entry, host, port), "{entry} {host}:{port}");
        }
        for (entry, host, port) in [
            ("a.test", "ba.test", 1),
            ("*.a.test", "a.test", 1),
            ("a.test:8443", "a.test", 443),
            ("10.0.0.0/8", "11.1.2.3", 1),
            ("10.0.0.0/8", "a.test", 1),
            ("[::1]:80", "::1", 81),
        ] {
            assert!(!exempt(entry, host, port), "{entry} {host}:{port}");
        }
        for odd in ["", "a b", "a.test:x", "*a.test", "http://a.test", "[::1"] {
            assert!(NoProxy::parse(odd).is_err(), "{odd}");
        }
    }
}
