//! Budgets in profiles and flags: what is read, what each mistake is told, and that it reads back.

use portcullis::policy::profile::builtin;
use portcullis::policy::{
    Budget, BudgetAction, BudgetKind, BudgetRule, Budgets, HostPattern, NetworkPolicy, Overrides,
    Profile, ProfileError, Ruleset,
};

fn read(text: &str) -> Result<Profile, ProfileError> {
    Profile::read("p", &mut |name| {
        Ok(if name == "p" {
            Some(text)
        } else {
            builtin(name)
        }
        .map(ToOwned::to_owned))
    })
}

fn budget(max: u64, action: BudgetAction) -> Budget {
    Budget {
        max,
        per: 0,
        action,
    }
}

const ALL: &str = "
[network.budgets]
bytes_up = { max = '200M', action = 'kill' }
bytes_down = '2G'
requests = 10000
connections = { max = 5000 }
rate = { max = 50, per = '1500ms', action = 'warn' }
hosts = 200
labels = { max = 100, action = 'ask' }
url_bytes = '64K'
header_bytes = 1048577
idle_time = { max = '30m', action = 'warn' }
total_time = '8h'
[[network.budget_rules]]
host = '*.example.com'
bytes_up = { max = '1K', action = 'warn' }
rate = 5
";

#[test]
fn every_key_is_read_and_reads_back() {
    let profile = read(ALL).unwrap();
    let expected = Budgets::from_iter([
        (BudgetKind::BytesUp, budget(200 << 20, BudgetAction::Kill)),
        (BudgetKind::BytesDown, budget(2 << 30, BudgetAction::Deny)),
        (BudgetKind::Requests, budget(10_000, BudgetAction::Deny)),
        (BudgetKind::Connections, budget(5000, BudgetAction::Deny)),
        (
            BudgetKind::Rate,
            Budget {
                max: 50,
                per: 1500,
                action: BudgetAction::Warn,
            },
        ),
        (BudgetKind::Hosts, budget(200, BudgetAction::Deny)),
        (BudgetKind::Labels, budget(100, BudgetAction::Ask)),
        (BudgetKind::UrlBytes, budget(64 << 10, BudgetAction::Deny)),
        (
            BudgetKind::HeaderBytes,
            budget(1_048_577, BudgetAction::Deny),
        ),
        (BudgetKind::IdleTime, budget(1_800_000, BudgetAction::Warn)),
        (
            BudgetKind::TotalTime,
            budget(28_800_000, BudgetAction::Kill),
        ),
    ]);
    assert_eq!(profile.network.budgets, expected);
    let rule = BudgetRule {
        host: HostPattern::parse("*.example.com").unwrap(),
        budgets: Budgets::from_iter([
            (BudgetKind::BytesUp, budget(1024, BudgetAction::Warn)),
            (
                BudgetKind::Rate,
                Budget {
                    max: 5,
                    per: 1000,
                    action: BudgetAction::Deny,
                },
            ),
        ]),
    };
    assert_eq!(profile.network.budget_rules, [rule]);
    let again = read(&profile.to_toml().unwrap()).unwrap();
    assert_eq!(again.network.budgets, profile.network.budgets);
    assert_eq!(again.network.budget_rules, profile.network.budget_rules);
    // The gate gets what was shown.
    let wire = serde_json::to_vec(&profile.network).unwrap();
    let there: NetworkPolicy = serde_json::from_slice(&wire).unwrap();
    assert_eq!(there, profile.network);
}

#[test]
fn a_budget_is_part_of_the_generation() {
    let generation = |text: &str| {
        let profile = read(text).unwrap();
        Ruleset::compile(&profile.network).generation().clone()
    };
    let one = generation("[network.budgets]\nrequests = 1");
    assert_eq!(
        one,
        generation("[network.budgets]\nrequests = { max = 1, action = 'deny' }")
    );
    for other in [
        "",
        "[network.budgets]\nrequests = 2",
        "[network.budgets]\nrequests = { max = 1, action = 'warn' }",
    ] {
        assert_ne!(one, generation(other), "{other}");
    }
}

#[test]
fn what_means_nothing_is_refused_with_what_is_accepted() {
    for (line, place, cure) in [
        (
            "byte_up = 1",
            "network.budgets.byte_up",
            "did you mean \"bytes_up\"",
        ),
        ("bytes_up = '10MB'", "bytes_up.max", "\"200M\""),
        ("bytes_up = '-1'", "bytes_up.max", "\"200M\""),
        ("bytes_up = -1", "bytes_up", "\"200M\""),
        ("bytes_up = 0", "bytes_up.max", "from 1"),
        (
            "bytes_up = '99999999999999999999T'",
            "bytes_up.max",
            "\"200M\"",
        ),
        ("bytes_up = true", "bytes_up", "\"200M\""),
        ("bytes_up = {}", "bytes_up", "max"),
        (
            "bytes_up = { max = 1, action = 'allow' }",
            "bytes_up",
            "`deny`",
        ),
        (
            "bytes_up = { max = 1, actions = 'deny' }",
            "bytes_up",
            "did you mean \"action\"",
        ),
        (
            "bytes_up = { max = 1, per = '1s' }",
            "bytes_up.per",
            "only a rate",
        ),
        ("requests = '5K'", "requests.max", "a number"),
        ("hosts = 65537", "hosts.max", "65536"),
        ("rate = { max = 1, per = 1 }", "rate", "string"),
        ("rate = { max = 1, per = '0s' }", "rate.per", "\"1s\""),
        ("idle_time = 30", "idle_time.max", "\"30m\""),
        ("idle_time = '31d'", "idle_time.max", "720h"),
        (
            "total_time = { max = '1h', action = 'deny' }",
            "total_time.action",
            "\"kill\"",
        ),
    ] {
        let error = read(&format!("[network.budgets]\n{line}")).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains(place) && error.contains(cure),
            "{line}\n  → {error}"
        );
        assert!(!error.contains('\n'), "{error}");
    }
    for (entry, cure) in [
        ("requests = 1", "needs host"),
        ("host = 'a.test'", "limits nothing"),
        ("host = 'a.test:443'\nrequests = 1", "host alone"),
        ("host = 'a.test'\nhosts = 1", "is none of"),
        ("host = 'a.test'\ntotal_time = '1h'", "is none of"),
    ] {
        let error = read(&format!("[[network.budget_rules]]\n{entry}")).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("network.budget_rules[0]") && error.contains(cure),
            "{entry}\n  → {error}"
        );
    }
}

#[test]
fn a_layer_replaces_a_budget_and_adds_rules() {
    let child = "extends='q'\n[network.budgets]\nrequests = 7\n[[network.budget_rules]]\nhost='b.test'\nrequests=1";
    let parent = "[network.budgets]\nrequests = 5\nhosts = 3\n[[network.budget_rules]]\nhost='a.test'\nrequests=1";
    let profile = Profile::read("p", &mut |name| {
        Ok(match name {
            "p" => Some(child),
            "q" => Some(parent),
            name => builtin(name),
        }
        .map(ToOwned::to_owned))
    });
    let network = profile.unwrap().network;
    let max = |kind| network.budgets.get(kind).map(|budget| budget.max);
    assert_eq!(
        (max(BudgetKind::Requests), max(BudgetKind::Hosts)),
        (Some(7), Some(3))
    );
    let hosts: Vec<_> = network
        .budget_rules
        .iter()
        .map(|rule| rule.host.to_string())
        .collect();
    assert_eq!(hosts, ["a.test", "b.test"]);
}

#[test]
fn flags_set_budgets_and_the_time() {
    let flags = |budgets: &[&str], timeout: Option<&str>| Overrides {
        budgets: budgets.iter().map(|&text| text.to_owned()).collect(),
        timeout: timeout.map(ToOwned::to_owned),
        ..Overrides::default()
    };
    let apply = |overrides: &Overrides| read("").unwrap().apply(overrides);
    let set = apply(&flags(
        &["bytes_up=10M", "requests=5:warn", "rate=20/2s"],
        Some("90s"),
    ))
    .unwrap();
    let rate = Budget {
        max: 20,
        per: 2000,
        action: BudgetAction::Deny,
    };
    let expected = Budgets::from_iter([
        (BudgetKind::BytesUp, budget(10 << 20, BudgetAction::Deny)),
        (BudgetKind::Requests, budget(5, BudgetAction::Warn)),
        (BudgetKind::Rate, rate),
        (BudgetKind::TotalTime, budget(90_000, BudgetAction::Kill)),
    ]);
    assert_eq!(set.network.budgets, expected);
    for (wrong, cure) in [
        (flags(&["bytes_up"], None), "--budget bytes_up"),
        (flags(&["bytes=1"], None), "bytes_up=10M"),
        (flags(&["requests=1:stop"], None), "warn, ask, deny, kill"),
        (flags(&[], Some("90")), "--timeout 90"),
        (flags(&[], Some("1h:warn")), "--timeout"),
    ] {
        let error = apply(&wrong).unwrap_err().to_string();
        assert!(error.contains(cure), "{error}");
    }
}

#[test]
fn the_shipped_profiles_have_no_budgets() {
    for name in ["base", "codex", "offline"] {
        let profile = Profile::read(name, &mut |name| Ok(builtin(name).map(ToOwned::to_owned)));
        assert!(profile.unwrap().network.budgets.is_empty(), "{name}");
    }
}
