//! Real clients, without a proxy variable: what is allowed, and its denied twin.

use std::io::{Read, Write};
use std::net::Ipv4Addr;

use serde_json::json;

use crate::cli::{EVERYONE, Install};
use crate::scene::{Scene, assert_failed};
use crate::upstream::{Origin, ok, serve_http};

const LOOPBACK: std::net::IpAddr = std::net::IpAddr::V4(Ipv4Addr::LOCALHOST);

#[test]
fn a_plain_socket_reaches_an_allowed_name_and_no_other_name_port_or_address() {
    for who in EVERYONE {
        let (origin, other) = (Origin::echo_bytes(), Origin::echo_bytes());
        let (port, closed) = (origin.port(), other.port());
        let hosts = [("origin.test", LOOPBACK), ("denied.test", LOOPBACK)];
        let scene = Scene::new(who, &hosts, &[("origin.test", port, "")]);
        let answers = scene.act(&json!([
            ["tcp", "origin.test", port, "hello"],
            ["tcp", "origin.test", closed, "hello"],
            ["tcp", "denied.test", port, "hello"],
            ["tcp", "192.0.2.7", port, "hello"],
            ["tcp", "2001:db8::7", port, "hello"],
            [
                "http",
                "169.254.169.254",
                80,
                "GET / HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n"
            ],
        ]));
        assert_eq!(answers[0]["said"], "hello", "{who:?}");
        assert_failed(&answers[1], "ECONNRESET");
        assert_failed(&answers[2], "no such name");
        assert_failed(&answers[3], "ECONNRESET");
        assert_failed(&answers[4], "ECONNRESET");
        let metadata = answers[5]["said"].as_str().unwrap();
        assert!(
            metadata.starts_with("HTTP/1.1 403 Forbidden\r\n"),
            "{metadata}"
        );
        assert_eq!(
            scene.decisions(),
            [
                format!("allow transparent origin.test:{port}"),
                format!("deny transparent origin.test:{closed} port_not_allowed"),
                format!("deny transparent 192.0.2.7:{port} host_not_allowed"),
                format!("deny transparent 2001:db8::7:{port} host_not_allowed"),
                "deny forward 169.254.169.254:80 host_not_allowed".to_owned(),
            ],
            "{who:?}"
        );
        assert_eq!(other.log.connections(), 0);
        let asked = scene.names.asked();
        assert!(asked.iter().all(|name| name == "origin.test"), "{asked:?}");
        assert_eq!(scene.install.events("egress.closed").len(), 1);
    }
}

#[test]
fn curl_speaks_https_to_an_allowed_name_and_hears_of_a_refusal() {
    for who in EVERYONE {
        let origin = Origin::tls("secure.test");
        let hosts = [("secure.test", origin.address.ip())];
        let scene = Scene::new(who, &hosts, &[("secure.test", 443, "")]);
        scene.install.write("work/ca.pem", &origin.ca);
        let curl = |arguments: &[&str]| {
            let common = [
                "curl",
                "-sS",
                "-m",
                "30",
                "--noproxy",
                "*",
                "--cacert",
                "ca.pem",
            ];
            scene.run(&[common.as_slice(), arguments].concat())
        };
        let run = curl(&["https://secure.test/x"]);
        assert_eq!(run.stdout, "GET /x HTTP/1.1", "{who:?} {run:?}");
        // Another server name than that of the destination: fronting.
        let run = curl(&[
            "--connect-to",
            "front.test:443:secure.test:443",
            "https://front.test/",
        ]);
        assert_eq!(run.status, Some(35), "{run:?}");
        assert!(run.stderr.contains("alert access denied"), "{run:?}");
        let run = curl(&["https://192.0.2.1/"]);
        assert_eq!(run.status, Some(35), "{run:?}");
        assert!(run.stderr.contains("alert access denied"), "{run:?}");
        let run = curl(&["https://other.test/"]);
        assert_eq!(run.status, Some(6), "{run:?}");
        assert_eq!(
            scene.decisions(),
            [
                "allow transparent secure.test:443",
                "deny transparent 192.0.2.1:443 host_not_allowed",
            ]
        );
        let refused = scene.install.events("egress.refused");
        assert_eq!(refused[0]["reason"], "sni_mismatch");
        assert!(!scene.names.asked().contains(&"other.test".to_owned()));
    }
}

#[test]
fn plain_http_is_judged_request_by_request_with_method_and_path() {
    for who in EVERYONE {
        let origin = Origin::raw_at(80, |stream| {
            serve_http(stream, &|head, _| {
                ok(head.lines().next().unwrap_or_default())
            })
        });
        let hosts = [("plain.test", origin.address.ip())];
        let rule = "\n[[network.rules]]\nhost = 'plain.test'\nports = [80]\nmethods = ['GET']\n\
                    paths = ['/open/**']\naction = 'allow'\n";
        let scene = Scene::with(who, &hosts, &[], rule);
        let script = "curl -sS -m 30 http://plain.test/open/a http://plain.test/closed \
                      http://plain.test/open/b; curl -sS -m 30 -d x http://plain.test/open/c; \
                      curl -sS -m 30 -H 'Host: other.test' http://plain.test/open/d";
        let run = scene.run(&["sh", "-c", script]);
        let codes: Vec<&str> = run
            .stdout
            .split("\"code\":\"")
            .skip(1)
            .map(|rest| rest.split('"').next().unwrap())
            .collect();
        assert_eq!(
            codes,
            ["path_not_allowed", "method_not_allowed", "malformed"],
            "{who:?} {run:?}"
        );
        assert!(run.stdout.starts_with("GET /open/a HTTP/1.1{"), "{run:?}");
        assert!(run.stdout.contains("}GET /open/b HTTP/1.1{"), "{run:?}");
        let seen = origin.log.text();
        assert!(
            seen.contains("/open/a") && !seen.contains("closed"),
            "{seen}"
        );
        assert!(
            !seen.contains("/open/c") && !seen.contains("/open/d"),
            "{seen}"
        );
    }
}

#[test]
fn a_server_that_speaks_first_is_reached_by_a_rule_for_bare_tcp() {
    for who in EVERYONE {
        let origin = Origin::raw_at(22, |mut logged| {
            logged.write_all(b"SSH-2.0-stub\r\n")?;
            let mut rest = Vec::new();
            logged.read_to_end(&mut rest).map(|_| ())
        });
        let hosts = [("forge.test", origin.address.ip())];
        let scene = Scene::new(who, &hosts, &[("forge.test", 22, "tcp")]);
        let answers = scene.act(&json!([
            ["tcp", "forge.test", 22, "SSH-2.0-client\r\n"],
            ["tcp", "forge.test", 23, ""],
            // It has nothing to say, and waits for the server's word.
            ["tcp", "forge.test", 22, ""],
        ]));
        assert_eq!(answers[0]["said"], "SSH-2.0-stub\r\n", "{who:?}");
        assert_failed(&answers[1], "ECONNRESET");
        assert_eq!(answers[2]["said"], "SSH-2.0-stub\r\n", "{who:?}");
        assert!(origin.log.text().contains("SSH-2.0-client"));
    }
}

#[test]
fn node_and_java_need_no_proxy_settings() {
    const FETCH: &str = "fetch(process.argv[1]).then(r => r.text()).then(t => console.log(t), \
                         e => { console.log(e.cause.code); process.exitCode = 3 })";
    const JAVA: &str = "public class Get { public static void main(String[] a) throws Exception { \
        try (var in = new java.net.URL(a[0]).openConnection().getInputStream()) { \
        System.out.println(new String(in.readAllBytes())); } \
        catch (java.io.IOException e) { System.out.println(e.getClass().getSimpleName()); } } }";
    for who in EVERYONE {
        let origin = Origin::echo();
        let port = origin.port();
        let scene = Scene::new(who, &[("app.test", LOOPBACK)], &[("app.test", port, "")]);
        write_java(&scene.install, JAVA);
        let (good, bad) = (
            format!("http://app.test:{port}/n"),
            format!("http://no.test:{port}/n"),
        );
        let literal = format!("http://192.0.2.9:{port}/n");
        for (url, expected) in [
            (&good, "GET /n HTTP/1.1"),
            (&bad, "EAI_AGAIN"),
            (&literal, "ECONNRESET"),
        ] {
            let run = scene.run(&["/usr/bin/node", "-e", FETCH, url]);
            let told = run.stdout.trim();
            // undici has a word of its own for a connection that is closed under it, and when that happens
            // just as it connects it settles nothing: node then ends without a word.
            let closed = expected == "ECONNRESET" && ["UND_ERR_SOCKET", ""].contains(&told);
            assert!(told == expected || closed, "{who:?} {url} {run:?}");
        }
        for (url, expected) in [
            (&good, "GET /n HTTP/1.1"),
            (&bad, "UnknownHostException"),
            (&literal, "SocketException"),
        ] {
            let java = "-Djava.net.useSystemProxies=false";
            let run = scene.run(&["/usr/bin/java", java, "Get.java", url]);
            let told = run.stdout.trim();
            let closed = expected == "SocketException" && told == "IOException";
            assert!(told == expected || closed, "{who:?} {url} {run:?}");
        }
        assert!(scene.names.asked().iter().all(|name| name == "app.test"));
    }
}

fn write_java(install: &Install, text: &str) {
    install.write("work/Get.java", text);
}

#[test]
fn a_client_that_resolves_first_and_asks_a_proxy_for_the_address_means_the_name() {
    for who in EVERYONE {
        let origin = Origin::echo();
        let port = origin.port();
        let scene = Scene::new(who, &[("app.test", LOOPBACK)], &[("app.test", port, "")]);
        let url = format!("http://app.test:{port}/s");
        let run = scene.run(&[
            "curl",
            "-sS",
            "-m",
            "30",
            "--socks5",
            "127.0.0.1:8081",
            &url,
        ]);
        assert_eq!(run.stdout, "GET /s HTTP/1.1", "{who:?} {run:?}");
        assert_eq!(scene.decisions(), [format!("allow socks5 app.test:{port}")]);
        // An address that was given to no name is an address, whatever its block.
        let url = format!("http://198.18.9.9:{port}/s");
        let run = scene.run(&["curl", "-sS", "-m", "30", "--noproxy", "*", &url]);
        // The reset comes before the connect is over, or after.
        assert!(matches!(run.status, Some(7 | 56)), "{run:?}");
        let decisions = scene.decisions();
        let expected = format!("deny transparent 198.18.9.9:{port} host_not_allowed");
        assert_eq!(decisions.last(), Some(&expected));
    }
}
