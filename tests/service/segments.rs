//! Logs of several segments, which the daemon opens one by one for whoever may read them.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::PathBuf;

use crate::service::{ADA, AUDITOR, BOB, Service};

#[test]
fn a_log_is_read_over_its_segments_by_whoever_may() {
    let host = Service::start("");
    let run = host.run(ADA, &["run", "-q", "--", "true"]);
    assert_eq!(run.status, Some(0), "{run:#?}");
    let folder = host.inside(&format!("/var/log/portcullis/{}", ADA.uid));
    let files = fs::read_dir(&folder).unwrap();
    let first = files
        .map(|file| file.unwrap().path())
        .find(|file| file.is_file())
        .unwrap();
    let id = first.file_stem().unwrap().to_str().unwrap().to_owned();
    let beside = |name: &str| -> PathBuf { folder.join(format!("{id}{name}")) };
    let (owner, text) = (fs::metadata(&first).unwrap(), fs::read(&first).unwrap());
    let put = |path: &PathBuf, bytes: &[u8], uid: u32| {
        fs::write(path, bytes).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o640)).unwrap();
        chown(path, Some(uid), Some(owner.gid())).unwrap();
    };
    // As a writer leaves them whose segments are short.
    let border = text.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    let (one, two) = text.split_at(border);
    let verify = |user| host.run(user, &["audit", "verify", &id]);
    let before = verify(ADA);
    assert!(before.stdout.starts_with("complete"), "{before:#?}");
    put(&beside(".0002.jsonl"), two, owner.uid());
    put(&first, one, owner.uid());
    for user in [ADA, AUDITOR] {
        assert_eq!(verify(user).stdout, before.stdout);
        let shown = host.run(user, &["audit", "show", &id]);
        assert!(shown.stdout.contains("exit"), "{shown:#?}");
        let last = host.run(user, &["audit", "tail", "-n", "1", &id]);
        assert!(last.stdout.contains("session.ended"), "{last:#?}");
    }
    assert_eq!(verify(BOB).status, Some(64));
    // Packed.
    fs::remove_file(&first).unwrap();
    let packed = zstd::encode_all(one, 0).unwrap();
    put(&beside(".jsonl.zst"), &packed, owner.uid());
    assert_eq!(verify(ADA).stdout, before.stdout);
    // What is not the writer's is not opened.
    put(&beside(".0002.jsonl"), two, ADA.uid);
    let refused = verify(ADA);
    assert!(
        refused.status != Some(0) && !refused.stdout.contains("complete"),
        "{refused:#?}"
    );
    fs::remove_file(beside(".0002.jsonl")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", beside(".0002.jsonl")).unwrap();
    let refused = verify(ADA);
    assert!(
        refused.status != Some(0) && !refused.stdout.contains("complete"),
        "{refused:#?}"
    );
}
