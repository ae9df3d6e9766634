//! Decisions: every `tests/cases/*.toml` (a profile, requests, the full decision for each), and what
//! holds for all policies whatever they say.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests may panic")]

use std::path::Path;

use portcullis::policy::profile::builtin;
use portcullis::policy::{
    Decision, DenyReason, Effect, EgressRequest, Handling, Host, HostPattern, Method, NetworkMode,
    NetworkPolicy, PathPattern, Port, Profile, Protocol, Question, Rule, RuleId, Ruleset,
    TlsHandling, Transport, Unlisted, Verdict, WebsocketPolicy, decide, remedy,
};
use proptest::prelude::*;
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    profile: String,
    requests: Vec<Asked>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    ask: String,
    transport: Option<Transport>,
    /// Ask about the request inside the tunnel, not about the one at the door.
    #[serde(default)]
    inside: bool,
    /// Absent: allowed, or denied if there is a reason.
    verdict: Option<Verdict>,
    /// What becomes of a tunnel; absent: not looked at.
    handling: Option<Handling>,
    reason: Option<DenyReason>,
    rule: Option<String>,
    #[serde(default)]
    unreadable: bool,
}

fn network(profile: &str) -> NetworkPolicy {
    let read = Profile::read("p", &mut |name| {
        let text = if name == "p" {
            Some(profile)
        } else {
            builtin(name)
        };
        Ok(text.map(ToOwned::to_owned))
    });
    read.unwrap_or_else(|error| panic!("{error}")).network
}

fn check(file: &Path, rules: &Ruleset, asked: &Asked) {
    let at = format!("{}: {}", file.display(), asked.ask);
    let question = Question::parse(&asked.ask);
    if asked.unreadable {
        assert!(question.is_err(), "{at}: {question:?}");
        return;
    }
    let question = question.unwrap_or_else(|error| panic!("{at}: {error}"));
    let mut request = if asked.inside {
        question.inside.unwrap_or_else(|| panic!("{at}: no TLS"))
    } else {
        question.door
    };
    request.transport = asked.transport.unwrap_or(request.transport);
    let expected = Decision {
        verdict: asked.verdict.unwrap_or(if asked.reason.is_none() {
            Verdict::Allow
        } else {
            Verdict::Deny
        }),
        handling: asked
            .handling
            .unwrap_or_else(|| decide(rules, &request).handling),
        reason: asked.reason,
        rule: asked.rule.clone().map(RuleId::new),
        specific: decide(rules, &request).specific,
        generation: rules.generation().clone(),
    };
    assert_eq!(decide(rules, &request), expected, "{at}");
}

#[test]
fn every_case_decides_as_it_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let file = entry.unwrap().path();
        let text = std::fs::read_to_string(&file).unwrap();
        let case: Case =
            toml::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let rules = Ruleset::compile(&network(&case.profile));
        for asked in &case.requests {
            check(&file, &rules, asked);
            count += 1;
        }
    }
    assert!(
        count > 80,
        "only {count} requests: are the cases where they belong?"
    );
}

#[test]
fn equal_policies_have_equal_generations_and_others_do_not() {
    let of = |text: &str| Ruleset::compile(&network(text)).generation().clone();
    let a = of("[network.domains]\n'a.test'='allow'");
    assert_eq!(a, of("[network.domains]\n\"a.test\" = \"allow\" # spaced"));
    assert_ne!(a, of("[network.domains]\n'a.test'='deny'"));
    assert_eq!(a.as_str().len(), 16);
    assert!(a.as_str().bytes().all(|b| b.is_ascii_hexdigit()));
}

#[test]
fn the_reachable_ports_are_those_of_the_allow_rules() {
    let ports = |text: &str| -> Vec<u16> {
        Ruleset::compile(&network(text))
            .ports()
            .into_iter()
            .map(Port::number)
            .collect()
    };
    let rule = |host, action| {
        format!("[[network.rules]]\nhost='{host}'\nports=[22,443]\naction='{action}'\n")
    };
    assert_eq!(ports(""), [0; 0]);
    assert_eq!(ports("[network.domains]\n'a.test'='allow'"), [80, 443]);
    assert_eq!(ports(&rule("*.a.test", "allow")), [22, 443]);
    assert_eq!(ports(&rule("1.1.1.1", "allow")), [22, 443]);
    assert_eq!(ports(&rule("*", "deny").replace("'*'", "'a.test'")), [0; 0]);
    assert_eq!(
        ports(&format!("network.enabled=false\n{}", rule("*", "allow"))),
        [0; 0]
    );
}

#[test]
fn a_remedy_does_what_it_says() {
    for ask in [
        "a.test",
        "a.test:8443",
        "http://a.test/",
        "1.1.1.1:53",
        "[2606:4700::1]:443",
    ] {
        let request = EgressRequest::parse(ask).unwrap();
        let denied = decide(&Ruleset::compile(&network("")), &request);
        let text = remedy(&request, denied.reason.unwrap()).unwrap();
        let (flag, line) = text.split_once(", or in the profile ").unwrap();
        let allow = flag.strip_prefix("--allow ").unwrap().to_owned();
        let overrides = portcullis::policy::Overrides {
            allow: vec![allow],
            ..Default::default()
        };
        let profile = Profile::read("base", &mut |name| Ok(builtin(name).map(ToOwned::to_owned)));
        let flagged = profile.unwrap().apply(&overrides).unwrap().network;
        let (table, keys) = line.split_once("]] ").map_or_else(
            || {
                line.split_once("] ")
                    .map(|(t, k)| (format!("{t}]"), k.to_owned()))
                    .unwrap()
            },
            |(t, k)| {
                (
                    format!("{t}]]"),
                    k.replace(", ports", "\nports")
                        .replace(", action", "\naction"),
                )
            },
        );
        let written = network(&format!("{table}\n{keys}\n"));
        for policy in [flagged, written] {
            let verdict = decide(&Ruleset::compile(&policy), &request).verdict;
            assert_eq!(verdict, Verdict::Allow, "{ask}: {text}");
        }
    }
}

// What holds for all policies.

/// Few names, so that rules and requests meet.
fn name() -> impl Strategy<Value = String> {
    let label = prop::sample::select(vec!["a", "b", "xn--bcher-kva"]);
    prop::collection::vec(label, 0..3).prop_map(|labels| {
        let mut labels = labels;
        labels.push("test");
        labels.join(".")
    })
}

fn host() -> impl Strategy<Value = String> {
    let literal = prop::sample::select(vec!["192.0.2.1", "2001:db8::1"]).prop_map(str::to_owned);
    prop_oneof![4 => name(), 1 => literal]
}

fn pattern() -> impl Strategy<Value = HostPattern> {
    let wild = (prop::sample::select(vec!["*.", "**."]), name())
        .prop_map(|(star, name)| format!("{star}{name}"));
    let any = Just("*".to_owned());
    prop_oneof![3 => host(), 3 => wild, 1 => any]
        .prop_map(|text| HostPattern::parse(&text).unwrap())
}

fn port() -> impl Strategy<Value = Port> {
    prop::sample::select(vec![22, 80, 443]).prop_map(|number| Port::new(number).unwrap())
}

fn method() -> impl Strategy<Value = Method> {
    prop::sample::select(vec!["GET", "POST"]).prop_map(|text| Method::parse(text).unwrap())
}

fn rule() -> impl Strategy<Value = Rule> {
    let paths = prop::sample::select(vec!["/", "/a/**", "/*"])
        .prop_map(|text| PathPattern::parse(text).unwrap());
    (
        "[a-z]{1,3}",
        pattern(),
        prop::collection::vec(port(), 0..2),
        prop::collection::vec(method(), 0..2),
        prop::collection::vec(paths, 0..2),
        prop::sample::select(vec![
            Effect::Allow,
            Effect::Allow,
            Effect::Ask,
            Effect::Deny,
        ]),
        prop::bool::weighted(0.3),
    )
        .prop_map(|(id, host, ports, methods, paths, effect, bytes)| {
            let whole = methods.is_empty() && paths.is_empty() && !ports.is_empty();
            let tcp = bytes && whole && effect != Effect::Deny;
            Rule {
                id: RuleId::new(id),
                host,
                ports,
                methods,
                paths,
                protocol: if tcp { Protocol::Tcp } else { Protocol::Web },
                effect,
            }
        })
}

/// Everything in a policy that [`decide`] goes by, but its rules.
fn switches() -> impl Strategy<Value = NetworkPolicy> {
    let handling = prop::sample::select(vec![TlsHandling::Inspect, TlsHandling::Tunnel]);
    let websocket = prop::sample::select(vec![
        WebsocketPolicy::Allow,
        WebsocketPolicy::Deny,
        WebsocketPolicy::UpgradeRequired,
    ]);
    (
        prop::bool::weighted(0.3),
        prop::bool::weighted(0.3),
        any::<bool>(),
        prop::collection::btree_map(pattern(), handling, 0..4),
        websocket,
        prop::bool::weighted(0.3),
    )
        .prop_map(
            |(limited, ask, mitm, tls, websocket, unconfined)| NetworkPolicy {
                mode: if limited {
                    NetworkMode::Limited
                } else {
                    NetworkMode::Full
                },
                default: if ask { Unlisted::Ask } else { Unlisted::Deny },
                mitm,
                tls,
                websocket,
                unconfined_tunnels: unconfined,
                ..network("")
            },
        )
}

fn request() -> impl Strategy<Value = EgressRequest> {
    let transport = prop::sample::select(vec![
        Transport::Forward,
        Transport::Inspected,
        Transport::Inspected,
        Transport::Connect,
        Transport::Socks5,
        Transport::Transparent,
    ]);
    let path = prop::sample::select(vec!["/", "/a/b", "/a/../b", "*"]);
    let socket = prop::bool::weighted(0.2);
    (transport, host(), port(), method(), path, socket).prop_map(
        |(transport, host, port, method, path, socket)| {
            let seen = matches!(transport, Transport::Forward | Transport::Inspected);
            EgressRequest {
                transport,
                host: Host::parse(&host).unwrap(),
                port,
                method: seen.then_some(method),
                path: seen.then(|| path.to_owned()),
                websocket: seen && socket,
            }
        },
    )
}

fn with(switches: &NetworkPolicy, rules: &[Rule]) -> NetworkPolicy {
    NetworkPolicy {
        rules: rules.to_vec(),
        ..switches.clone()
    }
}

fn answer(
    switches: &NetworkPolicy,
    rules: &[Rule],
    request: &EgressRequest,
) -> (Verdict, Handling, Option<DenyReason>, Option<RuleId>) {
    let decision = decide(&Ruleset::compile(&with(switches, rules)), request);
    (
        decision.verdict,
        decision.handling,
        decision.reason,
        decision.rule,
    )
}

/// What a policy means, read off it line by line: the slow twin of the hash tables.
struct ByHand<'a> {
    policy: &'a NetworkPolicy,
    request: &'a EgressRequest,
}

impl ByHand<'_> {
    /// Whether a pattern covers the host that is asked for.
    fn covers(&self, pattern: &HostPattern) -> bool {
        match (pattern, &self.request.host) {
            (HostPattern::Exact(a), b) => a == b,
            (HostPattern::Any, Host::Name(_)) => true,
            (HostPattern::Below(base), Host::Name(name)) => {
                name.as_str().ends_with(&format!(".{base}"))
            }
            (HostPattern::AtOrBelow(base), Host::Name(name)) => {
                name == base || name.as_str().ends_with(&format!(".{base}"))
            }
            (_, Host::Addr(_)) => false,
        }
    }

    /// A single label is spoken of by its own name alone, unless it is to be denied.
    fn speaks(&self, rule: &Rule) -> bool {
        let alone = !self.request.host.to_string().contains('.');
        let own = matches!(rule.host, HostPattern::Exact(_));
        self.covers(&rule.host) && (!alone || own || rule.effect == Effect::Deny)
    }

    fn on_its_ports(&self, rule: &Rule) -> bool {
        let port = self.request.port;
        match (rule.ports.is_empty(), rule.effect) {
            (true, Effect::Deny) => true,
            (true, _) => port == Port::HTTP || port == Port::HTTPS,
            (false, _) => rule.ports.contains(&port),
        }
    }

    /// Whether the gate opens TLS to this host: by the longest name that an entry is written for, of
    /// those the exact one, then the one that is about less.
    fn opens(&self) -> bool {
        let labels = |name: &str| name.split('.').count();
        let rank = |pattern: &HostPattern| match pattern {
            HostPattern::Exact(host) => (labels(&host.to_string()), 2),
            HostPattern::Below(name) => (labels(name.as_str()), 1),
            HostPattern::AtOrBelow(name) => (labels(name.as_str()), 0),
            HostPattern::Any => (0, 0),
        };
        let entries = self.policy.tls.iter();
        let narrowest = entries
            .filter(|(pattern, _)| self.covers(pattern) || **pattern == HostPattern::Any)
            .max_by_key(|(pattern, _)| rank(pattern));
        narrowest.map_or(self.policy.mitm, |(_, handling)| {
            *handling == TlsHandling::Inspect
        })
    }

    fn tunnel(&self) -> bool {
        !matches!(
            self.request.transport,
            Transport::Forward | Transport::Inspected
        )
    }

    fn of(&self, effect: Effect) -> Vec<&Rule> {
        let rules = self.policy.rules.iter();
        rules
            .filter(|rule| rule.effect == effect && self.speaks(rule) && self.on_its_ports(rule))
            .collect()
    }

    /// Whether method and path, in sight, are among those of a rule; `odd` is the answer for a path with
    /// more than one reading.
    fn lists(&self, rule: &Rule, odd: bool) -> bool {
        let path = self.request.path.clone().unwrap_or_default();
        let readable = path.starts_with('/') && !path.contains("..");
        let one = |pattern: &PathPattern| match pattern.as_str() {
            "/" => path == "/",
            "/a/**" => path == "/a/b",
            _ => false,
        };
        let method = rule.methods.is_empty()
            || rule
                .methods
                .iter()
                .any(|m| Some(m) == self.request.method.as_ref());
        let paths = rule.paths.is_empty()
            || if readable {
                rule.paths.iter().any(one)
            } else {
                odd
            };
        method && paths
    }

    /// Every answer that is right: two where rules of both protocols let a request through.
    fn answers(&self) -> Vec<(Verdict, Handling)> {
        let restricted = |rule: &&Rule| !rule.methods.is_empty() || !rule.paths.is_empty();
        let denied = (Verdict::Deny, Handling::Tunnel);
        let deny = |rule: &&Rule| match (restricted(rule), self.tunnel()) {
            (false, _) => true,
            (true, true) => !self.opens(),
            (true, false) => self.lists(rule, true),
        };
        if self.of(Effect::Deny).iter().any(deny) {
            return vec![denied];
        }
        let held = |rule: &&Rule| match (restricted(rule), self.tunnel()) {
            (false, _) => true,
            (true, true) => false,
            (true, false) => self.lists(rule, false),
        };
        let inside = |rule: &&Rule| self.tunnel() && restricted(rule) && self.opens();
        let (asks, allows) = (self.of(Effect::Ask), self.of(Effect::Allow));
        let now: Vec<&&Rule> = asks.iter().filter(|rule| held(rule)).collect();
        let open: Vec<&&Rule> = allows
            .iter()
            .filter(|rule| held(rule) || inside(rule))
            .chain(asks.iter().filter(|rule| inside(rule)))
            .collect();
        let unlisted = asks.is_empty() && allows.is_empty();
        let (verdict, deciding) = if !now.is_empty() {
            (Verdict::Ask, now)
        } else if !open.is_empty() {
            (Verdict::Allow, open)
        } else if unlisted && self.policy.default == Unlisted::Ask {
            (Verdict::Ask, Vec::new())
        } else {
            return vec![denied];
        };
        let opened = if self.opens() {
            Handling::Inspect
        } else {
            Handling::Tunnel
        };
        let mut handlings: Vec<Handling> = deciding
            .iter()
            .map(|rule| match rule.protocol {
                Protocol::Tcp => Handling::Tcp,
                Protocol::Web => opened,
            })
            .collect();
        if handlings.is_empty() {
            handlings.push(opened);
        }
        let judged = handlings.into_iter().map(|handling| {
            if self.mode_refuses(handling) {
                denied
            } else {
                (verdict, handling)
            }
        });
        judged.collect()
    }

    fn mode_refuses(&self, handling: Handling) -> bool {
        let limited = self.policy.mode == NetworkMode::Limited;
        let sockets = self.policy.websocket == WebsocketPolicy::Allow;
        let reads = self
            .request
            .method
            .as_ref()
            .is_some_and(|m| m.as_str() == "GET");
        match (limited, self.tunnel()) {
            _ if self.request.websocket && !sockets => true,
            (false, _) => false,
            (true, false) => self.request.websocket || !reads,
            (true, true) => handling != Handling::Inspect && !self.policy.unconfined_tunnels,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn the_tables_decide_what_the_rules_say(
        switches in switches(),
        rules in prop::collection::vec(rule(), 0..8),
        request in request(),
    ) {
        let policy = with(&switches, &rules);
        let right = ByHand { policy: &policy, request: &request }.answers();
        let found = answer(&switches, &rules, &request);
        prop_assert!(right.contains(&(found.0, found.1)), "{:?} is none of {:?}", found, right);
        prop_assert_eq!(found.0 == Verdict::Deny, found.2.is_some());
    }

    #[test]
    fn a_name_server_knows_every_host_that_may_be_let_through_and_none_that_is_always_denied(
        rules in prop::collection::vec(rule(), 0..8),
        asks in any::<bool>(),
        request in request(),
    ) {
        let default = if asks { Unlisted::Ask } else { Unlisted::Deny };
        let whole = rules.iter().all(|rule| rule.methods.is_empty() && rule.paths.is_empty());
        let ruleset = Ruleset::compile(&NetworkPolicy { rules, default, ..network("") });
        let verdict = |port: u16| {
            let port = Port::new(port).unwrap();
            decide(&ruleset, &EgressRequest { port, ..request.clone() }).verdict
        };
        let may = ruleset.may_allow(&request.host);
        // All ports that the rules name, and one that they do not.
        let found = [22, 80, 443, 9].into_iter().any(|port| verdict(port) != Verdict::Deny);
        prop_assert!(may || !found);
        prop_assert!(!whole || may == found);
    }

    #[test]
    fn the_order_of_rules_never_matters(
        switches in switches(),
        rules in prop::collection::vec(rule(), 0..8),
        request in request(),
    ) {
        let reversed: Vec<Rule> = rules.iter().rev().cloned().collect();
        prop_assert_eq!(answer(&switches, &rules, &request), answer(&switches, &reversed, &request));
    }

    #[test]
    fn a_deny_is_never_undone_by_adding_allows(
        switches in switches(),
        rules in prop::collection::vec(rule(), 0..6),
        more in prop::collection::vec(rule(), 0..6),
        request in request(),
    ) {
        let before = answer(&switches, &rules, &request);
        let more = more.into_iter().map(|rule| Rule { effect: Effect::Allow, ..rule });
        let after = answer(&switches, &rules.iter().cloned().chain(more).collect::<Vec<_>>(), &request);
        // A deny by a rule stands; a miss may become an allow, that is what adding allows is for.
        if before.0 == Verdict::Deny && before.3.is_some() {
            prop_assert_eq!(before, after);
        }
    }

    #[test]
    fn adding_a_deny_never_lets_anything_through(
        switches in switches(),
        rules in prop::collection::vec(rule(), 0..6),
        more in rule(),
        request in request(),
    ) {
        let before = answer(&switches, &rules, &request).0;
        let more = Rule { effect: Effect::Deny, protocol: Protocol::Web, ..more };
        let all: Vec<Rule> = rules.into_iter().chain([more]).collect();
        let after = answer(&switches, &all, &request).0;
        prop_assert!(after == before || after == Verdict::Deny, "{:?} became {:?}", before, after);
    }

    #[test]
    fn an_ask_in_the_place_of_an_allow_lets_nothing_more_through(
        switches in switches(),
        rules in prop::collection::vec(rule(), 0..8),
        request in request(),
    ) {
        let before = answer(&switches, &rules, &request).0;
        let asking: Vec<Rule> = rules
            .into_iter()
            .map(|rule| match rule.effect {
                Effect::Allow => Rule { effect: Effect::Ask, ..rule },
                _ => rule,
            })
            .collect();
        let after = answer(&switches, &asking, &request).0;
        prop_assert!(after != Verdict::Allow || before == Verdict::Allow, "{:?} became {:?}", before, after);
    }

    #[test]
    fn a_request_inside_is_let_through_only_by_what_speaks_of_it(
        switches in switches(),
        rules in prop::collection::vec(rule(), 0..8),
        request in request(),
    ) {
        // Whatever let the tunnel pass: the request inside is judged as a forwarded one would be.
        let inside = EgressRequest { transport: Transport::Inspected, ..request.clone() };
        let forwarded = EgressRequest { transport: Transport::Forward, ..request };
        prop_assert_eq!(answer(&switches, &rules, &inside), answer(&switches, &rules, &forwarded));
    }

    #[test]
    fn arbitrary_text_is_one_host_that_reads_back_or_an_error(text in "\\PC*|[a-z0-9.:%@\\[\\]xn-]{0,20}") {
        if let Ok(host) = Host::parse(&text) {
            prop_assert_eq!(Host::parse(&host.to_string()), Ok(host.clone()));
            prop_assert!(host.to_string().is_ascii() && host.to_string().len() <= 253);
        }
        if let Ok(pattern) = HostPattern::parse(&text) {
            prop_assert_eq!(HostPattern::parse(&pattern.to_string()), Ok(pattern));
        }
        drop((Host::parse_bracketed(&text), Question::parse(&text), PathPattern::parse(&text)));
    }

    #[test]
    fn arbitrary_bytes_never_panic_the_parsers(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let text = String::from_utf8_lossy(&bytes);
        drop((Host::parse(&text), HostPattern::parse(&text), EgressRequest::parse(&text)));
        let any_path = PathPattern::parse("/**").unwrap();
        any_path.matches(&text);
        let read = Profile::read("p", &mut |_| Ok(Some(text.clone().into_owned())));
        drop(read);
    }

    #[test]
    fn a_policy_survives_the_wire(
        switches in switches(),
        rules in prop::collection::vec(rule(), 0..6),
    ) {
        let policy = with(&switches, &rules);
        let json = serde_json::to_string(&policy).unwrap();
        prop_assert_eq!(serde_json::from_str::<NetworkPolicy>(&json).unwrap(), policy);
    }
}
