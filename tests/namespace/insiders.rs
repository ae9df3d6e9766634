//! What the command has, and what becomes of its session.

use std::fs;
use std::io::BufRead;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use crate::cli::Run;
use crate::scene::{Scene, Start, field, until};

#[test]
fn a_session_starts_where_nobody_may_make_a_user_namespace() {
    let mut scene = Scene::new();
    scene.forbidden = true;
    assert_eq!(scene.script(Start::Given, "echo runs"), "runs\n");
    let twin = scene.run(Start::Plain, &[], &["echo", "runs"]);
    assert_eq!((twin.status, twin.stdout.as_str()), (Some(125), ""));
    assert!(
        twin.stderr.contains("kernel.unprivileged_userns_clone"),
        "{twin:?}"
    );
    scene.forbidden = false;
    assert_eq!(scene.script(Start::Plain, "echo runs"), "runs\n");
}

#[test]
fn a_started_process_has_what_it_takes_to_be_uid_0_of_its_namespace_and_a_plain_one_nothing() {
    let scene = Scene::new();
    // CAP_KILL is 5, CAP_SETUID 7, CAP_SYS_ADMIN 21.
    for (start, capabilities, zero) in [
        (Start::Given, "00000000002000a0", scene.reserved),
        (Start::Plain, "0000000000000000", 0),
    ] {
        let mut command = scene.started(start, "/bin/cat");
        let output = command
            .args(["/proc/self/status", "/proc/self/uid_map"])
            .output();
        let said = Run::of(&output.unwrap()).stdout;
        let wanted = [
            "Uid:",
            "Gid:",
            "CapInh:",
            "CapPrm:",
            "CapEff:",
            "CapAmb:",
            "NoNewPrivs:",
        ];
        let facts: Vec<Vec<&str>> = said
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .filter(|words| wanted.contains(&words[0]))
            .collect();
        let ours = scene.uid.to_string();
        let ours = ours.as_str();
        let ids = |name| vec![name, ours, ours, ours, ours];
        let expected = vec![
            ids("Uid:"),
            ids("Gid:"),
            vec!["CapInh:", capabilities],
            vec!["CapPrm:", capabilities],
            vec!["CapEff:", capabilities],
            vec!["CapAmb:", capabilities],
            vec!["NoNewPrivs:", "0"],
        ];
        assert_eq!(facts, expected, "{start:?}");
        let map: Vec<&str> = said.lines().rev().take(2).collect();
        let first = map[1].split_whitespace().next_back().unwrap();
        let mapped = map[1].split_whitespace().nth(1).unwrap();
        if start == Start::Given {
            assert_eq!((mapped, first), (zero.to_string().as_str(), "1"));
        } else {
            assert!(said.ends_with("4294967295\n"), "{said}");
        }
    }
}

/// Owner, group, mode and kind of what a command has, and what it may do there.
const LOOK: &str = "cd; for path in . /tmp /var/tmp /dev/shm /run \"$OLDPWD\" /proc/self; do \
                    stat -c '%u %g %a %F' $path; done; \
                    for path in . /tmp /var/tmp /dev/shm /run \"$OLDPWD\"; do \
                    (umask 022; echo x > $path/made) && stat -c '%u %g %a %s' $path/made; done; \
                    (echo x >> /etc/passwd) 2>/dev/null || echo refused; \
                    (mkdir /made) 2>/dev/null || echo refused; \
                    id -u; id -g; id -un; id -gn; pwd; ls /; ls -a ~; grep -E '^(Cap|NoNew|Seccomp:)' \
                    /proc/self/status; cat /etc/passwd; tty; ulimit -c; uname -n; env | sort";

#[test]
fn for_the_command_nothing_is_different() {
    let scene = Scene::new();
    let given = scene.script(Start::Given, LOOK);
    fs::remove_file(scene.install.path("work/made")).unwrap();
    let plain = scene.script(Start::Plain, LOOK);
    assert_eq!(given, plain);
    let uid = scene.uid;
    assert!(given.starts_with(&format!(
        "{uid} {uid} 700 directory\n{uid} {uid} 1777 directory\n"
    )));
    assert!(given.contains("CapBnd:\t0000000000000000\n"), "{given}");
    assert!(given.contains("CapPrm:\t0000000000000000\n"), "{given}");
    assert!(given.contains("NoNewPrivs:\t1\n"), "{given}");
}

#[test]
fn what_the_command_makes_in_the_workspace_is_its_users() {
    let scene = Scene::new();
    scene.script(
        Start::Given,
        "mkdir folder; echo x > folder/file; ln -s x folder/link",
    );
    for name in ["folder", "folder/file", "folder/link"] {
        let metadata = scene
            .install
            .path("work")
            .join(name)
            .symlink_metadata()
            .unwrap();
        assert_eq!(
            (metadata.uid(), metadata.gid()),
            (scene.uid, scene.uid),
            "{name}"
        );
    }
}

#[test]
fn the_namespace_has_the_user_and_their_groups_under_their_own_numbers() {
    let mut scene = Scene::new();
    scene.groups = vec![scene.uid + 40, scene.uid + 41, scene.uid + 60];
    let said = scene.script(
        Start::Given,
        "cat /proc/self/uid_map; echo; cat /proc/self/gid_map; id -G",
    );
    let words = said.split_whitespace().map(|word| word.parse().unwrap());
    let words: Vec<u32> = words.collect();
    let (n, r) = (scene.uid, scene.reserved);
    let uids = [0, r, 1, n, n, 1];
    let gids = [0, r, 1, n, n, 1, n + 40, n + 40, 2, n + 60, n + 60, 1];
    let groups = [n, n + 40, n + 41, n + 60];
    assert_eq!(words, [uids.as_slice(), &gids, &groups].concat());
}

#[test]
fn a_supplementary_group_opens_what_is_the_groups_and_a_setgid_folder_passes_it_on() {
    let mut scene = Scene::new();
    let group = scene.uid + 50;
    let folder = scene.install.path("work/shared");
    fs::create_dir(&folder).unwrap();
    chown(&folder, Some(0), Some(group)).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o2770)).unwrap();
    let script = "umask 002; touch shared/file && mkdir shared/folder && touch shared/folder/below";
    let refused = scene.run(Start::Given, &[], &["sh", "-c", script]);
    assert_eq!(refused.status, Some(1), "{refused:?}");
    scene.groups = vec![group];
    scene.script(Start::Given, script);
    for (name, mode) in [("file", 0o664), ("folder", 0o2775), ("folder/below", 0o664)] {
        let metadata = folder.join(name).metadata().unwrap();
        let facts = (metadata.uid(), metadata.gid(), metadata.mode() & 0o7777);
        assert_eq!(facts, (scene.uid, group, mode), "{name}");
    }
}

#[test]
fn a_workspace_that_the_user_alone_can_enter_is_no_obstacle() {
    let mut scene = Scene::new();
    // Its group is nobody's of the namespace, so that not even uid 0 of it has a right there.
    let nobody = scene.uid + 70;
    let work = scene.install.work();
    fs::create_dir(work.join(".git")).unwrap();
    for (path, mode) in [(work.clone(), 0o700), (work.join(".git"), 0o700)] {
        chown(&path, Some(scene.uid), Some(nobody)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let script = "touch made && ls -A | grep made; touch .git/config 2>/dev/null; ls -A .git";
    let plain = scene.run(Start::Plain, &[], &["sh", "-c", script]);
    assert_eq!(plain.status, Some(0), "{plain:?}");
    fs::remove_file(work.join("made")).unwrap();
    scene.forbidden = true;
    assert_eq!(scene.run(Start::Given, &[], &["sh", "-c", script]), plain);
}

#[test]
fn a_session_whose_command_runs_can_end_its_jail_and_nothing_else() {
    let scene = Scene::new();
    let session = scene.ready(Start::Given, &[], "sleep 1000");
    let own = session.child.id();
    let sets = |process, names: [&str; 4]| names.map(|name| field(process, name));
    let names = ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"];
    let (none, kill) = ("0000000000000000", "0000000000000020");
    assert_eq!(sets(own, names), [none, kill, kill, none]);
    let mut others = 0;
    for process in scene
        .processes()
        .into_iter()
        .filter(|process| *process != own)
    {
        let sets = sets(process, names);
        // It may have ended.
        if !sets[0].is_empty() {
            // CAP_DAC_READ_SEARCH and CAP_SYS_PTRACE: to look at processes, which is all that its seccomp table lets it.
            let line = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
            let expected = if line.ends_with(b"\0witness\0") {
                [none, "0000000000080004", "0000000000080004", none]
            } else {
                [none; 4]
            };
            assert_eq!(sets, expected, "{}", field(process, "Name:"));
            others += 1;
        }
    }
    // The gate, the writer, bubblewrap twice, the command at least.
    assert!(others >= 5, "{others}");
}

#[test]
fn a_session_that_cannot_get_its_rights_says_why_and_runs_nothing() {
    let scene = Scene::new();
    // By a program in between, so that it is the session that finds itself so.
    let program = scene.install.path("bin/portcullis");
    let mut command = scene.started(Start::Given, "/usr/bin/setpriv");
    command.arg("--no-new-privs").arg(program);
    let output = command
        .args(["run", "--", "touch", "ran"])
        .output()
        .unwrap();
    let run = Run::of(&output);
    let why = "portcullis: look at the user namespace: no_new_privs is set, by which bubblewrap has no \
               rights; start the session without it";
    assert_eq!(run.complaint(), (Some(125), vec![why]));
    assert!(!scene.install.path("work/ran").exists());
}

#[test]
fn a_session_that_is_killed_leaves_nothing() {
    for profile in ["", "[network]\ntransparent = true\nmitm = true\n"] {
        let scene = Scene::new();
        let profile = format!("extends = 'base'\n{profile}");
        let profile = scene.write("profile.toml", &profile);
        let flags = ["-p", profile.to_str().unwrap()];
        let mut session = scene.ready(Start::Given, &flags, "sleep 1000 & setsid sleep 1000");
        assert!(scene.processes().len() > 5);
        session.child.kill().unwrap();
        session.child.wait().unwrap();
        scene.assert_nothing_is_left();
    }
}

#[test]
fn a_session_that_is_asked_to_end_ends_with_its_command() {
    let scene = Scene::new();
    let script = "trap 'echo caught; exit 5' TERM; echo armed; while :; do sleep 0.05; done";
    let mut session = scene.ready(Start::Given, &[], script);
    let mut line = String::new();
    session.output.read_line(&mut line).unwrap();
    assert_eq!(line, "armed\n");
    let own = nix::unistd::Pid::from_raw(session.child.id().try_into().unwrap());
    nix::sys::signal::kill(own, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(session.child.wait().unwrap().code(), Some(5));
    scene.assert_nothing_is_left();
}

#[test]
fn a_session_that_nobody_sees_is_found_and_stopped_by_its_user() {
    let scene = Scene::new();
    let started = scene.session(Start::Given, &["run", "-d", "--", "sleep", "1000"]);
    let started = Run::of(&{ started }.output().unwrap());
    assert_eq!(started.status, Some(0), "{started:?}");
    let listed = || Run::of(&scene.client(&["ps", "-q"]).output().unwrap());
    assert_eq!(listed().stdout, started.stdout);
    let stopped = scene.client(&["stop", started.stdout.trim()]).output();
    let stopped = Run::of(&stopped.unwrap());
    assert_eq!(stopped.status, Some(0), "{stopped:?}");
    until("its end", || listed().stdout.is_empty());
    scene.assert_nothing_is_left();
}

#[test]
fn a_bubblewrap_of_the_callers_is_not_executed() {
    let scene = Scene::new();
    let ran = scene.install.path("home/ran");
    let fake = format!("#!/bin/sh\n/bin/touch {}\nexit 1\n", ran.display());
    let fake = scene.write("home/bwrap", &fake);
    fs::set_permissions(&fake, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", scene.install.path("home").display());
    for (start, expected) in [
        (Start::Given, (Some(0), false)),
        (Start::Plain, (Some(125), true)),
    ] {
        let mut command = scene.session(start, &["run", "-q", "--", "true"]);
        let run = Run::of(&command.env("PATH", &path).output().unwrap());
        assert_eq!((run.status, ran.exists()), expected, "{start:?} {run:?}");
    }
}
