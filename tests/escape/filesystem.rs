//! What shows, what can be written, what is masked.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::libc::{EACCES, ENOENT, EPERM, EROFS, ETXTBSY};
use portcullis::policy::FilesystemMode;

use crate::act::{Act, Answer};
use crate::bench::{Bench, CALLERS, Caller};

const fn errno(number: i32) -> Answer {
    Answer::Errno(number)
}

#[test]
fn files_of_the_host_do_not_show() {
    for caller in CALLERS {
        let mut bench = Bench::new(caller);
        bench.file(&bench.host("secret"), "s3cret");
        bench.file(&bench.order.home.join(".ssh/id"), "s3cret");
        let acts = [
            Act::read(bench.host("secret")),
            Act::read(bench.order.home.join(".ssh/id")),
            Act::read(bench.host("workspace/../secret")),
            Act::read("/proc/self/root/../../etc/shadow"),
        ];
        assert_eq!(bench.inside(&acts), vec![errno(ENOENT); 4], "{caller:?}");
        let twin = bench.outside(&acts[..3]);
        assert_eq!(twin, vec![Answer::Done("s3cret".to_owned()); 3]);
    }
}

#[test]
fn keys_and_facts_of_the_host_do_not_show() {
    let acts = [
        "/etc/shadow",
        "/etc/machine-id",
        "/etc/sudoers",
        "/etc/ssl/private",
        "/etc/hostname.host",
        "/sys/class",
        "/var/log",
        "/var/lib",
        "/run/lock",
        "/root",
    ]
    .map(Act::list);
    for caller in CALLERS {
        let answers = Bench::new(caller).inside(&acts);
        assert_eq!(answers, vec![errno(ENOENT); acts.len()], "{caller:?}");
    }
    let twin = Bench::new(Caller::Root).outside(&[Act::read("/etc/shadow"), Act::list("/var/log")]);
    assert!(twin.iter().all(Answer::is_done), "{twin:?}");
}

#[test]
fn the_system_is_read_only_and_the_jails_own_folders_are_not() {
    for caller in CALLERS {
        let mut bench = Bench::new(caller);
        let home = bench.order.home.join("x");
        let refused = [
            "/x",
            "/usr/x",
            "/etc/x",
            "/dev/x",
            "/proc/x",
            "/usr/bin/x",
            "/var/x",
        ];
        for (path, answer) in refused.iter().zip(bench.inside(&refused.map(Act::create))) {
            let expected = [errno(EROFS), errno(EACCES), errno(ENOENT)];
            assert!(expected.contains(&answer), "{caller:?} {path}: {answer:?}");
        }
        let allowed = [
            Act::create(bench.path("x")),
            Act::create(home),
            Act::create("/tmp/x"),
            Act::create("/var/tmp/x"),
            Act::create("/dev/shm/x"),
            Act::create("/run/x"),
            Act::write("/dev/null"),
        ];
        assert_eq!(
            bench.inside(&allowed),
            vec![Answer::done(); 7],
            "{caller:?}"
        );
        assert!(bench.path("x").exists());
        assert!(!bench.order.home.join("x").exists());
        assert!(!Path::new("/run/x").exists());
    }
}

#[test]
fn nothing_in_proc_can_be_written() {
    for caller in CALLERS {
        let acts = [
            Act::WritableBelow("/proc".into()),
            Act::write("/proc/sys/kernel/core_pattern"),
            Act::write("/proc/self/oom_score_adj"),
            Act::write("/proc/self/mem"),
        ];
        let answers = Bench::new(caller).inside(&acts);
        assert_eq!(answers[0], Answer::done(), "{caller:?}");
        assert!(
            answers[1..].iter().all(|answer| !answer.is_done()),
            "{answers:?}"
        );
    }
    let twin = Bench::new(Caller::Root).try_outside(Act::write("/proc/sys/kernel/core_pattern"));
    assert_eq!(twin, Answer::done());
}

#[test]
fn proc_tells_nothing_of_kernel_addresses_and_boot_parameters() {
    let acts = ["/proc/kallsyms", "/proc/cmdline", "/proc/keys"].map(Act::read);
    for caller in CALLERS {
        let answers = Bench::new(caller).inside(&acts);
        assert_eq!(answers, vec![Answer::done(); 3], "{caller:?}");
    }
    let twin = Bench::new(Caller::Root).try_outside(Act::read("/proc/cmdline"));
    assert_ne!(twin, Answer::done());
}

#[test]
fn read_only_mode_shows_the_workspace_and_lets_nothing_of_it_be_changed() {
    for caller in CALLERS {
        let mut bench = Bench::new(caller);
        bench.file(&bench.path("a"), "text");
        bench.file(&bench.host("more/b"), "text");
        bench.order.writable = vec![bench.host("more")];
        let acts = [
            Act::read(bench.path("a")),
            Act::write(bench.path("a")),
            Act::create(bench.path("new")),
            Act::create(bench.host("more/new")),
            Act::Chmod(bench.path("a"), 0o777),
        ];
        assert!(bench.outside(&acts[..2]).iter().all(Answer::is_done));
        bench.order.mode = FilesystemMode::ReadOnly;
        let read = Answer::Done("text".to_owned());
        let mut expected = vec![errno(EROFS); 5];
        expected[0] = read;
        assert_eq!(bench.inside(&acts), expected, "{caller:?}");
    }
}

#[test]
fn masked_paths_are_empty_wherever_they_show() {
    for caller in CALLERS {
        for mode in [
            FilesystemMode::WorkspaceWrite,
            FilesystemMode::DangerFullAccess,
        ] {
            let mut bench = Bench::new(caller);
            bench.file(&bench.path("keys/id"), "s3cret");
            bench.file(&bench.path("token"), "s3cret");
            bench.file(&bench.path("deep/real/id"), "s3cret");
            symlink("deep/real", bench.path("link")).unwrap();
            bench.order.masked = ["keys", "token", "link", "absent"].map(Into::into).into();
            bench.order.mode = mode;
            let acts = [
                Act::list(bench.path("keys")),
                Act::read(bench.path("token")),
                Act::list(bench.path("deep/real")),
                Act::rename(bench.path("deep"), bench.path("moved")),
                Act::list(bench.path("moved/real")),
                Act::create(bench.path("keys/new")),
            ];
            let twin = bench.outside(&acts[..3]);
            let full = ["id", "s3cret", "id"].map(|text| Answer::Done(text.to_owned()));
            assert_eq!(twin, full);
            let mut empty = vec![Answer::done(); 5];
            empty.push(errno(EROFS));
            assert_eq!(bench.inside(&acts), empty, "{caller:?} {mode}");
        }
    }
}

#[test]
fn our_own_state_is_empty_even_in_danger_full_access() {
    for caller in CALLERS {
        let mut bench = Bench::new(caller);
        bench.file(&bench.host("state/log"), "record");
        bench.order.hidden = vec![bench.host("state")];
        bench.order.mode = FilesystemMode::DangerFullAccess;
        bench.order.writable = vec![bench.host("")];
        let act = Act::list(bench.host("state"));
        assert_eq!(
            bench.try_outside(act.clone()),
            Answer::Done("log".to_owned())
        );
        assert_eq!(bench.try_inside(act), Answer::done(), "{caller:?}");
    }
}

#[test]
fn no_folder_above_our_own_state_can_be_moved_away() {
    for caller in CALLERS {
        for mode in [
            FilesystemMode::WorkspaceWrite,
            FilesystemMode::DangerFullAccess,
        ] {
            let mut bench = Bench::new(caller);
            for file in ["a/b/own/log", "c/d/theirs/log"] {
                bench.file(&bench.path(file), "record");
            }
            for folder in ["a", "a/b", "c", "c/d"] {
                bench.own(&bench.path(folder));
            }
            bench.order.hidden = vec![bench.path("a/b/own")];
            bench.order.masked = vec![bench.path("c/d/theirs")];
            bench.order.mode = mode;
            let away = |from: &str, to: &str| Act::rename(bench.path(from), bench.path(to));
            let acts = [away("a", "x"), away("a/b", "a/x"), away("c", "y")];
            let busy = || errno(nix::libc::EBUSY);
            let expected = [busy(), busy(), Answer::done()];
            assert_eq!(bench.inside(&acts), expected, "{caller:?} {mode}");
        }
    }
}

#[test]
fn danger_full_access_keeps_proc_devices_and_scratch_space_private() {
    for caller in CALLERS {
        let mut bench = Bench::new(caller);
        bench.order.mode = FilesystemMode::DangerFullAccess;
        bench.order.files = vec![("/etc/portcullis-test/made".into(), b"made".to_vec())];
        let acts = [
            Act::read("/etc/portcullis-test/made"),
            Act::list("/sys"),
            Act::list("/run"),
            Act::write("/proc/sys/kernel/core_pattern"),
            Act::create("/etc/portcullis-test/new"),
            Act::read("/etc/passwd"),
        ];
        let answers = bench.inside(&acts);
        assert_eq!(answers[0], Answer::Done("made".to_owned()), "{caller:?}");
        assert_eq!(answers[1], Answer::done());
        assert_eq!(answers[2], Answer::Done("probe".to_owned()));
        assert!(!answers[3].is_done());
        assert_eq!(answers[5], bench.try_outside(Act::read("/etc/passwd")));
        assert!(!Path::new("/etc/portcullis-test").exists());
    }
}

#[test]
fn a_link_in_the_workspace_leads_nowhere() {
    for caller in CALLERS {
        let mut bench = Bench::new(caller);
        bench.file(&bench.host("secret"), "s3cret");
        symlink(bench.host("secret"), bench.path("link")).unwrap();
        let act = Act::read(bench.path("link"));
        assert_eq!(
            bench.try_outside(act.clone()),
            Answer::Done("s3cret".to_owned())
        );
        assert_eq!(bench.try_inside(act), errno(ENOENT), "{caller:?}");
    }
}

#[test]
fn the_first_process_is_no_way_out() {
    for caller in CALLERS {
        let acts = [
            Act::list("/proc/1/root"),
            Act::read("/proc/1/environ"),
            Act::list("/proc/1/cwd"),
            Act::read("/proc/1/fd/0"),
            Act::read("/proc/1/exe"),
            Act::write("/proc/1/exe"),
            Act::write("/proc/self/exe"),
        ];
        let answers = Bench::new(caller).inside(&acts);
        // ETXTBSY: a program that runs; it lies on a read-only mount besides.
        let expected = [EACCES, EPERM, EROFS, ETXTBSY].map(errno);
        for (act, answer) in acts.iter().zip(answers) {
            assert!(expected.contains(&answer), "{caller:?} {act:?}: {answer:?}");
        }
    }
}

#[test]
fn init_shows_nowhere() {
    for caller in CALLERS {
        let mut bench = Bench::new(caller);
        let mounts = bench.try_inside(Act::read("/proc/self/mountinfo"));
        let Answer::Done(mounts) = mounts else {
            unreachable!("{mounts:?}")
        };
        assert!(!mounts.contains("/init"), "{mounts}");
        assert!(!mounts.contains("oldroot"), "{mounts}");
    }
}

#[test]
fn a_folder_as_standard_input_is_refused() {
    for caller in CALLERS {
        let mut bench = Bench::new(caller);
        bench.order.argv = vec!["true".to_owned()];
        let root = fs::File::open("/").unwrap();
        let output = bench.session().stdin(root).output().unwrap();
        let said = fs::read_to_string(&bench.order.outcome).unwrap();
        assert!(
            said.contains("standard input is a folder"),
            "{said} {output:?}"
        );
        assert!(said.contains(r#""status":125"#), "{said}");
    }
}

#[test]
fn a_file_given_for_reading_cannot_be_opened_for_writing() {
    for caller in CALLERS {
        let mut bench = Bench::new(caller);
        bench.file(&bench.host("input"), "text");
        let acts = serde_json::to_string(&[Act::Reopen(0), Act::read("/dev/stdin")]).unwrap();
        bench.order.argv = vec!["/run/probe".to_owned(), acts.clone()];
        let input = || fs::File::open(bench.host("input")).unwrap();
        let inside = bench.session().stdin(input()).output().unwrap();
        let answers: Vec<Answer> = serde_json::from_slice(&inside.stdout).unwrap();
        assert_eq!(answers, [errno(EACCES), Answer::Done("text".to_owned())]);
        let twin = bench.twin(&acts).stdin(input()).output().unwrap();
        let answers: Vec<Answer> = serde_json::from_slice(&twin.stdout).unwrap();
        assert!(answers[0].is_done(), "{answers:?}");
    }
}

#[test]
fn standard_error_can_be_opened_by_its_name() {
    for caller in CALLERS {
        let mut bench = Bench::new(caller);
        bench.file(&bench.host("log"), "");
        bench.order.argv = ["sh", "-c", "echo said > /dev/stderr"]
            .map(Into::into)
            .into();
        bench.order.env[0].1 = "/usr/bin:/bin".to_owned();
        let log = fs::OpenOptions::new().write(true).open(bench.host("log"));
        let output = bench.session().stderr(log.unwrap()).output().unwrap();
        assert_eq!(
            fs::read_to_string(bench.host("log")).unwrap(),
            "said\n",
            "{output:?}"
        );
    }
}

#[test]
fn a_listed_path_that_is_missing_is_named() {
    let mut bench = Bench::new(Caller::User);
    bench.order.readable = vec!["~/absent".into()];
    let refusal = bench.refusal();
    assert!(refusal.contains("filesystem.readable"), "{refusal}");
    assert!(refusal.contains("home/absent"), "{refusal}");
}

#[test]
fn a_workspace_that_does_not_exist_or_cannot_be_read_is_named() {
    let mut bench = Bench::new(Caller::User);
    bench.order.workspace = bench.host("absent");
    assert!(bench.refusal().contains("-C DIR"));
    let mut bench = Bench::new(Caller::Root);
    bench.own(&bench.host(""));
    std::os::unix::fs::chown(&bench.order.workspace, Some(4001), Some(4001)).unwrap();
    fs::set_permissions(
        &bench.order.workspace,
        std::os::unix::fs::PermissionsExt::from_mode(0o700),
    )
    .unwrap();
    let refusal = bench.refusal();
    assert!(refusal.contains("owned by uid 4001"), "{refusal}");
}

#[test]
fn a_path_named_through_a_link_shows_under_both_names() {
    for caller in CALLERS {
        let mut bench = Bench::new(caller);
        bench.file(&bench.host("data/notes"), "text");
        symlink(bench.host("data"), bench.order.home.join("data")).unwrap();
        bench.order.readable = vec!["~/data".into()];
        let acts = [
            Act::read(bench.host("data/notes")),
            Act::read(bench.order.home.join("data/notes")),
            Act::create(bench.host("data/new")),
        ];
        let text = || Answer::Done("text".to_owned());
        assert_eq!(
            bench.inside(&acts),
            [text(), text(), errno(EROFS)],
            "{caller:?}"
        );
    }
}

#[test]
fn a_path_that_a_session_could_have_led_elsewhere_is_refused() {
    for caller in CALLERS {
        let mut bench = Bench::new(caller);
        bench.file(&bench.host("secret/key"), "text");
        bench.file(&bench.path("data/notes"), "text");
        symlink(bench.host("secret"), bench.path("led")).unwrap();
        symlink("data", bench.path("kept")).unwrap();
        bench.order.readable = vec!["kept".into()];
        let notes = Act::read(bench.path("kept/notes"));
        assert_eq!(
            bench.try_inside(notes),
            Answer::Done("text".to_owned()),
            "{caller:?}"
        );
        for writable in [false, true] {
            bench.order.readable = vec!["led".into()];
            if writable {
                bench.order.writable = std::mem::take(&mut bench.order.readable);
            }
            let said = bench.refusal();
            let cure = format!("write {}", bench.host("secret").display());
            assert!(
                said.contains("a session could have changed it") && said.contains(&cure),
                "{said}"
            );
        }
    }
}

#[test]
fn the_home_can_be_the_workspace() {
    for caller in CALLERS {
        let mut bench = Bench::new(caller);
        bench.file(&bench.path("a"), "text");
        bench.order.home = bench.order.workspace.clone();
        let acts = [Act::read(bench.path("a")), Act::create(bench.path("b"))];
        let expected = [Answer::Done("text".to_owned()), Answer::done()];
        assert_eq!(bench.inside(&acts), expected, "{caller:?}");
    }
}

#[test]
fn generated_files_can_be_replaced_in_the_private_home_and_nowhere_else() {
    for caller in CALLERS {
        let mut bench = Bench::new(caller);
        let config = bench.order.home.join(".codex/config.toml");
        let managed = "/etc/codex/managed_config.toml";
        bench.order.files = vec![
            (config.clone(), b"made".to_vec()),
            (managed.into(), b"made".to_vec()),
        ];
        let acts = [
            Act::read(&config),
            Act::Remove(config),
            Act::create(bench.order.home.join(".codex/history")),
            Act::read(managed),
            Act::write(managed),
            Act::Remove(managed.into()),
        ];
        let made = || Answer::Done("made".to_owned());
        let answers = bench.inside(&acts);
        assert_eq!(
            answers[..4],
            [made(), Answer::done(), Answer::done(), made()],
            "{caller:?}"
        );
        assert!(
            !answers[4].is_done() && !answers[5].is_done(),
            "{answers:?}"
        );
    }
}
