//! `portcullis policy` about inspected TLS: explains the request inside, runs a profile's tests on it, and
//! shows what reads back.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests may panic and start programs"
)]

#[path = "support/cli.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod cli;

use cli::{Install, Run, Who};
use serde_json::{Value, json};

const PROFILE: &str = "\
[network]
mitm = true
extra_ca = ['~/corp.pem']
[network.tls]
'pinned.test' = 'tunnel'
[network.domains]
'pinned.test' = 'allow'
[[network.rules]]
host = 'api.test'
methods = ['GET']
paths = ['/v1/**']
action = 'allow'
[[tests]]
request = 'https://api.test/v1/x'
expect = 'allow'
[[tests]]
request = 'POST https://api.test/v1/x'
expect = 'deny'
";

struct Scene {
    install: Install,
    profile: String,
}

impl Scene {
    fn new() -> Self {
        let install = Install::new(Who::User);
        let profile = install.write("p.toml", PROFILE).display().to_string();
        Self { install, profile }
    }

    fn policy(&self, arguments: &[&str]) -> Run {
        Run::of(&self.install.portcullis([&["policy"], arguments].concat()))
    }

    fn explain(&self, arguments: &[&str]) -> Run {
        self.policy(&[&["explain", "-p", &self.profile], arguments].concat())
    }

    /// Without what differs from policy to policy.
    fn explain_as_json(&self, arguments: &[&str]) -> (Option<i32>, Value) {
        let run = self.explain(&[&["--json"], arguments].concat());
        let mut answer: Value = serde_json::from_str(&run.stdout).unwrap();
        for key in ["generation", "notes", "remedy", "meaning"] {
            answer.as_object_mut().unwrap().remove(key).unwrap();
        }
        (run.status, answer)
    }
}

#[test]
fn an_inspected_url_is_explained_by_the_request_inside() {
    let scene = Scene::new();
    let answer = |method: &str, path: &str, verdict: &str, reason: Value, rule: Value| {
        json!({
            "transport": "inspected", "host": "api.test", "port": 443, "method": method,
            "path": path, "websocket": false, "inspected": true, "verdict": verdict,
            "reason": reason, "rule": rule,
        })
    };
    let rule = json!("network.rules[0]");
    assert_eq!(
        scene.explain_as_json(&["https://api.test/v1/x?q"]),
        (Some(0), answer("GET", "/v1/x", "allow", Value::Null, rule))
    );
    let refused = json!("method_not_allowed");
    assert_eq!(
        scene.explain_as_json(&["--method", "POST", "https://api.test/v1/x"]),
        (
            Some(1),
            answer("POST", "/v1/x", "deny", refused, Value::Null)
        )
    );
    let refused = json!("path_not_allowed");
    assert_eq!(
        scene.explain_as_json(&["https://api.test/v2"]),
        (Some(1), answer("GET", "/v2", "deny", refused, Value::Null))
    );
    let text = scene.explain(&["https://api.test/v1/x"]).stdout;
    for line in [
        "allow\n",
        "  request  GET /v1/x of api.test port 443\n",
        "  note     TLS to this host ends at the gate, which judges every request inside\n",
    ] {
        assert!(text.contains(line), "{text}");
    }
}

#[test]
fn a_tunnelled_url_is_explained_by_the_tunnel() {
    let scene = Scene::new();
    let tunnel = json!({
        "transport": "connect", "host": "pinned.test", "port": 443, "method": null, "path": null,
        "websocket": false, "inspected": false, "verdict": "allow", "reason": null,
        "rule": "network.domains.\"pinned.test\"",
    });
    assert_eq!(
        scene.explain_as_json(&["--method", "POST", "https://pinned.test/x"]),
        (Some(0), tunnel)
    );
    let text = scene.explain(&["https://pinned.test/x"]).stdout;
    assert!(
        text.contains("request  a tunnel to pinned.test port 443\n"),
        "{text}"
    );
    assert!(
        text.contains("method and path are inside a tunnel"),
        "{text}"
    );
}

#[test]
fn a_refused_tunnel_is_explained_by_what_would_become_of_it() {
    let scene = Scene::new();
    let would_be = "  note     the tunnel is refused before any TLS; were it allowed, the gate would judge every \
                    request inside\n";
    let blind =
        "  note     method and path are inside a tunnel, where the gate does not see them\n";
    for (url, flags, shown, hidden) in [
        ("https://no.test/x", &[][..], would_be, blind),
        ("no.test:8443", &[], would_be, blind),
        ("https://pinned.test:8443/x", &[], blind, would_be),
        (
            "https://api.test/v1/x",
            &["--deny", "api.test"],
            would_be,
            blind,
        ),
    ] {
        let run = scene.explain(&[flags, &[url]].concat());
        assert_eq!(run.status, Some(1), "{run:#?}");
        assert!(
            run.stdout.contains("request  a tunnel to "),
            "{url}: {run:#?}"
        );
        assert!(run.stdout.contains(shown), "{url}: {run:#?}");
        assert!(!run.stdout.contains(hidden), "{url}: {run:#?}");
    }
}

#[test]
fn a_flag_changes_what_is_inspected() {
    let scene = Scene::new();
    let allow = ["--allow", "b.test", "https://b.test/x"];
    let transport = |flags: &[&str]| {
        let arguments = [&["explain", "--json"], flags, &allow].concat();
        let run = scene.policy(&arguments);
        let answer: Value = serde_json::from_str(&run.stdout).unwrap();
        answer.get("transport").unwrap().clone()
    };
    assert_eq!(transport(&[]), "connect");
    assert_eq!(transport(&["--mitm"]), "inspected");
    // The profile's rule cannot do without.
    let run = scene.explain(&["--no-mitm", "https://api.test/"]);
    assert_eq!(run.status, Some(78), "{run:#?}");
    assert!(run.stderr.contains("network.rules[0].methods"), "{run:#?}");
}

#[test]
fn tests_of_a_profile_speak_of_the_request_inside() {
    let scene = Scene::new();
    let run = scene.policy(&["check", &scene.profile]);
    assert_eq!(run.status, Some(0), "{run:#?}");
    assert!(run.stdout.contains("2 tests, 0 failed"), "{run:#?}");
}

#[test]
fn a_shown_profile_reads_back_and_decides_the_same() {
    let scene = Scene::new();
    let shown = scene.policy(&["show", &scene.profile]);
    assert_eq!(shown.status, Some(0), "{shown:#?}");
    let again = scene.install.write("q.toml", &shown.stdout);
    let twin = Scene {
        profile: again.display().to_string(),
        ..Scene::new()
    };
    for question in ["https://api.test/v1/x", "https://pinned.test/", "api.test"] {
        let (first, second) = (
            scene.explain_as_json(&[question]),
            twin.explain_as_json(&[question]),
        );
        assert_eq!(
            (first.0, &first.1["verdict"]),
            (second.0, &second.1["verdict"])
        );
        assert_eq!(first.1["inspected"], second.1["inspected"], "{question}");
    }
    for line in ["mitm = true", "\"pinned.test\" = \"tunnel\"", "~/corp.pem"] {
        assert!(shown.stdout.contains(line), "{shown:#?}");
    }
}
