//! Real sessions: programs that know no proxy and TLS that is looked into, credentials, and the last lines
//! of `run`.

use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;

use hyper::Response;
use hyper::body::Bytes;
use serde_json::Value;

use crate::cli::{EVERYONE, Run, Who};
use crate::jail::Scene;
use crate::support::{VALUE, WEBSOCKET};
use crate::tls_origin::{CertKind, OriginSpec, TlsOrigin};
use crate::upstream::{Origin, ok, serve_http};

const NAME: &str = "origin.test";

/// A session's surroundings, and the authority of its origin in a file.
struct Session {
    scene: Scene,
    _trust: tempfile::TempDir,
}

impl Session {
    /// TLS to the origin is looked into; `rules` is the rest of the profile.
    fn new(who: Who, ca_pem: &str, hosts: &[(&str, IpAddr)], rules: &str) -> Self {
        let trust = tempfile::tempdir().unwrap();
        std::fs::set_permissions(trust.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let file = trust.path().join("ca.pem");
        std::fs::write(&file, ca_pem).unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
        let network = format!("mitm = true\nextra_ca = ['{}']\n{rules}", file.display());
        Self {
            scene: Scene::with(who, hosts, &[], &network),
            _trust: trust,
        }
    }

    /// A shell in the jail, with the caller's credential; curl is told of no proxy.
    fn sh(&self, script: &str) -> Run {
        let profile = self.scene.profile.as_str();
        let script = format!(
            "curl() {{ NO_PROXY='*' no_proxy='*' command curl -sS -m 30 \"$@\"; }}\n{script}"
        );
        let words = ["run", "-p", profile, "--", "sh", "-c", &script];
        let mut command = self.scene.install.command(words);
        Run::of(&command.env("API_TOKEN", VALUE).output().unwrap())
    }

    /// The decisions with methods and paths.
    fn decisions(&self) -> Vec<String> {
        let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        let decided = self.scene.install.events("egress.decided").into_iter();
        decided
            .map(|event| {
                ["verdict", "transport", "host", "method", "path", "reason"]
                    .map(|key| text(&event[key]))
                    .join(" ")
            })
            .collect()
    }
}

const READ_OPEN: &str = "[[network.rules]]\nhost = 'origin.test'\nmethods = ['GET']\n\
    paths = ['/open/**', '/ws']\naction = 'allow'\n";

fn https() -> TlsOrigin {
    OriginSpec::new(NAME).https().start()
}

#[test]
fn a_program_that_knows_no_proxy_is_judged_request_by_request_within_tls() {
    for who in EVERYONE {
        let origin = https();
        let hosts = [(NAME, origin.addr.ip())];
        let session = Session::new(who, &origin.ca_pem, &hosts, READ_OPEN);
        let run = session.sh("curl -o /dev/null -w '%{http_code} %{http_version}\\n' \
             https://origin.test/open/a --next -o /dev/null -w '%{http_code}\\n' -d x https://origin.test/open/a \
             --next -o /dev/null -w '%{http_code}\\n' https://origin.test/closed");
        assert_eq!(
            (run.status, run.stdout.as_str()),
            (Some(0), "200 2\n403\n403\n"),
            "{who:?} {run:#?}"
        );
        let mut decided = session.decisions();
        decided.dedup();
        let tunnel = "allow transparent origin.test - - -";
        assert_eq!(decided[0], tunnel);
        decided.retain(|line| line != tunnel);
        assert_eq!(
            decided,
            [
                "allow inspected origin.test GET /open/a -",
                "deny inspected origin.test POST /open/a method_not_allowed",
                "deny inspected origin.test GET /closed path_not_allowed",
            ]
        );
        assert_eq!(origin.seen().len(), 1);
        // What `run` says last tells the requests, and what would let each through.
        let mut told: Vec<&str> = run.stderr.lines().collect();
        assert!(told.pop().unwrap().starts_with("portcullis: all of it: "));
        assert_eq!(
            told,
            [
                "portcullis: refused POST https://origin.test/open/a: method_not_allowed; to allow it: \
                 [network] mode = \"full\" if it is \"limited\", else \"POST\" in the rule's methods",
                "portcullis: refused GET https://origin.test/closed: path_not_allowed; to allow it: \
                 the path in the rule's paths, in the normal form of RFC 3986",
            ],
            "{:#?}",
            session.scene.install.events("egress.refused")
        );
    }
}

#[test]
fn a_plain_websocket_and_plain_requests_pass_without_a_proxy() {
    let origin = Origin::raw_at(80, |stream| {
        serve_http(stream, &|head, _| {
            ok(head.lines().next().unwrap_or_default())
        })
    });
    let none = OriginSpec::new(NAME).cert(CertKind::Plain).start();
    let hosts = [(NAME, origin.address.ip())];
    let session = Session::new(Who::User, &none.ca_pem, &hosts, READ_OPEN);
    let fields: Vec<String> = WEBSOCKET
        .lines()
        .map(|field| format!("-H '{field}'"))
        .collect();
    let run = session.sh(&format!(
        "curl http://origin.test/open/a; curl -o /dev/null -w ' %{{http_code}} ' http://origin.test/shut; \
         curl {} -o /dev/null -w '%{{http_code}}' http://origin.test/open/nows",
        fields.join(" ")
    ));
    // The last origin answers a handshake with 200, which is for the client to make sense of.
    assert_eq!(run.stdout, "GET /open/a HTTP/1.1 403 200", "{run:#?}");
    assert!(origin.log.text().contains("pgrade: websocket"));
}

/// Opens a WebSocket with a plain socket and prints what comes back of one frame.
const SOCKET: &str = r"
import socket, sys
connection = socket.create_connection(('origin.test', 80), timeout=30)
connection.sendall(('GET /ws HTTP/1.1\r\nHost: origin.test\r\n' + sys.argv[1].removesuffix('.') + '\r\n').encode())
head = b''
while not head.endswith(b'\r\n\r\n'):
    head += connection.recv(1)
connection.sendall(b'frame')
print(head.split()[1].decode(), connection.recv(5).decode())
";

#[test]
fn a_plain_websocket_carries_bytes_without_a_proxy() {
    let origin = Origin::raw_at(80, |mut stream| {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        // The answer to the key of RFC 6455 section 1.3.
        let accept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
        stream.write_all(
            format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Accept: {accept}\r\n\r\n"
            )
            .as_bytes(),
        )?;
        let mut frame = [0; 5];
        stream.read_exact(&mut frame)?;
        stream.write_all(&frame)
    });
    let none = OriginSpec::new(NAME).cert(CertKind::Plain).start();
    let hosts = [(NAME, origin.address.ip())];
    let session = Session::new(Who::User, &none.ca_pem, &hosts, READ_OPEN);
    session.scene.install.write("work/speak.py", SOCKET);
    let fields = WEBSOCKET.replace("\r\n", "\\r\\n");
    let run = session.sh(&format!(
        "/usr/bin/python3 speak.py \"$(printf '{fields}.')\""
    ));
    assert_eq!(run.stdout, "101 frame\n", "{run:#?}");
    assert_eq!(session.decisions(), ["allow forward origin.test GET /ws -"]);
    let closed = session.scene.install.events("egress.closed");
    assert_eq!(
        (&closed[0]["bytes_up"], &closed[0]["bytes_down"]),
        (&5.into(), &5.into())
    );
}

#[test]
fn a_resolved_address_means_its_name_at_the_socks_door_too() {
    for who in EVERYONE {
        let origin = https();
        let hosts = [(NAME, origin.addr.ip())];
        let session = Session::new(who, &origin.ca_pem, &hosts, READ_OPEN);
        // --socks5 resolves in the jail and asks for the address; --socks5-hostname asks for the name.
        let run = session.sh(
            "for how in --socks5 --socks5-hostname; do \
             command curl -sS -m 30 $how 127.0.0.1:8081 -o /dev/null -w '%{http_code} ' https://origin.test/open/a; \
             command curl -sS -m 30 $how 127.0.0.1:8081 -o /dev/null -w '%{http_code} ' https://origin.test/shut; \
             done",
        );
        assert_eq!(run.stdout, "200 403 200 403 ", "{who:?} {run:#?}");
        let tunnels = session.decisions();
        let tunnels = tunnels.iter().filter(|line| line.contains(" socks5 "));
        assert!(
            tunnels
                .clone()
                .all(|line| line == "allow socks5 origin.test - - -")
        );
        assert_eq!(tunnels.count(), 4);
    }
}

#[test]
fn a_credential_is_put_in_for_a_program_that_knows_no_proxy_and_shows_nowhere() {
    for who in EVERYONE {
        let origin = OriginSpec::new(NAME)
            .https()
            .answer(|_| Response::new(Bytes::from("fine")))
            .start();
        let hosts = [(NAME, origin.addr.ip())];
        let rules = "[network.domains]\n'origin.test' = 'allow'\n[[network.credentials]]\nname = 'k'\n\
            host = 'origin.test'\nheader = 'authorization'\nvalue = 'Bearer ${env:API_TOKEN}'\n";
        let session = Session::new(who, &origin.ca_pem, &hosts, rules);
        let run = session.sh("echo \"$API_TOKEN\"; \
             curl -H \"Authorization: Bearer $API_TOKEN\" https://origin.test/v1");
        assert_eq!(run.status, Some(0), "{who:?} {run:#?}");
        assert!(run.stdout.starts_with("sk-portcullis-") && run.stdout.ends_with("\nfine"));
        let seen = origin.seen();
        let expected = format!("Bearer {VALUE}");
        assert_eq!(seen[0].header("authorization"), Some(expected.as_str()));
        let records = serde_json::to_string(&session.scene.install.records()).unwrap();
        let said = [records, run.stdout, run.stderr].concat();
        assert!(!said.contains(VALUE), "{said}");
        assert_eq!(session.scene.install.events("credential.used").len(), 1);
    }
}
