//! Names, and DNS by which something could leave.

use crate::client::{Raw, get};
use crate::ground::Ground;
use crate::inside::{H2, Tls};
use crate::scene::{HOST, Scene};

// C02
#[test]
fn a_name_that_carries_data_is_denied_before_anybody_is_asked() {
    let ground = Ground::with(|spec, _| spec.deny("*.secret.allowed.test"));
    let label = "6869646465".repeat(6);
    for (host, code) in [
        (format!("{label}.evil.test"), "host_not_allowed"),
        (format!("{label}.{label}.evil.test"), "host_not_allowed"),
        (format!("{label}.secret.allowed.test"), "host_denied"),
        (
            format!("{label}.allowed.test.evil.test"),
            "host_not_allowed",
        ),
        (format!("{label}.xallowed.test"), "host_not_allowed"),
        (format!("{label}.allowed.test:1@evil.test"), "malformed"),
    ] {
        ground.refuses_host(&host, code);
    }
    ground.is_untouched();
    ground.reaches(&format!("{label}.allowed.test"));
}

// C05
#[test]
fn dns_over_tls_is_a_port_like_any_other() {
    let ground = Ground::with(|spec, port| spec.allow("*", &[port, 443]));
    for host in ["dns.allowed.test", "one.one.one.one", "dns.google"] {
        let target = format!("{host}:853");
        let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
        ground.refuses("DoT", &request, 403, "port_not_allowed");
    }
    for address in [
        "1.1.1.1:853",
        "8.8.8.8:853",
        "[2606:4700:4700::1111]:853",
        "9.9.9.9:53",
    ] {
        let request = format!("CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n\r\n");
        ground.refuses("DoT by address", &request, 403, "host_not_allowed");
    }
    ground.is_untouched();
    ground.reaches("a.example");
}

// C06
#[test]
fn resolvers_that_speak_https_are_hosts_that_no_rule_allows() {
    let ground = Ground::new();
    for host in [
        "dns.google",
        "cloudflare-dns.com",
        "mozilla.cloudflare-dns.com",
        "dns.quad9.net",
        "1.1.1.1",
        "8.8.8.8",
        "[2606:4700:4700::1111]",
    ] {
        let target = format!("{host}:443");
        let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
        ground.refuses("DoH", &request, 403, "host_not_allowed");
    }
    ground.is_untouched();
    ground.reaches("allowed.test");
}

/// What marks a request of DNS over HTTPS (RFC 8484 section 4.1).
const DNS_MESSAGES: [&str; 5] = [
    "Accept: application/dns-message\r\n",
    "Accept: text/html, APPLICATION/DNS-MESSAGE;q=0.5\r\n",
    "Content-Type: application/dns-message\r\n",
    "Content-Type: Application/Dns-Message; charset=x\r\n",
    "Accept: application/oblivious-dns-message\r\n",
];

// C06
#[test]
fn a_question_of_dns_over_https_is_refused_wherever_the_gate_sees_it() {
    let ground = Ground::new();
    let at = ground.allowed();
    for field in DNS_MESSAGES {
        let request = format!("GET http://{at}/dns-query HTTP/1.1\r\nHost: {at}\r\n{field}\r\n");
        ground.refuses(field, &request, 400, "malformed");
    }
    ground.is_untouched();
    ground.reaches("allowed.test");

    let scene = Scene::new();
    for field in DNS_MESSAGES {
        let answer = Tls::open(&scene).ask("GET /dns-query", HOST, field);
        assert_eq!(answer.denied(), (400, "malformed".into()), "{field}");
    }
    assert!(scene.refusal().2.contains("DNS over HTTPS"));
    assert!(scene.origin_is_untouched());
    let accept = "Accept: text/html, application/dns-json-schema\r\n";
    let twin = Tls::open(&scene).ask("GET /dns-query", HOST, accept);
    assert_eq!(twin.status(), 200);
}

// C06
#[tokio::test]
async fn a_question_of_dns_over_https_is_refused_in_http2_as_well() {
    let scene = Scene::new();
    let mut client = H2::open(&scene).await;
    let asking = |request: hyper::http::request::Builder| {
        request
            .method("POST")
            .header("content-type", "application/dns-message")
    };
    let (status, body) = client.ask("/dns-query", asking, "x").await;
    assert_eq!((status, &body["code"]), (400, &"malformed".into()));
    assert!(scene.origin_is_untouched());
    assert_eq!(client.ask("/dns-query", |request| request, "").await.0, 200);
}

// C14
#[test]
fn an_address_that_a_name_had_is_not_allowed_by_the_name() {
    let ground = Ground::new();
    ground.reaches("allowed.test");
    let at = format!("127.0.0.1:{}", ground.port());
    assert_eq!(get(ground.gate.http, &at, "/").denied(), "host_not_allowed");
    let mut client = Raw::open(ground.gate.socks);
    client.send([5, 1, 0, 5, 1, 0, 1, 127, 0, 0, 1]);
    client.send(ground.port().to_be_bytes());
    assert_eq!(client.exactly(12)[..4], [5, 0, 5, 2]);
    assert_eq!(ground.origin.log.connections(), 3);
}
