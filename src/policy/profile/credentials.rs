//! `[[network.credentials]]`: layers, and what can only be said of the merged profile.

use super::error::ProfileError;
use super::file::entry;
use super::read::Source;
use super::{NetworkPolicy, Profile, TlsHandling};
use crate::policy::credential::{Credential, Inject};
use crate::policy::credential_file::{CredentialError, CredentialFile};
use crate::policy::host::DomainName;
use crate::policy::{Host, HostPattern};

/// The most of them; each is looked for in every byte that the gate sees.
const MAX: usize = 32;

/// Lays one file's entries over those it extends: one of the same name is replaced.
pub(super) fn lay(
    credentials: &mut Vec<Credential>,
    source: Source<'_>,
    entries: Vec<toml::Value>,
) -> Result<(), ProfileError> {
    let mut own: Vec<String> = Vec::new();
    for (i, value) in entries.into_iter().enumerate() {
        let key = format!("network.credentials[{i}]");
        let file: CredentialFile = entry(source.profile, &key, value)?;
        let wrong =
            |error: CredentialError| source.wrong(&format!("{key}.{}", error.key), error.problem);
        let credential = Credential::try_from(file).map_err(wrong)?;
        if own.contains(&credential.name) {
            let problem = format!(
                "{:?} is there already; give each its own name",
                credential.name
            );
            return Err(source.wrong(&format!("{key}.name"), problem));
        }
        own.push(credential.name.clone());
        match credentials
            .iter_mut()
            .find(|other| other.name == credential.name)
        {
            Some(inherited) => *inherited = credential,
            None => credentials.push(credential),
        }
    }
    Ok(())
}

/// What only the merged profile tells: whether the gate sees the requests at all, and whether two
/// credentials want the same place.
pub(super) fn check(profile: &Profile) -> Result<(), ProfileError> {
    let credentials = &profile.network.credentials;
    let wrong = |credential: &Credential, problem: String| {
        let key = format!("network.credentials.{:?}", credential.name);
        Err(ProfileError::key(&profile.name, &key, problem))
    };
    if let Some(one) = credentials.get(MAX) {
        return wrong(one, format!("more than {MAX} credentials; leave some out"));
    }
    for (i, credential) in credentials.iter().enumerate() {
        if !is_inspected(&profile.network, &credential.host) {
            let host = &credential.host;
            let problem = format!(
                "TLS to {host} is not looked into, so the value could not be put in; \
                 add [network.tls] \"{host}\" = \"inspect\""
            );
            return wrong(credential, problem);
        }
        let others = || credentials.iter().take(i);
        if let Some(other) = others().find(|other| both_always(credential, other)) {
            let problem = format!(
                "inject = \"always\" for a header that {:?} always sets there too; leave one of them out",
                other.name
            );
            return wrong(credential, problem);
        }
        if let Some(other) =
            others().find(|other| credential.env.is_some() && other.env == credential.env)
        {
            let problem = format!(
                "its variable is that of {:?} too; set env to another",
                other.name
            );
            return wrong(credential, problem);
        }
    }
    Ok(())
}

fn both_always(one: &Credential, other: &Credential) -> bool {
    one.inject == Inject::Always
        && other.inject == Inject::Always
        && one.header == other.header
        && one.host == other.host
        && one.ports.iter().any(|port| other.ports.contains(port))
        && (one.paths.is_empty() || other.paths.is_empty() || one.paths == other.paths)
}

/// Whether the gate looks into TLS to these hosts: the narrowest entry of `[network.tls]` that speaks
/// of all of them decides, as in [`crate::policy::Ruleset`].
pub(super) fn is_inspected(policy: &NetworkPolicy, pattern: &HostPattern) -> bool {
    let entry = |pattern: &HostPattern| policy.tls.get(pattern).copied();
    let (name, own) = match pattern {
        HostPattern::Exact(Host::Name(name)) | HostPattern::AtOrBelow(name) => {
            let exact = entry(&HostPattern::Exact(Host::Name(name.clone())));
            let own = match pattern {
                HostPattern::AtOrBelow(_) => None,
                HostPattern::Exact(_) | HostPattern::Below(_) | HostPattern::Any => exact,
            };
            (
                name,
                own.or_else(|| entry(&HostPattern::AtOrBelow(name.clone()))),
            )
        }
        HostPattern::Below(name) => {
            let below = entry(&HostPattern::Below(name.clone()));
            (
                name,
                below.or_else(|| entry(&HostPattern::AtOrBelow(name.clone()))),
            )
        }
        HostPattern::Exact(Host::Addr(_)) | HostPattern::Any => return false,
    };
    let inherited = || {
        parents(name).find_map(|parent| {
            entry(&HostPattern::Below(parent.clone()))
                .or_else(|| entry(&HostPattern::AtOrBelow(parent)))
        })
    };
    own.or_else(inherited)
        .unwrap_or_else(|| policy.tls_default())
        == TlsHandling::Inspect
}

/// The names above this one, the nearest first.
fn parents(name: &DomainName) -> impl Iterator<Item = DomainName> {
    std::iter::successors(name.as_str().split_once('.'), |(_, rest)| {
        rest.split_once('.')
    })
    .filter_map(|(_, parent)| DomainName::parse(parent).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_narrowest_entry_says_whether_tls_is_looked_into() {
        let policy = |mitm: bool, entries: &[(&str, TlsHandling)]| NetworkPolicy {
            mitm,
            tls: entries
                .iter()
                .map(|(pattern, handling)| (HostPattern::parse(pattern).unwrap(), *handling))
                .collect(),
            ..NetworkPolicy::default()
        };
        let (inspect, tunnel) = (TlsHandling::Inspect, TlsHandling::Tunnel);
        for (pattern, mitm, entries, expected) in [
            ("a.b.test", false, vec![], false),
            ("a.b.test", true, vec![], true),
            ("a.b.test", false, vec![("a.b.test", inspect)], true),
            ("a.b.test", true, vec![("a.b.test", tunnel)], false),
            ("a.b.test", false, vec![("*.b.test", inspect)], true),
            ("b.test", false, vec![("*.b.test", inspect)], false),
            ("b.test", false, vec![("**.b.test", inspect)], true),
            (
                "a.b.test",
                false,
                vec![("**.b.test", inspect), ("a.b.test", tunnel)],
                false,
            ),
            (
                "a.b.test",
                false,
                vec![("**.test", inspect), ("*.b.test", tunnel)],
                false,
            ),
            ("*.b.test", false, vec![("*.b.test", inspect)], true),
            ("*.b.test", false, vec![("b.test", inspect)], false),
            ("**.b.test", false, vec![("b.test", inspect)], false),
            ("**.b.test", false, vec![("**.b.test", inspect)], true),
            ("a.b.test", false, vec![("*", inspect)], true),
        ] {
            let host = HostPattern::parse(pattern).unwrap();
            let found = is_inspected(&policy(mitm, &entries), &host);
            assert_eq!(found, expected, "{pattern} {mitm} {entries:?}");
        }
    }
}
