//! What a refused client is told: a status, a code, the rule and a hint, never why the gate thinks
//! what it thinks nor anything of the host it runs on.

use hyper::body::Bytes;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;

use crate::policy::DenyReason;

use super::authorize::Refusal;
use super::body::GateBody;

/// The stable code, for programs.
const DENIED: HeaderName = HeaderName::from_static("x-portcullis-denied");

/// What Codex looks for to tell a block from an outage (its own network proxy sets it).
const PROXY_ERROR: HeaderName = HeaderName::from_static("x-proxy-error");

/// The detail of a refusal whose status is 426: Codex then goes on over plain HTTP at once.
pub(super) const UPGRADE_REQUIRED: &str = "upgrade_required";

/// Whether the client may go on using the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// The next request is welcome.
    KeepAlive,
    /// This was the last.
    Close,
}

/// The refusal as an HTTP response.
pub(super) fn refuse(refusal: &Refusal, after: After) -> Response<GateBody> {
    let mut response = Response::new(GateBody::full(Bytes::from(body(refusal))));
    *response.status_mut() = if refusal.detail == Some(UPGRADE_REQUIRED) {
        StatusCode::UPGRADE_REQUIRED
    } else {
        status(refusal.reason)
    };
    let headers = response.headers_mut();
    let json = HeaderValue::from_static("application/json");
    headers.insert(CONTENT_TYPE, json);
    headers.insert(DENIED, HeaderValue::from_static(refusal.reason.code()));
    let kind = HeaderValue::from_static(proxy_error(refusal.reason));
    headers.insert(PROXY_ERROR, kind);
    if after == After::Close {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// The refusal as the bytes of a last response, for a connection that hyper does not serve.
pub(super) fn refuse_raw(refusal: &Refusal, status: StatusCode) -> Vec<u8> {
    let body = body(refusal);
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{DENIED}: {}\r\n{PROXY_ERROR}: {}\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n",
        refusal.reason.code(),
        proxy_error(refusal.reason),
        body.len(),
    );
    [head.into_bytes(), body].concat()
}

/// The reply code of RFC 1928 section 6.
pub(super) fn socks5_reply(reason: DenyReason) -> u8 {
    match reason {
        DenyReason::NetworkDisabled
        | DenyReason::HostNotAllowed
        | DenyReason::HostDenied
        | DenyReason::ForbiddenByRequirements
        | DenyReason::PortNotAllowed
        | DenyReason::MethodNotAllowed
        | DenyReason::PathNotAllowed
        | DenyReason::TunnelNotAllowed
        | DenyReason::AddressRefused(_)
        | DenyReason::Malformed
        | DenyReason::SniMismatch
        | DenyReason::NotTls
        | DenyReason::WebsocketNotAllowed
        | DenyReason::EncryptedHello
        | DenyReason::CredentialMisplaced
        | DenyReason::BudgetExhausted
        | DenyReason::NotApproved => 2,
        DenyReason::ResolveFailed | DenyReason::TimedOut => 4,
        DenyReason::DialFailed => 5,
        DenyReason::AuditUnavailable
        | DenyReason::TooManyConnections
        | DenyReason::CertificateRefused
        | DenyReason::ClientTlsFailed
        | DenyReason::CredentialUnavailable
        | DenyReason::UpstreamProxyFailed => 1,
    }
}

/// The HTTP status of a refusal.
pub(super) fn status(reason: DenyReason) -> StatusCode {
    match reason {
        DenyReason::Malformed => StatusCode::BAD_REQUEST,
        DenyReason::ResolveFailed
        | DenyReason::DialFailed
        | DenyReason::CertificateRefused
        | DenyReason::CredentialUnavailable
        | DenyReason::UpstreamProxyFailed => StatusCode::BAD_GATEWAY,
        DenyReason::AuditUnavailable | DenyReason::TooManyConnections => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        DenyReason::TimedOut => StatusCode::GATEWAY_TIMEOUT,
        // In HTTP it comes of a request within TLS for another host than TLS was for.
        DenyReason::SniMismatch => StatusCode::MISDIRECTED_REQUEST,
        DenyReason::NetworkDisabled
        | DenyReason::HostNotAllowed
        | DenyReason::HostDenied
        | DenyReason::ForbiddenByRequirements
        | DenyReason::PortNotAllowed
        | DenyReason::MethodNotAllowed
        | DenyReason::PathNotAllowed
        | DenyReason::TunnelNotAllowed
        | DenyReason::AddressRefused(_)
        | DenyReason::NotTls
        | DenyReason::WebsocketNotAllowed
        | DenyReason::ClientTlsFailed
        | DenyReason::EncryptedHello
        | DenyReason::CredentialMisplaced
        | DenyReason::NotApproved => StatusCode::FORBIDDEN,
        DenyReason::BudgetExhausted => StatusCode::TOO_MANY_REQUESTS,
    }
}

fn proxy_error(reason: DenyReason) -> &'static str {
    match reason {
        DenyReason::HostNotAllowed
        | DenyReason::PortNotAllowed
        | DenyReason::AddressRefused(_)
        | DenyReason::NetworkDisabled => "blocked-by-allowlist",
        DenyReason::HostDenied | DenyReason::ForbiddenByRequirements => "blocked-by-denylist",
        DenyReason::MethodNotAllowed
        | DenyReason::PathNotAllowed
        | DenyReason::WebsocketNotAllowed
        | DenyReason::TunnelNotAllowed => "blocked-by-method-policy",
        DenyReason::Malformed
        | DenyReason::SniMismatch
        | DenyReason::NotTls
        | DenyReason::ResolveFailed
        | DenyReason::DialFailed
        | DenyReason::AuditUnavailable
        | DenyReason::TooManyConnections
        | DenyReason::CertificateRefused
        | DenyReason::ClientTlsFailed
        | DenyReason::EncryptedHello
        | DenyReason::CredentialMisplaced
        | DenyReason::CredentialUnavailable
        | DenyReason::BudgetExhausted
        | DenyReason::NotApproved
        | DenyReason::UpstreamProxyFailed
        | DenyReason::TimedOut => "blocked-by-policy",
    }
}

#[derive(Serialize)]
struct Body {
    error: &'static str,
    code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<String>,
    hint: &'static str,
}

fn body(refusal: &Refusal) -> Vec<u8> {
    let body = Body {
        error: "denied",
        code: refusal.reason.code(),
        detail: refusal.detail,
        host: refusal.host.as_ref().map(ToString::to_string),
        port: refusal.port.map(crate::policy::Port::number),
        rule: refusal.rule.as_ref().map(ToString::to_string),
        hint: hint(refusal.reason),
    };
    // Strings and numbers always serialise; an empty body would still carry the headers.
    serde_json::to_vec(&body).unwrap_or_default()
}

/// For an agent: what it means and whether to try again.
fn hint(reason: DenyReason) -> &'static str {
    match reason {
        DenyReason::NetworkDisabled => {
            "This session has no network. Ask the operator; do not retry."
        }
        DenyReason::HostNotAllowed => {
            "Not on this session's list of allowed hosts. Ask the operator; do not retry."
        }
        DenyReason::ForbiddenByRequirements => {
            "The admin of this machine does not permit it to any session. Do not retry."
        }
        DenyReason::HostDenied => {
            "This host is denied to this session. Ask the operator; do not retry."
        }
        DenyReason::PortNotAllowed => {
            "The host is allowed, this port is not. Ask the operator; do not retry."
        }
        DenyReason::MethodNotAllowed => {
            "The host is allowed, this method is not. Ask the operator; do not retry."
        }
        DenyReason::PathNotAllowed => {
            "The host is allowed, this path is not. Ask the operator; do not retry."
        }
        DenyReason::TunnelNotAllowed => {
            "This session may only read, and a tunnel cannot be seen into. Do not retry."
        }
        DenyReason::AddressRefused(_) => {
            "The name leads to an address that sessions may not reach. Do not retry."
        }
        DenyReason::Malformed => "The request does not name exactly one destination. Do not retry.",
        DenyReason::SniMismatch => {
            "TLS asks for another host than the one permitted. Do not retry."
        }
        DenyReason::NotTls => {
            "Only TLS may be spoken on port 443, elsewhere TLS or HTTP. Do not retry."
        }
        DenyReason::ResolveFailed => "The name does not resolve. Check the spelling.",
        DenyReason::DialFailed => "The host is allowed but did not answer. It may be down.",
        DenyReason::AuditUnavailable => {
            "The audit log cannot be written, so nothing may leave. Tell the operator."
        }
        DenyReason::TooManyConnections => {
            "Too many connections at once in this session. Close some, then retry."
        }
        DenyReason::TimedOut => "Waited too long. It may be worth one more try.",
        DenyReason::WebsocketNotAllowed => {
            "No WebSocket may be opened here. Use plain HTTP requests, if the API has them."
        }
        DenyReason::CertificateRefused => {
            "The origin's certificate does not verify. Tell the operator; do not retry."
        }
        DenyReason::ClientTlsFailed => {
            "Trust the CA bundle that SSL_CERT_FILE names. A client that pins certificates: tell the operator."
        }
        DenyReason::EncryptedHello => "Switch Encrypted ClientHello off. Do not retry with it.",
        DenyReason::CredentialMisplaced => {
            "A placeholder of a credential may only be sent where the credential belongs. Do not retry."
        }
        DenyReason::CredentialUnavailable => {
            "The credential cannot be put in. Tell the operator; do not retry."
        }
        DenyReason::BudgetExhausted => {
            "This session has used up what it may. Ask the operator; do not retry."
        }
        DenyReason::NotApproved => "The operator was asked and did not agree. Do not retry.",
        DenyReason::UpstreamProxyFailed => {
            "The proxy that leads out refused or failed. Tell the operator."
        }
    }
}
