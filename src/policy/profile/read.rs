//! File form → valid form: lays one file over the profile it extends.
//!
//! Scalars replace what the extended profile says. Lists append, without repeating an entry. Maps merge
//! key by key and the later value wins, in `codex.config` also inside its tables. `network.domains`
//! makes rules, and rules only add up: a deny that was inherited stays a deny whatever is allowed later.

use std::fmt;
use std::path::PathBuf;

use super::error::ProfileError;
use super::file::{
    CodexFile, EnvironmentFile, FilesystemFile, LimitsFile, NetworkFile, ProfileFile,
};
use super::{
    ApprovalsPolicy, AuditPolicy, BodiesPolicy, CodexPolicy, Durability, EnvironmentPolicy,
    FilesystemMode, FilesystemPolicy, IsolationFloor, LimitsFloor, NetworkLimits, NetworkPolicy,
    OnFailure, PolicyTest, Profile, ResourceLimits, approvals, bodies, budgets, credentials,
    resources, rules, unix_sockets, upstream, value,
};

/// The file being read: names the place in errors and rule ids.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'a> {
    /// The profile.
    pub(super) profile: &'a str,
    /// Whether it came by `extends`: its rules then carry its name.
    pub(super) inherited: bool,
}

impl Source<'_> {
    /// A wrong value at a key of this file.
    pub(super) fn wrong(&self, key: &str, problem: impl fmt::Display) -> ProfileError {
        ProfileError::key(self.profile, key, problem)
    }
}

/// What holds before any file is read: nothing is reachable, nothing is writable.
pub(super) fn strictest(name: &str) -> Profile {
    Profile {
        name: name.to_owned(),
        description: String::new(),
        filesystem: FilesystemPolicy {
            mode: FilesystemMode::ReadOnly,
            writable: Vec::new(),
            readable: Vec::new(),
            masked: Vec::new(),
            protected: Vec::new(),
        },
        network: NetworkPolicy::default(),
        environment: EnvironmentPolicy::default(),
        limits: ResourceLimits::default(),
        isolation: IsolationFloor {
            landlock_abi: 1,
            limits: LimitsFloor::default(),
        },
        codex: CodexPolicy::default(),
        audit: AuditPolicy {
            durability: Durability::Batch,
            file_changes: true,
            on_failure: OnFailure::Block,
            bodies: BodiesPolicy::default(),
        },
        approvals: ApprovalsPolicy::default(),
    }
}

/// Lays one file over what it extends.
pub(super) fn overlay(
    profile: &mut Profile,
    source: Source<'_>,
    file: ProfileFile,
) -> Result<(), ProfileError> {
    // A description speaks of its own file alone.
    profile.description = value::line(source, "description", file.description.unwrap_or_default())?;
    filesystem(&mut profile.filesystem, source, file.filesystem)?;
    network(&mut profile.network, source, file.network)?;
    environment(&mut profile.environment, source, file.environment)?;
    codex(&mut profile.codex, file.codex);
    if let Some(abi) = file.isolation.landlock_abi {
        profile.isolation.landlock_abi =
            value::within(source, "isolation.landlock_abi", abi, 1..=u8::MAX)?;
    }
    replace(&mut profile.isolation.limits, file.isolation.limits);
    resources::overlay(&mut profile.limits, source, file.limits)?;
    replace(&mut profile.audit.durability, file.audit.durability);
    replace(&mut profile.audit.file_changes, file.audit.file_changes);
    replace(&mut profile.audit.on_failure, file.audit.on_failure);
    bodies::overlay(&mut profile.audit.bodies, source, &file.audit.bodies)?;
    approvals::overlay(&mut profile.approvals, source, file.approvals)?;
    for (i, test) in file.tests.into_iter().enumerate() {
        PolicyTest::read(source.profile, &format!("tests[{i}]"), test)?;
    }
    Ok(())
}

fn filesystem(
    policy: &mut FilesystemPolicy,
    source: Source<'_>,
    file: FilesystemFile,
) -> Result<(), ProfileError> {
    replace(&mut policy.mode, file.mode);
    for (key, list, found) in [
        ("filesystem.writable", &mut policy.writable, file.writable),
        ("filesystem.readable", &mut policy.readable, file.readable),
        ("filesystem.masked", &mut policy.masked, file.masked),
        (
            "filesystem.protected",
            &mut policy.protected,
            file.protected,
        ),
    ] {
        for (i, path) in found.into_iter().enumerate() {
            let path = PathBuf::from(path);
            value::path(key, &path)
                .map_err(|problem| source.wrong(&format!("{key}[{i}]"), problem))?;
            append(list, path);
        }
    }
    Ok(())
}

fn network(
    policy: &mut NetworkPolicy,
    source: Source<'_>,
    file: NetworkFile,
) -> Result<(), ProfileError> {
    replace(&mut policy.enabled, file.enabled);
    replace(&mut policy.mode, file.mode);
    replace(&mut policy.default, file.default);
    replace(&mut policy.mitm, file.mitm);
    replace(&mut policy.websocket, file.websocket);
    policy.tls.extend(rules::of_tls(source, file.tls)?);
    for (i, text) in file.extra_ca.into_iter().enumerate() {
        let path = value::authorities(&text)
            .map_err(|problem| source.wrong(&format!("network.extra_ca[{i}]"), problem))?;
        append(&mut policy.extra_ca, path);
    }
    replace(&mut policy.unconfined_tunnels, file.unconfined_tunnels);
    replace(&mut policy.enable_socks5, file.enable_socks5);
    replace(&mut policy.transparent, file.transparent);
    replace(&mut policy.enable_socks5_udp, file.enable_socks5_udp);
    replace(&mut policy.allow_upstream_proxy, file.allow_upstream_proxy);
    upstream::overlay(&mut policy.upstream_proxy, source, file.upstream_proxy)?;
    unix_sockets::overlay(&mut policy.unix_sockets, source, file.unix_sockets)?;
    for (key, port, found) in [
        ("network.http_port", &mut policy.http_port, file.http_port),
        (
            "network.socks_port",
            &mut policy.socks_port,
            file.socks_port,
        ),
    ] {
        if let Some(found) = found {
            // Below 1024 a bind needs CAP_NET_BIND_SERVICE, which the jail does not have.
            *port = value::within(source, key, found, 1024..=u16::MAX)?;
        }
    }
    for registry in file.registries {
        append(&mut policy.registries, registry);
    }
    policy
        .rules
        .extend(rules::of_domains(source, file.domains)?);
    policy.rules.extend(rules::of_entries(source, file.rules)?);
    credentials::lay(&mut policy.credentials, source, file.credentials)?;
    for (i, text) in file.addresses.allow.iter().enumerate() {
        let key = format!("network.addresses.allow[{i}]");
        append(
            &mut policy.addresses.allow,
            value::address_range(source, &key, text)?,
        );
    }
    for (i, text) in file.dns.servers.iter().enumerate() {
        let key = format!("network.dns.servers[{i}]");
        append(
            &mut policy.dns.servers,
            value::name_server(source, &key, text)?,
        );
    }
    limits(&mut policy.limits, source, &file.limits)?;
    budgets::overlay(&mut policy.budgets, source, file.budgets)?;
    budgets::rules(&mut policy.budget_rules, source, file.budget_rules)
}

fn limits(
    policy: &mut NetworkLimits,
    source: Source<'_>,
    file: &LimitsFile,
) -> Result<(), ProfileError> {
    const DAY: u32 = 24 * 60 * 60;
    for (key, limit, found, range) in [
        (
            "connections",
            &mut policy.connections,
            file.connections,
            1..=65_535,
        ),
        // Below 1 KiB no client gets through; 1 MiB is more than any server takes.
        (
            "head_bytes",
            &mut policy.head_bytes,
            file.head_bytes,
            1024..=1 << 20,
        ),
        (
            "head_seconds",
            &mut policy.head_seconds,
            file.head_seconds,
            1..=DAY,
        ),
        (
            "dial_seconds",
            &mut policy.dial_seconds,
            file.dial_seconds,
            1..=DAY,
        ),
        (
            "idle_seconds",
            &mut policy.idle_seconds,
            file.idle_seconds,
            1..=DAY,
        ),
    ] {
        if let Some(found) = found {
            *limit = value::within(source, &format!("network.limits.{key}"), found, range)?;
        }
    }
    Ok(())
}

fn environment(
    policy: &mut EnvironmentPolicy,
    source: Source<'_>,
    file: EnvironmentFile,
) -> Result<(), ProfileError> {
    for (i, name) in file.pass.into_iter().enumerate() {
        value::variable(&name)
            .map_err(|problem| source.wrong(&format!("environment.pass[{i}]"), problem))?;
        append(&mut policy.pass, name);
    }
    for (name, text) in file.set {
        let key = format!("environment.set.{name}");
        value::variable(&name).map_err(|problem| source.wrong(&key, problem))?;
        value::variable_text(&text).map_err(|problem| source.wrong(&key, problem))?;
        policy.set.insert(name, text);
    }
    Ok(())
}

fn codex(policy: &mut CodexPolicy, file: CodexFile) {
    replace(&mut policy.enabled, file.enabled);
    merge(&mut policy.config, file.config);
}

/// Tables merge key by key, anything else is replaced.
fn merge(base: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(toml::Value::Table(inner)), toml::Value::Table(table)) => merge(inner, table),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

fn replace<T>(slot: &mut T, found: Option<T>) {
    if let Some(found) = found {
        *slot = found;
    }
}

/// Adds an entry that is not there yet.
pub(super) fn append<T: PartialEq>(list: &mut Vec<T>, entry: T) {
    if !list.contains(&entry) {
        list.push(entry);
    }
}
