//! The one function that decides.

use super::decision::{Decision, DenyReason, Handling, Verdict};
use super::path::PathMatch;
use super::profile::{NetworkMode, Unlisted, WebsocketPolicy};
use super::request::{EgressRequest, Transport};
use super::rule::{Protocol, Rule};
use super::ruleset::Ruleset;

/// Judges one request: pure, total, and deny unless a rule allows or asks. A deny wins over every ask,
/// an ask over every allow, whatever their order and however specific they are.
pub fn decide(rules: &Ruleset, request: &EgressRequest) -> Decision {
    let judgement = judge(rules, request);
    Decision {
        verdict: judgement.verdict,
        handling: judgement.handling,
        reason: judgement.reason,
        rule: judgement.rule.map(|rule| rule.id.clone()),
        specific: judgement.is_exact(),
        generation: rules.generation().clone(),
    }
}

/// A [`Decision`] that still borrows its rule.
struct Judgement<'a> {
    verdict: Verdict,
    handling: Handling,
    reason: Option<DenyReason>,
    rule: Option<&'a Rule>,
    /// Whether a question is about just this request although the rule is not.
    exact: bool,
}

impl<'a> Judgement<'a> {
    fn deny(reason: DenyReason, rule: Option<&'a Rule>) -> Self {
        Self {
            verdict: Verdict::Deny,
            handling: Handling::Tunnel,
            reason: Some(reason),
            rule,
            exact: false,
        }
    }

    /// Whether it speaks of methods or paths.
    fn is_exact(&self) -> bool {
        self.exact || self.rule.is_some_and(Rule::is_restricted)
    }
}

/// The narrower of what the profile says and what the admin's rules say.
fn judge<'a>(rules: &'a Ruleset, request: &'a EgressRequest) -> Judgement<'a> {
    let own = judge_alone(rules, request);
    let ceiling = match &rules.ceiling {
        Some(ceiling) if own.verdict != Verdict::Deny => judge_alone(ceiling, request),
        _ => return own,
    };
    // Bytes that nobody looks at need a rule of the admin's that says so.
    let opaque = own.handling == Handling::Tcp && ceiling.handling != Handling::Tcp;
    match ceiling.verdict {
        Verdict::Deny => Judgement::deny(DenyReason::ForbiddenByRequirements, ceiling.rule),
        Verdict::Allow | Verdict::Ask if opaque => {
            Judgement::deny(DenyReason::ForbiddenByRequirements, ceiling.rule)
        }
        // Of two that ask, the admin's is asked: no rule of the profile's answers it. What either asks about
        // exactly is shown exactly: what is approved for a whole host or tunnel is no answer to it.
        Verdict::Ask => Judgement {
            verdict: Verdict::Ask,
            rule: ceiling.rule,
            exact: ceiling.is_exact() || (own.verdict == Verdict::Ask && own.is_exact()),
            ..own
        },
        Verdict::Allow => own,
    }
}

fn judge_alone<'a>(rules: &'a Ruleset, request: &'a EgressRequest) -> Judgement<'a> {
    if !rules.enabled {
        return Judgement::deny(DenyReason::NetworkDisabled, None);
    }
    if is_datagrams(request) && !rules.datagrams {
        return Judgement::deny(DenyReason::HostNotAllowed, None);
    }
    if let Some((reason, rule)) = denial(rules, request) {
        return Judgement::deny(reason, Some(rule));
    }
    let (verdict, rule) = match permission(rules, request) {
        Ok((verdict, rule)) => (verdict, Some(rule)),
        // Nobody is asked about datagrams that no rule speaks of.
        Err(Miss::Host | Miss::Port)
            if rules.unlisted == Unlisted::Ask && !is_datagrams(request) =>
        {
            (Verdict::Ask, None)
        }
        Err(miss) => return Judgement::deny(miss.reason(), None),
    };
    let protocol = rule.map_or(Protocol::Web, |rule| rule.protocol);
    let handling = rules.handling(request, protocol);
    match mode_refuses(rules, request, handling) {
        Some(reason) => Judgement::deny(reason, None),
        None => Judgement {
            verdict,
            handling,
            reason: None,
            rule,
            exact: false,
        },
    }
}

/// The first deny rule that matches, and how to say so.
fn denial<'a>(rules: &'a Ruleset, request: &'a EgressRequest) -> Option<(DenyReason, &'a Rule)> {
    rules
        .rules_for(&request.host)
        .flat_map(|candidates| &candidates.rules.denies)
        .find_map(|rule| Some((denied_by(rules, rule, request)?, rule)))
}

/// Whether a deny rule for this host matches. What the gate cannot see is taken to be what the rule
/// denies: else a tunnel would be the way round it. A tunnel that the gate will open is let through to
/// be judged by its requests.
fn denied_by(rules: &Ruleset, rule: &Rule, request: &EgressRequest) -> Option<DenyReason> {
    if !rule.ports.is_empty() && !rule.ports.contains(&request.port) {
        return None;
    }
    if !rule.is_restricted() {
        return Some(DenyReason::HostDenied);
    }
    if request.transport.is_tunnel() {
        let opened = rules.handling(request, Protocol::Web) == Handling::Inspect;
        return (!opened).then_some(DenyReason::TunnelNotAllowed);
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

/// The ask rule that matches, else the allow rule that lets the request through, else how close the
/// closest came. An ask for some methods or paths does not hold up a tunnel that the gate will open: it
/// is let through, and whoever answers is asked about the requests inside.
fn permission<'a>(
    rules: &'a Ruleset,
    request: &'a EgressRequest,
) -> Result<(Verdict, &'a Rule), Miss> {
    let mut closest = Miss::Host;
    let candidates = || {
        rules
            .rules_for(&request.host)
            .filter(|candidates| candidates.may_allow)
            .map(|candidates| candidates.rules)
    };
    let tunnel = request.transport.is_tunnel();
    let later = |rule: &Rule| tunnel && rule.is_restricted();
    let asks = || candidates().flat_map(|rules| &rules.asks);
    let now = asks()
        .filter(|rule| !later(rule))
        .map(|rule| (Verdict::Ask, rule));
    let allows = candidates()
        .flat_map(|rules| &rules.allows)
        .map(|rule| (Verdict::Allow, rule));
    let inside = asks()
        .filter(|rule| later(rule))
        .map(|rule| (Verdict::Allow, rule));
    for (verdict, rule) in now.chain(allows).chain(inside) {
        match missed_by(rules, rule, request) {
            None => return Ok((verdict, rule)),
            Some(miss) => closest = closest.max(miss),
        }
    }
    Err(closest)
}

/// Why an allow rule for this host does not let the request through, if it does not. What the gate
/// cannot see is taken to be what the rule does not list.
fn missed_by(rules: &Ruleset, rule: &Rule, request: &EgressRequest) -> Option<Miss> {
    let speaks_of_it = is_datagrams(request) == (rule.protocol == Protocol::Udp);
    if !speaks_of_it || !rule.allowed_ports().contains(&request.port) {
        return Some(Miss::Port);
    }
    if !rule.is_restricted() {
        return None;
    }
    if request.transport.is_tunnel() {
        let opened = rules.handling(request, rule.protocol) == Handling::Inspect;
        return (!opened).then_some(Miss::Tunnel);
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

/// What `mode` and `websocket` refuse although a rule allows it.
fn mode_refuses(
    rules: &Ruleset,
    request: &EgressRequest,
    handling: Handling,
) -> Option<DenyReason> {
    let limited = rules.mode() == NetworkMode::Limited;
    if request.websocket && (limited || rules.websocket() != WebsocketPolicy::Allow) {
        return Some(DenyReason::WebsocketNotAllowed);
    }
    let read_only = || {
        request
            .method
            .as_ref()
            .is_some_and(super::Method::is_read_only)
    };
    match rules.mode() {
        NetworkMode::Full => None,
        // Not even by `unconfined_tunnels`, which speaks of TLS.
        NetworkMode::Limited if is_datagrams(request) => Some(DenyReason::TunnelNotAllowed),
        NetworkMode::Limited if request.transport.is_tunnel() => {
            let opened = handling == Handling::Inspect;
            (!opened && !rules.unconfined_tunnels).then_some(DenyReason::TunnelNotAllowed)
        }
        NetworkMode::Limited => (!read_only()).then_some(DenyReason::MethodNotAllowed),
    }
}

fn is_datagrams(request: &EgressRequest) -> bool {
    request.transport == Transport::Socks5Udp
}
