//! Bad input to `portcullis run`: one line with cause and cure, and the exit code that says whose fault.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests may panic and start programs"
)]

#[path = "support/cli.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod cli;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use cli::{EVERYONE, Install, Run, Who};

/// The run failed with this status and one line that has every one of these parts.
#[track_caller]
fn assert_complains(run: &Run, status: i32, parts: &[&str]) {
    let (actual, lines) = run.complaint();
    assert_eq!((actual, lines.len()), (Some(status), 1), "{run:#?}");
    for part in parts {
        assert!(run.stderr.contains(part), "no {part:?} in {:?}", run.stderr);
    }
    assert!(run.stderr.starts_with("portcullis: "), "{:?}", run.stderr);
}

#[test]
fn without_bubblewrap_it_says_how_to_install_it() {
    for who in EVERYONE {
        let install = Install::new(who);
        let empty = install.path("home").display().to_string();
        let output = install
            .command(["run", "--", "/bin/true"])
            .env("PATH", empty)
            .output()
            .unwrap();
        assert_complains(
            &Run::of(&output),
            125,
            &["bubblewrap is not installed", "install the package"],
        );
    }
}

#[test]
fn an_old_bubblewrap_is_named_with_the_version_it_needs() {
    let install = Install::new(Who::Root);
    let fake = install.write("old/bwrap", "#!/bin/sh\necho bubblewrap 0.4.1\n");
    fs::set_permissions(&fake, fs::Permissions::from_mode(0o755)).unwrap();
    let path = install.path("old").display().to_string();
    let output = install
        .command(["run", "--", "/bin/true"])
        .env("PATH", path)
        .output()
        .unwrap();
    assert_complains(&Run::of(&output), 125, &["0.4.1", "0.8"]);
}

#[test]
fn an_unknown_profile_is_answered_with_the_nearest_and_the_list() {
    let run = Install::new(Who::User).run(&["-p", "codx"], &["/bin/true"]);
    assert_complains(&run, 125, &["codx", "codex", "registries"]);
}

#[test]
fn a_typo_in_a_profile_is_answered_with_its_key_path_and_the_nearest_key() {
    let install = Install::new(Who::User);
    let file = install.write(
        "work/p.toml",
        "extends = \"base\"\n[network]\nenabeld = true\n",
    );
    let run = install.run(&["-p", &file.display().to_string()], &["/bin/true"]);
    assert_complains(&run, 125, &["network.enabeld", "enabled"]);
}

#[test]
fn a_missing_workspace_is_named() {
    let run = Install::new(Who::User).run(&["-C", "nowhere"], &["/bin/true"]);
    assert_complains(&run, 125, &["nowhere", "No such file", "-C DIR"]);
}

#[test]
fn the_root_folder_is_no_workspace() {
    for who in EVERYONE {
        let run = Install::new(who).run(&["-C", "/"], &["/bin/true"]);
        assert_complains(&run, 125, &["workspace /", "no workspace", "-C DIR"]);
    }
}

#[test]
fn an_unreadable_workspace_is_named() {
    let install = Install::new(Who::User);
    let secret = install.path("secret");
    fs::create_dir(&secret).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o700)).unwrap();
    let run = install.run(&["-C", &secret.display().to_string()], &["/bin/true"]);
    assert_complains(&run, 125, &["secret", "Permission denied"]);
}

#[test]
fn a_command_that_is_nowhere_is_127() {
    for who in EVERYONE {
        let run = Install::new(who).run(&[], &["no-such-command"]);
        assert_complains(&run, 127, &["no-such-command", "not found"]);
    }
}

#[test]
fn a_command_that_only_the_host_has_is_127_with_the_flag_that_shows_it() {
    let install = Install::new(Who::User);
    let tool = install.write("home/bin/tool", "#!/bin/sh\nexit 7\n");
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
    let folder = tool.parent().unwrap().display().to_string();
    let path = format!("{folder}:/usr/bin:/bin");
    let run = |flags: &[&str]| {
        let arguments = [&["run"], flags, &["--", "tool"]].concat();
        Run::of(
            &install
                .command(arguments)
                .env("PATH", &path)
                .output()
                .unwrap(),
        )
    };
    assert_complains(&run(&[]), 127, &["tool", &format!("--ro {folder}")]);
    assert_eq!(
        run(&["--ro", &folder]).status,
        Some(7),
        "the flag it named works"
    );
}

#[test]
fn a_file_that_is_not_executable_is_126() {
    let install = Install::new(Who::User);
    install.write("work/data", "no program\n");
    assert_complains(&install.run(&[], &["./data"]), 126, &["./data"]);
}

#[test]
fn a_taken_port_is_named_with_its_profile_key() {
    let install = Install::new(Who::User);
    let text = "extends = \"base\"\n[network]\nhttp_port = 8081\n";
    let file = install.write("work/p.toml", text).display().to_string();
    assert_complains(
        &install.run(&["-p", &file], &["/bin/true"]),
        125,
        &["127.0.0.1:8081", "network.socks_port"],
    );
}

#[test]
fn an_audit_folder_that_cannot_be_written_stops_the_start() {
    let install = Install::new(Who::User);
    let locked = install.path("locked");
    fs::create_dir(&locked).unwrap();
    let output = install
        .command(["run", "--", "/bin/touch", "ran"])
        .env("XDG_STATE_HOME", &locked)
        .output()
        .unwrap();
    assert_complains(
        &Run::of(&output),
        125,
        &["audit", "locked", "Permission denied"],
    );
    assert!(!install.work().join("ran").exists(), "no record, no start");
}

#[test]
fn a_bad_flag_is_a_usage_error() {
    let run = Install::new(Who::User).run(&["--alow", "x"], &["/bin/true"]);
    assert_eq!(run.status, Some(64));
    assert!(run.stderr.contains("--allow"), "{}", run.stderr);
}

#[test]
fn a_port_in_allow_that_is_none_is_named() {
    let run = Install::new(Who::User).run(&["--allow", "example.com:0"], &["/bin/true"]);
    assert_complains(&run, 125, &["--allow", "example.com:0"]);
}

#[test]
fn a_bubblewrap_that_the_workspace_brings_is_never_executed() {
    let install = Install::new(Who::User);
    let fake = install.write("work/bin/bwrap", "#!/bin/sh\ntouch executed-outside\n");
    fs::set_permissions(&fake, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", install.path("work/bin").display());
    let run = |arguments: &[&str]| {
        let arguments = [&["run"], arguments, &["--", "/bin/true"]].concat();
        Run::of(
            &install
                .command(arguments)
                .env("PATH", &path)
                .output()
                .unwrap(),
        )
    };
    assert_eq!(run(&[]).status, Some(0));
    assert!(!install.work().join("executed-outside").exists());
    let elsewhere = install.path("home").display().to_string();
    assert_ne!(
        run(&["-C", &elsewhere]).status,
        Some(0),
        "the twin, from another workspace, is executed"
    );
    assert!(install.work().join("executed-outside").exists());
}

#[test]
fn a_bubblewrap_that_fails_is_quoted_with_what_to_look_at() {
    let install = Install::new(Who::User);
    let script = "#!/bin/sh\n[ \"$1\" = --version ] && exec echo bubblewrap 0.9.0\necho 'bwrap: no luck' >&2\nexit 1\n";
    let fake = install.write("fake/bwrap", script);
    fs::set_permissions(&fake, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", install.path("fake").display());
    let output = install
        .command(["run", "--", "/bin/true"])
        .env("PATH", path)
        .output()
        .unwrap();
    let run = Run::of(&output);
    let (status, lines) = run.complaint();
    assert_eq!(
        (status, lines.len(), lines.first()),
        (Some(125), 2, Some(&"bwrap: no luck")),
        "{run:#?}"
    );
    assert!(
        run.stderr.contains("the jail did not start")
            && run.stderr.contains("user.max_user_namespaces")
    );
    assert_eq!(
        fs::read_dir(install.work()).unwrap().count(),
        0,
        "placeholders are gone"
    );
}
