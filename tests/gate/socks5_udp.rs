//! Datagrams by SOCKS5 (RFC 1928 section 7).

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};

use portcullis::audit::{AuditEvent, EndedBy};
use portcullis::policy::{
    AddressPolicy, DenyReason, Effect, HostPattern, NetworkMode, Port, Protocol, Rule, RuleId,
    Transport, Verdict,
};

use portcullis::wire::gate::GateCommand;

use crate::client::Raw;
use crate::test_gate::{GateSpec, PATIENCE, TestGate, spec};

/// Sends every datagram back, and remembers it.
struct Echo {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Echo {
    fn start() -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = socket.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        std::thread::spawn(move || {
            let mut buffer = vec![0; 70_000];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                log.lock().unwrap().push(buffer[..length].to_vec());
                drop(socket.send_to(&buffer[..length], from));
            }
        });
        Self { address, seen }
    }

    fn port(&self) -> u16 {
        self.address.port()
    }

    fn seen(&self) -> Vec<String> {
        let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
        self.seen.lock().unwrap().iter().map(text).collect()
    }
}

fn relaying() -> GateSpec {
    spec().policy(|policy| policy.enable_socks5_udp = true)
}

fn rule(spec: GateSpec, host: &str, port: u16, protocol: Protocol) -> GateSpec {
    spec.policy(|policy| {
        policy.rules.push(Rule {
            ports: vec![Port::new(port).unwrap()],
            protocol,
            ..Rule::new(
                RuleId::new(format!("{protocol:?} {host}")),
                HostPattern::parse(host).unwrap(),
                Effect::Allow,
            )
        });
    })
}

fn udp(spec: GateSpec, host: &str, port: u16) -> GateSpec {
    rule(spec, host, port, Protocol::Udp)
}

/// A client with its control connection.
struct Client {
    control: Raw,
    socket: UdpSocket,
    relay: SocketAddr,
}

impl Client {
    /// Asks for an association without saying where its datagrams come from.
    fn open(gate: &TestGate) -> Self {
        Self::from(gate, Self::socket(), ([0, 0, 0, 0], 0))
    }

    fn socket() -> UdpSocket {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    fn from(gate: &TestGate, socket: UdpSocket, (address, port): ([u8; 4], u16)) -> Self {
        let mut control = Raw::open(gate.socks);
        control.send([5, 1, 0]);
        assert_eq!(control.exactly(2), [5, 0]);
        control.send([&[5, 3, 0, 1], &address[..], &port.to_be_bytes()].concat());
        let reply = control.exactly(10);
        assert_eq!(reply[..8], [5, 0, 0, 1, 127, 0, 0, 1]);
        let port = u16::from_be_bytes([reply[8], reply[9]]);
        Self {
            control,
            socket,
            relay: (Ipv4Addr::LOCALHOST, port).into(),
        }
    }

    fn send(&self, header: &[u8], payload: &[u8]) -> &Self {
        let bytes = [header, payload].concat();
        self.socket.send_to(&bytes, self.relay).unwrap();
        self
    }

    fn answer(&self) -> Vec<u8> {
        let mut buffer = vec![0; 70_000];
        let (length, from) = self.socket.recv_from(&mut buffer).unwrap();
        assert_eq!(from, self.relay);
        buffer.truncate(length);
        buffer
    }

    /// Sends there and waits for the same to come back.
    fn assert_echo(&self, header: &[u8], payload: &[u8]) {
        let answer = self.send(header, payload).answer();
        assert!(answer == [header, payload].concat());
    }
}

fn to_name(name: &str, port: u16) -> Vec<u8> {
    let mut header = vec![0, 0, 0, 3, u8::try_from(name.len()).unwrap()];
    header.extend(name.as_bytes());
    header.extend(port.to_be_bytes());
    header
}

fn to_address(address: [u8; 4], port: u16) -> Vec<u8> {
    [&[0, 0, 0, 1], &address[..], &port.to_be_bytes()].concat()
}

fn refusals(gate: &TestGate, count: usize) -> Vec<(DenyReason, String)> {
    let refused = |event: &AuditEvent| match event {
        AuditEvent::EgressRefused {
            transport,
            reason,
            detail,
            ..
        } => {
            assert_eq!(*transport, Transport::Socks5Udp);
            Some((*reason, detail.clone()))
        }
        _ => None,
    };
    let events = gate.audit.wait_for("refusals", |events| {
        events.iter().filter_map(refused).count() >= count
    });
    events.iter().filter_map(refused).collect()
}

fn decisions(gate: &TestGate) -> Vec<(String, u16, Verdict, Option<DenyReason>)> {
    let decided = |event| match event {
        AuditEvent::EgressDecided {
            transport: Transport::Socks5Udp,
            host,
            port,
            verdict,
            reason,
            ..
        } => Some((host.to_string(), port.number(), verdict, reason)),
        _ => None,
    };
    gate.audit
        .events()
        .into_iter()
        .filter_map(decided)
        .collect()
}

#[test]
fn datagrams_go_to_allowed_names_and_addresses_and_come_back_with_the_header_they_went_with() {
    let echo = Echo::start();
    let spec = udp(relaying(), "a.test", echo.port()).host("a.test", "127.0.0.1");
    let gate = udp(spec, "127.0.0.1", echo.port()).start();
    let client = Client::open(&gate);
    let (name, address) = (
        to_name("a.test", echo.port()),
        to_address([127, 0, 0, 1], echo.port()),
    );
    client.assert_echo(&name, b"one");
    client.assert_echo(&address, b"two");
    client.assert_echo(&name, b"");
    client.assert_echo(&name, &vec![7; 32_000]);
    drop(client.control);
    let ends = |event: &AuditEvent| match event {
        AuditEvent::EgressClosed {
            bytes_up,
            bytes_down,
            ended_by,
            ..
        } => Some((*bytes_up, *bytes_down, *ended_by)),
        _ => None,
    };
    let events = gate.audit.wait_for("two ends", |events| {
        events.iter().filter_map(ends).count() == 2
    });
    let mut ends: Vec<_> = events.iter().filter_map(ends).collect();
    ends.sort_by_key(|end| end.0);
    let by = EndedBy::Client;
    assert_eq!(ends, [(3, 3, by), (32_003, 32_003, by)]);
    let dialed = |event: &&AuditEvent| matches!(event, AuditEvent::EgressDialed { .. });
    assert_eq!(events.iter().filter(dialed).count(), 2);
    assert_eq!(decisions(&gate).len(), 2, "one a destination");
}

#[test]
fn a_datagram_waits_for_its_record_and_its_name_is_not_asked_for_before() {
    let echo = Echo::start();
    let gate = udp(relaying(), "a.test", echo.port())
        .host("a.test", "127.0.0.1")
        .start();
    let client = Client::open(&gate);
    gate.audit.hold();
    let header = to_name("a.test", echo.port());
    client.send(&header, b"one").send(&header, b"two");
    gate.audit
        .wait_for("a decision", |events| events.len() == 1);
    crate::client::a_moment();
    assert_eq!(gate.audit.events().len(), 1, "no look-up yet");
    assert_eq!(echo.seen(), Vec::<String>::new());
    gate.audit.release();
    assert!(client.answer().ends_with(b"one"));
    assert!(client.answer().ends_with(b"two"));
}

// F02
#[test]
fn only_rules_for_datagrams_allow_them_and_they_allow_nothing_else() {
    let echo = Echo::start();
    let port = echo.port();
    let spec = udp(relaying(), "udp.test", port)
        .allow("web.test", &[port])
        .host("udp.test", "127.0.0.1");
    let gate = rule(spec, "tcp.test", port, Protocol::Tcp).start();
    let client = Client::open(&gate);
    for host in ["web.test", "tcp.test", "other.test"] {
        client.send(&to_name(host, port), b"no");
    }
    client.send(&to_name("udp.test", 53), b"no");
    client.assert_echo(&to_name("udp.test", port), b"yes");
    let mut expected = [
        ("other.test", port, Some(DenyReason::HostNotAllowed)),
        ("tcp.test", port, Some(DenyReason::PortNotAllowed)),
        ("udp.test", 53, Some(DenyReason::PortNotAllowed)),
        ("udp.test", port, None),
        ("web.test", port, Some(DenyReason::PortNotAllowed)),
    ];
    let mut decided = decisions(&gate);
    decided.sort_by_key(|(host, port, ..)| (host.clone(), *port));
    expected.sort_by_key(|(host, port, _)| (*host, *port));
    let decided: Vec<_> = decided
        .iter()
        .map(|(host, port, _, reason)| (host.as_str(), *port, *reason))
        .collect();
    assert_eq!(decided, expected);
    assert_eq!(Raw::open(gate.socks).socks5("udp.test", port), 2, "TCP");
    assert_eq!(echo.seen(), ["yes"]);
}

// F02
#[test]
fn addresses_of_refused_classes_are_refused_by_literal_and_by_name() {
    let echo = Echo::start();
    let port = echo.port();
    let hosts = ["10.1.2.3", "private.test", "127.0.0.1"];
    let strict = |policy: &mut portcullis::policy::NetworkPolicy| {
        policy.addresses = AddressPolicy::default();
    };
    let spec = hosts.iter().fold(relaying().policy(strict), |spec, host| {
        udp(spec, host, port)
    });
    let gate = spec.host("private.test", "127.0.0.1").start();
    let client = Client::open(&gate);
    client
        .send(&to_address([10, 1, 2, 3], port), b"no")
        .send(&to_name("private.test", port), b"no")
        .send(&to_address([127, 0, 0, 1], port), b"no");
    for (reason, detail) in refusals(&gate, 3) {
        assert!(
            matches!(reason, DenyReason::AddressRefused(_)),
            "{reason}: {detail}"
        );
    }
    assert_eq!(echo.seen(), Vec::<String>::new());
}

// F02
#[test]
fn what_is_no_whole_datagram_is_dropped_and_recorded_once() {
    let echo = Echo::start();
    let header = to_address([127, 0, 0, 1], echo.port());
    let fragment = |number| [&[0, 0, number], &header[3..]].concat();
    for (bad, why) in [
        (fragment(1), "a fragment of a datagram"),
        (fragment(0x81), "a fragment of a datagram"),
        (header[..6].to_vec(), "without a whole SOCKS5 header"),
        ([&[0, 1, 0], &header[3..]].concat(), "reserved bytes"),
        (to_name("127.0.0.1", echo.port()), "not exactly a host"),
        (to_name("a.test", 0), "port 0"),
    ] {
        let gate = udp(relaying(), "127.0.0.1", echo.port()).start();
        let client = Client::open(&gate);
        client.send(&bad, b"").send(&bad, b"");
        client.assert_echo(&header, b"whole");
        let refused = refusals(&gate, 1);
        assert_eq!(refused.len(), 1);
        assert_eq!(refused[0].0, DenyReason::Malformed);
        assert!(refused[0].1.contains(why), "{}", refused[0].1);
    }
    assert!(echo.seen().iter().all(|seen| seen == "whole"));
}

// F02
#[test]
fn only_the_client_of_an_association_is_heard() {
    let echo = Echo::start();
    let gate = udp(relaying(), "127.0.0.1", echo.port()).start();
    let header = to_address([127, 0, 0, 1], echo.port());
    let stranger = Client::socket();
    let own = Client::socket();
    let port = own.local_addr().unwrap().port();
    let named = Client::from(&gate, own, ([127, 0, 0, 1], port));
    let shout = || {
        let bytes = [&header[..], b"stranger"].concat();
        stranger.send_to(&bytes, named.relay).unwrap();
    };
    shout();
    shout();
    named.assert_echo(&header, b"named");
    let own = Client::socket();
    let port = own.local_addr().unwrap().port();
    let by_port = Client::from(&gate, own, ([0, 0, 0, 0], port));
    shout();
    by_port.assert_echo(&header, b"by port");
    let first = Client::open(&gate);
    let second = Client::open(&gate);
    first.assert_echo(&header, b"first");
    second.assert_echo(&header, b"second");
    shout();
    first.assert_echo(&header, b"first");
    assert_eq!(
        echo.seen(),
        ["named", "by port", "first", "second", "first"]
    );
    let refused = refusals(&gate, 1);
    assert_eq!(refused.len(), 1, "once a source");
    let source = stranger.local_addr().unwrap().to_string();
    assert!(refused[0].1.contains(&source), "{}", refused[0].1);
}

#[test]
fn an_address_that_is_not_the_clients_or_is_taken_is_refused() {
    let gate = relaying().start();
    let ask = |request: &[u8]| {
        let mut client = Raw::open(gate.socks);
        client.send([5, 1, 0]).send(request);
        let reply = client.exactly(4)[3];
        (reply, client)
    };
    let one = [5, 3, 0, 1, 127, 0, 0, 1, 0x30, 0x39];
    let (reply, _held) = ask(&one);
    assert_eq!(reply, 0);
    assert_eq!(ask(&one).0, 1);
    assert_eq!(ask(&[5, 3, 0, 1, 10, 0, 0, 1, 0x30, 0x39]).0, 2);
    assert_eq!(ask(&[5, 3, 0, 3, 1, b'a', 0x30, 0x39]).0, 8);
    assert_eq!(ask(&[5, 2, 0, 1, 0, 0, 0, 0, 0, 0]).0, 7, "BIND");
}

#[test]
fn when_the_control_connection_ends_so_does_the_association() {
    let echo = Echo::start();
    let gate = udp(relaying(), "127.0.0.1", echo.port()).start();
    let header = to_address([127, 0, 0, 1], echo.port());
    let client = Client::open(&gate);
    client.assert_echo(&header, b"before");
    let Client {
        control,
        socket,
        relay,
    } = client;
    drop(control);
    gate.audit.wait_for_one("an end", |event| {
        matches!(event, AuditEvent::EgressClosed { .. })
    });
    let bytes = [&header[..], b"after"].concat();
    socket.send_to(&bytes, relay).unwrap();
    assert!(refusals(&gate, 1)[0].1.contains("no SOCKS5 connection"));
    assert_eq!(echo.seen(), ["before"]);
}

#[test]
fn the_number_of_destinations_is_bounded_by_the_sessions_connections() {
    let echo = Echo::start();
    let spec = (1..=4).fold(relaying(), |spec, last| {
        udp(spec, &format!("127.0.0.{last}"), echo.port())
    });
    let gate = spec.limits(|limits| limits.connections = 3).start();
    let client = Client::open(&gate);
    client.assert_echo(&to_address([127, 0, 0, 1], echo.port()), b"1");
    for last in 2..=4 {
        client.send(&to_address([127, 0, 0, last], echo.port()), b"x");
    }
    let refused = refusals(&gate, 1);
    assert_eq!(refused[0].0, DenyReason::TooManyConnections);
    client.assert_echo(&to_address([127, 0, 0, 1], echo.port()), b"still");
    // The second may be decided after the third was refused.
    gate.audit.wait_for("two decisions", |events| {
        let decided = |event: &&AuditEvent| matches!(event, AuditEvent::EgressDecided { .. });
        events.iter().filter(decided).count() >= 2
    });
    assert_eq!(decisions(&gate).len(), 2);
}

#[test]
fn limited_mode_and_a_switched_off_relay_let_no_datagram_out() {
    let echo = Echo::start();
    let limited = udp(relaying(), "127.0.0.1", echo.port()).policy(|policy| {
        policy.mode = NetworkMode::Limited;
        policy.unconfined_tunnels = true;
    });
    let gate = limited.start();
    let client = Client::open(&gate);
    client.send(&to_address([127, 0, 0, 1], echo.port()), b"no");
    let event = gate.audit.wait_for_one("a decision", |event| {
        matches!(event, AuditEvent::EgressDecided { .. })
    });
    let AuditEvent::EgressDecided { reason, .. } = event else {
        panic!("{event:?}")
    };
    assert_eq!(reason, Some(DenyReason::TunnelNotAllowed));
    let off = udp(spec(), "127.0.0.1", echo.port()).start();
    let mut client = Raw::open(off.socks);
    client.send([5, 1, 0]).send([5, 3, 0, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(client.exactly(4), [5, 0, 5, 7]);
    assert_eq!(echo.seen(), Vec::<String>::new());
}

#[test]
fn an_upstream_proxy_is_not_gone_around() {
    let echo = Echo::start();
    let proxy = crate::upstream::Origin::echo_bytes();
    let mut spec = udp(relaying(), "a.test", echo.port()).host("a.test", "127.0.0.1");
    spec.upstream = Some(crate::via::by(
        &format!("http://{}", proxy.address),
        portcullis::policy::ResolveNames::Proxy,
    ));
    let gate = spec.start();
    let client = Client::open(&gate);
    client.send(&to_name("a.test", echo.port()), b"no");
    let (reason, detail) = refusals(&gate, 1).remove(0);
    assert_eq!(reason, DenyReason::UpstreamProxyFailed);
    assert!(detail.contains("datagrams do not go through"), "{detail}");
    assert_eq!(echo.seen(), Vec::<String>::new());
    assert_eq!(proxy.log.connections(), 0);
}

fn ended(gate: &TestGate) -> (u64, u64, EndedBy) {
    let event = gate.audit.wait_for_one("an end", |event| {
        matches!(event, AuditEvent::EgressClosed { .. })
    });
    match event {
        AuditEvent::EgressClosed {
            bytes_up,
            bytes_down,
            ended_by,
            ..
        } => (bytes_up, bytes_down, ended_by),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_budget_lets_no_datagram_out_that_does_not_fit() {
    let echo = Echo::start();
    let budgets = toml::from_str("bytes_up = { max = 6, action = 'deny' }").unwrap();
    let gate = udp(relaying(), "127.0.0.1", echo.port())
        .policy(|policy| policy.budgets = budgets)
        .start();
    let client = Client::open(&gate);
    let header = to_address([127, 0, 0, 1], echo.port());
    client.assert_echo(&header, b"ping");
    client.send(&header, b"more");
    assert_eq!(ended(&gate), (4, 4, EndedBy::Budget));
    assert_eq!(echo.seen(), ["ping"]);
}

#[test]
fn a_new_policy_without_the_rule_ends_it() {
    let echo = Echo::start();
    let gate = udp(relaying(), "127.0.0.1", echo.port()).start();
    let client = Client::open(&gate);
    let header = to_address([127, 0, 0, 1], echo.port());
    client.assert_echo(&header, b"before");
    let policy = Box::new(relaying().policy);
    gate.control().send(&GateCommand::Policy(policy)).unwrap();
    assert_eq!(ended(&gate), (6, 6, EndedBy::Policy));
    client.send(&header, b"after");
    gate.audit.wait_for("a denial", |events| {
        let denied = |event: &&AuditEvent| {
            matches!(
                event,
                AuditEvent::EgressDecided {
                    verdict: Verdict::Deny,
                    ..
                }
            )
        };
        events.iter().filter(denied).count() == 1
    });
    assert_eq!(echo.seen(), ["before"]);
}
