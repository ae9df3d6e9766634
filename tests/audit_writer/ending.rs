//! How a log ends: by the session, without it, and by force.

use std::io::Write;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use portcullis::audit::verify::{Flaw, State};
use portcullis::audit::{AuditEvent, Status};
use portcullis::policy::Durability;
use portcullis::wire::audit::{Append, AuditReply, append};
use portcullis::wire::{Channel, WireError};

use super::support::{Writer, closed, decided, ended, events, failed, report, started, whole};

#[test]
fn nothing_is_accepted_after_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let writer = Writer::start(folder.path(), Durability::Batch);
    append(&writer.session, 1, ended()).unwrap();
    for (channel, event) in [(&writer.gate, decided(1)), (&writer.session, ended())] {
        let error = failed(append(channel, 2, event));
        assert_eq!(
            error,
            "audit log: the session has ended; nothing more is recorded"
        );
    }
    whole(writer.id, 1, State::Complete, &writer.finish().1);
}

#[test]
fn a_gate_that_closes_early_is_no_event() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = Writer::start(folder.path(), Durability::Batch);
    writer.gate = Channel::pair().unwrap().0;
    append(&writer.session, 1, started(&["true"])).unwrap();
    append(&writer.session, 2, ended()).unwrap();
    whole(writer.id, 2, State::Complete, &writer.finish().1);
}

#[test]
fn a_lost_session_is_written_down_after_what_the_gate_still_reports() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = Writer::start(folder.path(), Durability::Batch);
    append(&writer.session, 1, started(&["true"])).unwrap();
    drop(writer.session);
    append(&writer.gate, 1, closed(1)).unwrap();
    drop(writer.gate);
    assert_eq!(writer.child.wait().unwrap().code(), Some(0));
    whole(
        writer.id,
        3,
        State::Complete,
        &report(folder.path(), writer.id),
    );
    let last = events(folder.path(), writer.id).pop().unwrap();
    assert!(matches!(
        last,
        AuditEvent::SessionEnded {
            status: Status::SessionLost,
            ..
        }
    ));
}

#[test]
fn a_gate_that_outlives_its_session_cannot_keep_the_log_open() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = Writer::start(folder.path(), Durability::Batch);
    drop(writer.session);
    assert_eq!(writer.child.wait().unwrap().code(), Some(0));
    assert!(matches!(
        writer.gate.recv::<AuditReply>(),
        Err(WireError::Closed)
    ));
    whole(
        writer.id,
        1,
        State::Complete,
        &report(folder.path(), writer.id),
    );
}

#[test]
fn a_broken_frame_of_the_session_counts_as_its_loss() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = Writer::start(folder.path(), Durability::Batch);
    let mut stream = writer.session.into_stream();
    stream.write_all(&u32::MAX.to_le_bytes()).unwrap();
    drop(writer.gate);
    assert_eq!(writer.child.wait().unwrap().code(), Some(0));
    whole(
        writer.id,
        1,
        State::Complete,
        &report(folder.path(), writer.id),
    );
}

#[test]
fn a_killed_writer_leaves_everything_it_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = Writer::start(folder.path(), Durability::Batch);
    let stream = writer.gate.into_stream();
    let (sender, gate) = (
        Channel::new(stream.try_clone().unwrap()),
        Channel::new(stream),
    );
    let flood = std::thread::spawn(move || {
        for id in 1.. {
            if sender
                .send(&Append {
                    id,
                    event: decided(id),
                })
                .is_err()
            {
                return;
            }
        }
    });
    let mut acknowledged = 0;
    while let Ok(AuditReply::Recorded { seq, .. }) = gate.recv() {
        acknowledged = seq;
        if seq == 500 {
            writer.child.kill().unwrap();
        }
    }
    drop(gate);
    flood.join().unwrap();
    writer.child.wait().unwrap();
    let report = report(folder.path(), writer.id);
    assert!(
        report.records >= acknowledged,
        "{report:?} after {acknowledged}"
    );
    assert_eq!(report.state, State::Open);
    let flaw = report.broken.map(|broken| broken.flaw);
    assert!(matches!(flaw, None | Some(Flaw::Truncated)), "{flaw:?}");
}

#[test]
fn no_signal_but_kill_ends_it() {
    let folder = tempfile::tempdir().unwrap();
    let writer = Writer::start(folder.path(), Durability::Batch);
    let signals = [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGPIPE,
        Signal::SIGQUIT,
        Signal::SIGUSR1,
        Signal::SIGALRM,
    ];
    for signal in signals {
        kill(writer.pid(), signal).unwrap();
    }
    append(&writer.session, 1, ended()).unwrap();
    let (status, report) = writer.finish();
    assert_eq!((status.code(), report.state), (Some(0), State::Complete));
}

#[test]
fn a_writer_that_was_stopped_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let writer = Writer::start(folder.path(), Durability::Batch);
    append(&writer.session, 1, started(&["true"])).unwrap();
    // It waits in ppoll(2) now, or soon; a wait that a stop interrupts must go on within the table.
    for _ in 0..20 {
        kill(writer.pid(), Signal::SIGSTOP).unwrap();
        let stopped = waitpid(writer.pid(), Some(WaitPidFlag::WUNTRACED)).unwrap();
        assert_eq!(stopped, WaitStatus::Stopped(writer.pid(), Signal::SIGSTOP));
        kill(writer.pid(), Signal::SIGCONT).unwrap();
    }
    append(&writer.session, 2, ended()).unwrap();
    whole(writer.id, 2, State::Complete, &writer.finish().1);
}
