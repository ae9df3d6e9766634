//! Real programs that trust the session's CA, and some that do not.

use std::io::Write;

use portcullis::audit::AuditEvent;
use portcullis::policy::{DenyReason, Verdict};
use tempfile::NamedTempFile;

use crate::client::run;
use crate::scene::Scene;

fn authority_file(scene: &Scene) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(scene.authority().as_bytes()).unwrap();
    file
}

fn curl(scene: &Scene, arguments: &[&str]) -> (Option<i32>, String) {
    let ca = authority_file(scene);
    let proxy = format!("http://{}", scene.gate.http);
    let base = [
        "--silent",
        "--max-time",
        "60",
        "--proxy",
        &proxy,
        "--cacert",
        ca.path().to_str().unwrap(),
    ];
    let (code, text, _) = run("curl", &[&base, arguments].concat(), &[]);
    (code, text)
}

#[test]
fn curl_speaks_http1_and_http2_through_the_gate() {
    let scene = Scene::new();
    for (flag, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let url = format!("https://{}/x?q={version}", scene.target());
        let written = ["--write-out", "\n%{http_version} %{http_code}"];
        let (code, text) = curl(&scene, &[&[flag, &url][..], &written].concat());
        assert_eq!(code, Some(0), "{flag}: {text}");
        let (body, last) = text.rsplit_once('\n').unwrap();
        assert_eq!(last, format!("{version} 200"));
        let seen: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(seen["path"], format!("/x?q={version}"));
        let post = ["--data", "hello", flag, &url];
        let (code, text) = curl(&scene, &post);
        assert_eq!(code, Some(0), "{flag}");
        let seen: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&seen["method"], &seen["body"]),
            (&"POST".into(), &"hello".into())
        );
        let (code, text) = curl(&scene, &["--head", flag, &url]);
        assert_eq!(code, Some(0), "{flag}");
        assert!(text.contains("200"), "{text}");
    }
    let methods: Vec<_> = scene
        .judged()
        .into_iter()
        .map(|(method, ..)| method)
        .collect();
    assert_eq!(methods, ["GET", "POST", "HEAD", "GET", "POST", "HEAD"]);
}

#[test]
fn curl_goes_through_socks5_as_well() {
    let scene = Scene::new();
    let ca = authority_file(&scene);
    let proxy = format!("socks5h://{}", scene.gate.socks);
    let url = format!("https://{}/socks", scene.target());
    let ca = ca.path().to_str().unwrap();
    let arguments = ["--silent", "--proxy", &proxy, "--cacert", ca, &url];
    let (code, text, error) = run("curl", &arguments, &[]);
    assert_eq!(code, Some(0), "{error}");
    assert!(text.contains("/socks"), "{text}");
}

#[test]
fn a_client_that_does_not_trust_the_authority_is_recorded_once_and_reaches_nothing() {
    let scene = Scene::new();
    let proxy = format!("http://{}", scene.gate.http);
    let url = format!("https://{}/", scene.target());
    // curl with the system's authorities: 60 is "peer certificate cannot be authenticated".
    let (code, ..) = run("curl", &["--silent", "--proxy", &proxy, &url], &[]);
    assert_eq!(code, Some(60));
    let (_, reason, detail) = scene.refusal();
    assert_eq!(reason, DenyReason::ClientTlsFailed);
    assert!(detail.contains("alert UnknownCA"), "{detail}");
    scene.gate.audit.wait_for("the end", |events| {
        events
            .iter()
            .any(|event| matches!(event, AuditEvent::EgressClosed { .. }))
    });
    let refusals = scene.gate.audit.events();
    let refusals = refusals
        .iter()
        .filter(|event| matches!(event, AuditEvent::EgressRefused { .. }));
    assert_eq!(refusals.count(), 1);
    assert!(scene.origin_is_untouched());
    // Its twin with the authority.
    assert_eq!(curl(&scene, &[&url]).0, Some(0));
}

#[test]
fn openssl_verifies_the_chain_in_both_versions_of_tls() {
    let scene = Scene::new();
    let ca = authority_file(&scene);
    let proxy = scene.gate.http.to_string();
    let target = scene.target();
    for version in ["-tls1_2", "-tls1_3"] {
        let arguments = [
            "s_client",
            "-proxy",
            &proxy,
            "-connect",
            &target,
            "-servername",
            "a.test",
            "-CAfile",
            ca.path().to_str().unwrap(),
            "-verify_return_error",
            "-x509_strict",
            "-verify_hostname",
            "a.test",
            version,
            "-quiet",
        ];
        let request = b"GET /openssl HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
        let (_, text, error) = run("openssl", &arguments, request);
        assert!(text.contains("/openssl"), "{version}: {text} {error}");
    }
}

#[test]
fn node_speaks_to_the_origin_when_it_trusts_the_authority_and_is_recorded_when_not() {
    let scene = Scene::new();
    let ca = authority_file(&scene);
    let script = "
        const [,, gate, target, ca] = process.argv;
        const [host, port] = gate.split(':');
        const http = require('http'), https = require('https'), fs = require('fs');
        const connect = http.request({ host, port, method: 'CONNECT', path: target,
            headers: { host: target } });
        connect.on('connect', (_, socket) => {
            const options = { path: '/node', headers: { host: target }, agent: false,
                socket, servername: 'a.test', ca: ca ? fs.readFileSync(ca) : undefined };
            options.createConnection = () => require('tls').connect(options);
            https.get(options, (answer) => { answer.resume(); console.log(answer.statusCode); })
                .on('error', (error) => console.log(error.code));
        });
        connect.end();
    ";
    let gate = scene.gate.http.to_string();
    let target = scene.target();
    let file = tempfile::Builder::new().suffix(".cjs").tempfile().unwrap();
    std::fs::write(file.path(), script).unwrap();
    let script = file.path().to_str().unwrap();
    let (_, text, error) = run(
        "node",
        &[script, &gate, &target, ca.path().to_str().unwrap()],
        &[],
    );
    assert_eq!(
        text.trim(),
        "200",
        "{error} {:#?}",
        scene.gate.audit.events()
    );
    let (_, text, error) = run("node", &[script, &gate, &target], &[]);
    assert!(
        text.contains("UNABLE_TO_VERIFY") || text.contains("SELF_SIGNED"),
        "{text} {error}"
    );
    assert_eq!(scene.refusal().1, DenyReason::ClientTlsFailed);
}

#[test]
fn python_speaks_to_the_origin() {
    let scene = Scene::new();
    let ca = authority_file(&scene);
    let script = "
import ssl, sys, http.client
gate, target, ca = sys.argv[1:]
host, port = gate.split(':')
name, to = target.split(':')
context = ssl.create_default_context(cafile=ca)
context.verify_flags |= ssl.VERIFY_X509_STRICT
connection = http.client.HTTPSConnection(host, int(port), context=context)
connection.set_tunnel(name, int(to))
connection.request('GET', '/python')
print(connection.getresponse().status)
";
    let (_, text, error) = run(
        "python3",
        &[
            "-c",
            script,
            &scene.gate.http.to_string(),
            &scene.target(),
            ca.path().to_str().unwrap(),
        ],
        &[],
    );
    assert_eq!(text.trim(), "200", "{error}");
    let expected = ("GET".to_owned(), "/python".to_owned(), Verdict::Allow);
    assert_eq!(scene.judged(), [expected]);
}
