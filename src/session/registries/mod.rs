//! Package registries: `network.registries` → rules, at launch.
//!
//! Owns: asking each client of this machine which hosts it talks to. Trusts: the caller's own
//! configuration and environment, and the clients in `PATH`. Never: anything in a folder that a session
//! can write (a `.npmrc`, `pip.conf` or `.cargo` of the project, a virtual environment's `pip`): the code
//! in the jail may have put it there to widen its own policy, or to be run outside. Never the network:
//! clients are asked about their configuration alone.
//!
//! Reading order: this file → [`client`] (what may be run and read) → one file a client.

mod apt;
mod cargo;
mod client;
mod npm;
mod pip;

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};

use super::profiles::Environment;
use super::trust::writable_roots;
use crate::policy::{
    DomainName, Effect, EgressRequest, Host, HostPattern, Port, Profile, Protocol, Registry, Rule,
    RuleId,
};
use client::Trusted;

/// What was found out about one registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The registry.
    pub registry: Registry,
    /// Where its client goes; empty if nothing could be found.
    pub places: Vec<Place>,
    /// What kept us from finding more, for a person.
    pub problem: Option<String>,
}

/// One destination of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The host.
    pub host: HostPattern,
    /// The port of the URL that named it.
    pub port: Port,
    /// Where it stands, as `npm config list`.
    pub source: String,
}

/// Turns `network.registries` into rules. The second part tells where each host was found.
pub fn resolve(
    mut profile: Profile,
    environment: &Environment,
    workspace: &Path,
) -> (Profile, Vec<Found>) {
    let home = environment.get(OsStr::new("HOME")).map(PathBuf::from);
    let writable = writable_roots(&profile, home.as_deref(), workspace);
    let registries = std::mem::take(&mut profile.network.registries);
    let found = discover(&registries, environment, &writable);
    profile
        .network
        .rules
        .extend(found.iter().flat_map(Found::rules));
    (profile, found)
}

/// As [`resolve`], for a profile that is read again: a client that was asked before is not asked again.
pub fn resolve_known(
    mut profile: Profile,
    environment: &Environment,
    workspace: &Path,
    known: &mut Vec<Found>,
) -> Profile {
    let registries = std::mem::take(&mut profile.network.registries);
    let is_new = |registry: &&Registry| !known.iter().any(|found| found.registry == **registry);
    let new: Vec<Registry> = registries.iter().filter(is_new).copied().collect();
    if !new.is_empty() {
        let home = environment.get(OsStr::new("HOME")).map(PathBuf::from);
        let writable = writable_roots(&profile, home.as_deref(), workspace);
        known.extend(discover(&new, environment, &writable));
    }
    let meant = known
        .iter()
        .filter(|found| registries.contains(&found.registry));
    profile.network.rules.extend(meant.flat_map(Found::rules));
    profile
}

/// Asks the clients, all at once. Programs and files below `writable` do not count.
pub fn discover(
    registries: &[Registry],
    environment: &Environment,
    writable: &[PathBuf],
) -> Vec<Found> {
    // Whom to trust takes a look at every folder of PATH; most sessions ask nobody.
    if registries.is_empty() {
        return Vec::new();
    }
    let trusted = Trusted::new(environment, writable);
    let ask = |registry: Registry| match registry {
        Registry::Pip => pip::places(&trusted),
        Registry::Npm => npm::places(&trusted),
        Registry::Cargo => cargo::places(&trusted),
        Registry::Apt => apt::places(&trusted),
    };
    std::thread::scope(|scope| {
        let asked: Vec<_> = registries
            .iter()
            .map(|&registry| (registry, scope.spawn(move || ask(registry))))
            .collect();
        asked
            .into_iter()
            .map(|(registry, answer)| {
                let crashed = |_| Err("asking its client failed".to_owned());
                Found::new(registry, answer.join().unwrap_or_else(crashed))
            })
            .collect()
    })
}

impl Found {
    fn new(registry: Registry, answer: Result<Vec<Place>, String>) -> Self {
        let (found, problem) = match answer {
            Ok(found) if found.is_empty() => {
                (found, Some("its configuration names no host".to_owned()))
            }
            Ok(found) => (found, None),
            Err(problem) => (Vec::new(), Some(problem)),
        };
        let mut places: Vec<Place> = Vec::new();
        for place in found {
            if !places
                .iter()
                .any(|p| p.host == place.host && p.port == place.port)
            {
                places.push(place);
            }
        }
        Self {
            registry,
            places,
            problem,
        }
    }

    /// One rule for each destination.
    pub fn rules(&self) -> impl Iterator<Item = Rule> {
        self.places.iter().map(|place| Rule {
            id: RuleId::new(format!("registries.{}", name(self.registry))),
            host: place.host.clone(),
            ports: vec![place.port],
            methods: Vec::new(),
            paths: Vec::new(),
            protocol: Protocol::Web,
            effect: Effect::Allow,
        })
    }
}

/// As the profile writes it.
fn name(registry: Registry) -> &'static str {
    match registry {
        Registry::Pip => "pip",
        Registry::Npm => "npm",
        Registry::Cargo => "cargo",
        Registry::Apt => "apt",
    }
}

/// Lines for a person, one a destination.
impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = name(self.registry);
        let mut first = true;
        for Place { host, port, source } in &self.places {
            let separator = if first { "" } else { "\n" };
            write!(f, "{separator}{name}: {host} port {port} (from {source})")?;
            first = false;
        }
        match &self.problem {
            Some(problem) => write!(f, "{name}: not found: {problem}"),
            None => Ok(()),
        }
    }
}

/// The destination of an `http` or `https` URL. A client's own configuration may hold a name and
/// password, which stay here.
fn place(url: &str, source: &str) -> Option<Place> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let (_, bare) = authority.rsplit_once('@').unwrap_or(("", authority));
    let scheme = if scheme == "http" { "http" } else { "https" };
    let request = EgressRequest::parse(&format!("{scheme}://{bare}")).ok()?;
    Some(Place {
        host: HostPattern::Exact(request.host),
        port: request.port,
        source: source.to_owned(),
    })
}

/// Every `http` or `https` URL in a client's words, as a destination.
fn places_in<'a>(text: &'a str, source: &'a str) -> impl Iterator<Item = Place> + 'a {
    text.split(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',' | '[' | ']' | '\\'))
        .filter_map(|word| {
            word.find("http://")
                .or_else(|| word.find("https://"))
                .and_then(|at| word.get(at..))
        })
        .filter_map(move |url| place(url, source))
}

/// The registrable domain of a host and everything below it: for a client whose downloads come from a
/// sister of the host that it names.
fn family(host: &HostPattern) -> Option<HostPattern> {
    let HostPattern::Exact(Host::Name(name)) = host else {
        return None;
    };
    let domain = psl::domain_str(name.as_str())?;
    DomainName::parse(domain).ok().map(HostPattern::AtOrBelow)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Vec<String> {
        places_in(text, "x")
            .map(|p| format!("{}:{}", p.host, p.port))
            .collect()
    }

    #[test]
    fn a_url_becomes_its_host_and_port_without_its_secret() {
        assert_eq!(
            shown("'https://user:p%40ss@mirror.test:8443/simple/'"),
            ["mirror.test:8443"]
        );
        assert_eq!(
            shown("http://a.test https://b.test/x,\nsparse+https://c.test"),
            ["a.test:80", "b.test:443", "c.test:443"]
        );
        assert_eq!(
            shown("/opt/wheels file:///x ftp://a.test https:// http://127.1/"),
            [""; 0]
        );
    }

    #[test]
    fn a_family_is_the_registrable_domain_and_what_lies_below() {
        let of = |text| family(&HostPattern::parse(text).unwrap()).map(|p| p.to_string());
        assert_eq!(
            of("index.example.co.uk"),
            Some("**.example.co.uk".to_owned())
        );
        assert_eq!(of("192.0.2.1"), None);
    }
}
