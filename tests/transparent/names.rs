//! The name server of the jail: what it answers, what it records, and that it asks nobody.

use std::fmt::Write;
use std::net::Ipv4Addr;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};
use serde_json::{Value, json};

use crate::cli::EVERYONE;
use crate::scene::{Scene, assert_failed};
use crate::upstream::Origin;

const LOOPBACK: std::net::IpAddr = std::net::IpAddr::V4(Ipv4Addr::LOCALHOST);

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn bytes(hex: &str) -> Vec<u8> {
    hex.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn over_udp(message: &Message) -> Value {
    json!(["udp", "127.0.0.1", 53, hex(&message.to_vec().unwrap())])
}

fn over_tcp(message: &Message) -> Value {
    json!(["dns_tcp", hex(&message.to_vec().unwrap())])
}

fn told(answer: &Value) -> (ResponseCode, Vec<RData>) {
    let said = answer["said"]
        .as_str()
        .unwrap_or_else(|| unreachable!("{answer}"));
    let message = Message::from_vec(&bytes(said)).unwrap();
    assert_eq!(message.message_type, MessageType::Response);
    let data = message.answers.iter().map(|record| {
        assert_eq!(record.ttl, 60);
        record.data.clone()
    });
    (message.response_code, data.collect())
}

// C01
#[test]
fn only_addresses_of_names_that_a_rule_may_allow_are_answered_and_nobody_is_asked() {
    for who in EVERYONE {
        let scene = Scene::new(
            who,
            &[("good.test", LOOPBACK), ("bad.test", LOOPBACK)],
            &[("good.test", 443, ""), ("**.wild.test", 22, "tcp")],
        );
        let mut two = query("good.test.", RecordType::A);
        two.add_query(Query::query(
            Name::from_ascii("bad.test.").unwrap(),
            RecordType::A,
        ));
        let mut chaos = query("good.test.", RecordType::A);
        chaos.queries[0].set_query_class(DNSClass::CH);
        let mut notify = query("good.test.", RecordType::A);
        notify.metadata.op_code = OpCode::Notify;
        let refused = [
            query("bad.test.", RecordType::A),
            query("secret-data.bad.test.", RecordType::TXT),
            query("secret-data.good.test.", RecordType::A),
            query("good.test.", RecordType::TXT),
            query("good.test.", RecordType::HTTPS),
            query("good.test.", RecordType::SVCB),
            query("good.test.", RecordType::ANY),
            query("good.test.", RecordType::CNAME),
            query("7.2.0.192.in-addr.arpa.", RecordType::PTR),
            query("192.0.2.7.", RecordType::A),
            query(".", RecordType::NS),
            two,
            chaos,
            notify,
        ];
        let mut acts = vec![
            over_udp(&query("good.test.", RecordType::A)),
            over_tcp(&query("GOOD.test.", RecordType::A)),
            over_udp(&query("good.test.", RecordType::AAAA)),
            over_udp(&query("a.b.wild.test.", RecordType::A)),
            over_udp(&query("localhost.", RecordType::A)),
        ];
        acts.extend(refused.iter().map(over_udp));
        acts.extend(refused.iter().map(over_tcp));
        let answers = scene.act(&Value::Array(acts));
        let address = |text: &str| vec![RData::A(text.parse::<Ipv4Addr>().unwrap().into())];
        let v6: std::net::Ipv6Addr = "2001:2:0:1::".parse().unwrap();
        let ok = ResponseCode::NoError;
        assert_eq!(told(&answers[0]), (ok, address("198.18.1.0")), "{who:?}");
        assert_eq!(told(&answers[1]), (ok, address("198.18.1.0")));
        assert_eq!(told(&answers[2]), (ok, vec![RData::AAAA(v6.into())]));
        assert_eq!(told(&answers[3]), (ok, address("198.18.1.1")));
        assert_eq!(told(&answers[4]), (ok, address("127.0.0.1")));
        for answer in &answers[5..] {
            assert_eq!(told(answer), (ResponseCode::Refused, vec![]), "{who:?}");
        }
        assert_eq!(
            scene.asked(),
            [
                "good.test A address",
                "GOOD.test A address",
                "good.test AAAA address",
                "a.b.wild.test A address",
                "localhost A address",
                "bad.test A refused",
                "secret-data.bad.test TXT refused",
                "secret-data.good.test A refused",
                "good.test TXT refused",
                "good.test HTTPS refused",
                "good.test SVCB refused",
                "good.test ANY refused",
                "good.test CNAME refused",
                "7.2.0.192.in-addr.arpa PTR refused",
                "192.0.2.7 A refused",
                ". NS refused",
                "good.test A refused",
                "good.test CH A refused",
            ]
        );
        assert_eq!(scene.names.asked(), Vec::<String>::new(), "{who:?}");
    }
}

#[test]
fn garbage_is_called_malformed_and_what_is_no_query_is_not_answered() {
    for who in EVERYONE {
        let origin = Origin::echo_bytes();
        let scene = Scene::new(
            who,
            &[("good.test", LOOPBACK)],
            &[("good.test", origin.port(), "")],
        );
        let mut response = query("good.test.", RecordType::A);
        response.metadata.message_type = MessageType::Response;
        let mut cut = query("good.test.", RecordType::A).to_vec().unwrap();
        cut.truncate(15);
        let mut flags = query("x.test.", RecordType::A);
        flags.metadata.checking_disabled = true;
        let labels = [b"esc\x07aped".as_slice(), b"test"];
        flags.queries[0].set_name(Name::from_labels(labels).unwrap());
        let acts = json!([
            ["udp", "127.0.0.1", 53, hex(&cut)],
            ["dns_tcp", hex(b"no message")],
            over_tcp(&response),
            over_udp(&flags),
            // Still there.
            ["tcp", "good.test", origin.port(), "hello"],
        ]);
        let answers = scene.act(&acts);
        assert_eq!(
            told(&answers[0]),
            (ResponseCode::FormErr, vec![]),
            "{who:?}"
        );
        assert_eq!(answers[1]["said"], "");
        assert_eq!(answers[2]["said"], "");
        assert_eq!(told(&answers[3]), (ResponseCode::Refused, vec![]));
        assert_eq!(answers[4]["said"], "hello");
        let asked = scene.asked();
        assert_eq!(
            asked[..3],
            ["  malformed", "  nothing", "esc\\007aped.test A refused"]
        );
    }
}

// A25, C01
#[test]
fn libraries_resolve_what_is_allowed_and_fail_at_once_otherwise() {
    for who in EVERYONE {
        let scene = Scene::new(who, &[], &[("good.test", 443, "")]);
        let answers = scene.act(&json!([
            ["resolve", "good.test"],
            ["resolve_v4", "good.test"],
            ["resolve", "localhost"],
            ["resolve", "bad.test"],
            ["resolve", "single"],
        ]));
        assert_eq!(answers[0]["said"], "198.18.1.0 2001:2:0:1::", "{who:?}");
        assert_eq!(answers[1]["said"], "198.18.1.0", "{who:?}");
        assert!(answers[2]["said"].as_str().unwrap().contains("127.0.0.1"));
        assert_failed(&answers[3], "no such name");
        assert_failed(&answers[4], "no such name");
    }
}

#[test]
fn where_the_hosts_files_show_the_jail_still_asks_the_gate() {
    for who in EVERYONE {
        let mode = "[filesystem]\nmode = 'danger-full-access'\n";
        let scene = Scene::with(who, &[], &[("good.test", 443, "")], mode);
        let answers = scene.act(&json!([
            ["resolve_v4", "good.test"],
            ["resolve", "bad.test"]
        ]));
        assert_eq!(answers[0]["said"], "198.18.1.0", "{who:?}");
        assert_failed(&answers[1], "no such name");
    }
}

// C12
#[test]
fn a_flood_of_questions_is_bounded_on_record_and_ends() {
    const SENT: u64 = 20_000;
    for who in EVERYONE {
        let origin = Origin::echo_bytes();
        let port = origin.port();
        let scene = Scene::new(who, &[("good.test", LOOPBACK)], &[("good.test", port, "")]);
        let question = hex(&query("x.bad.test.", RecordType::A).to_vec().unwrap());
        let answers = scene.act(&json!([
            ["flood", question, SENT],
            ["flood", question, SENT],
            ["tcp", "good.test", port, "hello"],
        ]));
        assert_eq!(answers[2]["said"], "hello", "{who:?} {answers:?}");
        let asked = scene.install.events("dns.asked").len() as u64;
        let dropped = scene.install.events("dns.dropped");
        let counted: u64 = dropped.iter().map(|e| e["count"].as_u64().unwrap()).sum();
        // 1024 at once and 200 a second; the flood takes seconds at most.
        assert!((1024..8000).contains(&asked), "{asked}");
        assert!(
            counted > 0 && asked + counted <= 2 * SENT + 8,
            "{asked} {counted}"
        );
        assert!(dropped.len() < 60, "{}", dropped.len());
    }
}
