//! Names to addresses, after a permit. Asks the given name servers and the given hosts lines, nothing
//! else: no search domain, no file. Trusts no answer: what comes out is [`PinnedAddrs`], every one of
//! them checked, and only they can be dialed, so a second answer of a name server (rebinding) has no
//! way in.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ProtocolConfig, ResolveHosts,
    ResolverConfig, ResolverOpts, ServerOrderingStrategy,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::Name;

use crate::audit::AuditEvent;
use crate::policy::{
    AddressClass, DenyReason, DomainName, Effect, Host, HostPattern, ProxyUrl, Rule, class_of_name,
};

use super::authorize::{Destination, Refusal};
use super::state::Gate;

/// Addresses used of one answer. Must exceed what large sites return (8 A and 8 AAAA).
const MAX_ADDRESSES: usize = 16;

/// Answers remembered, each for its TTL.
const CACHED_ANSWERS: u64 = 256;

/// For one question to one name server.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(3);

/// Addresses that may be dialed for one permit: each passed `AddressPolicy::check`.
#[derive(Debug)]
pub(super) struct PinnedAddrs(Vec<SocketAddr>);

impl PinnedAddrs {
    /// The addresses, in the order to try them.
    pub(super) fn into_vec(self) -> Vec<SocketAddr> {
        self.0
    }
}

/// Finds the addresses of a permitted host and keeps those that may be dialed. A [`Destination`] comes
/// from a permit alone.
pub(super) async fn pin(gate: &Gate, destination: &Destination) -> Result<PinnedAddrs, Refusal> {
    let name = match &destination.host {
        Host::Addr(address) => return checked(gate, &[*address]).pin(gate, destination),
        Host::Name(name) => name,
    };
    let answer = gate.resolver.lookup(name).await;
    let checked = checked(gate, answer.as_deref().unwrap_or_default());
    gate.reporter.note(AuditEvent::DnsQuery {
        conn: destination.conn,
        name: name.to_string(),
        addresses: checked.dialable.clone(),
        refused: checked
            .refused
            .iter()
            .map(|(address, _)| *address)
            .collect(),
    });
    match answer {
        Ok(_) => checked.pin(gate, destination),
        Err(error) => {
            let detail = error.to_string();
            Err(destination.fail(gate, DenyReason::ResolveFailed, detail))
        }
    }
}

/// Finds the addresses of an upstream proxy, for a permitted destination. The operator named it, so it
/// may be in a private network; in another refused class only if it was named as an address, or
/// `localhost`.
pub(super) async fn pin_proxy(
    gate: &Gate,
    destination: &Destination,
    proxy: &ProxyUrl,
) -> Result<PinnedAddrs, Refusal> {
    let to_socket = |address| SocketAddr::new(address, proxy.port.number());
    let name = match &proxy.host {
        Host::Addr(address) => return Ok(PinnedAddrs(vec![to_socket(*address)])),
        Host::Name(name) => name,
    };
    let answer = gate.resolver.lookup(name).await;
    let rules = gate.rules();
    let may_be = |address: &IpAddr| match rules.addresses().check(*address) {
        Ok(()) | Err(AddressClass::Private | AddressClass::SharedCgnat) => true,
        Err(AddressClass::Loopback) => class_of_name(name) == Some(AddressClass::Loopback),
        Err(_) => false,
    };
    let found = answer.as_deref().unwrap_or_default().iter().copied();
    let (addresses, refused): (Vec<IpAddr>, Vec<IpAddr>) = found.partition(may_be);
    gate.reporter.note(AuditEvent::DnsQuery {
        conn: destination.conn,
        name: name.to_string(),
        addresses: addresses.clone(),
        refused,
    });
    let detail = match answer {
        Ok(_) if !addresses.is_empty() => {
            return Ok(PinnedAddrs(addresses.into_iter().map(to_socket).collect()));
        }
        Ok(_) => format!("the upstream proxy {name} has no address that a proxy may have"),
        Err(error) => format!("the upstream proxy: {error}"),
    };
    Err(destination.fail(gate, DenyReason::UpstreamProxyFailed, detail))
}

/// Addresses, parted by what policy says of them.
#[derive(Debug, Default)]
struct Checked {
    dialable: Vec<IpAddr>,
    refused: Vec<(IpAddr, AddressClass)>,
}

fn checked(gate: &Gate, found: &[IpAddr]) -> Checked {
    let mut checked = Checked::default();
    let rules = gate.rules();
    for address in found {
        match rules.addresses().check(*address) {
            Ok(()) => checked.dialable.push(*address),
            Err(class) => checked.refused.push((*address, class)),
        }
    }
    checked
}

impl Checked {
    fn pin(self, gate: &Gate, destination: &Destination) -> Result<PinnedAddrs, Refusal> {
        if let (true, Some((_, class))) = (self.dialable.is_empty(), self.refused.first()) {
            let why: Vec<_> = self
                .refused
                .iter()
                .map(|(address, class)| format!("{address} is {class}"))
                .collect();
            let detail = format!(
                "no address of {} may be dialed: {}",
                destination.host,
                why.join(", ")
            );
            return Err(destination.fail(gate, DenyReason::AddressRefused(*class), detail));
        }
        let port = destination.port.number();
        let sockets = self
            .dialable
            .into_iter()
            .map(|address| SocketAddr::new(address, port));
        Ok(PinnedAddrs(sockets.collect()))
    }
}

/// Why a name has no addresses.
#[derive(Debug, thiserror::Error)]
pub(super) enum ResolveError {
    /// No search domain is applied, and multicast DNS is not ours.
    #[error("{0}: a single label or .local name is looked up only if a rule names it exactly")]
    LocalName(DomainName),
    /// The policy or the host has none.
    #[error("{0}: no name server is configured")]
    NoNameServer(DomainName),
    /// They say so.
    #[error("{0}: the name servers know no address")]
    NoAddress(DomainName),
    /// They do not answer.
    #[error("{name}: the name servers give no usable answer ({kind})")]
    NoAnswer {
        /// What was asked for.
        name: DomainName,
        /// Kind of failure.
        kind: &'static str,
    },
}

/// Asks name servers.
#[derive(Debug)]
pub(super) struct Resolver {
    /// `None` without name servers.
    dns: Option<Box<TokioResolver>>,
    /// The host's own entries, which win.
    hosts: HashMap<String, Vec<IpAddr>>,
    /// Names that an allow rule spells out: single labels and `.local` are asked for only then.
    spelled_out: HashSet<DomainName>,
}

impl Resolver {
    /// Sets up the resolver; sends nothing.
    pub(super) fn new(
        name_servers: &[SocketAddr],
        hosts_file: &str,
        rules: &[Rule],
    ) -> Result<Self, NetError> {
        let dns = if name_servers.is_empty() {
            None
        } else {
            let servers = name_servers.iter().map(name_server).collect();
            let config = ResolverConfig::from_parts(None, Vec::new(), servers);
            let provider = TokioRuntimeProvider::default();
            let builder = TokioResolver::builder_with_config(config, provider);
            Some(Box::new(builder.with_options(options()).build()?))
        };
        Ok(Self {
            dns,
            hosts: read_hosts(hosts_file),
            spelled_out: rules.iter().filter_map(local_name_of).collect(),
        })
    }

    /// The same, which also asks for these names where they are single labels: the operator named them.
    pub(super) fn spelling_out(mut self, names: impl Iterator<Item = DomainName>) -> Self {
        self.spelled_out.extend(names);
        self
    }

    /// Whether a name may be looked up at all: a single label or `.local` only if it was spelled out.
    pub(super) fn knows_whose(&self, name: &DomainName) -> Result<(), ResolveError> {
        if is_local(name) && !self.spelled_out.contains(name) {
            return Err(ResolveError::LocalName(name.clone()));
        }
        Ok(())
    }

    /// Every address of a name. Only for a name that a permit was given for.
    async fn lookup(&self, name: &DomainName) -> Result<Vec<IpAddr>, ResolveError> {
        if let Some(addresses) = self.hosts.get(name.as_str()) {
            return Ok(addresses.clone());
        }
        self.knows_whose(name)?;
        let Some(dns) = &self.dns else {
            return Err(ResolveError::NoNameServer(name.clone()));
        };
        let no_answer = |kind| ResolveError::NoAnswer {
            name: name.clone(),
            kind,
        };
        let mut absolute = Name::from_ascii(name.as_str()).map_err(|_| no_answer("name"))?;
        absolute.set_fqdn(true);
        match dns.lookup_ip(absolute).await {
            Ok(answer) => {
                let mut addresses: Vec<_> = answer.iter().take(MAX_ADDRESSES).collect();
                addresses.dedup();
                if addresses.is_empty() {
                    return Err(ResolveError::NoAddress(name.clone()));
                }
                Ok(addresses)
            }
            Err(error) if error.is_no_records_found() || error.is_nx_domain() => {
                Err(ResolveError::NoAddress(name.clone()))
            }
            Err(NetError::Timeout) => Err(no_answer("timeout")),
            Err(_) => Err(no_answer("failure")),
        }
    }
}

fn options() -> ResolverOpts {
    let mut options = ResolverOpts::default();
    options.timeout = QUESTION_TIMEOUT;
    options.attempts = 2;
    options.ip_strategy = LookupIpStrategy::Ipv6AndIpv4;
    options.cache_size = CACHED_ANSWERS;
    options.use_hosts_file = ResolveHosts::Never;
    options.num_concurrent_reqs = 1;
    options.try_tcp_on_error = true;
    options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
    options
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let on_port = |protocol| {
        let mut connection = ConnectionConfig::new(protocol);
        connection.port = address.port();
        connection
    };
    let connections = vec![on_port(ProtocolConfig::Udp), on_port(ProtocolConfig::Tcp)];
    NameServerConfig::new(address.ip(), true, connections)
}

/// A single label would be completed by a search domain elsewhere; `.local` belongs to multicast DNS
/// (RFC 6762 section 3).
fn is_local(name: &DomainName) -> bool {
    name.as_str()
        .rsplit_once('.')
        .is_none_or(|(_, last)| last == "local")
}

fn local_name_of(rule: &Rule) -> Option<DomainName> {
    match (&rule.host, rule.effect) {
        (HostPattern::Exact(Host::Name(name)), Effect::Allow) if is_local(name) => {
            Some(name.clone())
        }
        _ => None,
    }
}

/// Reads hosts(5): an address, then its names. Lines that are not that are skipped, as getaddrinfo(3)
/// does.
fn read_hosts(text: &str) -> HashMap<String, Vec<IpAddr>> {
    let mut hosts: HashMap<String, Vec<IpAddr>> = HashMap::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let Some(Ok(address)) = words.next().map(str::parse::<IpAddr>) else {
            continue;
        };
        for name in words {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            let addresses = hosts.entry(name).or_default();
            if addresses.len() < MAX_ADDRESSES && !addresses.contains(&address) {
                addresses.push(address);
            }
        }
    }
    hosts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_lines_give_every_name_its_addresses_and_skip_what_is_not_one() {
        let hosts = read_hosts(
            "127.0.0.1 localhost Build.\n# 9.9.9.9 no\nnonsense x\n::1 localhost # me\n",
        );
        let expected: HashMap<String, Vec<IpAddr>> = [
            (
                "localhost".to_owned(),
                vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()],
            ),
            ("build".to_owned(), vec!["127.0.0.1".parse().unwrap()]),
        ]
        .into();
        assert_eq!(hosts, expected);
    }

    #[test]
    fn single_labels_and_multicast_names_are_local_and_nothing_else_is() {
        let local = |text: &str| is_local(&DomainName::parse(text).unwrap());
        assert!(local("intranet") && local("printer.local"));
        assert!(!local("local.test") && !local("api.openai.com"));
    }
}
