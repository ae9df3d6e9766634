//! Programs that come and go: parents, several at once, short lives, shared sockets; and a gate and a witness that do.

use std::collections::BTreeMap;
use std::process::Stdio;

use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

use crate::cli::{EVERYONE, Who};
use crate::place::{Place, parent, process, processes, program, told, until};

#[test]
fn a_child_of_a_shell_of_a_shell_has_both_for_parents_and_an_orphan_has_none() {
    for who in EVERYONE {
        let place = Place::new(who);
        let script = "sh -c '/usr/bin/python3 ask.py PORT /child; :'\n\
                      sh -c '(sleep 0.3; exec /usr/bin/python3 ask.py PORT /orphan) >out 2>&1 &'\n\
                      until grep -q . out; do sleep 0.05; done; cat out\n";
        let run = place.script(script);
        let pids: Vec<&str> = run.stdout.lines().collect();
        assert_eq!(pids.len(), 2, "{run:?}");
        let port = place.origin.port().to_string();
        let child = told(&place.decided_on("/child")[0]);
        let between = child["parents"][0]["pid"].as_u64().unwrap();
        let shell = program("sh");
        let parents = [
            parent(between.try_into().unwrap(), &shell),
            parent(2, &shell),
        ];
        let argv = |path| ["/usr/bin/python3", "ask.py", &port, path].map(ToOwned::to_owned);
        let expected = |pid, path, parents: &[Value]| {
            let argv = argv(path);
            let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
            process(pid, &program("python3"), &argv, parents)
        };
        assert_eq!(child, expected(pids[0], "/child", &parents), "{who:?}");
        let orphan = told(&place.decided_on("/orphan")[0]);
        assert_eq!(orphan, expected(pids[1], "/orphan", &[]), "{who:?}");
    }
}

#[test]
fn programs_side_by_side_are_told_apart() {
    let place = Place::new(Who::User);
    let script = "for n in 1 2 3 4 5 6 7 8; do \
                  /usr/bin/python3 ask.py PORT /$n >out$n & done; wait; \
                  for n in 1 2 3 4 5 6 7 8; do cat out$n; done";
    let run = place.script(script);
    let pids: Vec<&str> = run.stdout.lines().collect();
    assert_eq!(pids.len(), 8, "{run:?}");
    let port = place.origin.port().to_string();
    for (n, pid) in (1..).zip(pids) {
        let path = format!("/{n}");
        let argv = ["/usr/bin/python3", "ask.py", &port, &path];
        let expected = process(
            pid,
            &program("python3"),
            &argv,
            &[parent(2, &program("sh"))],
        );
        assert_eq!(told(&place.decided_on(&path)[0]), expected);
    }
}

#[test]
fn one_that_leaves_at_once_is_named_or_said_to_be_gone() {
    const LEAVES: &str = "import socket, sys, os\n\
        port = int(sys.argv[1])\n\
        for n in range(20):\n    \
            with socket.create_connection(('127.0.0.1', 3128)) as proxy:\n        \
                proxy.sendall(f'GET http://web.test:{port}/{n} HTTP/1.1\\r\\nHost: web.test:{port}\\r\\n\\r\\n'.encode())\n";
    let place = Place::new(Who::User);
    place.scene.install.write("work/leaves.py", LEAVES);
    let run = place.script("echo $$; exec /usr/bin/python3 leaves.py PORT");
    assert_eq!(run.status, Some(0), "{run:?}");
    let port = place.origin.port().to_string();
    let argv = ["/usr/bin/python3", "leaves.py", &port];
    let expected = process(&run.stdout, &program("python3"), &argv, &[]);
    let mut decided = place.scene.install.events("egress.decided");
    decided.extend(place.scene.install.events("egress.refused"));
    assert!(!decided.is_empty());
    for event in decided {
        if event.get("process").is_some() {
            assert_eq!(told(&event), expected);
        } else {
            assert_eq!(event["process_unknown"], "gone", "{event}");
        }
    }
}

#[test]
fn of_several_with_one_socket_the_oldest_is_named_and_the_others_are_counted() {
    // The socket is there before the fork, the connection after it: made by the child.
    const SHARES: &str = "import os, socket, sys\n\
        port = sys.argv[1]\n\
        proxy = socket.socket()\n\
        if os.fork() == 0:\n    \
            proxy.connect(('127.0.0.1', 3128))\n    \
            proxy.sendall(f'GET http://web.test:{port}/shared HTTP/1.1\\r\\nHost: web.test:{port}\\r\\nConnection: close\\r\\n\\r\\n'.encode())\n    \
            while proxy.recv(65536): pass\n    \
            os._exit(0)\n\
        os.wait()\n\
        print(os.getpid())\n";
    for who in EVERYONE {
        let place = Place::new(who);
        place.scene.install.write("work/shares.py", SHARES);
        let run = place.script("/usr/bin/python3 shares.py PORT; :");
        assert_eq!(run.status, Some(0), "{run:?}");
        let port = place.origin.port().to_string();
        let argv = ["/usr/bin/python3", "shares.py", &port];
        let parents = [parent(2, &program("sh"))];
        let mut expected = process(&run.stdout, &program("python3"), &argv, &parents);
        expected["shared_with"] = json!(1);
        assert_eq!(told(&place.decided_on("/shared")[0]), expected, "{who:?}");
    }
}

#[test]
fn numbers_that_are_used_again_are_never_taken_for_those_that_had_them() {
    const PROGRAMS: usize = 150;
    // Below Linux 6.14 that file is the whole host's.
    let release = rustix::system::uname();
    let release = release.release().to_str().unwrap().to_owned();
    let mut words = release.split(['.', '-']);
    let mut number = || words.next().unwrap().parse::<u32>().unwrap_or_default();
    if (number(), number()) < (6, 14) {
        return;
    }
    let place = Place::new(Who::Root);
    let port = place.origin.port();
    // A hundred numbers for all, and more programs than that, each another one by its command line.
    let jail = format!(
        "n=0; while [ $n -lt {PROGRAMS} ]; do n=$((n+1)); \
         curl -sS -m 60 -x http://127.0.0.1:3128 http://web.test:{port}/$n >/dev/null; done"
    );
    let portcullis = place.scene.install.path("bin/portcullis");
    let outside = "echo 400 >/proc/sys/kernel/pid_max && \
                   echo 300 >/proc/sys/kernel/ns_last_pid && exec \"$@\"";
    let mut command = std::process::Command::new("/usr/bin/unshare");
    command
        .args([
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "sh",
            "-c",
            outside,
            "sh",
        ])
        .arg(portcullis)
        .args(["run", "-p", &place.scene.profile, "--", "sh", "-c", &jail])
        .current_dir(place.scene.install.work())
        .env_clear()
        .env("HOME", place.scene.install.path("home"))
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .stdin(Stdio::null());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let decided = place.scene.install.events("egress.decided");
    assert_eq!(decided.len(), PROGRAMS, "{output:?}");
    let mut numbers = BTreeMap::new();
    for event in &decided {
        let Some(process) = event.get("process") else {
            assert_eq!(event["process_unknown"], "timeout", "{event}");
            continue;
        };
        *numbers
            .entry(process["host_pid"].as_u64().unwrap())
            .or_insert(0) += 1;
        let path = event["path"].as_str().unwrap();
        let url = format!("http://web.test:{port}{path}");
        let argv = [
            "curl",
            "-sS",
            "-m",
            "60",
            "-x",
            "http://127.0.0.1:3128",
            &url,
        ];
        let pid = process["pid"].to_string();
        let parents = [parent(2, &program("sh"))];
        assert_eq!(
            told(event),
            self::process(&pid, &program("curl"), &argv, &parents)
        );
    }
    assert!(numbers.values().any(|times| *times > 1), "{numbers:?}");
}

#[test]
fn another_gate_asks_the_same_witness_and_one_that_hangs_is_said_to_and_one_that_dies_replaced() {
    const WAITS: &str = "import os, sys, time\n\
        from ask import ask\n\
        print(os.getpid(), flush=True)\n\
        for path in sys.argv[2:]:\n    \
            while not os.path.exists(path): time.sleep(0.01)\n    \
            ask(sys.argv[1], '/' + path)\n";
    let place = Place::new(Who::User);
    let install = &place.scene.install;
    install.write("work/waits.py", WAITS);
    let port = place.origin.port().to_string();
    let argv = [
        "/usr/bin/python3",
        "waits.py",
        &port,
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
    ];
    let arguments = ["run", "-p", &place.scene.profile, "--"];
    let mut session = install
        .command(arguments.iter().chain(&argv))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let ask = |path: &str| {
        install.write(&format!("work/{path}"), "");
        until(path, || place.decided_on(&format!("/{path}")).len() == 1);
        place.decided_on(&format!("/{path}")).remove(0)
    };
    until("a log", || {
        install.path("home/.local/state/portcullis/audit").exists()
    });
    let one = |program: &str, argument: &str| {
        let file = install.path(program);
        until("it runs", || processes(&file, argument).len() == 1);
        processes(&file, argument)[0]
    };
    let first = ask("one");
    kill_process(one("bin/portcullis-gate", ""), Signal::KILL).unwrap();
    until("another gate", || {
        install.events("gate.restarted").len() == 1
    });
    let second = ask("two");
    let witness = one("bin/portcullis-init", "witness");
    kill_process(witness, Signal::STOP).unwrap();
    let third = ask("three");
    kill_process(witness, Signal::CONT).unwrap();
    let fourth = ask("four");
    // Nobody replaces it while its session is stopped.
    let session_itself = rustix::process::Pid::from_child(&session);
    kill_process(session_itself, Signal::STOP).unwrap();
    kill_process(witness, Signal::KILL).unwrap();
    until("its end", || {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", witness.as_raw_nonzero()));
        text.map_or(true, |text| text.contains(") Z "))
    });
    let fifth = ask("five");
    kill_process(session_itself, Signal::CONT).unwrap();
    until("another witness", || {
        install.events("witness.restarted").len() == 1
    });
    // The record comes before the channel to it.
    let sixth = ask("six");
    until("it is told", || {
        one("bin/portcullis-init", "witness") != witness
    });
    std::thread::sleep(std::time::Duration::from_millis(200));
    let seventh = ask("seven");
    let mut said = String::new();
    std::io::Read::read_to_string(&mut session.stdout.take().unwrap(), &mut said).unwrap();
    assert!(session.wait().unwrap().success());
    let expected = process(&said, &program("python3"), &argv, &[]);
    let at_once = sixth.get("process").is_some() || sixth["process_unknown"] == "no_witness";
    assert!(at_once, "{sixth}");
    for named in [first, second, fourth, seventh] {
        assert_eq!(told(&named), expected);
    }
    let why = |event: &Value| {
        (
            event.get("process").cloned(),
            event["process_unknown"].clone(),
        )
    };
    assert_eq!(why(&third), (None, json!("timeout")));
    assert_eq!(why(&fifth), (None, json!("no_witness")));
}
