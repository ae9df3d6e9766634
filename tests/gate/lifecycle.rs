//! Start, drain, end.

use portcullis::audit::{AuditEvent, EndedBy};
use portcullis::policy::{DenyReason, Transport};
use portcullis::wire::gate::{Counters, DeniedDestination, GateCommand, GateReply, GateSummary};
use portcullis::wire::{Channel, WireError};

use crate::client::{Raw, get};
use crate::test_gate::{TestGate, spec};
use crate::upstream::Origin;

#[test]
fn draining_closes_every_connection_records_it_and_reports() {
    let origin = Origin::echo_bytes();
    let gate = spec().reaches("a.test", origin.port()).start();
    let authority = format!("a.test:{}", origin.port());
    let mut tunnels: Vec<_> = (0..3).map(|_| Raw::open(gate.http)).collect();
    for (n, tunnel) in tunnels.iter_mut().enumerate() {
        let bytes = "x".repeat(n + 1);
        tunnel.connect(&authority).send(&bytes);
        assert_eq!(tunnel.exactly(n + 1), bytes.as_bytes());
    }
    for _ in 0..2 {
        get(gate.http, "b.test", "/");
    }
    get(gate.http, "a.test", "/");
    let idle = Raw::open(gate.http);
    let summary = gate.drain();
    let denied = |host: &str, reason, count| DeniedDestination {
        host: portcullis::policy::Host::parse(host).unwrap(),
        port: portcullis::policy::Port::HTTP,
        transport: Transport::Forward,
        method: None,
        path: None,
        reason,
        count,
    };
    let expected = GateSummary {
        allowed: 3,
        bytes_up: 6,
        bytes_down: 6,
        denied: vec![
            denied("b.test", DenyReason::HostNotAllowed, 2),
            denied("a.test", DenyReason::PortNotAllowed, 1),
        ],
        limits: Vec::new(),
    };
    assert_eq!(summary, expected);
    // Every end is on record before the report.
    let mut ends: Vec<_> = gate
        .audit
        .events()
        .into_iter()
        .filter_map(|event| match event {
            AuditEvent::EgressClosed {
                bytes_up, ended_by, ..
            } => Some((bytes_up, ended_by)),
            _ => None,
        })
        .collect();
    ends.sort_by_key(|end| end.0);
    assert_eq!(
        ends,
        [(1, EndedBy::Gate), (2, EndedBy::Gate), (3, EndedBy::Gate)]
    );
    for tunnel in &mut tunnels {
        assert_eq!(tunnel.rest(), b"");
    }
    drop(idle);
}

#[test]
fn counters_are_told_while_the_gate_serves() {
    let gate = spec().start();
    for _ in 0..2 {
        get(gate.http, "b.test", "/");
        gate.control().send(&GateCommand::Counters).unwrap();
    }
    let count = |count| GateSummary {
        denied: vec![DeniedDestination {
            host: portcullis::policy::Host::parse("b.test").unwrap(),
            port: portcullis::policy::Port::HTTP,
            transport: Transport::Forward,
            method: None,
            path: None,
            reason: DenyReason::HostNotAllowed,
            count,
        }],
        ..GateSummary::default()
    };
    let counters = |denied| Counters {
        denied,
        ..Counters::default()
    };
    assert_eq!(gate.reply(), GateReply::Counters(counters(1)));
    assert_eq!(gate.reply(), GateReply::Counters(counters(2)));
    assert_eq!(gate.drain(), count(2));
}

#[test]
fn a_closed_control_channel_ends_the_gate_at_once() {
    let origin = Origin::echo_bytes();
    let mut gate = spec().reaches("a.test", origin.port()).start();
    let mut tunnel = Raw::open(gate.http);
    tunnel.connect(&format!("a.test:{}", origin.port()));
    gate.control = None;
    assert_eq!(tunnel.rest(), b"");
    gate.child.wait().unwrap();
}

#[test]
fn a_wrong_number_of_listeners_is_told_in_one_line() {
    let (gate, _listeners) = TestGate::start_confined(spec());
    gate.control().send(&GateCommand::Serve).unwrap();
    let expected = "gate: 0 listening sockets came, the policy has 2".to_owned();
    assert_eq!(gate.reply(), GateReply::Failed(expected));
}

#[test]
fn a_session_that_ends_before_it_serves_leaves_no_gate_behind() {
    let (mut gate, _listeners) = TestGate::start_confined(spec());
    gate.control = None;
    assert!(!gate.child.wait().unwrap().success());
}

#[test]
fn a_gate_without_its_channels_ends_with_a_usage_error() {
    let status = std::process::Command::new(env!("CARGO_BIN_EXE_portcullis-gate"))
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(64));
}

#[test]
fn rubbish_on_the_control_channel_is_no_boot() {
    let (control, theirs) = Channel::pair().unwrap();
    let (_supply, supply_theirs) = Channel::pair().unwrap();
    let gate = env!("CARGO_BIN_EXE_portcullis-gate");
    let mut child = portcullis::sys::process::Spawn::new(std::path::Path::new(gate))
        .fd(theirs, 3)
        .fd(supply_theirs, 4)
        .start()
        .unwrap();
    control.send(&"hello").unwrap();
    let reply: Result<GateReply, WireError> = control.recv();
    let Ok(GateReply::Failed(line)) = reply else {
        panic!("{reply:?}");
    };
    assert!(
        line.starts_with("gate: control channel: unexpected message"),
        "{line}"
    );
    assert_eq!(child.wait().unwrap().code(), Some(125));
}
