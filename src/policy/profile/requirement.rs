//! The readers of a profile's values, for the requirements: one way to read a host, a rule or a path.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::de::DeserializeOwned;

use super::budgets::{self, Budgets};
use super::error::ProfileError;
use super::read::Source;
use super::resources::{self, ResourceLimits};
use super::{file, rules, value};
use crate::policy::rule::{HostPattern, Rule};
use crate::policy::unix_socket::parse_path;
use crate::policy::upstream::ProxyUrl;

/// A whole file.
pub(in crate::policy) fn file<T: DeserializeOwned>(
    place: &str,
    text: &str,
) -> Result<T, ProfileError> {
    let table: toml::Table = text
        .parse()
        .map_err(|error| ProfileError::syntax(place, text, &error))?;
    table
        .try_into()
        .map_err(|error| ProfileError::shape(place, "", &error))
}

/// One entry of an array of tables.
pub(in crate::policy) fn entry<T: DeserializeOwned>(
    place: &str,
    key: &str,
    value: toml::Value,
) -> Result<T, ProfileError> {
    file::entry(place, key, value)
}

/// A wrong value.
pub(in crate::policy) fn wrong(place: &str, key: &str, problem: impl fmt::Display) -> ProfileError {
    ProfileError::key(place, key, problem)
}

/// A list of which each entry is read alike.
fn list<T, U, E: fmt::Display>(
    place: &str,
    key: &str,
    entries: impl IntoIterator<Item = T>,
    read: impl Fn(T) -> Result<U, E>,
) -> Result<Vec<U>, ProfileError> {
    let read =
        |(i, entry)| read(entry).map_err(|problem| wrong(place, &format!("{key}[{i}]"), problem));
    entries.into_iter().enumerate().map(read).collect()
}

/// Paths of `[filesystem]`.
pub(in crate::policy) fn paths(
    place: &str,
    key: &str,
    entries: Vec<String>,
) -> Result<Vec<PathBuf>, ProfileError> {
    list(place, key, entries, |text| {
        let path = PathBuf::from(text);
        value::path(key, &path).map(|()| path)
    })
}

/// Hosts and patterns of hosts.
pub(in crate::policy) fn hosts(
    place: &str,
    key: &str,
    entries: Vec<String>,
) -> Result<Vec<HostPattern>, ProfileError> {
    list(place, key, entries, |text| HostPattern::parse(&text))
}

/// Upstream proxies.
pub(in crate::policy) fn proxies(
    place: &str,
    key: &str,
    entries: Vec<String>,
) -> Result<Vec<ProxyUrl>, ProfileError> {
    list(place, key, entries, |text| ProxyUrl::parse(&text))
}

/// Ranges of addresses.
pub(in crate::policy) fn ranges(
    place: &str,
    key: &str,
    entries: &[String],
) -> Result<Vec<IpNet>, ProfileError> {
    let read = |(i, text): (usize, &String)| {
        value::address_range(source(place), &format!("{key}[{i}]"), text)
    };
    entries.iter().enumerate().map(read).collect()
}

/// Files of certificates.
pub(in crate::policy) fn authorities(
    place: &str,
    key: &str,
    entries: Vec<String>,
) -> Result<Vec<PathBuf>, ProfileError> {
    list(place, key, entries, |text| value::authorities(&text))
}

/// Unix sockets.
pub(in crate::policy) fn sockets(
    place: &str,
    key: &str,
    entries: &[String],
) -> Result<Vec<PathBuf>, ProfileError> {
    list(place, key, entries, |text| parse_path(text))
}

/// `[network.domains]` and `[[network.rules]]`.
pub(in crate::policy) fn rules(
    place: &str,
    domains: BTreeMap<String, String>,
    entries: Vec<toml::Value>,
) -> Result<Vec<Rule>, ProfileError> {
    let mut read = rules::of_domains(source(place), domains)?;
    read.extend(rules::of_entries(source(place), entries)?);
    Ok(read)
}

/// `[network.budgets]`.
pub(in crate::policy) fn budgets(place: &str, table: toml::Table) -> Result<Budgets, ProfileError> {
    let mut read = Budgets::default();
    budgets::overlay(&mut read, source(place), table)?;
    Ok(read)
}

/// `[limits]`.
pub(in crate::policy) fn limits(
    place: &str,
    table: toml::Table,
) -> Result<ResourceLimits, ProfileError> {
    let mut read = ResourceLimits::default();
    resources::overlay(&mut read, source(place), table)?;
    Ok(read)
}

/// Rules carry the name of the file: they are not the profile's.
fn source(place: &str) -> Source<'_> {
    Source {
        profile: place,
        inherited: true,
    }
}
