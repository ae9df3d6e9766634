//! A disk that takes what is written and fails to keep it, which only fsync(2) tells, once: ext4 on a loop device whose
//! file lies on a file system without room. What was acknowledged is there when the disk is looked at afresh.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::cli::{USER, Who};
use crate::support::{Scene, Session, eventually};

const EACH: &str = "[audit]\ndurability = 'each'";
const EACH_AND_ON: &str = "[audit]\ndurability = 'each'\non_failure = 'continue'";

/// Sixteen megabytes with a file system, every block of it there.
const WHOLE: &str = r#"
mount -t tmpfs -o size=64m tmpfs "$1"
truncate -s 16m "$1/sparse"
mke2fs -q -F -t ext4 -b 4096 -J size=4 -N 256 -E nodiscard,lazy_itable_init=0,lazy_journal_init=0 "$1/sparse"
cp --sparse=never "$1/sparse" "$1/image"
rm "$1/sparse"
mount -o loop "$1/image" "$2"
chown "$3:$3" "$2"
chmod 700 "$2"
"#;

/// The same, whose own blocks are there only once they are written: the journal's are not.
const HOLLOW: &str = r#"
mount -t tmpfs -o size=64m tmpfs "$1"
truncate -s 16m "$1/image"
mke2fs -q -F -t ext4 -b 4096 -J size=4 -N 256 "$1/image"
mount -o loop "$1/image" "$2"
chown "$3:$3" "$2"
chmod 700 "$2"
"#;

/// From now on there is room for what it has, which the file system's own blocks are, and for nothing new.
const FULL: &str = r#"
fstrim "$2"
sync -f "$2"
mount -o "remount,size=$(du -k "$1/image" | cut -f1)k" "$1"
"#;

/// Power fails: what is not on the disk by now never will be, and whoever writes hears of it (EIO).
/// `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH` (fs/ext4/ioctl.c).
const DEAD: &str = r#"
python3 -c 'import fcntl, os, struct, sys
assert os.path.ismount(sys.argv[1])
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack("I", 2))' "$2"
"#;

/// There is room again.
const ROOM: &str = r#"mount -o remount,size=64m "$1""#;

/// What is in memory goes, what is on the disk stays.
const AFRESH: &str = r#"
umount "$2"
mount -o loop "$1/image" "$2"
"#;

const GONE: &str = r#"umount -l "$2"; umount -l "$1""#;

/// The disk under the logs of a scene's user.
struct Disk {
    below: PathBuf,
    logs: PathBuf,
}

impl Disk {
    fn mount(scene: &Scene, how: &str) -> Self {
        for folder in [
            "home/.local",
            "home/.local/state",
            "home/.local/state/portcullis",
            "home/.local/state/portcullis/audit",
        ] {
            fs::create_dir_all(scene.install.path(folder)).unwrap();
            scene.install.own(folder);
        }
        let disk = Self {
            below: scene.install.path("disk"),
            logs: scene.install.path("home/.local/state/portcullis/audit"),
        };
        fs::create_dir(&disk.below).unwrap();
        disk.does(how);
        disk
    }

    /// Nothing of a script is done where a step before failed: it is about these two folders and no other.
    fn does(&self, script: &str) {
        let mut shell = Command::new("sh");
        shell.args(["-e", "-c", script, "disk"]);
        shell.arg(&self.below).arg(&self.logs).arg(USER.to_string());
        let done = shell.output().unwrap();
        assert!(done.status.success(), "needs root: {done:?}");
    }

    /// The records of each segment of the only log.
    fn segments(&self) -> Vec<Vec<Value>> {
        let entries = fs::read_dir(&self.logs).unwrap();
        let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        files.retain(|file| file.extension().is_some_and(|found| found == "jsonl"));
        // `<id>.0002.jsonl` before `<id>.jsonl` by name.
        files.sort_by_key(|file| (file.as_os_str().len(), file.clone()));
        let read = |file: &PathBuf| {
            let text = fs::read_to_string(file).unwrap();
            let whole = text
                .split_inclusive('\n')
                .filter(|line| line.ends_with('\n'));
            whole
                .map(|line| serde_json::from_str(line).unwrap())
                .collect()
        };
        files.iter().map(read).collect()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let mut shell = Command::new("sh");
        shell.args(["-c", GONE, "disk"]);
        drop(shell.arg(&self.below).arg(&self.logs).output());
    }
}

/// Asks until this comes of it; the paths of what was answered 200.
fn ask_until(scene: &Scene, session: &mut Session, outcome: &str, place: &str) -> Vec<String> {
    let mut answered = Vec::new();
    let mut number = 0;
    eventually(outcome, || {
        number += 1;
        let path = format!("/{place}/{number}");
        let found = session.does(&scene.act("http", &path));
        if found == "200" {
            answered.push(path);
        }
        found == outcome
    });
    answered
}

fn has(segments: &[Vec<Value>], path: &String) -> bool {
    let mut records = segments.iter().flatten();
    records.any(|record| record["event"] == "egress.decided" && record["path"] == **path)
}

#[test]
fn a_segment_that_the_disk_fails_late_is_given_up_and_the_next_says_so() {
    for tables in [EACH, EACH_AND_ON] {
        let scene = Scene::new(Who::User, "", tables);
        let disk = Disk::mount(&scene, WHOLE);
        let mut session = scene.session(&[]);
        let mut answered = ask_until(&scene, &mut session, "200", "before");
        disk.does(FULL);
        let in_trouble = || {
            let listed = scene.install.portcullis(["ps"]);
            String::from_utf8(listed.stdout)
                .unwrap()
                .contains("[audit ")
        };
        if tables == EACH {
            answered.extend(ask_until(&scene, &mut session, "503", "full"));
            for _ in 0..3 {
                assert_eq!(session.does(&scene.act("http", "/still")), "503");
            }
            assert!(in_trouble());
        } else {
            let mut number = 0;
            eventually("trouble", || {
                number += 1;
                let path = format!("/full/{number}");
                assert_eq!(session.does(&scene.act("http", &path)), "200");
                answered.push(path);
                in_trouble()
            });
        }
        disk.does(ROOM);
        eventually("room", || !in_trouble());
        answered.extend(ask_until(&scene, &mut session, "200", "after"));
        let (status, errors) = session.end();
        assert_eq!(status, Some(0), "{errors}");
        assert!(errors.contains("records are kept again"), "{errors}");
        // Only what the disk itself has.
        disk.does(AFRESH);
        scene.assert_verified();
        let segments = disk.segments();
        let mut before = 0;
        for (number, pair) in (1..).zip(segments.windows(2)) {
            before += pair[0].len();
            let told = &pair[1][0];
            assert_eq!(told["event"], "log.sync_failed");
            assert_eq!(
                (&told["segment"], &told["records"]),
                (&Value::from(number), &Value::from(before))
            );
            assert!(told["why"].as_str().unwrap().contains("os error"), "{told}");
        }
        assert!(before > 0, "{segments:#?}");
        let last = segments.iter().flatten().last().unwrap();
        assert_eq!(last["event"], "session.ended");
        for path in &answered {
            assert!(has(&segments, path), "{path} {segments:#?}");
        }
    }
}

#[test]
fn a_disk_that_dies_stops_a_session_and_what_was_acknowledged_is_there_afterwards() {
    // By the first, write(2) says so; by the second fdatasync(2) does, after which the file system is read-only.
    for (made, dies) in [(WHOLE, DEAD), (HOLLOW, FULL)] {
        let scene = Scene::new(Who::User, "", EACH);
        let disk = Disk::mount(&scene, made);
        let mut session = scene.session(&[]);
        let mut answered = Vec::new();
        for _ in 0..20 {
            answered.extend(ask_until(&scene, &mut session, "200", "before"));
        }
        disk.does(dies);
        answered.extend(ask_until(&scene, &mut session, "503", "dies"));
        let sent = scene.allowed.log.connections();
        for _ in 0..3 {
            assert_eq!(session.does(&scene.act("http", "/dead")), "503");
        }
        assert_eq!(scene.allowed.log.connections(), sent);
        let (status, errors) = session.end();
        assert_eq!(status, Some(0), "{errors}");
        assert!(errors.contains("audit blocked"), "{errors}");
        assert!(errors.contains("Input/output error"), "{errors}");
        disk.does(ROOM);
        disk.does(AFRESH);
        let segments = disk.segments();
        assert_eq!(segments.len(), 1);
        for path in &answered {
            assert!(has(&segments, path), "{path} {segments:#?}");
        }
        let verified = scene.install.portcullis(["audit", "verify"]);
        let verified = String::from_utf8(verified.stdout).unwrap();
        assert!(!verified.contains("does not"), "{verified}");
    }
}
