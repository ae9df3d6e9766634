//! The file form of a profile: what serde takes from TOML, nothing checked but the shape. Every key is
//! optional; one that is absent leaves what the extended profile says.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::bodies::BodiesFile;
use super::error::ProfileError;
use super::upstream::UpstreamFile;
use super::{
    Durability, FilesystemMode, LimitsFloor, NetworkMode, OnFailure, Registry, Unlisted,
    WebsocketPolicy,
};

/// One profile file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct ProfileFile {
    pub(super) description: Option<String>,
    pub(super) extends: Option<String>,
    pub(super) filesystem: FilesystemFile,
    pub(super) network: NetworkFile,
    pub(super) environment: EnvironmentFile,
    /// Values stay TOML: an error names the key.
    pub(super) limits: toml::Table,
    pub(super) isolation: IsolationFile,
    pub(super) codex: CodexFile,
    pub(super) audit: AuditFile,
    pub(super) approvals: ApprovalsFile,
    /// Read one by one, so that an error names the entry.
    pub(super) tests: Vec<toml::Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct FilesystemFile {
    pub(super) mode: Option<FilesystemMode>,
    pub(super) writable: Vec<String>,
    pub(super) readable: Vec<String>,
    pub(super) masked: Vec<String>,
    pub(super) protected: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct NetworkFile {
    pub(super) enabled: Option<bool>,
    pub(super) mode: Option<NetworkMode>,
    pub(super) default: Option<Unlisted>,
    pub(super) mitm: Option<bool>,
    pub(super) websocket: Option<WebsocketPolicy>,
    /// Values stay text: the error for a wrong one names the host.
    pub(super) tls: BTreeMap<String, String>,
    pub(super) extra_ca: Vec<String>,
    pub(super) unconfined_tunnels: Option<bool>,
    pub(super) enable_socks5: Option<bool>,
    pub(super) transparent: Option<bool>,
    pub(super) enable_socks5_udp: Option<bool>,
    pub(super) http_port: Option<u16>,
    pub(super) socks_port: Option<u16>,
    pub(super) allow_upstream_proxy: Option<bool>,
    pub(super) upstream_proxy: UpstreamFile,
    /// Values stay text: the error for a wrong one names the socket.
    pub(super) unix_sockets: BTreeMap<String, String>,
    pub(super) registries: Vec<Registry>,
    /// Values stay text: the error for a wrong one names the host.
    pub(super) domains: BTreeMap<String, String>,
    /// Read one by one, so that an error names the entry.
    pub(super) rules: Vec<toml::Value>,
    /// Read one by one, so that an error names the entry.
    pub(super) credentials: Vec<toml::Value>,
    pub(super) addresses: AddressesFile,
    pub(super) dns: DnsFile,
    pub(super) limits: LimitsFile,
    /// Values stay TOML: each is an amount or a table, and an error names the key.
    pub(super) budgets: toml::Table,
    /// Read one by one, so that an error names the entry.
    pub(super) budget_rules: Vec<toml::Value>,
}

/// One entry of `[[network.rules]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct RuleFile {
    pub(super) host: String,
    pub(super) ports: Option<Vec<u16>>,
    pub(super) methods: Option<Vec<String>>,
    pub(super) paths: Option<Vec<String>>,
    pub(super) protocol: Option<String>,
    pub(super) action: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct AddressesFile {
    pub(super) allow: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct DnsFile {
    pub(super) servers: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct LimitsFile {
    pub(super) connections: Option<u32>,
    pub(super) head_bytes: Option<u32>,
    pub(super) head_seconds: Option<u32>,
    pub(super) dial_seconds: Option<u32>,
    pub(super) idle_seconds: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct EnvironmentFile {
    pub(super) pass: Vec<String>,
    pub(super) set: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct IsolationFile {
    pub(super) landlock_abi: Option<u8>,
    pub(super) limits: Option<LimitsFloor>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct CodexFile {
    pub(super) enabled: Option<bool>,
    /// Codex's own keys, which are Codex's to check.
    pub(super) config: toml::Table,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct AuditFile {
    pub(super) durability: Option<Durability>,
    pub(super) file_changes: Option<bool>,
    pub(super) on_failure: Option<OnFailure>,
    pub(super) bodies: BodiesFile,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct ApprovalsFile {
    pub(super) wait_seconds: Option<u32>,
    pub(super) command: Option<Vec<String>>,
    /// Read one by one, so that an error names the entry.
    pub(super) rules: Vec<toml::Value>,
}

/// One entry of `[[approvals.rules]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct ApprovalRuleFile {
    pub(super) host: String,
    pub(super) ports: Option<Vec<u16>>,
    pub(super) verdict: String,
}

/// One entry of `[[tests]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct TestFile {
    pub(super) request: String,
    pub(super) expect: String,
}

impl ProfileFile {
    /// Takes a file's text apart.
    pub(super) fn parse(profile: &str, text: &str) -> Result<Self, ProfileError> {
        let table: toml::Table = text
            .parse()
            .map_err(|error| ProfileError::syntax(profile, text, &error))?;
        table
            .try_into()
            .map_err(|error| ProfileError::shape(profile, "", &error))
    }
}

/// Takes one entry of an array of tables apart.
pub(super) fn entry<T: serde::de::DeserializeOwned>(
    profile: &str,
    key: &str,
    value: toml::Value,
) -> Result<T, ProfileError> {
    value
        .try_into()
        .map_err(|error| ProfileError::shape(profile, key, &error))
}
