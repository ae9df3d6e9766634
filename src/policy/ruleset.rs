//! Compiled rules and the one function that decides. A lookup costs one hash per label of the host,
//! however many rules there are, and allocates nothing.

use std::collections::HashMap;
use std::net::IpAddr;

use sha2::{Digest, Sha256};

use super::address::AddressPolicy;
use super::decision::{Decision, DenyReason, Verdict};
use super::host::Host;
use super::path::PathMatch;
use super::profile::{NetworkMode, NetworkPolicy};
use super::request::{EgressRequest, Port, Transport};
use super::rule::{Effect, HostPattern, Rule, RuleId};
use crate::ids::PolicyGeneration;

/// A network policy, compiled for [`decide`].
#[derive(Debug)]
pub struct Ruleset {
    enabled: bool,
    mode: NetworkMode,
    unconfined_tunnels: bool,
    /// By name: rules for exactly it, and for what lies below it.
    names: HashMap<Box<str>, NameRules>,
    /// By address literal.
    literals: HashMap<IpAddr, Rules>,
    /// Rules of `*`.
    any: Rules,
    addresses: AddressPolicy,
    generation: PolicyGeneration,
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
}

/// Rules with the same hosts, in an order that does not depend on where they were written.
#[derive(Debug, Default)]
struct Rules {
    denies: Vec<Rule>,
    allows: Vec<Rule>,
}

impl Ruleset {
    /// Compiles a valid policy; cannot fail.
    pub fn compile(policy: &NetworkPolicy) -> Self {
        let mut ruleset = Self {
            enabled: policy.enabled,
            mode: policy.mode,
            unconfined_tunnels: policy.unconfined_tunnels,
            names: HashMap::new(),
            literals: HashMap::new(),
            any: Rules::default(),
            addresses: policy.addresses.clone(),
            generation: generation(policy),
        };
        let mut rules: Vec<&Rule> = policy.rules.iter().collect();
        rules.sort_unstable();
        rules.dedup();
        for rule in rules {
            ruleset.add(rule);
        }
        ruleset
    }

    /// The policy that decides.
    pub fn generation(&self) -> &PolicyGeneration {
        &self.generation
    }

    /// Which addresses may be dialed.
    pub fn addresses(&self) -> &AddressPolicy {
        &self.addresses
    }

    /// Every port that some rule lets a request reach, in order: all that the gate's own Landlock has
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
            .flat_map(|rules| rules.allows.iter().flat_map(allowed_ports).copied())
            .collect();
        ports.sort_unstable();
        ports.dedup();
        ports
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

    fn named(&mut self, name: &str) -> &mut NameRules {
        self.names.entry(name.into()).or_default()
    }

    /// Every set of rules that speaks of a host, the most specific first.
    fn rules_for<'a>(&'a self, host: &'a Host) -> impl Iterator<Item = Candidates<'a>> {
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
struct Candidates<'a> {
    rules: &'a Rules,
    /// False: only the denies count.
    may_allow: bool,
}

impl Rules {
    fn push(&mut self, rule: &Rule) {
        match rule.effect {
            Effect::Allow => self.allows.push(rule.clone()),
            Effect::Deny => self.denies.push(rule.clone()),
        }
    }
}

/// Judges one request: pure, total, and deny unless a rule allows. A deny wins over every allow,
/// whatever their order and however specific they are.
pub fn decide(rules: &Ruleset, request: &EgressRequest) -> Decision {
    let (reason, rule) = judge(rules, request);
    Decision {
        verdict: if reason.is_none() {
            Verdict::Allow
        } else {
            Verdict::Deny
        },
        reason,
        rule: rule.cloned(),
        generation: rules.generation.clone(),
    }
}

fn judge<'a>(
    rules: &'a Ruleset,
    request: &'a EgressRequest,
) -> (Option<DenyReason>, Option<&'a RuleId>) {
    if !rules.enabled {
        return (Some(DenyReason::NetworkDisabled), None);
    }
    if let Some((reason, rule)) = denial(rules, request) {
        return (Some(reason), Some(&rule.id));
    }
    match permission(rules, request) {
        Err(miss) => (Some(miss.reason()), None),
        Ok(rule) => match mode_refuses(rules, request) {
            Some(reason) => (Some(reason), None),
            None => (None, Some(&rule.id)),
        },
    }
}

/// The first deny rule that matches, and how to say so.
fn denial<'a>(rules: &'a Ruleset, request: &'a EgressRequest) -> Option<(DenyReason, &'a Rule)> {
    rules
        .rules_for(&request.host)
        .flat_map(|candidates| &candidates.rules.denies)
        .find_map(|rule| Some((denied_by(rule, request)?, rule)))
}

/// Whether a deny rule for this host matches. What the gate cannot see is taken to be what the rule
/// denies: else a tunnel would be the way round it.
fn denied_by(rule: &Rule, request: &EgressRequest) -> Option<DenyReason> {
    if !rule.ports.is_empty() && !rule.ports.contains(&request.port) {
        return None;
    }
    if rule.methods.is_empty() && rule.paths.is_empty() {
        return Some(DenyReason::HostDenied);
    }
    if is_tunnel(request) {
        return Some(DenyReason::TunnelNotAllowed);
    }
    let method_spared = !rule.methods.is_empty()
        && request
            .method
            .as_ref()
            .is_some_and(|m| !rule.methods.contains(m));
    let path_spared = !rule.paths.is_empty()
        && request.path.as_deref().is_some_and(|path| {
            rule.paths
                .iter()
                .all(|pattern| pattern.matches(path) == PathMatch::No)
        });
    match (method_spared || path_spared, rule.paths.is_empty()) {
        (true, _) => None,
        (false, true) => Some(DenyReason::MethodNotAllowed),
        (false, false) => Some(DenyReason::PathNotAllowed),
    }
}

/// How close the closest allow rule came. Ordered: the later comes closer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Miss {
    Host,
    Port,
    Tunnel,
    Method,
    Path,
}

impl Miss {
    fn reason(self) -> DenyReason {
        match self {
            Self::Host => DenyReason::HostNotAllowed,
            Self::Port => DenyReason::PortNotAllowed,
            Self::Tunnel => DenyReason::TunnelNotAllowed,
            Self::Method => DenyReason::MethodNotAllowed,
            Self::Path => DenyReason::PathNotAllowed,
        }
    }
}

/// The allow rule that lets the request through, or how close the closest came.
fn permission<'a>(rules: &'a Ruleset, request: &'a EgressRequest) -> Result<&'a Rule, Miss> {
    let mut closest = Miss::Host;
    let allows = rules
        .rules_for(&request.host)
        .filter(|candidates| candidates.may_allow)
        .flat_map(|candidates| &candidates.rules.allows);
    for rule in allows {
        match missed_by(rule, request) {
            None => return Ok(rule),
            Some(miss) => closest = closest.max(miss),
        }
    }
    Err(closest)
}

/// Why an allow rule for this host does not let the request through, if it does not. What the gate
/// cannot see is taken to be what the rule does not list.
fn missed_by(rule: &Rule, request: &EgressRequest) -> Option<Miss> {
    if !allowed_ports(rule).contains(&request.port) {
        return Some(Miss::Port);
    }
    if rule.methods.is_empty() && rule.paths.is_empty() {
        return None;
    }
    if is_tunnel(request) {
        return Some(Miss::Tunnel);
    }
    let method = request.method.as_ref();
    if !rule.methods.is_empty() && !method.is_some_and(|m| rule.methods.contains(m)) {
        return Some(Miss::Method);
    }
    let path = request.path.as_deref().unwrap_or_default();
    let listed = rule.paths.is_empty()
        || rule
            .paths
            .iter()
            .any(|pattern| pattern.matches(path) == PathMatch::Yes);
    (!listed).then_some(Miss::Path)
}

/// What `mode = "limited"` refuses although a rule allows it.
fn mode_refuses(rules: &Ruleset, request: &EgressRequest) -> Option<DenyReason> {
    let read_only = || {
        request
            .method
            .as_ref()
            .is_some_and(super::Method::is_read_only)
    };
    match rules.mode {
        NetworkMode::Full => None,
        NetworkMode::Limited if is_tunnel(request) => {
            (!rules.unconfined_tunnels).then_some(DenyReason::TunnelNotAllowed)
        }
        NetworkMode::Limited => (!read_only()).then_some(DenyReason::MethodNotAllowed),
    }
}

/// Whether method and path are hidden from the gate.
fn is_tunnel(request: &EgressRequest) -> bool {
    match request.transport {
        Transport::Forward => false,
        Transport::Connect | Transport::Socks5 => true,
    }
}

/// The ports that an allow rule covers.
pub(super) fn allowed_ports(rule: &Rule) -> &[Port] {
    const WEB: [Port; 2] = [Port::HTTP, Port::HTTPS];
    if rule.ports.is_empty() {
        &WEB
    } else {
        &rule.ports
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
