//! Session ↔ gate.
//!
//! The gate is started with two sockets: this control channel and its audit channel. The session
//! sends [`GateBoot`]; the gate compiles the policy, confines itself and answers
//! [`GateReply::Confined`]. The session sends [`GateCommand::Serve`] with the listening sockets that
//! init made (first HTTP, then SOCKS5 if the policy has it, then its socket for datagrams if the policy has
//! that); the gate answers [`GateReply::Serving`].
//! [`GateCommand::Drain`] closes every connection, records their ends and is answered by
//! [`GateReply::Drained`]. A closed control channel ends the gate at once.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::policy::{
    DenyReason, Host, NetworkPolicy, NoProxy, Password, Port, ProxyUrl, ResolveNames,
};

/// First frame: everything the gate needs to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateBoot {
    /// What the session may reach; the gate compiles it itself.
    pub policy: NetworkPolicy,
    /// Name servers to ask, from the profile or the host's resolv.conf; empty: no name resolves.
    pub name_servers: Vec<SocketAddr>,
    /// The lines of the host's `/etc/hosts`, capped at 64 KiB: the gate opens no files.
    pub hosts_file: String,
    /// Certificates (PEM) of the authorities that origins' certificates must lead to; empty unless the
    /// policy has TLS looked into.
    pub roots: String,
    /// The proxy that leads out, where one does.
    pub upstream: Option<UpstreamProxy>,
}

/// The way out where a network has no direct one. At least one of the two proxies is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamProxy {
    /// For plain HTTP requests; `None`: they go out directly.
    pub plain: Option<ProxyAccess>,
    /// For everything else; `None`: it goes out directly.
    pub tunnels: Option<ProxyAccess>,
    /// What is dialed directly in any case.
    pub no_proxy: Vec<NoProxy>,
}

/// A proxy and how it is used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxyAccess {
    /// Where it is, and as whom. The text of a URL leaves the password out.
    pub url: ProxyUrl,
    /// With which password.
    pub password: Option<Password>,
    /// Who finds the addresses of names.
    pub resolve: ResolveNames,
}

/// What the session asks of the gate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum GateCommand {
    /// Accept on the listeners that came with this frame.
    Serve,
    /// The command is over: close everything, record it, report.
    Drain,
}

/// What the gate answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum GateReply {
    /// Policy compiled, gate confined: it can take the listeners.
    Confined {
        /// The certificate of the session's CA (PEM), where the policy has any TLS looked into. Its key
        /// never leaves the gate.
        authority: Option<String>,
    },
    /// It accepts.
    Serving,
    /// Everything is closed and recorded.
    Drained(GateSummary),
    /// It could not start; one line, cause and cure.
    Failed(String),
}

/// What a session reached and what it was refused, for the last lines of `run`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateSummary {
    /// Requests that were let through.
    pub allowed: u64,
    /// Payload bytes to the network.
    pub bytes_up: u64,
    /// Payload bytes from the network.
    pub bytes_down: u64,
    /// What was refused, most often first, at most 64 destinations.
    pub denied: Vec<DeniedDestination>,
}

/// One refused destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeniedDestination {
    /// The host as asked for.
    pub host: Host,
    /// The port as asked for.
    pub port: Port,
    /// Why, the last time.
    pub reason: DenyReason,
    /// How often.
    pub count: u64,
}
