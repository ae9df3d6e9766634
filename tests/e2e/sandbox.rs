//! The jail is Codex's sandbox: a mode on Codex's command line narrows the jail, and commands still run.

use serde_json::json;

use crate::cli::{Install, Run, Who};
use crate::codex_install::{self, CodexVersion, VERSIONS};
use crate::scene::Scene;

/// What the model is told of a command that tries to write, and what is on the host afterwards.
fn write_under(version: CodexVersion, flags: &[&str]) -> (String, Option<String>) {
    let script = json!([
        { "run": "echo ran; echo text > made.txt || echo refused; grep NoNewPrivs: /proc/self/status" },
        { "say": "done" },
    ]);
    let scene = Scene::new(version, &script);
    let run = scene.exec(&[flags, &["write"]].concat());
    assert_eq!(run.status, Some(0), "{version:?} {flags:?}: {run:?}");
    let output = scene.stub.outputs().remove(0);
    // Codex's own bubblewrap cannot start in the jail: had it been tried, nothing would have run.
    assert!(output.contains("ran"), "{version:?} {flags:?}: {output}");
    (output, scene.workspace_file("made.txt"))
}

#[test]
fn a_narrower_mode_on_codexs_line_narrows_the_jail() {
    for version in VERSIONS {
        for flags in [
            &["-s", "read-only"][..],
            &["--sandbox=read-only"],
            &["-c", "sandbox_mode=\"read-only\""],
        ] {
            let (output, made) = write_under(version, flags);
            assert!(
                output.contains("refused"),
                "{version:?} {flags:?}: {output}"
            );
            assert_eq!(made, None, "{version:?} {flags:?}");
        }
    }
}

#[test]
fn any_other_mode_leaves_the_workspace_writable() {
    for version in VERSIONS {
        for flags in [
            &[][..],
            &["-s", "workspace-write"],
            &["--dangerously-bypass-approvals-and-sandbox"],
        ] {
            let (output, made) = write_under(version, flags);
            assert_eq!(
                made.as_deref(),
                Some("text\n"),
                "{version:?} {flags:?}: {output}"
            );
        }
    }
    let (output, made) = write_under(CodexVersion::Oldest, &["--full-auto"]);
    assert_eq!(made.as_deref(), Some("text\n"), "{output}");
    let (output, made) = write_under(CodexVersion::Newest, &["--approve-for-me"]);
    assert_eq!(made.as_deref(), Some("text\n"), "{output}");
}

#[test]
fn a_host_without_bubblewrap_uses_the_one_that_codex_brings() {
    let install = Install::new(Who::Root);
    let path = codex_install::bin(&CodexVersion::Newest.folder());
    let mut command = install.command(["run", "--", "/bin/true"]);
    let run = Run::of(&command.env("PATH", path).output().unwrap());
    assert_eq!(run.status, Some(0), "{run:#?}");
    let bwrap = &install.events("session.started")[0]["isolation"]["bwrap"];
    assert!(
        bwrap.as_str().unwrap().starts_with("bubblewrap "),
        "{bwrap}"
    );
}
