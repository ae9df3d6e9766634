//! Something of the service dies in the middle of a turn, and the turn goes on.

use std::fs;

use serde_json::json;

use super::scene::{Served, Turn};
use crate::codex_install::{CodexVersion, VERSIONS};
use crate::scene::{Transport, judged, only_the_model};
use crate::service::OPERATOR;
use crate::terminal::until;

/// Has Codex work, does this while the model thinks about its second answer, and sees that each step was done once.
fn in_the_middle_of_a_turn(
    version: CodexVersion,
    transport: Transport,
    happens: impl FnOnce(&mut Served),
) {
    let script = json!([
        { "run": "echo first >> steps.txt" },
        { "run": "echo second >> steps.txt" },
        { "say": "done" },
    ]);
    let mut served = Served::new(version, transport, &script);
    served.stub.hold(1);
    let turn = Turn::begin(served.exec("model"));
    until("the model is asked", || served.stub.was_asked(1));
    happens(&mut served);
    served.stub.release(1);
    let run = turn.end();
    assert_eq!(run.status, Some(0), "{version:?} {transport:?}: {run:#?}");
    let steps = fs::read_to_string(served.workspace_file("steps.txt"));
    assert_eq!(steps.unwrap(), "first\nsecond\n");
    let records = served.records();
    assert_eq!(judged(&records), only_the_model(&served.stub));
    assert_eq!(records.last().unwrap()["event"], "session.ended");
    assert_eq!(served.count("gate.lost"), 0);
    served.assert_verified();
}

#[test]
fn a_turn_goes_on_while_the_daemon_is_killed_and_started_again() {
    for version in VERSIONS {
        for transport in [Transport::Sse, Transport::WebSocket] {
            in_the_middle_of_a_turn(version, transport, |served| {
                served.host.kill_daemon();
                served.host.restart_daemon();
                let listed = served.host.run(OPERATOR, &["ps", "--all"]);
                assert!(listed.stdout.contains("ada/"), "{listed:#?}");
            });
        }
    }
}

/// It tries again, or waits: nothing that it did is done twice.
#[test]
fn a_turn_goes_on_with_another_gate_or_audit_writer_when_one_is_killed() {
    for (program, event) in [
        ("portcullis-gate", "gate.restarted"),
        ("portcullis-audit", "log.resumed"),
    ] {
        for version in VERSIONS {
            for transport in [Transport::Sse, Transport::WebSocket] {
                in_the_middle_of_a_turn(version, transport, |served| {
                    served.host.kill(program);
                    until("another takes its place", || served.count(event) == 1);
                });
            }
        }
    }
}
