//! What the admin of a host insists on: `requirements.toml`. Whatever a profile, a project or a flag
//! grants, a session gets no more than this.
//!
//! Two ways lead there. Values are cut: [`Profile::hold_to`](super::Profile) leaves in the profile what
//! the requirements permit, and tells what it took. Rules are not: two lists of hosts, ports, methods and
//! paths have no simple common part. They go to the gate beside the profile's as its
//! [`ceiling`](super::NetworkPolicy::ceiling), and a request needs a yes from both.

mod cut;
mod file;

pub use cut::Cut;

use std::path::PathBuf;

use ipnet::IpNet;

use super::profile::{
    Budgets, Durability, FilesystemMode, LimitsFloor, NetworkMode, OnFailure, ResourceLimits,
    Unlisted, WebsocketPolicy,
};
use super::rule::{HostPattern, Rule};
use super::upstream::ProxyUrl;

/// The name of the file.
pub const REQUIREMENTS_FILE: &str = "requirements.toml";

/// Valid requirements. `None` and what is empty bind nothing, but where it says otherwise.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Requirements {
    /// Where they were read, for people.
    place: String,
    /// The most of the file system that may be changed.
    filesystem_mode: Option<FilesystemMode>,
    /// Empty inside, whatever the profile says.
    masked: Vec<PathBuf>,
    /// Read-only under writable roots, whatever the profile says.
    protected: Vec<PathBuf>,
    network: NetworkRequirements,
    /// The lowest Landlock ABI.
    landlock_abi: Option<u8>,
    /// Whether a session may start without some of its limits.
    limits_floor: Option<LimitsFloor>,
    /// The most of the machine that a session may take.
    limits: ResourceLimits,
    /// The least care with which records are kept.
    audit: RequiredAudit,
    /// Which profiles members of a group may use, the first entry that fits; everybody else: any.
    profiles: Vec<ProfilesOf>,
}

/// What they say of records.
#[derive(Debug, Clone, Default, PartialEq)]
struct RequiredAudit {
    /// The least care.
    durability: Option<Durability>,
    /// Whether changed files are looked for.
    file_changes: bool,
    /// What a session does at least while records cannot be kept.
    on_failure: Option<OnFailure>,
}

/// What they say of the network.
#[derive(Debug, Clone, Default, PartialEq)]
struct NetworkRequirements {
    /// False: no session has any.
    enabled: Option<bool>,
    mode: Option<NetworkMode>,
    default: Option<Unlisted>,
    websocket: Option<WebsocketPolicy>,
    /// True: all TLS is inspected, but for `tunnels`.
    mitm: Option<bool>,
    /// Hosts whose TLS may pass unopened where `mitm` is true.
    tunnels: Vec<HostPattern>,
    unconfined_tunnels: Option<bool>,
    enable_socks5_udp: Option<bool>,
    allow_upstream_proxy: Option<bool>,
    /// Proxies that a profile or the caller's environment may name; an empty list permits none.
    upstream_proxies: Option<Vec<ProxyUrl>>,
    /// Inside these alone may a profile lift the refusal of addresses; an empty list permits none.
    addresses: Option<Vec<IpNet>>,
    /// Files of certificates that a profile may add; an empty list permits none.
    extra_ca: Option<Vec<PathBuf>>,
    /// Sockets of the host that a profile may show; an empty list permits none.
    unix_sockets: Option<Vec<PathBuf>>,
    /// Hosts to which a profile may send credentials; an empty list permits none.
    credentials: Option<Vec<HostPattern>>,
    /// What may be reached, as in a profile. `None`: the profile's own rules are enough.
    rules: Option<Vec<Rule>>,
    budgets: Budgets,
}

/// An entry of `[[profiles]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ProfilesOf {
    group: String,
    names: Vec<String>,
}

impl Requirements {
    /// The profiles that a caller with these groups may use; `None`: any. Those are the host's own: a
    /// file of the caller's with such a name does not count.
    pub fn profiles_for(&self, groups: &[String]) -> Option<&[String]> {
        let entry = self
            .profiles
            .iter()
            .find(|entry| groups.contains(&entry.group))?;
        Some(&entry.names)
    }

    /// Whether anybody is held to a list of profiles.
    pub fn lists_profiles(&self) -> bool {
        !self.profiles.is_empty()
    }

    /// The files of certificates that may be added to the host's own, by a profile or by the caller's
    /// environment; `None`: any.
    pub fn authorities(&self) -> Option<&[PathBuf]> {
        self.network.extra_ca.as_deref()
    }

    /// The upstream proxies that may be used; `None`: any.
    pub fn upstream_proxies(&self) -> Option<&[ProxyUrl]> {
        self.network.upstream_proxies.as_deref()
    }

    /// What a session does while records cannot be kept, where its profile says this.
    pub fn on_failure(&self, wanted: OnFailure) -> OnFailure {
        self.audit
            .on_failure
            .map_or(wanted, |least| least.max(wanted))
    }

    /// Where they were read.
    pub fn place(&self) -> &str {
        &self.place
    }
}
