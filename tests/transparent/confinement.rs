//! What transparent mode must not open: rights over the network, another resolver, datagrams, a neighbour.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};
use serde_json::json;

use crate::cli::EVERYONE;
use crate::scene::{Scene, assert_failed};
use crate::upstream::Origin;

const LOOPBACK: std::net::IpAddr = std::net::IpAddr::V4(Ipv4Addr::LOCALHOST);

#[test]
fn the_command_has_no_capability_and_cannot_change_routes_rules_or_addresses() {
    const TRY: &str = "grep Cap /proc/self/status; \
        for change in 'ip route add 192.0.2.0/24 dev lo' 'ip route del local default dev lo table local' \
        'ip -6 route flush table local' 'ip addr add 192.0.2.1/32 dev lo' 'ip link set lo down' \
        'ip rule add from all lookup main' 'nft flush ruleset' 'nft delete table ip portcullis' \
        'unshare -Urn true' 'sysctl -qw net.ipv4.ip_forward=1'; \
        do $change 2>/dev/null && echo \"CHANGED: $change\"; done; ip route show table local";
    for who in EVERYONE {
        let scene = Scene::new(who, &[], &[]);
        let run = scene.run(&["sh", "-c", TRY]);
        let lines: Vec<&str> = run.stdout.lines().map(str::trim_end).collect();
        let (caps, rest) = lines.split_at(5);
        for line in caps {
            assert!(line.ends_with("\t0000000000000000"), "{who:?} {run:?}");
        }
        assert_eq!(
            rest,
            [
                "local default dev lo proto static scope host src 198.18.0.1",
                "local 127.0.0.0/8 dev lo proto kernel scope host src 127.0.0.1",
                "local 127.0.0.1 dev lo proto kernel scope host src 127.0.0.1",
                "broadcast 127.255.255.255 dev lo proto kernel scope link src 127.0.0.1",
                "local 198.18.0.1 dev lo proto kernel scope host src 198.18.0.1",
                "unreachable 224.0.0.0/4 proto static",
            ],
            "{who:?} {run:?}"
        );
        let words = ["Operation not permitted", "not permitted"];
        let change = scene.run(&["ip", "route", "add", "192.0.2.0/24", "dev", "lo"]);
        assert!(
            words.iter().any(|word| change.stderr.contains(word)),
            "{change:?}"
        );
    }
}

// C04, C05, C10, G02
#[test]
fn other_resolvers_datagrams_and_icmp_fail_at_once() {
    for who in EVERYONE {
        let scene = Scene::new(who, &[], &[("good.test", 443, "")]);
        let answers = scene.act(&json!([
            // DNS elsewhere, QUIC, and both over IPv6.
            ["udp", "192.0.2.53", 53, "00"],
            ["udp", "192.0.2.1", 443, "00"],
            ["udp", "2001:db8::53", 53, "00"],
            ["udp", "198.18.1.0", 443, "00"],
            // mDNS, LLMNR.
            ["udp", "224.0.0.251", 5353, "00"],
            ["udp", "224.0.0.252", 5355, "00"],
            ["icmp", "SOCK_RAW"],
            ["icmp", "SOCK_DGRAM"],
            // DNS over TCP and over TLS.
            ["tcp", "192.0.2.53", 53, "x"],
            ["tcp", "192.0.2.53", 853, "x"],
        ]));
        for answer in &answers[..4] {
            assert_failed(answer, "ECONNREFUSED");
        }
        for answer in &answers[4..6] {
            assert_failed(answer, "EHOSTUNREACH");
        }
        for answer in &answers[6..8] {
            assert_failed(answer, "EPERM");
        }
        for answer in &answers[8..] {
            assert_failed(answer, "ECONNRESET");
        }
        assert_eq!(
            scene.decisions(),
            [
                "deny transparent 192.0.2.53:53 host_not_allowed",
                "deny transparent 192.0.2.53:853 host_not_allowed",
            ]
        );
        assert_eq!(scene.names.asked(), Vec::<String>::new());
    }
}

#[test]
fn loopback_stays_the_jails_own_and_the_listener_itself_leads_nowhere() {
    const SERVE: &str = "import socket\n\
        server = socket.create_server(('127.0.0.1', 4000))\n\
        client = socket.create_connection(('127.0.0.1', 4000))\n\
        peer, _ = server.accept()\n\
        peer.sendall(b'own')\n\
        print(client.recv(3).decode())\n\
        ports = [int(line.split()[1].split(':')[1], 16) for line in open('/proc/net/tcp').readlines()[1:]\n\
                 if line.split()[1].startswith('0100007F') and line.split()[3] == '0A']\n\
        for port in set(ports) - {53, 3128, 8081, 4000}:\n\
        \x20   try: print(socket.create_connection(('127.0.0.1', port), timeout=30).recv(1))\n\
        \x20   except OSError as error: print(error.strerror)\n";
    for who in EVERYONE {
        let scene = Scene::new(who, &[], &[]);
        let run = scene.run(&["/usr/bin/python3", "-c", SERVE]);
        assert_eq!(
            run.stdout, "own\nConnection reset by peer\n",
            "{who:?} {run:?}"
        );
        assert_eq!(scene.decisions(), Vec::<String>::new());
        let refused = scene.install.events("egress.refused");
        assert_eq!(
            refused[0]["detail"],
            "a connection to the gate's own listener"
        );
    }
}

// C14, G08
#[test]
fn an_address_that_stands_for_a_name_in_one_session_stands_for_nothing_in_another() {
    for who in EVERYONE {
        let origin = Origin::echo_bytes();
        let port = origin.port();
        let scene = Scene::new(who, &[("good.test", LOOPBACK)], &[("good.test", port, "")]);
        let wait = "getent ahostsv4 good.test | head -1 && touch asked; \
                    until [ -e go ]; do sleep 0.02; done";
        let run = ["run", "-p", &scene.profile, "--", "sh", "-c", wait];
        let mut first = scene.install.command(run);
        let mut first = first.stdout(Stdio::null()).spawn().unwrap();
        until_there(&scene.install.path("work/asked"));
        let answers = scene.act(&json!([["tcp", "198.18.1.0", port, "hello"]]));
        scene.install.write("work/go", "");
        assert!(first.wait().unwrap().success());
        assert_failed(&answers[0], "ECONNRESET");
        let expected = format!("deny transparent 198.18.1.0:{port} host_not_allowed");
        assert_eq!(scene.decisions(), [expected]);
        let twin = scene.act(&json!([
            ["resolve_v4", "good.test"],
            ["tcp", "198.18.1.0", port, "hello"],
        ]));
        assert_eq!(twin[1]["said"], "hello", "{who:?}");
    }
}

fn until_there(path: &Path) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while !path.exists() {
        assert!(Instant::now() < deadline, "{}", path.display());
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_kernel_without_nftables_does_not_start_the_session_and_says_what_to_do() {
    for who in EVERYONE {
        let scene = Scene::new(who, &[], &[]);
        let no_nftables = [(0, libc::AF_NETLINK), (2, libc::NETLINK_NETFILTER)];
        let run = without(&no_nftables, libc::EPROTONOSUPPORT, || {
            scene.run(&["touch", "ran"])
        });
        assert_eq!(
            run.complaint(),
            (
                Some(125),
                vec![
                    "portcullis: network.transparent: open an nftables socket: Protocol not supported (os \
                     error 93); it needs the kernel's nf_tables and nft_tproxy (`modprobe nft_tproxy`); or \
                     set network.transparent = false"
                ]
            ),
            "{who:?}"
        );
        assert!(!scene.install.path("work/ran").exists());
        assert_eq!(scene.run(&["touch", "ran"]).status, Some(0));
        assert!(scene.install.path("work/ran").exists());
    }
}

#[test]
fn a_host_without_ipv6_has_the_rest() {
    for who in EVERYONE {
        let origin = Origin::echo_bytes();
        let port = origin.port();
        let scene = Scene::new(who, &[("good.test", LOOPBACK)], &[("good.test", port, "")]);
        let acts = json!([
            ["resolve", "good.test"],
            ["tcp", "good.test", port, "hello"],
            ["tcp", "192.0.2.1", port, "hello"],
        ]);
        let no_ipv6 = [(0, libc::AF_INET6)];
        let answers = without(&no_ipv6, libc::EAFNOSUPPORT, || scene.act(&acts));
        assert_eq!(answers[0]["said"], "198.18.1.0", "{who:?}");
        assert_eq!(answers[1]["said"], "hello", "{who:?}");
        assert_failed(&answers[2], "ECONNRESET");
        let asked = scene.asked();
        assert_eq!(asked, ["good.test A address", "good.test AAAA no_address"]);
    }
}

/// Runs something as on a kernel where socket(2) with these arguments fails. On a thread of its own,
/// because the filter is for it and its children.
fn without<T: Send>(arguments: &[(u8, i32)], errno: i32, run: impl FnOnce() -> T + Send) -> T {
    let filter = no_socket(arguments, errno);
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            seccompiler::apply_filter(&filter).unwrap();
            run()
        });
        thread.join().unwrap()
    })
}

fn no_socket(arguments: &[(u8, i32)], errno: i32) -> BpfProgram {
    let is = |argument, value: i32| {
        let value = u64::from(value.cast_unsigned());
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value).unwrap()
    };
    let conditions = arguments
        .iter()
        .map(|(argument, value)| is(*argument, *value));
    let rule = SeccompRule::new(conditions.collect());
    let table = [(libc::SYS_socket, vec![rule.unwrap()])]
        .into_iter()
        .collect();
    let errno = SeccompAction::Errno(errno.cast_unsigned());
    let arch = std::env::consts::ARCH.try_into().unwrap();
    SeccompFilter::new(table, SeccompAction::Allow, errno, arch)
        .unwrap()
        .try_into()
        .unwrap()
}
