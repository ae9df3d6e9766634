//! TLS that says one thing outside and another inside, and TLS that is taken apart.

use std::fs;
use std::io::Write;
use std::sync::{Arc, Mutex};

use portcullis::audit::AuditEvent;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;
use rustls::{HandshakeKind, NamedGroup};

use crate::cli::{EVERYONE, Install};
use crate::client::Raw;
use crate::ground::denials;
use crate::inside::{Tls, config, connect};
use crate::scene::{HOST, Scene};
use crate::test_gate::{TestGate, spec};
use crate::upstream::Origin;

/// A gate with an origin on port 443 that takes whatever comes.
fn tunnel() -> (TestGate, Origin) {
    let origin = Origin::raw_443(|mut stream| {
        std::io::copy(&mut stream, &mut std::io::sink())?;
        Ok(())
    });
    let address = origin.address.ip().to_string();
    let gate = spec().allow("a.test", &[443]).allow("b.test", &[443]);
    let gate = gate
        .host("a.test", &address)
        .host("b.test", &address)
        .start();
    (gate, origin)
}

fn length(of: usize) -> [u8; 2] {
    u16::try_from(of).unwrap().to_be_bytes()
}

/// A list of server names, each with its type.
fn names(list: &[(u8, &[u8])]) -> Vec<u8> {
    let entries: Vec<u8> = list
        .iter()
        .flat_map(|(kind, name)| [&[*kind][..], &length(name.len()), name].concat())
        .collect();
    [&length(entries.len())[..], &entries].concat()
}

/// A ClientHello with these extensions of kind 0, in one record.
fn hello(server_names: &[Vec<u8>]) -> Vec<u8> {
    let extensions: Vec<u8> = server_names
        .iter()
        .flat_map(|content| [&[0, 0][..], &length(content.len()), content].concat())
        .collect();
    let body = [
        &[3, 3][..],
        &[9; 32],
        &[0, 0, 2, 0x13, 1, 1, 0],
        &length(extensions.len()),
        &extensions,
    ]
    .concat();
    let message = [&[1, 0][..], &length(body.len()), &body].concat();
    [&[22, 3, 1][..], &length(message.len()), &message].concat()
}

/// What is odd, and the server_name extensions of a hello in a tunnel to `a.test`.
fn odd_server_names() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let a = |name: &[u8]| names(&[(0, name)]);
    let long = [b"x".repeat(250), b".a.test".to_vec()].concat();
    vec![
        ("another", vec![a(b"denied.test")]),
        ("root dot", vec![a(b"a.test.")]),
        ("NUL", vec![a(b"a.test\0")]),
        ("NUL in the middle", vec![a(b"a.test\0.denied.test")]),
        ("space", vec![a(b"a.test ")]),
        ("an address", vec![a(b"127.0.0.1")]),
        ("an address in brackets", vec![a(b"[::1]")]),
        ("no ASCII", vec![a("\u{ff41}.test".as_bytes())]),
        ("no UTF-8", vec![a(b"a.tes\xff")]),
        ("empty", vec![a(b"")]),
        ("more than 255", vec![a(&long)]),
        ("a suffix", vec![a(b"test")]),
        ("a longer name", vec![a(b"x.a.test")]),
        (
            "two names",
            vec![names(&[(0, b"a.test"), (0, b"denied.test")])],
        ),
        (
            "two equal names",
            vec![names(&[(0, b"a.test"), (0, b"a.test")])],
        ),
        ("another type", vec![names(&[(1, b"a.test")])]),
        (
            "another type in front",
            vec![names(&[(1, b"x"), (0, b"denied.test")])],
        ),
        ("no name in the list", vec![names(&[])]),
        ("two extensions", vec![a(b"a.test"), a(b"denied.test")]),
        ("two equal extensions", vec![a(b"a.test"), a(b"a.test")]),
        ("the other allowed host", vec![a(b"b.test")]),
        (
            "a list longer than its extension",
            vec![[&length(99), &b"\0\0\x06a.test"[..]].concat()],
        ),
        (
            "bytes behind the list",
            vec![[a(b"a.test"), vec![0]].concat()],
        ),
        ("none", vec![]),
    ]
}

// D04
#[test]
fn a_server_name_in_another_form_is_no_way_past_the_screen() {
    for (what, extensions) in odd_server_names() {
        let (gate, origin) = tunnel();
        for socks in [false, true] {
            let before = gate.audit.events().len();
            let mut client = if socks {
                let mut client = Raw::open(gate.socks);
                assert_eq!(client.socks5("a.test", 443), 0);
                client
            } else {
                let mut client = Raw::open(gate.http);
                client.connect("a.test:443");
                client
            };
            client.send(hello(&extensions));
            // Closed, with or without an alert.
            let answer = client.rest();
            assert!(answer.is_empty() || answer[0] == 21, "{what}: {answer:?}");
            gate.audit
                .wait_for("a refusal", |events| !denials(&events[before..]).is_empty());
            let events = gate.audit.events().split_off(before);
            let codes: Vec<_> = denials(&events)
                .iter()
                .map(|reason| reason.code())
                .collect();
            assert!(
                matches!(codes[..], ["sni_mismatch" | "not_tls" | "malformed"]),
                "{what}: {codes:?}"
            );
        }
        assert_eq!(origin.log.raw_bytes(), 0, "{what}");
    }
    // The twin: in capitals it is the same name.
    let (gate, origin) = tunnel();
    let good = hello(&[names(&[(0, b"A.Test")])]);
    let mut client = Raw::open(gate.http);
    client.connect("a.test:443").send(&good).finish();
    assert_eq!(client.rest(), b"");
    assert_eq!(origin.log.raw_bytes(), good.len());
}

// D04
#[test]
fn a_server_name_in_another_form_gets_no_leaf_where_tls_is_looked_into() {
    let scene = Scene::with(|spec| spec.allow("b.test", &[443]));
    for (what, extensions) in odd_server_names() {
        if extensions.is_empty() {
            // Without a name the tunnel's own is meant: the leaf is for it, and so is every request.
            continue;
        }
        let before = scene.gate.audit.events().len();
        let mut client = Raw::open(scene.gate.http);
        client.connect(&scene.target()).send(hello(&extensions));
        let answer = client.rest();
        assert!(answer.is_empty() || answer[0] == 21, "{what}: {answer:?}");
        let refused = |events: &[AuditEvent]| !denials(&events[before..]).is_empty();
        scene.gate.audit.wait_for(what, refused);
    }
    assert!(scene.origin_is_untouched());
    assert_eq!(Tls::open(&scene).ask("GET /", HOST, "").status(), 200);
}

// D05
#[test]
fn a_hello_in_many_records_or_with_a_false_length_is_screened_or_closed() {
    let whole = hello(&[names(&[(0, b"denied.test")])]);
    let message = &whole[5..];
    let records = |size: usize| -> Vec<u8> {
        let parts = message.chunks(size);
        parts
            .flat_map(|part| [&[22, 3, 1][..], &length(part.len()), part].concat())
            .collect()
    };
    let empty = [&[22, 3, 1, 0, 0][..], &whole].concat();
    let alert_between = [
        &records(40)[..45],
        &[21, 3, 1, 0, 2, 1, 0],
        &records(40)[45..],
    ]
    .concat();
    let mut too_long = whole.clone();
    too_long[6..9].copy_from_slice(&[0xff, 0xff, 0xff]);
    let mut shorter = whole.clone();
    shorter[8] -= 20;
    for (what, bytes) in [
        ("one record", whole.clone()),
        ("a record a byte", records(1)),
        ("a record seven bytes", records(7)),
        ("an empty record in front", empty),
        ("another record between", alert_between),
        ("16 MB announced", too_long),
        ("shorter than its record", shorter),
        ("SSLv2", [&[0x80, 0x2e, 1, 0, 2][..], &[0; 43]].concat()),
    ] {
        for size in [1, 5, 4096] {
            let (gate, origin) = tunnel();
            let mut client = Raw::open(gate.http);
            client.connect("a.test:443");
            for part in bytes.chunks(size) {
                client.send(part);
            }
            client.finish();
            let answer = client.rest();
            assert!(answer.is_empty() || answer[0] == 21, "{what}: {answer:?}");
            gate.audit
                .wait_for("a refusal", |events| !denials(events).is_empty());
            assert_eq!(origin.log.raw_bytes(), 0, "{what}, {size} bytes at once");
        }
    }
}

/// Keeps the tickets of one host and offers them to every other.
#[derive(Debug, Default)]
struct OneForAll(Mutex<Vec<Tls13ClientSessionValue>>);

impl ClientSessionStore for OneForAll {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}
    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }
    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}
    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }
    fn remove_tls12_session(&self, _: &ServerName<'static>) {}
    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        self.0.lock().unwrap().push(ticket);
    }
    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.lock().unwrap().pop()
    }
}

// D08
#[test]
fn a_ticket_of_one_host_opens_no_other_and_nothing_comes_early() {
    let scene = Scene::with(|spec| spec.allow("b.test", &[443]));
    let mut config = (*config(scene.authority(), &["http/1.1"])).clone();
    let tickets = Arc::new(OneForAll::default());
    config.resumption = rustls::client::Resumption::store(tickets.clone());
    config.enable_early_data = true;
    let config = Arc::new(config);
    let mut first = Tls::over(
        connect(scene.gate.http, &scene.target()),
        config.clone(),
        HOST,
    );
    assert_eq!(first.ask("GET /first", HOST, "").status(), 200);
    assert!(!tickets.0.lock().unwrap().is_empty(), "no ticket to misuse");
    // The ticket of a.test, in the tunnel to b.test.
    let mut other = Tls::over(
        connect(scene.gate.http, "b.test:443"),
        config.clone(),
        "b.test",
    );
    assert_eq!(other.0.conn.handshake_kind(), Some(HandshakeKind::Full));
    let misdirected = other.ask("GET /", HOST, "");
    assert_eq!(misdirected.denied(), (421, "sni_mismatch".into()));
    // The twin: for its own host a ticket is good, without early data, and each request is judged.
    let mut again = Tls::over(connect(scene.gate.http, &scene.target()), config, HOST);
    assert!(!again.0.conn.is_early_data_accepted());
    assert_eq!(again.ask("GET /again", HOST, "").status(), 200);
    let paths: Vec<_> = scene
        .judged()
        .into_iter()
        .map(|(_, path, _)| path)
        .collect();
    assert_eq!(paths, ["/first", "/again"]);
}

// D14
#[test]
fn the_key_of_the_sessions_ca_is_nowhere_in_the_jail() {
    // Everything that can be read but the system's programs, and the memory of what runs.
    const LOOK: &str = "echo twin > twin.txt; printf 'PRIVATE %s' KEY >> twin.txt; \
        grep -rlsE 'PRIVATE [K]EY' /run /tmp /home /root /etc/portcullis \"$HOME\" . 2>/dev/null | sort -u; \
        cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n' | grep -c 'PRIVATE [K]EY'; \
        ls /run/portcullis";
    for who in EVERYONE {
        let install = Install::new(who);
        let profile = install.write("p.toml", "[network]\nmitm = true\n");
        let run = install.run(&["-p", profile.to_str().unwrap()], &["sh", "-c", LOOK]);
        let lines: Vec<&str> = run.stdout.lines().collect();
        let found: Vec<&&str> = lines.iter().take_while(|line| line.contains('/')).collect();
        assert!(
            !found.is_empty() && found.iter().all(|path| path.ends_with("twin.txt")),
            "{run:?}"
        );
        assert_eq!(lines[found.len()], "0", "{run:?}");
        assert!(lines.contains(&"ca.pem"), "{run:?}");
    }
}

// D16
#[test]
fn leaves_for_very_many_names_take_a_bounded_amount_of_memory() {
    let scene = Scene::with(|spec| spec.allow("*.b.test", &[443]));
    let visit = |range: std::ops::Range<u32>| {
        for n in range {
            let mut stream = connect(scene.gate.http, &format!("n{n}.b.test:443"));
            let name = format!("n{n}.b.test");
            stream.write_all(&hello_of_rustls(&scene, &name)).unwrap();
            // A ServerHello: the leaf was made.
            let mut first = [0; 6];
            std::io::Read::read_exact(&mut stream, &mut first).unwrap();
            assert_eq!((first[0], first[5]), (22, 2), "{name}");
        }
    };
    // More than are kept, then as many again.
    visit(0..1100);
    let before = resident_kilobytes(&scene.gate);
    visit(1100..2200);
    let grown = resident_kilobytes(&scene.gate).saturating_sub(before);
    assert!(grown < 4096, "{grown} KB for 1100 more names");
    assert_eq!(Tls::open(&scene).ask("GET /", HOST, "").status(), 200);
}

fn hello_of_rustls(scene: &Scene, name: &str) -> Vec<u8> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = rustls::ClientConnection::new(config(scene.authority(), &[]), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

fn resident_kilobytes(gate: &TestGate) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", gate.child.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    line.unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap()
}
