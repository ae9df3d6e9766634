//! Package registries: their hosts are found at launch in the clients' own configuration, so that a
//! mirror just works and no list goes stale.
//!
//! Owns: asking each client ([`pip`], [`npm`], [`cargo`], [`apt`]) and turning the answers into rules.
//! Trusts: the caller's and the host's configuration of these clients. Never: a project's own (`.npmrc`,
//! `pip.conf`, `.cargo/config.toml` in the workspace come from whoever wrote the workspace): every
//! client is asked from the root folder. Nothing is looked up or contacted.
//!
//! Reading order: [`resolve`] → one client, as [`npm`] → [`ask`].

mod apt;
mod ask;
mod cargo;
mod npm;
mod pip;

use std::collections::BTreeSet;
use std::fmt;

use crate::policy::{Effect, Host, HostPattern, Port, Profile, Registry, Rule, RuleId};

use super::caller::Caller;

/// What was found for one registry family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which.
    pub registry: Registry,
    /// The hosts, or why there are none.
    pub sites: Result<Vec<Site>, String>,
}

/// One place that a client fetches from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Site {
    /// Its host, as a pattern.
    pub pattern: String,
    /// Its port.
    pub port: Port,
}

impl Finding {
    /// The word in profiles and rule ids.
    fn word(&self) -> &'static str {
        match self.registry {
            Registry::Pip => "pip",
            Registry::Npm => "npm",
            Registry::Cargo => "cargo",
            Registry::Apt => "apt",
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "registries: {}: ", self.word())?;
        match &self.sites {
            Ok(sites) => {
                let list: Vec<_> = sites
                    .iter()
                    .map(|site| format!("{}:{}", site.pattern, site.port))
                    .collect();
                f.write_str(&list.join(", "))
            }
            Err(why) => write!(f, "none ({why})"),
        }
    }
}

/// Replaces `network.registries` by rules that allow what was found. Clients are asked at once; one that
/// is missing or says nothing leaves its registry unreachable, and the finding says why.
pub fn resolve(mut profile: Profile, caller: &Caller) -> (Profile, Vec<Finding>) {
    let wanted: BTreeSet<Registry> = std::mem::take(&mut profile.network.registries)
        .into_iter()
        .collect();
    let findings: Vec<Finding> = std::thread::scope(|scope| {
        let asked: Vec<_> = wanted
            .iter()
            .map(|registry| (*registry, scope.spawn(|| find(*registry, caller))))
            .collect();
        let answer =
            |(registry, thread): (Registry, std::thread::ScopedJoinHandle<'_, _>)| Finding {
                registry,
                sites: thread
                    .join()
                    .unwrap_or_else(|_| Err("asking its client failed".to_owned())),
            };
        asked.into_iter().map(answer).collect()
    });
    profile
        .network
        .rules
        .extend(findings.iter().flat_map(rules));
    (profile, findings)
}

fn find(registry: Registry, caller: &Caller) -> Result<Vec<Site>, String> {
    let sites = match registry {
        Registry::Pip => pip::sites(caller),
        Registry::Npm => npm::sites(caller),
        Registry::Cargo => cargo::sites(caller),
        Registry::Apt => apt::sites(caller),
    }?;
    if sites.is_empty() {
        Err("its configuration names no host".to_owned())
    } else {
        Ok(sites.into_iter().collect())
    }
}

/// One rule a site; a pattern that is none (a client may name anything) is left out.
fn rules(finding: &Finding) -> Vec<Rule> {
    let id = RuleId::new(format!("registries.{}", finding.word()));
    let sites = finding.sites.as_deref().unwrap_or_default();
    let rule = |site: &Site| {
        Some(Rule {
            id: id.clone(),
            host: HostPattern::parse(&site.pattern).ok()?,
            ports: vec![site.port],
            methods: Vec::new(),
            paths: Vec::new(),
            effect: Effect::Allow,
        })
    };
    sites.iter().filter_map(rule).collect()
}

/// The site that a URL names, whatever is around it; `None` for anything but http and https.
fn site(url: &str) -> Option<Site> {
    let url = url.trim().trim_matches(['"', '\'']);
    let url = url.strip_prefix("sparse+").unwrap_or(url);
    let (scheme, rest) = url.split_once("://")?;
    let default = match scheme {
        "https" => Port::HTTPS,
        "http" => Port::HTTP,
        _ => return None,
    };
    let authority = rest.split(['/', '?', '#']).next()?;
    // Credentials in the URL are the client's; the jail does not have its configuration.
    let authority = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !host.ends_with(':') && Port::parse(port).is_some() => {
            (host, Port::parse(port)?)
        }
        _ => (authority, default),
    };
    let host = Host::parse(host.trim_matches(['[', ']'])).ok()?;
    Some(Site {
        pattern: host.to_string(),
        port,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_gives_its_host_and_port_and_nothing_else() {
        let cases = [
            ("https://mirror.test/simple", Some(("mirror.test", 443))),
            ("http://Mirror.test:8080/x", Some(("mirror.test", 8080))),
            (
                "sparse+https://index.mirror.test/",
                Some(("index.mirror.test", 443)),
            ),
            (
                "'https://user:secret@mirror.test/simple'",
                Some(("mirror.test", 443)),
            ),
            ("https://[2001:db8::1]:8443/", Some(("2001:db8::1", 8443))),
            ("file:///opt/wheels", None),
            ("/opt/wheels", None),
            ("https://bad host/", None),
        ];
        for (url, expected) in cases {
            let found = site(url).map(|site| (site.pattern, site.port.number()));
            assert_eq!(
                found,
                expected.map(|(host, port)| (host.to_owned(), port)),
                "{url}"
            );
        }
    }
}
