//! What the running gate may still do, asked of the kernel.

use std::fs;

use crate::client::{Raw, get};
use crate::dns_stub::DnsStub;
use crate::test_gate::spec;
use crate::upstream::Origin;

#[test]
fn a_serving_gate_has_no_capability_no_new_privileges_and_a_seccomp_filter() {
    let origin = Origin::echo();
    let dns = DnsStub::constant(origin.address.ip());
    let gate = spec()
        .allow("a.test", &[origin.port()])
        .name_server(dns.address)
        .start();
    let status = fs::read_to_string(format!("/proc/{}/status", gate.child.id())).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim_start_matches(':').trim().to_owned()
    };
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!(field("NoNewPrivs"), "1");
    assert_eq!(field("Seccomp"), "2");
    assert_eq!(field("Threads"), "1");
    // The twin: confined as it is, it resolves, dials and relays.
    let authority = format!("a.test:{}", origin.port());
    assert_eq!(get(gate.http, &authority, "/").status(), 200);
    assert_eq!(Raw::open(gate.socks).socks5("a.test", origin.port()), 0);
}

#[test]
fn the_descriptor_limit_fits_the_limit_of_connections() {
    let gate = spec().limits(|limits| limits.connections = 1000).start();
    let limits = fs::read_to_string(format!("/proc/{}/limits", gate.child.id())).unwrap();
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .unwrap();
    let soft: u64 = files.split_whitespace().nth(3).unwrap().parse().unwrap();
    assert!(soft >= 6_000, "{files}");
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    assert!(core.contains(" 0 "), "{core}");
}

#[test]
fn an_idle_gate_holds_only_the_descriptors_it_was_given_and_its_event_loop() {
    let gate = spec().start();
    let mut kinds: Vec<_> = fs::read_dir(format!("/proc/{}/fd", gate.child.id()))
        .unwrap()
        .map(|entry| fs::read_link(entry.unwrap().path()).unwrap())
        .map(|target| {
            target
                .to_str()
                .unwrap()
                .split(':')
                .next()
                .unwrap()
                .to_owned()
        })
        .collect();
    kinds.retain(|kind| kind != "pipe" && !kind.starts_with('/'));
    kinds.sort();
    kinds.dedup();
    assert_eq!(kinds, ["anon_inode", "socket"]);
}
