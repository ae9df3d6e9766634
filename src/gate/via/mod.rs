//! Upstream proxies: which of them a permitted destination goes by, what the proxy is told, and what it
//! may answer. Opens no socket: [`super::dial`] does, and hands its stream in. A proxy of `https://` is told
//! nothing, a login least of all, before its certificate was verified for its name.
//!
//! What a proxy dials is out of sight. So the address guards hold before it is asked: an address is
//! judged by the policy as ever; a name is handed over only if it is none that leads to a refused
//! address wherever it is resolved. Nothing that a proxy says of a
//! tunnel reaches the jail; to a plain request its answer is the origin's, as far as anybody can tell.

mod absolute;
mod connect;
mod socks5_client;

use std::io;
use std::net::IpAddr;

use tokio::net::TcpStream;

use crate::policy::{
    AddressClass, DenyReason, DomainName, Host, NoProxy, Port, ProxyScheme, ResolveNames, Ruleset,
    Transport, class_of_name,
};
use crate::wire::gate::{ProxyAccess, UpstreamProxy};

use super::authorize::{Destination, Refusal};
use super::leg::Leg;
use super::origin_tls::{Offer, OriginTls, TlsFailure};
use super::resolve;
use super::state::Gate;

pub(super) use absolute::Forwarder;

/// The proxies of one gate; without any, everything is dialed directly.
#[derive(Debug, Default)]
pub(super) struct Via {
    plain: Option<ProxyAccess>,
    tunnels: Option<ProxyAccess>,
    no_proxy: Vec<NoProxy>,
}

impl Via {
    pub(super) fn new(upstream: Option<&UpstreamProxy>) -> Self {
        upstream.map_or_else(Self::default, |upstream| Self {
            plain: upstream.plain.clone(),
            tunnels: upstream.tunnels.clone(),
            no_proxy: upstream.no_proxy.clone(),
        })
    }

    /// The proxy for a destination; `None`: it is dialed directly. This host's own loopback, where the
    /// policy lets it be dialed at all, is never asked of a proxy: it would be the proxy's.
    pub(super) fn proxy_for(
        &self,
        rules: &Ruleset,
        destination: &Destination,
    ) -> Option<&ProxyAccess> {
        let (host, port) = (&destination.host, destination.port);
        let proxy = match destination.transport {
            Transport::Forward => self.plain.as_ref(),
            Transport::Connect
            | Transport::Socks5
            | Transport::Inspected
            | Transport::Transparent
            | Transport::Socks5Udp => self.tunnels.as_ref(),
        };
        let exempt = || self.no_proxy.iter().any(|entry| entry.matches(host, port));
        proxy.filter(|_| !exempt() && !is_own_loopback(rules, host))
    }

    /// Whether nothing is dialed directly.
    pub(super) fn takes_everything(&self, rules: &Ruleset) -> bool {
        let everywhere = self.plain.is_some() && self.tunnels.is_some();
        everywhere && self.no_proxy.is_empty() && rules.addresses().allow.is_empty()
    }

    /// Whether one of them is spoken to by TLS.
    pub(super) fn needs_tls(&self) -> bool {
        self.all()
            .any(|proxy| proxy.url.scheme == ProxyScheme::Https)
    }

    /// The proxies' own ports.
    pub(super) fn ports(&self) -> impl Iterator<Item = Port> {
        self.all().map(|proxy| proxy.url.port)
    }

    /// The proxies' own names.
    pub(super) fn names(&self) -> impl Iterator<Item = DomainName> {
        self.all().filter_map(|proxy| match &proxy.url.host {
            Host::Name(name) => Some(name.clone()),
            Host::Addr(_) => None,
        })
    }

    fn all(&self) -> impl Iterator<Item = &ProxyAccess> {
        self.plain.iter().chain(&self.tunnels)
    }
}

fn is_own_loopback(rules: &Ruleset, host: &Host) -> bool {
    match host {
        Host::Addr(address) => {
            address.to_canonical().is_loopback() && rules.addresses().check(*address).is_ok()
        }
        Host::Name(name) => {
            class_of_name(name) == Some(AddressClass::Loopback)
                && [
                    [127, 0, 0, 1].into(),
                    IpAddr::from(std::net::Ipv6Addr::LOCALHOST),
                ]
                .into_iter()
                .any(|address| rules.addresses().check(address).is_ok())
        }
    }
}

/// What the proxy is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    host: Host,
    port: Port,
}

/// Judges what can be judged before a proxy is asked, and resolves where the gate is to.
pub(super) async fn target(
    gate: &Gate,
    destination: &Destination,
    proxy: &ProxyAccess,
) -> Result<Target, Refusal> {
    let port = destination.port;
    if let (Host::Name(name), ResolveNames::Proxy) = (&destination.host, proxy.resolve) {
        if let Some(class) = class_of_name(name) {
            let detail = format!("{name} is {class} wherever it is resolved");
            return Err(destination.fail(gate, DenyReason::AddressRefused(class), detail));
        }
        if let Err(error) = gate.resolver.knows_whose(name) {
            return Err(destination.fail(gate, DenyReason::ResolveFailed, error.to_string()));
        }
        let host = destination.host.clone();
        return Ok(Target { host, port });
    }
    let pinned = resolve::pin(gate, destination).await?.into_vec();
    // One address is all that a proxy can be asked for, and IPv4 is what every proxy has.
    let address = pinned
        .iter()
        .find(|address| address.is_ipv4())
        .or(pinned.first());
    let Some(address) = address else {
        let detail = format!("{}: no address", destination.host);
        return Err(destination.fail(gate, DenyReason::ResolveFailed, detail));
    };
    Ok(Target {
        host: Host::Addr(address.ip()),
        port,
    })
}

/// Why a proxy is of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProxyError {
    /// An HTTP status other than 2xx.
    #[error("answered {status}{}", meaning(*.status))]
    Status {
        /// The status.
        status: u16,
    },
    /// A reply of RFC 1928 section 6 other than 0.
    #[error("answered {reply} ({})", socks5_client::meaning(*.reply))]
    Reply {
        /// The reply.
        reply: u8,
    },
    /// It wants a login, and there is none or it is wrong.
    #[error("{0}")]
    Login(&'static str),
    /// There is no TLS with it.
    #[error("{}: {}", what_failed(*.0), .0.word())]
    Tls(TlsFailure),
    /// What it sends is not an answer.
    #[error("the answer is not one: {0}")]
    Malformed(&'static str),
    /// It closed, or the connection broke.
    #[error("no answer: {0}")]
    Lost(#[from] io::Error),
}

fn what_failed(failure: TlsFailure) -> &'static str {
    match failure {
        TlsFailure::Certificate(_) => "its certificate is refused",
        TlsFailure::Handshake(_) => "the TLS handshake failed",
    }
}

fn meaning(status: u16) -> &'static str {
    match status {
        403 => " (it refuses the destination)",
        407 => " (it wants a login: network.upstream_proxy.url and password_file)",
        405 | 501 => " (it does not do CONNECT)",
        502..=504 => " (it cannot reach the destination)",
        _ => "",
    }
}

/// Speaks TLS with the proxy where its URL says so: HTTP/1.1 alone, a certificate for exactly its name.
/// There is no way from here to a proxy of `https://` without it.
pub(super) async fn secure(
    stream: TcpStream,
    proxy: &ProxyAccess,
    tls: Option<&OriginTls>,
) -> Result<Leg, ProxyError> {
    match proxy.url.scheme {
        ProxyScheme::Http | ProxyScheme::Socks5 | ProxyScheme::Socks5h => Ok(Leg::Tcp(stream)),
        ProxyScheme::Https => {
            let broken = ProxyError::Tls(TlsFailure::Handshake("no_roots"));
            let tls = tls.ok_or(broken)?;
            let shaken = tls.connect(&proxy.url.host, Offer::Http1, stream).await;
            Ok(Leg::Tls(Box::new(shaken.map_err(ProxyError::Tls)?)))
        }
    }
}

/// What the proxy gets by itself in place of being asked for a tunnel, where that is possible.
pub(super) fn forwarder(
    proxy: &ProxyAccess,
    target: &Target,
    destination: &Destination,
) -> Option<Forwarder> {
    Forwarder::new(proxy, target, destination)
}

/// What a status says of which the client hears nothing: a proxy wants a login.
pub(super) fn wants_login(forwarder: &Forwarder) -> String {
    let error = ProxyError::Status { status: 407 };
    format!("the upstream proxy {}: {error}", forwarder.authority())
}

/// Has the proxy connect to the target. Afterwards the stream is the tunnel: not a byte behind the
/// proxy's answer was read.
pub(super) async fn ask(
    stream: &mut Leg,
    proxy: &ProxyAccess,
    target: &Target,
) -> Result<(), ProxyError> {
    match proxy.url.scheme {
        ProxyScheme::Http | ProxyScheme::Https => connect::ask(stream, proxy, target).await,
        ProxyScheme::Socks5 | ProxyScheme::Socks5h => {
            socks5_client::ask(stream, proxy, target).await
        }
    }
}
