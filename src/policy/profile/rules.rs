//! `[network.domains]` and `[[network.rules]]` → rules that the gate can enforce.

use std::collections::BTreeMap;

use super::error::{ProfileError, not_one_of};
use super::file::{RuleFile, entry};
use super::read::Source;
use crate::policy::path::PathPattern;
use crate::policy::{Effect, HostPattern, Method, Port, Protocol, Rule, RuleId, TlsHandling};

/// The rules of `[network.domains]`.
pub(super) fn of_domains(
    source: Source<'_>,
    domains: BTreeMap<String, String>,
) -> Result<Vec<Rule>, ProfileError> {
    domains
        .into_iter()
        .map(|(pattern, action)| {
            let key = format!("network.domains.{pattern:?}");
            let effect = effect(source, &key, &action)?;
            let host = host(source, &key, &pattern, effect)?;
            Ok(Rule::new(
                id(source, &format!("network.domains.\"{host}\"")),
                host,
                effect,
            ))
        })
        .collect()
}

/// The rules of `[[network.rules]]`.
pub(super) fn of_entries(
    source: Source<'_>,
    entries: Vec<toml::Value>,
) -> Result<Vec<Rule>, ProfileError> {
    entries
        .into_iter()
        .enumerate()
        .map(|(i, value)| {
            let key = format!("network.rules[{i}]");
            let file: RuleFile = entry(source.profile, &key, value)?;
            rule(source, &key, &file)
        })
        .collect()
}

/// The entries of `[network.tls]`.
pub(super) fn of_tls(
    source: Source<'_>,
    entries: BTreeMap<String, String>,
) -> Result<BTreeMap<HostPattern, TlsHandling>, ProfileError> {
    entries
        .into_iter()
        .map(|(pattern, handling)| {
            let key = format!("network.tls.{pattern:?}");
            let host =
                HostPattern::parse(&pattern).map_err(|problem| source.wrong(&key, problem))?;
            let handling = match handling.as_str() {
                "inspect" => TlsHandling::Inspect,
                "tunnel" => TlsHandling::Tunnel,
                other => {
                    let accepted = ["inspect", "tunnel"];
                    return Err(not_one_of(source.profile, &key, other, &accepted));
                }
            };
            Ok((host, handling))
        })
        .collect()
}

fn protocol(
    source: Source<'_>,
    key: &str,
    file: &RuleFile,
    effect: Effect,
) -> Result<Protocol, ProfileError> {
    let Some(text) = file.protocol.as_deref() else {
        return Ok(Protocol::Web);
    };
    let key = format!("{key}.protocol");
    let protocol = match text {
        "web" => Protocol::Web,
        "tcp" => Protocol::Tcp,
        other => return Err(not_one_of(source.profile, &key, other, &["web", "tcp"])),
    };
    if protocol == Protocol::Tcp && effect == Effect::Deny {
        let problem = "a deny covers every protocol; leave the key out";
        return Err(source.wrong(&key, problem));
    }
    if protocol == Protocol::Tcp && (file.methods.is_some() || file.paths.is_some()) {
        let problem = "bytes of any kind have no methods and no paths; leave one of them out";
        return Err(source.wrong(&key, problem));
    }
    if protocol == Protocol::Tcp && file.ports.is_none() {
        let problem = "name the ports, as ports = [22]";
        return Err(source.wrong(&key, problem));
    }
    Ok(protocol)
}

fn rule(source: Source<'_>, key: &str, file: &RuleFile) -> Result<Rule, ProfileError> {
    let effect = effect(source, &format!("{key}.action"), &file.action)?;
    Ok(Rule {
        id: id(source, key),
        host: host(source, &format!("{key}.host"), &file.host, effect)?,
        ports: list(
            source,
            &format!("{key}.ports"),
            file.ports.as_deref(),
            |&number| Port::new(number).ok_or("0 is no port; accepted are 1 to 65535"),
        )?,
        methods: list(
            source,
            &format!("{key}.methods"),
            file.methods.as_deref(),
            |text| Method::try_from(text.clone()),
        )?,
        paths: list(
            source,
            &format!("{key}.paths"),
            file.paths.as_deref(),
            |text| PathPattern::parse(text),
        )?,
        protocol: protocol(source, key, file, effect)?,
        effect,
    })
}

/// An optional list: absent means the default, empty would mean nothing and is refused.
pub(super) fn list<T, U, E: std::fmt::Display>(
    source: Source<'_>,
    key: &str,
    found: Option<&[T]>,
    read: impl Fn(&T) -> Result<U, E>,
) -> Result<Vec<U>, ProfileError> {
    let Some(found) = found else {
        return Ok(Vec::new());
    };
    if found.is_empty() {
        let problem = "an empty list matches nothing; list what is meant, or leave the key out for the default";
        return Err(source.wrong(key, problem));
    }
    found
        .iter()
        .enumerate()
        .map(|(i, item)| {
            read(item).map_err(|problem| source.wrong(&format!("{key}[{i}]"), problem))
        })
        .collect()
}

pub(super) fn host(
    source: Source<'_>,
    key: &str,
    text: &str,
    effect: Effect,
) -> Result<HostPattern, ProfileError> {
    let pattern = HostPattern::parse(text).map_err(|problem| source.wrong(key, problem))?;
    if pattern == HostPattern::Any && effect == Effect::Deny {
        return Err(source.wrong(key, DENY_ALL));
    }
    Ok(pattern)
}

/// What to write instead of `"*" = "deny"`.
pub(super) const DENY_ALL: &str = "\"*\" cannot be denied: what no rule allows is denied anyway; to cut the network off, set network.enabled = false";

pub(super) fn effect(source: Source<'_>, key: &str, action: &str) -> Result<Effect, ProfileError> {
    match action {
        "allow" => Ok(Effect::Allow),
        "ask" => Ok(Effect::Ask),
        "deny" => Ok(Effect::Deny),
        other => {
            let accepted = ["allow", "ask", "deny"];
            Err(not_one_of(source.profile, key, other, &accepted))
        }
    }
}

pub(super) fn id(source: Source<'_>, key: &str) -> RuleId {
    if source.inherited {
        RuleId::new(format!("{}: {key}", source.profile))
    } else {
        RuleId::new(key)
    }
}
