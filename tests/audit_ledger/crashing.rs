//! Power cuts and kills: what is left of a ledger verifies and is continued.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use portcullis::audit::ledger::segment::list;

use super::support::{
    Flaws, Host, SECOND, Session, both, entries, flaws, ledger_path, lines, open_ledger, oracle,
    rolling_ledger, verify,
};

#[test]
fn a_ledger_cut_at_any_byte_of_its_last_two_lines_verifies_and_is_continued() {
    let host = Host::new();
    let whole = fs::read(ledger_path(host.base.path())).unwrap();
    let all = lines(&ledger_path(host.base.path()));
    let kept: usize = all[..all.len() - 2].iter().map(String::len).sum();
    let copy = host.copy();
    let path = ledger_path(copy.path());
    let mut later = Session::start(copy.path());
    let event = later.write(8);
    for length in kept..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        // The program and the oracle read it, not only at each line's end; all of them would take long.
        let looked_at = length % 97 == 0 || length + 2 > whole.len() || length < kept + 2;
        if looked_at {
            assert_eq!(both(copy.path(), &[]), Flaws::new(), "cut at {length}");
        }
        open_ledger(copy.path())
            .append(std::slice::from_ref(&event), SECOND)
            .unwrap();
        let entries = entries(copy.path());
        assert!(
            entries.windows(2).all(|two| two[0].hash == two[1].prev),
            "cut at {length}"
        );
        if looked_at {
            assert_eq!(
                both(copy.path(), &[]),
                Flaws::new(),
                "continued from {length}"
            );
        }
    }
}

#[test]
fn a_ledger_whose_end_was_changed_is_not_continued() {
    let host = Host::new();
    let path = ledger_path(host.base.path());
    let mut all = lines(&path);
    let last = all.len() - 1;
    all[last] = all[last].replace("\"ts\":\"2", "\"ts\":\"1");
    fs::write(&path, all.concat()).unwrap();
    let folder = super::support::ledger_folder(host.base.path());
    let place = portcullis::audit::ledger::append::KeyPlace::Beside;
    let durability = portcullis::policy::Durability::Batch;
    let shown = host.base.path().join("ledger");
    let host_id = super::support::HOST.to_owned();
    let opened =
        portcullis::audit::ledger::Ledger::open(folder, &shown, place, durability, host_id);
    let error = opened.unwrap_err().to_string();
    assert!(
        error.contains("an entry at its end was changed; it is not continued"),
        "{error}"
    );
    assert_eq!(verify(host.base.path(), &[]), flaws([("ledger", 15)]));
}

/// Appends until it is killed; this test starts itself as one of many.
#[test]
fn appenders_that_are_killed_at_any_moment_leave_a_ledger_that_verifies() {
    if let Some(base) = std::env::var_os(WHERE) {
        let base = Path::new(&base);
        let ledger = match std::env::var(SEGMENT) {
            Ok(bytes) => rolling_ledger(base, bytes.parse().unwrap()),
            Err(_) => open_ledger(base),
        };
        loop {
            let mut session = Session::start(base);
            for records in [2, 5, 8] {
                drop(ledger.append(&[session.write(records)], 10 * SECOND));
            }
        }
    }
    let base = tempfile::tempdir().unwrap();
    killed(base.path(), None);
    assert!(entries(base.path()).len() > 50);
}

#[test]
fn appenders_that_are_killed_while_segments_begin_leave_a_ledger_that_verifies() {
    let base = tempfile::tempdir().unwrap();
    killed(base.path(), Some("1500"));
    let segments = list(File::open(base.path().join("ledger")).unwrap()).unwrap();
    assert!(segments.len() > 10, "{segments:?}");
    let said = oracle(base.path(), &[]);
    assert!(
        !said.iter().any(|(subject, _)| subject == "ledger"),
        "{said:?}"
    );
}

/// Where the appender appends, and after how many bytes another segment begins.
const WHERE: &str = "PORTCULLIS_TEST_APPENDER";
const SEGMENT: &str = "PORTCULLIS_TEST_SEGMENT";

/// Kills three appenders at once, again and again.
fn killed(base: &Path, segment: Option<&str>) {
    let mut kills = 0;
    for round in 0..15_u64 {
        let start = || {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args([
                "--exact",
                "crashing::appenders_that_are_killed_at_any_moment_leave_a_ledger_that_verifies",
            ]);
            command
                .env(WHERE, base)
                .envs(segment.map(|segment| (SEGMENT, segment)))
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            command.spawn().unwrap()
        };
        let mut appenders = [start(), start(), start()];
        std::thread::sleep(Duration::from_millis(40 + round * 7));
        for appender in &mut appenders {
            appender.kill().unwrap();
            let status = appender.wait().unwrap();
            assert_eq!(status.signal(), Some(9), "it ended by itself");
            kills += 1;
        }
    }
    assert_eq!(kills, 45);
    // Records of a session that was killed may be cut within a line: those are no business of the ledger.
    open_ledger(base).append(&[], SECOND).unwrap();
    let said = verify(base, &[]);
    assert!(
        !said.iter().any(|(subject, _)| subject == "ledger"),
        "{said:?}"
    );
}
