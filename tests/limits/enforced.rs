//! Jails that want more than they may have, each with a twin that may.

use std::fs;

use serde_json::json;

use crate::cli::{EVERYONE, Install, Run, Who};
use crate::scene::{
    FORKS, HOG, Session, eventually, group_with, groups, has_groups, hits, sessions,
};

fn python(install: &Install, limits: &[&str], script: &str, argument: &str) -> Run {
    let flags: Vec<&str> = limits
        .iter()
        .flat_map(|limit| ["--limit", *limit])
        .collect();
    install.run(&flags, &["python3", "-c", script, argument])
}

fn hit(what: &str, action: &str) -> (String, String) {
    (what.to_owned(), action.to_owned())
}

// N01
#[test]
fn a_fork_bomb_is_contained() {
    for who in EVERYONE {
        let install = Install::new(who);
        if who == Who::Root && !has_groups(&install) {
            continue;
        }
        // The command itself is the first of the twenty.
        let run = python(&install, &["tasks=20"], FORKS, "100");
        let (eagain, told) = (
            "19 11\n",
            "limits.tasks of 20 reached: more processes are refused",
        );
        assert_eq!(
            (run.status, run.stdout.as_str()),
            (Some(0), eagain),
            "{run:#?}"
        );
        if who == Who::Root {
            assert_eq!(run.stderr, format!("portcullis: {told}\n"));
            assert_eq!(hits(&install), [hit("tasks", "deny")]);
        } else {
            // setrlimit(2) counts, and tells nobody.
            assert_eq!((run.stderr.as_str(), hits(&install)), ("", Vec::new()));
        }
        let run = python(&install, &["tasks=200"], FORKS, "100");
        assert_eq!(
            (run.status, run.stdout.as_str()),
            (Some(0), "100 0\n"),
            "{run:#?}"
        );
    }
}

// N01
#[test]
fn a_session_that_takes_too_much_memory_is_killed_and_another_goes_on() {
    let install = Install::new(Who::Root);
    if !has_groups(&install) {
        return;
    }
    let other = Install::new(Who::Root);
    nix::unistd::mkfifo(&other.path("work/go"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut neighbour = Session::start(
        &other,
        &["--limit", "memory=64M"],
        "echo ready; read line < go; echo still here",
    );
    let run = python(&install, &["memory=64M"], HOG, "300");
    assert_eq!(
        run.complaint(),
        (
            Some(137),
            vec![
                "portcullis: limits.memory of 64M reached: a process was killed",
                "portcullis: the command was killed: it used more than its 64M of memory \
                 (limits.memory)",
            ]
        )
    );
    assert_eq!(hits(&install), [hit("memory", "kill_process")]);
    let record = &install.events("limit.hit")[0];
    assert_eq!(
        (&record["used"], &record["max"]),
        (&json!(64 << 20), &json!(64 << 20))
    );
    fs::write(other.path("work/go"), "go\n").unwrap();
    assert_eq!(neighbour.said(), "still here");
    assert_eq!(neighbour.end(), (Some(0), String::new()));
    assert_eq!(hits(&other), []);
    let run = python(&install, &["memory=64M"], HOG, "10");
    assert_eq!((run.status, run.stderr.as_str()), (Some(0), ""));
}

#[test]
fn one_process_too_large_ends_alone_and_is_told_once() {
    let install = Install::new(Who::Root);
    if !has_groups(&install) {
        return;
    }
    let hog = format!("python3 -c '{HOG}' 300");
    let script = format!("{hog} 2>/dev/null; {hog} 2>/dev/null; {hog} 2>/dev/null; exit 5");
    let run = install.run(
        &["--limit", "memory=64M"],
        &["bash", "-c", &format!("({script}) 2>/dev/null")],
    );
    let told = "portcullis: limits.memory of 64M reached: a process was killed";
    assert_eq!(run.complaint(), (Some(5), vec![told]));
    assert_eq!(hits(&install), [hit("memory", "kill_process")]);
}

// N05
#[test]
fn memory_in_files_counts_as_well() {
    let install = Install::new(Who::Root);
    if !has_groups(&install) {
        return;
    }
    let script = "import os, sys\n\
                  fd = os.memfd_create('x')\n\
                  for n in range(int(sys.argv[1])): os.write(fd, bytes(1 << 20))";
    let run = python(&install, &["memory=64M"], script, "300");
    assert_eq!(run.status, Some(137), "{run:#?}");
    let run = python(&install, &["memory=64M"], script, "10");
    assert_eq!(run.status, Some(0), "{run:#?}");
}

#[test]
fn processor_time_is_shared_out() {
    let install = Install::new(Who::Root);
    if !has_groups(&install) {
        return;
    }
    // More than the tenth of a second that a period has, whatever the machine.
    let script = "import time\nwhile time.process_time() < float(__import__('sys').argv[1]): pass";
    let run = python(&install, &["cpu=20%"], script, "0.3");
    let told = "portcullis: limits.cpu of 20% reached: the session was slowed down";
    assert_eq!(run.complaint(), (Some(0), vec![told]));
    assert_eq!(hits(&install), [hit("cpu", "throttle")]);
    let run = python(&install, &["cpu=10000%"], script, "0.3");
    assert_eq!(run.complaint(), (Some(0), vec![]));
    assert_eq!(hits(&install).len(), 1);
}

#[test]
fn open_files_of_a_process_are_limited() {
    let script = "import os, sys\n\
                  try:\n\
                  \x20 for n in range(int(sys.argv[1])): os.open('/dev/null', 0)\n\
                  \x20 print('all')\n\
                  except OSError as error: print(error.errno)";
    for who in EVERYONE {
        let install = Install::new(who);
        for (limit, said) in [("open_files=32", "24\n"), ("open_files=128", "all\n")] {
            let run = python(&install, &[limit], script, "64");
            assert_eq!(
                (run.stdout.as_str(), run.stderr.as_str()),
                (said, ""),
                "{who:?} {limit}"
            );
        }
        let script = "import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE)[1])";
        let run = python(&install, &["open_files=32"], script, "");
        assert_eq!(run.stdout, "32\n", "the hard limit: nobody raises it");
    }
}

#[test]
fn the_size_of_a_file_is_limited() {
    for who in EVERYONE {
        let install = Install::new(who);
        let script = "head -c 3M /dev/zero > file";
        let run = install.run(&["--limit", "file_size=2M"], &["sh", "-c", script]);
        let last = "portcullis: the command was ended: it wrote a file of more than 2M \
                    (limits.file_size)";
        assert_eq!(
            (run.status, run.stderr.lines().last()),
            (Some(153), Some(last)),
            "{run:#?}"
        );
        assert_eq!(
            hits(&install),
            [hit("file_size", "kill_process")],
            "{who:?}"
        );
        let written = || fs::metadata(install.path("work/file")).unwrap().len();
        assert_eq!(written(), 2 << 20);
        let run = install.run(&["--limit", "file_size=4M"], &["sh", "-c", script]);
        assert_eq!((run.status, written()), (Some(0), 3 << 20), "{run:#?}");
    }
}

#[test]
fn all_of_a_jail_is_in_its_groups_and_the_jail_sees_none() {
    let install = Install::new(Who::Root);
    if !has_groups(&install) {
        return;
    }
    let limits = ["memory=256M", "tasks=50", "cpu=50%"];
    let flags: Vec<&str> = limits
        .iter()
        .flat_map(|limit| ["--limit", *limit])
        .collect();
    let script = "echo ready; cut -d: -f3 /proc/self/cgroup | sort -u; \
                  grep -c ' - cgroup' /proc/self/mountinfo; read line < go";
    nix::unistd::mkfifo(&install.path("work/go"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut session = Session::start(&install, &flags, script);
    assert_eq!((session.said(), session.said()), ("/".into(), "0".into()));
    let id = sessions(&install).pop().unwrap();
    let inside = || {
        let groups = groups(&id).into_iter();
        let pids = groups.map(|group| {
            let pids = fs::read_to_string(group.join("cgroup.procs")).unwrap();
            let mut pids: Vec<u32> = pids.lines().map(|pid| pid.parse().unwrap()).collect();
            pids.sort_unstable();
            pids
        });
        pids.collect::<Vec<_>>()
    };
    // bubblewrap's two and the command, once what it has started is gone.
    eventually("more than three processes", || {
        let inside = inside();
        !inside.is_empty()
            && inside
                .iter()
                .all(|pids| pids.len() == 3 && *pids == inside[0])
    });
    let value = |file: &str| {
        let text = fs::read_to_string(group_with(&id, file).join(file)).unwrap();
        text.trim_end().to_owned()
    };
    // And bubblewrap's two.
    assert_eq!(value("pids.max"), "52");
    fs::write(install.path("work/go"), "go\n").unwrap();
    assert_eq!(session.end(), (Some(0), String::new()));
    assert_eq!(groups(&id), Vec::<std::path::PathBuf>::new());
}

// J21
#[test]
fn a_hierarchy_that_would_show_is_empty_inside() {
    let install = Install::new(Who::Root);
    if !has_groups(&install) {
        return;
    }
    let elsewhere = install.path("work/elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    for mode in ["workspace-write", "danger-full-access"] {
        let script = format!(
            "mount --bind {} elsewhere && ls elsewhere/cgroup.procs && \
             exec {} run --mode {mode} -- sh -c 'ls -A elsewhere; ls -A /sys 2>/dev/null; echo end'",
            where_tasks_are_counted().display(),
            install.path("bin/portcullis").display(),
        );
        let mut command = std::process::Command::new("unshare");
        let output = command
            .args(["--mount", "sh", "-c", &script])
            .current_dir(install.work())
            .env("HOME", install.path("home"))
            .output();
        let run = Run::of(&output.unwrap());
        let listed = "elsewhere/cgroup.procs\nend\n";
        let expected = (Some(0), listed, "");
        let found = (run.status, run.stdout.as_str(), run.stderr.as_str());
        assert_eq!(found, expected, "{mode}");
    }
}

/// Where the hierarchy is mounted that counts tasks.
fn where_tasks_are_counted() -> std::path::PathBuf {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut points = mounts.lines().filter(|line| line.contains(" - cgroup"));
    let line = points.find(|line| line.ends_with("pids") || line.contains(" - cgroup2"));
    line.unwrap().split(' ').nth(4).unwrap().into()
}
