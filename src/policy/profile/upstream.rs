//! `[network.upstream_proxy]`: file form → valid form.

use std::path::PathBuf;

use serde::Deserialize;

use super::error::ProfileError;
use super::read::{Source, append};
use crate::policy::upstream::{NoProxy, ProxyUrl, ResolveNames, UpstreamPolicy};

/// The table as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct UpstreamFile {
    pub(super) url: Option<String>,
    pub(super) password_file: Option<String>,
    pub(super) no_proxy: Vec<String>,
    pub(super) resolve: Option<ResolveNames>,
}

/// Lays the table over what the extended profile says. Another proxy does not inherit the password
/// that was meant for the one before.
pub(super) fn overlay(
    policy: &mut UpstreamPolicy,
    source: Source<'_>,
    file: UpstreamFile,
) -> Result<(), ProfileError> {
    if let Some(text) = file.url {
        let key = "network.upstream_proxy.url";
        let url = ProxyUrl::parse(&text).map_err(|problem| source.wrong(key, problem))?;
        policy.url = Some(url);
        policy.password_file = None;
    }
    if let Some(path) = file.password_file {
        policy.password_file = Some(password_file(source, path)?);
    }
    for (i, text) in file.no_proxy.iter().enumerate() {
        let key = format!("network.upstream_proxy.no_proxy[{i}]");
        let entry = NoProxy::parse(text).map_err(|problem| source.wrong(&key, problem))?;
        append(&mut policy.no_proxy, entry);
    }
    if file.resolve.is_some() {
        policy.resolve = file.resolve;
    }
    Ok(())
}

/// Never below the workspace: the session could write it.
fn password_file(source: Source<'_>, path: String) -> Result<PathBuf, ProfileError> {
    let placed = path.starts_with('/') || path.starts_with("~/");
    if placed && !path.chars().any(char::is_control) {
        return Ok(path.into());
    }
    let problem = "a path is accepted as \"/abs/path\" and \"~/below/home\"";
    Err(source.wrong("network.upstream_proxy.password_file", problem))
}
