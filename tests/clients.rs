//! Real package clients through the gate, against the registries that this machine reaches, with the
//! hosts found in the clients' own configuration. No registry is named here.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests may panic and start programs"
)]

#[path = "support/cli.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod cli;

use std::collections::BTreeSet;
use std::process::Command;

use cli::{Install, Run, Who};

/// How many times a client may meet a new address that policy refuses before the test gives up.
const ROUNDS: usize = 8;

/// Runs a client under profile `registries`. On machines that reach their registries at addresses of a
/// reserved range, exactly the addresses that the log names as refused are allowed and the client runs again.
fn through_the_gate(install: &Install, flags: &[&str], command: &[&str]) -> Run {
    let mut addresses = BTreeSet::new();
    for _ in 0..ROUNDS {
        let list: Vec<String> = addresses
            .iter()
            .map(|address| format!("{address:?}"))
            .collect();
        let text = format!(
            "extends = \"registries\"\n[network.addresses]\nallow = [{}]\n",
            list.join(", ")
        );
        let profile = install.write("profile.toml", &text).display().to_string();
        let flags = [&["-p", profile.as_str()], flags].concat();
        let run = run(install, &flags, command);
        let refused: BTreeSet<String> = install
            .events("dns.query")
            .iter()
            .flat_map(|record| record["refused"].as_array().unwrap().clone())
            .map(|address| address.as_str().unwrap().to_owned())
            .collect();
        if refused.is_subset(&addresses) {
            return run;
        }
        addresses.extend(refused);
    }
    unreachable!("new refused addresses in each of {ROUNDS} runs")
}

/// The clients' own configuration is in the caller's environment and home, so these run with the real ones.
fn run(install: &Install, flags: &[&str], command: &[&str]) -> Run {
    let arguments = [&["run"], flags, &["--"], command].concat();
    let mut portcullis = Command::new(install.path("bin/portcullis"));
    portcullis
        .args(arguments)
        .current_dir(install.work())
        .stdin(std::process::Stdio::null());
    portcullis.env("XDG_STATE_HOME", install.path("home/.local/state"));
    Run::of(&portcullis.output().unwrap())
}

/// Some host was reached, the gate saw what was asked of it, and everything is in the log as allowed.
fn assert_went_through_the_gate(install: &Install) {
    assert!(
        !install.events("egress.dialed").is_empty(),
        "nothing was dialed"
    );
    assert!(
        install
            .events("egress.decided")
            .iter()
            .any(|record| record["method"] == "GET"),
        "no request was seen"
    );
    let denied: Vec<_> = install
        .events("egress.decided")
        .into_iter()
        .filter(|record| record["verdict"] == "deny")
        .collect();
    assert_eq!(denied, Vec::<serde_json::Value>::new());
}

#[test]
fn pip_downloads_a_package_through_the_gate() {
    let install = Install::new(Who::Root);
    let command = [
        "/usr/bin/pip",
        "download",
        "--no-deps",
        "--no-cache-dir",
        "--no-binary",
        ":none:",
        "six==1.16.0",
    ];
    let run = through_the_gate(&install, &["--env", "PIP_FIND_LINKS="], &command);
    assert_eq!(run.status, Some(0), "{run:#?}");
    assert!(
        install
            .work()
            .join("six-1.16.0-py2.py3-none-any.whl")
            .is_file(),
        "{run:#?}"
    );
    assert_went_through_the_gate(&install);
}

#[test]
fn npm_views_a_package_through_the_gate() {
    let install = Install::new(Who::Root);
    let run = through_the_gate(
        &install,
        &[],
        &["npm", "view", "is-number@7.0.0", "version"],
    );
    assert_eq!(
        (run.status, run.stdout.trim()),
        (Some(0), "7.0.0"),
        "{run:#?}"
    );
    assert_went_through_the_gate(&install);
}

#[test]
fn cargo_fetches_a_crate_through_the_gate() {
    let install = Install::new(Who::Root);
    install.write(
        "work/Cargo.toml",
        "[package]\nname = \"t\"\nversion = \"0.0.0\"\nedition = \"2021\"\n[dependencies]\nitoa = \"=1.0.11\"\n",
    );
    install.write("work/src/lib.rs", "");
    let sysroot = Command::new("rustc")
        .args(["--print", "sysroot"])
        .output()
        .unwrap();
    let sysroot = String::from_utf8(sysroot.stdout).unwrap().trim().to_owned();
    let cargo = format!("{sysroot}/bin/cargo");
    let rustc = format!("RUSTC={sysroot}/bin/rustc");
    let flags = [
        "--ro",
        &sysroot,
        "--env",
        "CARGO_HOME=/tmp/cargo",
        "--env",
        &rustc,
    ];
    let run = through_the_gate(&install, &flags, &[&cargo, "fetch"]);
    assert_eq!(run.status, Some(0), "{run:#?}");
    assert!(install.work().join("Cargo.lock").is_file());
    assert_went_through_the_gate(&install);
}

#[test]
fn a_host_that_is_no_registry_is_refused_under_the_same_profile() {
    let install = Install::new(Who::Root);
    let run = run(
        &install,
        &["-p", "registries"],
        &["curl", "-sS", "-o", "/dev/null", "https://example.com/"],
    );
    assert_ne!(run.status, Some(0));
    assert!(
        run.stderr
            .contains("refused example.com:443: host_not_allowed"),
        "{run:#?}"
    );
    assert_eq!(install.events("dns.query"), Vec::<serde_json::Value>::new());
}

#[test]
fn nothing_can_be_published_to_a_registry_that_is_read_from() {
    let install = Install::new(Who::Root);
    let shown = Command::new(install.path("bin/portcullis"))
        .args(["policy", "show", "registries", "--json"])
        .current_dir(install.work())
        .output()
        .unwrap();
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    let rule = shown["network"]["rules"]
        .as_array()
        .unwrap()
        .iter()
        .find(|rule| rule["id"] == "registries.npm")
        .unwrap();
    let (host, port) = (rule["host"].as_str().unwrap(), &rule["ports"][0]);
    let scheme = if port == 80 { "http" } else { "https" };
    let url = format!("{scheme}://{host}:{port}/no-such-package");
    let command = [
        "curl",
        "-sS",
        "--http1.1",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        "-X",
        "PUT",
        "-d",
        "{}",
        &url,
    ];
    let run = run(&install, &["-p", "registries"], &command);
    assert_eq!(
        (run.status, run.stdout.as_str()),
        (Some(0), "403"),
        "{run:#?}"
    );
    let refused: Vec<_> = install
        .events("egress.decided")
        .into_iter()
        .filter(|record| record["verdict"] == "deny")
        .map(|record| (record["method"].clone(), record["reason"].clone()))
        .collect();
    assert_eq!(refused, [("PUT".into(), "method_not_allowed".into())]);
    assert_eq!(
        install.events("egress.dialed"),
        Vec::<serde_json::Value>::new()
    );
}
