//! Codex does its work: it reaches the model, runs commands, changes the workspace.

use std::process::Command;

use serde_json::json;

use crate::cli::{EVERYONE, Who};
use crate::codex_install::{CodexVersion, VERSIONS};
use crate::scene::{Model, Scene, Transport};
use crate::stub::NAME;

#[test]
fn codex_edits_the_workspace_and_talks_to_the_model_alone() {
    let script = json!([
        { "run": "printf 'one\\n' > notes.txt" },
        { "patch": "*** Begin Patch\n*** Update File: notes.txt\n@@\n-one\n+two\n*** End Patch\n" },
        { "say": "done" },
    ]);
    for version in VERSIONS {
        for (transport, word) in [(Transport::Sse, "sse"), (Transport::WebSocket, "websocket")] {
            let codex = version.folder();
            let scene = Scene::with(Who::Root, codex, transport, Model::Allowed, &script);
            let run = scene.exec(&["edit"]);
            assert_eq!(run.status, Some(0), "{version:?} {word}: {run:?}");
            assert_eq!(scene.workspace_file("notes.txt").as_deref(), Some("two\n"));
            assert_eq!(scene.judged(), scene.only_the_model());
            let requests = scene.stub.requests();
            assert!(requests.len() >= 3, "{version:?} {word}: {requests:?}");
            let host = format!("{NAME}:{}", scene.stub.port);
            for request in requests {
                assert_eq!(
                    (
                        &request["transport"],
                        &request["sni"],
                        &request["host"],
                        &request["authorization"],
                    ),
                    (&json!(word), &json!(NAME), &json!(host), &json!(true)),
                    "{version:?}"
                );
            }
        }
    }
}

#[test]
fn an_ordinary_user_gets_the_same() {
    let script = json!([{ "run": "id -u > who.txt" }, { "say": "done" }]);
    for who in EVERYONE {
        // The checkout may be where only its owner can look.
        let install = tempfile::tempdir_in("/var/tmp").unwrap();
        let codex = install.path().join("codex");
        let copied = Command::new("cp")
            .arg("-a")
            .arg(CodexVersion::Oldest.folder())
            .arg(&codex)
            .status()
            .unwrap();
        assert!(copied.success());
        open_to_all(install.path());
        let scene = Scene::with(who, codex, Transport::Sse, Model::Allowed, &script);
        let run = scene.exec(&["who"]);
        assert_eq!(run.status, Some(0), "{who:?}: {run:?}");
        let uid = if who == Who::Root { "0\n" } else { "4001\n" };
        assert_eq!(scene.workspace_file("who.txt").as_deref(), Some(uid));
    }
}

/// In a new folder Codex's terminal interface asks for trust first, and writes the answer down or stops
/// (as sed -i does: a new file in the place of the old).
#[test]
fn codex_can_change_its_configuration_for_the_session_and_not_the_callers() {
    let script = json!([
        { "run": "sed -i '1i # changed' ~/.codex/config.toml && head -n 1 ~/.codex/config.toml" },
        { "say": "done" },
    ]);
    for version in VERSIONS {
        let scene = Scene::new(version, &script);
        let before = scene.callers_configuration();
        let run = scene.exec(&["configure"]);
        assert_eq!(run.status, Some(0), "{version:?}: {run:?}");
        let outputs = scene.stub.outputs();
        assert!(
            outputs[0].contains("# changed"),
            "{version:?}: {}",
            outputs[0]
        );
        assert_eq!(scene.callers_configuration(), before);
    }
}

#[test]
fn the_native_binary_runs_without_node() {
    let script = json!([
        { "run": "for process in /proc/[0-9]*; do readlink $process/exe; done" },
        { "say": "done" },
    ]);
    for version in VERSIONS {
        let scene = Scene::new(version, &script);
        let run = scene.exec(&["processes"]);
        assert_eq!(run.status, Some(0), "{version:?}: {run:?}");
        let outputs = scene.stub.outputs();
        let processes: Vec<_> = outputs[0].lines().collect();
        assert!(
            processes
                .iter()
                .any(|exe| exe.contains("/vendor/") && exe.ends_with("/codex")),
            "{version:?}: {processes:?}"
        );
        assert!(
            !processes.iter().any(|exe| exe.ends_with("/node")),
            "{version:?}: {processes:?}"
        );
    }
}

fn open_to_all(folder: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
}
