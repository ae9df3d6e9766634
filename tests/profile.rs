//! Profiles: what is read, how layers meet, and what each mistake is told.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests may panic"
)]

use portcullis::policy::profile::{builtin, builtin_names};
use portcullis::policy::{
    Effect, EgressRequest, FilesystemMode, Overrides, PolicyTest, Profile, ProfileError, Registry,
    Ruleset, Verdict, decide,
};

/// Reads `files[0]` with the others and the compiled-in profiles to extend.
fn read(files: &[(&str, &str)]) -> Result<Profile, ProfileError> {
    Profile::read(files[0].0, &mut |name| {
        let own = files
            .iter()
            .find(|(own, _)| *own == name)
            .map(|(_, text)| *text);
        Ok(own.or_else(|| builtin(name)).map(ToOwned::to_owned))
    })
}

fn error(text: &str) -> String {
    let message = read(&[("p", text)]).unwrap_err().to_string();
    assert!(!message.contains('\n'), "{message}");
    message
}

fn verdict(profile: &Profile, request: &str) -> Verdict {
    decide(
        &Ruleset::compile(&profile.network),
        &EgressRequest::parse(request).unwrap(),
    )
    .verdict
}

#[test]
fn every_built_in_profile_reads_and_keeps_its_own_promises() {
    for name in builtin_names() {
        let text = builtin(name).unwrap();
        let profile = read(&[(name, text)]).unwrap_or_else(|e| panic!("{e}"));
        for test in PolicyTest::read_all(name, text).unwrap() {
            let found = decide(&Ruleset::compile(&profile.network), &test.request);
            assert_eq!(found.verdict, test.expect, "{name}: {}", test.text);
        }
    }
}

#[test]
fn the_codex_profile_reaches_openai_and_protects_what_runs_later() {
    let profile = read(&[("codex", builtin("codex").unwrap())]).unwrap();
    assert!(profile.codex.enabled);
    assert_eq!(profile.filesystem.mode, FilesystemMode::WorkspaceWrite);
    let ids: Vec<&str> = profile
        .network
        .rules
        .iter()
        .map(|rule| rule.id.as_str())
        .collect();
    assert_eq!(
        ids,
        [
            "network.domains.\"api.openai.com\"",
            "network.domains.\"auth.openai.com\"",
            "network.domains.\"chatgpt.com\"",
        ]
    );
    for path in [".git/hooks", ".git/config", ".codex", ".envrc"] {
        assert!(
            profile
                .filesystem
                .protected
                .iter()
                .any(|p| p == std::path::Path::new(path))
        );
    }
    assert!(profile.environment.pass.contains(&"TERM".to_owned()));
    assert!(
        profile
            .environment
            .pass
            .contains(&"OPENAI_API_KEY".to_owned())
    );
}

#[test]
fn the_registries_profile_names_clients_and_no_host() {
    let profile = read(&[("registries", builtin("registries").unwrap())]).unwrap();
    assert_eq!(
        profile.network.registries,
        [Registry::Pip, Registry::Npm, Registry::Cargo, Registry::Apt]
    );
    assert_eq!(profile.network.rules, []);
}

#[test]
fn scalars_replace_lists_append_maps_merge() {
    let base = "[filesystem]\nmode='read-only'\nwritable=['/a']\n[environment]\npass=['A','B']\n\
        set={X='1',Y='1'}\n[codex.config]\nmodel='m'\nlist=[1]\n[codex.config.t]\na=1\nb=1\n\
        [network]\nhttp_port=4000\n[network.addresses]\nallow=['10.0.0.0/8']";
    let child = "extends='base'\n[filesystem]\nmode='workspace-write'\nwritable=['/b','/a']\n\
        [environment]\npass=['C','A']\nset={Y='2'}\n[codex.config]\nlist=[2]\n[codex.config.t]\nb=2\n\
        [network.addresses]\nallow=['10.0.0.7']";
    let profile = read(&[("p", child), ("base", base)]).unwrap();
    assert_eq!(profile.filesystem.mode, FilesystemMode::WorkspaceWrite);
    assert_eq!(
        profile.filesystem.writable,
        ["/a", "/b"].map(std::path::PathBuf::from)
    );
    assert_eq!(profile.environment.pass, ["A", "B", "C"]);
    let set: Vec<_> = profile
        .environment
        .set
        .iter()
        .map(|(k, v)| format!("{k}={v}"))
        .collect();
    assert_eq!(set, ["X=1", "Y=2"]);
    assert_eq!(
        profile.codex.config.to_string(),
        "list = [2]\nmodel = \"m\"\n\n[t]\na = 1\nb = 2\n"
    );
    assert_eq!(profile.network.http_port, 4000);
    let allow: Vec<_> = profile
        .network
        .addresses
        .allow
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(allow, ["10.0.0.0/8", "10.0.0.7/32"]);
}

#[test]
fn an_inherited_deny_stays_and_says_where_it_was_written() {
    let base = "[network.domains]\n'a.test'='deny'";
    let child = "[network.domains]\n'a.test'='allow'\n'b.test'='allow'";
    let profile = read(&[("p", child), ("base", base)]).unwrap();
    let flags = Overrides {
        allow: vec!["a.test".to_owned()],
        ..Overrides::default()
    };
    let profile = profile.apply(&flags).unwrap();
    let rules = Ruleset::compile(&profile.network);
    let denied = decide(&rules, &EgressRequest::parse("a.test").unwrap());
    assert_eq!(denied.verdict, Verdict::Deny);
    assert_eq!(
        denied.rule.unwrap().as_str(),
        "base: network.domains.\"a.test\""
    );
    assert_eq!(verdict(&profile, "b.test"), Verdict::Allow);
}

#[test]
fn a_profile_extends_base_unless_it_says_otherwise() {
    let profile = read(&[("p", "")]).unwrap();
    assert!(!profile.filesystem.protected.is_empty());
    let profile = read(&[("p", "extends='q'"), ("q", "extends='base'")]).unwrap();
    assert!(!profile.filesystem.protected.is_empty());
}

#[test]
fn a_chain_that_leads_back_or_too_deep_is_refused() {
    assert_eq!(
        read(&[("a", "extends='b'"), ("b", "extends='a'")])
            .unwrap_err()
            .to_string(),
        "profile a → b → a: `extends` leads back to where it came from; rename one of them"
    );
    let texts: Vec<(String, String)> = (0..9)
        .map(|i| (format!("p{i}"), format!("extends='p{}'", i + 1)))
        .collect();
    let files: Vec<(&str, &str)> = texts
        .iter()
        .map(|(n, t)| (n.as_str(), t.as_str()))
        .collect();
    assert!(
        read(&files)
            .unwrap_err()
            .to_string()
            .contains("deeper than 8")
    );
    assert_eq!(
        error("extends='../../etc/passwd'"),
        "profile p: extends: \"../../etc/passwd\" is no profile name; accepted are letters, digits, \
         '-', '_' and '.', not in front"
    );
}

#[test]
fn a_missing_profile_is_told_what_there_is() {
    let missing = Profile::read("codx", &mut |_| Ok(None)).unwrap_err();
    assert_eq!(
        missing.to_string(),
        "no profile \"codx\"; there are base, codex, offline, registries; did you mean \"codex\"?"
    );
    assert_eq!(
        error("extends='ofline'"),
        "no profile \"ofline\", which p extends; there are base, codex, offline, registries; did you \
         mean \"offline\"?"
    );
    let unreadable = Profile::read("x", &mut |_| Err("permission denied".to_owned()));
    assert_eq!(
        unreadable.unwrap_err().to_string(),
        "profile x: permission denied"
    );
}

/// A profile's text, and a part of what is said about it.
const MISTAKES: &[(&str, &str)] = &[
    (
        "netwrok = 1",
        "netwrok: unknown field `netwrok`, expected one of",
    ),
    ("netwrok = 1", "did you mean \"network\"?"),
    ("[network]\nhttp_prt = 1", "network.http_prt: unknown field"),
    ("[network]\nhttp_prt = 1", "did you mean \"http_port\"?"),
    (
        "[network]\nmode = 'limitd'",
        "network.mode: unknown variant `limitd`, expected `full` or `limited`; did you mean \"limited\"?",
    ),
    (
        "[network]\nenabled = 'yes'",
        "network.enabled: invalid type: string \"yes\", expected a boolean",
    ),
    (
        "network = 3",
        "network: invalid type: integer `3`, expected a table",
    ),
    (
        "[network]\nhttp_port = 80",
        "network.http_port: 80 is not a number from 1024 to 65535",
    ),
    (
        "[network]\nhttp_port = 70000",
        "network.http_port: invalid value: integer `70000`, expected u16",
    ),
    ("[network]\nsocks_port = 0", "network.socks_port: 0 is not"),
    (
        "[network]\nregistries = ['pypi']",
        "network.registries: unknown variant `pypi`, expected one of `pip`",
    ),
    (
        "[network.domains]\n'' = 'allow'",
        "network.domains.\"\": the host is empty",
    ),
    (
        "[network.domains]\n'*' = 'deny'",
        "network.domains.\"*\": \"*\" cannot be denied",
    ),
    (
        "[network.domains]\n'*.co.uk' = 'allow'",
        "network.domains.\"*.co.uk\": \"*.co.uk\" covers a public suffix",
    ),
    (
        "[network.domains]\n'a.test:1' = 'allow'",
        "in `ports` of a [[network.rules]] entry",
    ),
    (
        "[network.domains]\n'a.test' = 'alow'",
        "network.domains.\"a.test\": \"alow\" is none of \"allow\", \"ask\", \"deny\"; did you mean \"allow\"?",
    ),
    (
        "[network.domains]\n'a.test' = true",
        "network.domains.a.test: invalid type: boolean `true`, expected a string",
    ),
    (
        "[[network.rules]]\nhost='a.test'\naction='allow'\n[[network.rules]]\nhots='x'",
        "network.rules[1].hots: unknown field `hots`",
    ),
    (
        "[[network.rules]]\nhost='a.test'",
        "network.rules[0]: missing field `action`",
    ),
    (
        "[[network.rules]]\nhost='a.test'\nports=[0]\naction='allow'",
        "network.rules[0].ports[0]: 0 is no port",
    ),
    (
        "[[network.rules]]\nhost='a.test'\nports=[]\naction='allow'",
        "network.rules[0].ports: an empty list matches nothing",
    ),
    (
        "[[network.rules]]\nhost='a.test'\nports=[80]\nmethods=['get']\naction='allow'",
        "network.rules[0].methods[0]: not an HTTP method: \"get\" (write it in capitals, as GET)",
    ),
    (
        "[[network.rules]]\nhost='a.test'\nmethods=['GET']\naction='allow'",
        "network.rules[0].methods: methods cannot be seen inside TLS, and the rule covers ports other than 80; restrict it with ports = [80]",
    ),
    (
        "[[network.rules]]\nhost='a.test'\nports=[443]\npaths=['/x']\naction='deny'",
        "network.rules[0].paths: paths cannot be seen inside TLS",
    ),
    (
        "[[network.rules]]\nhost='a.test'\nports=[80]\npaths=['x']\naction='allow'",
        "network.rules[0].paths[0]: path pattern \"x\" does not start with '/'",
    ),
    (
        "[network.addresses]\nallow=['10.0.0.1/8']",
        "network.addresses.allow[0]: 10.0.0.1/8 has bits set after its prefix; write 10.0.0.0/8",
    ),
    (
        "[network.addresses]\nallow=['0.0.0.0/0']",
        "network.addresses.allow[0]: 0.0.0.0/0 is every address",
    ),
    (
        "[network.addresses]\nallow=['::ffff:10.0.0.0/104']",
        "write the IPv4 range",
    ),
    (
        "[network.addresses]\nallow=['intranet']",
        "network.addresses.allow[0]: \"intranet\" is no address range",
    ),
    (
        "[network.dns]\nservers=['one.one']",
        "network.dns.servers[0]: \"one.one\" is no name server",
    ),
    (
        "[network.limits]\nconnections=0",
        "network.limits.connections: 0 is not a number from 1 to 65535",
    ),
    (
        "[filesystem]\nmode='workspace-wirte'",
        "did you mean \"workspace-write\"?",
    ),
    (
        "[filesystem]\nwritable=['/']",
        "filesystem.writable[0]: \"/\" would make everything writable",
    ),
    (
        "[filesystem]\nwritable=['']",
        "filesystem.writable[0]: \"\" is no path",
    ),
    (
        "[filesystem]\nmasked=['~root/.ssh']",
        "filesystem.masked[0]: \"~root/.ssh\": only \"~/\"",
    ),
    (
        "[filesystem]\nprotected=['../x']",
        "filesystem.protected[0]: \"../x\" is not relative",
    ),
    (
        "[filesystem]\nprotected=['/x']",
        "filesystem.protected[0]: \"/x\" is not relative",
    ),
    (
        "[environment]\npass=['LC_*']",
        "environment.pass[0]: \"LC_*\" is no variable name",
    ),
    (
        "[environment]\npass=['A=b']",
        "environment.pass[0]: \"A=b\" is no variable name",
    ),
    (
        "[environment.set]\nA=\"x\\u0000y\"",
        "environment.set.A: a value cannot contain NUL",
    ),
    (
        "[isolation]\nlandlock_abi=0",
        "isolation.landlock_abi: 0 is not a number from 1 to 255",
    ),
    (
        "[audit]\ndurability='none'",
        "audit.durability: unknown variant `none`",
    ),
    (
        "[[tests]]\nrequest='ftp://x'\nexpect='deny'",
        "tests[0].request: \"ftp\" is no scheme",
    ),
    (
        "[[tests]]\nrequest='x'\nexpect='no'",
        "tests[0].expect: \"no\" is none of",
    ),
    ("description = \"a\\nb\"", "description: has a line break"),
    (
        "a = [\n1,\n]\nb =",
        "profile p: line 4, column 4: string values must be quoted",
    ),
    ("a = 1\na = 2", "line 2, column 1: duplicate key"),
];

#[test]
fn every_mistake_is_told_with_key_path_and_cure() {
    for (text, message) in MISTAKES {
        let found = error(text);
        assert!(
            found.starts_with("profile p: ") && found.contains(message),
            "{text}\n  → {found}"
        );
    }
}

#[test]
fn flags_are_the_last_layer() {
    let overrides = Overrides {
        allow: [
            "a.test",
            "b.test:8443",
            "[2606:4700::1]:22",
            "[2606:4700::2]",
            "2606:4700::3",
            "*.c.test",
        ]
        .map(str::to_owned)
        .to_vec(),
        deny: vec!["x.c.test".to_owned()],
        writable: vec!["../sibling".into()],
        readable: vec!["/opt/data".into()],
        sockets: vec!["/run/some.sock".into()],
        env: ["A=1", "B", "C=x=y"].map(str::to_owned).to_vec(),
        mode: Some(FilesystemMode::ReadOnly),
        ..Overrides::default()
    };
    let base = "[environment]\nset={B='profile'}";
    let profile = read(&[("p", base)]).unwrap().apply(&overrides).unwrap();
    for (request, expected) in [
        ("a.test", Verdict::Allow),
        ("a.test:80", Verdict::Allow),
        ("a.test:8443", Verdict::Deny),
        ("b.test:8443", Verdict::Allow),
        ("b.test", Verdict::Deny),
        ("[2606:4700::1]:22", Verdict::Allow),
        ("[2606:4700::2]:443", Verdict::Allow),
        ("[2606:4700::3]:443", Verdict::Allow),
        ("w.c.test", Verdict::Allow),
        ("x.c.test", Verdict::Deny),
        ("c.test", Verdict::Deny),
    ] {
        assert_eq!(verdict(&profile, request), expected, "{request}");
    }
    let ids: Vec<&str> = profile
        .network
        .rules
        .iter()
        .map(|r| r.id.as_str())
        .collect();
    assert_eq!(ids.first(), Some(&"--allow a.test"));
    assert_eq!(ids.last(), Some(&"--deny x.c.test"));
    assert_eq!(profile.filesystem.mode, FilesystemMode::ReadOnly);
    assert_eq!(profile.environment.set.get("C").unwrap(), "x=y");
    assert_eq!(profile.environment.set.get("B"), None);
    assert!(profile.environment.pass.contains(&"B".to_owned()));
}

#[test]
fn a_wrong_flag_is_named_with_the_accepted_forms() {
    let apply = |change: fn(&mut Overrides)| {
        let mut overrides = Overrides::default();
        change(&mut overrides);
        read(&[("p", "")])
            .unwrap()
            .apply(&overrides)
            .unwrap_err()
            .to_string()
    };
    for (found, expected) in [
        (
            apply(|o| o.allow.push("https://a.test".into())),
            "--allow https://a.test: \"https://a.test\" is a URL",
        ),
        (
            apply(|o| o.allow.push("a.test:0".into())),
            "--allow a.test:0: \"0\" is no port",
        ),
        (
            apply(|o| o.allow.push("a.test:".into())),
            "--allow a.test:: \"\" is no port",
        ),
        (
            apply(|o| o.allow.push(String::new())),
            "--allow : the host is empty; accepted are",
        ),
        (
            apply(|o| o.allow.push("*.com".into())),
            "covers a public suffix",
        ),
        (
            apply(|o| o.deny.push("*".into())),
            "--deny *: \"*\" cannot be denied",
        ),
        (
            apply(|o| o.writable.push("/".into())),
            "--rw /: \"/\" would make",
        ),
        (
            apply(|o| o.env.push("1=2".into())),
            "--env 1=2: \"1\" is no variable name",
        ),
    ] {
        assert!(found.contains(expected), "{found}");
    }
}

#[test]
fn a_shown_profile_reads_back_to_the_same_policy() {
    let base = "[network.domains]\n'a.test'='deny'\n'*.b.test'='allow'";
    let child = "[network.domains]\n'a.test'='allow'\n[[network.rules]]\nhost='c.test'\nports=[80]\n\
        methods=['GET']\npaths=['/x/**']\naction='allow'\n[codex.config]\nmodel='x'";
    let profile = read(&[("p", child), ("base", base)]).unwrap();
    let text = profile.to_toml().unwrap();
    assert!(
        text.contains("\"a.test\" = \"deny\"  # base: network.domains.\"a.test\""),
        "{text}"
    );
    let mut again = read(&[("p", &text), ("base", "")]).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let plain = |profile: &Profile| {
        let mut rules: Vec<_> = profile
            .network
            .rules
            .iter()
            .map(|r| {
                (
                    r.host.clone(),
                    r.ports.clone(),
                    r.methods.clone(),
                    r.paths.clone(),
                    r.effect,
                )
            })
            .collect();
        rules.sort();
        rules
    };
    assert_eq!(plain(&again), plain(&profile));
    assert!(plain(&again).iter().any(|rule| rule.4 == Effect::Deny));
    again.network.rules = profile.network.rules.clone();
    assert_eq!(again, profile);
}

#[test]
fn an_upstream_proxy_is_read_layered_and_shown_without_its_password() {
    let parent = "[network]\nallow_upstream_proxy = true\n\
        [network.upstream_proxy]\nurl = \"http://ada:s3cret@proxy.corp:3128\"\n\
        password_file = \"~/.proxy\"\nno_proxy = [\"*.corp\", \"10.0.0.0/8\"]\nresolve = \"local\"\n";
    let profile = read(&[("p", parent)]).unwrap();
    let shown = profile.to_toml().unwrap();
    assert!(!shown.contains("s3cret"), "{shown}");
    let again = read(&[("p", &shown)]).unwrap().network;
    let expected = profile.network.upstream_proxy;
    assert_eq!(
        again.upstream_proxy.url.unwrap().to_string(),
        "http://ada@proxy.corp:3128"
    );
    assert_eq!(again.upstream_proxy.password_file, expected.password_file);
    assert_eq!(again.upstream_proxy.no_proxy, expected.no_proxy);
    assert_eq!(again.upstream_proxy.resolve, expected.resolve);
    assert!(again.allow_upstream_proxy);
    let child = "extends = \"p\"\n[network.upstream_proxy]\nurl = \"socks5://other:1\"\n";
    let child = read(&[("c", child), ("p", parent)]).unwrap().network;
    assert_eq!(
        child.upstream_proxy.password_file, None,
        "meant for the other proxy"
    );
    for (line, cure) in [
        ("url = \"https://proxy.corp:3128\"", "not spoken yet"),
        ("url = \"http://u:s3cret@proxy.corp\"", "port"),
        ("no_proxy = [\"http://x\"]", "no_proxy[0]"),
        ("password_file = \"secrets/proxy\"", "\"/abs/path\""),
        ("resolve = \"both\"", "resolve"),
        ("proxy = \"x\"", "proxy"),
    ] {
        let message = error(&format!("[network.upstream_proxy]\n{line}\n"));
        assert!(message.contains(cure), "{message}");
        assert!(!message.contains("s3cret"), "{message}");
    }
}

#[test]
fn unix_sockets_are_read_layered_and_shown() {
    use portcullis::policy::UnixSocket::{Allow, AllowDangerous, Deny};
    let parent = "[network.unix_sockets]\n\"/run/a.sock\" = \"allow\"\n\
        \"~/b.sock\" = \"allow\"\n\"/run/docker.sock\" = \"allow-dangerous\"\n";
    let child = "extends = \"p\"\n[network.unix_sockets]\n\"/run/a.sock\" = \"deny\"\n";
    let profile = read(&[("c", child), ("p", parent)]).unwrap();
    let expected = [
        ("/run/a.sock", Deny),
        ("/run/docker.sock", AllowDangerous),
        ("~/b.sock", Allow),
    ];
    let expected = expected.map(|(path, action)| (path.into(), action));
    assert_eq!(profile.network.unix_sockets, expected.into());
    let shown = profile.to_toml().unwrap();
    let again = read(&[("p", &shown)]).unwrap();
    assert_eq!(again.network, profile.network);
    let flags = Overrides {
        sockets: vec!["/run/docker.sock".into(), "/run/a.sock".into()],
        ..Overrides::default()
    };
    let sockets = again.apply(&flags).unwrap().network.unix_sockets;
    assert_eq!(sockets[std::path::Path::new("/run/a.sock")], Allow);
    assert_eq!(
        sockets[std::path::Path::new("/run/docker.sock")],
        AllowDangerous
    );
    for (line, cure) in [
        ("\"run/a.sock\" = \"allow\"", "~/below/home.sock"),
        ("\"/run/../a.sock\" = \"allow\"", "without"),
        ("\"/run/a.sock\" = \"yes\"", "allow-dangerous"),
    ] {
        let message = error(&format!("[network.unix_sockets]\n{line}\n"));
        assert!(message.contains(cure), "{message}");
    }
}

#[test]
fn rules_for_datagrams_are_read_decided_and_shown() {
    let text = "[network]\nenable_socks5_udp = true\n[network.domains]\n\"web.test\" = \"allow\"\n\
        [[network.rules]]\nhost = \"dns.test\"\nports = [53]\nprotocol = \"udp\"\naction = \"allow\"\n\
        [[network.rules]]\nhost = \"bad.test\"\nports = [53]\nprotocol = \"udp\"\naction = \"allow\"\n\
        [[network.rules]]\nhost = \"**.bad.test\"\naction = \"deny\"\n";
    let profile = read(&[("p", text)]).unwrap();
    for (request, expected) in [
        ("udp://dns.test:53", Verdict::Allow),
        ("udp://dns.test:54", Verdict::Deny),
        ("udp://web.test:443", Verdict::Deny),
        ("udp://bad.test:53", Verdict::Deny),
        ("dns.test:53", Verdict::Deny),
        ("web.test", Verdict::Allow),
    ] {
        assert_eq!(verdict(&profile, request), expected, "{request}");
    }
    let mut off = read(&[("p", text)]).unwrap();
    off.network.enable_socks5_udp = false;
    assert_eq!(verdict(&off, "udp://dns.test:53"), Verdict::Deny);
    assert!(EgressRequest::parse("udp://dns.test").is_err());
    let again = read(&[("p", &profile.to_toml().unwrap())]).unwrap();
    assert!(again.network.enable_socks5_udp);
    assert_eq!(verdict(&again, "udp://dns.test:53"), Verdict::Allow);
    for (keys, cure) in [
        ("protocol = \"udp\"\naction = \"allow\"", "name the ports"),
        (
            "ports = [53]\nprotocol = \"udp\"\naction = \"deny\"",
            "covers every protocol",
        ),
        (
            "ports = [80]\nmethods = [\"GET\"]\nprotocol = \"udp\"\naction = \"allow\"",
            "no methods",
        ),
        (
            "ports = [53]\nprotocol = \"dns\"\naction = \"allow\"",
            "udp",
        ),
    ] {
        let message = error(&format!("[[network.rules]]\nhost = \"a.test\"\n{keys}\n"));
        assert!(message.contains(cure), "{message}");
    }
}
