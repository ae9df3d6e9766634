//! No way out but the gate's listeners.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixListener;

use nix::libc::{
    AF_ALG, AF_CAN, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_TIPC, AF_UNIX, AF_VSOCK, AF_XDP,
    EADDRINUSE, ECONNREFUSED, ENETUNREACH, EPERM, IPPROTO_ICMP, IPPROTO_SCTP, IPPROTO_TCP,
    IPPROTO_UDPLITE, NETLINK_KOBJECT_UEVENT, NETLINK_NETFILTER, NETLINK_ROUTE, SOCK_CLOEXEC,
    SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET, SOCK_STREAM, SYS_socket, TCP_ULP,
};

use crate::act::{Act, Answer};
use crate::bench::{Bench, CALLERS, Caller};

fn socket(domain: i32, kind: i32, protocol: i32) -> Act {
    let word = |value: i32| u64::from(value.cast_unsigned());
    Act::call(SYS_socket, &[word(domain), word(kind), word(protocol)])
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

// C04, G02
#[test]
fn there_is_no_route_to_anywhere() {
    let acts = [
        Act::ConnectTcp(address("192.0.2.1:80")),
        Act::SendUdp(address("192.0.2.1:53")),
        Act::ConnectTcp(address("169.254.169.254:80")),
        Act::ConnectTcp(address("[2001:db8::1]:80")),
        Act::SendUdp(address("[2001:db8::1]:53")),
    ];
    for caller in CALLERS {
        let answers = Bench::new(caller).inside(&acts);
        assert_eq!(answers, vec![Answer::Errno(ENETUNREACH); 5], "{caller:?}");
    }
}

#[test]
fn loopback_is_the_only_device() {
    for caller in CALLERS {
        let devices = Bench::new(caller).try_inside(Act::read("/proc/net/dev"));
        let Answer::Done(devices) = devices else {
            unreachable!("{devices:?}")
        };
        assert_eq!(devices.lines().count(), 3, "{devices}");
        assert!(devices.contains("lo:"), "{devices}");
    }
}

// G08
#[test]
fn loopback_of_the_host_is_another_one() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let act = Act::ConnectTcp(listener.local_addr().unwrap());
    for caller in CALLERS {
        let mut bench = Bench::new(caller);
        assert_eq!(
            bench.try_inside(act.clone()),
            Answer::Errno(ECONNREFUSED),
            "{caller:?}"
        );
        assert_eq!(bench.try_outside(act.clone()), Answer::done());
    }
}

#[test]
fn abstract_sockets_of_the_host_do_not_answer() {
    let name = format!("portcullis-test-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let _listener = UnixListener::bind_addr(&address).unwrap();
    for caller in CALLERS {
        let mut bench = Bench::new(caller);
        let act = Act::ConnectAbstract(name.clone());
        assert_eq!(
            bench.try_inside(act.clone()),
            Answer::Errno(ECONNREFUSED),
            "{caller:?}"
        );
        assert_eq!(bench.try_outside(act), Answer::done());
    }
}

#[test]
fn only_families_that_the_gate_understands_can_be_opened() {
    let refused = [
        socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP),
        socket(AF_INET, SOCK_RAW, IPPROTO_ICMP),
        socket(AF_INET, SOCK_RAW, 255),
        socket(AF_INET, SOCK_STREAM, 262),
        socket(AF_INET, SOCK_STREAM, IPPROTO_SCTP),
        socket(AF_INET, SOCK_SEQPACKET, IPPROTO_SCTP),
        socket(AF_INET, SOCK_DGRAM, IPPROTO_UDPLITE),
        socket(AF_INET, 6, 33),
        socket(AF_INET6, SOCK_DGRAM, 58),
        socket(AF_PACKET, SOCK_RAW, 0),
        socket(AF_VSOCK, SOCK_STREAM, 0),
        socket(AF_ALG, SOCK_SEQPACKET, 0),
        socket(AF_CAN, SOCK_RAW, 1),
        socket(AF_TIPC, SOCK_SEQPACKET, 0),
        socket(AF_XDP, SOCK_RAW, 0),
        socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER),
        socket(AF_NETLINK, SOCK_RAW, NETLINK_KOBJECT_UEVENT),
        socket(15, SOCK_RAW, 2),
        socket(21, SOCK_SEQPACKET, 0),
        socket(31, SOCK_RAW, 1),
        socket(41, SOCK_DGRAM, 0),
        socket(43, SOCK_STREAM, 0),
        socket(0, SOCK_STREAM, 0),
        // The kernel reads an int: bits above it change nothing.
        Act::call(SYS_socket, &[(1 << 32) | 0x11, 3, 0]),
    ];
    let allowed = [
        socket(AF_UNIX, SOCK_STREAM, 0),
        socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0),
        socket(AF_INET, SOCK_STREAM, IPPROTO_TCP),
        socket(AF_INET6, SOCK_DGRAM, 0),
        socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE),
    ];
    for caller in CALLERS {
        let mut bench = Bench::new(caller);
        for (act, answer) in refused.iter().zip(bench.inside(&refused)) {
            assert_eq!(answer, Answer::Errno(EPERM), "{caller:?} {act:?}");
        }
        assert_eq!(
            bench.inside(&allowed),
            vec![Answer::done(); 5],
            "{caller:?}"
        );
    }
    let twin = Bench::new(Caller::Root).outside(&refused);
    for at in [1, 9, 15] {
        assert_eq!(twin[at], Answer::done(), "{:?}", refused[at]);
    }
}

#[test]
fn the_jails_own_network_cannot_be_changed() {
    for caller in CALLERS {
        let mut bench = Bench::new(caller);
        for line in [
            "ip link add dum0 type dummy",
            "ip route add default dev lo",
            "ip addr add 192.0.2.9/32 dev lo",
            "ip link set lo down",
            "unshare -Urn true",
        ] {
            bench.order.argv = ["sh", "-c", line].map(Into::into).into();
            bench.order.env[0].1 = "/usr/sbin:/usr/bin:/sbin:/bin".to_owned();
            let (output, outcome) = bench.run();
            assert!(outcome.status != Some(0), "{caller:?} {line}: {output:?}");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(said.contains("not permitted"), "{caller:?} {line}: {said}");
        }
        bench.order.argv = ["ip", "route"].map(Into::into).into();
        assert_eq!(bench.run().1.status, Some(0), "{caller:?}");
    }
}

// B17
#[test]
fn socket_options_that_redirect_or_load_code_are_refused() {
    let acts = [
        Act::SetOption(nix::libc::SOL_SOCKET, nix::libc::SO_MARK, 1),
        Act::SetOption(nix::libc::SOL_IP, nix::libc::IP_TRANSPARENT, 1),
        Act::SetOption(IPPROTO_TCP, TCP_ULP, 0),
        Act::SetOption(IPPROTO_TCP, nix::libc::TCP_NODELAY, 1),
    ];
    for caller in CALLERS {
        let answers = Bench::new(caller).inside(&acts);
        let mut expected = vec![Answer::Errno(EPERM); 3];
        expected.push(Answer::done());
        assert_eq!(answers, expected, "{caller:?}");
    }
    let twin = Bench::new(Caller::Root).outside(&acts[..2]);
    assert_eq!(twin, [Answer::done(), Answer::done()]);
}

#[test]
fn the_gates_port_cannot_be_shared() {
    for caller in CALLERS {
        let mut bench = Bench::new(caller);
        bench.order.listen = vec![3128, 8081];
        let acts = ["127.0.0.1:3128", "127.0.0.1:8081", "127.0.0.1:8082"]
            .map(|at| Act::BindTcp(address(at)));
        let in_use = Answer::Errno(EADDRINUSE);
        assert_eq!(
            bench.inside(&acts),
            [in_use.clone(), in_use, Answer::done()],
            "{caller:?}"
        );
    }
}

#[test]
fn listeners_come_out_and_a_port_named_twice_is_refused() {
    for caller in CALLERS {
        let mut bench = Bench::new(caller);
        bench.order.argv = vec!["true".to_owned()];
        bench.order.listen = vec![3128, 8081];
        assert_eq!(bench.run().1.listeners, 2, "{caller:?}");
        bench.order.listen = vec![3128, 3128];
        let said = format!("{:?}", bench.run().1.report);
        assert!(said.contains("bind 127.0.0.1:3128"), "{said}");
        assert!(said.contains("network.socks_port"), "{said}");
    }
}
