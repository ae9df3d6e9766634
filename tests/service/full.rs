//! The disk of the service's logs is full: sessions stop or go on as their profiles say, new ones are refused with the
//! reason, and daemon and notary outlive it.

use std::fs;
use std::process::{Child, Command, Stdio};

use crate::service::{ADA, BOB, Service};

const CONTINUE: &str = "extends = 'base'\n[audit]\non_failure = 'continue'\n";

/// Keeps asking, and notes what came of the last request: each is refused, and each refusal wants a record.
const ASKS: &str = "while sleep 0.1; do curl -s -m 30 -o /dev/null -w '%{http_code}' http://blocked.test/ > next; mv next last; done";

/// A tmpfs of 256 KiB in the place of the folder of logs.
fn small_disk(host: &Service) {
    let options = "size=256k,mode=755";
    let mount = [
        "mount",
        "-t",
        "tmpfs",
        "-o",
        options,
        "tmpfs",
        "/var/log/portcullis",
    ];
    let mounted = host.enter().args(mount).status().unwrap();
    assert!(mounted.success(), "mounting needs root");
}

fn fill(host: &Service) {
    let file = host.inside("/var/log/portcullis/full");
    // As much as fits, of this disk and no other.
    fs::write(file, vec![0; 1 << 20]).unwrap_err();
}

fn free(host: &Service) {
    fs::remove_file(host.inside("/var/log/portcullis/full")).unwrap();
}

/// Whom the notary runs as.
const NOTARY: u32 = 4103;

struct Notary(Child);

impl Notary {
    fn start(host: &Service) -> Self {
        fs::copy(
            env!("CARGO_BIN_EXE_portcullis-notary"),
            host.path("bin/portcullis-notary"),
        )
        .unwrap();
        let (state, ledger) = (
            host.path("notary"),
            host.inside("/var/log/portcullis/ledger"),
        );
        for folder in [&state, &ledger] {
            fs::create_dir(folder).unwrap();
            std::os::unix::fs::chown(folder, Some(NOTARY), Some(NOTARY)).unwrap();
        }
        let who = NOTARY.to_string();
        let mut command: Command = host.enter();
        // As its unit has it: somebody who may read logs by their group.
        let child = command
            .args(["setpriv", "--reuid", &who, "--regid", &who])
            .args(["--groups=4061", "--"])
            .arg(host.path("bin/portcullis-notary"))
            .arg("/var/log/portcullis")
            .arg(state)
            .stdin(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }
}

impl Drop for Notary {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn sessions_stop_or_go_on_and_new_ones_are_refused_and_nothing_of_the_service_dies() {
    let host = Service::start("");
    host.admin("profiles/on.toml", CONTINUE);
    small_disk(&host);
    let mut notary = Notary::start(&host);
    let detached = |user, profile: &str| {
        host.detached(
            user,
            &["-p", profile, "--name", profile, "--", "sh", "-c", ASKS],
        )
    };
    let (stops, goes_on) = (detached(ADA, "base"), detached(BOB, "on"));
    let last = |user| fs::read_to_string(host.work(user).join("last")).unwrap_or_default();
    let comes = |what: &str, user, code: &str| host.until(what, || last(user) == code);
    comes("it is refused", ADA, "403");
    comes("it is refused", BOB, "403");
    fill(&host);
    comes("no record, no answer of the policy", ADA, "503");
    let trouble = |user| host.run(user, &["ps"]).stdout;
    host.until("that is told", || {
        trouble(ADA).contains("[audit blocked]") && trouble(BOB).contains("[audit behind]")
    });
    assert_eq!((last(ADA), last(BOB)), ("503".to_owned(), "403".to_owned()));
    for user in [ADA, BOB, crate::service::OPERATOR] {
        let run = host.run(user, &["run", "--", "true"]);
        assert_eq!(run.status, Some(125), "{run:#?}");
        let lines: Vec<_> = run.stderr.lines().collect();
        assert!(
            lines.len() == 1 && lines[0].contains("No space left on device"),
            "{run:#?}"
        );
    }
    free(&host);
    comes("there is room", ADA, "403");
    let losses = |user, id: &String| {
        let records = host.records(user, id);
        records
            .iter()
            .filter(|record| record["event"] == "records.lost")
            .count()
    };
    host.until("the loss is on record", || losses(ADA, &stops) > 0);
    host.until("nobody is in trouble", || {
        !trouble(ADA).contains("[audit") && !trouble(BOB).contains("[audit")
    });
    // All of it had room in memory.
    assert_eq!(losses(BOB, &goes_on), 0);
    let run = host.run(ADA, &["run", "--", "true"]);
    assert_eq!(run.status, Some(0), "{run:#?}");
    for (user, name, id) in [(ADA, "base", &stops), (BOB, "on", &goes_on)] {
        assert_eq!(host.run(user, &["stop", name]).status, Some(0));
        let last = host.records(user, id).pop().unwrap();
        assert_eq!(last["event"], "session.ended");
        let verified = host.run(user, &["audit", "verify", id]);
        assert_eq!(verified.status, Some(0), "{verified:#?}");
    }
    assert!(notary.0.try_wait().unwrap().is_none());
    let ledger = host.inside("/var/log/portcullis/ledger");
    host.until("both ends are in the ledger", || {
        let files = fs::read_dir(&ledger)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let text: String = files
            .filter_map(|file| fs::read_to_string(file).ok())
            .collect();
        let ended = |id: &str| {
            text.lines()
                .any(|line| line.contains(id) && line.contains("ended"))
        };
        ended(&stops) && ended(&goes_on)
    });
    assert_eq!(host.processes("portcullisd"), [host.daemon().to_string()]);
}
