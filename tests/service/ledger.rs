//! The ledger of the host: a user who verifies their own logs has them held to it, and learns nothing of others.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cli::Run;
use crate::service::{ADA, AUDITOR, BOB, Service, User};

const NOTARY: u32 = 4103;
/// Whom the service manager would make up for the process that answers.
const ANSWERER: u32 = 4104;
const AUDITORS: u32 = 4061;

const LEDGER: &str = "/var/log/portcullis/ledger";

/// The notary, and the service manager that starts another one for each who asks.
struct Notary {
    child: Child,
    ends: Arc<AtomicBool>,
}

impl Notary {
    fn start(host: &Service) -> Self {
        let own = |path: &Path, (uid, gid), mode| {
            chown(path, Some(uid), Some(gid)).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        let state = host.path("state");
        fs::create_dir(&state).unwrap();
        own(&state, (NOTARY, NOTARY), 0o700);
        own(&host.inside("/var/log/portcullis"), (0, AUDITORS), 0o750);
        fs::create_dir(host.inside(LEDGER)).unwrap();
        own(&host.inside(LEDGER), (NOTARY, AUDITORS), 0o2750);
        let child = notary(host, NOTARY)
            .arg("/var/log/portcullis")
            .arg(&state)
            .spawn()
            .unwrap();
        let ends = Arc::new(AtomicBool::new(false));
        answer_with(host, ends.clone(), {
            let program = host.path("bin/portcullis-notary");
            let enter = host.keeper();
            move |asking| {
                as_user(enter, ANSWERER, &program)
                    .arg("--answer")
                    .stdin(asking)
                    .status()
                    .unwrap();
            }
        });
        Self { child, ends }
    }
}

impl Drop for Notary {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Listens where the service manager would, and has this done for each who asks.
fn answer_with(host: &Service, ends: Arc<AtomicBool>, answer: impl Fn(OwnedFd) + Send + 'static) {
    let socket = host.inside("/run/portcullis/ledger.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        while !ends.load(Ordering::Relaxed) {
            match listener.accept() {
                Ok((asking, _)) => {
                    asking.set_nonblocking(false).unwrap();
                    answer(asking.into());
                }
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    });
}

/// A program with the host's mounts, by a user who is nobody but may read logs.
fn as_user(keeper: u32, uid: u32, program: &Path) -> std::process::Command {
    let mut command = std::process::Command::new("nsenter");
    command
        .arg(format!("--mount=/proc/{keeper}/ns/mnt"))
        .arg("setpriv")
        .arg(format!("--reuid={uid}"))
        .arg(format!("--regid={uid}"))
        .arg(format!("--groups={AUDITORS}"))
        .args(["--", "sh", "-c", "umask 027; exec \"$@\"", "notary"])
        .arg(program);
    command
}

fn notary(host: &Service, uid: u32) -> std::process::Command {
    let mut command = as_user(host.keeper(), uid, &host.path("bin/portcullis-notary"));
    command.stdin(Stdio::null());
    command
}

/// A session of this user's that is over: its id.
fn session(host: &Service, user: User) -> String {
    let before = sessions(host, user);
    let run = host.run(user, &["run", "-q", "--", "true"]);
    assert_eq!(run.status, Some(0), "{run:#?}");
    let mut after = sessions(host, user);
    after.retain(|session| !before.contains(session));
    assert_eq!(after.len(), 1, "{after:?}");
    after.remove(0)
}

fn sessions(host: &Service, user: User) -> Vec<String> {
    let Ok(files) = fs::read_dir(host.inside(&format!("/var/log/portcullis/{}", user.uid))) else {
        return Vec::new();
    };
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    names
        .filter_map(|name| name.strip_suffix(".jsonl").map(str::to_owned))
        .collect()
}

fn log(host: &Service, user: User, session: &str) -> PathBuf {
    host.inside(&format!("/var/log/portcullis/{}/{session}.jsonl", user.uid))
}

/// What is printed once everything is bound.
fn bound(host: &Service, user: User, words: &[&str]) -> Run {
    let until = Instant::now() + Duration::from_mins(1);
    loop {
        let run = host.run(user, &[&["audit", "verify"], words].concat());
        let waits = run.stdout.contains("not in the ledger") || run.stdout.contains("has none yet");
        if !waits {
            return run;
        }
        assert!(Instant::now() < until, "{run:#?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_user_has_their_logs_held_to_the_ledger_of_the_host_and_learns_nothing_of_others() {
    let host = Service::start("");
    let _notary = Notary::start(&host);
    let (hers, another) = (session(&host, ADA), session(&host, ADA));
    let his = session(&host, BOB);
    // The auditor reads the ledger, and sees everything.
    let read = bound(&host, AUDITOR, &[]);
    assert_eq!(read.status, Some(0), "{read:#?}");
    assert!(read.stdout.contains("; signed up to entry "), "{read:#?}");
    for session in [&hers, &another, &his] {
        assert!(read.stdout.contains(session.as_str()), "{read:#?}");
    }
    let key = fs::read_to_string(host.inside(LEDGER).join("key.pub")).unwrap();
    let key = key.trim();

    // She cannot read it, and is told of her own.
    let words = ["cat", &format!("{LEDGER}/ledger.jsonl")];
    let mut cat = host.command(ADA, &host.work(ADA), &words);
    let cat = Run::of(&cat.output().unwrap());
    assert_ne!(cat.status, Some(0), "{cat:#?}");
    for words in [vec![], vec![hers.as_str()], vec!["--key", key]] {
        let run = bound(&host, ADA, &words);
        assert_eq!((run.status, run.stderr.as_str()), (Some(0), ""), "{run:#?}");
        let said = format!("ledger    the one of this host holds, signed with key {key}\n");
        assert!(run.stdout.contains(&said), "{run:#?}");
        assert!(!run.stdout.contains(&his), "{run:#?}");
    }
    let run = host.run(ADA, &["audit", "verify", "--json"]);
    let lines = run.stdout.lines();
    let lines: Vec<Value> = lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let [one, two, ledger] = lines.as_slice() else {
        panic!("{run:#?}");
    };
    for line in [one, two] {
        assert_eq!(line["ledger"]["bound"], line["records"], "{line}");
        assert_eq!(line["ledger"]["unbound"], 0, "{line}");
    }
    assert_eq!(
        *ledger,
        serde_json::json!({
            "ledger": format!("{LEDGER}/ledger.jsonl"),
            "answered": true,
            "holds": true,
            "keys": [key],
            "key_given": false,
        })
    );
    // Another key, and checkpoints, for which the whole ledger is needed.
    let other = "0".repeat(64);
    let run = host.run(ADA, &["audit", "verify", "--key", &other]);
    assert_eq!(run.status, Some(1), "{run:#?}");
    assert!(run.stdout.contains("signed with other keys"), "{run:#?}");
    let run = host.run(ADA, &["audit", "verify", "--anchor", "/dev/null"]);
    assert_eq!(run.status, Some(77), "{run:#?}");

    // Somebody cuts one of her logs off, and removes the other.
    let text = fs::read_to_string(log(&host, ADA, &hers)).unwrap();
    let records = text.lines().count();
    let shorter: String = text.split_inclusive('\n').take(records - 1).collect();
    fs::write(log(&host, ADA, &hers), shorter).unwrap();
    fs::remove_file(log(&host, ADA, &another)).unwrap();
    let cut = format!(
        "BROKEN    {hers}  record {records} is missing: the log ends before it, and the ledger has bound {records} records"
    );
    let run = host.run(ADA, &["audit", "verify", &hers]);
    assert_eq!(run.status, Some(1), "{run:#?}");
    assert!(run.stdout.starts_with(&cut), "{run:#?}");
    for user in [ADA, AUDITOR] {
        let run = host.run(user, &["audit", "verify"]);
        assert_eq!(run.status, Some(1), "{run:#?}");
        assert!(run.stdout.contains(&cut), "{run:#?}");
        let gone = format!("BROKEN    {another}  record 1 is missing: the log is gone");
        assert!(run.stdout.contains(&gone), "{run:#?}");
    }
    // His are as they were.
    let run = host.run(BOB, &["audit", "verify"]);
    assert_eq!(run.status, Some(0), "{run:#?}");
    assert!(
        run.stdout.contains(&his) && !run.stdout.contains(&hers) && !run.stdout.contains(&another),
        "{run:#?}"
    );

    // The ledger itself is changed: she is told that, and not where.
    let ledger = host.inside(LEDGER).join("ledger.jsonl");
    let text = fs::read_to_string(&ledger).unwrap();
    fs::write(&ledger, text.replacen("log.head", "log.heap", 1)).unwrap();
    let run = host.run(BOB, &["audit", "verify"]);
    assert_eq!(run.status, Some(1), "{run:#?}");
    assert!(
        run.stdout.contains("does not hold, says the notary"),
        "{run:#?}"
    );
}

#[test]
fn a_log_that_nobody_vouches_for_is_held_to_its_own_chain_and_that_is_said() {
    let host = Service::start("");
    let hers = session(&host, ADA);
    fs::set_permissions(
        host.inside("/var/log/portcullis"),
        fs::Permissions::from_mode(0o750),
    )
    .unwrap();
    fs::create_dir(host.inside(LEDGER)).unwrap();
    let run = host.run(ADA, &["audit", "verify", &hers]);
    assert_eq!(run.status, Some(0), "{run:#?}");
    assert!(
        run.stdout.starts_with("complete") && run.stdout.contains("nobody answers on"),
        "{run:#?}"
    );
    // An answer that breaks off is no answer.
    let ends = Arc::new(AtomicBool::new(false));
    answer_with(&host, ends.clone(), |asking| {
        let line = b"{\"ledger\":{\"holds\":true,\"keys\":[]}}\n";
        rustix::io::write(asking, line).unwrap();
    });
    let run = host.run(ADA, &["audit", "verify", &hers]);
    ends.store(true, Ordering::Relaxed);
    assert_eq!(run.status, Some(69), "{run:#?}");
    assert!(run.stdout.contains("its answer is not whole"), "{run:#?}");
}
