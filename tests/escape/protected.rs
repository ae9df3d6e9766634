//! Protected paths: present and absent, and every way around them.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use nix::libc::{EACCES, EBUSY, EEXIST, EROFS, EXDEV};
use portcullis::policy::FilesystemMode;

use crate::act::{Act, Answer};
use crate::bench::{Bench, CALLERS, Caller};

fn bench(caller: Caller, protected: &[&str]) -> Bench {
    let mut bench = Bench::new(caller);
    bench.order.protected = protected.iter().map(Into::into).collect();
    bench
}

fn entries(path: &Path) -> Vec<String> {
    let names = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_is_there_stays_as_it_is() {
    for caller in CALLERS {
        for mode in [
            FilesystemMode::WorkspaceWrite,
            FilesystemMode::DangerFullAccess,
        ] {
            let mut bench = bench(caller, &[".git/config", ".git/hooks"]);
            bench.file(&bench.path(".git/config"), "text");
            bench.file(&bench.path(".git/hooks/pre-commit"), "text");
            bench.file(&bench.path("evil"), "text");
            bench.order.mode = mode;
            let at = |name: &str| bench.path(name);
            let acts = [
                Act::write(at(".git/config")),
                Act::create(at(".git/hooks/post-commit")),
                Act::Chmod(at(".git/hooks/pre-commit"), 0o777),
                Act::rename(at(".git/config"), at(".git/old")),
                Act::rename(at(".git/hooks"), at(".git/old")),
                Act::rename(at("evil"), at(".git/config")),
                Act::rename(at(".git"), at(".git2")),
                Act::Exchange(at(".git"), at("evil")),
                Act::Exchange(at("evil"), at(".git/config")),
                Act::Remove(at(".git/config")),
                Act::Link(at(".git/config"), at(".git/alias")),
                // What is not protected can be changed, next to what is.
                Act::create(at(".git/index")),
            ];
            let answers = bench.inside(&acts);
            let (last, refused) = answers.split_last().unwrap();
            let expected = [EROFS, EACCES, EBUSY, EXDEV].map(Answer::Errno);
            for (act, answer) in acts.iter().zip(refused) {
                assert!(
                    expected.contains(answer),
                    "{caller:?} {mode} {act:?}: {answer:?}"
                );
            }
            assert_eq!(*last, Answer::done(), "{caller:?} {mode}");
            assert_eq!(
                fs::read_to_string(bench.path(".git/config")).unwrap(),
                "text"
            );
            let twin = bench.outside(&acts[..1]);
            assert_eq!(twin, [Answer::done()]);
        }
    }
}

#[test]
fn what_is_not_there_cannot_be_made_and_leaves_nothing_behind() {
    for caller in CALLERS {
        let mut bench = bench(caller, &[".codex", ".git/hooks", "sub/deep/.envrc"]);
        bench.file(&bench.path("sub/file"), "text");
        let at = |name: &str| bench.path(name);
        let acts = [
            Act::mkdir(at(".codex")),
            Act::create(at(".codex/config.toml")),
            Act::rename(at(".codex"), at("x")),
            Act::Remove(at(".codex")),
            Act::mkdir(at(".git")),
            Act::mkdir(at(".git/hooks")),
            Act::Chmod(at(".git"), 0o755),
            Act::mkdir(at("sub/deep")),
            Act::rename(at("sub"), at("sub2")),
            Act::Symlink("/tmp".into(), at(".codex")),
        ];
        let answers = bench.inside(&acts);
        let expected = [EROFS, EACCES, EBUSY, EEXIST].map(Answer::Errno);
        for (act, answer) in acts.iter().zip(&answers) {
            assert!(expected.contains(answer), "{caller:?} {act:?}: {answer:?}");
        }
        assert_eq!(entries(&bench.order.workspace), ["sub"], "{caller:?}");
        assert_eq!(entries(&bench.path("sub")), ["file"], "{caller:?}");
        assert_eq!(
            bench.try_outside(Act::mkdir(bench.path(".codex"))),
            Answer::done()
        );
    }
}

#[test]
fn git_does_not_notice_placeholders() {
    let mut bench = bench(Caller::User, &[".codex", ".envrc"]);
    let script = "git init -q && git status --porcelain";
    bench.order.argv = ["sh", "-c", script].map(Into::into).into();
    let (output, _) = bench.run();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{output:?}");
    assert_eq!(entries(&bench.order.workspace), [".git"]);
}

#[test]
fn a_file_in_place_of_a_folder_is_protected_itself() {
    for caller in CALLERS {
        let mut bench = bench(caller, &[".git/hooks"]);
        bench.file(&bench.path(".git"), "gitdir: elsewhere");
        let acts = [
            Act::write(bench.path(".git")),
            Act::Remove(bench.path(".git")),
        ];
        assert_eq!(
            bench.inside(&acts),
            [EROFS, EBUSY].map(Answer::Errno),
            "{caller:?}"
        );
    }
}

#[test]
fn every_writable_root_is_protected() {
    for caller in CALLERS {
        let mut bench = bench(caller, &[".git"]);
        bench.file(&bench.host("other/file"), "text");
        bench.order.writable = vec![bench.host("other")];
        let acts = [
            Act::mkdir(bench.host("other/.git")),
            Act::create(bench.host("other/new")),
        ];
        assert_eq!(
            bench.inside(&acts),
            [Answer::Errno(EEXIST), Answer::done()],
            "{caller:?}"
        );
    }
}

#[test]
fn folders_above_a_nested_workspace_cannot_be_moved() {
    for caller in CALLERS {
        let mut bench = bench(caller, &[".git/config"]);
        bench.order.workspace = bench.host("tree/a/workspace");
        bench.file(&bench.path(".git/config"), "text");
        bench.order.writable = vec![bench.host("tree")];
        let acts = [
            Act::rename(bench.host("tree/a"), bench.host("tree/b")),
            Act::create(bench.host("tree/new")),
        ];
        let answers = bench.inside(&acts);
        assert_eq!(
            answers,
            [Answer::Errno(EBUSY), Answer::done()],
            "{caller:?}"
        );
    }
}

#[test]
fn a_symbolic_link_in_the_way_is_refused_with_cause_and_cure() {
    for caller in CALLERS {
        for link in [".git", ".git/hooks"] {
            let mut bench = bench(caller, &[".git/hooks"]);
            if link != ".git" {
                bench.file(&bench.path(".git/config"), "text");
            }
            symlink("/tmp", bench.path(link)).unwrap();
            let refusal = bench.refusal();
            assert!(
                refusal.contains("a symbolic link is in the way"),
                "{refusal}"
            );
            assert!(refusal.contains("replace the link"), "{refusal}");
        }
    }
}

#[test]
fn a_folder_that_its_owner_could_make_writable_is_refused() {
    let mut bench = bench(Caller::User, &[".git"]);
    let read_only = PermissionsExt::from_mode(0o555);
    fs::set_permissions(&bench.order.workspace, read_only).unwrap();
    let refusal = bench.refusal();
    assert!(refusal.contains("mode read-only"), "{refusal}");
}

#[test]
fn a_workspace_of_somebody_else_needs_no_placeholder() {
    let mut bench = bench(Caller::User, &[".git"]);
    std::os::unix::fs::chown(&bench.order.workspace, Some(0), Some(0)).unwrap();
    let answer = bench.try_inside(Act::mkdir(bench.path(".git")));
    assert_eq!(answer, Answer::Errno(EACCES));
}

#[test]
fn a_path_that_leaves_the_workspace_cannot_be_protected() {
    let mut bench = bench(Caller::User, &["../other"]);
    let refusal = bench.refusal();
    assert!(refusal.contains("not a plain path"), "{refusal}");
}
