//! What would let a denied request through: the flag and the line of the profile.
//!
//! The text goes to operators and, as a hint, to the agent in the jail: it is made of canonical parts
//! of the request alone and tells nothing of the policy.

use std::net::IpAddr;

use super::address::AddressClass;
use super::decision::DenyReason;
use super::host::Host;
use super::request::{EgressRequest, Port, Transport};

/// The remedy for a denial; `None` where nothing should let it through, or nothing of the policy would.
/// A denial by a deny rule has none: the rule itself, in the decision, is what there is to tell.
pub fn remedy(request: &EgressRequest, reason: DenyReason) -> Option<String> {
    match reason {
        DenyReason::NetworkDisabled => Some("[network] enabled = true".to_owned()),
        DenyReason::HostNotAllowed | DenyReason::PortNotAllowed => Some(allow(request)),
        // An ask wins over every allow, so a further allow would not help where a rule asks.
        DenyReason::NotApproved => Some(
            "a yes when it is asked (--ask terminal, or portcullis approvals), or in the profile \"allow\" \
             instead of \"ask\""
                .to_owned(),
        ),
        DenyReason::MethodNotAllowed => {
            let method = request.method.as_ref();
            let method =
                method.map_or_else(|| "the method".to_owned(), |m| format!("{:?}", m.as_str()));
            Some(format!(
                "[network] mode = \"full\" if it is \"limited\", else {method} in the rule's methods"
            ))
        }
        DenyReason::PathNotAllowed => {
            Some("the path in the rule's paths, in the normal form of RFC 3986".to_owned())
        }
        DenyReason::TunnelNotAllowed => Some(format!(
            "[network.tls] \"{}\" = \"inspect\", so that the gate sees the requests inside; else \
             [network] unconfined_tunnels = true if mode is \"limited\", or a rule without methods and \
             paths",
            request.host
        )),
        DenyReason::AddressRefused(class) => exception(&request.host, class),
        DenyReason::TooManyConnections => Some("a higher network.limits.connections".to_owned()),
        DenyReason::WebsocketNotAllowed => {
            Some("[network] mode = \"full\" and websocket = \"allow\"".to_owned())
        }
        DenyReason::CertificateRefused => Some(
            "the issuer's certificate in [network] extra_ca, if the origin is yours".to_owned(),
        ),
        DenyReason::ClientTlsFailed => Some(format!(
            "[network.tls] \"{}\" = \"tunnel\", if the client pins certificates",
            request.host
        )),
        DenyReason::BudgetExhausted => Some("a higher budget in [network.budgets]".to_owned()),
        DenyReason::ForbiddenByRequirements
        | DenyReason::EncryptedHello
        | DenyReason::CredentialMisplaced
        | DenyReason::CredentialUnavailable
        | DenyReason::UpstreamProxyFailed
        | DenyReason::HostDenied
        | DenyReason::Malformed
        | DenyReason::SniMismatch
        | DenyReason::NotTls
        | DenyReason::ResolveFailed
        | DenyReason::DialFailed
        | DenyReason::AuditUnavailable
        | DenyReason::TimedOut => None,
    }
}

/// The flag and the profile line that allow a destination.
fn allow(request: &EgressRequest) -> String {
    let (host, port) = (&request.host, request.port);
    if request.transport == Transport::Socks5Udp {
        return format!(
            "in the profile [network] enable_socks5_udp = true and [[network.rules]] host = \"{host}\", ports = [{port}], protocol = \"udp\", action = \"allow\""
        );
    }
    let flag = match host {
        Host::Addr(IpAddr::V6(_)) => format!("--allow [{host}]:{port}"),
        Host::Addr(IpAddr::V4(_)) | Host::Name(_) => format!("--allow {host}:{port}"),
    };
    if port == Port::HTTP || port == Port::HTTPS {
        format!("{flag}, or in the profile [network.domains] \"{host}\" = \"allow\"")
    } else {
        format!(
            "{flag}, or in the profile [[network.rules]] host = \"{host}\", ports = [{port}], action = \"allow\""
        )
    }
}

/// The exception that lets an address be dialed. None is offered for metadata: who needs it has read
/// what that means.
fn exception(host: &Host, class: AddressClass) -> Option<String> {
    if class == AddressClass::Metadata {
        return None;
    }
    Some(match host {
        Host::Addr(address) => {
            let length = if address.is_ipv4() { 32 } else { 128 };
            format!("[network.addresses] allow = [\"{address}/{length}\"]")
        }
        Host::Name(name) => {
            format!("the network of {name} in [network.addresses] allow, as \"10.20.0.0/16\"")
        }
    })
}
