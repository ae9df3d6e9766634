//! One line of policy: a matcher and its effect.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::host::{DomainName, Host, HostError, shown};
use super::path::PathPattern;
use super::request::{Method, Port};

/// Which hosts a rule speaks of. Semantics as Codex's own network policy has them; no wildcard allows
/// an address literal or a single-label name. An address literal speaks of requests that name it, not of
/// names that resolve to it: what may be dialed is the address policy's.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum HostPattern {
    /// This name or address literal, nothing else.
    Exact(Host),
    /// `*.x`: every name below x, at any depth, not x itself.
    Below(DomainName),
    /// `**.x`: x and every name below it.
    AtOrBelow(DomainName),
    /// `*`: every name (never an address literal). Only for allow.
    Any,
}

/// Why a text is no host pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// A URL, or at least a path.
    #[error("{pattern} is a URL; write the host alone, as \"api.example.com\"")]
    Url {
        /// The text.
        pattern: String,
    },
    /// A port after the host.
    #[error(
        "{pattern} has a port; write the host alone and the port in `ports` of a [[network.rules]] entry"
    )]
    Port {
        /// The text.
        pattern: String,
    },
    /// A star somewhere else than in front.
    #[error(
        "{pattern} has a wildcard inside a label; accepted are \"x.com\", \"*.x.com\" (below x.com), \
         \"**.x.com\" (x.com and below) and \"*\""
    )]
    Wildcard {
        /// The text.
        pattern: String,
    },
    /// A wildcard over a suffix under which anybody can register names.
    #[error(
        "{pattern} covers a public suffix, under which anybody can have a name; list the hosts you mean"
    )]
    PublicSuffix {
        /// The text.
        pattern: String,
    },
    /// The host itself is no host.
    #[error(transparent)]
    Host(#[from] HostError),
}

/// What a rule does with a request it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Let it through.
    Allow,
    /// Ask whoever answers for this session; wins over every allow.
    Ask,
    /// Refuse it; wins over every allow and every ask.
    Deny,
}

/// What is spoken at a destination that a rule allows.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// HTTP or TLS: the gate looks inside where `[network.tls]` says so, and screens what it does not
    /// open.
    #[default]
    Web,
    /// Bytes of any kind (ssh, a database): relayed as they are, never opened, on any port.
    Tcp,
    /// Datagrams, by SOCKS5. Such a rule speaks of nothing else, and no other allows them.
    Udp,
}

/// Names a rule in audit records and refusals: where it was written, as `network.domains."*.x"`,
/// `network.rules[2]`, `--allow x` or `registries.npm`; a rule that came with `extends` names its
/// profile first, as `base: network.rules[0]`. Cheap to clone: every decision carries one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(from = "String")]
pub struct RuleId(Arc<str>);

/// One line of policy, valid by construction.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Where it was written.
    pub id: RuleId,
    /// The hosts it speaks of.
    pub host: HostPattern,
    /// The ports it speaks of. Empty: an allow covers 80 and 443, a deny covers every port.
    pub ports: Vec<Port>,
    /// The methods it speaks of; empty: every method.
    pub methods: Vec<Method>,
    /// The paths it speaks of; empty: every path.
    pub paths: Vec<PathPattern>,
    /// What an allow or an ask lets be spoken; [`Protocol::Web`] for a deny, which covers everything.
    pub protocol: Protocol,
    /// What it does.
    pub effect: Effect,
}

impl Rule {
    /// A rule about all ports that its effect covers, every method and every path.
    pub fn new(id: RuleId, host: HostPattern, effect: Effect) -> Self {
        Self {
            id,
            host,
            ports: Vec::new(),
            methods: Vec::new(),
            paths: Vec::new(),
            protocol: Protocol::Web,
            effect,
        }
    }

    /// Whether it speaks of some methods or paths alone.
    pub(super) fn is_restricted(&self) -> bool {
        !self.methods.is_empty() || !self.paths.is_empty()
    }

    /// The ports that an allow or an ask covers.
    pub(super) fn allowed_ports(&self) -> &[Port] {
        const WEB: [Port; 2] = [Port::HTTP, Port::HTTPS];
        if self.ports.is_empty() {
            &WEB
        } else {
            &self.ports
        }
    }
}

// === impl HostPattern ===

impl HostPattern {
    /// Reads a pattern.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let pattern = || shown(text);
        if text.contains('/') {
            return Err(PatternError::Url { pattern: pattern() });
        }
        if has_port(text) {
            return Err(PatternError::Port { pattern: pattern() });
        }
        let (kind, name): (fn(DomainName) -> Self, _) = match text {
            "*" => return Ok(Self::Any),
            _ if !text.contains('*') => return Ok(Self::Exact(Host::parse(text)?)),
            _ => match (text.strip_prefix("**."), text.strip_prefix("*.")) {
                (Some(name), _) => (Self::AtOrBelow, name),
                (None, Some(name)) => (Self::Below, name),
                (None, None) => return Err(PatternError::Wildcard { pattern: pattern() }),
            },
        };
        if name.contains('*') {
            return Err(PatternError::Wildcard { pattern: pattern() });
        }
        let name = DomainName::parse(name)?;
        if is_public_suffix(&name) {
            return Err(PatternError::PublicSuffix { pattern: pattern() });
        }
        Ok(kind(name))
    }
}

impl HostPattern {
    /// Whether it speaks of every host that the other pattern speaks of.
    pub fn contains(&self, other: &Self) -> bool {
        match (self, other) {
            (_, Self::Exact(host)) => self.covers(host),
            (Self::Any, _) => true,
            (_, Self::Any) | (Self::Exact(_), Self::Below(_) | Self::AtOrBelow(_)) => false,
            // `*.x` holds what `*.x` and, where y is below x, what `**.y` speak of.
            (Self::Below(own) | Self::AtOrBelow(own), Self::Below(name)) => {
                own == name || self.covers(&Host::Name(name.clone()))
            }
            (Self::Below(_) | Self::AtOrBelow(_), Self::AtOrBelow(name)) => {
                self.covers(&Host::Name(name.clone()))
            }
        }
    }

    /// Whether it speaks of this host; [`HostPattern::Any`] of every name.
    pub fn covers(&self, host: &Host) -> bool {
        let below = |parent: &DomainName, name: &DomainName| {
            let rest = name.as_str().strip_suffix(parent.as_str());
            rest.is_some_and(|rest| rest.ends_with('.'))
        };
        match (self, host) {
            (Self::Exact(own), _) => own == host,
            (Self::Any, Host::Name(_)) => true,
            (Self::Below(parent), Host::Name(name)) => below(parent, name),
            (Self::AtOrBelow(parent), Host::Name(name)) => parent == name || below(parent, name),
            (Self::Any | Self::Below(_) | Self::AtOrBelow(_), Host::Addr(_)) => false,
        }
    }
}

/// `host:443` or `[::1]:443`, but not a bare IPv6 address.
fn has_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    digits && (bracketed || !host.contains(':'))
}

/// Whether anybody can register names directly below this one, by the Public Suffix List, or every
/// name below it is such a suffix (`ck`). A top-level domain that the list does not know (`internal`,
/// `test`) is private and no such suffix.
fn is_public_suffix(name: &DomainName) -> bool {
    let is_suffix = |name: &str| {
        psl::suffix(name.as_bytes())
            .is_some_and(|suffix| suffix.is_known() && suffix.as_bytes() == name.as_bytes())
    };
    is_suffix(name.as_str()) || is_suffix(&format!("any-name.{name}"))
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => host.fmt(f),
            Self::Below(name) => write!(f, "*.{name}"),
            Self::AtOrBelow(name) => write!(f, "**.{name}"),
            Self::Any => f.write_str("*"),
        }
    }
}

impl TryFrom<String> for HostPattern {
    type Error = PatternError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<HostPattern> for String {
    fn from(pattern: HostPattern) -> Self {
        pattern.to_string()
    }
}

// === impl RuleId ===

impl RuleId {
    /// An identifier with this text.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for RuleId {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl Serialize for RuleId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_reads_back_from_its_own_text() {
        for (text, shown) in [
            ("API.example.com.", "api.example.com"),
            ("*.Example.com", "*.example.com"),
            ("**.example.co.uk", "**.example.co.uk"),
            ("*", "*"),
            ("2001:DB8::1", "2001:db8::1"),
            ("192.0.2.1", "192.0.2.1"),
            ("*.corp.internal", "*.corp.internal"),
            ("**.test", "**.test"),
            ("localhost", "localhost"),
        ] {
            let pattern = HostPattern::parse(text).unwrap();
            assert_eq!(pattern.to_string(), shown);
            assert_eq!(HostPattern::parse(shown), Ok(pattern));
        }
    }

    #[test]
    fn a_pattern_that_means_more_or_less_than_it_says_is_refused_with_the_cure() {
        for (text, cure) in [
            ("", "empty"),
            ("https://api.example.com", "is a URL"),
            ("api.example.com/v1", "is a URL"),
            ("api.example.com:443", "`ports`"),
            ("*.example.com:443", "`ports`"),
            ("[::1]:443", "`ports`"),
            ("[::1]", "brackets"),
            ("*.com", "public suffix"),
            ("**.co.uk", "public suffix"),
            ("*.github.io", "public suffix"),
            ("*.ck", "public suffix"),
            ("*.foo.ck", "public suffix"),
            ("region*.example.com", "inside a label"),
            ("*example.com", "inside a label"),
            ("a.*.com", "inside a label"),
            ("***.example.com", "inside a label"),
            ("*.*.example.com", "inside a label"),
            ("**", "inside a label"),
            ("*.", "empty"),
            ("*.127.0.0.1", "ends in a number"),
            ("127.0.0.*", "inside a label"),
        ] {
            let message = HostPattern::parse(text).unwrap_err().to_string();
            assert!(message.contains(cure), "{text}: {message}");
        }
    }
}
