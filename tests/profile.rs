//! Profiles: what is read, how layers meet, and what each mistake is told.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests may panic"
)]

use portcullis::policy::profile::{builtin, builtin_names};
use portcullis::policy::{
    Effect, EgressRequest, FilesystemMode, Overrides, PolicyTest, Profile, ProfileError, Question,
    Registry, Ruleset, Verdict, decide, explain,
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
            let found = explain(&Ruleset::compile(&profile.network), &test.question);
            assert_eq!(found.decision.verdict, test.expect, "{name}: {}", test.text);
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
    let allowing = Overrides {
        allow: vec!["registry.test".to_owned()],
        ..Overrides::default()
    };
    let rules = Ruleset::compile(&profile.apply(&allowing).unwrap().network);
    for (question, expected) in [
        ("https://registry.test/thing", Verdict::Allow),
        ("PUT https://registry.test/thing", Verdict::Deny),
        ("wss://registry.test/", Verdict::Deny),
    ] {
        let found = explain(&rules, &Question::parse(question).unwrap());
        assert_eq!(found.decision.verdict, expected, "{question}");
    }
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
        "no profile \"codx\"; there are base, codex, codex-sealed, offline, registries; did you mean \"codex\"?"
    );
    assert_eq!(
        error("extends='ofline'"),
        "no profile \"ofline\", which p extends; there are base, codex, codex-sealed, offline, registries; did you \
         mean \"offline\"?"
    );
    let unreadable = Profile::read("x", &mut |_| Err("permission denied".to_owned()));
    assert_eq!(
        unreadable.unwrap_err().to_string(),
        "profile x: permission denied"
    );
}

#[test]
fn a_credential_takes_everything_its_entry_says_and_the_later_layer_wins() {
    let base = "[network]\nmitm = true\n[[network.credentials]]\nname='a'\nhost='a.test'\nheader='X-Key'\n\
        value='${env:A}'\n[[network.credentials]]\nhost='*.b.test'\nheader='Authorization'\n\
        value='Bearer ${command}'\ncommand=['pass','show','b']\ninject='always'\nbodies='pass'\noptional=true\n\
        ports=[443,8443]\npaths=['/v1/**']";
    let child = "[[network.credentials]]\nname='a'\nhost='a.test'\nheader='x-key'\nvalue='${file:~/a}'\nenv='B'";
    let profile = read(&[("p", child), ("base", base)]).unwrap();
    let form = serde_json::to_value(&profile.network.credentials).unwrap();
    assert_eq!(
        form,
        serde_json::json!([
            {"name": "a", "host": "a.test", "ports": [443], "header": "x-key", "value": "${file:~/a}", "env": "B"},
            {
                "name": "*.b.test/authorization", "host": "*.b.test", "ports": [443, 8443], "paths": ["/v1/**"],
                "header": "authorization", "value": "Bearer ${command}", "command": ["pass", "show", "b"],
                "inject": "always", "bodies": "pass", "optional": true,
            },
        ])
    );
    let text = profile.to_toml().unwrap();
    let again = read(&[("p", &text), ("base", "")]).unwrap_or_else(|e| panic!("{e}\n{text}"));
    assert_eq!(again.network.credentials, profile.network.credentials);
    let without = read(&[("p", "[network]\nmitm = true"), ("base", "")]).unwrap();
    let generation = |profile: &Profile| Ruleset::compile(&profile.network).generation().clone();
    assert_ne!(generation(&profile), generation(&without));
}

#[test]
fn the_sealed_codex_profile_looks_into_the_model_and_refuses_sign_in() {
    let profile = read(&[("codex-sealed", builtin("codex-sealed").unwrap())]).unwrap();
    let names: Vec<&str> = profile
        .network
        .credentials
        .iter()
        .map(|c| c.name.as_str())
        .collect();
    assert_eq!(names, ["openai-api-key", "chatgpt-sign-in"]);
    assert_eq!(verdict(&profile, "https://auth.openai.com/"), Verdict::Deny);
    assert_eq!(verdict(&profile, "https://chatgpt.com/"), Verdict::Allow);
}

/// A credential's keys, and a part of what is said about it.
const CREDENTIAL_MISTAKES: &[(&str, &str)] = &[
    (
        "host='*'",
        "network.credentials[0].host: \"*\" would give the value to everybody",
    ),
    (
        "host='192.0.2.1'",
        "network.credentials[0].host: 192.0.2.1 is an address",
    ),
    (
        "host='*.com'",
        "network.credentials[0].host: \"*.com\" covers a public suffix",
    ),
    (
        "host='b.test'",
        "network.credentials.\"b.test/x-key\": TLS to b.test is not looked into, so the value could not be put in; add [network.tls] \"b.test\" = \"inspect\"",
    ),
    ("host='*.a.test'", "TLS to *.a.test is not looked into"),
    (
        "ports=[]",
        "network.credentials[0].ports: accepted are numbers from 1 to 65535",
    ),
    ("ports=[0]", "network.credentials[0].ports: accepted are"),
    (
        "paths=[]",
        "network.credentials[0].paths: an empty list matches nothing",
    ),
    ("paths=['/a/../b']", "network.credentials[0].paths: "),
    (
        "header='host'",
        "network.credentials[0].header: \"host\" is the gate's own",
    ),
    ("header='Proxy-Authorization'", "is the gate's own"),
    (
        "header='a b'",
        "network.credentials[0].header: \"a b\" is no header field",
    ),
    (
        "value='sk-real'",
        "network.credentials[0].value: names no source of the secret; accepted are ${env:NAME}",
    ),
    ("value='${env:A}${env:B}'", "names two sources"),
    (
        "value='${vault:a}'",
        "${vault:a} is no source; accepted are",
    ),
    (
        "value='${codex:refresh_token}'",
        "is no source; accepted are",
    ),
    ("value='${env:A B}'", "is no variable name"),
    (
        "value='${env:PATH}'",
        "network.credentials[0].env: PATH is what the jail needs it for",
    ),
    (
        "value='${file:a}'\nenv='A'",
        "a file is named as ${file:/abs/path}",
    ),
    ("value='${credential:../a}'\nenv='A'", "without a slash"),
    (
        "value='${file:/a}'",
        "network.credentials[0].env: nothing in the jail would know the placeholder",
    ),
    (
        "value='${command}'\nenv='A'",
        "network.credentials[0].command: value asks for a command",
    ),
    (
        "command=['x']",
        "network.credentials[0].command: value does not use it",
    ),
    ("value='${env:A} '", "no space at the ends"),
    (
        "inject='ever'",
        "network.credentials[0].inject: unknown variant `ever`",
    ),
    ("inject='alway'", "did you mean \"always\"?"),
    (
        "name='a b'",
        "network.credentials[0].name: \"a b\" is no name",
    ),
    ("heder='x'", "network.credentials[0].heder: unknown field"),
    (
        "[[network.credentials]]\nhost='a.test'\nheader='x-key'\nvalue='${env:B}'",
        "network.credentials[1].name: \"a.test/x-key\" is there already",
    ),
    (
        "[[network.credentials]]\nname='2'\nhost='a.test'\nheader='x-2'\nvalue='${env:A}'",
        "its variable is that of \"a.test/x-key\" too",
    ),
    (
        "inject='always'\n[[network.credentials]]\nname='2'\nhost='a.test'\nheader='x-key'\nvalue='${env:B}'\ninject='always'",
        "that \"a.test/x-key\" always sets there too",
    ),
];

#[test]
fn every_mistake_in_a_credential_is_told_with_key_path_and_cure() {
    for (changes, told) in CREDENTIAL_MISTAKES {
        let given = |key: &str| {
            changes
                .lines()
                .take_while(|l| !l.starts_with("[["))
                .any(|l| l.starts_with(&format!("{key}=")))
        };
        let rest = [
            ("host", "a.test"),
            ("header", "x-key"),
            ("value", "${env:A}"),
        ];
        let rest: String = rest
            .iter()
            .filter(|(key, _)| !given(key))
            .fold(String::new(), |all, (key, text)| {
                format!("{all}{key}='{text}'\n")
            });
        let text =
            format!("[network.tls]\n'a.test'='inspect'\n[[network.credentials]]\n{rest}{changes}");
        let message = error(&text);
        assert!(
            message.contains(told),
            "{changes}: no {told:?} in {message:?}"
        );
        assert!(!message.contains("sk-real"), "{message}");
    }
}

/// A profile's text, and a part of what is said about it.
const MISTAKES: &[(&str, &str)] = &[
    (
        "network.enable_socks5 = false\nnetwork.enable_socks5_udp = true",
        "network.enable_socks5_udp: datagrams need the SOCKS5 proxy; set network.enable_socks5 = true",
    ),
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
        "network.rules[0].methods: methods cannot be seen inside TLS, and the rule covers ports other than 80 of a.test, which is not inspected; set network.mitm = true, or [network.tls] \"a.test\" = \"inspect\", or restrict the rule with ports = [80]",
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
        "[network.tls]\n'a.test' = 'open'",
        "network.tls.\"a.test\": \"open\" is none of \"inspect\", \"tunnel\"",
    ),
    (
        "[network]\nwebsocket = '427'",
        "network.websocket: unknown variant `427`, expected one of `allow`, `deny`, `426`",
    ),
    (
        "[network]\nextra_ca = ['ca.pem']",
        "network.extra_ca[0]: \"ca.pem\" is no file of certificates; accepted are \"/abs/ca.pem\" and \"~/below/home/ca.pem\"",
    ),
    (
        "[network]\nextra_ca = ['~root/ca.pem']",
        "network.extra_ca[0]: \"~root/ca.pem\" is no file",
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
        "[audit]\non_failure='ignore'",
        "audit.on_failure: unknown variant `ignore`",
    ),
    (
        "[audit.bodies]\nhosts=['a.test']",
        "audit.bodies.hosts: TLS to a.test is not looked into, so its bodies cannot be seen; set network.mitm = true, \
         or [network.tls] \"a.test\" = \"inspect\", or leave it out",
    ),
    (
        "[audit.bodies]\nmax_bytes=5",
        "audit.bodies.hosts: names no host, so nothing is kept; name some, or leave [audit.bodies] out",
    ),
    (
        "[audit.bodies]\nmax_bytes=1048577",
        "audit.bodies.max_bytes: 1048577 is not a number from 1 to 1048576",
    ),
    ("[audit.bodies]\nhosts=['a..b']", "audit.bodies.hosts[0]: "),
    (
        "[audit.bodies]\nwhich='none'",
        "audit.bodies.which: unknown variant `none`",
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

// A21
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
        mitm: Some(true),
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
    assert!(profile.network.mitm);
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
    let base = "[network.domains]\n'a.test'='deny'\n'*.b.test'='allow'\n'e.test'='ask'";
    let child = "[network]\nmitm=true\nwebsocket='426'\ndefault='ask'\n\
        extra_ca=['~/ca.pem','/etc/ca.pem']\n[network.tls]\n'**.a.test'='tunnel'\n'*'='inspect'\n\
        '2001:db8::1'='tunnel'\n[network.domains]\n'a.test'='allow'\n\
        [[network.rules]]\nhost='c.test'\n\
        methods=['GET']\npaths=['/x/**']\naction='ask'\n[[network.rules]]\nhost='d.test'\nports=[22]\n\
        protocol='tcp'\naction='allow'\n[codex.config]\nmodel='x'";
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
                    r.protocol,
                    r.effect,
                )
            })
            .collect();
        rules.sort();
        rules
    };
    assert_eq!(plain(&again), plain(&profile));
    assert!(plain(&again).iter().any(|rule| rule.5 == Effect::Deny));
    again.network.rules = profile.network.rules.clone();
    assert_eq!(again, profile);
}

#[test]
fn approvals_say_who_answers_and_read_back_as_shown() {
    let base = "[approvals]\nwait_seconds=5\ncommand=['/bin/decide']\n\
        [[approvals.rules]]\nhost='*.a.test'\nports=[443,8443]\nverdict='allow'";
    let child = "[approvals]\ncommand=['/bin/other','x']\n\
        [[approvals.rules]]\nhost='b.test'\nverdict='deny'";
    let profile = read(&[("p", child), ("base", base)]).unwrap();
    let approvals = &profile.approvals;
    let rules: Vec<_> = approvals
        .rules
        .iter()
        .map(|rule| format!("{}: {} {:?}", rule.id, rule.host, rule.effect))
        .collect();
    assert_eq!(
        (approvals.wait_seconds, approvals.command.join(" ")),
        (5, "/bin/other x".to_owned())
    );
    assert_eq!(
        rules,
        [
            "base: approvals.rules[0]: *.a.test Allow",
            "approvals.rules[1]: b.test Deny"
        ]
        .map(|rule| rule.replace("rules[1]", "rules[0]"))
    );
    let text = profile.to_toml().unwrap();
    let again = read(&[("p", &text), ("base", "")]).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let plain = |profile: &Profile| {
        let rules = profile.approvals.rules.iter();
        rules
            .map(|rule| (rule.host.clone(), rule.ports.clone(), rule.effect))
            .collect::<Vec<_>>()
    };
    assert_eq!(plain(&again), plain(&profile), "{text}");
    assert_eq!(again.approvals.command, profile.approvals.command);
    for (text, expected) in [
        (
            "[approvals]\ncommand=['decide']",
            "approvals.command: the program must be an absolute path",
        ),
        (
            "[approvals]\nwait_seconds=90000",
            "approvals.wait_seconds: ",
        ),
        (
            "[[approvals.rules]]\nhost='a.test'\nverdict='maybe'",
            "approvals.rules[0].verdict: ",
        ),
        (
            "[[approvals.rules]]\nhost='*'\nverdict='deny'",
            "approvals.rules[0].host: \"*\" cannot be denied",
        ),
        ("[approvals]\nx=1", "unknown field"),
    ] {
        assert!(error(text).contains(expected), "{}", error(text));
    }
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
    let secure = "[network.upstream_proxy]\nurl = \"https://ada:s3cret@proxy.corp:3129\"\n";
    let shown = read(&[("p", secure)]).unwrap().to_toml().unwrap();
    assert!(shown.contains("\"https://ada@proxy.corp:3129\""), "{shown}");
    assert_eq!(
        child.upstream_proxy.password_file, None,
        "meant for the other proxy"
    );
    for (line, cure) in [
        ("url = \"quic://proxy.corp:3128\"", "https://, socks5://"),
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
fn a_rule_about_methods_may_speak_of_tls_exactly_where_every_layer_together_inspects_it() {
    let rule =
        |host: &str| format!("[[network.rules]]\nhost='{host}'\nmethods=['GET']\naction='allow'\n");
    let tls = |entries: &str| format!("[network.tls]\n{entries}\n");
    for (host, switches, whole) in [
        ("a.test", "", false),
        ("a.test", "[network]\nmitm=true\n", true),
        ("a.test", &tls("'a.test'='inspect'"), true),
        ("a.test", &tls("'*.test'='inspect'"), true),
        ("a.test", &tls("'*'='inspect'"), true),
        ("a.test", &tls("'b.test'='inspect'"), false),
        (
            "a.test",
            &format!("network.mitm=true\n{}", tls("'a.test'='tunnel'")),
            false,
        ),
        (
            "a.test",
            &format!("network.mitm=true\n{}", tls("'*.test'='tunnel'")),
            false,
        ),
        ("192.0.2.1", "[network]\nmitm=true\n", true),
        ("192.0.2.1", &tls("'*.test'='inspect'"), false),
        ("*", "[network]\nmitm=true\n", true),
        ("*", &tls("'**.test'='inspect'"), false),
        ("*.a.test", &tls("'a.test'='inspect'"), false),
        ("*.a.test", &tls("'*.a.test'='inspect'"), true),
        ("*.a.test", &tls("'*.test'='inspect'"), true),
        ("**.a.test", &tls("'*.a.test'='inspect'"), false),
        ("**.a.test", &tls("'**.a.test'='inspect'"), true),
        // A narrower name that is tunnelled is no mistake: its tunnels are refused.
        ("*", &tls("'*'='inspect'\n'a.test'='tunnel'"), true),
        (
            "*.test",
            &tls("'*.test'='inspect'\n'**.a.test'='tunnel'"),
            true,
        ),
        (
            "**.a.test",
            &tls("'**.a.test'='inspect'\n'a.test'='tunnel'"),
            true,
        ),
    ] {
        // In one file, and with the switch in the layer that extends.
        let one = format!("{switches}{}", rule(host));
        let child = format!("extends='q'\n{switches}");
        let layers = [("p", child.as_str()), ("q", &rule(host))];
        for read in [read(&[("p", &one)]), read(&layers)] {
            assert_eq!(read.is_ok(), whole, "{host}: {switches}: {read:?}");
        }
    }
    let layers = [("p", "extends='q'"), ("q", &rule("a.test"))];
    let error = read(&layers).unwrap_err().to_string();
    assert!(
        error.starts_with("profile q: network.rules[0].methods: methods cannot be seen inside TLS"),
        "{error}"
    );
}

#[test]
fn a_flag_may_make_a_profile_whole_or_take_that_away() {
    let restricted = "[[network.rules]]\nhost='a.test'\npaths=['/x']\naction='deny'\n";
    let with = |text: &str, mitm| {
        let overrides = Overrides {
            mitm,
            ..Overrides::default()
        };
        let mut load = |name: &str| {
            let text = if name == "p" {
                Some(text)
            } else {
                builtin(name)
            };
            Ok(text.map(ToOwned::to_owned))
        };
        Profile::read_with("p", &mut load, &overrides).map(|profile| profile.network.mitm)
    };
    assert_eq!(with(restricted, Some(true)), Ok(true));
    let inspecting = format!("network.mitm=true\n{restricted}");
    assert_eq!(with(&inspecting, None), Ok(true));
    for refused in [with(restricted, None), with(&inspecting, Some(false))] {
        let error = refused.unwrap_err().to_string();
        assert!(
            error.starts_with("profile p: network.rules[0].paths: paths cannot be seen inside TLS"),
            "{error}"
        );
    }
}

#[test]
fn an_own_profile_may_build_on_the_compiled_in_one_of_its_name() {
    let own = "extends='codex'\n[network.domains]\n'a.test'='allow'";
    let profile = read(&[("codex", own)]).unwrap();
    assert!(profile.codex.enabled);
    assert!(
        profile
            .network
            .rules
            .iter()
            .any(|rule| rule.host.to_string() == "a.test")
    );
    assert_eq!(
        read(&[("own", "extends='own'")]).unwrap_err().to_string(),
        "profile own → own: `extends` leads back to where it came from; rename one of them"
    );
}

#[test]
fn a_question_about_an_inspected_url_is_answered_for_the_request_inside() {
    let text = "[network]\nmitm=true\n[network.tls]\n'pin.test'='tunnel'\n\
        [network.domains]\n'pin.test'='allow'\n'ask.test'='ask'\n\
        [[network.rules]]\nhost='a.test'\nmethods=['GET']\npaths=['/x/**']\naction='allow'\n\
        [[network.rules]]\nhost='b.test'\naction='allow'\n\
        [[network.rules]]\nhost='b.test'\nmethods=['POST']\naction='ask'\n\
        [[tests]]\nrequest='https://a.test/x/y'\nexpect='allow'\n\
        [[tests]]\nrequest='POST https://a.test/x/y'\nexpect='deny'\n\
        [[tests]]\nrequest='https://a.test/y'\nexpect='deny'\n\
        [[tests]]\nrequest='POST https://pin.test/'\nexpect='allow'\n\
        [[tests]]\nrequest='https://ask.test/'\nexpect='ask'\n\
        [[tests]]\nrequest='https://b.test/'\nexpect='allow'\n\
        [[tests]]\nrequest='b.test'\nexpect='allow'\n\
        [[tests]]\nrequest='POST https://b.test/'\nexpect='ask'\n\
        [[tests]]\nrequest='wss://b.test/'\nexpect='allow'\n\
        [[tests]]\nrequest='https://c.test/'\nexpect='deny'\n";
    let rules = Ruleset::compile(&read(&[("p", text)]).unwrap().network);
    let inspected: Vec<bool> = PolicyTest::read_all("p", text)
        .unwrap()
        .iter()
        .map(|test| {
            let found = explain(&rules, &test.question);
            assert_eq!(
                found.decision.verdict, test.expect,
                "{}: {found:?}",
                test.text
            );
            found.inspected
        })
        .collect();
    assert_eq!(
        inspected,
        [true, true, true, false, true, true, true, true, true, false]
    );
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

#[test]
fn bodies_are_kept_of_nobody_unless_a_profile_says_of_whom_and_what_it_says_reads_back() {
    let none = read(&[("p", "[network]\nmitm = true")]).unwrap();
    assert!(none.audit.bodies.is_default());
    let again = read(&[("p", &none.to_toml().unwrap())]).unwrap();
    assert_eq!(again.audit, none.audit);
    let text = "extends = \"q\"\n[audit.bodies]\nhosts = [\"**.b.test\"]\nwhich = \"request\"";
    let below = "[network.tls]\n\"a.test\" = \"inspect\"\n\"**.b.test\" = \"inspect\"\n\
                 [audit.bodies]\nhosts = [\"a.test\"]\nmax_bytes = 1000";
    let profile = read(&[("p", text), ("q", below)]).unwrap();
    let bodies = &profile.audit.bodies;
    let hosts: Vec<String> = bodies.hosts.iter().map(ToString::to_string).collect();
    assert_eq!(hosts, ["a.test", "**.b.test"]);
    assert_eq!(bodies.max_bytes, 1000);
    assert!(bodies.which.has_request() && !bodies.which.has_response());
    let again = read(&[("p", &profile.to_toml().unwrap())]).unwrap();
    assert_eq!(again.audit, profile.audit);
}
