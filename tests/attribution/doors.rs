//! Every door of the gate, and every kind of record.

use std::net::{IpAddr, Ipv4Addr};

use serde_json::Value;

use crate::cli::{EVERYONE, Who};
use crate::place::{Place, parent, process, program, told};
use crate::scene::Scene;
use crate::upstream::Origin;

/// As the script has it.
const CURL: [(&str, &[&str]); 5] = [
    (
        "forward",
        &["-x", "http://127.0.0.1:3128", "http://web.test:PORT/a"],
    ),
    (
        "connect",
        &[
            "-p",
            "-x",
            "http://127.0.0.1:3128",
            "http://bare.test:PORT/b",
        ],
    ),
    (
        "socks5",
        &["-x", "socks5h://127.0.0.1:8081", "http://bare.test:PORT/c"],
    ),
    ("transparent", &["http://bare.test:PORT/d"]),
    (
        "forward",
        &["-x", "http://127.0.0.1:3128", "http://private.test:PORT/e"],
    ),
];

#[test]
fn each_door_names_the_program_that_came_through_it_with_its_command_line_and_its_parents() {
    for who in EVERYONE {
        let place = Place::new(who);
        let calls = CURL.map(|(_, arguments)| {
            let arguments = arguments.join(" ");
            format!("sh -c 'echo pid $$; exec curl -sS -m 60 {arguments}'\n")
        });
        let run = place.script(&(calls.concat() + "echo pid $$"));
        let said = run.stdout.split("pid ").skip(1);
        let pids: Vec<&str> = said.map(|rest| rest.lines().next().unwrap()).collect();
        assert_eq!(pids.len(), 6, "{run:?}");
        let shell = [parent(pids[5].trim().parse().unwrap(), &program("sh"))];
        let port = place.origin.port().to_string();
        let decided = place.scene.install.events("egress.decided");
        assert_eq!(decided.len(), CURL.len(), "{who:?} {run:?}");
        let mut expected = Vec::new();
        for ((event, (transport, arguments)), pid) in decided.iter().zip(CURL).zip(&pids) {
            assert_eq!(event["transport"], transport, "{event}");
            let arguments: Vec<String> = arguments
                .iter()
                .map(|argument| argument.replace("PORT", &port))
                .collect();
            let mut argv = vec!["curl", "-sS", "-m", "60"];
            argv.extend(arguments.iter().map(String::as_str));
            let one = process(pid, &program("curl"), &argv, &shell);
            assert_eq!(told(event), one, "{who:?}");
            expected.push(one);
        }
        // The same one, whatever came of it.
        let refused = place.scene.install.events("egress.refused");
        let refused: Vec<Value> = refused.iter().map(told).collect();
        assert_eq!(refused, [expected[4].clone()], "{who:?}");
        // Questions for names, by datagrams.
        let asked = place.scene.install.events("dns.asked");
        assert!(!asked.is_empty());
        for question in asked {
            assert_eq!(told(&question), expected[3], "{who:?}");
        }
    }
}

#[test]
fn a_question_for_a_name_by_tcp_and_a_datagram_through_socks_have_their_program() {
    const SCRIPT: &str = r#"
import os, socket, struct
print(os.getpid(), flush=True)
question = bytes.fromhex("12340100000100000000000003776562047465737400") + bytes.fromhex("00010001")
with socket.create_connection(("127.0.0.1", 53), timeout=60) as names:
    names.sendall(struct.pack(">H", len(question)) + question)
    names.recv(4096)
control = socket.create_connection(("127.0.0.1", 8081), timeout=60)
control.sendall(b"\x05\x01\x00")
control.recv(2)
control.sendall(b"\x05\x03\x00\x01\0\0\0\0\0\0")
relay = control.recv(10)
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.sendto(b"\0\0\0\x03\x0bdenied.test\x00\x35hello", ("127.0.0.1", struct.unpack(">H", relay[8:])[0]))
stranger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
stranger.sendto(b"odd", ("127.0.0.1", struct.unpack(">H", relay[8:])[0]))
# What comes of a datagram is not told.
control.settimeout(2)
try:
    control.recv(1)
except TimeoutError:
    pass
"#;
    let place = Place::new(Who::User);
    place.scene.install.write("work/both.py", SCRIPT);
    let run = place.scene.run(&["/usr/bin/python3", "both.py"]);
    assert_eq!(run.status, Some(0), "{run:?}");
    let argv = ["/usr/bin/python3", "both.py"];
    let expected = process(&run.stdout, &program("python3"), &argv, &[]);
    let asked = place.scene.install.events("dns.asked");
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!(told(&asked[0]), expected);
    let decided = place.scene.install.events("egress.decided");
    assert_eq!(decided.len(), 1, "{decided:?}");
    assert_eq!(decided[0]["transport"], "socks5_udp");
    assert_eq!(told(&decided[0]), expected);
    // One that no association stands for.
    let refused = place.scene.install.events("egress.refused");
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert_eq!(told(&refused[0]), expected);
}

#[test]
fn requests_within_a_tunnel_that_is_looked_into_are_of_whoever_made_it() {
    let origin = Origin::echo();
    let port = origin.port();
    let rule = format!(
        "mitm = true\n[[network.rules]]\nhost = 'app.test'\nports = [{port}]\nmethods = ['GET']\n\
         paths = ['/open/**']\naction = 'allow'\n"
    );
    let hosts = [("app.test", IpAddr::V4(Ipv4Addr::LOCALHOST))];
    let scene = Scene::with(Who::User, &hosts, &[], &rule);
    let urls = [
        format!("http://app.test:{port}/open/a"),
        format!("http://app.test:{port}/closed"),
        format!("https://app.test:{port}/closed"),
    ];
    let script = format!("echo pid $$; exec curl -sSk -m 60 {}", urls.join(" "));
    let run = scene.run(&["sh", "-c", &script]);
    let pid = run.stdout.lines().next().unwrap().replace("pid ", "");
    let mut argv = vec!["curl", "-sSk", "-m", "60"];
    argv.extend(urls.iter().map(String::as_str));
    let expected = process(&pid, &program("curl"), &argv, &[]);
    let decided = scene.install.events("egress.decided");
    let doors: Vec<&str> = decided
        .iter()
        .map(|event| event["transport"].as_str().unwrap())
        .collect();
    assert_eq!(
        doors,
        [
            "transparent",
            "forward",
            "forward",
            "transparent",
            "inspected"
        ],
        "{run:?}"
    );
    for event in &decided {
        assert_eq!(told(event), expected);
    }
}
