//! What the writer needs and takes from itself before it takes records.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use portcullis::audit::folder::file_name;
use portcullis::policy::Durability;
use portcullis::wire::audit::{AppendError, AuditReply, append, ready};
use portcullis::wire::supply::WriterSupply;

use super::support::{Writer, started};

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
    let (before, with) = (11, 12);
    assert!(
        open == before || open == with,
        "standard streams, two channels, the log, its folder, that of bodies, the ledger, its folder and its key, and the gate's channel once it has come: {open}"
    );
}

/// Has it boot by a file of settings, as the service does.
#[expect(clippy::unwrap_in_result, reason = "tests may panic")]
fn boot_by(writer: &Writer, text: &str, resumes: bool) -> Result<(), AppendError> {
    let mut boot = writer.boot_message(Durability::Batch);
    (boot.ledger, boot.segments) = (false, None);
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(text.as_bytes(), 0).unwrap();
    let order = if resumes {
        WriterSupply::Resume(boot)
    } else {
        WriterSupply::Boot(boot)
    };
    writer.supply.send_with(&order, &[file.as_fd()]).unwrap();
    ready(&writer.session)
}

#[test]
fn settings_of_the_host_that_cannot_be_used_begin_no_log_and_end_none() {
    let folder = tempfile::tempdir().unwrap();
    let bad = "[segments.logs]\nsize = '1K'\n";
    let mut refused = Writer::unbooted(folder.path());
    let why = boot_by(&refused, bad, false).unwrap_err().to_string();
    let said = "/etc/portcullis/audit.toml: segments.logs.size: \"1K\" is not a size from \"1M\" to \"4G\"";
    assert_eq!(why, said);
    assert_eq!(refused.child.wait().unwrap().code(), Some(78));
    assert!(!folder.path().join(file_name(refused.id)).exists());
    // The twin.
    let mut writer = Writer::unbooted(folder.path());
    boot_by(&writer, "[segments.logs]\nsize = '1M'\n", false).unwrap();
    append(&writer.session, 1, started(&["true"])).unwrap();
    writer.child.kill().unwrap();
    writer.child.wait().unwrap();
    let mut next = Writer::unbooted(folder.path());
    next.id = writer.id;
    boot_by(&next, bad, true).unwrap();
}
