//! The answer: a value, never an `Err`. A denial is not an error.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::address::AddressClass;
use super::rule::RuleId;
use crate::ids::PolicyGeneration;

/// What happens to a request. The default is the safe one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Refused, with a [`DenyReason`].
    #[default]
    Deny,
    /// Whoever answers for the session is asked; without a yes it is refused.
    Ask,
    /// May go on to resolution and dialing.
    Allow,
}

/// What the gate does with a tunnel that is let through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Handling {
    /// TLS passes unopened, to the permitted name alone; on ports other than 443 anything else passes.
    #[default]
    Tunnel,
    /// TLS ends at the gate and every request in it is judged again.
    Inspect,
    /// A rule with `protocol = "tcp"`: bytes pass as they are.
    Tcp,
}

/// Why a request was refused. [`DenyReason::code`] is stable: agents, scripts and audits match on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DenyReason {
    /// `network.enabled = false`.
    NetworkDisabled,
    /// The profile would let it through; `requirements.toml` does not.
    ForbiddenByRequirements,
    /// No rule allows the host.
    HostNotAllowed,
    /// A rule denies the host; a deny wins over every allow.
    HostDenied,
    /// The host is allowed, this port is not.
    PortNotAllowed,
    /// The host is allowed, this method is not (a rule's list, or `mode = "limited"`).
    MethodNotAllowed,
    /// The host is allowed, this path is not.
    PathNotAllowed,
    /// `mode = "limited"` and a tunnel whose methods nobody can see.
    TunnelNotAllowed,
    /// The address, or every address the name resolved to, is in a refused class.
    AddressRefused(AddressClass),
    /// The request could not be read as exactly one destination.
    Malformed,
    /// The TLS server name differs from the host that was asked for.
    SniMismatch,
    /// Port 443, but what followed was not a TLS `ClientHello`.
    NotTls,
    /// The name does not resolve.
    ResolveFailed,
    /// No address answered.
    DialFailed,
    /// The audit writer did not take the record: no record, no traffic.
    AuditUnavailable,
    /// The session's limit of connections is reached.
    TooManyConnections,
    /// The peer took longer than the gate waits.
    TimedOut,
    /// A WebSocket, which writes both ways, where the policy lets none be opened.
    WebsocketNotAllowed,
    /// The origin's certificate does not verify.
    CertificateRefused,
    /// The client does not take the session CA's certificate, or its TLS is not understood.
    ClientTlsFailed,
    /// Encrypted ClientHello (RFC 9849), whose inner name nobody can see.
    EncryptedHello,
    /// A credential's placeholder where its value does not belong.
    CredentialMisplaced,
    /// A credential's value could not be put in.
    CredentialUnavailable,
    /// A budget of the session is used up.
    BudgetExhausted,
    /// Whoever was asked said no, or nothing in time.
    NotApproved,
    /// The upstream proxy refused or failed.
    UpstreamProxyFailed,
}

impl DenyReason {
    /// The stable word for scripts, agents and the audit log.
    pub fn code(self) -> &'static str {
        match self {
            Self::NetworkDisabled => "network_disabled",
            Self::ForbiddenByRequirements => "forbidden_by_requirements",
            Self::HostNotAllowed => "host_not_allowed",
            Self::HostDenied => "host_denied",
            Self::PortNotAllowed => "port_not_allowed",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::PathNotAllowed => "path_not_allowed",
            Self::TunnelNotAllowed => "tunnel_not_allowed",
            Self::AddressRefused(_) => "address_refused",
            Self::Malformed => "malformed",
            Self::SniMismatch => "sni_mismatch",
            Self::NotTls => "not_tls",
            Self::ResolveFailed => "resolve_failed",
            Self::DialFailed => "dial_failed",
            Self::AuditUnavailable => "audit_unavailable",
            Self::TooManyConnections => "too_many_connections",
            Self::TimedOut => "timed_out",
            Self::WebsocketNotAllowed => "websocket_not_allowed",
            Self::CertificateRefused => "certificate_refused",
            Self::ClientTlsFailed => "client_tls_failed",
            Self::EncryptedHello => "encrypted_hello",
            Self::CredentialMisplaced => "credential_misplaced",
            Self::CredentialUnavailable => "credential_unavailable",
            Self::BudgetExhausted => "budget_exhausted",
            Self::NotApproved => "not_approved",
            Self::UpstreamProxyFailed => "upstream_proxy_failed",
        }
    }

    /// What it means, for people.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::NetworkDisabled => "the profile switches the network off",
            Self::ForbiddenByRequirements => {
                "the profile would let it through, the requirements of this host's admin do not"
            }
            Self::HostNotAllowed => "no rule allows the host",
            Self::HostDenied => "a rule denies the host, and a deny wins over every allow",
            Self::PortNotAllowed => "the host is allowed, this port is not",
            Self::MethodNotAllowed => "the host is allowed, this method is not",
            Self::PathNotAllowed => "the host is allowed, this path is not",
            Self::TunnelNotAllowed => {
                "methods or paths are restricted, and nobody can see them in a tunnel"
            }
            Self::AddressRefused(_) => "the address is in a class that is refused",
            Self::Malformed => "the request does not name exactly one destination",
            Self::SniMismatch => "the TLS server name is not the host that was asked for",
            Self::NotTls => {
                "only TLS may be spoken on port 443, and only TLS or HTTP in a tunnel that is inspected"
            }
            Self::ResolveFailed => "the name does not resolve",
            Self::DialFailed => "no address answers",
            Self::AuditUnavailable => "the audit log cannot be written: no record, no traffic",
            Self::TooManyConnections => "the session has as many connections as it may",
            Self::TimedOut => "the peer took longer than the gate waits",
            Self::WebsocketNotAllowed => {
                "WebSockets write both ways, and the policy lets none be opened"
            }
            Self::CertificateRefused => "the origin's certificate does not verify",
            Self::ClientTlsFailed => "the client's TLS failed: it may not trust the session's CA",
            Self::EncryptedHello => {
                "the ClientHello is encrypted, so its server name cannot be seen"
            }
            Self::CredentialMisplaced => {
                "a credential's placeholder stands where its value does not belong"
            }
            Self::CredentialUnavailable => "a credential's value could not be put in",
            Self::BudgetExhausted => "a budget of the session is used up",
            Self::NotApproved => "nobody approved it",
            Self::UpstreamProxyFailed => "the upstream proxy refused or failed",
        }
    }
}

impl fmt::Display for DenyReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())?;
        if let Self::AddressRefused(class) = self {
            write!(f, " ({class})")
        } else {
            Ok(())
        }
    }
}

/// What [`super::decide`] answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Allow, ask or deny.
    pub verdict: Verdict,
    /// What to do with a tunnel, should it be let through.
    pub handling: Handling,
    /// Set exactly when the verdict is deny.
    pub reason: Option<DenyReason>,
    /// The rule that decided, if one did.
    pub rule: Option<RuleId>,
    /// Whether the rule that decided speaks of methods or paths.
    pub specific: bool,
    /// The policy that decided.
    pub generation: PolicyGeneration,
}
