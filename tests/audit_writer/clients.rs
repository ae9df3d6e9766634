//! What the writer takes from its clients and what it refuses.

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;

use portcullis::audit::folder::file_name;
use portcullis::audit::record::MAX_RECORD;
use portcullis::audit::verify::State;
use portcullis::audit::{AuditEvent, Counted};
use portcullis::ids::ConnId;
use portcullis::policy::{BudgetAction, BudgetKind, Durability, Resource, Transport};
use portcullis::wire::audit::{Append, AuditReply, append};
use portcullis::wire::{Channel, WireError};

use super::support::{Writer, closed, decided, ended, events, failed, report, started, whole};

#[test]
fn records_of_both_channels_are_acknowledged_in_order_and_verify() {
    for durability in [Durability::Batch, Durability::Each] {
        let folder = tempfile::tempdir().unwrap();
        let writer = Writer::start(folder.path(), durability);
        assert_eq!(append(&writer.session, 7, started(&["true"])).unwrap(), 1);
        assert_eq!(append(&writer.gate, 1, decided(1)).unwrap(), 2);
        assert_eq!(append(&writer.gate, 2, closed(1)).unwrap(), 3);
        assert_eq!(append(&writer.session, 8, ended()).unwrap(), 4);
        let (folder, id) = (folder.path(), writer.id);
        let (status, report) = writer.finish();
        assert_eq!(status.code(), Some(0));
        whole(id, 4, State::Complete, &report);
        assert_eq!(
            events(folder, id),
            [started(&["true"]), decided(1), closed(1), ended()]
        );
    }
}

#[test]
fn a_record_is_in_the_file_before_it_is_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let writer = Writer::start(folder.path(), Durability::Batch);
    for conn in 1..=100 {
        let seq = append(&writer.gate, conn, decided(conn)).unwrap();
        whole(
            writer.id,
            seq,
            State::Running,
            &report(folder.path(), writer.id),
        );
    }
    whole(writer.id, 101, State::Complete, &writer.finish().1);
}

#[test]
fn both_channels_at_once_keep_their_own_order_in_one_chain() {
    let folder = tempfile::tempdir().unwrap();
    let writer = Writer::start(folder.path(), Durability::Batch);
    std::thread::scope(|scope| {
        scope.spawn(|| (1..=3000).for_each(|id| send(&writer.gate, id, decided(id))));
        scope.spawn(|| (1..=300).for_each(|id| send(&writer.session, id, started(&["x"]))));
        let mut seqs = Vec::new();
        for (channel, count) in [(&writer.session, 300), (&writer.gate, 3000)] {
            let of_channel: Vec<u64> = (1..=count).map(|id| recorded(channel, id)).collect();
            assert!(of_channel.is_sorted());
            seqs.extend(of_channel);
        }
        seqs.sort_unstable();
        assert_eq!(seqs, (1..=3300).collect::<Vec<u64>>());
    });
    append(&writer.session, 0, ended()).unwrap();
    whole(writer.id, 3301, State::Complete, &writer.finish().1);
}

fn send(channel: &Channel, id: u64, event: AuditEvent) {
    channel.send(&Append { id, event }).unwrap();
}

fn recorded(channel: &Channel, id: u64) -> u64 {
    match channel.recv().unwrap() {
        AuditReply::Recorded { id: answered, seq } if answered == id => seq,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_gate_can_neither_end_nor_start_a_session() {
    for event in [ended(), started(&["forged"])] {
        let folder = tempfile::tempdir().unwrap();
        let writer = Writer::start(folder.path(), Durability::Batch);
        append(&writer.gate, 1, decided(1)).unwrap();
        let error = failed(append(&writer.gate, 2, event));
        assert!(error.contains("is not for the gate to report"), "{error}");
        // It is cut off; the session goes on.
        assert!(matches!(
            writer.gate.recv::<AuditReply>(),
            Err(WireError::Closed)
        ));
        append(&writer.session, 1, ended()).unwrap();
        whole(writer.id, 2, State::Complete, &writer.finish().1);
    }
}

#[test]
fn limits_of_time_are_for_the_session_to_report_and_all_others_for_the_gate() {
    let limit = |what: Counted| AuditEvent::LimitHit {
        what,
        host: None,
        used: 2,
        max: 1,
        action: BudgetAction::Kill.into(),
    };
    let folder = tempfile::tempdir().unwrap();
    let writer = Writer::start(folder.path(), Durability::Batch);
    append(&writer.session, 1, limit(BudgetKind::TotalTime.into())).unwrap();
    append(&writer.gate, 1, limit(BudgetKind::BytesUp.into())).unwrap();
    let error = failed(append(
        &writer.session,
        2,
        limit(BudgetKind::BytesUp.into()),
    ));
    assert_eq!(
        error,
        "audit log: limit.hit is not for the session to report"
    );
    let error = failed(append(&writer.gate, 2, limit(BudgetKind::IdleTime.into())));
    assert_eq!(error, "audit log: limit.hit is not for the gate to report");
    append(&writer.session, 3, limit(Resource::Memory.into())).unwrap();
    append(&writer.session, 4, ended()).unwrap();
    whole(writer.id, 4, State::Complete, &writer.finish().1);
}

#[test]
fn a_session_cannot_report_traffic() {
    let folder = tempfile::tempdir().unwrap();
    let writer = Writer::start(folder.path(), Durability::Batch);
    let error = failed(append(&writer.session, 1, decided(1)));
    assert_eq!(
        error,
        "audit log: egress.decided is not for the session to report"
    );
    append(&writer.session, 2, ended()).unwrap();
    whole(writer.id, 1, State::Complete, &writer.finish().1);
}

#[test]
fn a_gate_that_sends_no_frames_is_cut_off_and_nothing_is_written() {
    // With a body a frame may be longer.
    let oversized = [65_537_u32.to_le_bytes().as_slice(), br#"{"id":1,"#].concat();
    let oversized_body = (786_433_u32 * 2).to_le_bytes().to_vec();
    let huge = u32::MAX.to_le_bytes().to_vec();
    let no_json = [3_u32.to_le_bytes().as_slice(), b"???"].concat();
    let unknown_field = frame(
        r#"{"id":1,"event":{"event":"egress.dialed","conn":1,"address":"1.1.1.1:1","seq":9}}"#,
    );
    let chain_field = frame(
        r#"{"id":1,"seq":7,"event":{"event":"egress.dialed","conn":1,"address":"1.1.1.1:1"}}"#,
    );
    for bytes in [
        oversized,
        oversized_body,
        huge,
        no_json,
        unknown_field,
        chain_field,
    ] {
        let folder = tempfile::tempdir().unwrap();
        let Writer {
            child,
            id,
            folder: path,
            session,
            gate,
            supply,
            on_failure,
            segment_bytes,
        } = Writer::start(folder.path(), Durability::Batch);
        append(&gate, 1, decided(1)).unwrap();
        let mut gate: UnixStream = gate.into_stream();
        gate.write_all(&bytes).unwrap();
        let gate = Channel::new(gate);
        assert!(
            matches!(gate.recv::<AuditReply>(), Err(WireError::Closed)),
            "{bytes:?}"
        );
        append(&session, 1, ended()).unwrap();
        let writer = Writer {
            child,
            id,
            folder: path,
            session,
            gate,
            supply,
            on_failure,
            segment_bytes,
        };
        whole(id, 2, State::Complete, &writer.finish().1);
    }
}

fn frame(body: &str) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap();
    [length.to_le_bytes().as_slice(), body.as_bytes()].concat()
}

#[test]
fn a_gate_that_stalls_within_a_frame_or_reads_no_answers_holds_up_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let writer = Writer::start(folder.path(), Durability::Batch);
    let gate = writer.gate.into_stream();
    gate.set_nonblocking(true).unwrap();
    let request = portcullis::wire::frame::encode(&Append {
        id: 1,
        event: decided(1),
    })
    .unwrap();
    // Until the writer reads no more, because nobody takes its answers.
    let mut sent = 0;
    let mut idle = 0;
    while idle < 50 {
        if let Ok(more) = (&gate).write(&request[sent % request.len()..]) {
            (sent, idle) = (sent + more, 0);
        } else {
            idle += 1;
            // Each round trip of the session lets the writer's loop turn.
            append(&writer.session, 1, started(&["true"])).unwrap();
        }
    }
    append(&writer.session, 2, ended()).unwrap();
    let report = Writer {
        gate: Channel::new(gate),
        ..writer
    }
    .finish()
    .1;
    assert_eq!((report.state, report.broken), (State::Complete, None));
}

#[test]
fn the_longest_texts_make_a_record_that_reads_back() {
    let folder = tempfile::tempdir().unwrap();
    let writer = Writer::start(folder.path(), Durability::Batch);
    let noise = "\u{1}\"é\u{202e}".repeat(10_000);
    append(&writer.session, 1, started(&[noise.as_str(); 40])).unwrap();
    let refused = AuditEvent::EgressRefused {
        process: None,
        process_unknown: None,
        conn: ConnId(1),
        transport: Transport::Socks5,
        reason: portcullis::policy::DenyReason::Malformed,
        detail: "\u{1}".repeat(9000),
    };
    append(&writer.gate, 1, refused).unwrap();
    append(&writer.session, 2, ended()).unwrap();
    let id = writer.id;
    whole(id, 3, State::Complete, &writer.finish().1);
    let text = fs::read_to_string(folder.path().join(file_name(id))).unwrap();
    assert!(text.lines().all(|line| line.len() < MAX_RECORD));
    let AuditEvent::SessionStarted { argv, .. } = &events(folder.path(), id)[0] else {
        panic!()
    };
    assert_eq!(argv.last().unwrap(), "… 25 more arguments");
}
