//! `.portcullis.toml`, the file of a project: whoever wrote the project wrote it, so it may only take
//! away. Its form has no key that could grant anything, and of two values the narrower one counts.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use super::budgets::{self, Budgets};
use super::error::ProfileError;
use super::read::{Source, append};
use super::resources::{self, ResourceLimits};
use super::{FilesystemMode, NetworkMode, Profile, Unlisted, WebsocketPolicy, rules, value};
use crate::policy::{Effect, Rule};

/// The name of the file.
pub const PROJECT_FILE: &str = ".portcullis.toml";

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
struct ProjectFile {
    filesystem: FilesystemNarrowing,
    network: NetworkNarrowing,
    limits: toml::Table,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
struct FilesystemNarrowing {
    mode: Option<FilesystemMode>,
    masked: Vec<String>,
    protected: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
struct NetworkNarrowing {
    enabled: Option<bool>,
    mode: Option<NetworkMode>,
    default: Option<Unlisted>,
    websocket: Option<WebsocketPolicy>,
    enable_socks5_udp: Option<bool>,
    /// Values stay text: the error for a wrong one names the host.
    domains: BTreeMap<String, String>,
    rules: Vec<toml::Value>,
    budgets: toml::Table,
}

impl Profile {
    /// Lays the file of a project, by its path, over the profile.
    pub(super) fn narrow(&mut self, path: &str, text: &str) -> Result<(), ProfileError> {
        let table: toml::Table = text
            .parse()
            .map_err(|error| ProfileError::syntax(path, text, &error))?;
        let file: ProjectFile = table
            .try_into()
            .map_err(|error| only_narrows(ProfileError::shape(path, "", &error)))?;
        let source = Source {
            profile: path,
            inherited: true,
        };
        // What the jail could remove would not bind the next session.
        append(&mut self.filesystem.protected, PROJECT_FILE.into());
        self.narrow_filesystem(source, file.filesystem)?;
        self.narrow_network(source, file.network)?;
        let mut found = ResourceLimits::default();
        resources::overlay(&mut found, source, file.limits)?;
        self.limits.hold_to(&found);
        Ok(())
    }

    fn narrow_filesystem(
        &mut self,
        source: Source<'_>,
        file: FilesystemNarrowing,
    ) -> Result<(), ProfileError> {
        let policy = &mut self.filesystem;
        policy.mode = file.mode.map_or(policy.mode, |mode| mode.min(policy.mode));
        for (key, list, found) in [
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

    fn narrow_network(
        &mut self,
        source: Source<'_>,
        file: NetworkNarrowing,
    ) -> Result<(), ProfileError> {
        let policy = &mut self.network;
        policy.enabled &= file.enabled.unwrap_or(true);
        policy.enable_socks5_udp &= file.enable_socks5_udp.unwrap_or(true);
        if file.mode == Some(NetworkMode::Limited) {
            policy.mode = NetworkMode::Limited;
        }
        if file.default == Some(Unlisted::Deny) {
            policy.default = Unlisted::Deny;
        }
        if let Some(found) = file.websocket
            && policy.websocket == WebsocketPolicy::Allow
        {
            policy.websocket = found;
        }
        let domains = rules::of_domains(source, file.domains)?;
        let entries = rules::of_entries(source, file.rules)?;
        for rule in domains.into_iter().chain(entries) {
            policy.rules.push(denying(source, rule)?);
        }
        let mut found = Budgets::default();
        budgets::overlay(&mut found, source, file.budgets)?;
        policy.budgets.hold_to(&found);
        Ok(())
    }
}

/// A project may deny. An allow would widen; so would an ask, for a host of which nothing else speaks.
fn denying(source: Source<'_>, rule: Rule) -> Result<Rule, ProfileError> {
    if rule.effect == Effect::Deny {
        return Ok(rule);
    }
    let id = rule.id.as_str();
    let key = id.split_once(": ").map_or(id, |(_, key)| key);
    let problem = "a project's file may only narrow what the profile grants; \"deny\" is accepted, allow \
                   the host in your own profile or with --allow";
    Err(source.wrong(key, problem))
}

/// A key that a profile has and this form has not deserves another word than "unknown".
fn only_narrows(mut error: ProfileError) -> ProfileError {
    if let ProfileError::Key { problem, .. } = &mut error
        && problem.starts_with("unknown field")
    {
        problem.push_str("; a project's file may only narrow what the profile grants");
    }
    error
}
