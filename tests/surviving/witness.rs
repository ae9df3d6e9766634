//! The witness is killed.

use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::cli::EVERYONE;
use crate::support::{Scene, eventually};

/// What the record of the request with this path says of who made it.
fn made(scene: &Scene, path: &str) -> (bool, Value) {
    let records = scene.records();
    let decided = records
        .iter()
        .find(|record| record["event"] == "egress.decided" && record["path"] == path);
    let decided = decided.unwrap();
    (
        decided.get("process").is_some(),
        decided["process_unknown"].clone(),
    )
}

#[test]
fn another_one_takes_its_place_up_to_five_times_a_minute_and_requests_go_on() {
    for who in EVERYONE {
        let scene = Scene::new(who, "", "");
        let mut session = scene.session(&[]);
        let mut paths = 0;
        let mut ask = |session: &mut crate::support::Session| {
            paths += 1;
            let path = format!("/{paths}");
            assert_eq!(session.does(&scene.act("http", &path)), "200");
            made(&scene, &path)
        };
        for round in 1..=5 {
            assert_eq!(ask(&mut session), (true, Value::Null), "{who:?}");
            kill(scene.witness(), Signal::SIGKILL).unwrap();
            scene.until("witness.restarted", round);
            // The record comes before the gate is told.
            eventually("a name", || ask(&mut session).0);
        }
        kill(scene.witness(), Signal::SIGKILL).unwrap();
        scene.until("witness.lost", 1);
        for _ in 0..3 {
            assert_eq!(ask(&mut session), (false, "no_witness".into()), "{who:?}");
        }
        // The next gate has none to ask either.
        scene.kill_gate();
        assert_eq!(ask(&mut session), (false, "no_witness".into()), "{who:?}");
        let (status, errors) = session.end();
        assert_eq!(status, Some(0));
        let told = "the witness died and another one took its place";
        assert_eq!(errors.matches(told).count(), 5, "{errors}");
        let lost = "the witness died: records name no process from now on";
        assert_eq!(errors.matches(lost).count(), 1, "{errors}");
        assert_eq!(
            (
                scene.count("witness.restarted"),
                scene.count("witness.lost")
            ),
            (5, 1)
        );
        scene.assert_verified();
        let id = scene.records()[0]["session"].as_str().unwrap().to_owned();
        let shown = scene.install.portcullis(["audit", "show", &id]);
        let shown = String::from_utf8(shown.stdout).unwrap();
        assert!(shown.contains("witness    restarted 5 times"), "{shown}");
    }
}
