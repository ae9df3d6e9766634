//! Unix sockets of the host: those that are allowed answer, no other does.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::libc::{EACCES, ENOENT};
use portcullis::audit::event::ShownSocket;
use portcullis::policy::{FilesystemMode, UnixSocket};

use crate::act::{Act, Answer};
use crate::bench::{Bench, CALLERS, Caller};

/// A service of the host that sends back what it gets. Everybody may connect.
fn service(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let listener = UnixListener::bind(path).unwrap();
    fs::set_permissions(path, PermissionsExt::from_mode(0o666)).unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut said = Vec::new();
            drop(stream.read_to_end(&mut said));
            drop(stream.write_all(&said));
        }
    });
}

fn allow(bench: &mut Bench, path: &Path, action: UnixSocket) {
    bench.order.sockets.insert(path.to_owned(), action);
}

fn echoed() -> Answer {
    Answer::Done("ping".to_owned())
}

#[test]
fn an_allowed_socket_answers_and_its_neighbours_do_not_show() {
    for caller in CALLERS {
        let mut bench = Bench::new(caller);
        let (allowed, other) = (bench.host("run/some.sock"), bench.host("run/other.sock"));
        let by_link = bench.host("link.sock");
        service(&allowed);
        service(&other);
        symlink(&allowed, &by_link).unwrap();
        allow(&mut bench, &by_link, UnixSocket::Allow);
        let acts = [&allowed, &by_link, &other].map(|path| Act::AskUnix(path.clone()));
        assert_eq!(
            bench.inside(&acts),
            [echoed(), echoed(), Answer::Errno(ENOENT)],
            "{caller:?}"
        );
        assert_eq!(bench.outside(&acts), [echoed(), echoed(), echoed()]);
        let (_, outcome) = bench.run();
        let expected = ShownSocket {
            path: by_link.display().to_string(),
            danger: None,
        };
        assert_eq!(outcome.sockets, [expected]);
    }
}

#[test]
fn a_socket_in_home_is_allowed_by_its_tilde() {
    for caller in CALLERS {
        let mut bench = Bench::new(caller);
        let path = bench.order.home.join("below/app.sock");
        service(&path);
        bench.own(&bench.order.home);
        let act = Act::AskUnix(path);
        assert_eq!(bench.try_inside(act.clone()), Answer::Errno(ENOENT));
        allow(&mut bench, Path::new("~/below/app.sock"), UnixSocket::Allow);
        assert_eq!(bench.try_inside(act.clone()), echoed(), "{caller:?}");
        allow(&mut bench, Path::new("~/below/app.sock"), UnixSocket::Deny);
        assert_eq!(bench.try_inside(act), Answer::Errno(ENOENT), "{caller:?}");
    }
}

#[test]
fn sockets_in_the_hosts_run_and_tmp_do_not_show() {
    let unique = std::process::id();
    let paths = ["/run", "/tmp", "/var/tmp"]
        .map(|folder| PathBuf::from(format!("{folder}/portcullis-test-{unique}.sock")));
    for path in &paths {
        service(path);
    }
    let acts = paths.clone().map(Act::AskUnix);
    for caller in CALLERS {
        for mode in [
            FilesystemMode::WorkspaceWrite,
            FilesystemMode::DangerFullAccess,
        ] {
            let mut bench = Bench::new(caller);
            bench.order.mode = mode;
            let answers = bench.inside(&acts);
            assert_eq!(answers, vec![Answer::Errno(ENOENT); 3], "{caller:?} {mode}");
            assert_eq!(bench.outside(&acts), vec![echoed(); 3]);
        }
    }
    for path in &paths {
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn a_dangerous_socket_needs_its_own_word_under_every_name() {
    for caller in CALLERS {
        let mut bench = Bench::new(caller);
        let docker = bench.host("run/docker.sock");
        service(&docker);
        let harmless = bench.host("harmless.sock");
        symlink(&docker, &harmless).unwrap();
        for path in [&docker, &harmless] {
            bench.order.sockets.clear();
            allow(&mut bench, path, UnixSocket::Allow);
            let said = bench.refusal();
            assert!(
                said.contains("root on the host") && said.contains("\"allow-dangerous\""),
                "{said}"
            );
            allow(&mut bench, path, UnixSocket::AllowDangerous);
            assert_eq!(bench.try_inside(Act::AskUnix(path.clone())), echoed());
            let shown = &bench.run().1.sockets[0];
            assert!(shown.danger.as_deref().unwrap().contains("Docker"));
        }
    }
}

#[test]
fn what_cannot_be_allowed_is_told_with_the_cure() {
    let mut bench = Bench::new(Caller::Root);
    let inside = bench.path("app.sock");
    service(&inside);
    let linked = bench.path("linked.sock");
    let outside = bench.host("outside.sock");
    service(&outside);
    symlink(&outside, &linked).unwrap();
    let file = bench.host("file.sock");
    bench.file(&file, "");
    for (path, cure) in [
        (bench.host("missing.sock"), "create it, or take it out"),
        (file, "is no socket"),
        (bench.host(""), "is no socket"),
        (inside, "could put another in its place"),
        (linked, "could put another in its place"),
        ("/dev/null".into(), "is no socket"),
    ] {
        bench.order.sockets.clear();
        allow(&mut bench, &path, UnixSocket::Allow);
        let said = bench.refusal();
        assert!(
            said.contains("network.unix_sockets") && said.contains(cure),
            "{}: {said}",
            path.display()
        );
    }
}

#[test]
fn sockets_that_lie_in_shown_folders_are_masked_and_the_jails_own_work() {
    for caller in CALLERS {
        for mode in [
            FilesystemMode::ReadOnly,
            FilesystemMode::WorkspaceWrite,
            FilesystemMode::DangerFullAccess,
        ] {
            let mut bench = Bench::new(caller);
            bench.order.mode = mode;
            let shown = bench.host("shown/service.sock");
            let paths = [
                bench.path("app.sock"),
                bench.path(".git/fsmonitor--daemon.ipc"),
                bench.path("tmp/sockets/app.sock"),
                shown.clone(),
            ];
            for path in &paths {
                service(path);
            }
            bench.own(&bench.host(""));
            bench.order.readable = vec![bench.host("shown")];
            let acts = paths.clone().map(Act::AskUnix);
            assert_eq!(
                bench.inside(&acts),
                vec![Answer::Errno(EACCES); 4],
                "{caller:?} {mode}"
            );
            assert_eq!(bench.outside(&acts), vec![echoed(); 4]);
            let own = match mode {
                FilesystemMode::ReadOnly => PathBuf::from("/tmp/own.sock"),
                _ => bench.path("own.sock"),
            };
            assert_eq!(bench.try_inside(Act::ListenUnix(own)), Answer::done());
        }
    }
}

#[test]
fn with_the_whole_file_system_known_dangerous_sockets_are_masked_unless_they_are_allowed() {
    for caller in CALLERS {
        let mut bench = Bench::new(caller);
        bench.order.mode = FilesystemMode::DangerFullAccess;
        // Not below /tmp, which every jail has for itself.
        let home = tempfile::Builder::new()
            .prefix("portcullis-home-")
            .tempdir_in("/var/lib")
            .unwrap();
        fs::set_permissions(home.path(), PermissionsExt::from_mode(0o755)).unwrap();
        bench.order.home = home.path().to_owned();
        let agent = home.path().join(".gnupg/S.gpg-agent");
        let other = home.path().join("other.sock");
        service(&agent);
        service(&other);
        bench.own(home.path());
        let acts = [&agent, &other].map(|path| Act::AskUnix(path.clone()));
        let refused = Answer::Errno(EACCES);
        assert_eq!(
            bench.inside(&acts),
            [refused.clone(), echoed()],
            "{caller:?}"
        );
        allow(
            &mut bench,
            Path::new("~/.gnupg/S.gpg-agent"),
            UnixSocket::AllowDangerous,
        );
        allow(&mut bench, Path::new("~/other.sock"), UnixSocket::Deny);
        assert_eq!(bench.inside(&acts), [echoed(), refused], "{caller:?}");
    }
}
