//! The disk of the log is full, or does not answer: sessions stop, or go on where the profile lets them, and the log says
//! what it lacks.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::cli::{USER, Who};
use crate::support::{Scene, eventually};

const CONTINUE: &str = "[audit]\non_failure = 'continue'";

/// A tmpfs of 256 KiB where the logs of a scene's user are; unmounted at the end.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(scene: &Scene) -> Self {
        for folder in [
            "home/.local",
            "home/.local/state",
            "home/.local/state/portcullis",
        ] {
            fs::create_dir_all(scene.install.path(folder)).unwrap();
            scene.install.own(folder);
        }
        let logs = "home/.local/state/portcullis/audit";
        fs::create_dir_all(scene.install.path(logs)).unwrap();
        let options = format!("size=256k,mode=0700,uid={USER},gid={USER}");
        let point = scene.install.path(logs);
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(&point);
        assert!(mount.status().unwrap().success(), "mounting needs root");
        Self(point)
    }

    fn fill(&self) {
        fs::write(self.0.join("full"), vec![0; 1 << 20]).unwrap_err();
    }

    fn free(&self) {
        fs::remove_file(self.0.join("full")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

#[test]
fn a_full_disk_stops_a_session_until_there_is_room() {
    let scene = Scene::new(Who::User, "", "");
    let disk = SmallDisk::mount(&scene);
    let mut session = scene.session(&[]);
    assert_eq!(session.does(&scene.act("http", "/before")), "200");
    disk.fill();
    // What is left of the last page takes some.
    eventually("a refusal", || {
        session.does(&scene.act("http", "/full")) == "503"
    });
    let sent = scene.allowed.log.connections();
    let mut refused = 1;
    for _ in 0..3 {
        assert_eq!(session.does(&scene.act("http", "/full")), "503");
        refused += 1;
    }
    assert_eq!(scene.allowed.log.connections(), sent);
    let listed = scene.install.portcullis(["ps"]);
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains("[audit blocked]"), "{listed}");
    disk.free();
    eventually("room", || {
        let answer = session.does(&scene.act("http", "/after"));
        refused += u64::from(answer == "503");
        answer == "200"
    });
    let listed = scene.install.portcullis(["ps"]);
    assert!(!String::from_utf8(listed.stdout).unwrap().contains("[audit"));
    let (status, errors) = session.end();
    assert_eq!(status, Some(0));
    let order = [
        "audit blocked, nothing leaves",
        "No space left on device",
        "records are kept again",
    ];
    let places = order.map(|text| {
        errors
            .find(text)
            .unwrap_or_else(|| panic!("{text}: {errors}"))
    });
    assert!(places.is_sorted(), "{errors}");
    scene.assert_verified();
    assert_eq!(scene.count("session.ended"), 1);
    // Every refusal is counted: by the writer what it got, by the gate what it did not even send.
    let records = scene.records();
    assert_eq!(lost(&records, "egress.decided"), refused, "{records:#?}");
    let mut told = records
        .iter()
        .filter(|record| record["event"] == "records.lost");
    assert!(
        told.any(|lost| lost["why"].as_str().unwrap().contains("No space left")),
        "{records:#?}"
    );
}

/// How many records of a kind were lost, by all that tells of it.
fn lost(records: &[Value], kind: &str) -> u64 {
    let told = records
        .iter()
        .filter(|record| record["event"] == "records.lost");
    let kinds = told.filter_map(|lost| lost["kinds"][kind].as_u64());
    kinds.sum()
}

#[test]
fn a_session_that_may_goes_on_without_a_disk_and_its_records_follow() {
    let scene = Scene::new(Who::User, "", CONTINUE);
    let disk = SmallDisk::mount(&scene);
    let mut session = scene.session(&[]);
    assert_eq!(session.does(&scene.act("http", "/before")), "200");
    disk.fill();
    let paths: Vec<_> = (0..40).map(|number| format!("/full/{number}")).collect();
    for path in &paths {
        assert_eq!(session.does(&scene.act("http", path)), "200");
    }
    let listed = scene.install.portcullis(["ps"]);
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains("[audit behind]"), "{listed}");
    disk.free();
    eventually("the records", || {
        let records = scene.records();
        let has = |path: &String| records.iter().any(|record| record["path"] == **path);
        paths.iter().all(has)
    });
    assert_eq!(session.does(&scene.act("http", "/after")), "200");
    let (status, errors) = session.end();
    assert_eq!(status, Some(0));
    assert!(errors.contains("audit behind"), "{errors}");
    assert!(errors.contains("records are kept again"), "{errors}");
    scene.assert_verified();
    // All of it had room.
    assert_eq!(scene.count("records.lost"), 0);
    assert_eq!(scene.count("session.ended"), 1);
    // In the order in which they came.
    let records = scene.records();
    let times: Vec<_> = records
        .iter()
        .map(|record| record["ts"].as_str().unwrap())
        .collect();
    assert!(times.is_sorted(), "{times:?}");
}

#[test]
fn a_writer_that_hangs_stops_a_session_unless_it_may_go_on() {
    for (tables, during, told) in [
        ("", "503", "audit blocked"),
        (CONTINUE, "200", "audit behind"),
    ] {
        let scene = Scene::new(Who::User, "", tables);
        let mut session = scene.session(&[]);
        assert_eq!(session.does(&scene.act("http", "/before")), "200");
        let writer = scene.writer();
        kill(writer, Signal::SIGSTOP).unwrap();
        for _ in 0..2 {
            assert_eq!(session.does(&scene.act("http", "/during")), during);
        }
        kill(writer, Signal::SIGCONT).unwrap();
        eventually("an answer", || {
            session.does(&scene.act("http", "/after")) == "200"
        });
        let (status, errors) = session.end();
        assert_eq!(status, Some(0));
        let order = [
            told,
            "the audit writer does not answer",
            "records are kept again",
        ];
        let places = order.map(|text| {
            errors
                .find(text)
                .unwrap_or_else(|| panic!("{text}: {errors}"))
        });
        assert!(places.is_sorted(), "{errors}");
        scene.assert_verified();
        assert_eq!(scene.count("session.ended"), 1);
    }
}

#[test]
fn a_session_that_may_goes_on_when_its_writer_is_killed_and_nothing_is_missing() {
    let scene = Scene::new(Who::User, "", CONTINUE);
    let mut session = scene.session(&[]);
    for round in 0..4 {
        scene.kill_writer();
        let path = format!("/{round}");
        assert_eq!(session.does(&scene.act("http", &path)), "200");
    }
    assert_eq!(session.end().0, Some(0));
    scene.assert_verified();
    let records = scene.records();
    for round in 0..4 {
        let path = format!("/{round}");
        assert!(
            records.iter().any(|record| record["path"] == path),
            "{path}"
        );
    }
}

#[test]
fn a_session_whose_log_is_lost_for_good_stops_whatever_its_profile_says() {
    let scene = Scene::new(Who::User, "", CONTINUE);
    let mut session = scene.session(&[]);
    assert_eq!(session.does(&scene.act("http", "/before")), "200");
    scene.until("egress.closed", 1);
    kill(session.pid(), Signal::SIGSTOP).unwrap();
    kill(scene.writer(), Signal::SIGKILL).unwrap();
    let changed = fs::read_to_string(scene.log()).unwrap();
    fs::write(
        scene.log(),
        changed.replacen("allowed.test", "denied.test", 1),
    )
    .unwrap();
    kill(session.pid(), Signal::SIGCONT).unwrap();
    eventually("a refusal", || {
        session.does(&scene.act("http", "/after")) == "503"
    });
    let (status, errors) = session.end();
    assert_eq!(status, Some(0));
    assert!(errors.contains("the audit writer died: every"), "{errors}");
}

#[test]
fn a_session_does_not_begin_on_a_full_disk_whatever_its_profile_says() {
    let scene = Scene::new(Who::User, "", CONTINUE);
    let disk = SmallDisk::mount(&scene);
    disk.fill();
    let profile = scene.install.path("profile.toml").display().to_string();
    let run = scene.install.run(&["-p", &profile], &["true"]);
    assert_eq!(run.status, Some(125), "{run:?}");
    assert!(run.stderr.contains("No space left"), "{run:?}");
    disk.free();
    let run = scene.install.run(&["-p", &profile], &["true"]);
    assert_eq!(run.status, Some(0), "{run:?}");
}

/// Whether all of this happened in this order, each of it once.
fn assert_order(records: &[Value], order: [&str; 3]) {
    let places = order.map(|wanted| {
        let of = |record: &Value| record["event"] == wanted || record["path"] == wanted;
        let mut found = records.iter().enumerate().filter(|(_, record)| of(record));
        let (place, _) = found
            .next()
            .unwrap_or_else(|| panic!("{wanted}: {records:#?}"));
        place
    });
    assert!(places.is_sorted(), "{order:?} {records:#?}");
}

#[test]
fn a_gate_that_dies_while_the_disk_is_full_is_replaced_and_that_comes_first_on_record() {
    for (tables, during) in [("", "503"), (CONTINUE, "200")] {
        let scene = Scene::new(Who::User, "", tables);
        let disk = SmallDisk::mount(&scene);
        let mut session = scene.session(&[]);
        assert_eq!(session.does(&scene.act("http", "/before")), "200");
        disk.fill();
        eventually("nothing is kept", || {
            session.does(&scene.act("http", "/full")) == during
                && String::from_utf8(scene.install.portcullis(["ps"]).stdout)
                    .unwrap()
                    .contains("[audit ")
        });
        let kept = scene.records().len();
        for _ in 0..2 {
            let gate = scene.gate();
            kill(gate, Signal::SIGKILL).unwrap();
            eventually("another gate", || {
                crate::support::running(&scene.install.path("bin/portcullis-gate"))
                    .iter()
                    .any(|one| *one != gate)
            });
            assert_eq!(session.does(&scene.act("http", "/during")), during);
        }
        assert_eq!(scene.records().len(), kept, "there is no room");
        let sent = scene.allowed.log.connections();
        if during == "503" {
            assert_eq!(session.does(&scene.act("http", "/still")), "503");
            assert_eq!(scene.allowed.log.connections(), sent);
        }
        disk.free();
        eventually("room", || {
            session.does(&scene.act("http", "/after")) == "200"
        });
        eventually("the records", || scene.count("gate.restarted") == 2);
        let (status, errors) = session.end();
        assert_eq!(status, Some(0), "{errors}");
        assert!(!errors.contains("no network any more"), "{errors}");
        scene.assert_verified();
        assert_eq!(scene.count("gate.lost"), 0);
        if during == "200" {
            assert_order(&scene.records(), ["/full", "gate.restarted", "/during"]);
        } else {
            assert_order(
                &scene.records(),
                ["gate.restarted", "records.lost", "/after"],
            );
        }
    }
}

#[test]
fn a_writer_that_dies_while_the_disk_is_full_is_replaced_and_goes_on_when_there_is_room() {
    for (tables, during) in [("", "503"), (CONTINUE, "200")] {
        let scene = Scene::new(Who::User, "", tables);
        let disk = SmallDisk::mount(&scene);
        let mut session = scene.session(&[]);
        assert_eq!(session.does(&scene.act("http", "/before")), "200");
        disk.fill();
        let mut refused = 0;
        eventually("nothing is kept", || {
            let answer = session.does(&scene.act("http", "/full"));
            refused += u64::from(answer == "503");
            answer == during
                && String::from_utf8(scene.install.portcullis(["ps"]).stdout)
                    .unwrap()
                    .contains("[audit ")
        });
        let writer = scene.writer();
        kill(writer, Signal::SIGKILL).unwrap();
        eventually("another writer", || scene.writer() != writer);
        assert_eq!(session.does(&scene.act("http", "/during")), during);
        refused += u64::from(during == "503");
        disk.free();
        eventually("room", || {
            let answer = session.does(&scene.act("http", "/after"));
            refused += u64::from(answer == "503");
            answer == "200"
        });
        eventually("the record", || scene.count("log.resumed") == 1);
        let (status, errors) = session.end();
        assert_eq!(status, Some(0), "{errors}");
        scene.assert_verified();
        // What the first writer held or refused died with it, and is counted by the gate; what the second refused, by itself.
        let records = scene.records();
        let lost = lost(&records, "egress.decided");
        if during == "503" {
            assert_eq!(lost, refused, "{records:#?}");
        } else {
            assert!(scene.count("records.lost") > 0, "{records:#?}");
        }
        assert_order(&scene.records(), ["/before", "log.resumed", "records.lost"]);
    }
}
