//! Generated files over the host's own: they show wherever the host's would, in every mode, and the
//! host's stay as they are.

use std::fs;
use std::os::unix::fs::symlink;

use nix::libc::{EACCES, ENOENT, EROFS};
use portcullis::policy::FilesystemMode;

use crate::act::{Act, Answer};
use crate::bench::{Bench, CALLERS};

const MODES: [FilesystemMode; 3] = [
    FilesystemMode::ReadOnly,
    FilesystemMode::WorkspaceWrite,
    FilesystemMode::DangerFullAccess,
];

/// A file of the system that every jail shows below a folder, and one that it copies.
const SYSTEM: [&str; 2] = ["/etc/ssl/certs/ca-certificates.crt", "/etc/ssl/openssl.cnf"];

fn ours() -> Answer {
    Answer::Done("ours".to_owned())
}

#[test]
fn a_replaced_file_shows_in_every_mode_and_cannot_be_changed() {
    let before = SYSTEM.map(|path| fs::read(path).unwrap());
    for caller in CALLERS {
        for mode in MODES {
            let mut bench = Bench::new(caller);
            bench.order.mode = mode;
            bench.order.replaced = SYSTEM
                .iter()
                .chain(&["/etc/ssl/certs/no-such-file"])
                .map(|path| (path.into(), b"ours".to_vec()))
                .collect();
            let acts = [
                Act::read(SYSTEM[0]),
                Act::read(SYSTEM[1]),
                Act::read("/etc/ssl/certs/no-such-file"),
                Act::write(SYSTEM[0]),
            ];
            let answers = bench.inside(&acts);
            let expected = [ours(), ours(), Answer::Errno(ENOENT)];
            assert_eq!(answers[..3], expected, "{caller:?} {mode}");
            let refused = [Answer::Errno(EROFS), Answer::Errno(EACCES)];
            assert!(
                refused.contains(&answers[3]),
                "{caller:?} {mode}: {answers:?}"
            );
            // The twin: without it the host's own shows.
            bench.order.replaced.clear();
            assert_ne!(bench.inside(&acts[..1]), [ours()], "{caller:?} {mode}");
        }
    }
    assert_eq!(SYSTEM.map(|path| fs::read(path).unwrap()), before);
}

#[test]
fn a_file_that_is_reached_through_a_link_is_replaced_where_it_really_is() {
    for caller in CALLERS {
        let mut bench = Bench::new(caller);
        bench.file(&bench.host("real/ca.pem"), "the host's");
        symlink(bench.host("real/ca.pem"), bench.host("ca.pem")).unwrap();
        bench.order.readable = vec![bench.host("real")];
        bench.order.replaced = vec![(bench.host("ca.pem"), b"ours".to_vec())];
        let read = Act::read(bench.host("real/ca.pem"));
        assert_eq!(bench.try_inside(read), ours(), "{caller:?}");
        // What does not show is not made to.
        bench.order.readable.clear();
        let read = Act::read(bench.host("real/ca.pem"));
        assert_eq!(bench.try_inside(read), Answer::Errno(ENOENT), "{caller:?}");
    }
}
