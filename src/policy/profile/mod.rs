//! Profiles: a named set of permissions. [`Profile`] is the valid form; everything in it has been
//! checked, and every process gets just the part that it enforces.
//!
//! Reading order: this file (the valid form) → [`mod@file`] (the file form) → [`read`] (from one to the other,
//! with [`rules`] and [`value`]) → [`layer`] (`extends`) → [`project`] (the file of a project) → [`overrides`] (flags) → [`visible`] (what only the
//! whole can be checked for) → [`cases`] (`[[tests]]`).

mod approvals;
mod bodies;
mod budget_kind;
mod budgets;
mod builtin;
mod cases;
mod credentials;
mod error;
mod file;
mod layer;
mod origin;
mod overrides;
mod project;
mod read;
pub(in crate::policy) mod requirement;
mod resources;
mod rules;
mod show;
mod unix_sockets;
mod upstream;
mod value;
mod visible;

pub use bodies::{BodiesPolicy, BodySides};
pub use budget_kind::BudgetKind;
pub use budgets::{Budget, BudgetAction, BudgetRule, Budgets};
pub use builtin::{BASE, builtin, builtin_names};
pub use cases::PolicyTest;
pub use error::ProfileError;
pub use layer::{LayerText, Overlays, Reading, is_name};
pub use origin::{Origin, Origins};
pub use overrides::Overrides;
pub use project::PROJECT_FILE;
pub use resources::{LimitsFloor, Resource, ResourceLimits};
pub(super) use value::variable as check_variable;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::address::AddressPolicy;
use super::credential::Credential;
use super::rule::{HostPattern, Rule};
use super::unix_socket::UnixSocket;
use super::upstream::UpstreamPolicy;

/// A valid profile: layers merged, flags applied.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Profile {
    /// The name it was asked for by.
    pub name: String,
    /// One line for people.
    pub description: String,
    /// What the jail sees of the host's files.
    pub filesystem: FilesystemPolicy,
    /// What the gate lets out.
    pub network: NetworkPolicy,
    /// What the command finds in its environment.
    pub environment: EnvironmentPolicy,
    /// How much of the machine the session may take.
    pub limits: ResourceLimits,
    /// Below this the session does not start.
    pub isolation: IsolationFloor,
    /// How Codex is set up in the jail.
    pub codex: CodexPolicy,
    /// How the log is kept.
    pub audit: AuditPolicy,
    /// Who answers where the policy asks.
    pub approvals: ApprovalsPolicy,
}

/// How much of the file system the command may change. Ordered: the lesser grants less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FilesystemMode {
    /// The workspace is readable; only the private home and `/tmp` can be written.
    ReadOnly,
    /// The workspace can be written.
    WorkspaceWrite,
    /// The host's whole file system with the caller's own rights. The gate stays.
    DangerFullAccess,
}

impl fmt::Display for FilesystemMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ReadOnly => "read-only",
            Self::WorkspaceWrite => "workspace-write",
            Self::DangerFullAccess => "danger-full-access",
        })
    }
}

/// What the jail sees of the host's files. Paths may start with `~/` (the caller's home); relative
/// ones count from the workspace. They are resolved by whoever builds the jail, never here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FilesystemPolicy {
    /// How much may be changed.
    pub mode: FilesystemMode,
    /// Host paths that can be written, beside the workspace.
    pub writable: Vec<PathBuf>,
    /// Host paths that can be read, beside the default system paths.
    pub readable: Vec<PathBuf>,
    /// Host paths that are empty inside, wherever they would show.
    pub masked: Vec<PathBuf>,
    /// Paths under each writable root that stay read-only, present or not.
    pub protected: Vec<PathBuf>,
}

/// Which methods are let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkMode {
    /// Every method that a rule does not exclude.
    Full,
    /// GET, HEAD and OPTIONS.
    Limited,
}

/// What a session may reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "the keys of a profile, each on or off"
)]
pub struct NetworkPolicy {
    /// False: everything is refused as `network_disabled`, and recorded.
    pub enabled: bool,
    /// Which methods are let through.
    pub mode: NetworkMode,
    /// What becomes of a destination that no rule speaks of.
    pub default: Unlisted,
    /// Whether TLS is looked into where `tls` says nothing else.
    pub mitm: bool,
    /// Hosts whose TLS is looked into, or is not, whatever `mitm` says. The narrower pattern wins.
    pub tls: BTreeMap<HostPattern, TlsHandling>,
    /// Whether WebSockets may be opened, where the gate sees them; never with [`NetworkMode::Limited`].
    pub websocket: WebsocketPolicy,
    /// Files of certificates (PEM) that origins may also lead to, where TLS is looked into, and upstream
    /// proxies that are spoken to by it: absolute, or `~/` below the caller's home. Read at launch, never here.
    pub extra_ca: Vec<PathBuf>,
    /// With [`NetworkMode::Limited`]: let TLS tunnels to allowed hosts pass although nobody sees the
    /// methods inside them. Named for what it is.
    pub unconfined_tunnels: bool,
    /// Whether the jail has a SOCKS5 proxy beside the HTTP one.
    pub enable_socks5: bool,
    /// Whether programs that know no proxy get through as well: every TCP connection of the jail leads to
    /// the gate, and names are answered by it.
    pub transparent: bool,
    /// Whether the SOCKS5 proxy relays datagrams, to what rules with `protocol = "udp"` allow.
    pub enable_socks5_udp: bool,
    /// The HTTP proxy's port in the jail.
    pub http_port: u16,
    /// The SOCKS5 proxy's port in the jail.
    pub socks_port: u16,
    /// Whether connections may go out by an upstream proxy.
    pub allow_upstream_proxy: bool,
    /// Which one, where they may.
    pub upstream_proxy: UpstreamPolicy,
    /// Unix sockets of the host, by path; those that are not here do not show.
    pub unix_sockets: BTreeMap<PathBuf, UnixSocket>,
    /// Every rule, of whatever origin.
    pub rules: Vec<Rule>,
    /// The admin's rules, beside the profile's: a request needs a yes from both. `None`: from the
    /// profile's alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ceiling: Option<Vec<Rule>>,
    /// Exceptions to the refused addresses.
    pub addresses: AddressPolicy,
    /// Whom to ask for addresses.
    pub dns: DnsPolicy,
    /// Package registries whose hosts are looked up in their clients' configuration at launch and
    /// become rules. Empty once they have.
    pub registries: Vec<Registry>,
    /// Credentials whose values stay outside the jail; the values themselves are not policy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub credentials: Vec<Credential>,
    /// Bounds that keep one session from starving the host.
    pub limits: NetworkLimits,
    /// How much one session may send, receive and ask for.
    pub budgets: Budgets,
    /// The same for some hosts.
    pub budget_rules: Vec<BudgetRule>,
}

impl NetworkPolicy {
    /// What happens to TLS where no entry of `tls` speaks of the host.
    pub fn tls_default(&self) -> TlsHandling {
        match self.tls.get(&HostPattern::Any) {
            Some(handling) => *handling,
            None if self.mitm => TlsHandling::Inspect,
            None => TlsHandling::Tunnel,
        }
    }

    /// Whether the jail has a socket for datagrams beside the SOCKS5 proxy, on the same port.
    pub fn relays_datagrams(&self) -> bool {
        self.enable_socks5 && self.enable_socks5_udp
    }

    /// Whether the gate looks into any TLS, and so needs a CA that the jail trusts.
    pub fn inspects(&self) -> bool {
        self.tls_default() == TlsHandling::Inspect
            || self.tls.values().any(|h| *h == TlsHandling::Inspect)
    }
}

impl Default for NetworkPolicy {
    /// What holds before any profile is read: a gate that lets nothing through.
    fn default() -> Self {
        Self {
            enabled: true,
            mode: NetworkMode::Full,
            default: Unlisted::Deny,
            mitm: false,
            tls: BTreeMap::new(),
            websocket: WebsocketPolicy::Allow,
            extra_ca: Vec::new(),
            unconfined_tunnels: false,
            enable_socks5: true,
            transparent: false,
            enable_socks5_udp: false,
            http_port: 3128,
            socks_port: 8081,
            allow_upstream_proxy: false,
            upstream_proxy: UpstreamPolicy::default(),
            unix_sockets: BTreeMap::new(),
            rules: Vec::new(),
            ceiling: None,
            addresses: AddressPolicy::default(),
            dns: DnsPolicy::default(),
            registries: Vec::new(),
            credentials: Vec::new(),
            limits: NetworkLimits::default(),
            budgets: Budgets::default(),
            budget_rules: Vec::new(),
        }
    }
}

/// What becomes of a destination that no rule speaks of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unlisted {
    /// Refused.
    #[default]
    Deny,
    /// Whoever answers for the session is asked.
    Ask,
}

/// What the gate does with a host's TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TlsHandling {
    /// TLS ends at the gate, which makes a certificate for the host; every request is judged.
    Inspect,
    /// TLS passes unopened: for clients that pin certificates.
    Tunnel,
}

/// Whether WebSockets may be opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum WebsocketPolicy {
    /// Where a rule allows the GET that opens it.
    #[default]
    #[serde(rename = "allow")]
    Allow,
    /// Refused with 403.
    #[serde(rename = "deny")]
    Deny,
    /// Refused with 426 Upgrade Required, at which Codex goes on over plain HTTP at once.
    #[serde(rename = "426")]
    UpgradeRequired,
}

/// Whom the gate asks for addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DnsPolicy {
    /// Name servers; empty: those of the host's `/etc/resolv.conf`.
    pub servers: Vec<SocketAddr>,
}

/// A family of package registries, by the client that knows its hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Registry {
    /// Python packages.
    Pip,
    /// JavaScript packages.
    Npm,
    /// Rust crates.
    Cargo,
    /// Debian packages.
    Apt,
}

/// Bounds of a gate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkLimits {
    /// Connections at once.
    pub connections: u32,
    /// The longest request head, in bytes.
    pub head_bytes: u32,
    /// Seconds for a head, a SOCKS greeting, a `ClientHello`.
    pub head_seconds: u32,
    /// Seconds for a dial.
    pub dial_seconds: u32,
    /// Seconds without a byte in either direction before a tunnel is closed.
    pub idle_seconds: u32,
}

impl Default for NetworkLimits {
    fn default() -> Self {
        Self {
            connections: 256,
            head_bytes: 64 << 10,
            head_seconds: 10,
            dial_seconds: 10,
            idle_seconds: 3600,
        }
    }
}

/// What the command finds in its environment; nothing else is inherited.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct EnvironmentPolicy {
    /// Variables passed through when the caller has them.
    pub pass: Vec<String>,
    /// Variables with these values; wins over `pass`.
    pub set: BTreeMap<String, String>,
}

/// The weakest confinement that a session may start with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IsolationFloor {
    /// Lowest Landlock ABI, at least 1 (Linux 5.13).
    pub landlock_abi: u8,
    /// Whether every one of [`Profile::limits`] has to be in force.
    pub limits: LimitsFloor,
}

/// How Codex is set up in the jail.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct CodexPolicy {
    /// Give the jail Codex's managed configuration and the caller's `config.toml` and `auth.json`.
    pub enabled: bool,
    /// More keys for Codex's managed configuration, as TOML; they win over the caller's own.
    pub config: toml::Table,
}

/// When an audit record counts as kept. Ordered: the later takes more care.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// When the kernel has it: survives any crash of ours, not a power cut.
    Batch,
    /// When the disk has it (fdatasync(2) before each answer).
    Each,
}

/// What a session does while records cannot be kept. Ordered: the later takes more care.
#[derive(
    Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// It goes on; what could not be recorded is counted.
    Continue,
    /// Nothing leaves.
    #[default]
    Block,
}

/// Who answers where the policy says "ask".
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ApprovalsPolicy {
    /// How long a request waits for an answer, in seconds; 0: nobody is asked, and it is refused.
    pub wait_seconds: u32,
    /// A program of the operator's that answers, with its arguments; empty: none.
    pub command: Vec<String>,
    /// Rules that answer before anybody is bothered; an effect of "ask" leaves it to the next.
    pub rules: Vec<Rule>,
}

impl Default for ApprovalsPolicy {
    fn default() -> Self {
        Self {
            wait_seconds: 120,
            command: Vec::new(),
            rules: Vec::new(),
        }
    }
}

/// How the log is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditPolicy {
    /// When a record counts as kept.
    pub durability: Durability,
    /// Whether the record of the session's end says what changed in the folders that it could write.
    pub file_changes: bool,
    /// What the session does while records cannot be kept.
    pub on_failure: OnFailure,
    /// Whose bodies are kept beside the log.
    pub bodies: BodiesPolicy,
}
