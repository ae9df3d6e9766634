//! Under the service, where the session runs in a user namespace that root made, and the gate as somebody else.

use serde_json::Value;

use crate::place::{process, program, told};
use crate::service::{ADA, Service};

#[test]
fn a_session_of_the_service_names_its_programs_the_unreadable_too() {
    const HIDES: &str = "import ctypes, os, socket\n\
        def ask(path):\n    \
            with socket.create_connection(('127.0.0.1', 3128), timeout=60) as proxy:\n        \
                proxy.sendall(f'GET http://denied.test/{path} HTTP/1.1\\r\\nHost: denied.test\\r\\nConnection: close\\r\\n\\r\\n'.encode())\n        \
                while proxy.recv(65536): pass\n\
        print(os.getpid())\n\
        ask('plain')\n\
        assert ctypes.CDLL(None).prctl(4, 0, 0, 0, 0) == 0\n\
        ask('unreadable')\n";
    let host = Service::start("");
    let file = host.work(ADA).join("hides.py");
    std::fs::write(&file, HIDES).unwrap();
    let run = host.run(ADA, &["run", "--", "/usr/bin/python3", "hides.py"]);
    assert_eq!(run.status, Some(0), "{run:?}");
    let logs = host.inside("/var/log/portcullis/4001");
    let log = std::fs::read_dir(logs)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|kind| kind == "jsonl"));
    let text = std::fs::read_to_string(log.unwrap()).unwrap();
    let records = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let decided: Vec<Value> = records
        .filter(|record| record["event"] == "egress.decided")
        .collect();
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
