//! Spellings of a host that a filter and whoever connects could read in two ways.

use portcullis::policy::HostPattern;

use crate::client::Raw;
use crate::ground::Ground;
use crate::inside::Tls;
use crate::scene::{HOST, Scene};

// A01
#[test]
fn a_name_that_ends_at_a_nul_for_one_reader_is_refused() {
    let ground = Ground::new();
    for name in [
        "denied.test\0.allowed.test",
        "allowed.test\0",
        "\0allowed.test",
        "allowed.test\0.denied.test",
    ] {
        ground.refuses_name(name, "malformed");
    }
    ground.is_untouched();
    ground.reaches("allowed.test");
}

// A02
#[test]
fn a_control_byte_in_a_host_is_refused() {
    let ground = Ground::new();
    for byte in [
        '\0', '\u{1}', '\t', '\u{b}', '\u{c}', '\r', '\u{1b}', '\u{7f}',
    ] {
        for host in [
            format!("a{byte}.allowed.test"),
            format!("denied.test{byte}.allowed.test"),
            format!("{byte}allowed.test"),
        ] {
            ground.refuses_host(&host, "malformed");
        }
    }
    ground.refuses_name("allowed.test\n", "malformed");
    ground.refuses_name("allowed .test", "malformed");
    ground.is_untouched();
    ground.reaches("a.allowed.test");
}

// A04
#[test]
fn brackets_round_a_name_are_refused() {
    let ground = Ground::new();
    for host in [
        "[allowed.test]",
        "[a.allowed.test",
        "allowed.test]",
        "[]",
        "[127.0.0.1]",
        "[denied.test].allowed.test",
        "[::1].allowed.test",
    ] {
        ground.refuses_host(host, "malformed");
    }
    ground.is_untouched();
    ground.reaches("allowed.test");
}

// A05
#[test]
fn a_denied_name_is_denied_in_capitals_and_with_its_root_dot() {
    let ground = Ground::with(|spec, _| spec.deny("secret.allowed.test"));
    for host in [
        "secret.allowed.test",
        "SECRET.ALLOWED.TEST",
        "sEcReT.AlLoWeD.tEsT",
        "secret.allowed.test.",
        "Secret.allowed.TEST.",
    ] {
        ground.refuses_host(host, "host_denied");
    }
    ground.is_untouched();
    ground.reaches("OPEN.Allowed.Test.");
}

// A06
#[test]
fn letters_and_dots_of_other_alphabets_are_not_folded_into_a_host() {
    let ground = Ground::new();
    for host in [
        "\u{ff41}llowed.test",
        "allowed\u{3002}test",
        "allowed\u{ff0e}test",
        "allowed\u{ff61}test",
        "denied.test\u{2024}allowed.test",
        "\u{430}llowed.test",
        "allowed.te\u{df}t",
        "a\u{ad}llowed.test",
        "allowed.test\u{200b}",
        "\u{24d0}llowed.test",
        "b\u{fc}cher.allowed.test",
    ] {
        ground.refuses_host(host, "malformed");
    }
    ground.is_untouched();
    ground.reaches("xn--bcher-kva.allowed.test");
}

// A08
#[test]
fn an_international_label_that_is_not_canonical_is_refused() {
    let ground = Ground::new();
    for host in [
        "XN--BCHER-KVA.allowed.test",
        "Xn--bcher-kva.allowed.test",
        "xn--bcher-KVA.allowed.test",
        "xn--.allowed.test",
        "xn--allowed-.test",
        "xn--a.allowed.test",
        "xn--99999999999.allowed.test",
        "xn--allowed.test",
        "xn--xn--bcher-kva-.allowed.test",
    ] {
        ground.refuses_host(host, "malformed");
    }
    ground.is_untouched();
    ground.reaches("xn--bcher-kva.allowed.test");
}

// A09
#[test]
fn user_information_is_refused_on_either_side_of_the_at() {
    let ground = Ground::new();
    let at = ground.allowed();
    for host in [
        "user@allowed.test",
        "user:password@allowed.test",
        "allowed.test@denied.test",
        "allowed.test:80@denied.test",
        "denied.test@allowed.test",
        "@allowed.test",
        "a@b@allowed.test",
        "denied.test%40allowed.test",
    ] {
        ground.refuses_host(host, "malformed");
    }
    let host = format!("GET http://{at}/ HTTP/1.1\r\nHost: u@{at}\r\n\r\n");
    ground.refuses("in Host alone", &host, 400, "malformed");
    ground.is_untouched();
    ground.reaches("allowed.test");
}

// A10
#[test]
fn a_query_or_a_fragment_does_not_move_the_end_of_the_host() {
    let ground = Ground::new();
    let (at, port) = (ground.allowed(), ground.port());
    for target in [
        format!("http://denied.test#@{at}/"),
        format!("http://denied.test?@{at}/"),
        format!("http://denied.test/@{at}/"),
        format!("http://denied.test\\@{at}/"),
        format!("http://denied.test;@{at}/"),
        format!("http://{at}#.denied.test/"),
        format!("http://{at}\\.denied.test/"),
        format!("http:///{at}/"),
        format!("http:{at}/"),
        format!("//{at}/"),
        format!("http://denied.test:{port}#.allowed.test/"),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: {at}\r\n\r\n");
        ground.refuses("target", &request, 400, "malformed");
    }
    for target in [
        format!("{at}?x"),
        format!("{at}#x"),
        format!("{at}/x"),
        format!("denied.test?.allowed.test:{port}"),
        format!("denied.test#.allowed.test:{port}"),
        format!("denied.test/.allowed.test:{port}"),
    ] {
        let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {at}\r\n\r\n");
        ground.refuses("CONNECT", &request, 400, "malformed");
    }
    // Read as what it is, and denied as such.
    let request = "GET http://denied.test?.allowed.test/ HTTP/1.1\r\nHost: denied.test\r\n\r\n";
    ground.refuses(
        "a query right behind the host",
        request,
        403,
        "host_not_allowed",
    );
    ground.is_untouched();
    // The twin: a query that has all of it.
    let mut client = Raw::open(ground.gate.http);
    client.send(format!(
        "GET http://{at}?@denied.test/ HTTP/1.1\r\nHost: {at}\r\n\r\n"
    ));
    let seen = client.response().text();
    assert!(seen.starts_with("GET /?@denied.test/ HTTP/1.1"), "{seen}");
    // Within TLS as well, what the origin gets is the path that was judged.
    let scene = Scene::new();
    let target = format!("GET https://{}?@denied.test/", scene.target());
    assert_eq!(Tls::open(&scene).ask(&target, HOST, "").status(), 200);
    assert_eq!(scene.origin.seen()[0].path, "/?@denied.test/");
}

// A12
#[test]
fn a_host_is_not_percent_decoded() {
    let ground = Ground::new();
    for host in [
        "allowed%2etest",
        "%61llowed.test",
        "denied.test%00.allowed.test",
        "denied.test%2f.allowed.test",
        "denied.test%23.allowed.test",
        "%5b::1%5d",
        "127%2e0%2e0%2e1",
        "allowed.test%",
    ] {
        ground.refuses_host(host, "malformed");
    }
    ground.is_untouched();
    ground.reaches("allowed.test");
}

// A13, A14
#[test]
fn target_and_host_field_name_one_destination() {
    let ground = Ground::new();
    let (at, port) = (ground.allowed(), ground.port());
    let denied = format!("denied.test:{port}");
    for (target, host) in [
        (&at, &denied),
        (&denied, &at),
        (&at, &"allowed.test".to_owned()),
        (&at, &format!("{at}, {denied}")),
        (&at, &format!("{at} {denied}")),
        (&at, &String::new()),
    ] {
        for request in [
            format!("GET http://{target}/ HTTP/1.1\r\nHost: {host}\r\n\r\n"),
            format!("CONNECT {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"),
        ] {
            // A CONNECT may name the host without its port.
            if request.contains("CONNECT") && host == "allowed.test" {
                continue;
            }
            ground.refuses("two destinations", &request, 400, "malformed");
        }
    }
    let both = format!("GET http://{at}/ HTTP/1.1\r\nHost: {at}\r\nHost: {denied}\r\n\r\n");
    ground.refuses("two Host fields", &both, 400, "malformed");
    // A field that says the same to some frameworks does not choose the destination.
    let request = format!(
        "GET http://{denied}/ HTTP/1.1\r\nHost: {denied}\r\nX-Forwarded-Host: {at}\r\n\r\n"
    );
    ground.refuses("denied in both", &request, 403, "host_not_allowed");
    ground.is_untouched();
    ground.reaches("allowed.test");
    assert!(!ground.origin.log.text().contains("denied.test"));
}

// A16
#[test]
fn the_second_request_of_a_connection_is_judged_for_its_own_host() {
    let ground = Ground::new();
    let (at, denied) = (ground.allowed(), format!("denied.test:{}", ground.port()));
    let request = |at: &str| format!("GET http://{at}/ HTTP/1.1\r\nHost: {at}\r\n\r\n");
    let mut client = Raw::open(ground.gate.http);
    assert_eq!(client.send(request(&at)).response().status(), 200);
    let refused = client.send(request(&denied)).response();
    assert_eq!(refused.denied(), "host_not_allowed");
    assert_eq!(client.send(request(&at)).response().status(), 200);
    assert!(!ground.origin.log.text().contains("denied.test"));
    assert!(ground.dns.asked().iter().all(|name| name == "allowed.test"));
}

// A17
#[test]
fn a_request_as_to_a_server_is_none_for_a_proxy() {
    let ground = Ground::new();
    let at = ground.allowed();
    for target in ["/", "/x", "*", "//allowed.test/", "?x", &at, "allowed.test"] {
        for method in ["GET", "POST", "OPTIONS"] {
            let request = format!("{method} {target} HTTP/1.1\r\nHost: {at}\r\n\r\n");
            ground.refuses("origin-form", &request, 400, "malformed");
        }
    }
    ground.is_untouched();
    ground.reaches("allowed.test");
}

// A18
#[test]
fn a_tunnel_names_a_port_and_only_a_listed_one_is_opened() {
    let ground = Ground::new();
    let port = ground.port();
    let connect = |target: &str| format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
    for target in [
        "allowed.test".to_owned(),
        "allowed.test:".to_owned(),
        "allowed.test:0".to_owned(),
        "allowed.test:65536".to_owned(),
        format!("allowed.test:{}", 65536 + u32::from(port)),
        format!("allowed.test:+{port}"),
        format!("allowed.test:-{port}"),
        format!("allowed.test:0{port}"),
        format!("allowed.test:{port}:{port}"),
        format!("allowed.test:{port},22"),
        format!("allowed.test:0x{port:x}"),
        "allowed.test:http".to_owned(),
    ] {
        ground.refuses("port", &connect(&target), 400, "malformed");
    }
    for other in [22, 25, 53, 80, 443, 853, 3128, 6379, 65535] {
        let target = format!("allowed.test:{other}");
        ground.refuses("port", &connect(&target), 403, "port_not_allowed");
        assert_eq!(
            Raw::open(ground.gate.socks).socks5("allowed.test", other),
            2
        );
    }
    ground.is_untouched();
    ground.reaches("allowed.test");
}

// A20
#[test]
fn a_wildcard_reaches_what_is_documented_and_no_further() {
    for (pattern, reached, refused) in [
        (
            "*.allowed.example",
            &[
                "a.allowed.example",
                "A.Allowed.Example.",
                "a.b.allowed.example",
            ][..],
            &[
                "allowed.example",
                "xallowed.example",
                "allowed.example.evil.test",
                "a.allowed.example.evil.test",
                "a-allowed.example",
            ][..],
        ),
        (
            "**.allowed.example",
            &[
                "allowed.example",
                "a.allowed.example",
                "a.b.allowed.example",
            ],
            &[
                "xallowed.example",
                "allowed.example.evil.test",
                "a.xallowed.example",
                "example",
            ],
        ),
        (
            "allowed.example",
            &["allowed.example"],
            &[
                "a.allowed.example",
                "xallowed.example",
                "allowed.example.test",
            ],
        ),
    ] {
        let ground = Ground::with(|spec, port| spec.allow(pattern, &[port]));
        for host in refused {
            ground.refuses_host(host, "host_not_allowed");
        }
        ground.is_untouched();
        for host in reached {
            ground.reaches(host);
        }
    }
}

// A21
#[test]
fn a_pattern_over_names_that_anybody_can_register_is_none() {
    for pattern in [
        "*.com",
        "**.com",
        "*.co.uk",
        "**.CO.UK",
        "*.github.io",
        "**.github.io.",
        "*.ck",
        "*.s3.amazonaws.com",
        "*.*",
        "*.*.com",
        "a*.com",
        "*",
    ] {
        let read = HostPattern::parse(pattern);
        // Everything can only be said outright.
        assert_eq!(read.is_ok(), pattern == "*", "{pattern}: {read:?}");
    }
    for pattern in ["*.example.com", "**.someone.github.io", "*.internal"] {
        assert!(HostPattern::parse(pattern).is_ok(), "{pattern}");
    }
}

// A22
#[test]
fn a_host_without_labels_or_with_too_long_ones_is_refused() {
    let ground = Ground::new();
    let long = "x".repeat(63);
    let name = format!("{long}.{long}.{long}.{}.allowed.test", "x".repeat(48));
    assert_eq!(name.len(), 253);
    for host in [
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        ".allowed.test".to_owned(),
        "a..allowed.test".to_owned(),
        "allowed.test..".to_owned(),
        format!("x{long}.allowed.test"),
        format!("-{}.allowed.test", "x".repeat(9)),
        format!("{}-.allowed.test", "x".repeat(9)),
        name.replacen("x.allowed", "xx.allowed", 1),
    ] {
        ground.refuses_host(&host, "malformed");
    }
    let endless = format!("{}allowed.test", "a.".repeat(4000));
    let request = format!("GET http://{endless}/ HTTP/1.1\r\nHost: {endless}\r\n\r\n");
    ground.refuses("8 KB of host", &request, 400, "malformed");
    ground.is_untouched();
    ground.reaches(&name);
}

// A24
#[test]
fn an_address_that_is_sent_as_a_name_is_not_resolved() {
    let ground = Ground::with(|spec, port| spec.allow("127.0.0.1", &[port]));
    for name in [
        "127.0.0.1",
        "127.0.0.1.",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "127.1",
        "017700000001",
        "0177.0.0.1",
        "::1",
        "[::1]",
        "::ffff:127.0.0.1",
        "allowed.test.1",
        "allowed.test.0x1",
    ] {
        ground.refuses_name(name, "malformed");
    }
    ground.is_untouched();
    // The twin: the same address as an address, and a name as a name.
    let mut client = Raw::open(ground.gate.socks);
    let port = ground.port().to_be_bytes();
    client.send([&[5, 1, 0, 5, 1, 0, 1, 127, 0, 0, 1][..], &port].concat());
    assert_eq!(client.exactly(12)[..4], [5, 0, 5, 0]);
    ground.reaches("allowed.test");
}

// A25
#[test]
fn a_name_of_one_label_is_not_completed_with_a_search_domain() {
    let ground = Ground::with(|spec, port| spec.allow("*", &[port]));
    for host in ["allowed", "intranet", "wpad", "LOCALHOST", "metadata."] {
        ground.refuses_host(host, "host_not_allowed");
    }
    ground.is_untouched();
    ground.reaches("a.example");
    assert!(ground.dns.asked().iter().all(|name| name == "a.example"));
}
