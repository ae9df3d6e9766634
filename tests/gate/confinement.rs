//! What the running gate may still do, asked of the kernel.

use std::fs;

use portcullis::audit::AuditEvent;

use crate::client::{Raw, get};
use crate::dns_stub::DnsStub;
use crate::test_gate::{TestGate, spec};
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

/// What the gate's descriptors refer to, as `socket` or `pipe`, without the standard streams.
fn descriptors(gate: &TestGate) -> Vec<String> {
    let folder = format!("/proc/{}/fd", gate.child.id());
    let mut kinds = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let number: u32 = entry.file_name().to_str().unwrap().parse().unwrap();
        // A descriptor may be closed between the two looks.
        if let (3.., Ok(target)) = (number, fs::read_link(entry.path())) {
            let target = target.to_str().unwrap().to_owned();
            kinds.push(target.split(':').next().unwrap().to_owned());
        }
    }
    kinds.sort();
    kinds
}

#[test]
fn an_idle_gate_holds_only_the_descriptors_it_was_given_and_its_event_loop() {
    let gate = spec().start();
    let mut kinds = descriptors(&gate);
    kinds.dedup();
    // The file is what a gate leaves to the next; it has no name.
    assert_eq!(kinds, ["/memfd", "anon_inode", "socket"]);
}

#[test]
fn a_tunnel_has_pipes_only_once_it_has_moved_much() {
    let origin = Origin::echo_bytes();
    let gate = spec().reaches("a.test", origin.port()).start();
    let pipes = || {
        descriptors(&gate)
            .iter()
            .filter(|kind| *kind == "pipe")
            .count()
    };
    let mut client = Raw::open(gate.http);
    client.connect(&format!("a.test:{}", origin.port()));
    client.send("x");
    client.exactly(1);
    assert_eq!(pipes(), 0);
    for _ in 0..40 {
        client.send([7; 16 << 10]);
        client.exactly(16 << 10);
    }
    assert_eq!(pipes(), 4, "two ends for each direction");
    client.finish();
    client.rest();
    drop(client);
    let closed = |event: &AuditEvent| matches!(event, AuditEvent::EgressClosed { .. });
    gate.audit.wait_for_one("its end", closed);
    // They are empty, and the next tunnel's.
    let mut next = Raw::open(gate.http);
    next.connect(&format!("a.test:{}", origin.port()));
    for _ in 0..40 {
        next.send([8; 16 << 10]);
        assert_eq!(next.exactly(16 << 10), [8; 16 << 10]);
    }
    assert_eq!(pipes(), 4);
    drop(next);
    gate.drain();
}
