//! What an admin insists on, and what a project may take away: no layer gets past either.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests may panic")]

use portcullis::policy::profile::{LayerText, Overlays, Reading, builtin};
use portcullis::policy::{
    BudgetKind, Durability, EgressRequest, FilesystemMode, NetworkMode, OnFailure, Overrides,
    Profile, ProfileError, Requirements, Resource, Ruleset, Unlisted, Verdict, WebsocketPolicy,
    decide,
};
use proptest::prelude::*;

/// What is laid over a profile.
#[derive(Default)]
struct Over<'a> {
    project: &'a str,
    requirements: &'a str,
    allow: Vec<&'a str>,
    mode: Option<FilesystemMode>,
}

fn read(profile: &str, over: &Over<'_>) -> Result<Reading, ProfileError> {
    let mut load = |name: &str, nth: usize| {
        let text = if name == "p" {
            Some(profile)
        } else {
            builtin(name)
        };
        let layer = |text: &str| LayerText {
            text: text.to_owned(),
            place: format!("the file of {name}"),
        };
        Ok(text.filter(|_| nth == 0).map(layer))
    };
    let project = LayerText {
        text: over.project.to_owned(),
        place: "/w/.portcullis.toml".to_owned(),
    };
    let requirements = Requirements::parse("/etc/portcullis/requirements.toml", over.requirements)?;
    let overrides = Overrides {
        allow: over.allow.iter().map(|&host| host.to_owned()).collect(),
        mode: over.mode,
        ..Overrides::default()
    };
    let over = Overlays {
        project: Some(&project).filter(|project| !project.text.is_empty()),
        overrides: &overrides,
        requirements: Some(&requirements),
        origins: true,
    };
    Profile::read_layers("p", &mut load, over)
}

fn held(profile: &str, requirements: &str) -> Reading {
    let over = Over {
        requirements,
        ..Over::default()
    };
    read(profile, &over).unwrap_or_else(|error| panic!("{error}"))
}

fn narrowed(profile: &str, project: &str) -> Result<Profile, String> {
    let over = Over {
        project,
        ..Over::default()
    };
    read(profile, &over)
        .map(|reading| reading.profile)
        .map_err(|error| error.to_string())
}

fn told(reading: &Reading) -> Vec<String> {
    reading.cuts.iter().map(ToString::to_string).collect()
}

fn verdict(profile: &Profile, request: &str) -> (Verdict, Option<String>) {
    let decision = decide(
        &Ruleset::compile(&profile.network),
        &EgressRequest::parse(request).unwrap(),
    );
    (
        decision.verdict,
        decision.reason.map(|r| r.code().to_owned()),
    )
}

#[test]
fn values_beyond_the_requirements_are_cut_and_told() {
    let reading = held(
        "[filesystem]\nmode = 'danger-full-access'\n\
         [network]\nmode = 'full'\ndefault = 'ask'\nallow_upstream_proxy = true\nunconfined_tunnels = true\n\
         extra_ca = ['/etc/a.pem', '/etc/b.pem']\n\
         [network.addresses]\nallow = ['10.20.1.0/24', '192.168.0.0/16']\n\
         [network.unix_sockets]\n'/run/a.sock' = 'allow'\n'/run/b.sock' = 'allow'\n\
         [network.budgets]\nbytes_up = '1G'\nrequests = 10\n[limits]\ntasks = 200\nfile_size = '1G'\n\
         [audit]\nfile_changes = false\non_failure = 'continue'\n",
        "[filesystem]\nmode = 'workspace-write'\nmasked = ['~/secrets']\n\
         [network]\nmode = 'limited'\ndefault = 'deny'\nwebsocket = 'deny'\nallow_upstream_proxy = false\n\
         unconfined_tunnels = false\nextra_ca = ['/etc/a.pem']\naddresses = ['10.0.0.0/8']\n\
         unix_sockets = ['/run/a.sock']\n\
         [network.budgets]\nbytes_up = '10M'\nrequests = 100\n\
         [limits]\ntasks = 100\nmemory = '1G'\n\
         [isolation]\nlandlock_abi = 4\nlimits = 'required'\n[audit]\ndurability = 'each'\nfile_changes = true\n\
         on_failure = 'block'\n",
    );
    assert_eq!(
        told(&reading),
        [
            "filesystem.mode is workspace-write",
            "network.mode is \"limited\"",
            "network.default is \"deny\"",
            "network.websocket is not \"allow\"",
            "network.unconfined_tunnels is false",
            "network.allow_upstream_proxy is false",
            "network.addresses.allow is without 192.168.0.0/16",
            "network.extra_ca is without /etc/b.pem",
            "network.unix_sockets is without /run/b.sock",
            "network.budgets.bytes_up is 10M",
            "limits.memory is 1G",
            "limits.tasks is 100",
            "isolation.landlock_abi is 4",
            "isolation.limits is \"required\"",
            "audit.durability is \"each\"",
            "audit.file_changes is true",
            "audit.on_failure is \"block\"",
        ]
    );
    let profile = reading.profile;
    assert_eq!(profile.filesystem.mode, FilesystemMode::WorkspaceWrite);
    assert!(profile.filesystem.masked.contains(&"~/secrets".into()));
    assert_eq!(profile.network.mode, NetworkMode::Limited);
    assert_eq!(profile.network.default, Unlisted::Deny);
    assert_eq!(profile.network.websocket, WebsocketPolicy::Deny);
    assert_eq!(profile.audit.durability, Durability::Each);
    assert!(profile.audit.file_changes);
    assert_eq!(profile.audit.on_failure, OnFailure::Block);
    assert_eq!(
        profile.limits.get(Resource::FileSize),
        Some(1 << 30),
        "nothing is required of it"
    );
}

#[test]
fn values_within_the_requirements_stay_as_they_are() {
    let profile = "[filesystem]\nmode = 'read-only'\n[network.addresses]\nallow = ['10.20.1.0/24']\n\
                   [network.domains]\n'api.a.test' = 'allow'\n[isolation]\nlandlock_abi = 5\n";
    let reading = held(
        profile,
        "[filesystem]\nmode = 'workspace-write'\n[network]\nmode = 'full'\naddresses = ['10.0.0.0/8']\n\
         [network.domains]\n'**.a.test' = 'allow'\n[isolation]\nlandlock_abi = 4\n",
    );
    assert_eq!(told(&reading), Vec::<String>::new());
    let api = verdict(&reading.profile, "CONNECT api.a.test:443");
    assert_eq!(api, (Verdict::Allow, None));
    assert_eq!(reading.profile.isolation.landlock_abi, 5);
}

#[test]
fn a_request_needs_a_yes_of_the_profile_and_of_the_admin() {
    let over = Over {
        requirements: "[network.domains]\n'*.ok.test' = 'allow'\n'bad.ok.test' = 'deny'\n'ask.ok.test' = 'ask'\n\
                       [[network.rules]]\nhost = 'read.test'\nmethods = ['GET']\naction = 'allow'\n",
        allow: vec!["flag.test"],
        ..Over::default()
    };
    let profile =
        "[network.domains]\n'*.ok.test' = 'allow'\n'other.test' = 'allow'\n'read.test' = 'allow'\n";
    let reading = read(profile, &over).unwrap();
    let forbidden = |rule| (Verdict::Deny, Some(rule));
    let requirements = || "forbidden_by_requirements".to_owned();
    for (request, expected) in [
        ("CONNECT a.ok.test:443", (Verdict::Allow, None)),
        ("CONNECT bad.ok.test:443", forbidden(requirements())),
        ("CONNECT ask.ok.test:443", (Verdict::Ask, None)),
        ("CONNECT other.test:443", forbidden(requirements())),
        ("CONNECT flag.test:443", forbidden(requirements())),
        ("GET http://read.test/", (Verdict::Allow, None)),
        ("POST http://read.test/", forbidden(requirements())),
        // Nobody sees methods in a tunnel that is not opened.
        ("CONNECT read.test:443", forbidden(requirements())),
        (
            "CONNECT c.test:443",
            forbidden("host_not_allowed".to_owned()),
        ),
    ] {
        assert_eq!(verdict(&reading.profile, request), expected, "{request}");
    }
}

#[test]
fn bytes_of_any_kind_need_the_admins_word_for_them() {
    let profile = "[[network.rules]]\nhost = 'git.test'\nports = [443, 22]\nprotocol = 'tcp'\naction = 'allow'\n";
    let web = held(profile, "[network.domains]\n'git.test' = 'allow'\n");
    assert_eq!(
        verdict(&web.profile, "CONNECT git.test:443"),
        (Verdict::Deny, Some("forbidden_by_requirements".to_owned()))
    );
    let tcp = held(
        profile,
        "[[network.rules]]\nhost = 'git.test'\nports = [22]\nprotocol = 'tcp'\naction = 'allow'\n",
    );
    let ssh = verdict(&tcp.profile, "CONNECT git.test:22");
    assert_eq!(ssh, (Verdict::Allow, None));
    assert_eq!(
        verdict(&tcp.profile, "CONNECT git.test:443"),
        (Verdict::Deny, Some("forbidden_by_requirements".to_owned()))
    );
}

#[test]
fn inspection_that_is_required_leaves_no_way_round_it() {
    let reading = held(
        "[network.tls]\n'pinned.test' = 'tunnel'\n'mine.test' = 'tunnel'\n\
         [[network.rules]]\nhost = 'git.test'\nports = [22]\nprotocol = 'tcp'\naction = 'allow'\n\
         [[network.rules]]\nhost = 'web.test'\naction = 'allow'\n",
        "[network]\nmitm = true\ntunnels = ['pinned.test']\n",
    );
    assert_eq!(
        told(&reading),
        [
            "network.mitm is true",
            "network.tls is without \"mine.test\" = \"tunnel\"",
            "network.rules is without network.rules[0], which nobody can inspect",
        ]
    );
    assert!(reading.profile.network.inspects());
    let web = verdict(&reading.profile, "CONNECT web.test:443");
    assert_eq!(web, (Verdict::Allow, None));
}

#[test]
fn a_project_takes_away_and_flags_give_nothing_of_it_back() {
    let over = Over {
        project: "[filesystem]\nmasked = ['keys']\n[network]\nmode = 'limited'\n\
                  [network.domains]\n'evil.test' = 'deny'\n[network.budgets]\nrequests = 5\n\
                  [limits]\ntasks = 7\nmemory = 'none'\n",
        allow: vec!["evil.test"],
        ..Over::default()
    };
    let profile = "[network.domains]\n'*.test' = 'allow'\n[network.budgets]\nrequests = 500\n\
                   [limits]\nmemory = '1G'\n";
    let reading = read(profile, &over).unwrap();
    let limits = &reading.profile.limits;
    let limits = (limits.get(Resource::Tasks), limits.get(Resource::Memory));
    assert_eq!(limits, (Some(7), Some(1 << 30)));
    assert_eq!(
        verdict(&reading.profile, "GET http://evil.test/"),
        (Verdict::Deny, Some("host_denied".to_owned()))
    );
    assert_eq!(
        verdict(&reading.profile, "POST http://a.test/"),
        (Verdict::Deny, Some("method_not_allowed".to_owned()))
    );
    let requests = reading.profile.network.budgets.get(BudgetKind::Requests);
    assert_eq!(requests.map(|budget| budget.max), Some(5));
    let protected = &reading.profile.filesystem.protected;
    assert!(
        protected.contains(&".portcullis.toml".into()),
        "else the jail could rid the next session of it"
    );
}

#[test]
fn of_two_budgets_stays_what_exceeds_neither_whatever_their_actions_and_windows() {
    let budget = |profile: &str, narrower: &str, kind| {
        let text = |line: &str| format!("[network.budgets]\n{line}\n");
        let by_project = narrowed(&text(profile), &text(narrower)).unwrap();
        let by_admin = held(&text(profile), &text(narrower)).profile;
        let of = |profile: &Profile| *profile.network.budgets.get(kind).unwrap();
        assert_eq!(of(&by_project), of(&by_admin), "{profile} {narrower}");
        let held = of(&by_project);
        (held.max, held.per, held.action.to_string())
    };
    let deny = "deny".to_owned();
    let kill = "kill".to_owned();
    for (profile, narrower, expected) in [
        // A harder end is no reason for more of it, nor a warning for no end.
        (
            "max = 10, action = 'deny'",
            "max = 9000, action = 'kill'",
            (10, 0, kill.clone()),
        ),
        (
            "max = 10, action = 'deny'",
            "max = 5, action = 'warn'",
            (5, 0, deny.clone()),
        ),
        (
            "max = 10, action = 'deny'",
            "max = 50, action = 'warn'",
            (10, 0, deny.clone()),
        ),
        // Who is only warned is not held.
        (
            "max = 10, action = 'warn'",
            "max = 50, action = 'deny'",
            (50, 0, deny.clone()),
        ),
        (
            "max = 10, action = 'deny'",
            "max = 5, action = 'deny'",
            (5, 0, deny.clone()),
        ),
    ] {
        let line = |budget: &str| format!("requests = {{ {budget} }}");
        let found = budget(&line(profile), &line(narrower), BudgetKind::Requests);
        assert_eq!(found, expected, "{profile}, {narrower}");
    }
    for (profile, narrower, expected) in [
        // Ten at once and ten a second; however many an hour more than that.
        ("10, per = '1s'", "90000, per = '1h'", (10, 1000)),
        // One at a time for the burst, one a minute for the pace.
        ("10, per = '1s'", "60, per = '1h'", (10, 600_000)),
        ("60, per = '1h'", "10, per = '1s'", (10, 600_000)),
        ("7, per = '1s'", "2, per = '1s'", (2, 1000)),
    ] {
        let line = |budget: &str| format!("rate = {{ max = {budget} }}");
        let (max, per, _) = budget(&line(profile), &line(narrower), BudgetKind::Rate);
        assert_eq!((max, per), expected, "{profile}, {narrower}");
    }
}

#[test]
fn what_was_approved_for_a_whole_host_is_no_answer_to_what_the_admin_asks_about_in_it() {
    let reading = held(
        "[network]\ndefault = 'ask'\nmitm = true\n",
        "[network.domains]\n'a.test' = 'allow'\n\
         [[network.rules]]\nhost = 'a.test'\nmethods = ['POST']\naction = 'ask'\n",
    );
    let rules = Ruleset::compile(&reading.profile.network);
    let asked = |request| {
        let decision = decide(&rules, &EgressRequest::parse(request).unwrap());
        (decision.verdict, decision.specific)
    };
    assert_eq!(asked("GET http://a.test/"), (Verdict::Ask, false));
    assert_eq!(asked("POST http://a.test/"), (Verdict::Ask, true));
}

#[test]
fn where_both_ask_the_admins_rule_is_told_and_whatever_either_names_is_asked_exactly() {
    let reading = held(
        "[network]\nmitm = true\n[[network.rules]]\nhost = 'a.test'\npaths = ['/**']\naction = 'ask'\n",
        "[network.domains]\n'a.test' = 'ask'\n",
    );
    let rules = Ruleset::compile(&reading.profile.network);
    let request = EgressRequest::parse("GET http://a.test/").unwrap();
    let decision = decide(&rules, &request);
    assert_eq!((decision.verdict, decision.specific), (Verdict::Ask, true));
    let rule = decision.rule.unwrap().to_string();
    assert!(
        rule.starts_with("/etc/portcullis/requirements.toml: "),
        "{rule}"
    );
}

#[test]
fn a_project_that_asks_for_more_is_refused_with_the_key() {
    for (project, expected) in [
        (
            "[network.domains]\n'a.test' = 'allow'\n",
            "/w/.portcullis.toml: network.domains.\"a.test\": a project's file may only narrow what the \
             profile grants; \"deny\" is accepted, allow the host in your own profile or with --allow",
        ),
        (
            "[[network.rules]]\nhost = 'a.test'\naction = 'ask'\n",
            "/w/.portcullis.toml: network.rules[0]: a project's file may only narrow what the profile \
             grants; \"deny\" is accepted, allow the host in your own profile or with --allow",
        ),
    ] {
        assert_eq!(narrowed("", project).unwrap_err(), expected);
    }
    for project in [
        "[filesystem]\nwritable = ['/srv']\n",
        "[network]\nmitm = false\n",
        "[[network.credentials]]\nhost = 'a.test'\n",
        "[environment]\npass = ['SECRET']\n",
        "[codex]\nenabled = true\n",
        "extends = 'codex'\n",
    ] {
        let error = narrowed("", project).unwrap_err();
        assert!(
            error.contains("unknown field") && error.contains("may only narrow"),
            "{error}"
        );
    }
    // The wider of two values is not an error; it does not count.
    let profile = narrowed(
        "[filesystem]\nmode = 'read-only'\n[network]\nenabled = false\n",
        "[filesystem]\nmode = 'danger-full-access'\n[network]\nenabled = true\ndefault = 'ask'\n",
    );
    let profile = profile.unwrap();
    assert_eq!(profile.filesystem.mode, FilesystemMode::ReadOnly);
    assert!(!profile.network.enabled);
    assert_eq!(profile.network.default, Unlisted::Deny);
}

#[test]
fn requirements_with_a_mistake_are_told_by_file_and_key() {
    for (text, expected) in [
        (
            "[network]\nmodus = 'limited'\n",
            "/etc/portcullis/requirements.toml: network.modus: unknown field",
        ),
        (
            "[network]\ntunnels = ['a.test']\n",
            "/etc/portcullis/requirements.toml: network.tunnels: excepts hosts from inspection, which is not \
             required; set mitm = true, or leave it out",
        ),
        (
            "[network]\naddresses = ['10.0.0.0/33']\n",
            "/etc/portcullis/requirements.toml: network.addresses[0]: ",
        ),
        (
            "[[profiles]]\ngroup = 'g'\nnames = ['../x']\n",
            "/etc/portcullis/requirements.toml: profiles[0].names: \"../x\" is no profile name",
        ),
    ] {
        let error = Requirements::parse("/etc/portcullis/requirements.toml", text);
        let error = error.unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn what_the_callers_environment_may_add_is_handed_on() {
    let reading = held(
        "",
        "[network]\nextra_ca = ['/etc/corp.pem']\nupstream_proxies = ['http://corp:3128']\n",
    );
    assert_eq!(reading.authorities, Some(vec!["/etc/corp.pem".into()]));
    let proxies = reading.upstream_proxies.unwrap();
    let proxies: Vec<_> = proxies.iter().map(ToString::to_string).collect();
    assert_eq!(proxies, ["http://corp:3128"]);
    let nothing = held("", "");
    assert_eq!(
        (nothing.authorities, nothing.upstream_proxies),
        (None, None)
    );
}

#[test]
fn groups_find_their_profiles_by_the_first_entry_that_fits() {
    let text = "[[profiles]]\ngroup = 'interns'\nnames = ['offline']\n\
                [[profiles]]\ngroup = 'staff'\nnames = ['codex', 'offline']\n";
    let required = Requirements::parse("r", text).unwrap();
    let of = |groups: &[&str]| {
        let groups: Vec<String> = groups.iter().map(|&group| group.to_owned()).collect();
        required.profiles_for(&groups).map(<[String]>::to_vec)
    };
    assert_eq!(of(&["users"]), None);
    assert_eq!(of(&["staff", "interns"]), Some(vec!["offline".to_owned()]));
    let staff = vec!["codex".to_owned(), "offline".to_owned()];
    assert_eq!(of(&["staff"]), Some(staff));
}

#[test]
fn every_value_is_told_with_the_place_where_it_was_written() {
    let over = Over {
        project: "[filesystem]\nmasked = ['keys']\n",
        requirements: "[network]\nmode = 'limited'\n",
        allow: vec!["flag.test"],
        mode: Some(FilesystemMode::ReadOnly),
    };
    let profile = "[network]\nmode = 'full'\n[network.domains]\n'a.test' = 'allow'\n";
    let origins = read(profile, &over).unwrap().origins.unwrap();
    let place = |line: &str| {
        let found = origins
            .values()
            .iter()
            .find(|value| value.to_string() == line);
        found.map(|value| value.place.clone())
    };
    for (line, expected) in [
        ("network.http_port = 3128", "the default"),
        ("network.limits.connections = 256", "the default"),
        ("filesystem.masked = \"~/.ssh\"", "the file of base"),
        ("filesystem.masked = \"keys\"", "/w/.portcullis.toml"),
        ("filesystem.mode = \"read-only\"", "the command line"),
        (
            "network.mode = \"limited\"",
            "/etc/portcullis/requirements.toml",
        ),
    ] {
        assert_eq!(place(line).as_deref(), Some(expected), "{line}");
    }
    let rules: Vec<(&str, &str)> = origins
        .values()
        .iter()
        .filter(|value| value.key == "network.rules")
        .map(|value| (value.value.as_str(), value.place.as_str()))
        .collect();
    let [(own, own_place), (flag, flag_place)] = rules.as_slice() else {
        panic!("{rules:?}");
    };
    assert!(
        own.contains("a.test") && flag.contains("flag.test"),
        "{rules:?}"
    );
    assert_eq!(
        (*own_place, *flag_place),
        ("the file of p", "the command line")
    );
}

// === no layer gets past the admin ===

fn host() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "a.test",
        "b.a.test",
        "c.b.a.test",
        "other.org",
        "10.1.2.3",
    ])
}

fn pattern() -> impl Strategy<Value = String> {
    let names = vec![
        "a.test",
        "b.a.test",
        "*.a.test",
        "**.a.test",
        "*.b.a.test",
        "*",
        "10.1.2.3",
    ];
    prop::sample::select(names).prop_map(ToOwned::to_owned)
}

/// One `[[network.rules]]` of any kind.
fn rule() -> impl Strategy<Value = String> {
    let action = prop::sample::select(vec!["allow", "allow", "allow", "ask", "deny"]);
    let ports = prop::sample::select(vec!["", "ports = [443]\n", "ports = [22, 80]\n"]);
    let more = prop::sample::select(vec![
        "",
        "",
        "methods = ['GET']\n",
        "paths = ['/x/**']\n",
        "protocol = 'tcp'\n",
    ]);
    (pattern(), action, ports, more).prop_filter_map("not a rule", |(host, action, ports, more)| {
        let tcp = more.contains("tcp");
        let wrong = (action == "deny" && (host == "*" || tcp)) || (tcp && ports.is_empty());
        let text =
            format!("[[network.rules]]\nhost = '{host}'\n{ports}{more}action = '{action}'\n");
        (!wrong).then_some(text)
    })
}

fn scalars() -> impl Strategy<Value = String> {
    let some = |lines: &[&'static str]| prop::sample::select(lines.to_vec());
    (
        some(&["", "mode = 'full'\n", "mode = 'limited'\n"]),
        some(&["", "default = 'ask'\n", "default = 'deny'\n"]),
        some(&["", "enabled = true\n", "enabled = false\n"]),
    )
        .prop_map(|(mode, default, enabled)| format!("{mode}{default}{enabled}"))
}

fn layer() -> impl Strategy<Value = String> {
    (scalars(), prop::collection::vec(rule(), 0..5))
        // Where TLS is opened, rules about methods and paths are valid everywhere.
        .prop_map(|(scalars, rules)| format!("[network]\nmitm = true\n{scalars}{}", rules.concat()))
}

fn request() -> impl Strategy<Value = String> {
    let port = prop::sample::select(vec![22, 80, 443]);
    let method = prop::sample::select(vec!["GET", "POST"]);
    let path = prop::sample::select(vec!["/", "/x/y"]);
    let tunnel = (host(), port).prop_map(|(host, port)| format!("CONNECT {host}:{port}"));
    let forward = (method, host(), path).prop_map(|(m, h, p)| format!("{m} http://{h}{p}"));
    prop_oneof![tunnel, forward]
}

fn budgets() -> impl Strategy<Value = String> {
    let action = || prop::sample::select(vec!["warn", "ask", "deny", "kill"]);
    let per = prop::sample::select(vec!["7ms", "1s", "1h"]);
    let requests = (1u64..50, action())
        .prop_map(|(max, action)| format!("requests = {{ max = {max}, action = '{action}' }}\n"));
    let rate = (1u64..50, per, action()).prop_map(|(max, per, action)| {
        format!("rate = {{ max = {max}, per = '{per}', action = '{action}' }}\n")
    });
    (prop::option::of(requests), prop::option::of(rate)).prop_map(|(requests, rate)| {
        format!(
            "{}{}",
            requests.unwrap_or_default(),
            rate.unwrap_or_default()
        )
    })
}

/// How much a verdict grants.
fn grants(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Deny => 0,
        Verdict::Ask => 1,
        Verdict::Allow => 2,
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_projects_file_never_widens(
        profile in layer(),
        scalars in scalars(),
        denies in prop::collection::vec(rule(), 0..5),
        own in budgets(),
        narrower in budgets(),
        requests in prop::collection::vec(request(), 1..12),
    ) {
        // Whatever else it says is an error.
        let denies: String = denies.iter().filter(|rule| rule.contains("'deny'")).cloned().collect();
        let project = format!("[network]\n{scalars}{denies}[network.budgets]\n{narrower}");
        let profile = format!("{profile}[network.budgets]\n{own}");
        let alone = read(&profile, &Over::default()).unwrap().profile;
        let effective = narrowed(&profile, &project).unwrap();
        for request in &requests {
            let granted = grants(verdict(&effective, request).0);
            prop_assert!(granted <= grants(verdict(&alone, request).0), "{}", request);
        }
        for kind in [BudgetKind::Requests, BudgetKind::Rate] {
            let (before, after) = (alone.network.budgets.get(kind), effective.network.budgets.get(kind));
            let Some(before) = before else { continue };
            let after = after.unwrap();
            prop_assert!(after.action >= before.action);
            if before.action > portcullis::policy::BudgetAction::Warn {
                prop_assert!(after.max <= before.max);
                // Amount by time: no faster either.
                prop_assert!(after.max * before.per <= before.max * after.per);
            }
        }
    }

    #[test]
    fn no_layers_grant_more_than_the_requirements(
        profile in layer(),
        project_denies in prop::bool::ANY,
        flag in host(),
        requirements in layer(),
        requests in prop::collection::vec(request(), 1..12),
    ) {
        let project = if project_denies { "[network.domains]\n'b.a.test' = 'deny'\n" } else { "" };
        let over = Over { project, requirements: &requirements, allow: vec![flag], ..Over::default() };
        let effective = read(&profile, &over).unwrap().profile;
        // The admin's own words as a profile, and the profile with nothing over it.
        let alone = Over { allow: vec![flag], ..Over::default() };
        let profile_alone = read(&profile, &alone).unwrap().profile;
        let named = requirements.contains("[[network.rules]]");
        let admin = read(&requirements, &Over::default()).unwrap().profile;
        for request in &requests {
            let granted = grants(verdict(&effective, request).0);
            // Without a rule for bytes that nobody can inspect, a host is one of which no rule speaks.
            if !profile.contains("tcp") {
                prop_assert!(granted <= grants(verdict(&profile_alone, request).0), "{}", request);
            }
            if named {
                // What the admin denies by default is denied; "ask" for the unlisted lists nothing.
                let most = Ruleset::compile(&portcullis::policy::NetworkPolicy {
                    default: Unlisted::Deny,
                    ..admin.network.clone()
                });
                let most = decide(&most, &EgressRequest::parse(request).unwrap()).verdict;
                prop_assert!(granted <= grants(most), "{}", request);
            }
            if project_denies && request.contains(" b.a.test") {
                prop_assert_eq!(granted, 0);
            }
        }
        prop_assert!(effective.network.enabled <= admin.network.enabled);
    }
}
