//! What makes the jail trust the session's CA, as the command finds it: files, variables, Java's key
//! store; and what the launch refuses. Real clients are in `inspect_clients.rs`.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests may panic and start programs"
)]

#[path = "support/cli.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod cli;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use cli::{EVERYONE, Install, Run, Who};

const BUNDLE: &str = "/run/portcullis/ca-bundle.pem";
const AUTHORITY: &str = "/run/portcullis/ca.pem";
const SYSTEM: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The body of every certificate in a text.
fn certificates(text: &str) -> BTreeSet<String> {
    text.split("-----BEGIN CERTIFICATE-----")
        .skip(1)
        .map(|rest| rest.split("-----END").next().unwrap())
        .map(|body| body.split_whitespace().collect())
        .collect()
}

/// Prints files of the jail, each after its name, with `=== ` in front.
fn files(install: &Install, flags: &[&str], paths: &[&str]) -> BTreeMap<String, String> {
    let script = "for f; do echo \"=== $f\"; cat \"$f\"; done";
    let command = [&["sh", "-c", script, "sh"], paths].concat();
    let run = install.run(flags, &command);
    assert_eq!(run.status, Some(0), "{run:#?}");
    run.stdout
        .split("=== ")
        .skip(1)
        .map(|part| part.split_once('\n').unwrap())
        .map(|(name, text)| (name.to_owned(), text.to_owned()))
        .collect()
}

#[track_caller]
fn assert_complains(run: &Run, parts: &[&str]) {
    let (status, lines) = run.complaint();
    assert_eq!((status, lines.len()), (Some(125), 1), "{run:#?}");
    for part in parts {
        assert!(run.stderr.contains(part), "no {part:?} in {:?}", run.stderr);
    }
}

#[test]
fn the_bundle_holds_the_hosts_authorities_and_the_sessions_in_every_mode() {
    let host = certificates(&fs::read_to_string(SYSTEM).unwrap());
    for who in EVERYONE {
        let install = Install::new(who);
        let extra = rcgen::generate_simple_self_signed(["corp.test".to_owned()]).unwrap();
        install.write("home/corp.pem", &extra.cert.pem());
        let profile = "network.mitm = true\nnetwork.extra_ca = ['~/corp.pem']\n";
        let profile = install.write("profile.toml", profile).display().to_string();
        for mode in ["read-only", "workspace-write", "danger-full-access"] {
            let flags = ["-p", &profile, "--mode", mode];
            let found = files(&install, &flags, &[AUTHORITY, BUNDLE, SYSTEM]);
            let own = certificates(&found[AUTHORITY]);
            assert_eq!(own.len(), 1, "{who:?} {mode}");
            assert!(host.is_disjoint(&own));
            let mut all: BTreeSet<_> = host.union(&own).cloned().collect();
            all.extend(certificates(&extra.cert.pem()));
            assert_eq!(certificates(&found[BUNDLE]), all, "{who:?} {mode}");
            assert_eq!(found[SYSTEM], found[BUNDLE], "{who:?} {mode}");
        }
        // Each session has its own.
        let one = files(&install, &["--mitm"], &[AUTHORITY]);
        let other = files(&install, &["--mitm"], &[AUTHORITY]);
        assert_ne!(one, other, "{who:?}");
    }
    assert_eq!(
        certificates(&fs::read_to_string(SYSTEM).unwrap()),
        host,
        "the host's own stays"
    );
}

#[test]
fn without_inspection_the_jail_shows_the_hosts_own_and_no_variable() {
    for who in EVERYONE {
        let install = Install::new(who);
        let found = files(&install, &[], &[SYSTEM]);
        assert_eq!(found[SYSTEM], fs::read_to_string(SYSTEM).unwrap());
        let script = format!("ls {AUTHORITY} {BUNDLE}; env | grep -c -e CERT -e _CA");
        let run = install.run(&[], &["sh", "-c", &script]);
        assert_eq!(
            (run.status, run.stdout.as_str()),
            (Some(1), "0\n"),
            "{run:#?}"
        );
    }
}

#[test]
fn the_variables_lead_to_the_sessions_bundle_whatever_the_caller_has() {
    let install = Install::new(Who::User);
    let callers = install.write("home/callers.pem", &fs::read_to_string(SYSTEM).unwrap());
    let profile = "[environment]\n\
        pass = ['SSL_CERT_FILE', 'SSL_CERT_DIR', 'NODE_EXTRA_CA_CERTS', 'CURL_CA_BUNDLE']\n\
        [environment.set]\nCURL_CA_BUNDLE = '/set/by/profile'\n";
    let profile = install.write("profile.toml", profile).display().to_string();
    let run = |flags: &[&str]| {
        let arguments = [&["run", "-p", &profile], flags, &["--", "env"]].concat();
        let mut command = install.command(arguments);
        for name in ["SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS"] {
            command.env(name, &callers);
        }
        command.env("SSL_CERT_DIR", "/etc/ssl/certs");
        let run = Run::of(&command.output().unwrap());
        assert_eq!(run.status, Some(0), "{run:#?}");
        let variables = run.stdout.lines().filter_map(|line| line.split_once('='));
        variables
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect::<BTreeMap<_, _>>()
    };
    let inspected = run(&["--mitm"]);
    let of = |name: &str| inspected.get(name).map(String::as_str);
    assert_eq!(of("SSL_CERT_FILE"), Some(BUNDLE));
    assert_eq!(of("GIT_SSL_CAINFO"), Some(BUNDLE));
    assert_eq!(of("NODE_EXTRA_CA_CERTS"), Some(AUTHORITY));
    assert_eq!(of("SSL_CERT_DIR"), None);
    assert_eq!(of("CURL_CA_BUNDLE"), Some("/set/by/profile"));
    // The twin: without inspection the caller's own pass.
    let plain = run(&["--mitm", "--no-mitm"]);
    assert_eq!(plain["SSL_CERT_FILE"], callers.display().to_string());
    assert_eq!(plain["SSL_CERT_DIR"], "/etc/ssl/certs");
}

#[test]
fn java_finds_the_sessions_ca_in_its_own_key_store() {
    for who in EVERYONE {
        let install = Install::new(who);
        let list = ["keytool", "-list", "-cacerts", "-storepass", "changeit"];
        let count = |run: &Run| run.stdout.matches("trustedCertEntry").count();
        let inspected = install.run(&["--mitm"], &list);
        assert_eq!(inspected.status, Some(0), "{inspected:#?}");
        let host = certificates(&fs::read_to_string(SYSTEM).unwrap());
        assert_eq!(count(&inspected), host.len() + 1, "{who:?}");
        assert!(inspected.stdout.contains("portcullis-0,"), "{inspected:#?}");
        let plain = install.run(&[], &list);
        assert!(!plain.stdout.contains("portcullis-0,"), "{who:?}");
        assert!(count(&plain) > 0, "{plain:#?}");
    }
}

#[test]
fn a_file_of_extra_ca_that_is_no_use_ends_the_launch_with_its_path_and_the_cure() {
    let install = Install::new(Who::User);
    let made = rcgen::generate_simple_self_signed(["x.test".to_owned()]).unwrap();
    install.write("work/planted.pem", &made.cert.pem());
    install.write("home/empty.pem", "no certificate\n");
    let run = |file: &str| {
        let text = format!("network.mitm = true\nnetwork.extra_ca = ['{file}']\n");
        let profile = install.write("profile.toml", &text).display().to_string();
        install.run(&["-p", &profile], &["/bin/true"])
    };
    assert_complains(
        &run("~/none.pem"),
        &[
            "network.extra_ca",
            "home/none.pem",
            "No such file",
            "in PEM",
        ],
    );
    assert_complains(
        &run("~/empty.pem"),
        &["home/empty.pem", "holds no certificate", "in PEM"],
    );
    let planted = install.path("work/planted.pem").display().to_string();
    assert_complains(
        &run(&planted),
        &[
            "work/planted.pem",
            "can be written by the session",
            "move it",
        ],
    );
}

#[test]
fn a_bundle_in_the_workspace_is_left_out_and_told() {
    let install = Install::new(Who::User);
    let made = rcgen::generate_simple_self_signed(["x.test".to_owned()]).unwrap();
    let planted = install.write("work/planted.pem", &made.cert.pem());
    let output = install
        .command(["run", "--mitm", "--", "cat", BUNDLE])
        .env("SSL_CERT_FILE", &planted)
        .output()
        .unwrap();
    let run = Run::of(&output);
    let note = format!(
        "portcullis: SSL_CERT_FILE: {} can be written by the session: the gate does not go by it",
        planted.display()
    );
    assert_eq!(run.complaint(), (Some(0), vec![note.as_str()]), "{run:#?}");
    let found = certificates(&run.stdout);
    assert!(found.is_disjoint(&certificates(&made.cert.pem())));
    assert!(found.len() > 1);
}

#[test]
fn a_rule_about_methods_needs_inspection_and_the_flag_gives_it() {
    let install = Install::new(Who::User);
    let rule = "[[network.rules]]\nhost = 'a.test'\nmethods = ['GET']\naction = 'allow'\n";
    let profile = install.write("profile.toml", rule).display().to_string();
    assert_complains(
        &install.run(&["-p", &profile], &["/bin/true"]),
        &["network.rules[0].methods", "network.mitm = true"],
    );
    let run = install.run(&["-p", &profile, "--mitm"], &["/bin/true"]);
    assert_eq!(run.complaint(), (Some(0), vec![]), "{run:#?}");
}

#[test]
fn a_jail_that_cannot_be_built_after_the_gate_stands_is_on_record() {
    for who in EVERYONE {
        let install = Install::new(who);
        let empty = install.path("home").display().to_string();
        let output = install
            .command(["run", "--mitm", "--", "/bin/true"])
            .env("PATH", empty)
            .output()
            .unwrap();
        assert_complains(&Run::of(&output), &["bubblewrap is not installed"]);
        let records = install.records();
        let words: Vec<_> = records
            .iter()
            .map(|record| record["event"].as_str().unwrap())
            .collect();
        assert_eq!(words, ["session.ended"], "{who:?}");
    }
}
