//! Decisions: every `tests/cases/*.toml` (a profile, requests, the full decision for each), and what
//! holds for all policies whatever they say.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests may panic")]

use std::path::Path;

use portcullis::policy::profile::builtin;
use portcullis::policy::{
    Decision, DenyReason, Effect, EgressRequest, Host, HostPattern, Method, NetworkPolicy,
    PathPattern, Port, Profile, Protocol, Rule, RuleId, Ruleset, Transport, Verdict, decide,
    remedy,
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
    /// Absent: allowed.
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
    let request = EgressRequest::parse(&asked.ask);
    if asked.unreadable {
        assert!(request.is_err(), "{at}: {request:?}");
        return;
    }
    let mut request = request.unwrap_or_else(|error| panic!("{at}: {error}"));
    request.transport = asked.transport.unwrap_or(request.transport);
    let expected = Decision {
        verdict: if asked.reason.is_none() {
            Verdict::Allow
        } else {
            Verdict::Deny
        },
        handling: decide(rules, &request).handling,
        specific: decide(rules, &request).specific,
        reason: asked.reason,
        rule: asked.rule.clone().map(RuleId::new),
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
        prop::bool::weighted(0.7),
    )
        .prop_map(|(id, host, ports, methods, paths, allow)| Rule {
            id: RuleId::new(id),
            host,
            ports,
            methods,
            paths,
            protocol: Protocol::Web,
            effect: if allow { Effect::Allow } else { Effect::Deny },
        })
}

fn request() -> impl Strategy<Value = EgressRequest> {
    let transport = prop::sample::select(vec![
        Transport::Forward,
        Transport::Connect,
        Transport::Socks5,
    ]);
    let path = prop::sample::select(vec!["/", "/a/b", "/a/../b", "*"]);
    (transport, host(), port(), method(), path).prop_map(|(transport, host, port, method, path)| {
        let seen = transport == Transport::Forward;
        EgressRequest {
            transport,
            host: Host::parse(&host).unwrap(),
            port,
            method: seen.then_some(method),
            path: seen.then(|| path.to_owned()),
            websocket: false,
        }
    })
}

fn answer(
    rules: &[Rule],
    request: &EgressRequest,
) -> (Verdict, Option<DenyReason>, Option<RuleId>) {
    let policy = NetworkPolicy {
        rules: rules.to_vec(),
        ..network("")
    };
    let decision = decide(&Ruleset::compile(&policy), request);
    (decision.verdict, decision.reason, decision.rule)
}

/// What the rules mean, read off them one by one: the slow twin of the hash tables.
fn by_hand(rules: &[Rule], request: &EgressRequest) -> Verdict {
    let named = |rule: &&Rule| match (&rule.host, &request.host) {
        (HostPattern::Exact(a), b) => a == b,
        (HostPattern::Any, Host::Name(name)) => {
            name.as_str().contains('.') || rule.effect == Effect::Deny
        }
        (HostPattern::Below(base), Host::Name(name)) => {
            name.as_str().ends_with(&format!(".{base}"))
        }
        (HostPattern::AtOrBelow(base), Host::Name(name)) => {
            let apex = name == base && (name.as_str().contains('.') || rule.effect == Effect::Deny);
            apex || name.as_str().ends_with(&format!(".{base}"))
        }
        (_, Host::Addr(_)) => false,
    };
    let tunnel = request.transport != Transport::Forward;
    let parts = |rule: &Rule, unclear: bool| {
        let method = rule.methods.is_empty()
            || rule
                .methods
                .iter()
                .any(|m| Some(m) == request.method.as_ref());
        let path = request.path.clone().unwrap_or_default();
        let odd = !path.starts_with('/') || path.contains("..");
        let path_matches = |pattern: &PathPattern| match pattern.as_str() {
            "/" => path == "/",
            "/a/**" => path == "/a/b",
            _ => false,
        };
        let paths = rule.paths.is_empty()
            || (odd && unclear)
            || (!odd && rule.paths.iter().any(path_matches));
        let limited = !rule.methods.is_empty() || !rule.paths.is_empty();
        if tunnel && limited {
            unclear
        } else {
            method && paths
        }
    };
    let denied = rules
        .iter()
        .filter(|r| r.effect == Effect::Deny)
        .filter(named)
        .any(|rule| {
            (rule.ports.is_empty() || rule.ports.contains(&request.port)) && parts(rule, true)
        });
    let allowed = rules
        .iter()
        .filter(|r| r.effect == Effect::Allow)
        .filter(named)
        .any(|rule| {
            let web = request.port == Port::HTTP || request.port == Port::HTTPS;
            (if rule.ports.is_empty() {
                web
            } else {
                rule.ports.contains(&request.port)
            }) && parts(rule, false)
        });
    if allowed && !denied {
        Verdict::Allow
    } else {
        Verdict::Deny
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_tables_decide_what_the_rules_say(rules in prop::collection::vec(rule(), 0..8), request in request()) {
        prop_assert_eq!(answer(&rules, &request).0, by_hand(&rules, &request));
    }

    #[test]
    fn the_order_of_rules_never_matters(rules in prop::collection::vec(rule(), 0..8), request in request()) {
        let reversed: Vec<Rule> = rules.iter().rev().cloned().collect();
        prop_assert_eq!(answer(&rules, &request), answer(&reversed, &request));
    }

    #[test]
    fn a_deny_is_never_undone_by_adding_allows(
        rules in prop::collection::vec(rule(), 0..6),
        more in prop::collection::vec(rule(), 0..6),
        request in request(),
    ) {
        let before = answer(&rules, &request);
        let more = more.into_iter().map(|rule| Rule { effect: Effect::Allow, ..rule });
        let after = answer(&rules.iter().cloned().chain(more).collect::<Vec<_>>(), &request);
        // A deny by a rule stands; a miss may become an allow, that is what adding allows is for.
        if before.0 == Verdict::Deny && before.2.is_some() {
            prop_assert_eq!(before, after);
        }
    }

    #[test]
    fn adding_a_deny_never_lets_anything_through(
        rules in prop::collection::vec(rule(), 0..6),
        more in rule(),
        request in request(),
    ) {
        let before = answer(&rules, &request).0;
        let all: Vec<Rule> = rules.into_iter().chain([Rule { effect: Effect::Deny, ..more }]).collect();
        prop_assert!(before == Verdict::Allow || answer(&all, &request).0 == Verdict::Deny);
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
        drop((Host::parse_bracketed(&text), EgressRequest::parse(&text), PathPattern::parse(&text)));
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
    fn a_policy_survives_the_wire(rules in prop::collection::vec(rule(), 0..6)) {
        let policy = NetworkPolicy { rules, ..network("") };
        let json = serde_json::to_string(&policy).unwrap();
        prop_assert_eq!(serde_json::from_str::<NetworkPolicy>(&json).unwrap(), policy);
    }
}
