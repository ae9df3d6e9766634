//! Session ↔ gate.
//!
//! The gate is started with two sockets: this control channel and its supply channel ([`super::supply`]),
//! by which its audit channel comes. The session
//! sends [`GateBoot`]; the gate compiles the policy, confines itself and answers
//! [`GateReply::Confined`]. The session sends [`GateCommand::Witness`] with a channel to whoever knows the jail's
//! processes ([`super::witness`]), and [`GateCommand::Serve`] with the listening sockets that
//! init made (first HTTP, then SOCKS5 if the policy has it, then its socket for datagrams if the policy has
//! that, then those of [`super::transparent`] if the policy has that); the gate answers
//! [`GateReply::Serving`].
//! [`GateCommand::Drain`] closes every connection, records their ends and is answered by
//! [`GateReply::Drained`]. A closed control channel ends the gate at once. A gate that takes the place of one
//! that died is told the same as the first one, without credentials, and with the same sockets; what has
//! changed since it finds in the memory that it is supplied with.
//!
//! While it serves, the gate also speaks unasked: it says so at each such message. These may come at any
//! time after [`GateReply::Serving`] and before [`GateReply::Drained`].

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::ids::{PolicyGeneration, QuestionId};
use crate::policy::{
    Answered, BodiesPolicy, BudgetAction, BudgetKind, DenyReason, Host, HostPattern, Method,
    NetworkPolicy, NoProxy, OnFailure, Password, Port, ProxyUrl, ResolveNames, RuleId, Scope,
    Transport,
};
use crate::secret::{self, Secret};

/// First frame: everything the gate needs to know.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateBoot {
    /// What the session may reach, when it starts; the gate compiles it itself.
    pub policy: NetworkPolicy,
    /// Name servers to ask, from the profile or the host's resolv.conf; empty: no name resolves.
    pub name_servers: Vec<SocketAddr>,
    /// The lines of the host's `/etc/hosts`, capped at 64 KiB: the gate opens no files.
    pub hosts_file: String,
    /// Certificates (PEM) of the authorities that the certificates of origins and proxies must lead to;
    /// empty unless the policy has TLS looked into or a proxy is spoken to by TLS.
    pub roots: String,
    /// The values of the policy's credentials: the only message in which they cross a process border. Empty
    /// for a gate that takes another's place, which left them to it.
    pub credentials: Vec<CredentialValue>,
    /// How long an answer to a question is waited for, in seconds; 0: nobody is asked, and what would be
    /// is refused.
    pub approval_seconds: u32,
    /// The proxy that leads out, where one does.
    pub upstream: Option<UpstreamProxy>,
    /// What happens while records cannot be kept, as far as the terms of the host leave it.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// Whose bodies are kept beside the log.
    #[serde(default)]
    pub bodies: BodiesPolicy,
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

/// A credential's value, and what stands for it in the jail.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CredentialValue {
    /// The credential's name in the policy.
    pub name: String,
    /// What the jail has in the value's place. Its last [`MARK`] bytes are random and stand nowhere else.
    pub placeholder: String,
    /// The secret.
    #[serde(with = "secret::wire")]
    pub value: Secret<String>,
}

/// The length of a placeholder's random end: 128 bits in hex digits.
pub const MARK: usize = 32;

/// What the session asks of the gate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum GateCommand {
    /// Before it serves: whom to ask which process made a connection. Brings a channel on which the session introduces
    /// witnesses later ([`super::witness::Introduction`]), then the channel to the present one; without that nobody
    /// can be asked, and records say so.
    Witness,
    /// Accept on the listeners that came with this frame.
    Serve,
    /// The command is over: close everything, record it, report.
    Drain,
    /// How far has it come? Answered by [`GateReply::Counters`].
    Counters,
    /// The answer to a question. Of no account unless the question waits for it.
    Answer(Answer),
    /// There is no audit writer any more and none will come: nothing is to be let through, whatever the profile says of
    /// records that cannot be kept. Not answered.
    NoMoreRecords,
    /// Another policy from now on. Answered by [`GateReply::Applied`] or [`GateReply::NotApplied`].
    Policy(Box<NetworkPolicy>),
}

/// What the gate answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum GateReply {
    /// Policy compiled, gate confined: it can take the listeners.
    Confined {
        /// The certificate of the session's CA (PEM), where the policy has any TLS looked into. Its key
        /// never leaves the session's gates.
        authority: Option<String>,
    },
    /// It accepts.
    Serving,
    /// Everything is closed and recorded.
    Drained(GateSummary),
    /// It could not start; one line, cause and cure.
    Failed(String),
    /// The counters as they stand.
    Counters(Counters),
    /// Unasked: a budget is used up. Once for each time that it comes to that.
    Limit(LimitNotice),
    /// Unasked: records cannot be kept, or can be again.
    Audit(AuditState),
    /// Unasked: a request waits for an answer.
    Question(Question),
    /// Unasked: nobody waits for this answer any more.
    Withdrawn(QuestionId),
    /// The policy is in force.
    Applied(Applied),
    /// It is not, the one before stays; why, one line.
    NotApplied(String),
}

/// Whether what a session does gets on record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum AuditState {
    /// It does.
    Writing,
    /// It does not, and nothing leaves; why, one line.
    Blocked(String),
    /// It does not, and the session goes on all the same; why, one line.
    Behind(String),
}

/// What somebody is asked: may the session reach this?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// What the answer is for.
    pub id: QuestionId,
    /// The host as asked for.
    pub host: Host,
    /// The port as asked for.
    pub port: Port,
    /// The front door.
    pub transport: Transport,
    /// The method of the request that asked first, where the gate sees it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub method: Option<Method>,
    /// Its path without query, where the gate sees it, at most 512 characters. From the jail: escape it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub path: Option<String>,
    /// Whether the answer is for this method and path alone, because the rule speaks of them; else it is
    /// for the host and port.
    pub exact: bool,
    /// Whether it is about a budget that is used up: may it be raised? Then `rule` says which and by how
    /// much, and host and port are those of the request that came up against it.
    pub budget: bool,
    /// The rule that asks; none: the policy asks for what no rule speaks of.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rule: Option<RuleId>,
    /// How long the gate waits, in seconds.
    pub wait_seconds: u64,
}

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// Which question.
    pub question: QuestionId,
    /// Yes or no.
    pub verdict: Answered,
    /// How far it reaches; the gate takes [`Scope::Profile`] as [`Scope::Session`].
    pub scope: Scope,
    /// Who answered, for the record.
    pub by: String,
}

/// What a new policy changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Applied {
    /// The policy in force.
    pub generation: PolicyGeneration,
    /// False: it is the one that was in force already.
    pub changed: bool,
    /// Connections that it does not permit any more, and that are closed.
    pub closed: u64,
    /// Ports that its rules let be reached and the gate's own confinement does not: they need a new
    /// session.
    pub unreachable: Vec<Port>,
}

/// What a session reached and what it was refused, for the last lines of `run`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateSummary {
    /// Requests and tunnels that were let through; of a tunnel that is looked into, the requests within.
    pub allowed: u64,
    /// Payload bytes to the network.
    pub bytes_up: u64,
    /// Payload bytes from the network.
    pub bytes_down: u64,
    /// What was refused, most often first, at most 64 destinations.
    pub denied: Vec<DeniedDestination>,
    /// Budgets that were used up, in order, at most 64.
    pub limits: Vec<LimitNotice>,
}

/// A budget that is used up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitNotice {
    /// What was counted.
    pub what: BudgetKind,
    /// The hosts whose budget it is; `None`: the session's.
    pub host: Option<HostPattern>,
    /// How much was used: bytes, a number or milliseconds, by the kind.
    pub used: u64,
    /// How much might be used.
    pub max: u64,
    /// What follows.
    pub action: BudgetAction,
}

impl std::fmt::Display for LimitNotice {
    /// As `bytes_up budget of 200M for *.example.com used up`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} budget of {}", self.what, self.what.amount(self.max))?;
        if let Some(host) = &self.host {
            write!(f, " for {host}")?;
        }
        f.write_str(" used up")
    }
}

/// What a session has done so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counters {
    /// Payload bytes to the network.
    pub bytes_up: u64,
    /// Payload bytes from the network.
    pub bytes_down: u64,
    /// Requests and tunnels that were let through; of a tunnel that is looked into, the requests within.
    pub requests: u64,
    /// Connections to the network that carry something now.
    pub connections_open: u64,
    /// Connections to the network that were opened.
    pub connections_total: u64,
    /// Requests that were refused.
    pub denied: u64,
    /// By destination, those with the most bytes first, at most 128; then all others as one.
    pub hosts: Vec<HostCounters>,
    /// How far each budget is used up, the session's first, at most 64.
    pub budgets: Vec<BudgetUse>,
}

/// What one destination got.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostCounters {
    /// The host as asked for; `None`: all that are not listed.
    pub host: Option<Host>,
    /// The port as asked for.
    pub port: Option<Port>,
    /// Requests and tunnels that were let through.
    pub requests: u64,
    /// Payload bytes to it.
    pub bytes_up: u64,
    /// Payload bytes from it.
    pub bytes_down: u64,
}

/// How far one budget is used up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BudgetUse {
    /// What is counted.
    pub what: BudgetKind,
    /// The hosts whose budget it is; `None`: the session's.
    pub host: Option<HostPattern>,
    /// How much is used.
    pub used: u64,
    /// How much may be used.
    pub max: u64,
}

/// What was refused of one destination for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeniedDestination {
    /// The host as asked for.
    pub host: Host,
    /// The port as asked for.
    pub port: Port,
    /// The front door, the last time.
    pub transport: Transport,
    /// The method, where it was one of the reasons.
    pub method: Option<Method>,
    /// The path of the last one, where it was one of the reasons; at most 200 characters.
    pub path: Option<String>,
    /// Why.
    pub reason: DenyReason,
    /// How often.
    pub count: u64,
}
