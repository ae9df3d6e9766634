//! Hosts: names and address literals, parsed strictly into one canonical form.
//!
//! Filters are bypassed where two parsers read one text differently, so a text is either exactly one
//! host here or an error: nothing is decoded, repaired or guessed.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// The longest name, without its trailing dot (RFC 1035 section 2.3.4).
const MAX_NAME: usize = 253;

/// The longest label (RFC 1035 section 2.3.4).
const MAX_LABEL: usize = 63;

/// A DNS name in canonical form: lower-case ASCII labels of letters, digits, `-` and `_`, 1 to 63
/// bytes each, at most 253 in all (RFC 1035 section 2.3.4), no hyphen at either end of a label (RFC
/// 952), no trailing dot, every `xn--` label valid (RFC 5891), the last label not numeric (so it can
/// never be read as an IPv4 address).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DomainName(String);

/// Where a request wants to go.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Host {
    /// A name, to be resolved after the decision.
    Name(DomainName),
    /// An address literal. An IPv4-mapped IPv6 address is the IPv4 address that it dials.
    Addr(IpAddr),
}

/// Why a text is not a host. The text itself is shown escaped and shortened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// Nothing, or nothing but a dot.
    #[error("the host is empty")]
    Empty,
    /// More than 253 bytes.
    #[error("host {host} has {length} bytes, a name has at most {MAX_NAME}")]
    NameTooLong {
        /// The text.
        host: String,
        /// Its length in bytes.
        length: usize,
    },
    /// Two dots in a row, or a leading one.
    #[error("host {host} has an empty label: two dots in a row, or one in front")]
    EmptyLabel {
        /// The text.
        host: String,
    },
    /// A label of more than 63 bytes.
    #[error("host {host} has a label of {length} bytes, a label has at most {MAX_LABEL}")]
    LabelTooLong {
        /// The text.
        host: String,
        /// The label's length in bytes.
        length: usize,
    },
    /// A label that begins or ends with a hyphen.
    #[error("host {host} has a label that begins or ends with a hyphen")]
    HyphenAtEdge {
        /// The text.
        host: String,
    },
    /// A character that no host name has: control, percent, `@`, slash, bracket, non-ASCII ….
    #[error(
        "host {host} contains {found:?}: a name has ASCII letters, digits, '-', '_' and dots \
         (write an international name in its xn-- form)"
    )]
    Character {
        /// The text.
        host: String,
        /// The first such character.
        found: char,
    },
    /// An `xn--` label that is not the canonical form of any international label.
    #[error("host {host} has an invalid or non-canonical international label {label}")]
    Punycode {
        /// The text.
        host: String,
        /// The label.
        label: String,
    },
    /// The last label is a number (decimal or `0x…`): some parsers read the whole as an IPv4 address.
    #[error(
        "host {host} ends in a number: an IPv4 address is four decimal numbers without leading \
         zeros or trailing dot, as 192.0.2.1"
    )]
    Numeric {
        /// The text.
        host: String,
    },
    /// A colon, but no IPv6 address; or brackets round something else.
    #[error(
        "host {host} is not an IPv6 address (zones as %eth0 are refused); a port does not belong to the host"
    )]
    Ipv6 {
        /// The text.
        host: String,
    },
    /// Brackets, where a host stands alone; or none, where they are needed.
    #[error("host {host}: brackets stand round an IPv6 address before a port, nowhere else")]
    Brackets {
        /// The text.
        host: String,
    },
}

/// The domain that somebody registered, at or above a name: one label below the public suffix, by the
/// Public Suffix List, whose default for what it does not know is one label. A name that is a suffix
/// itself is answered as it is.
pub fn registrable(name: &DomainName) -> &str {
    psl::domain_str(name.as_str()).unwrap_or(name.as_str())
}

impl Host {
    /// Reads a bare host: a name, a dotted-decimal IPv4 address, or an IPv6 address without brackets
    /// (RFC 4291 section 2.2) and without a zone.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        if text.starts_with('[') || text.ends_with(']') {
            return Err(HostError::Brackets { host: shown(text) });
        }
        if text.contains(':') {
            let bad = |_| HostError::Ipv6 { host: shown(text) };
            let address: Ipv6Addr = text.parse().map_err(bad)?;
            return Ok(Self::from(IpAddr::V6(address)));
        }
        if let Ok(address) = text.parse::<Ipv4Addr>() {
            return Ok(Self::Addr(IpAddr::V4(address)));
        }
        DomainName::parse(text).map(Self::Name)
    }

    /// Reads the host of an authority (RFC 3986 section 3.2.2): as [`Host::parse`], but an IPv6
    /// address, and nothing else, stands in brackets.
    pub fn parse_bracketed(text: &str) -> Result<Self, HostError> {
        let inner = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
        match inner {
            Some(inner) if inner.contains(':') => Self::parse(inner),
            Some(_) => Err(HostError::Brackets { host: shown(text) }),
            None if text.contains(':') => Err(HostError::Brackets { host: shown(text) }),
            None => Self::parse(text),
        }
    }
}

impl DomainName {
    /// Reads a name. One trailing dot is dropped, capitals become small.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.is_empty() {
            return Err(HostError::Empty);
        }
        if name.len() > MAX_NAME {
            return Err(HostError::NameTooLong {
                host: shown(text),
                length: name.len(),
            });
        }
        for label in name.split('.') {
            check_label(text, label)?;
        }
        if name.rsplit('.').next().is_some_and(is_number) {
            return Err(HostError::Numeric { host: shown(text) });
        }
        Ok(Self(name.to_ascii_lowercase()))
    }

    /// The name, without trailing dot.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is a single label, which a resolver may complete with a search domain.
    pub fn is_single_label(&self) -> bool {
        !self.0.contains('.')
    }
}

/// One label of `host`, by the rules in [`DomainName`].
fn check_label(host: &str, label: &str) -> Result<(), HostError> {
    if label.is_empty() {
        return Err(HostError::EmptyLabel { host: shown(host) });
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if let Some(found) = label.chars().find(|&c| !allowed(c)) {
        return Err(HostError::Character {
            host: shown(host),
            found,
        });
    }
    if label.len() > MAX_LABEL {
        return Err(HostError::LabelTooLong {
            host: shown(host),
            length: label.len(),
        });
    }
    if label.starts_with('-') || label.ends_with('-') {
        return Err(HostError::HyphenAtEdge { host: shown(host) });
    }
    let ace = label
        .get(..4)
        .is_some_and(|start| start.eq_ignore_ascii_case("xn--"));
    if ace && !is_canonical_ace(label) {
        return Err(HostError::Punycode {
            host: shown(host),
            label: shown(label),
        });
    }
    Ok(())
}

/// Whether an `xn--` label decodes to a valid international label and encodes back to itself.
fn is_canonical_ace(label: &str) -> bool {
    let (decoded, valid) = idna::domain_to_unicode(label);
    valid.is_ok()
        && !decoded.is_ascii()
        && idna::domain_to_ascii_strict(&decoded).is_ok_and(|encoded| encoded == label)
}

/// What the URL standard calls "ends in a number": decimal digits, or `0x` and hexadecimal digits.
/// inet_aton(3) reads such a last label as part of an IPv4 address.
fn is_number(label: &str) -> bool {
    let hexadecimal = label.strip_prefix("0x").or(label.strip_prefix("0X"));
    match hexadecimal {
        Some(digits) => digits.bytes().all(|b| b.is_ascii_hexdigit()),
        None => label.bytes().all(|b| b.is_ascii_digit()),
    }
}

/// A foreign text for a message: quoted, escaped, at most 64 characters of it.
pub(super) fn shown(text: &str) -> String {
    let mut start: String = text.chars().take(64).collect();
    if start.len() < text.len() {
        start.push('…');
    }
    format!("{start:?}")
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Addr(address) => address.fmt(f),
        }
    }
}

impl TryFrom<String> for DomainName {
    type Error = HostError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<DomainName> for String {
    fn from(name: DomainName) -> Self {
        name.0
    }
}

/// An address that came as bytes (SOCKS5 address types 1 and 4), in the form of [`Host::Addr`].
impl From<IpAddr> for Host {
    fn from(address: IpAddr) -> Self {
        Self::Addr(address.to_canonical())
    }
}

impl TryFrom<String> for Host {
    type Error = HostError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<Host> for String {
    fn from(host: Host) -> Self {
        host.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> String {
        Host::parse(text).unwrap().to_string()
    }

    #[test]
    fn every_spelling_of_a_name_has_one_form() {
        assert_eq!(canonical("API.OpenAI.com."), "api.openai.com");
        assert_eq!(canonical("_sip.a-b.example"), "_sip.a-b.example");
        assert_eq!(canonical("r3---sn-x.example"), "r3---sn-x.example");
        assert_eq!(canonical("xn--bcher-kva.example"), "xn--bcher-kva.example");
        assert_eq!(canonical("1.2.3.example"), "1.2.3.example");
        assert_eq!(canonical("localhost"), "localhost");
        assert_eq!(canonical("0xbeef.cafe"), "0xbeef.cafe");
    }

    #[test]
    fn only_canonical_address_literals_are_addresses() {
        assert_eq!(canonical("192.0.2.1"), "192.0.2.1");
        assert_eq!(canonical("2001:DB8:0::1"), "2001:db8::1");
        assert_eq!(canonical("::ffff:127.0.0.1"), "127.0.0.1");
        assert_eq!(canonical("::ffff:7f00:1"), "127.0.0.1");
        for odd in [
            "127.1",
            "2130706433",
            "0x7f.1",
            "0x7f000001",
            "0x",
            "017700000001",
            "010.0.0.1",
            "127.0.0.01",
            "127.0.0.1.",
            "256.0.0.1",
            "1.2.3.4.5",
            "1.2.3",
            "a.0x7F",
            "example.1",
        ] {
            assert!(
                matches!(Host::parse(odd), Err(HostError::Numeric { .. })),
                "{odd}: {:?}",
                Host::parse(odd)
            );
        }
    }

    #[test]
    fn what_two_parsers_could_read_differently_is_no_host() {
        for odd in [
            "",
            ".",
            "..",
            ".example.com",
            "a..b",
            "example.com..",
            "denied.test\0.allowed.test",
            "allowed.test\r\nx",
            "allowed.test\t",
            " allowed.test",
            "allowed.test ",
            "\u{7f}.test",
            "user@allowed.test",
            "allowed.test:80@denied.test",
            "allowed.test#denied.test",
            "allowed.test?x",
            "allowed.test/x",
            "allowed.test\\x",
            "%61llowed.test",
            "allowed%2etest",
            "[allowed.test]",
            "[127.0.0.1]",
            "[::1]",
            "fe80::1%eth0",
            "fe80::1%25eth0",
            "::1]",
            "1::2::3",
            "allowed.test:443",
            "allowed\u{3002}test",
            "allowed\u{ff0e}test",
            "\u{ff41}llowed.test",
            "bücher.example",
            "a*.test",
            "*.test",
            "-a.test",
            "a-.test",
        ] {
            assert!(Host::parse(odd).is_err(), "{odd:?}");
        }
    }

    #[test]
    fn an_international_label_must_be_canonical() {
        for odd in [
            "XN--bcher-kva.example",
            "xn--BCHER-kva.example",
            "xn--.example",
            "xn--a.example",
            "xn--abc-.example",
            "xn--99999999999.example",
            "a.Xn--bcher-kva",
        ] {
            assert!(
                matches!(
                    Host::parse(odd),
                    Err(HostError::Punycode { .. } | HostError::HyphenAtEdge { .. })
                ),
                "{odd}: {:?}",
                Host::parse(odd)
            );
        }
    }

    #[test]
    fn lengths_are_held_to_the_byte() {
        let label = "a".repeat(63);
        let longest = format!("{label}.{label}.{label}.{}", "b".repeat(61));
        assert_eq!(longest.len(), 253);
        assert_eq!(canonical(&format!("{longest}.")), longest);
        assert_eq!(
            Host::parse(&format!("{longest}b")),
            Err(HostError::NameTooLong {
                host: shown(&longest),
                length: 254
            })
        );
        assert!(matches!(
            Host::parse(&format!("{label}a.test")),
            Err(HostError::LabelTooLong { length: 64, .. })
        ));
        assert!(Host::parse(&"a.".repeat(100_000)).is_err());
    }

    #[test]
    fn brackets_stand_round_ipv6_in_an_authority_and_nowhere_else() {
        assert_eq!(Host::parse_bracketed("[::1]"), Host::parse("::1"));
        assert_eq!(Host::parse_bracketed("a.test"), Host::parse("a.test"));
        for odd in [
            "::1",
            "[a.test]",
            "[127.0.0.1]",
            "[[::1]]",
            "[::1",
            "[::1%lo]",
            "[]",
        ] {
            assert!(Host::parse_bracketed(odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn a_message_shows_foreign_text_escaped_and_short() {
        let message = Host::parse(&"\u{1b}[2J".repeat(50))
            .unwrap_err()
            .to_string();
        assert!(
            !message.contains('\u{1b}') && message.len() < 500,
            "{message}"
        );
    }
}
