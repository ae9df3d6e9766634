//! The whole-screen Codex in a session that outlives its terminal.

use serde_json::json;

use crate::cli::Run;
use crate::codex_install::VERSIONS;
use crate::scene::Scene;
use crate::screen::Person;

#[test]
fn a_detached_codex_draws_its_screen_for_whoever_attaches() {
    for version in VERSIONS {
        let scene = Scene::new(version, &json!([{ "say": "done" }]));
        let mut command = scene.command(&["run", "-d"], &["codex"]);
        command.env("TERM", "xterm-256color");
        let started = Run::of(&command.output().unwrap());
        assert_eq!(started.status, Some(0), "{version:?}: {started:?}");
        let mut attach = scene.install.command(["attach"]);
        attach.env("TERM", "xterm-256color");
        for round in 1..=2 {
            let mut person = Person::at(&attach, (40, 120));
            person.sees(&["›"]);
            person.terminal.types("\x1dd");
            assert_eq!(person.terminal.status(), Some(0), "{version:?} {round}");
        }
        let stopped = Run::of(&scene.install.portcullis(["stop"]));
        assert_eq!(stopped.status, Some(0), "{version:?}: {stopped:?}");
    }
}
