//! The file form of the requirements, and the way from it to the valid form. The words are those of a
//! profile; what they say is the most that a profile can have.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{NetworkRequirements, ProfilesOf, RequiredAudit, Requirements};
use crate::policy::profile::requirement as read;
use crate::policy::profile::{
    Durability, FilesystemMode, LimitsFloor, NetworkMode, OnFailure, ProfileError, Unlisted,
    WebsocketPolicy, is_name,
};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
struct RequirementsFile {
    filesystem: FilesystemRequirements,
    network: NetworkFile,
    isolation: IsolationFile,
    /// Values stay TOML: each is a number or a text, and an error names the key.
    limits: toml::Table,
    audit: AuditFile,
    /// Read one by one, so that an error names the entry.
    profiles: Vec<toml::Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
struct FilesystemRequirements {
    mode: Option<FilesystemMode>,
    masked: Vec<String>,
    protected: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
struct NetworkFile {
    enabled: Option<bool>,
    mode: Option<NetworkMode>,
    default: Option<Unlisted>,
    websocket: Option<WebsocketPolicy>,
    mitm: Option<bool>,
    tunnels: Vec<String>,
    unconfined_tunnels: Option<bool>,
    enable_socks5_udp: Option<bool>,
    allow_upstream_proxy: Option<bool>,
    upstream_proxies: Option<Vec<String>>,
    addresses: Option<Vec<String>>,
    extra_ca: Option<Vec<String>>,
    unix_sockets: Option<Vec<String>>,
    credentials: Option<Vec<String>>,
    domains: Option<BTreeMap<String, String>>,
    rules: Option<Vec<toml::Value>>,
    budgets: toml::Table,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
struct IsolationFile {
    landlock_abi: Option<u8>,
    limits: Option<LimitsFloor>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
struct AuditFile {
    durability: Option<Durability>,
    file_changes: bool,
    on_failure: Option<OnFailure>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
struct ProfilesFile {
    group: String,
    names: Vec<String>,
}

impl Requirements {
    /// Reads the requirements; `place` is where they stand, for people.
    pub fn parse(place: &str, text: &str) -> Result<Self, ProfileError> {
        let file: RequirementsFile = read::file(place, text)?;
        let FilesystemRequirements {
            mode,
            masked,
            protected,
        } = file.filesystem;
        let paths = |key: &str, list: Vec<String>| read::paths(place, key, list);
        Ok(Self {
            place: place.to_owned(),
            filesystem_mode: mode,
            masked: paths("filesystem.masked", masked)?,
            protected: paths("filesystem.protected", protected)?,
            network: network(place, file.network)?,
            landlock_abi: file.isolation.landlock_abi,
            limits_floor: file.isolation.limits,
            limits: read::limits(place, file.limits)?,
            audit: RequiredAudit {
                durability: file.audit.durability,
                file_changes: file.audit.file_changes,
                on_failure: file.audit.on_failure,
            },
            profiles: file
                .profiles
                .into_iter()
                .enumerate()
                .map(|(i, value)| profiles_of(place, &format!("profiles[{i}]"), value))
                .collect::<Result<_, _>>()?,
        })
    }
}

fn network(place: &str, file: NetworkFile) -> Result<NetworkRequirements, ProfileError> {
    let hosts = |key: &str, list: Vec<String>| read::hosts(place, key, list);
    if file.mitm != Some(true) && !file.tunnels.is_empty() {
        let problem = "excepts hosts from inspection, which is not required; set mitm = true, or leave it out";
        return Err(read::wrong(place, "network.tunnels", problem));
    }
    // What the profile has is enough only where the file says nothing of hosts at all.
    let rules = match (file.domains, file.rules) {
        (None, None) => None,
        (domains, entries) => Some(read::rules(
            place,
            domains.unwrap_or_default(),
            entries.unwrap_or_default(),
        )?),
    };
    Ok(NetworkRequirements {
        enabled: file.enabled,
        mode: file.mode,
        default: file.default,
        websocket: file.websocket,
        mitm: file.mitm,
        tunnels: hosts("network.tunnels", file.tunnels)?,
        unconfined_tunnels: file.unconfined_tunnels,
        enable_socks5_udp: file.enable_socks5_udp,
        allow_upstream_proxy: file.allow_upstream_proxy,
        upstream_proxies: file
            .upstream_proxies
            .map(|list| read::proxies(place, "network.upstream_proxies", list))
            .transpose()?,
        addresses: file
            .addresses
            .map(|list| read::ranges(place, "network.addresses", &list))
            .transpose()?,
        extra_ca: file
            .extra_ca
            .map(|list| read::authorities(place, "network.extra_ca", list))
            .transpose()?,
        unix_sockets: file
            .unix_sockets
            .map(|list| read::sockets(place, "network.unix_sockets", &list))
            .transpose()?,
        credentials: file
            .credentials
            .map(|list| hosts("network.credentials", list))
            .transpose()?,
        rules,
        budgets: read::budgets(place, file.budgets)?,
    })
}

fn profiles_of(place: &str, key: &str, value: toml::Value) -> Result<ProfilesOf, ProfileError> {
    let ProfilesFile { group, names } = read::entry(place, key, value)?;
    if let Some(name) = names.iter().find(|name| !is_name(name)) {
        let problem = format!("{name:?} is no profile name; write it as \"codex\"");
        return Err(read::wrong(place, &format!("{key}.names"), problem));
    }
    Ok(ProfilesOf { group, names })
}
