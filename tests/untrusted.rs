//! What a session can write is believed nowhere outside of the jail, by this session or the next.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests may panic and start programs"
)]

#[path = "support/cli.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod cli;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use cli::{EVERYONE, Install, Run, Who};

fn executable(install: &Install, place: &str, text: &str) -> String {
    let path = install.write(place, &format!("#!/bin/sh\n{text}\n"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

/// Runs a shell in the jail, with these variables for the session.
fn shell(install: &Install, flags: &[&str], variables: &[(&str, &Path)], script: &str) -> Run {
    let arguments = [&["run"], flags, &["--", "sh", "-c", script]].concat();
    let mut command = install.command(arguments);
    command.envs(variables.iter().copied());
    Run::of(&command.output().unwrap())
}

#[test]
fn a_session_in_the_home_cannot_make_the_profile_of_the_next() {
    for who in EVERYONE {
        let install = Install::new(who);
        let home = install.path("home").display().to_string();
        let script = "mkdir -p .config/portcullis/profiles; \
                      echo 'extends = \"offline\"' > .config/portcullis/profiles/base.toml; \
                      mv .config moved; mv .local moved; echo fine > .config/other";
        let run = shell(&install, &["-C", &home], &[], script);
        assert_eq!(run.status, Some(0), "{who:?}: {run:?}");
        assert!(install.path("home/.config/other").exists(), "{who:?}");
        let folder = install.path("home/.config/portcullis");
        let entries: Vec<_> = fs::read_dir(folder).unwrap().collect();
        assert!(entries.is_empty(), "{who:?}: {entries:?}");
        assert!(!install.path("home/moved").exists(), "{who:?}");
    }
}

#[test]
fn a_session_that_cannot_see_the_folder_of_profiles_does_not_get_one_made() {
    let install = Install::new(Who::User);
    assert_eq!(install.run(&[], &["true"]).status, Some(0));
    assert!(!install.path("home/.config").exists());
}

#[test]
fn a_bubblewrap_of_the_workspace_is_not_started_through_a_link_either() {
    for who in EVERYONE {
        let install = Install::new(who);
        let ran = install.path("home/ran").display().to_string();
        executable(
            &install,
            "work/bwrap",
            &format!("echo >> {ran}; exec /usr/bin/bwrap \"$@\""),
        );
        install.write("tools/other", "");
        symlink(install.path("work/bwrap"), install.path("tools/bwrap")).unwrap();
        let path = format!("{}:/usr/bin:/bin", install.path("tools").display());
        let run = shell(&install, &[], &[("PATH", Path::new(&path))], "echo in");
        assert_eq!(
            (run.status, run.stdout.as_str()),
            (Some(0), "in\n"),
            "{who:?}: {run:?}"
        );
        assert!(!install.path("home/ran").exists(), "{who:?}");
    }
}

#[test]
fn files_that_a_link_of_the_workspace_leads_to_are_not_shown() {
    for who in EVERYONE {
        let install = Install::new(who);
        let secret = install.write("secret", "secret\n");
        install.write("work/codex/config.toml", "model = \"own\"\n");
        install.write("work/kept.pem", "kept\n");
        for link in ["work/codex/AGENTS.md", "work/led.pem"] {
            symlink(&secret, install.path(link)).unwrap();
        }
        let (codex, kept, led) = (
            install.path("work/codex"),
            install.path("work/kept.pem"),
            install.path("work/led.pem"),
        );
        let variables = [
            ("CODEX_HOME", codex.as_path()),
            ("SSL_CERT_FILE", &kept),
            ("PIP_CERT", &led),
        ];
        let flags = ["-p", "codex", "--env", "SSL_CERT_FILE", "--env", "PIP_CERT"];
        let script = format!(
            "cat ~/.codex/config.toml ~/.codex/AGENTS.md {0}/kept.pem {0}/led.pem",
            install.work().display()
        );
        let run = shell(&install, &flags, &variables, &script);
        assert_eq!(run.stdout, "model = \"own\"\nkept\n", "{who:?}: {run:?}");
    }
}

#[test]
fn an_approvals_command_that_the_session_could_change_starts_no_session() {
    let install = Install::new(Who::User);
    let said = |command: &str, mode: &str| {
        let text = format!("[approvals]\ncommand = {command}\n");
        install.write("home/.config/portcullis/profiles/p.toml", &text);
        let run = install.run(&["-p", "p", "--mode", mode], &["true"]);
        (
            run.status,
            run.stderr.contains("the session could change it"),
        )
    };
    let answer = "echo '{\"verdict\":\"allow\"}'";
    // What an interpreter is named with is a program as well.
    let script = executable(&install, "work/decide", answer);
    let (refused, fine) = ((Some(125), true), (Some(0), false));
    assert_eq!(
        said(&format!("[\"/bin/sh\", {script:?}]"), "workspace-write"),
        refused
    );
    // An owner can change what the modes of today forbid.
    let own = executable(&install, "tools/decide", answer);
    for place in ["tools/decide", "tools"] {
        install.own(place);
        fs::set_permissions(install.path(place), fs::Permissions::from_mode(0o555)).unwrap();
    }
    assert_eq!(said(&format!("[{own:?}]"), "workspace-write"), fine);
    assert_eq!(said(&format!("[{own:?}]"), "danger-full-access"), refused);
    assert_eq!(said("[\"/bin/true\"]", "danger-full-access"), fine);
    fs::set_permissions(install.path("tools"), fs::Permissions::from_mode(0o755)).unwrap();
}
