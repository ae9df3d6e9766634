//! Users of one host: what is one's own is nobody else's, but for those whom the admin lets.

use std::fs;

use crate::cli::Run;
use crate::service::{ADA, AUDITOR, BOB, OPERATOR, Service};

fn complaint(run: &Run) -> (Option<i32>, String) {
    (run.status, run.stderr.clone())
}

#[test]
fn nobody_sees_stops_or_enters_a_session_of_somebody_else() {
    let host = Service::start("");
    let id = host.detached(ADA, &["--name", "hers", "--", "sleep", "1000"]);
    let run = |words: &[&str]| host.run(BOB, words);
    for words in [["ps", "--all"], ["ps", "--json"]] {
        let listed = run(&words);
        assert_eq!(
            (listed.status, listed.stdout.as_str()),
            (Some(0), ""),
            "{listed:#?}"
        );
    }
    for verb in ["show", "stop", "attach", "counters"] {
        for name in [id.as_str(), "hers"] {
            let words = match verb {
                "attach" => vec![verb, "--read-only", name],
                _ => vec![verb, name],
            };
            let (status, said) = complaint(&run(&words));
            assert!(
                status == Some(69) && said.contains("no session of yours runs"),
                "{verb} {said}"
            );
        }
    }
    let (status, said) = complaint(&run(&["forward", &id, "18080:80"]));
    assert!(
        status == Some(69) && said.contains("no session of yours"),
        "{said}"
    );
    let (status, said) = complaint(&run(&["audit", "show", &id]));
    assert!(
        status == Some(64) && said.contains("no session begins so"),
        "{said}"
    );
    let (status, _) = complaint(&run(&["logs", &id]));
    assert_eq!(status, Some(69));
    // What lies on the disk is closed to him as well.
    for path in ["/run/portcullis/user/4001", "/var/log/portcullis/4001"] {
        let mut command = host.command(BOB, &host.work(BOB), &["ls", path]);
        let listed = Run::of(&command.output().unwrap());
        assert!(
            listed.status != Some(0) && listed.stdout.is_empty(),
            "{path} {listed:#?}"
        );
    }
    // Her own it is.
    let listed = host.run(ADA, &["ps"]);
    assert!(listed.stdout.contains("hers"), "{listed:#?}");
    assert_eq!(host.run(ADA, &["stop", "hers"]).status, Some(0));
}

#[test]
fn a_jail_of_one_user_knows_nothing_of_anothers() {
    let host = Service::start("");
    let secret = host.work(ADA).join("secret");
    fs::write(&secret, "hers").unwrap();
    let id = host.detached(
        ADA,
        &["--", "sh", "-c", "exec -a needle-in-proc sleep 1000"],
    );
    let script = format!(
        "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '; ls /run/portcullis /run/user 2>&1; \
         cat {} 2>&1; true",
        secret.display()
    );
    let run = host.run(BOB, &["run", "--", "sh", "-c", &script]);
    assert_eq!(run.status, Some(0), "{run:#?}");
    for word in ["needle", "hers\n", "control.sock", id.as_str(), "4001"] {
        assert!(!run.stdout.contains(word), "{word}: {run:#?}");
    }
    // The proxy in his jail is his own: hers listens in another network.
    let script =
        "curl -s -o /dev/null -w '%{http_code}' -x http://127.0.0.1:3128 http://blocked.test/";
    let run = host.run(BOB, &["run", "-q", "--", "sh", "-c", script]);
    assert_eq!(run.stdout, "403", "{run:#?}");
    let records = host.records(ADA, &id);
    assert!(
        records
            .iter()
            .all(|record| record["event"] != "egress.decided")
    );
}

#[test]
fn an_operator_sees_and_stops_what_others_run_and_does_not_type_there() {
    let host = Service::start("");
    let id = host.detached(ADA, &["--name", "hers", "--", "sleep", "1000"]);
    let run = |words: &[&str]| host.run(OPERATOR, words);
    let listed = run(&["ps", "--all"]);
    assert!(listed.stdout.contains("ada/hers"), "{listed:#?}");
    assert!(!run(&["ps"]).stdout.contains("hers"));
    let shown = run(&["show", "--json", "hers"]);
    assert!(
        shown.status == Some(0) && shown.stdout.contains(&id),
        "{shown:#?}"
    );
    let refused = run(&["forward", "hers", "18080:80"]);
    assert!(
        refused.status == Some(77) && refused.stderr.contains("somebody else's session"),
        "{refused:#?}"
    );
    // The log is the auditors'.
    assert_eq!(run(&["audit", "show", &id]).status, Some(64));
    let stopped = run(&["stop", "hers"]);
    assert_eq!(
        (stopped.status, stopped.stdout.trim()),
        (Some(0), id.as_str()),
        "{stopped:#?}"
    );
    let records = host.records(ADA, &id);
    let stopping = records
        .iter()
        .find(|record| record["event"] == "session.stopping");
    assert_eq!(stopping.unwrap()["by"], "olga");
}

#[test]
fn an_auditor_sees_and_reads_and_changes_nothing() {
    let host = Service::start("");
    let id = host.detached(ADA, &["--name", "hers", "--", "sleep", "1000"]);
    let run = |words: &[&str]| host.run(AUDITOR, words);
    assert!(run(&["ps", "--all"]).stdout.contains("ada/hers"));
    let shown = run(&["audit", "show", &id]);
    assert!(
        shown.status == Some(0) && shown.stdout.contains("sleep 1000"),
        "{shown:#?}"
    );
    let refused = run(&["stop", "hers"]);
    assert_eq!(
        complaint(&refused),
        (
            Some(1),
            "portcullis: not permitted: this is somebody else's session\n".to_owned()
        )
    );
    assert!(host.run(ADA, &["ps"]).stdout.contains("hers"));
    assert_eq!(host.run(ADA, &["stop", "hers"]).status, Some(0));
    let verified = run(&["audit", "verify", &id]);
    assert_eq!(verified.status, Some(0), "{verified:#?}");
}
