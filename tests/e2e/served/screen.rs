//! The whole-screen Codex in a session of the service: it outlives its terminal, and its user comes back to it.

use std::fs;
use std::os::unix::fs::MetadataExt;

use serde_json::{Value, json};

use super::scene::Served;
use crate::cli::Run;
use crate::codex_install::{CodexVersion, VERSIONS};
use crate::scene::{Transport, configuration, judged, only_the_model};
use crate::screen::Person;
use crate::service::{ADA, OPERATOR};

const PROMPT: &str = "make-it-so-4421";
const ANSWER: &str = "thought-of-it-9137";
const DETACH: &str = "\x1dd";

/// [`ADA`] in ada of the session, at a terminal of her own.
fn attach(served: &Served) -> Person {
    let mut command = served.host.portcullis(ADA, &["attach", "screen"]);
    command.env("TERM", "xterm-256color").current_dir("/");
    Person::at(&command, (40, 120))
}

/// A host for one who has told Codex that the folder is to be trusted: else it asks that first.
fn trusting(version: CodexVersion) -> Served {
    let script = json!([{ "run": "echo made > made.txt" }, { "say": ANSWER }]);
    let served = Served::new(version, Transport::WebSocket, &script);
    let work = served.host.work(ADA);
    let trust = format!(
        "[projects.{:?}]\ntrust_level = \"trusted\"\n",
        work.to_str().unwrap()
    );
    let text = configuration(&served.stub, Transport::WebSocket) + &trust;
    served.give(ADA, ".codex/config.toml", &text);
    served
}

/// Asks Codex for something, and reads its answer.
#[track_caller]
fn talk(version: CodexVersion, served: &Served, ada: &mut Person) {
    ada.sees(&["›", "stub default"]);
    ada.terminal.types(PROMPT);
    ada.sees(&[PROMPT]);
    ada.terminal.types("\r");
    finds(version, ada);
    let made = served.workspace_file("made.txt");
    assert_eq!(fs::read_to_string(&made).unwrap(), "made\n");
    assert_eq!(fs::metadata(&made).unwrap().uid(), ADA.uid);
}

/// She has the talk before her, and can go on.
#[track_caller]
fn finds(version: CodexVersion, ada: &Person) {
    match version {
        // Prints what was said once, and draws below it. How much of it a new size wipes out is a matter of when its
        // questions about the cursor are answered.
        CodexVersion::Oldest => {
            ada.terminal.shows(ANSWER);
            ada.sees(&["›"]);
        }
        CodexVersion::Newest => ada.sees(&[PROMPT, ANSWER]),
    }
}

/// Of the log: who came and went, and that it holds.
#[track_caller]
fn assert_recorded(served: &Served, came_and_went: &[&str]) {
    let records = served.records();
    let mut judged = judged(&records);
    // The newest Codex would have news to show.
    judged.retain(|(_, _, verdict)| verdict != "deny");
    assert_eq!(judged, only_the_model(&served.stub));
    let by_her = records.iter().filter(|record| record["by"] == "ada");
    let by_her: Vec<_> = by_her.map(|record| &record["event"]).collect();
    assert_eq!(by_her, came_and_went);
    served.assert_verified();
}

#[test]
fn a_codex_that_was_left_is_found_again_with_its_answer() {
    for version in VERSIONS {
        let served = trusting(version);
        let flags = ["-d", "--name", "screen", "-p", "model"];
        let started = Run::of(&served.command(&flags, &[]).output().unwrap());
        assert_eq!(started.status, Some(0), "{version:?}: {started:#?}");
        let id = started.stdout.trim();
        let mut ada = attach(&served);
        talk(version, &served, &mut ada);
        ada.resize(30, 90, "›");
        finds(version, &ada);

        let operators = |words: &[&str]| {
            let run = served.host.run(OPERATOR, words);
            assert_eq!(run.status, Some(0), "{run:#?}");
            run.stdout
        };
        assert!(operators(&["ps", "--all"]).contains("ada/screen"));
        let shown = operators(&["show", "--json", "screen"]);
        let shown: Value = serde_json::from_str(&shown).unwrap();
        let of_it = ["session", "user", "profile", "argv"].map(|key| &shown["session"][key]);
        assert_eq!(json!(of_it), json!([id, "ada", "model", ["codex"]]));

        ada.terminal.types(DETACH);
        assert_eq!(ada.terminal.status(), Some(0), "{version:?}");
        let mut ada = attach(&served);
        finds(version, &ada);
        let stopped = served.host.run(ADA, &["stop", "screen"]);
        assert_eq!((stopped.status, stopped.stdout.trim()), (Some(0), id));
        assert_eq!(ada.terminal.status(), Some(143), "SIGTERM");
        let logs = served.host.run(ADA, &["logs", id]);
        assert_eq!(logs.status, Some(0), "{logs:#?}");
        assert!(logs.stdout.contains("Codex"), "{logs:#?}");
        let came_and_went = [
            "session.attached",
            "session.detached",
            "session.attached",
            "session.stopping",
            "session.detached",
        ];
        assert_recorded(&served, &came_and_went);
    }
}

#[test]
fn a_person_talks_with_codex_and_leaves_it_with_its_own_status() {
    for version in VERSIONS {
        let served = trusting(version);
        let mut command = served.command(&["-p", "model"], &[]);
        let mut ada = Person::at(command.current_dir("/"), (40, 120));
        talk(version, &served, &mut ada);
        ada.resize(30, 90, "›");
        finds(version, &ada);
        ada.terminal.types("/quit");
        ada.sees(&["/quit"]);
        ada.terminal.types("\r");
        assert_eq!(ada.terminal.status(), Some(0), "{version:?}");
        assert_recorded(&served, &["session.attached", "session.detached"]);
    }
}
