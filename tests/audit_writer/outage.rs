//! What becomes of records that the disk does not take, and what the log says of them afterwards.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use portcullis::audit::verify::State;
use portcullis::audit::{AuditEvent, LostBy};
use portcullis::policy::{Durability, OnFailure};
use portcullis::wire::Channel;
use portcullis::wire::audit::{Append, AuditReply, append};
use rustix::process::{Resource, Rlimit, prlimit};

use super::support::{Writer, closed, decided, ended, events, failed, started, whole};

const PATIENCE: Duration = Duration::from_secs(30);

/// A tmpfs of 64 KiB, unmounted at the end.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Self {
        let point = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", "size=64k,mode=0700", "tmpfs"])
            .arg(point.path());
        assert!(
            mount.status().unwrap().success(),
            "mounting a tmpfs needs root"
        );
        Self(point)
    }

    fn fill(&self) {
        // As much as fits.
        fs::write(self.0.path().join("full"), vec![0; 1 << 20]).unwrap_err();
    }

    fn free(&self) {
        fs::remove_file(self.0.path().join("full")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.0.path()).status();
        assert!(thread::panicking() || unmounted.is_ok_and(|status| status.success()));
    }
}

/// No file of this process may be longer than so.
fn limit_files(pid: Pid, bytes: Option<u64>) {
    let limit = Rlimit {
        current: bytes,
        maximum: None,
    };
    let pid = rustix::process::Pid::from_raw(pid.as_raw());
    prlimit(pid, Resource::Fsize, limit).unwrap();
}

/// Records until one is refused: how many were kept, and why the last was not.
fn until_refused(gate: &Channel) -> (u64, String) {
    for kept in 0.. {
        match append(gate, kept, decided(kept)) {
            Ok(_) => {}
            refused => return (kept, failed(refused)),
        }
    }
    unreachable!()
}

/// Records until one is kept again: how many were not.
fn until_kept(gate: &Channel, event: &AuditEvent) -> u64 {
    let deadline = Instant::now() + PATIENCE;
    for refused in 0.. {
        if append(gate, 1000 + refused, event.clone()).is_ok() {
            return refused;
        }
        assert!(Instant::now() < deadline);
        thread::sleep(Duration::from_millis(20));
    }
    unreachable!()
}

fn next(gate: &Channel) -> AuditReply {
    gate.recv().unwrap()
}

#[test]
fn a_full_disk_refuses_with_cause_and_cure_and_the_log_says_what_it_lacks() {
    for durability in [Durability::Batch, Durability::Each] {
        let disk = SmallDisk::mount();
        let writer = Writer::start(disk.0.path(), durability);
        append(&writer.session, 1, started(&["true"])).unwrap();
        disk.fill();
        let (kept, error) = until_refused(&writer.gate);
        let cause = "No space left on device (os error 28)";
        let expected = format!("{cause}; free space or raise the quota");
        assert!(
            error.starts_with("audit log ") && error.ends_with(&expected),
            "{error}"
        );
        assert_eq!(
            failed(append(&writer.session, 2, decided_by_session())),
            error
        );
        assert_eq!(failed(append(&writer.gate, 7, closed(1))), error);
        disk.free();
        let refused = until_kept(&writer.gate, &decided(5000));
        append(&writer.session, 3, ended()).unwrap();
        let id = writer.id;
        let (status, report) = writer.finish();
        assert_eq!(status.code(), Some(0));
        whole(id, kept + 4, State::Complete, &report);
        let events = events(disk.0.path(), id);
        let at = usize::try_from(kept).unwrap() + 1;
        let AuditEvent::RecordsLost {
            count,
            kinds,
            from,
            to,
            why,
            by: LostBy::Writer,
        } = &events[at]
        else {
            panic!("{:?}", events[at])
        };
        let expected = [
            ("egress.decided".to_owned(), 1 + refused),
            ("egress.closed".to_owned(), 1),
            ("session.detached".to_owned(), 1),
        ];
        assert_eq!(*kinds, expected.into());
        assert_eq!((*count, from <= to, why), (3 + refused, true, &error));
        assert_eq!(events[at + 1..], [decided(5000), ended()]);
    }
}

/// An event of the session's.
fn decided_by_session() -> AuditEvent {
    AuditEvent::SessionDetached {
        by: "somebody".into(),
        read_only: true,
    }
}

#[test]
fn a_session_that_goes_on_has_its_records_kept_later_in_their_order() {
    let disk = SmallDisk::mount();
    let writer = Writer::start_with(disk.0.path(), Durability::Batch, |writer| {
        writer.on_failure = OnFailure::Continue;
    });
    append(&writer.session, 1, started(&["true"])).unwrap();
    disk.fill();
    let mut sent = 0;
    let blocked = loop {
        let event = decided(sent);
        writer.gate.send(&Append { id: sent, event }).unwrap();
        sent += 1;
        match next(&writer.gate) {
            AuditReply::Recorded { .. } => {}
            AuditReply::Blocked { error } => break error,
            other => panic!("{other:?}"),
        }
    };
    assert!(blocked.contains("No space left"), "{blocked}");
    assert_eq!(next(&writer.gate), AuditReply::Held { id: sent - 1 });
    for _ in 0..20 {
        assert_eq!(
            append(&writer.gate, sent, decided(sent)).unwrap(),
            0,
            "held"
        );
        sent += 1;
    }
    disk.free();
    assert_eq!(next(&writer.gate), AuditReply::Writing);
    append(&writer.gate, sent, decided(sent)).unwrap();
    append(&writer.session, 2, ended()).unwrap();
    let id = writer.id;
    whole(id, sent + 3, State::Complete, &writer.finish().1);
    let expected: Vec<_> = [started(&["true"])]
        .into_iter()
        .chain((0..=sent).map(decided))
        .chain([ended()])
        .collect();
    assert_eq!(events(disk.0.path(), id), expected);
}

#[test]
fn what_does_not_fit_is_counted_and_the_queue_is_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let writer = Writer::start_with(folder.path(), Durability::Batch, |writer| {
        writer.on_failure = OnFailure::Continue;
    });
    append(&writer.session, 1, started(&["true"])).unwrap();
    limit_files(writer.pid(), Some(1000));
    // Each of about 1 KiB, 8 MiB in all.
    let big = |conn| AuditEvent::EgressRefused {
        conn: portcullis::ids::ConnId(conn),
        transport: portcullis::policy::Transport::Connect,
        reason: portcullis::policy::DenyReason::Malformed,
        detail: "x".repeat(1000),
        process: None,
        process_unknown: None,
    };
    for conn in 0..8192 {
        assert_eq!(append(&writer.gate, conn, big(conn)).unwrap(), 0);
    }
    limit_files(writer.pid(), None);
    assert_eq!(next(&writer.gate), AuditReply::Writing);
    append(&writer.session, 2, ended()).unwrap();
    let id = writer.id;
    let (status, report) = writer.finish();
    assert_eq!(status.code(), Some(0));
    assert_eq!((report.broken, report.state), (None, State::Complete));
    let events = events(folder.path(), id);
    let lost = events.iter().find_map(|event| match event {
        AuditEvent::RecordsLost { count, kinds, .. } => Some((*count, kinds.clone())),
        _ => None,
    });
    let (count, kinds) = lost.unwrap();
    assert_eq!(kinds, [("egress.refused".to_owned(), count)].into());
    let kept = events.len() as u64 - 3;
    assert_eq!(kept + count, 8192);
    assert!((3500..4200).contains(&kept), "{kept}");
    // In order, the earliest ones.
    for (conn, event) in (0..kept).zip(&events[1..]) {
        assert_eq!(*event, big(conn));
    }
}

#[test]
fn a_session_that_may_go_on_does_not_begin_without_a_record() {
    let folder = tempfile::tempdir().unwrap();
    let writer = Writer::start_with(folder.path(), Durability::Batch, |writer| {
        writer.on_failure = OnFailure::Continue;
    });
    limit_files(writer.pid(), Some(0));
    failed(append(&writer.session, 1, started(&["true"])));
    failed(append(&writer.gate, 1, decided(1)));
    drop(writer.finish());
}

#[test]
fn the_end_of_a_session_waits_a_moment_for_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    for comes_back in [true, false] {
        let mut writer = Writer::start(folder.path(), Durability::Batch);
        append(&writer.session, 1, started(&["true"])).unwrap();
        limit_files(writer.pid(), Some(1));
        failed(append(&writer.session, 2, ended()));
        let pid = writer.pid();
        writer.gate = Channel::pair().unwrap().0;
        writer.session = Channel::pair().unwrap().0;
        if comes_back {
            limit_files(pid, None);
        }
        let id = writer.id;
        let (status, report) = writer.finish();
        if comes_back {
            assert_eq!(status.code(), Some(0));
            whole(id, 2, State::Complete, &report);
            assert_eq!(events(folder.path(), id), [started(&["true"]), ended()]);
        } else {
            assert_eq!(status.code(), Some(69));
            whole(id, 1, State::Open, &report);
        }
    }
}

#[test]
fn another_gate_is_told_that_nothing_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = Writer::start(folder.path(), Durability::Batch);
    append(&writer.gate, 1, decided(1)).unwrap();
    limit_files(writer.pid(), Some(1));
    failed(append(&writer.gate, 2, decided(2)));
    writer.new_gate();
    assert!(matches!(next(&writer.gate), AuditReply::Blocked { .. }));
    failed(append(&writer.gate, 1, decided(3)));
    limit_files(writer.pid(), None);
    assert_eq!(next(&writer.gate), AuditReply::Writing);
    append(&writer.gate, 2, decided(4)).unwrap();
    drop(writer.finish());
}
