//! The gate is killed.

use std::fs;

use nix::sys::signal::{Signal, kill};
use serde_json::json;

use crate::cli::EVERYONE;
use crate::support::{ALLOWED, DENIED, Scene, eventually};

#[test]
fn requests_go_on_by_every_door_and_who_is_denied_stays_so() {
    for who in EVERYONE {
        let scene = Scene::new(who, "transparent = true", "");
        let mut session = scene.session(&[]);
        let doors = ["http", "socks", "plain"];
        let allowed = doors.map(|door| json!([door, ALLOWED, scene.allowed.port()]));
        let denied = doors.map(|door| json!([door, DENIED, scene.denied.port()]));
        session.begin(&json!(["forever", "stop", allowed, denied]));
        for _ in 0..3 {
            // In the middle of the loop, each time.
            let before = scene.allowed.log.connections();
            eventually("a round of the loop", || {
                scene.allowed.log.connections() > before + 4
            });
            scene.kill_gate();
        }
        let before = scene.allowed.log.connections();
        eventually("the last round", || {
            scene.allowed.log.connections() > before + 10
        });
        fs::write(scene.install.path("work/stop"), "").unwrap();
        let said = session.said();
        let (status, errors) = session.end();
        assert_eq!(status, Some(0), "{who:?}: {errors}");
        for one in &said {
            let expected: &[&str] = match (one.act.as_str(), one.host.as_str()) {
                // What was under way when the gate died is closed.
                (_, ALLOWED) => &["200", "closed"],
                ("http", _) => &["403", "closed"],
                ("socks", _) => &["reply 2", "closed"],
                _ => &["no such name", "closed"],
            };
            assert!(expected.contains(&one.outcome.as_str()), "{who:?}: {one:?}");
        }
        let closed = said.iter().filter(|one| one.outcome == "closed").count();
        assert!(closed <= 3, "{who:?}: one at a time is under way: {said:?}");
        let last = &said[said.len() - 6..];
        assert!(last.iter().all(|one| one.outcome != "closed"), "{last:?}");
        scene.assert_enforced(&said);
        let told = "the gate died and another one took its place";
        assert_eq!(errors.matches(told).count(), 3, "{errors}");
        assert_eq!(
            (scene.count("gate.restarted"), scene.count("gate.lost")),
            (3, 0)
        );
        scene.assert_verified();
    }
}

#[test]
fn what_connects_while_there_is_no_gate_waits_for_the_next() {
    for who in EVERYONE {
        let scene = Scene::new(who, "transparent = true", "");
        let mut session = scene.session(&[]);
        // The session cannot start another one while it is stopped.
        kill(session.pid(), Signal::SIGSTOP).unwrap();
        let gate = scene.gate();
        kill(gate, Signal::SIGKILL).unwrap();
        eventually("the end of the gate", || {
            // Its session does not reap it yet: a zombie has no program.
            fs::read_link(format!("/proc/{gate}/exe")).is_err()
        });
        session.begin(&scene.act("http", "/waits"));
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert_eq!(scene.allowed.log.connections(), 0, "nobody serves");
        kill(session.pid(), Signal::SIGCONT).unwrap();
        assert_eq!(session.outcome(), "200");
        for door in ["socks", "plain"] {
            assert_eq!(session.does(&scene.act(door, "/later")), "200", "{door}");
        }
        session.end();
        let restarted = scene.records();
        let restarted = restarted
            .iter()
            .find(|record| record["event"] == "gate.restarted");
        assert!(restarted.unwrap()["ms"].is_u64());
        scene.assert_verified();
    }
}

#[test]
fn the_sixth_death_within_a_minute_is_the_last() {
    let scene = Scene::new(crate::cli::Who::User, "", "");
    let mut session = scene.session(&[]);
    for _ in 0..5 {
        assert_eq!(session.does(&scene.act("http", "/")), "200");
        scene.kill_gate();
    }
    assert_eq!(session.does(&scene.act("http", "/")), "200");
    kill(scene.gate(), Signal::SIGKILL).unwrap();
    eventually("no gate", || {
        session.does(&scene.act("http", "/")) == "refused"
    });
    let (status, errors) = session.end();
    assert_eq!(status, Some(0));
    let lost = "the gate died: this session has no network any more";
    assert!(errors.contains(lost), "{errors}");
    assert_eq!(
        (scene.count("gate.restarted"), scene.count("gate.lost")),
        (5, 1)
    );
    scene.assert_verified();
}
