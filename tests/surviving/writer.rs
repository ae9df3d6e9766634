//! The audit writer is killed.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write;

use nix::sys::signal::{Signal, kill};
use serde_json::json;

use crate::cli::{EVERYONE, Who};
use crate::support::{ALLOWED, DENIED, Scene, eventually};

#[test]
fn requests_go_on_and_nothing_that_was_let_through_lacks_its_record() {
    for who in EVERYONE {
        let scene = Scene::new(who, "", "");
        let mut session = scene.session(&[]);
        let doors = ["http", "socks"];
        let allowed = doors.map(|door| json!([door, ALLOWED, scene.allowed.port()]));
        let denied = doors.map(|door| json!([door, DENIED, scene.denied.port()]));
        session.begin(&json!(["forever", "stop", allowed, denied]));
        for _ in 0..4 {
            let before = scene.allowed.log.connections();
            eventually("a round of the loop", || {
                scene.allowed.log.connections() > before + 4
            });
            scene.kill_writer();
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
            // Nobody notices: what has no record yet waits.
            let expected = match (one.act.as_str(), one.host.as_str()) {
                (_, ALLOWED) => "200",
                ("http", _) => "403",
                _ => "reply 2",
            };
            assert_eq!(one.outcome, expected, "{who:?}: {one:?}");
        }
        scene.assert_enforced(&said);
        let told = "the audit writer died and another one goes on with the log";
        assert_eq!(errors.matches(told).count(), 4, "{errors}");
        assert_eq!(scene.count("session.ended"), 1);
        scene.assert_verified();
        // Every connection that was let through has its end.
        let records = scene.records();
        let conns = |event: &str| -> BTreeSet<u64> {
            let of = records
                .iter()
                .filter(|record| record["event"] == event && record["verdict"] != "deny");
            of.map(|record| record["conn"].as_u64().unwrap()).collect()
        };
        assert_eq!(conns("egress.decided"), conns("egress.closed"));
    }
}

#[test]
fn a_tunnel_stays_open_and_its_end_is_on_record() {
    let scene = Scene::new(Who::User, "", "");
    let mut session = scene.session(&[]);
    // 64 KiB at a slow pace is under way while the writer dies.
    let body = 4 << 20;
    let port = scene.allowed.port();
    session.begin(&json!(["http", ALLOWED, port, "/up", body]));
    eventually("the first bytes", || scene.allowed.log.raw_bytes() > 0);
    scene.kill_writer();
    assert_eq!(session.outcome(), "200");
    session.end();
    let records = scene.records();
    let closed = records
        .iter()
        .find(|record| record["event"] == "egress.closed")
        .unwrap();
    assert_eq!(closed["bytes_up"], body);
    scene.assert_verified();
}

#[test]
fn both_at_once_are_replaced() {
    let scene = Scene::new(Who::User, "", "");
    let mut session = scene.session(&[]);
    assert_eq!(session.does(&scene.act("http", "/first")), "200");
    for victims in [
        [scene.gate(), scene.writer()],
        [scene.writer(), scene.gate()],
    ] {
        let before = (scene.count("gate.restarted"), scene.count("log.resumed"));
        // Where the first pair is gone by now, the second is another.
        let [one, other] = if victims.iter().all(|pid| kill(*pid, None).is_ok()) {
            victims
        } else {
            [scene.writer(), scene.gate()]
        };
        kill(one, Signal::SIGKILL).unwrap();
        kill(other, Signal::SIGKILL).unwrap();
        scene.until("gate.restarted", before.0 + 1);
        scene.until("log.resumed", before.1 + 1);
        assert_eq!(session.does(&scene.act("http", "/later")), "200");
    }
    assert_eq!(session.end().0, Some(0));
    scene.assert_verified();
}

#[test]
fn a_torn_last_line_is_cut_off_and_on_record() {
    let scene = Scene::new(Who::User, "", "");
    let mut session = scene.session(&[]);
    assert_eq!(session.does(&scene.act("http", "/before")), "200");
    scene.until("egress.closed", 1);
    // The session finds out only once the log is as a torn write leaves it.
    kill(session.pid(), Signal::SIGSTOP).unwrap();
    let writer = scene.writer();
    kill(writer, Signal::SIGKILL).unwrap();
    eventually("the end of the writer", || {
        fs::read_link(format!("/proc/{writer}/exe")).is_err()
    });
    let torn = b"{\"v\":1,\"seq\":7,\"ts\":\"20";
    let mut log = OpenOptions::new().append(true).open(scene.log()).unwrap();
    log.write_all(torn).unwrap();
    kill(session.pid(), Signal::SIGCONT).unwrap();
    scene.until("log.resumed", 1);
    assert_eq!(session.does(&scene.act("http", "/after")), "200");
    assert_eq!(session.end().0, Some(0));
    let records = scene.records();
    let resumed = records
        .iter()
        .find(|record| record["event"] == "log.resumed")
        .unwrap();
    assert_eq!(resumed["lost_bytes"], torn.len());
    scene.assert_verified();
}

#[test]
fn a_log_that_was_changed_is_not_continued_and_everything_is_refused() {
    let scene = Scene::new(Who::User, "", "");
    let mut session = scene.session(&[]);
    assert_eq!(session.does(&scene.act("http", "/before")), "200");
    scene.until("egress.closed", 1);
    kill(session.pid(), Signal::SIGSTOP).unwrap();
    kill(scene.writer(), Signal::SIGKILL).unwrap();
    let changed = fs::read_to_string(scene.log()).unwrap();
    let changed = changed.replacen(ALLOWED, DENIED, 1);
    fs::write(scene.log(), &changed).unwrap();
    let sent = scene.allowed.log.connections();
    kill(session.pid(), Signal::SIGCONT).unwrap();
    assert_eq!(session.does(&scene.act("http", "/after")), "503");
    let (status, errors) = session.end();
    assert_eq!(status, Some(0));
    assert!(errors.contains("the audit writer died: every"), "{errors}");
    assert_eq!(scene.allowed.log.connections(), sent);
    assert_eq!(fs::read_to_string(scene.log()).unwrap(), changed);
}

#[test]
fn the_sixth_death_within_a_minute_is_the_last() {
    let scene = Scene::new(Who::User, "", "");
    let mut session = scene.session(&[]);
    for _ in 0..5 {
        assert_eq!(session.does(&scene.act("http", "/")), "200");
        scene.kill_writer();
    }
    kill(scene.writer(), Signal::SIGKILL).unwrap();
    eventually("a refusal", || {
        session.does(&scene.act("http", "/")) == "503"
    });
    let (status, errors) = session.end();
    assert_eq!(status, Some(0));
    assert!(errors.contains("the audit writer died: every"), "{errors}");
    assert_eq!(scene.count("log.resumed"), 5);
}
