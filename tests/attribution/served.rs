//! Under the service, where the session runs in a user namespace that root made, and the gate as somebody else.

use rustix::process::{Signal, kill_process};
use serde_json::Value;

use crate::place::{process, processes, program, told, until};
use crate::service::{ADA, Service};

const HIDES: &str = "import ctypes, os, socket, sys, time\n\
    def ask(path):\n    \
        with socket.create_connection(('127.0.0.1', 3128), timeout=60) as proxy:\n        \
            proxy.sendall(f'GET http://denied.test/{path} HTTP/1.1\\r\\nHost: denied.test\\r\\nConnection: close\\r\\n\\r\\n'.encode())\n        \
            while proxy.recv(65536): pass\n\
    print(os.getpid())\n\
    ask('plain')\n\
    assert ctypes.CDLL(None).prctl(4, 0, 0, 0, 0) == 0\n\
    ask('unreadable')\n\
    for path in sys.argv[1:]:\n    \
        while not os.path.exists(path): time.sleep(0.01)\n    \
        ask(path)\n";

/// The decisions of the only session so far.
fn decided(host: &Service) -> Vec<Value> {
    let mut records = records(host);
    records.retain(|record| record["event"] == "egress.decided");
    records
}

fn records(host: &Service) -> Vec<Value> {
    let logs = host.inside("/var/log/portcullis/4001");
    let files = std::fs::read_dir(logs).into_iter().flatten();
    let log = files
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|kind| kind == "jsonl"));
    let Some(log) = log else {
        return Vec::new();
    };
    let text = std::fs::read_to_string(log).unwrap();
    text.split_inclusive('\n')
        .filter(|line| line.ends_with('\n'))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn a_session_of_the_service_names_its_programs_the_unreadable_too() {
    let host = Service::start("");
    let file = host.work(ADA).join("hides.py");
    std::fs::write(&file, HIDES).unwrap();
    let run = host.run(ADA, &["run", "--", "/usr/bin/python3", "hides.py"]);
    assert_eq!(run.status, Some(0), "{run:?}");
    let decided = decided(&host);
    let paths: Vec<&str> = decided
        .iter()
        .map(|event| event["path"].as_str().unwrap())
        .collect();
    assert_eq!(paths, ["/plain", "/unreadable"], "{run:?}");
    let argv = ["/usr/bin/python3", "hides.py"];
    let expected = process(&run.stdout, &program("python3"), &argv, &[]);
    for event in &decided {
        assert_eq!(told(event), expected);
    }
}

#[test]
fn a_witness_that_dies_is_replaced_by_the_service_and_sees_as_much() {
    let host = Service::start("");
    let file = host.work(ADA).join("hides.py");
    std::fs::write(&file, HIDES).unwrap();
    let argv = ["/usr/bin/python3", "hides.py", "one", "two"];
    let detached = [&["--name", "on", "--"], &argv[..]].concat();
    host.detached(ADA, &detached);
    until("the first requests", || decided(&host).len() == 2);
    let init = host.path("bin/portcullis-init");
    for (round, name) in ["one", "two"].into_iter().enumerate() {
        let before = processes(&init, "witness");
        let [witness] = before[..] else {
            panic!("{before:?}");
        };
        kill_process(witness, Signal::KILL).unwrap();
        until("another witness", || {
            let records = records(&host);
            let restarts = records
                .iter()
                .filter(|record| record["event"] == "witness.restarted");
            restarts.count() == round + 1
        });
        // The record comes before the gate is told.
        std::thread::sleep(std::time::Duration::from_millis(300));
        std::fs::write(host.work(ADA).join(name), "").unwrap();
        until(name, || decided(&host).len() == round + 3);
    }
    let decided = decided(&host);
    let pid = decided[0]["process"]["pid"].to_string();
    let expected = process(&pid, &program("python3"), &argv, &[]);
    for event in &decided {
        assert_eq!(told(event), expected);
    }
    until("its end", || {
        let records = records(&host);
        records.last().unwrap()["event"] == "session.ended"
    });
    until("nothing is left of it", || {
        host.store.kept().is_empty() && processes(&init, "witness").is_empty()
    });
}
