//! Whether the gate sees what the rules speak of. Only the merged profile can tell: inspection may be
//! switched on by another layer, or by a flag.

use super::error::ProfileError;
use super::layer::is_name;
use super::{NetworkPolicy, Profile, TlsHandling};
use crate::policy::ruleset::Ruleset;
use crate::policy::{Host, HostPattern, Port, Protocol, Rule};

/// Refuses a rule about methods or paths that covers TLS which the gate does not open: it would refuse
/// every tunnel, or look like a fence and be none. A name for which a narrower entry of
/// `[network.tls]` says `tunnel` is no such mistake: there the rule refuses the tunnel, by intent.
pub(super) fn check(profile: &Profile) -> Result<(), ProfileError> {
    let suspect = |rule: &&Rule| {
        rule.is_restricted() && rule.protocol == Protocol::Web && rule.ports != [Port::HTTP]
    };
    let mut suspects = profile.network.rules.iter().filter(suspect).peekable();
    if suspects.peek().is_none() {
        return Ok(());
    }
    let ruleset = Ruleset::compile(&profile.network);
    match suspects.find(|rule| !inspected(&ruleset, &profile.network, &rule.host)) {
        None => Ok(()),
        Some(rule) => Err(hidden(profile, rule)),
    }
}

/// Whether TLS is looked into for all hosts of a pattern.
fn inspected(ruleset: &Ruleset, policy: &NetworkPolicy, pattern: &HostPattern) -> bool {
    let handling = match pattern {
        HostPattern::Exact(host) => ruleset.tls_for(host),
        HostPattern::Below(name) => ruleset.tls_below(name),
        HostPattern::AtOrBelow(name) => {
            let apex = Host::Name(name.clone());
            let own = HostPattern::Exact(apex.clone());
            let by_intent = policy.tls.contains_key(&own);
            if !by_intent && ruleset.tls_for(&apex) == TlsHandling::Tunnel {
                return false;
            }
            ruleset.tls_below(name)
        }
        HostPattern::Any => policy.tls_default(),
    };
    handling == TlsHandling::Inspect
}

/// The mistake, at the place where the rule was written.
fn hidden(profile: &Profile, rule: &Rule) -> ProfileError {
    let part = if rule.methods.is_empty() {
        "paths"
    } else {
        "methods"
    };
    // An identifier of an inherited rule starts with the name of its profile.
    let id = rule.id.as_str();
    let (written_in, key) = id
        .split_once(": ")
        .filter(|(name, _)| is_name(name))
        .unwrap_or((&profile.name, id));
    let problem = format!(
        "{part} cannot be seen inside TLS, and the rule covers ports other than 80 of {host}, which is \
         not inspected; set network.mitm = true, or [network.tls] \"{host}\" = \"inspect\", or restrict \
         the rule with ports = [80]",
        host = rule.host
    );
    ProfileError::key(written_in, &format!("{key}.{part}"), problem)
}
