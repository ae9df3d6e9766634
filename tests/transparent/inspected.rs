//! Where TLS is looked into, what a program speaks counts and not the port: TLS and plain HTTP are both
//! judged request by request.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr};

use serde_json::json;

use crate::cli::EVERYONE;
use crate::scene::{Scene, assert_failed};
use crate::upstream::{Origin, ok, serve_http};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A rule for one method and some paths of these ports.
fn rule(host: &str, ports: &[u16]) -> String {
    format!(
        "mitm = true\n[[network.rules]]\nhost = '{host}'\nports = {ports:?}\nmethods = ['GET']\n\
         paths = ['/open/**']\naction = 'allow'\n"
    )
}

/// The codes of the refusals in what curl printed.
fn codes(text: &str) -> Vec<&str> {
    let parts = text.split("\"code\":\"").skip(1);
    parts.map(|part| part.split('"').next().unwrap()).collect()
}

// D06
#[test]
fn plain_http_is_judged_on_any_port_and_so_is_tls() {
    for who in EVERYONE {
        let origin = Origin::echo();
        let port = origin.port();
        let hosts = [("app.test", LOOPBACK)];
        let scene = Scene::with(who, &hosts, &[], &rule("app.test", &[port]));
        let plain = format!("http://app.test:{port}");
        let script = format!(
            "curl -sS -m 30 {plain}/open/a {plain}/closed {plain}/open/b; \
             curl -sS -m 30 -d x {plain}/open/c; \
             curl -sS -m 30 -H 'Host: app.test' {plain}/open/d; \
             curl -sS -m 30 -H 'Host: other.test:{port}' {plain}/open/e; \
             curl -sSk -m 30 https://app.test:{port}/closed"
        );
        let run = scene.run(&["sh", "-c", &script]);
        assert_eq!(
            codes(&run.stdout),
            [
                "path_not_allowed",
                "method_not_allowed",
                "malformed",
                "malformed",
                "path_not_allowed"
            ],
            "{who:?} {run:?}"
        );
        assert!(run.stdout.starts_with("GET /open/a HTTP/1.1{"), "{run:?}");
        assert!(run.stdout.contains("}GET /open/b HTTP/1.1{"), "{run:?}");
        let seen = origin.log.text();
        assert_eq!(seen.matches("GET /open/").count(), 2, "{seen}");
        assert!(
            seen.contains(&format!("host: app.test:{port}\r\n")),
            "{seen}"
        );
        let tunnel = format!("allow transparent app.test:{port}");
        let forward = |verdict: &str| format!("{verdict} forward app.test:{port}");
        assert_eq!(
            scene.decisions(),
            [
                tunnel.clone(),
                forward("allow"),
                forward("deny") + " path_not_allowed",
                forward("allow"),
                tunnel.clone(),
                forward("deny") + " method_not_allowed",
                tunnel,
                format!("deny inspected app.test:{port} path_not_allowed"),
            ]
        );
    }
}

#[test]
fn tls_on_port_80_is_looked_into_and_plain_http_there_is_as_before() {
    for who in EVERYONE {
        let origin = Origin::raw_at(80, |stream| {
            serve_http(stream, &|head, _| {
                ok(head.lines().next().unwrap_or_default())
            })
        });
        let hosts = [("app.test", origin.address.ip())];
        let scene = Scene::with(who, &hosts, &[], &rule("app.test", &[80]));
        let script = "curl -sS -m 30 http://app.test/open/a http://app.test/closed; \
                      curl -sSk -m 30 https://app.test:80/closed";
        let run = scene.run(&["sh", "-c", script]);
        let expected = ["path_not_allowed"; 2];
        assert_eq!(codes(&run.stdout), expected, "{who:?} {run:?}");
        assert!(run.stdout.starts_with("GET /open/a HTTP/1.1{"), "{run:?}");
        // A program that closes its side after its request.
        let request = "GET /open/b HTTP/1.1\r\nHost: app.test\r\n\r\n";
        let answers = scene.act(&json!([["tcp", "app.test", 80, request]]));
        let said = answers[0]["said"].as_str().unwrap();
        assert!(said.ends_with("\r\n\r\nGET /open/b HTTP/1.1"), "{said}");
        assert_eq!(
            scene.decisions(),
            [
                "allow forward app.test:80",
                "deny forward app.test:80 path_not_allowed",
                "allow transparent app.test:80",
                "deny inspected app.test:80 path_not_allowed",
                "allow forward app.test:80",
            ]
        );
    }
}

#[test]
fn another_protocol_is_refused_but_by_a_rule_for_bare_tcp() {
    for who in EVERYONE {
        let banner = |mut stream: crate::upstream::Logged| {
            stream.write_all(b"220 hello\r\n")?;
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).map(|_| ())
        };
        let (other, bare) = (Origin::raw(banner), Origin::raw(banner));
        let hosts = [("mail.test", LOOPBACK), ("bare.test", LOOPBACK)];
        let network = format!(
            "mitm = true\n[network.limits]\nhead_seconds = 2\n\
             [[network.rules]]\nhost = 'mail.test'\nports = [{}]\naction = 'allow'\n",
            other.port()
        );
        let allowed = [("bare.test", bare.port(), "tcp")];
        let scene = Scene::with(who, &hosts, &allowed, &network);
        let answers = scene.act(&json!([
            ["tcp", "mail.test", other.port(), "SSH-2.0-x\r\n"],
            ["silent", "mail.test", other.port()],
            ["tcp", "bare.test", bare.port(), "SSH-2.0-x\r\n"],
        ]));
        // A fatal alert, to whoever can read it.
        let denied = "\u{15}\u{3}\u{3}\0\u{2}\u{2}1";
        assert_eq!(answers[0]["said"], denied, "{who:?} {answers:?}");
        assert_eq!(answers[1]["said"], denied, "{who:?} {answers:?}");
        assert_eq!(answers[2]["said"], "220 hello\r\n", "{who:?}");
        let reasons: Vec<_> = scene
            .install
            .events("egress.refused")
            .into_iter()
            .map(|event| event["reason"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(reasons, ["not_tls", "timed_out"], "{who:?}");
        assert_eq!(other.log.connections(), 0);
        // The twin that is denied by the policy is reset, as before.
        let answers = scene.act(&json!([[
            "tcp",
            "192.0.2.7",
            8080,
            "GET / HTTP/1.1\r\n\r\n"
        ]]));
        assert_failed(&answers[0], "ECONNRESET");
    }
}
