//! Addresses, however they are spelled and however a name leads to them.

use std::net::IpAddr;

use portcullis::audit::AuditEvent;
use portcullis::policy::{AddressClass, DenyReason};

use crate::client::{Raw, curl, get};
use crate::dns_stub::{Answer, DnsStub};
use crate::ground::{Ground, denials};
use crate::test_gate::{GateSpec, spec};
use crate::upstream::Origin;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// No exception from the refused classes, as in every shipped profile.
fn no_exceptions(spec: GateSpec) -> GateSpec {
    spec.policy(|policy| policy.addresses.allow.clear())
}

/// Asks for each address as a literal that a rule allows, by every door, and as what a name leads to, and
/// expects each to be refused for its class.
#[track_caller]
fn refused_everywhere(addresses: &[(&str, AddressClass)], exceptions: &[&str]) {
    let answers: Vec<IpAddr> = addresses.iter().map(|(text, _)| ip(text)).collect();
    let dns = DnsStub::start(move |name, _| {
        let number = name
            .strip_prefix('n')
            .and_then(|rest| rest.split('.').next());
        let at = number.and_then(|number| number.parse::<usize>().ok());
        at.map(|at| Answer::Address(answers[at]))
            .into_iter()
            .collect()
    });
    let mut spec = spec()
        .allow("*.allowed.test", &[80])
        .allow("*", &[80])
        .name_server(dns.address)
        .policy(|policy| {
            let exceptions = exceptions.iter().map(|net| net.parse().unwrap());
            policy.addresses.allow = exceptions.collect();
        });
    for (text, _) in addresses {
        spec = spec.allow(text, &[80]);
    }
    let gate = spec.start();
    for (at, (text, class)) in addresses.iter().enumerate() {
        let bracketed = if text.contains(':') {
            format!("[{text}]")
        } else {
            (*text).to_owned()
        };
        let name = format!("n{at}.allowed.test");
        let expected = DenyReason::AddressRefused(*class);
        for host in [bracketed, name] {
            let before = gate.audit.events().len();
            let answer = get(gate.http, &format!("{host}:80"), "/");
            assert_eq!(answer.denied(), "address_refused", "{host} for {text}");
            let mut tunnel = Raw::open(gate.http);
            tunnel.send(format!(
                "CONNECT {host}:80 HTTP/1.1\r\nHost: {host}:80\r\n\r\n"
            ));
            assert_eq!(tunnel.response().denied(), "address_refused", "{text}");
            let mut socks = Raw::open(gate.socks);
            match (host.starts_with('n'), ip(text)) {
                (true, _) => assert_eq!(socks.socks5(&host, 80), 2, "{text}"),
                (false, address) => assert_eq!(socks5_literal(&mut socks, address, 80), 2),
            }
            // A refusal after the decision is on record soon, not before its answer.
            let three = |events: &[AuditEvent]| denials(&events[before..]).len() >= 3;
            let events = gate
                .audit
                .wait_for("three refusals", three)
                .split_off(before);
            assert_eq!(
                denials(&events),
                [expected; 3],
                "{host} for {text}: {events:?}"
            );
        }
    }
    let dialed = |event: &AuditEvent| matches!(event, AuditEvent::EgressDialed { .. });
    assert!(!gate.audit.events().iter().any(dialed));
    // Literals are no names.
    let literal = |name: &String| !name.ends_with(".allowed.test");
    assert!(!dns.asked().iter().any(literal));
}

/// Greeting and request for an address; the gate's reply code.
fn socks5_literal(client: &mut Raw, address: IpAddr, port: u16) -> u8 {
    client.send([5, 1, 0]);
    assert_eq!(client.exactly(2), [5, 0]);
    let address = match address {
        IpAddr::V4(v4) => [&[1][..], &v4.octets()].concat(),
        IpAddr::V6(v6) => [&[4][..], &v6.octets()].concat(),
    };
    client.send([&[5, 1, 0][..], &address, &port.to_be_bytes()].concat());
    client.exactly(10)[1]
}

// B01
#[test]
fn only_one_spelling_of_an_ipv4_address_is_one_and_it_needs_a_rule() {
    let ground = Ground::with(|spec, port| spec.allow("*", &[port]));
    for host in [
        "2130706433",
        "0x7f000001",
        "0x7F.0.0.1",
        "017700000001",
        "0177.0.0.1",
        "127.1",
        "127.0.1",
        "127.0.0.1.",
        "127.000.000.001",
        "127.0.0.01",
        "127.0.0.256",
        "127.0.0.0x1",
        "0",
        "0.0",
        "1.2.3.4.5",
        "4294967296",
        "allowed.test.127",
        "\u{ff11}27.0.0.1",
        "\u{2460}27.0.0.1",
    ] {
        ground.refuses_host(host, "malformed");
    }
    let at = format!("127.0.0.1:{}", ground.port());
    let request = format!("GET http://{at}/ HTTP/1.1\r\nHost: {at}\r\n\r\n");
    ground.refuses("no rule", &request, 403, "host_not_allowed");
    ground.is_untouched();
    let twin = Ground::with(|spec, port| spec.allow("127.0.0.1", &[port]));
    let at = format!("127.0.0.1:{}", twin.port());
    assert_eq!(get(twin.gate.http, &at, "/").status(), 200);
}

// B02
#[test]
fn every_spelling_of_an_ipv6_address_is_the_address_that_it_dials() {
    use AddressClass as C;
    refused_everywhere(
        &[
            ("::1", C::Loopback),
            ("0:0:0:0:0:0:0:1", C::Loopback),
            ("::", C::Unspecified),
            ("::ffff:127.0.0.1", C::Loopback),
            ("::FFFF:7f00:1", C::Loopback),
            ("::ffff:0.0.0.0", C::Unspecified),
            ("0:0:0:0:0:ffff:a9fe:a9fe", C::Metadata),
            ("::ffff:10.0.0.1", C::Private),
            ("::127.0.0.1", C::Loopback),
            ("::ffff:0:127.0.0.1", C::Loopback),
            ("fe80::1", C::LinkLocal),
            ("fc00::1", C::Private),
            ("fec0::1", C::Private),
            ("ff02::1", C::Multicast),
        ],
        &[],
    );
    let ground = Ground::new();
    let port = ground.port();
    for host in [
        "[fe80::1%25lo]",
        "[fe80::1%lo]",
        "[::1%25]",
        "::1",
        "[1::2::3]",
        "[0::0::1]",
        "[::ffff:127.1]",
        "[::ffff:0x7f.0.0.1]",
        "[00000::1]",
        "[v1.x]",
        "[ ::1]",
    ] {
        let at = format!("{host}:{port}");
        let request = format!("CONNECT {at} HTTP/1.1\r\nHost: {at}\r\n\r\n");
        ground.refuses("no IPv6 address", &request, 400, "malformed");
    }
    ground.is_untouched();
    // The twin: a mapped address is the IPv4 address, where that may be dialed.
    let twin = Ground::with(|spec, port| spec.allow("127.0.0.1", &[port]));
    let at = format!("[::ffff:127.0.0.1]:{}", twin.port());
    let mut client = Raw::open(twin.gate.http);
    client.send(format!("GET http://{at}/ HTTP/1.1\r\nHost: {at}\r\n\r\n"));
    assert_eq!(client.response().status(), 200);
}

// B04
#[test]
fn an_ipv4_address_inside_an_ipv6_address_is_found_and_no_range_of_ipv6_lifts_it() {
    use AddressClass as C;
    refused_everywhere(
        &[
            // 6to4.
            ("2002:7f00:1::", C::Loopback),
            ("2002:a9fe:a9fe::1", C::Metadata),
            ("2002:a00:1::1", C::Private),
            // Teredo: as server, and as client with its bits inverted.
            ("2001:0:a00:1::", C::Private),
            ("2001:0:808:808::5601:5601", C::Metadata),
            ("2001:0:808:808::f5ff:fffe", C::Private),
            // ISATAP, under a public prefix.
            ("2a00::5efe:a9fe:a9fe", C::Metadata),
            ("2a00::200:5efe:7f00:1", C::Loopback),
            // NAT64.
            ("64:ff9b::a9fe:a9fe", C::Metadata),
            ("64:ff9b::10.0.0.1", C::Private),
            ("64:ff9b:1::10.0.0.1", C::Private),
        ],
        &["::/0"],
    );
}

// B05
#[test]
fn metadata_addresses_are_refused_though_everything_is_allowed() {
    let addresses = [
        "169.254.169.254",
        "169.254.170.2",
        "169.254.170.23",
        "169.254.169.253",
        "169.254.0.23",
        "169.254.42.42",
        "100.100.100.200",
        "192.0.0.192",
        "168.63.129.16",
        "fd00:ec2::254",
        "fd20:ce::254",
        "::ffff:169.254.169.254",
        "64:ff9b::169.254.169.254",
    ]
    .map(|text| (text, AddressClass::Metadata));
    refused_everywhere(&addresses, &["0.0.0.0/0", "::/0"]);
}

// B06
#[test]
fn ranges_that_are_not_public_are_refused() {
    use AddressClass as C;
    refused_everywhere(
        &[
            ("0.0.0.0", C::Unspecified),
            ("10.0.0.1", C::Private),
            ("100.64.0.1", C::SharedCgnat),
            ("127.0.0.1", C::Loopback),
            ("127.255.255.254", C::Loopback),
            ("169.254.1.1", C::LinkLocal),
            ("172.16.0.1", C::Private),
            ("172.31.255.255", C::Private),
            ("192.0.2.1", C::Reserved),
            ("192.168.1.1", C::Private),
            ("198.18.0.1", C::Reserved),
            ("224.0.0.1", C::Multicast),
            ("240.0.0.1", C::Reserved),
            ("255.255.255.255", C::Reserved),
            ("fd12:3456::1", C::Private),
            ("2001:db8::1", C::Reserved),
            ("100::1", C::Reserved),
        ],
        &[],
    );
}

// B12
#[test]
fn the_doors_of_another_gate_are_no_destination() {
    let other = Ground::new();
    let doors = [
        other.gate.http.port(),
        other.gate.socks.port(),
        other.dns.address.port(),
    ];
    let ground = Ground::with(|spec, _| {
        let spec = spec.allow("127.0.0.1", &doors).allow("gate.test", &doors);
        no_exceptions(spec)
    });
    for port in doors {
        for host in ["127.0.0.1", "gate.test"] {
            let answer = get(ground.gate.http, &format!("{host}:{port}"), "/");
            assert_eq!(answer.denied(), "address_refused", "{host}:{port}");
        }
    }
    assert_eq!(ground.origin.log.connections(), 0);
    assert_eq!(other.gate.audit.events(), []);
    other.is_untouched();
    // The twin: where loopback may be dialed, the same rule leads there.
    let twin = Ground::with(|spec, _| spec.allow("127.0.0.1", &doors));
    let at = format!("127.0.0.1:{}", doors[0]);
    assert_eq!(get(twin.gate.http, &at, "/").denied(), "malformed");
    assert_eq!(other.gate.audit.events().len(), 1);
}

// B13
#[test]
fn an_address_goes_around_no_rule_about_names() {
    let ground = Ground::with(|spec, port| spec.allow("*", &[port]));
    let before = ground.gate.audit.events().len();
    for address in [
        "127.0.0.1",
        "::ffff:127.0.0.1",
        "::1",
        "1.1.1.1",
        "2606:4700::1111",
    ] {
        let mut client = Raw::open(ground.gate.socks);
        assert_eq!(
            socks5_literal(&mut client, ip(address), ground.port()),
            2,
            "{address}"
        );
    }
    let events = ground.gate.audit.events().split_off(before);
    assert_eq!(denials(&events), [DenyReason::HostNotAllowed; 5]);
    ground.is_untouched();
    // The twin: with a rule for it, that address and no other.
    let twin = Ground::with(|spec, port| spec.allow("127.0.0.1", &[port]));
    for (address, reply) in [("127.0.0.1", 0), ("::ffff:127.0.0.1", 0), ("127.0.0.2", 2)] {
        let mut client = Raw::open(twin.gate.socks);
        assert_eq!(
            socks5_literal(&mut client, ip(address), twin.port()),
            reply,
            "{address}"
        );
    }
}

// B14
#[test]
fn a_redirect_is_followed_through_the_gate_and_judged_there() {
    let origin = Origin::http(|head, _| {
        let to = head
            .split_once("/to?")
            .and_then(|(_, rest)| rest.split(' ').next());
        let Some(to) = to else {
            return crate::upstream::ok("end");
        };
        format!("HTTP/1.1 302 Found\r\nLocation: http://{to}\r\nContent-Length: 0\r\n\r\n")
            .into_bytes()
    });
    let ground = Ground::before(origin, |spec, port| {
        spec.allow("10.0.0.1", &[port])
            .allow("private.test", &[port])
            .host("private.test", "192.168.7.7")
    });
    let (at, port) = (ground.allowed(), ground.port());
    let proxy = format!("http://{}", ground.gate.http);
    let follow = |to: &str| {
        let url = format!("http://{at}/to?{to}");
        let show = " %{http_code} %header{x-portcullis-denied}";
        let arguments = [
            "--proxy",
            &proxy,
            "--location",
            "--write-out",
            show,
            "--output",
            "/dev/null",
            &url,
        ];
        curl(&arguments).1
    };
    for (to, expected) in [
        (format!("denied.test:{port}/"), "host_not_allowed"),
        (
            "169.254.169.254/latest/meta-data/".to_owned(),
            "host_not_allowed",
        ),
        (format!("10.0.0.1:{port}/"), "address_refused"),
        (format!("private.test:{port}/"), "address_refused"),
        ("allowed.test:1/".to_owned(), "port_not_allowed"),
    ] {
        let before = ground.gate.audit.events().len();
        assert_eq!(follow(&to), format!(" 403 {expected}"), "{to}");
        let one = |events: &[AuditEvent]| !denials(&events[before..]).is_empty();
        let events = ground.gate.audit.wait_for(expected, one).split_off(before);
        let codes: Vec<_> = denials(&events)
            .iter()
            .map(|reason| reason.code())
            .collect();
        assert_eq!(codes, [expected], "{to}");
    }
    let asked = ground.dns.asked();
    assert!(asked.iter().all(|name| name == "allowed.test"), "{asked:?}");
    // The twin: a redirect to what is allowed.
    assert_eq!(follow(&format!("b.allowed.test:{port}/")), " 200 ");
}

// B16
#[test]
fn a_deny_of_an_address_wins_over_an_exception_and_metadata_over_every_range() {
    let everything = |spec: GateSpec| {
        spec.policy(|policy| {
            policy.addresses.allow = ["0.0.0.0/0", "::/0"].map(|net| net.parse().unwrap()).into();
        })
    };
    let ground = Ground::with(|spec, port| {
        everything(spec)
            .allow("127.0.0.1", &[port])
            .allow("169.254.169.254", &[port])
            .deny("127.0.0.1")
    });
    let port = ground.port();
    for (host, code) in [
        ("127.0.0.1", "host_denied"),
        ("[::ffff:127.0.0.1]", "host_denied"),
        ("169.254.169.254", "address_refused"),
    ] {
        let at = format!("{host}:{port}");
        let request = format!("CONNECT {at} HTTP/1.1\r\nHost: {at}\r\n\r\n");
        ground.refuses("precedence", &request, 403, code);
    }
    ground.is_untouched();
    let twin = Ground::with(|spec, port| everything(spec).allow("127.0.0.1", &[port]));
    let at = format!("127.0.0.1:{}", twin.port());
    assert_eq!(get(twin.gate.http, &at, "/").status(), 200);
}
