//! SOCKS5, its neighbours on the same port, and who may come in.

use portcullis::policy::DenyReason;

use crate::client::Raw;
use crate::ground::{Ground, denials};

// F01
#[test]
fn only_connect_is_carried_out_where_datagrams_are_off() {
    let ground = Ground::with(|spec, port| spec.allow("127.0.0.1", &[port]));
    for command in [0, 2, 3, 4, 0x7f, 0xff] {
        for address in [
            &[1, 127, 0, 0, 1][..],
            &[
                3, 12, b'a', b'l', b'l', b'o', b'w', b'e', b'd', b'.', b't', b'e', b's', b't',
            ],
            &[4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
        ] {
            let before = ground.gate.audit.events().len();
            let mut client = Raw::open(ground.gate.socks);
            client.send([5, 1, 0]);
            client.send([&[5, command, 0][..], address, &ground.port().to_be_bytes()].concat());
            assert_eq!(client.exactly(4)[..], [5, 0, 5, 7], "command {command}");
            let events = ground.gate.audit.events().split_off(before);
            assert_eq!(
                denials(&events),
                [DenyReason::Malformed],
                "command {command}"
            );
        }
    }
    ground.is_untouched();
    ground.reaches("allowed.test");
}

// F04, F05
#[test]
fn no_door_takes_another_doors_protocol() {
    let ground = Ground::with(|spec, port| spec.allow("127.0.0.1", &[port]));
    let [high, low] = ground.port().to_be_bytes();
    let at = ground.allowed();
    for bytes in [
        // SOCKS4, SOCKS4a.
        vec![4, 1, high, low, 127, 0, 0, 1, 0],
        [&[4, 1, high, low, 0, 0, 0, 1, 0][..], b"allowed.test\0"].concat(),
        format!("GET http://{at}/ HTTP/1.1\r\nHost: {at}\r\n\r\n").into_bytes(),
        format!("CONNECT {at} HTTP/1.1\r\nHost: {at}\r\n\r\n").into_bytes(),
        vec![22, 3, 1, 0, 5, 1, 0, 0, 1, 0],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        vec![0; 64],
        // A greeting that lists no method.
        vec![5, 0],
    ] {
        let before = ground.gate.audit.events().len();
        let answer = Raw::open(ground.gate.socks).send(&bytes).finish().rest();
        assert!(
            answer.is_empty() || answer == [5, 0xff],
            "{bytes:?}: {answer:?}"
        );
        let events = ground.gate.audit.events().split_off(before);
        assert_eq!(denials(&events), [DenyReason::Malformed], "{bytes:?}");
    }
    for bytes in [
        &[5_u8, 1, 0][..],
        &[4, 1, high, low, 127, 0, 0, 1, 0],
        &[22, 3, 1, 0, 5, 1, 0, 0, 1, 0],
        &[0, 0, 0],
    ] {
        let before = ground.gate.audit.events().len();
        let mut client = Raw::open(ground.gate.http);
        let answer = client.send(bytes).response();
        assert_eq!(
            (answer.status(), answer.denied().as_str()),
            (400, "malformed")
        );
        let events = ground.gate.audit.events().split_off(before);
        assert_eq!(denials(&events), [DenyReason::Malformed], "{bytes:?}");
    }
    ground.is_untouched();
    ground.reaches("allowed.test");
}

// F05
#[test]
fn what_is_sent_before_a_refusal_goes_nowhere_and_is_not_read_as_a_second_request() {
    let ground = Ground::new();
    let [high, low] = ground.port().to_be_bytes();
    let ask = |name: &str| {
        let length = u8::try_from(name.len()).unwrap();
        [&[5, 1, 0, 3, length][..], name.as_bytes(), &[high, low]].concat()
    };
    let at = ground.allowed();
    let http = format!("GET http://{at}/ HTTP/1.1\r\nHost: {at}\r\n\r\n");
    for early in [ask("allowed.test"), http.into_bytes()] {
        let mut client = Raw::open(ground.gate.socks);
        client.send([&[5, 1, 0][..], &ask("denied.test"), &early].concat());
        assert_eq!(client.rest(), [5, 0, 5, 2, 0, 1, 0, 0, 0, 0, 0, 0]);
    }
    ground.is_untouched();
    let mut twin = Raw::open(ground.gate.socks);
    twin.send([&[5, 1, 0][..], &ask("allowed.test")].concat());
    assert_eq!(twin.exactly(4)[..], [5, 0, 5, 0]);
}

// F06: no token is asked for, because the network namespace is one: the port cannot be reached from anywhere
// else (G08). A client that insists on proving who it is gets a no, on record.
#[test]
fn a_login_is_neither_needed_nor_taken() {
    let ground = Ground::new();
    for methods in [&[2_u8][..], &[1], &[1, 2, 3], &[0x80], &[0xff]] {
        let before = ground.gate.audit.events().len();
        let mut client = Raw::open(ground.gate.socks);
        client.send([&[5, u8::try_from(methods.len()).unwrap()], methods].concat());
        client.send([1, 5, b't', b'o', b'k', b'e', b'n', 1, b'x']);
        assert_eq!(client.rest(), [5, 0xff], "{methods:?}");
        let events = ground.gate.audit.events().split_off(before);
        assert_eq!(denials(&events), [DenyReason::Malformed], "{methods:?}");
    }
    ground.is_untouched();
    ground.reaches("allowed.test");
}
