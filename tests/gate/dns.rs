//! Names: asked for only after the decision, answered with addresses that are checked and pinned.

use std::net::IpAddr;

use portcullis::audit::AuditEvent;
use portcullis::policy::{AddressClass, DenyReason};

use crate::client::{Raw, get};
use crate::dns_stub::{Answer, DnsStub};
use crate::test_gate::spec;
use crate::upstream::Origin;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

// A20, C02
#[test]
fn a_denied_name_is_never_asked_for() {
    let dns = DnsStub::constant(ip("127.0.0.1"));
    let gate = spec()
        .allow("*.a.test", &[80])
        .deny("secret.a.test")
        .name_server(dns.address)
        .start();
    for host in [
        "exfil.evil.test",
        "secret.a.test",
        "a.test",
        "x.a.test.evil.test",
        "xa.test",
    ] {
        assert_eq!(get(gate.http, host, "/").status(), 403, "{host}");
        assert_eq!(Raw::open(gate.socks).socks5(host, 80), 2, "{host}");
    }
    assert_eq!(
        get(gate.http, "x.a.test:81", "/").denied(),
        "port_not_allowed"
    );
    assert_eq!(dns.asked(), Vec::<String>::new());
    // The twin: the stub does log what is asked.
    assert_eq!(get(gate.http, "x.a.test", "/").status(), 502);
    assert_eq!(dns.asked()[0], "x.a.test");
}

// B08, B09
#[test]
fn a_refused_address_is_dropped_and_the_others_are_dialed() {
    let origin = Origin::echo();
    let dns = DnsStub::start(|_, _| {
        ["10.0.0.1", "169.254.169.254", "127.0.0.1", "::1", "fd00::1"]
            .map(|text| Answer::Address(ip(text)))
            .to_vec()
    });
    let gate = spec()
        .allow("mixed.test", &[origin.port()])
        .name_server(dns.address)
        .start();
    let authority = format!("mixed.test:{}", origin.port());
    assert_eq!(get(gate.http, &authority, "/").status(), 200);
    let event = gate
        .audit
        .wait_for_one("a lookup", |e| matches!(e, AuditEvent::DnsQuery { .. }));
    let AuditEvent::DnsQuery {
        addresses,
        mut refused,
        ..
    } = event
    else {
        panic!("{event:?}");
    };
    refused.sort();
    let expected = ["10.0.0.1", "169.254.169.254", "::1", "fd00::1"].map(ip);
    assert_eq!(
        (addresses, refused),
        (vec![ip("127.0.0.1")], expected.to_vec())
    );
}

// B02, B04, B05, B06, B10
#[test]
fn a_name_that_leads_only_to_refused_addresses_is_refused() {
    for (answer, class) in [
        (Answer::Address(ip("10.9.9.9")), AddressClass::Private),
        (
            Answer::Address(ip("169.254.169.254")),
            AddressClass::Metadata,
        ),
        (
            Answer::Address(ip("::ffff:10.0.0.1")),
            AddressClass::Private,
        ),
        (Answer::Address(ip("64:ff9b::a00:1")), AddressClass::Private),
        (
            Answer::Alias("internal.corp", ip("192.168.1.1")),
            AddressClass::Private,
        ),
    ] {
        let shown = format!("{answer:?}");
        let dns = DnsStub::start(move |_, _| vec![answer.clone()]);
        let gate = spec().allow("a.test", &[]).name_server(dns.address).start();
        let response = get(gate.http, "a.test", "/");
        assert_eq!(
            (response.status(), response.denied().as_str()),
            (403, "address_refused"),
            "{shown}"
        );
        let event = gate.audit.wait_for_one("a refusal", |event| {
            matches!(event, AuditEvent::EgressRefused { .. })
        });
        let AuditEvent::EgressRefused { reason, .. } = event else {
            panic!("{event:?}");
        };
        assert_eq!(reason, DenyReason::AddressRefused(class), "{shown}");
    }
}

// B10
#[test]
fn an_alias_to_an_address_that_may_be_dialed_is_followed() {
    let origin = Origin::echo();
    let address = origin.address.ip();
    let dns = DnsStub::start(move |_, _| vec![Answer::Alias("cdn.other.test", address)]);
    let gate = spec()
        .allow("a.test", &[origin.port()])
        .name_server(dns.address)
        .start();
    assert_eq!(
        get(gate.http, &format!("a.test:{}", origin.port()), "/").status(),
        200
    );
}

// B08
#[test]
fn a_second_answer_that_differs_is_checked_like_the_first() {
    let origin = Origin::raw(|mut stream| {
        use std::io::{Read, Write};
        let mut chunk = [0; 4096];
        let _ = stream.read(&mut chunk)?;
        // Closing, so that the second request has to be dialed.
        stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
    });
    let good = origin.address.ip();
    let dns = DnsStub::start(move |_, nth| {
        vec![Answer::Address(if nth == 0 {
            good
        } else {
            ip("10.0.0.1")
        })]
    });
    let gate = spec()
        .allow("a.test", &[origin.port()])
        .name_server(dns.address)
        .start();
    let authority = format!("a.test:{}", origin.port());
    assert_eq!(get(gate.http, &authority, "/").status(), 200);
    assert_eq!(get(gate.http, &authority, "/").denied(), "address_refused");
    let dialed: Vec<_> = gate
        .audit
        .events()
        .into_iter()
        .filter_map(|event| match event {
            AuditEvent::EgressDialed { address, .. } => Some(address),
            _ => None,
        })
        .collect();
    assert_eq!(
        dialed,
        [origin.address],
        "the address of the first answer, once"
    );
}

#[test]
fn a_dead_first_address_does_not_keep_from_the_second() {
    let origin = Origin::echo();
    let dns = DnsStub::start(|_, _| {
        ["127.0.0.77", "127.0.0.1"]
            .map(|text| Answer::Address(ip(text)))
            .to_vec()
    });
    let gate = spec()
        .allow("a.test", &[origin.port()])
        .name_server(dns.address)
        .start();
    let authority = format!("a.test:{}", origin.port());
    assert_eq!(get(gate.http, &authority, "/").status(), 200);
}

#[test]
fn a_name_without_an_address_is_a_typed_502() {
    let dns = DnsStub::start(|_, _| Vec::new());
    let gate = spec().allow("a.test", &[]).name_server(dns.address).start();
    let response = get(gate.http, "a.test", "/");
    assert_eq!(
        (response.status(), response.denied().as_str()),
        (502, "resolve_failed")
    );
    assert_eq!(Raw::open(gate.socks).socks5("a.test", 80), 4);
}

#[test]
fn a_cut_answer_is_asked_for_again_over_tcp() {
    let origin = Origin::echo();
    let address = origin.address.ip();
    let dns = DnsStub::truncating(move |_, _| vec![Answer::Address(address)]);
    let gate = spec()
        .allow("a.test", &[origin.port()])
        .name_server(dns.address)
        .start();
    assert_eq!(
        get(gate.http, &format!("a.test:{}", origin.port()), "/").status(),
        200
    );
}

// A25
#[test]
fn single_labels_and_local_names_are_asked_for_only_if_spelled_out() {
    let origin = Origin::echo();
    let port = origin.port();
    let dns = DnsStub::constant(origin.address.ip());
    let gate = spec()
        .allow("*.local", &[port])
        .allow("*", &[port])
        .allow("build", &[port])
        .allow("wiki.local", &[port])
        .name_server(dns.address)
        .start();
    assert_eq!(
        get(gate.http, &format!("printer.local:{port}"), "/").denied(),
        "resolve_failed"
    );
    assert_eq!(
        get(gate.http, &format!("intranet:{port}"), "/").denied(),
        "host_not_allowed"
    );
    assert_eq!(dns.asked(), Vec::<String>::new());
    assert_eq!(get(gate.http, &format!("build:{port}"), "/").status(), 200);
    assert_eq!(
        get(gate.http, &format!("wiki.local:{port}"), "/").status(),
        200
    );
    assert!(
        dns.asked()
            .iter()
            .all(|name| name == "build" || name == "wiki.local")
    );
}

#[test]
fn the_hosts_own_entries_win_over_dns_and_are_checked_too() {
    let origin = Origin::echo();
    let dns = DnsStub::constant(ip("10.0.0.1"));
    let gate = spec()
        .allow("a.test", &[origin.port()])
        .allow("inner.test", &[])
        .host("a.test", "127.0.0.1")
        .host("inner.test", "192.168.0.1")
        .name_server(dns.address)
        .start();
    assert_eq!(
        get(gate.http, &format!("a.test:{}", origin.port()), "/").status(),
        200
    );
    assert_eq!(
        get(gate.http, "inner.test", "/").denied(),
        "address_refused"
    );
    assert_eq!(dns.asked(), Vec::<String>::new());
}

// B13
#[test]
fn an_address_literal_is_held_to_the_same_classes() {
    let origin = Origin::echo();
    let gate = spec()
        .allow("127.0.0.1", &[origin.port()])
        .allow("10.0.0.1", &[80])
        .allow("*", &[])
        .start();
    assert_eq!(
        get(gate.http, &format!("127.0.0.1:{}", origin.port()), "/").status(),
        200
    );
    assert_eq!(get(gate.http, "10.0.0.1", "/").denied(), "address_refused");
    assert_eq!(get(gate.http, "1.1.1.1", "/").denied(), "host_not_allowed");
}
