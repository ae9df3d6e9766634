//! The real `portcullis-audit` over real sockets: what it takes, what it refuses, how it ends.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests may panic"
)]
#![expect(clippy::disallowed_methods, reason = "tests start mount(8)")]

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portcullis::audit::folder::{LogFolder, file_name, open_or_create};
use portcullis::audit::reader::Lines;
use portcullis::audit::record::MAX_RECORD;
use portcullis::audit::verify::{Flaw, Report, State, verify_file};
use portcullis::audit::{AuditEvent, EndedBy, Isolation, Status};
use portcullis::ids::{ConnId, PolicyGeneration, SessionId};
use portcullis::policy::{Durability, Host, Port, RuleId, Transport, Verdict};
use portcullis::sys::process::Spawn;
use portcullis::wire::audit::{Append, AppendError, AuditBoot, AuditReply, append, boot};
use portcullis::wire::{Channel, WireError};

/// A running writer, its clients' ends in our hands.
struct Writer {
    child: Child,
    id: SessionId,
    folder: PathBuf,
    session: Channel,
    gate: Channel,
}

impl Writer {
    fn start(folder: &Path, durability: Durability) -> Self {
        let writer = Self::unbooted(folder);
        boot(&writer.session, &writer.boot_message(durability)).unwrap();
        writer
    }

    fn unbooted(folder: &Path) -> Self {
        // As the session does: what cargo left open is not for children.
        portcullis::sys::fd::cloexec_from(3).unwrap();
        let opened = open_or_create(folder).unwrap();
        let (session, their_session) = Channel::pair().unwrap();
        let (gate, their_gate) = Channel::pair().unwrap();
        let child = Spawn::new(Path::new(env!("CARGO_BIN_EXE_portcullis-audit")))
            .fd(their_session, 3)
            .fd(their_gate, 4)
            .fd(opened, 5)
            .own_process_group()
            .inherit_stderr()
            .start()
            .unwrap();
        let folder = folder.to_owned();
        Self {
            child,
            id: SessionId::generate(),
            folder,
            session,
            gate,
        }
    }

    fn boot_message(&self, durability: Durability) -> AuditBoot {
        let folder = self.folder.clone();
        AuditBoot {
            session: self.id,
            user: "tester".into(),
            folder,
            durability,
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().unwrap())
    }

    /// Closes both channels and waits for the end.
    fn finish(self) -> (ExitStatus, Report) {
        drop(self.gate);
        drop(self.session);
        let mut child = self.child;
        let status = child.wait().unwrap();
        (status, report(&self.folder, self.id))
    }
}

fn report(folder: &Path, id: SessionId) -> Report {
    let log = LogFolder::open(folder).unwrap().open_log(id).unwrap();
    verify_file(&log, Some(id)).unwrap()
}

fn events(folder: &Path, id: SessionId) -> Vec<AuditEvent> {
    let text = fs::read(folder.join(file_name(id))).unwrap();
    let mut lines = Lines::new(text.as_slice());
    let mut events = Vec::new();
    while let Some(line) = lines.next_line().unwrap() {
        events.push(line.record().unwrap().unwrap().event);
    }
    events
}

fn started(argv: &[&str]) -> AuditEvent {
    AuditEvent::SessionStarted {
        argv: argv.iter().map(ToString::to_string).collect(),
        profile: "codex".into(),
        mode: "workspace-write".into(),
        workspace: "/w".into(),
        generation: PolicyGeneration("0123456789abcdef".into()),
        isolation: Isolation {
            bwrap: "bubblewrap 0.8.0".into(),
            landlock_abi: 7,
            seccomp_allowed: 300,
            shortfalls: Vec::new(),
        },
    }
}

fn decided(conn: u64) -> AuditEvent {
    AuditEvent::EgressDecided {
        conn: ConnId(conn),
        transport: Transport::Connect,
        host: Host::parse("api.example.com").unwrap(),
        port: Port::HTTPS,
        method: None,
        path: None,
        verdict: Verdict::Allow,
        reason: None,
        rule: Some(RuleId("--allow api.example.com".into())),
        generation: PolicyGeneration("0123456789abcdef".into()),
    }
}

fn closed(conn: u64) -> AuditEvent {
    AuditEvent::EgressClosed {
        conn: ConnId(conn),
        bytes_up: 1,
        bytes_down: 2,
        ms: 3,
        ended_by: EndedBy::Client,
    }
}

fn ended() -> AuditEvent {
    AuditEvent::SessionEnded {
        status: Status::Exited(0),
        ms: 5,
    }
}

fn whole(id: SessionId, records: u64, state: State, report: Report) {
    let head = report.head;
    let session = (records > 0).then_some(id).or(report.session);
    let expected = Report {
        session,
        records,
        head,
        state,
        broken: None,
        clock_set_back: 0,
    };
    assert_eq!(report, expected);
}

fn failed(outcome: Result<u64, AppendError>) -> String {
    match outcome {
        Err(AppendError::Failed(error)) => error,
        other => panic!("not refused: {other:?}"),
    }
}

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
        whole(id, 4, State::Complete, report);
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
            report(folder.path(), writer.id),
        );
    }
    whole(writer.id, 101, State::Complete, writer.finish().1);
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
    whole(writer.id, 3301, State::Complete, writer.finish().1);
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
        whole(writer.id, 2, State::Complete, writer.finish().1);
    }
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
    whole(writer.id, 1, State::Complete, writer.finish().1);
}

#[test]
fn a_gate_that_sends_no_frames_is_cut_off_and_nothing_is_written() {
    let oversized = (65_537_u32).to_le_bytes().to_vec();
    let huge = u32::MAX.to_le_bytes().to_vec();
    let no_json = [3_u32.to_le_bytes().as_slice(), b"???"].concat();
    let unknown_field = frame(
        r#"{"id":1,"event":{"event":"egress.dialed","conn":1,"address":"1.1.1.1:1","seq":9}}"#,
    );
    let chain_field = frame(
        r#"{"id":1,"seq":7,"event":{"event":"egress.dialed","conn":1,"address":"1.1.1.1:1"}}"#,
    );
    for bytes in [oversized, huge, no_json, unknown_field, chain_field] {
        let folder = tempfile::tempdir().unwrap();
        let Writer {
            child,
            id,
            folder: path,
            session,
            gate,
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
        };
        whole(id, 2, State::Complete, writer.finish().1);
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
        match (&gate).write(&request[sent % request.len()..]) {
            Ok(more) => (sent, idle) = (sent + more, 0),
            Err(_) => {
                idle += 1;
                // Each round trip of the session lets the writer's loop turn.
                append(&writer.session, 1, started(&["true"])).unwrap();
            }
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
    whole(writer.id, 1, State::Complete, writer.finish().1);
}

#[test]
fn a_gate_that_closes_early_is_no_event() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = Writer::start(folder.path(), Durability::Batch);
    writer.gate = Channel::pair().unwrap().0;
    append(&writer.session, 1, started(&["true"])).unwrap();
    append(&writer.session, 2, ended()).unwrap();
    whole(writer.id, 2, State::Complete, writer.finish().1);
}

#[test]
fn a_lost_session_is_written_down_after_what_the_gate_still_reports() {
    let folder = tempfile::tempdir().unwrap();
    let Writer {
        mut child,
        id,
        session,
        gate,
        ..
    } = Writer::start(folder.path(), Durability::Batch);
    append(&session, 1, started(&["true"])).unwrap();
    drop(session);
    append(&gate, 1, closed(1)).unwrap();
    drop(gate);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    whole(id, 3, State::Complete, report(folder.path(), id));
    let last = events(folder.path(), id).pop().unwrap();
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
    let Writer {
        mut child,
        id,
        session,
        gate,
        ..
    } = Writer::start(folder.path(), Durability::Batch);
    drop(session);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(matches!(gate.recv::<AuditReply>(), Err(WireError::Closed)));
    whole(id, 1, State::Complete, report(folder.path(), id));
}

#[test]
fn a_broken_frame_of_the_session_counts_as_its_loss() {
    let folder = tempfile::tempdir().unwrap();
    let Writer {
        mut child,
        id,
        session,
        gate,
        ..
    } = Writer::start(folder.path(), Durability::Batch);
    let mut stream = session.into_stream();
    stream.write_all(&u32::MAX.to_le_bytes()).unwrap();
    drop(gate);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    whole(id, 1, State::Complete, report(folder.path(), id));
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
fn an_existing_log_is_never_continued() {
    let folder = tempfile::tempdir().unwrap();
    for plant in [plant_file, plant_link] {
        let mut writer = Writer::unbooted(folder.path());
        let path = folder.path().join(file_name(writer.id));
        plant(&path);
        let outcome = boot(&writer.session, &writer.boot_message(Durability::Batch));
        let Err(AppendError::Failed(error)) = outcome else {
            panic!("{outcome:?}")
        };
        let log = format!("audit log {}", path.display());
        let cure = "a session writes its log once: start a new session";
        assert_eq!(error, format!("{log}: File exists (os error 17); {cure}"));
        assert_eq!(writer.child.wait().unwrap().code(), Some(69));
    }
    assert!(!folder.path().join("target").exists());
}

fn plant_file(path: &Path) {
    fs::write(path, "").unwrap();
}

fn plant_link(path: &Path) {
    std::os::unix::fs::symlink("target", path).unwrap();
}

#[test]
fn a_first_message_that_is_none_ends_the_writer_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = Writer::unbooted(folder.path());
    writer.session.send(&"hello").unwrap();
    let AuditReply::Failed { id: 0, error } = writer.session.recv().unwrap() else {
        panic!()
    };
    assert!(
        error.starts_with("audit writer: first message: unexpected message"),
        "{error}"
    );
    assert_eq!(writer.child.wait().unwrap().code(), Some(64));
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
        // Interrupts the wait, which goes on by restart_syscall(2).
        Signal::SIGSTOP,
        Signal::SIGCONT,
    ];
    for signal in signals {
        kill(writer.pid(), signal).unwrap();
    }
    append(&writer.session, 1, ended()).unwrap();
    let (status, report) = writer.finish();
    assert_eq!((status.code(), report.state), (Some(0), State::Complete));
}

#[test]
fn a_stop_within_the_grace_of_a_lost_session_does_not_kill_it() {
    let folder = tempfile::tempdir().unwrap();
    let writer = Writer::start(folder.path(), Durability::Batch);
    let pid = writer.pid();
    let Writer {
        mut child,
        id,
        session,
        gate,
        ..
    } = writer;
    drop(session);
    // A wait with a time-out is the one that needs restart_syscall(2).
    append(&gate, 1, decided(1)).unwrap();
    kill(pid, Signal::SIGSTOP).unwrap();
    kill(pid, Signal::SIGCONT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    whole(id, 2, State::Complete, report(folder.path(), id));
}

#[test]
fn it_is_confined_before_it_says_ready() {
    let folder = tempfile::tempdir().unwrap();
    let writer = Writer::start(folder.path(), Durability::Batch);
    let status = fs::read_to_string(format!("/proc/{}/status", writer.pid())).unwrap();
    let wanted = [
        "Seccomp:\t2",
        "NoNewPrivs:\t1",
        "CapInh:\t0000000000000000",
        "CapPrm:\t0000000000000000",
        "CapEff:\t0000000000000000",
        "CapAmb:\t0000000000000000",
        "Threads:\t1",
    ];
    for line in wanted {
        assert!(
            status.lines().any(|found| found == line),
            "no {line:?} in {status}"
        );
    }
    // The twin: a process of ours has none of it.
    let own = fs::read_to_string("/proc/self/status").unwrap();
    assert!(own.lines().any(|found| found == "Seccomp:\t0"), "{own}");
    let open = fs::read_dir(format!("/proc/{}/fd", writer.pid()))
        .unwrap()
        .count();
    assert_eq!(open, 6, "standard streams, two channels, the log");
}

#[test]
fn the_longest_texts_make_a_record_that_reads_back() {
    let folder = tempfile::tempdir().unwrap();
    let writer = Writer::start(folder.path(), Durability::Batch);
    let noise = "\u{1}\"é\u{202e}".repeat(10_000);
    append(&writer.session, 1, started(&[noise.as_str(); 40])).unwrap();
    let refused = AuditEvent::EgressRefused {
        conn: ConnId(1),
        transport: Transport::Socks5,
        reason: portcullis::policy::DenyReason::Malformed,
        detail: "\u{1}".repeat(9000),
    };
    append(&writer.gate, 1, refused).unwrap();
    append(&writer.session, 2, ended()).unwrap();
    let id = writer.id;
    whole(id, 3, State::Complete, writer.finish().1);
    let text = fs::read_to_string(folder.path().join(file_name(id))).unwrap();
    assert!(text.lines().all(|line| line.len() < MAX_RECORD));
    let AuditEvent::SessionStarted { argv, .. } = &events(folder.path(), id)[0] else {
        panic!()
    };
    assert_eq!(argv.last().unwrap(), "… 25 more arguments");
}

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
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.0.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()));
    }
}

#[test]
fn a_full_disk_fails_with_cause_and_cure_and_leaves_a_whole_chain() {
    for durability in [Durability::Batch, Durability::Each] {
        let disk = SmallDisk::mount();
        let writer = Writer::start(disk.0.path(), durability);
        append(&writer.session, 1, started(&["true"])).unwrap();
        let (mut kept, error) = (1, loop_until_failed(&writer.gate));
        kept += error.0;
        let log = disk.0.path().join(file_name(writer.id));
        let cause = "No space left on device (os error 28)";
        let cure = "free space or raise the quota, then start a new session";
        let rest = "the session can do nothing more";
        let expected = format!("audit log {}: {cause}; {cure}; {rest}", log.display());
        assert_eq!(error.1, expected);
        // Space that comes back does not make the hole good.
        fs::write(disk.0.path().join("x"), "").unwrap();
        assert_eq!(failed(append(&writer.gate, 0, decided(0))), expected);
        assert_eq!(failed(append(&writer.session, 2, ended())), expected);
        let id = writer.id;
        let (status, report) = writer.finish();
        assert_eq!(status.code(), Some(69));
        whole(id, kept, State::Open, report);
    }
}

/// How many records were kept until one was not, and what the writer said then.
fn loop_until_failed(gate: &Channel) -> (u64, String) {
    for kept in 0.. {
        match append(gate, kept, decided(kept)) {
            Ok(_) => {}
            refused => return (kept, failed(refused)),
        }
    }
    unreachable!()
}
