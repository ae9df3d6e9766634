//! A companion that hangs does not keep a session from its end.

use nix::sys::signal::{Signal, kill};

use crate::cli::Who;
use crate::support::Scene;

#[test]
fn a_stopped_gate_does_not_hang_the_end() {
    let scene = Scene::new(Who::User, "", "");
    let mut session = scene.session(&[]);
    assert_eq!(session.does(&scene.act("http", "/")), "200");
    kill(scene.gate(), Signal::SIGSTOP).unwrap();
    assert_eq!(session.end().0, Some(0));
    assert_eq!(scene.count("gate.lost"), 1);
    scene.assert_verified();
}

#[test]
fn a_stopped_writer_does_not_hang_the_end_and_the_next_one_writes_it_down() {
    let scene = Scene::new(Who::User, "", "");
    let mut session = scene.session(&[]);
    assert_eq!(session.does(&scene.act("http", "/")), "200");
    kill(scene.writer(), Signal::SIGSTOP).unwrap();
    assert_eq!(session.end().0, Some(0));
    assert_eq!(
        (scene.count("log.resumed"), scene.count("session.ended")),
        (1, 1)
    );
    scene.assert_verified();
}

#[test]
fn a_session_that_is_killed_after_a_restart_leaves_a_closed_log_and_no_process() {
    let scene = Scene::new(Who::User, "", "");
    let mut session = scene.session(&[]);
    scene.kill_gate();
    scene.kill_writer();
    assert_eq!(session.does(&scene.act("http", "/")), "200");
    session.child.kill().unwrap();
    session.child.wait().unwrap();
    scene.until("session.ended", 1);
    let records = scene.records();
    assert_eq!(records.last().unwrap()["status"], "session_lost");
    scene.assert_verified();
}
