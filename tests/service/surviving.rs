//! The daemon dies, is started again, or is two: sessions go on, and nothing is left behind.

use std::path::Path;

use crate::service::{ADA, OPERATOR, Service};

#[test]
fn two_daemons_cannot_run() {
    let host = Service::start("");
    let second = host.second_daemon();
    assert_eq!(
        second.complaint(),
        (
            Some(69),
            vec!["portcullisd: another portcullisd runs: /run/portcullis/lock is locked"]
        )
    );
}

#[test]
fn a_session_goes_on_without_the_daemon_and_keeps_its_gate_and_its_log() {
    let mut host = Service::start("");
    let script =
        "while sleep 0.2; do curl -s -o /dev/null -w '%{http_code}\\n' http://blocked.test/; done";
    let id = host.detached(ADA, &["--name", "on", "--", "sh", "-c", script]);
    host.kill_daemon();
    let count = || host.records(ADA, &id).len();
    let before = count();
    host.until("it is refused and recorded as before", || {
        count() > before + 3
    });
    let records = host.records(ADA, &id);
    assert!(records.iter().all(|record| record["event"] != "gate.lost"));
    assert_eq!(host.run(ADA, &["stop", "on"]).status, Some(0));
    let last = host.records(ADA, &id).pop().unwrap();
    assert_eq!(last["event"], "session.ended");
    // A new session needs the daemon, and says so.
    let run = host.run(ADA, &["run", "--", "true"]);
    assert!(
        run.status == Some(125) && run.stderr.contains("--standalone"),
        "{run:#?}"
    );
}

#[test]
fn a_gate_and_a_writer_that_die_are_replaced_by_the_daemon() {
    let host = Service::start("");
    let script = "while sleep 0.2; do curl -s -m 20 -o /dev/null http://blocked.test/; done";
    let id = host.detached(ADA, &["--name", "on", "--", "sh", "-c", script]);
    let of = |event: &str| {
        let records = host.records(ADA, &id);
        records
            .iter()
            .filter(|record| record["event"] == event)
            .count()
    };
    for (program, event) in [
        ("portcullis-gate", "gate.restarted"),
        ("portcullis-audit", "log.resumed"),
    ] {
        host.until("it works", || of("egress.decided") > 0);
        host.kill(program);
        host.until("another takes its place", || of(event) > 0);
        let before = of("egress.decided");
        host.until("it works again", || of("egress.decided") > before + 2);
    }
    assert_eq!(host.run(ADA, &["stop", "on"]).status, Some(0));
    let verified = host.run(ADA, &["audit", "verify", &id]);
    assert_eq!(verified.status, Some(0), "{verified:#?}");
}

#[test]
fn the_next_daemon_knows_the_sessions_of_the_one_before() {
    let mut host = Service::start("");
    let script = "while sleep 0.2; do curl -s -m 20 -o /dev/null http://blocked.test/; done";
    let id = host.detached(ADA, &["--name", "on", "--", "sh", "-c", script]);
    let ended = host.detached(ADA, &["--name", "over", "--", "sleep", "1000"]);
    assert_eq!(host.run(ADA, &["stop", "over"]).status, Some(0));
    for round in 1..=3 {
        host.kill_daemon();
        host.restart_daemon();
        let listed = host.run(OPERATOR, &["ps", "--all"]).stdout;
        assert!(
            listed.contains("ada/on") && !listed.contains(&ended),
            "{round} {listed}"
        );
        // What died while there was no daemon is replaced by the next, too.
        host.kill("portcullis-gate");
        let restarts = || {
            let records = host.records(ADA, &id);
            records
                .iter()
                .filter(|record| record["event"] == "gate.restarted")
                .count()
        };
        host.until("the gate is replaced", || restarts() >= round);
    }
    let stopped = host.run(OPERATOR, &["stop", "on"]);
    assert_eq!(stopped.status, Some(0), "{stopped:#?}");
    let verified = host.run(ADA, &["audit", "verify", &id]);
    assert_eq!(verified.status, Some(0), "{verified:#?}");
    host.until("nothing is kept of it", || host.store.kept().is_empty());
}

#[test]
fn groups_of_a_session_that_nobody_knows_any_more_go_when_it_ends() {
    let mut host = Service::start("");
    let id = host.detached(
        ADA,
        &["--name", "on", "--limit", "tasks=50", "--", "sleep", "1000"],
    );
    let group = Path::new("/sys/fs/cgroup/pids").join(format!("portcullis-{id}"));
    let unified = Path::new("/sys/fs/cgroup").join(format!("portcullis-{id}"));
    let stands = || group.exists() || unified.exists();
    assert!(stands());
    host.kill_daemon();
    host.restart_daemon_without_store();
    assert_eq!(host.run(ADA, &["stop", "on"]).status, Some(0));
    host.until("its groups are gone", || !stands());
}
