//! What the writer needs and takes from itself before it takes records; what a disk does to it.

use std::fs;
use std::path::Path;
use std::process::Command;

use portcullis::audit::folder::file_name;
use portcullis::audit::verify::State;
use portcullis::policy::Durability;
use portcullis::wire::Channel;
use portcullis::wire::audit::{AppendError, AuditReply, append};

use super::support::{Writer, decided, ended, failed, started, whole};

#[test]
fn an_existing_log_is_never_continued() {
    let folder = tempfile::tempdir().unwrap();
    for plant in [plant_file, plant_link] {
        let mut writer = Writer::unbooted(folder.path());
        let path = folder.path().join(file_name(writer.id));
        plant(&path);
        let outcome = writer.boot(Durability::Batch);
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
    writer.supply.send(&"hello").unwrap();
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
    let (before, with) = (8, 9);
    assert!(
        open == before || open == with,
        "standard streams, two channels, the log, the ledger and its key, and the gate's channel once it has come: {open}"
    );
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
        whole(id, kept, State::Open, &report);
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
