//! A session of the service is what a session of one's own is, for whoever asks for it.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Stdio;

use crate::cli::{Run, Who};
use crate::service::{ADA, BOB, Service, User};
use crate::terminal::Terminal;

#[test]
fn the_command_runs_as_its_caller_with_its_own_status_and_output() {
    let host = Service::start("");
    let script = "id -u; id -G; umask; echo err >&2; touch made; exit 7";
    let run = host.run(ADA, &["run", "--", "sh", "-c", script]);
    assert_eq!(run.stdout, "4001\n4001 4050\n0022\n", "{run:#?}");
    assert_eq!((run.status, run.stderr.as_str()), (Some(7), "err\n"));
    let made = fs::metadata(host.work(ADA).join("made")).unwrap();
    assert_eq!((made.uid(), made.gid()), (ADA.uid, ADA.uid));
}

#[test]
fn where_a_limit_of_the_host_is_reached_it_is_named() {
    let host = Service::start("");
    let daemon = rustix::process::Pid::from_raw(host.daemon().try_into().unwrap());
    let limit = |soft| {
        let limit = rustix::process::Rlimit {
            current: Some(soft),
            maximum: Some(10_000),
        };
        rustix::process::prlimit(daemon, rustix::process::Resource::Nofile, limit).unwrap();
    };
    limit(16);
    let mut running = 0;
    let refused = loop {
        let run = host.run(ADA, &["run", "-d", "--", "sleep", "1000"]);
        if run.status != Some(0) {
            break run;
        }
        running += 1;
        assert!(running < 5, "no limit is reached");
    };
    assert!(refused.stderr.contains("LimitNOFILE="), "{refused:#?}");
    limit(10_000);
    assert_eq!(host.run(ADA, &["run", "--", "true"]).status, Some(0));
}

#[test]
fn its_log_is_the_audit_writers_and_its_owner_reads_it_through_the_service() {
    let host = Service::start("");
    let id = host.detached(ADA, &["--name", "nightly", "--", "sleep", "1000"]);
    let records = host.records(ADA, &id);
    assert_eq!(
        (records[0]["event"].as_str(), records[0]["user"].as_str()),
        (Some("session.started"), Some("ada"))
    );
    let log = host.inside(&format!("/var/log/portcullis/4001/{id}.jsonl"));
    let stat = fs::metadata(&log).unwrap();
    assert_eq!(
        (stat.uid(), stat.gid(), stat.mode() & 0o777),
        (4102, 4061, 0o640)
    );
    assert_eq!(host.run(ADA, &["stop", "nightly"]).status, Some(0));
    let shown = host.run(ADA, &["audit", "show", &id]);
    assert!(
        shown.status == Some(0) && shown.stdout.contains("sleep 1000"),
        "{shown:#?}"
    );
    let verified = host.run(ADA, &["audit", "verify", &id]);
    assert_eq!(verified.status, Some(0), "{verified:#?}");
    // Their own home has nothing of it.
    assert!(!host.path("home/ada/.local/state/portcullis/audit").exists());
}

#[test]
fn its_owner_finds_its_records_through_the_service() {
    let host = Service::start("");
    let id = host.detached(ADA, &["--name", "nightly", "--", "sleep", "1000"]);
    let found = |filters: &[&str]| {
        let query = ["audit", "query", "--json", "--oldest-first"];
        let ran = host.run(ADA, &[&query, filters].concat());
        assert_eq!(ran.status, Some(0), "{ran:#?}");
        let event = |line: &str| {
            let record: serde_json::Value = serde_json::from_str(line).unwrap();
            record["event"].as_str().unwrap().to_owned()
        };
        ran.stdout.lines().map(event).collect::<Vec<_>>().join(" ")
    };
    let of_session = ["--session", &id, "--event", "session.*"];
    assert_eq!(found(&of_session), "session.started");
    assert_eq!(host.run(ADA, &["stop", "nightly"]).status, Some(0));
    let all = "session.started session.stopping session.ended";
    assert_eq!(found(&of_session), all);
    assert_eq!(found(&of_session), all);
    assert_eq!(found(&["--text", "sleep"]), "session.started");
    assert_eq!(found(&["--user", "nobody"]), "");
}

fn status(pid: &str, key: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().to_owned()
}

#[test]
fn each_process_is_somebody_else_and_root_runs_the_daemon_alone() {
    let host = Service::start("");
    host.detached(ADA, &["--", "sleep", "1000"]);
    let of = |program: &str| host.processes(program);
    let gates = of("portcullis-gate");
    let writers = of("portcullis-audit");
    let sessions = of("portcullis");
    assert_eq!((gates.len(), writers.len(), sessions.len()), (1, 1, 1));
    assert_eq!(status(&gates[0], "Uid:"), "4101");
    assert_eq!(status(&writers[0], "Uid:"), "4102");
    assert_eq!(status(&sessions[0], "Uid:"), "4001");
    for companion in [&gates[0], &writers[0]] {
        assert_eq!(status(companion, "CapEff:"), "0000000000000000");
        assert_eq!(status(companion, "Seccomp:"), "2");
    }
    let map = fs::read_to_string(format!("/proc/{}/uid_map", sessions[0])).unwrap();
    let map: Vec<Vec<&str>> = map
        .lines()
        .map(|line| line.split_ascii_whitespace().collect())
        .collect();
    assert_eq!(map, [["0", "1879048192", "1"], ["4001", "4001", "1"]]);
    // One thread, and nothing of a jail's.
    assert_eq!(status(&host.daemon().to_string(), "Threads:"), "1");
}

#[test]
fn a_caller_without_a_home_and_one_whose_home_root_never_opens_have_sessions() {
    let host = Service::start("");
    let mut command = host.portcullis(
        BOB,
        &["run", "--", "sh", "-c", "echo $HOME; touch ~/x; ls ~"],
    );
    command.env("HOME", "/nonexistent").current_dir("/");
    let run = Run::of(&command.output().unwrap());
    assert_eq!(
        (run.status, run.stdout.as_str()),
        (Some(0), "/nonexistent\nx\n"),
        "{run:#?}"
    );
    let mut command = host.portcullis(BOB, &["run", "-d", "--", "sleep", "1000"]);
    command.env("HOME", "/nonexistent");
    let run = Run::of(&command.output().unwrap());
    assert_eq!(run.status, Some(0), "{run:#?}");
    let id = run.stdout.trim();
    let mut stop = host.portcullis(BOB, &["stop", id]);
    stop.env("HOME", "/nonexistent");
    let run = Run::of(&stop.output().unwrap());
    assert_eq!((run.status, run.stdout.trim()), (Some(0), id), "{run:#?}");
}

#[test]
fn the_network_is_the_gates_and_the_requirements_are_the_admins() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        use std::io::{Read, Write};
        while let Ok((mut stream, _)) = listener.accept() {
            let mut head = [0; 4096];
            if stream.read(&mut head).is_ok_and(|got| got == 0) {
                continue;
            }
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\nyes";
            stream.write_all(answer).ok();
        }
    });
    let host = Service::start("");
    let profile = format!(
        "[[network.rules]]\nhost = \"127.0.0.1\"\nports = [{port}]\naction = \"allow\"\n\
         [network.addresses]\nallow = [\"127.0.0.0/8\"]\n"
    );
    host.admin("profiles/local.toml", &profile);
    let url = format!("http://127.0.0.1:{port}/");
    let script = format!(
        "curl -s -o /dev/null -w '%{{http_code}}\\n' {url}; curl -s -X POST -d x -o /dev/null -w '%{{http_code}}' {url}"
    );
    let words = ["run", "-p", "local", "--", "sh", "-c", &script];
    let run = host.run(ADA, &words);
    assert_eq!(run.stdout, "200\n200", "{run:#?}");
    host.admin("requirements.toml", "[network]\nmode = \"limited\"\n");
    let run = host.run(ADA, &words);
    assert_eq!(run.stdout, "200\n403", "{run:#?}");
}

#[test]
fn the_session_of_one_who_goes_away_ends_and_a_detached_one_goes_on() {
    let host = Service::start("");
    let mut command = host.portcullis(ADA, &["run", "--name", "fore", "--", "sleep", "1000"]);
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    let listed = |name: &str| host.run(ADA, &["ps", "--json"]).stdout.contains(name);
    host.until("it runs", || listed("fore"));
    let id = host.detached(ADA, &["--name", "back", "--", "sleep", "1000"]);
    child.kill().unwrap();
    child.wait().unwrap();
    host.until("it ends", || !listed("fore"));
    assert!(listed("back"));
    // And one that is asked to end passes that on.
    let mut command = host.portcullis(
        ADA,
        &[
            "run",
            "--name",
            "asked",
            "--",
            "sh",
            "-c",
            "trap 'exit 9' TERM; echo ready; sleep 1000 & wait",
        ],
    );
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    // Not before it has said what it does about that.
    let mut line = String::new();
    let mut said = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut said, &mut line).unwrap();
    assert_eq!(line, "ready\n");
    let pid = rustix::process::Pid::from_child(&child);
    // nsenter and the others have become portcullis.
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(9));
    assert_eq!(host.run(ADA, &["stop", &id]).status, Some(0));
}

#[test]
fn a_person_at_a_terminal_has_a_real_one_and_the_commands_status() {
    let host = Service::start("");
    let script = "test -t 0 && tty; stty size; read -r line; echo \"got $line\"; trap 'echo INT; exit 5' INT; \
                  while :; do sleep 0.1; done";
    let mut command = host.portcullis(ADA, &["run", "--", "sh", "-c", script]);
    command.current_dir("/");
    let mut terminal = Terminal::new(&command, Who::Root, (31, 97));
    terminal.shows("31 97");
    terminal.types("word\n");
    terminal.shows("got word");
    terminal.types("\u{3}");
    terminal.shows("INT");
    assert_eq!(terminal.status(), Some(5), "{}", terminal.shown());
}

#[test]
fn what_a_session_can_be_it_can_be_here_too() {
    let host = Service::start("");
    host.admin(
        "profiles/all.toml",
        "[network]\ntransparent = true\nmitm = true\n",
    );
    // All that is asked for is refused by the gate, whichever way it comes, and TLS is looked into.
    let script = "NO_PROXY='*' curl -s -m 20 -o /dev/null -w '%{http_code} ' http://blocked.test/ || echo -n \"$? \"; \
                  test -s $SSL_CERT_FILE && echo ca";
    let run = host.run(ADA, &["run", "-q", "-p", "all", "--", "sh", "-c", script]);
    assert!(
        run.status == Some(0) && run.stdout.ends_with("ca\n"),
        "{run:#?}"
    );
    // A port of the jail on the host.
    let server = "python3 -m http.server --bind 127.0.0.1 8000";
    let id = host.detached(ADA, &["--", "sh", "-c", server]);
    let mut forward = host.portcullis(ADA, &["forward", &id, "0:8000"]);
    let mut child = forward.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(child.stdout.take().unwrap()),
        &mut line,
    )
    .unwrap();
    let at = line.split_whitespace().next().unwrap().to_owned();
    let fetch = || {
        let mut command = host.command(
            ADA,
            &host.work(ADA),
            &[
                "curl",
                "-s",
                "-o",
                "/dev/null",
                "-w",
                "%{http_code}",
                &format!("http://{at}/"),
            ],
        );
        Run::of(&command.output().unwrap()).stdout == "200"
    };
    host.until("the jail's server answers", fetch);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(host.run(ADA, &["stop", &id]).status, Some(0));
}

#[test]
fn a_session_that_is_killed_leaves_nothing_and_its_log_says_so() {
    let host = Service::start("");
    for _ in 0..3 {
        let id = host.detached(
            ADA,
            &[
                "--limit",
                "tasks=100",
                "--",
                "sh",
                "-c",
                "sleep 1000 & sleep 1000",
            ],
        );
        let [session] = &host.processes("portcullis")[..] else {
            panic!("one session");
        };
        let pid = rustix::process::Pid::from_raw(session.parse().unwrap()).unwrap();
        let namespace = fs::read_link(format!("/proc/{session}/ns/user")).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        let left = || {
            fs::read_dir("/proc").unwrap().any(|entry| {
                let path = entry.unwrap().path().join("ns/user");
                fs::read_link(path).is_ok_and(|found| found == namespace)
            })
        };
        host.until("its processes are gone", || !left());
        let gone = |program| host.processes(program).is_empty();
        host.until("its gate and its writer are gone", || {
            gone("portcullis-gate") && gone("portcullis-audit")
        });
        let last = host.records(ADA, &id).pop().unwrap();
        assert_eq!(last["event"], "session.ended");
        let verified = host.run(ADA, &["audit", "verify", &id]);
        assert_eq!(verified.status, Some(0), "{verified:#?}");
    }
}

#[test]
fn limits_are_held_by_groups_that_the_user_cannot_change() {
    let host = Service::start("[[access]]\nwho = [\"*\"]\nlimits = { tasks = 40 }\n");
    let script = "for i in $(seq 60); do sleep 5 & done 2>/dev/null; jobs -p | wc -l";
    let id = host.detached(
        ADA,
        &["--limit", "memory=64M", "--", "sh", "-c", "sleep 1000"],
    );
    let group = format!("portcullis-{id}");
    let groups = fs::read_to_string(format!("/proc/{}/cgroup", host.daemon())).unwrap();
    let folders = ["pids", "memory"].map(|name| {
        let own = groups
            .lines()
            .find_map(|line| line.split_once(&format!(":{name}:/")));
        let own = own.map_or("", |(_, own)| own);
        Path::new("/sys/fs/cgroup")
            .join(name)
            .join(own)
            .join(&group)
    });
    let [pids, memory] = folders.clone();
    // Version 1 on this machine, the one hierarchy of version 2 on others.
    if pids.exists() {
        assert_eq!(
            fs::read_to_string(pids.join("pids.max")).unwrap().trim(),
            "42"
        );
        let limit = fs::read_to_string(memory.join("memory.limit_in_bytes")).unwrap();
        assert_eq!(limit.trim(), (64 << 20).to_string());
        assert_eq!(fs::metadata(pids.join("pids.max")).unwrap().uid(), 0);
        assert_eq!(fs::metadata(&pids).unwrap().permissions().mode() & 0o022, 0);
    }
    let stopped = host.run(ADA, &["stop", "--kill", &id]);
    assert_eq!(stopped.status, Some(0), "{stopped:#?}");
    host.until("the groups are gone", || {
        folders.iter().all(|folder| !folder.exists())
    });
    let run = host.run(ADA, &["run", "--", "bash", "-c", script]);
    let stderr = &run.stderr;
    assert!(
        stderr.contains("tasks") && stderr.contains("40"),
        "{run:#?}"
    );
}

#[test]
fn the_callers_limits_and_signals_are_those_of_the_command() {
    let host = Service::start("");
    let program = host.path("bin/portcullis");
    let program = program.to_str().unwrap();
    let show = "ulimit -H -n; ulimit -S -n; ulimit -H -f; ulimit -H -u; grep -E '^Sig(Blk|Ign)' /proc/self/status";
    let seen = |with: &[&str]| {
        let run = [program, "run", "-q", "--", "bash", "-c", show];
        let words = [&["prlimit"], with, &run].concat();
        Run::of(&host.command(ADA, &host.work(ADA), &words).output().unwrap())
    };
    let run = seen(&["--nofile=700:900", "--fsize=1048576", "--nproc=400"]);
    let signals = "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n";
    assert_eq!(
        run.stdout,
        format!("900\n700\n1024\n400\n{signals}"),
        "{run:#?}"
    );
}

#[test]
fn an_environment_of_a_megabyte_is_no_matter_of_the_daemons() {
    let host = Service::start("");
    let program = host.path("bin/portcullis");
    let words = [program.to_str().unwrap(), "run", "-q", "--", "echo", "ran"];
    let mut command = host.command(ADA, &host.work(ADA), &words);
    for number in 0..12 {
        command.env(format!("LONG_{number}"), "x".repeat(100_000));
    }
    let run = Run::of(&command.output().unwrap());
    assert_eq!(
        (run.status, run.stdout.as_str()),
        (Some(0), "ran\n"),
        "{run:#?}"
    );
}

#[test]
fn a_session_has_nothing_by_which_it_moves_others_into_its_groups() {
    let host = Service::start("");
    let limit = ["--limit", "memory=64M", "--", "sleep", "1000"];
    let id = host.detached(ADA, &limit);
    let group = format!("portcullis-{id}");
    let pids = host.processes("portcullis");
    let mut seen = Vec::new();
    for pid in pids {
        let entries = fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten();
        let paths = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        seen.extend(paths);
    }
    let groups: Vec<_> = seen
        .iter()
        .filter_map(|path| path.to_str().filter(|path| path.contains(&group)))
        .collect();
    assert!(!groups.is_empty());
    // Whoever writes to one that root has opened moves any process of the host.
    assert!(
        !groups.iter().any(|path| path.ends_with("cgroup.procs")),
        "{groups:?}"
    );
    assert_eq!(host.run(ADA, &["stop", "--kill", &id]).status, Some(0));
}

#[test]
fn who_may_have_what_is_the_admins_file_and_a_wrong_one_admits_nobody() {
    let host = Service::start(
        "sessions = 2\n[[access]]\nwho = [\"ada\"]\nprofiles = [\"codex\", \"mine\"]\n\
         [[access]]\nwho = [\"bob\"]\nsessions = 1\n",
    );
    host.admin("profiles/mine.toml", "description = \"ours\"\n");
    let own = host.path("home/ada/.config/portcullis/profiles/mine.toml");
    fs::create_dir_all(own.parent().unwrap()).unwrap();
    fs::write(&own, "broken =").unwrap();
    let run = |user: User, words: &[&str]| host.run(user, words);
    let refused = run(ADA, &["run", "--", "true"]);
    assert_eq!(
        refused.complaint(),
        (
            Some(125),
            vec!["portcullis: profile \"base\" is not one of yours; you may use codex, mine"]
        )
    );
    // Of that name the host's own counts, not hers.
    assert_eq!(
        run(ADA, &["run", "-p", "mine", "--", "true"]).status,
        Some(0)
    );
    let id = host.detached(BOB, &["--", "sleep", "1000"]);
    let second = run(BOB, &["run", "--", "true"]);
    assert_eq!(
        second.complaint(),
        (
            Some(125),
            vec![
                "portcullis: 1 sessions of yours run, which is as many as you may have \
             (/etc/portcullis/portcullis.toml: access.sessions); portcullis ps lists them"
            ]
        )
    );
    let outsider = run(crate::service::AUDITOR, &["run", "--", "true"]);
    assert!(
        outsider.status == Some(125) && outsider.stderr.contains("names nobody that is you"),
        "{outsider:#?}"
    );
    host.admin("portcullis.toml", "sessoins = 1\n");
    let wrong = run(BOB, &["run", "--", "true"]);
    assert!(
        wrong.status == Some(125) && wrong.stderr.contains("unknown field `sessoins`"),
        "{wrong:#?}"
    );
    // What runs goes on, and its owner can still end it.
    assert_eq!(run(BOB, &["stop", &id]).status, Some(0));
}

#[test]
fn without_the_service_or_by_wish_a_session_is_ones_own() {
    let host = Service::start("[[access]]\nwho = []\n");
    let run = host.run(ADA, &["run", "--standalone", "--", "echo", "own"]);
    assert_eq!(
        (run.status, run.stdout.as_str()),
        (Some(0), "own\n"),
        "{run:#?}"
    );
    assert!(host.path("home/ada/.local/state/portcullis/audit").exists());
    // Root's sessions are root's own: nothing has to be made for them.
    let root = User {
        name: "root",
        uid: 0,
        groups: &[],
    };
    fs::create_dir_all(host.path("home/root/work")).unwrap();
    let run = host.run(root, &["run", "--", "echo", "root"]);
    assert_eq!(
        (run.status, run.stdout.as_str()),
        (Some(0), "root\n"),
        "{run:#?}"
    );
}
