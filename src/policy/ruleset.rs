//! Compiled rules, found by host. A lookup costs one hash per label of the host, however many rules there
//! are, and allocates nothing. What they come to is [`super::judgement`]'s.

use std::collections::HashMap;
use std::net::IpAddr;

use sha2::{Digest, Sha256};

use super::address::AddressPolicy;
use super::decision::Handling;
use super::host::{DomainName, Host};
use super::profile::{NetworkMode, NetworkPolicy, TlsHandling, Unlisted, WebsocketPolicy};
use super::request::{EgressRequest, Port, Transport};
use super::rule::{Effect, HostPattern, Protocol, Rule};
use crate::ids::PolicyGeneration;

/// A network policy, compiled for [`decide`](super::decide).
#[derive(Debug)]
pub struct Ruleset {
    pub(super) enabled: bool,
    mode: NetworkMode,
    pub(super) unlisted: Unlisted,
    websocket: WebsocketPolicy,
    pub(super) unconfined_tunnels: bool,
    /// Whether datagrams are relayed at all.
    pub(super) datagrams: bool,
    /// What happens to TLS where no entry of `tls` speaks of the host.
    tls_default: TlsHandling,
    /// By name: rules for exactly it, and for what lies below it.
    names: HashMap<Box<str>, NameRules>,
    /// By address literal.
    literals: HashMap<IpAddr, Rules>,
    /// Rules of `*`.
    any: Rules,
    /// TLS handling by address literal.
    tls_literals: HashMap<IpAddr, TlsHandling>,
    addresses: AddressPolicy,
    generation: PolicyGeneration,
    /// The admin's rules: what is let through needs a yes of theirs as well.
    pub(super) ceiling: Option<Box<Self>>,
}

/// The rules written for one name.
#[derive(Debug, Default)]
struct NameRules {
    /// Of `x`.
    exact: Rules,
    /// Of `**.x`, where x itself is asked for.
    apex: Rules,
    /// Of `*.x` and `**.x`, where a name below x is asked for.
    below: Rules,
    /// TLS handling of exactly this name.
    tls_own: Option<TlsHandling>,
    /// TLS handling of names below it.
    tls_below: Option<TlsHandling>,
}

/// Rules with the same hosts, in an order that does not depend on where they were written.
#[derive(Debug, Default)]
pub(super) struct Rules {
    pub(super) denies: Vec<Rule>,
    pub(super) asks: Vec<Rule>,
    pub(super) allows: Vec<Rule>,
}

impl Ruleset {
    /// Compiles a valid policy; cannot fail.
    pub fn compile(policy: &NetworkPolicy) -> Self {
        let mut ruleset = Self {
            enabled: policy.enabled,
            mode: policy.mode,
            unlisted: policy.default,
            websocket: policy.websocket,
            unconfined_tunnels: policy.unconfined_tunnels,
            datagrams: policy.relays_datagrams(),
            tls_default: policy.tls_default(),
            names: HashMap::new(),
            literals: HashMap::new(),
            any: Rules::default(),
            tls_literals: HashMap::new(),
            addresses: policy.addresses.clone(),
            generation: generation(policy),
            ceiling: policy.ceiling.as_ref().map(|rules| {
                Box::new(Self::compile(&NetworkPolicy {
                    rules: rules.clone(),
                    default: Unlisted::Deny,
                    ceiling: None,
                    ..policy.clone()
                }))
            }),
        };
        let mut rules: Vec<&Rule> = policy.rules.iter().collect();
        rules.sort_unstable();
        rules.dedup();
        for rule in rules {
            ruleset.add(rule);
        }
        ruleset.add_tls(policy);
        ruleset
    }

    /// The policy that decides.
    pub fn generation(&self) -> &PolicyGeneration {
        &self.generation
    }

    /// Which methods are let through.
    pub fn mode(&self) -> NetworkMode {
        self.mode
    }

    /// Whether WebSockets may be opened, and how a refusal of one is told.
    pub fn websocket(&self) -> WebsocketPolicy {
        self.websocket
    }

    /// Which addresses may be dialed.
    pub fn addresses(&self) -> &AddressPolicy {
        &self.addresses
    }

    /// Whether a rule that allows or asks names exactly this host: then the name is the policy's, not
    /// the jail's choice below a wildcard.
    pub fn names(&self, host: &Host) -> bool {
        let rules = match host {
            Host::Addr(address) => self.literals.get(&address.to_canonical()),
            Host::Name(name) => self.names.get(name.as_str()).map(|rules| &rules.exact),
        };
        rules.is_some_and(|rules| !rules.allows.is_empty() || !rules.asks.is_empty())
    }

    /// Whether a destination that no rule speaks of is asked for: then any port may be.
    pub fn asks_for_unlisted(&self) -> bool {
        self.enabled && self.unlisted == Unlisted::Ask
    }

    /// Every TCP port that some rule lets a request reach, in order: all that the gate's own Landlock has
    /// to leave open.
    pub fn ports(&self) -> Vec<Port> {
        if !self.enabled {
            return Vec::new();
        }
        let named = self
            .names
            .values()
            .flat_map(|rules| [&rules.exact, &rules.apex, &rules.below]);
        let mut ports: Vec<Port> = named
            .chain(self.literals.values())
            .chain([&self.any])
            .flat_map(|rules| rules.allows.iter().chain(&rules.asks))
            .filter(|rule| rule.protocol != Protocol::Udp)
            .flat_map(Rule::allowed_ports)
            .copied()
            .collect();
        ports.sort_unstable();
        ports.dedup();
        if let Some(ceiling) = &self.ceiling {
            let permitted = ceiling.ports();
            ports.retain(|port| permitted.contains(port));
        }
        ports
    }

    /// Whether some request to this host may be let through, on whatever port: what a name server of the
    /// jail may know. True for whatever [`decide`](super::decide) allows or asks about; false means that it denies all.
    pub fn may_allow(&self, host: &Host) -> bool {
        let denied = |port: Option<Port>| {
            let mut denies = self.rules_for(host).flat_map(|found| &found.rules.denies);
            denies.any(|rule| {
                let everything = rule.methods.is_empty() && rule.paths.is_empty();
                let here = port.is_some_and(|port| rule.ports.contains(&port));
                everything && (rule.ports.is_empty() || here)
            })
        };
        let ceiling = self.ceiling.as_ref();
        if !self.enabled || denied(None) || ceiling.is_some_and(|rules| !rules.may_allow(host)) {
            return false;
        }
        // No finite list of ports leaves none to be asked about.
        self.unlisted == Unlisted::Ask
            || self
                .rules_for(host)
                .filter(|candidates| candidates.may_allow)
                .flat_map(|candidates| candidates.rules.allows.iter().chain(&candidates.rules.asks))
                .flat_map(Rule::allowed_ports)
                .any(|port| !denied(Some(*port)))
    }

    fn add(&mut self, rule: &Rule) {
        match &rule.host {
            HostPattern::Exact(Host::Addr(address)) => {
                self.literals.entry(*address).or_default().push(rule);
            }
            HostPattern::Exact(Host::Name(name)) => self.named(name.as_str()).exact.push(rule),
            HostPattern::Below(name) => self.named(name.as_str()).below.push(rule),
            HostPattern::AtOrBelow(name) => {
                let rules = self.named(name.as_str());
                rules.apex.push(rule);
                rules.below.push(rule);
            }
            HostPattern::Any => self.any.push(rule),
        }
    }

    /// The entries of `[network.tls]`; for one name the narrower pattern wins, whatever the order.
    fn add_tls(&mut self, policy: &NetworkPolicy) {
        for (pattern, handling) in &policy.tls {
            match pattern {
                HostPattern::Exact(Host::Addr(address)) => {
                    self.tls_literals.insert(*address, *handling);
                }
                HostPattern::Exact(Host::Name(name)) => {
                    self.named(name.as_str()).tls_own = Some(*handling);
                }
                HostPattern::Below(name) => {
                    self.named(name.as_str()).tls_below = Some(*handling);
                }
                HostPattern::AtOrBelow(_) | HostPattern::Any => {}
            }
        }
        for (pattern, handling) in &policy.tls {
            if let HostPattern::AtOrBelow(name) = pattern {
                let rules = self.named(name.as_str());
                rules.tls_own.get_or_insert(*handling);
                rules.tls_below.get_or_insert(*handling);
            }
        }
    }

    /// What happens to TLS for this host: the most specific entry of `[network.tls]`, else the default.
    pub(super) fn tls_for(&self, host: &Host) -> TlsHandling {
        let listed = match host {
            Host::Addr(address) => self.tls_literals.get(&address.to_canonical()).copied(),
            Host::Name(name) => {
                let name = name.as_str();
                let own = self.names.get(name).and_then(|rules| rules.tls_own);
                own.or_else(|| {
                    parents(name)
                        .filter_map(|parent| self.names.get(parent))
                        .find_map(|rules| rules.tls_below)
                })
            }
        };
        listed.unwrap_or(self.tls_default)
    }

    /// What happens to TLS for names below this one, but for those that a narrower entry of
    /// `[network.tls]` speaks of.
    pub(super) fn tls_below(&self, name: &DomainName) -> TlsHandling {
        let name = name.as_str();
        std::iter::once(name)
            .chain(parents(name))
            .filter_map(|name| self.names.get(name))
            .find_map(|rules| rules.tls_below)
            .unwrap_or(self.tls_default)
    }

    /// What becomes of a request's bytes if it is let through by a rule with this protocol.
    pub(super) fn handling(&self, request: &EgressRequest, protocol: Protocol) -> Handling {
        if protocol == Protocol::Tcp || request.transport == Transport::Socks5Udp {
            return Handling::Tcp;
        }
        match self.tls_for(&request.host) {
            TlsHandling::Inspect => Handling::Inspect,
            TlsHandling::Tunnel => Handling::Tunnel,
        }
    }

    fn named(&mut self, name: &str) -> &mut NameRules {
        self.names.entry(name.into()).or_default()
    }

    /// Every set of rules that speaks of a host, the most specific first.
    pub(super) fn rules_for<'a>(&'a self, host: &'a Host) -> impl Iterator<Item = Candidates<'a>> {
        let (literal, name) = match host {
            Host::Addr(address) => (self.literals.get(&address.to_canonical()), None),
            Host::Name(name) => (None, Some(name.as_str())),
        };
        // A single label may be completed with a search domain: only an exact rule allows it.
        let wildcards_allow = name.is_some_and(|name| name.contains('.'));
        let own = name.and_then(|name| self.names.get(name));
        let below = name
            .into_iter()
            .flat_map(parents)
            .filter_map(|parent| self.names.get(parent))
            .map(|rules| &rules.below);
        let any = name.map(|_| &self.any);
        let exact = literal.into_iter().chain(own.map(|rules| &rules.exact));
        let wild = own
            .map(|rules| &rules.apex)
            .into_iter()
            .chain(below)
            .chain(any);
        exact
            .map(|rules| Candidates {
                rules,
                may_allow: true,
            })
            .chain(wild.map(move |rules| Candidates {
                rules,
                may_allow: wildcards_allow,
            }))
    }
}

/// Rules that speak of the host in question.
pub(super) struct Candidates<'a> {
    pub(super) rules: &'a Rules,
    /// False: only the denies count.
    pub(super) may_allow: bool,
}

impl Rules {
    fn push(&mut self, rule: &Rule) {
        match rule.effect {
            Effect::Allow => self.allows.push(rule.clone()),
            Effect::Ask => self.asks.push(rule.clone()),
            Effect::Deny => self.denies.push(rule.clone()),
        }
    }
}

/// `a.b.c` → `b.c`, `c`.
fn parents(name: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(name), |name| {
        name.split_once('.').map(|(_, rest)| rest)
    })
    .skip(1)
}

/// The first 16 hex digits of the SHA-256 of the policy's JSON. A `NetworkPolicy` always serialises:
/// no map keys that are not strings, no fallible types; were it not so, the text would be the error's,
/// which equals no other policy's.
fn generation(policy: &NetworkPolicy) -> PolicyGeneration {
    let serialised = serde_json::to_vec(policy).unwrap_or_else(|error| error.to_string().into());
    let digest: [u8; 32] = Sha256::digest(&serialised).into();
    // 32 bytes always have a first 8.
    let first = u64::from_be_bytes(digest.first_chunk().copied().unwrap_or_default());
    PolicyGeneration::new(format!("{first:016x}"))
}
