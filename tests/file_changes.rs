//! What the record of a session's end says of the files that the session left.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests may panic and start programs"
)]

#[path = "support/cli.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod cli;

use cli::{EVERYONE, Install, Who};
use serde_json::{Value, json};

/// Lets what was written become older than a session that starts now: the clock that tells its beginning moves in
/// steps, and what changed within one counts as the session's.
fn grow_old() {
    std::thread::sleep(std::time::Duration::from_millis(100));
}

/// The `files` of the last record.
fn files(install: &Install) -> Value {
    let records = install.records();
    let ended = records.last().unwrap();
    assert_eq!(ended["event"], "session.ended");
    ended["files"].clone()
}

#[test]
fn a_session_that_only_looks_has_changed_nothing() {
    for who in EVERYONE {
        let install = Install::new(who);
        install.write("work/Makefile", "all:");
        install.write("work/.git/config", "");
        grow_old();
        install.run(&[], &["sh", "-c", "cat Makefile; ls -la .git"]);
        let none = json!({"created": 0, "modified": 0, "complete": true, "executed_later": []});
        assert_eq!(files(&install), none, "{who:?}");
    }
}

#[test]
fn what_a_session_leaves_is_counted_and_what_others_execute_is_named() {
    for who in EVERYONE {
        let install = Install::new(who);
        install.write("work/Makefile", "all:");
        install.write("work/src/main.c", "int main;");
        // A file of the same age that nobody touches.
        install.write("work/package.json", "{}");
        grow_old();
        let script = "mkdir -p lib .github/workflows; echo all: evil >> Makefile; touch lib/evil.pth notes \
                      .github/workflows/ci.yml; rm src/main.c; cp /bin/true tool; touch -d 1990-01-01 notes";
        install.run(&[], &["sh", "-c", script]);
        let work = install.work().canonicalize().unwrap();
        let path = |name: &str| work.join(name).to_str().unwrap().to_owned();
        let expected = json!({
            "created": 4,
            "modified": 1,
            "complete": true,
            "executed_later": [
                {"path": path("Makefile"), "created": false, "by": "build"},
                {"path": path("lib/evil.pth"), "created": true, "by": "python"},
                {"path": path(".github/workflows/ci.yml"), "created": true, "by": "pipeline"},
                {"path": path("tool"), "created": true, "by": "anybody"},
            ],
        });
        assert_eq!(files(&install), expected, "{who:?}");
        let records = install.records();
        let session = records[0]["session"].as_str().unwrap();
        let shown = install.portcullis(["audit", "show", session]);
        let shown = String::from_utf8(shown.stdout).unwrap();
        assert!(
            shown.contains(
                "files      4 files created, 1 modified, 4 of them executed later by others"
            ),
            "{shown}"
        );
        assert!(
            shown.contains(&format!("modified {} (by build)", path("Makefile"))),
            "{shown}"
        );
    }
}

#[test]
fn a_folder_beside_the_workspace_counts_when_it_could_be_written() {
    let install = Install::new(Who::User);
    install.write("more/keep", "");
    install.own("more");
    let more = install.path("more").canonicalize().unwrap();
    let more = more.to_str().unwrap();
    let command = format!("touch {more}/.bashrc");
    install.run(&["--rw", more], &["sh", "-c", &command]);
    let by_shell = json!([{"path": format!("{more}/.bashrc"), "created": true, "by": "shell"}]);
    assert_eq!(files(&install)["executed_later"], by_shell);
}

#[test]
fn nothing_is_said_of_a_workspace_that_cannot_be_written_or_when_nobody_wants_it() {
    let install = Install::new(Who::User);
    install.write("read-only.toml", "[filesystem]\nmode = \"read-only\"\n");
    install.write("silent.toml", "[audit]\nfile_changes = false\n");
    for profile in ["read-only.toml", "silent.toml"] {
        let profile = install.path(profile);
        let run = install.run(
            &["-p", profile.to_str().unwrap()],
            &["sh", "-c", "touch Makefile; true"],
        );
        assert_eq!(run.status, Some(0), "{}", run.stderr);
        assert_eq!(files(&install), Value::Null, "{}", profile.display());
    }
}
