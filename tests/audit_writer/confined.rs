//! What a writer that was taken over can open: files that are not there yet, in its folder, the ledger, and nothing else. Each act
//! is done by a process of its own that is confined as the writer is.

use std::fs::{File, Permissions};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use portcullis::audit::ledger::newest;
use portcullis::audit::log::{NEW_SEGMENT, NEW_SEGMENT_MODE};
use portcullis::audit::writer::confine::{BODY_MODE, Folders, confine};
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat, renameat, unlinkat};

/// What the process is to do, in its environment; and where.
const ACT: &str = "PORTCULLIS_TEST_ACT";
const BASE: &str = "PORTCULLIS_TEST_BASE";

/// How it came out: the process is killed, or the call answers 0 or an error.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Killed,
    Answered(i32),
}

const EACCES: Outcome = Outcome::Answered(13);
const EEXIST: Outcome = Outcome::Answered(17);
const DONE: Outcome = Outcome::Answered(0);

/// Not a test: the process that is confined. Without an act it does nothing.
#[test]
fn the_confined_process() {
    let Ok(act) = std::env::var(ACT) else { return };
    let base = std::env::var(BASE).unwrap();
    let base = Path::new(&base);
    let (logs, elsewhere) = (base.join("logs"), base.join("elsewhere"));
    let outside = elsewhere.join("new");
    let (folder, other) = (File::open(&logs).unwrap(), File::open(&elsewhere).unwrap());
    let bodies = File::open(logs.join("bodies")).unwrap();
    let ledger = File::open(logs.join("ledger")).unwrap();
    let folders = Folders {
        logs: Some(folder.as_fd()),
        bodies: Some(bodies.as_fd()),
        ledger: Some(ledger.as_fd()),
    };
    confine(&folders).unwrap();
    let body = |name: &str, flags| openat(&bodies, name, flags, Mode::empty()).map(drop);
    let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let by_ledger = |name: &str, flags| openat(&ledger, name, flags, newest::MODE).map(drop);
    let new = |name: &str| openat(&folder, name, NEW_SEGMENT, NEW_SEGMENT_MODE);
    let opened = |name: &str, flags| openat(&folder, name, flags, Mode::empty()).map(drop);
    let outcome = match act.as_str() {
        "new" => new("new").map(|file| {
            let mut file = File::from(file);
            file.write_all(b"written").unwrap();
            rustix::fs::ftruncate(&file, 3).unwrap();
            rustix::fs::fsync(&folder).unwrap();
        }),
        "there" => new("there").map(drop),
        "link" => new("link").map(drop),
        "append" => opened("there", OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC),
        "create" => opened("there", NEW_SEGMENT.difference(OFlags::EXCL)),
        "truncate" => opened("there", NEW_SEGMENT | OFlags::TRUNC),
        "read" => opened("there", OFlags::RDONLY | OFlags::CLOEXEC),
        "mode" => openat(&folder, "new", NEW_SEGMENT, Mode::RWXU).map(drop),
        "current" => openat(CWD, "new", NEW_SEGMENT, NEW_SEGMENT_MODE).map(drop),
        "other" => openat(&other, "new", NEW_SEGMENT, NEW_SEGMENT_MODE).map(drop),
        "above" => new("../elsewhere/new").map(drop),
        "absolute" => new(outside.to_str().unwrap()).map(drop),
        "remove" => unlinkat(&folder, "there", rustix::fs::AtFlags::empty()),
        "rename" => renameat(&folder, "there", &folder, "gone"),
        "body" => openat(&bodies, "new", NEW_SEGMENT, BODY_MODE).map(drop),
        "body that can be written" => {
            openat(&bodies, "new", NEW_SEGMENT, NEW_SEGMENT_MODE).map(drop)
        }
        "ledger" => by_ledger("there", newest::THERE),
        "new ledger" => by_ledger("new", newest::NEW),
        "read ledger" => by_ledger("there", read),
        "write ledger" => by_ledger("there", newest::THERE.difference(OFlags::APPEND)),
        "truncate ledger" => by_ledger("there", newest::THERE | OFlags::TRUNC),
        "log by ledger" => by_ledger("../there", newest::THERE),
        "body by ledger" => by_ledger("../bodies/there", newest::THERE),
        "other by ledger" => by_ledger("../../elsewhere/new", newest::NEW),
        "read body" => body("there", read),
        "append body" => body("there", OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC),
        "write body" => body("there", OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC),
        "read log by body" => body("../there", read),
        "write log by body" => body("../there", OFlags::WRONLY | OFlags::CLOEXEC),
        "folder" => mkdirat(&folder, "new", Mode::RWXU),
        _ => panic!("{act}"),
    };
    let code = outcome.map_or_else(rustix::io::Errno::raw_os_error, |()| 0);
    #[expect(clippy::exit, reason = "the process is here for this alone")]
    std::process::exit(code);
}

fn does(base: &Path, act: &str) -> Outcome {
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "confined::the_confined_process",
            "--test-threads=1",
        ])
        .env(ACT, act)
        .env(BASE, base)
        .output()
        .unwrap();
    match (output.status.code(), output.status.signal()) {
        (Some(code), _) => Outcome::Answered(code),
        (None, Some(31)) => Outcome::Killed,
        other => panic!("{act}: {other:?}"),
    }
}

#[test]
fn a_writer_that_was_taken_over_makes_new_files_in_its_folder_and_opens_no_other() {
    let base = tempfile::tempdir().unwrap();
    let base = base.path();
    for folder in ["logs", "elsewhere"] {
        std::fs::create_dir(base.join(folder)).unwrap();
    }
    std::fs::create_dir(base.join("logs/bodies")).unwrap();
    std::fs::create_dir(base.join("logs/ledger")).unwrap();
    for there in ["logs/there", "logs/bodies/there", "logs/ledger/there"] {
        std::fs::write(base.join(there), "kept").unwrap();
    }
    // As the writer makes them.
    let body = Permissions::from_mode(BODY_MODE.bits());
    std::fs::set_permissions(base.join("logs/bodies/there"), body).unwrap();
    std::os::unix::fs::symlink(base.join("elsewhere/new"), base.join("logs/link")).unwrap();
    for (act, expected) in [
        ("there", EEXIST),
        ("link", EEXIST),
        ("above", EACCES),
        ("absolute", EACCES),
        ("append", Outcome::Killed),
        ("create", Outcome::Killed),
        ("truncate", Outcome::Killed),
        ("read", Outcome::Killed),
        ("mode", Outcome::Killed),
        ("current", Outcome::Killed),
        ("other", Outcome::Killed),
        ("remove", Outcome::Killed),
        ("rename", Outcome::Killed),
        ("folder", Outcome::Killed),
        ("body", DONE),
        ("read body", DONE),
        ("append body", Outcome::Killed),
        ("write body", Outcome::Killed),
        ("read log by body", EACCES),
        ("write log by body", Outcome::Killed),
        ("body that can be written", Outcome::Killed),
        ("ledger", DONE),
        ("new ledger", DONE),
        ("read ledger", Outcome::Killed),
        ("write ledger", Outcome::Killed),
        ("truncate ledger", Outcome::Killed),
        ("log by ledger", EACCES),
        ("body by ledger", EACCES),
        ("other by ledger", EACCES),
    ] {
        assert_eq!(does(base, act), expected, "{act}");
    }
    assert_eq!(
        std::fs::read_dir(base.join("elsewhere")).unwrap().count(),
        0
    );
    assert_eq!(std::fs::read(base.join("logs/there")).unwrap(), b"kept");
    // The twin.
    assert_eq!(does(base, "new"), DONE);
    assert_eq!(std::fs::read(base.join("logs/new")).unwrap(), b"wri");
}
