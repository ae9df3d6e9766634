//! `[audit.bodies]`: whose bodies are kept beside the log.

use serde::{Deserialize, Serialize};

use super::error::ProfileError;
use super::read::{Source, append};
use super::{NetworkPolicy, Profile, TlsHandling, credentials, value};
use crate::policy::HostPattern;

/// What is kept of one body where the profile does not say.
const DEFAULT_BYTES: u32 = 64 << 10;

/// The most that may be kept of one body.
const MOST_BYTES: u32 = 1 << 20;

/// Whose bodies are kept, and how much of each. Without hosts: nobody's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BodiesPolicy {
    /// Hosts whose requests and answers have bodies kept.
    pub hosts: Vec<HostPattern>,
    /// Which of the two.
    pub which: BodySides,
    /// How much of each body, in bytes, from 1 to 1 MiB.
    pub max_bytes: u32,
}

impl Default for BodiesPolicy {
    fn default() -> Self {
        Self {
            hosts: Vec::new(),
            which: BodySides::default(),
            max_bytes: DEFAULT_BYTES,
        }
    }
}

impl BodiesPolicy {
    /// Whether it says nothing.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Which bodies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BodySides {
    /// Those of requests.
    Request,
    /// Those of answers.
    Response,
    /// Either.
    #[default]
    Both,
}

impl BodySides {
    /// Whether those of requests are among them.
    pub fn has_request(self) -> bool {
        matches!(self, Self::Request | Self::Both)
    }

    /// Whether those of answers are among them.
    pub fn has_response(self) -> bool {
        matches!(self, Self::Response | Self::Both)
    }
}

/// The table as a file has it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct BodiesFile {
    hosts: Vec<String>,
    which: Option<BodySides>,
    max_bytes: Option<u32>,
}

/// Lays one file's table over what it extends.
pub(super) fn overlay(
    policy: &mut BodiesPolicy,
    source: Source<'_>,
    file: &BodiesFile,
) -> Result<(), ProfileError> {
    for (i, text) in file.hosts.iter().enumerate() {
        let host = HostPattern::parse(text)
            .map_err(|problem| source.wrong(&format!("audit.bodies.hosts[{i}]"), problem))?;
        append(&mut policy.hosts, host);
    }
    if let Some(which) = file.which {
        policy.which = which;
    }
    if let Some(found) = file.max_bytes {
        let key = "audit.bodies.max_bytes";
        policy.max_bytes = value::within(source, key, found, 1..=MOST_BYTES)?;
    }
    Ok(())
}

/// What only the merged profile tells: whether the gate sees these bodies at all.
pub(super) fn check(profile: &Profile) -> Result<(), ProfileError> {
    let policy = &profile.audit.bodies;
    let wrong = |problem: String| {
        let key = "audit.bodies.hosts";
        Err(ProfileError::key(&profile.name, key, problem))
    };
    if policy.hosts.is_empty() && !policy.is_default() {
        return wrong(
            "names no host, so nothing is kept; name some, or leave [audit.bodies] out".to_owned(),
        );
    }
    match policy
        .hosts
        .iter()
        .find(|host| !is_inspected(&profile.network, host))
    {
        None => Ok(()),
        Some(host) => wrong(format!(
            "TLS to {host} is not looked into, so its bodies cannot be seen; set network.mitm = true, or \
             [network.tls] \"{host}\" = \"inspect\", or leave it out"
        )),
    }
}

fn is_inspected(network: &NetworkPolicy, host: &HostPattern) -> bool {
    match host {
        HostPattern::Any => network.tls_default() == TlsHandling::Inspect,
        HostPattern::Exact(_) | HostPattern::Below(_) | HostPattern::AtOrBelow(_) => {
            credentials::is_inspected(network, host)
        }
    }
}
