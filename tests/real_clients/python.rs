//! Python's own clients of the network, as people install them: requests, websockets, websocket-client.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;

use crate::cli::{EVERYONE, Run, Who};
use crate::scene::{NAME, Scene, says};
use crate::tls_origin::OriginSpec;

/// Installed once, from the registry of this machine's own pip configuration.
const PACKAGES: [&str; 3] = [
    "requests==2.32.3",
    "websockets==15.0.1",
    "websocket-client==1.8.0",
];

/// The folder that has the packages.
fn packages() -> PathBuf {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock();
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("python");
    if !folder.is_dir() {
        let fresh = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let made = Command::new("/usr/bin/pip")
            .args(["install", "-q", "--no-compile", "--target"])
            .arg(fresh.path())
            .args(PACKAGES)
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        // Another process may have been faster.
        drop(std::fs::rename(fresh.path(), &folder));
    }
    folder
}

impl Scene {
    /// Runs a script with the packages; its arguments are the addresses of these paths.
    fn python(&self, bare: bool, script: &str, urls: &[&str]) -> Run {
        let copy = self.install.work().join("packages");
        if !copy.is_dir() {
            let copied = Command::new("cp")
                .arg("-r")
                .args([&packages(), &copy])
                .status();
            assert!(copied.unwrap().success());
            let open = Command::new("chmod")
                .args(["-R", "a+rX"])
                .arg(&copy)
                .status();
            assert!(open.unwrap().success());
        }
        let python = [
            "env",
            "PYTHONPATH=packages",
            "/usr/bin/python3",
            "-c",
            script,
        ];
        let command = [python.as_slice(), urls].concat();
        if bare {
            self.run_bare(&command)
        } else {
            self.run(&command)
        }
    }
}

const REQUESTS: &str = "\
import requests, sys
open_, closed, other = sys.argv[1:]
with requests.Session() as session:
    answer = session.get(open_)
    print(answer.status_code, answer.json()['method'])
    answer = session.post(open_, data=(part for part in [b'in ', b'chunks']))
    print(answer.status_code, answer.json()['body'])
    with session.get(closed, stream=True) as answer:
        print(answer.status_code, answer.headers.get('x-portcullis-denied'), answer.json()['code'])
    answer = session.delete(open_)
    print(answer.status_code, answer.headers.get('x-portcullis-denied'))
try: requests.get(other, timeout=30)
except requests.exceptions.ProxyError as refused: print('ProxyError', '403' in str(refused))
except requests.exceptions.ConnectionError as refused: print('ConnectionError')
";

#[test]
fn requests_reads_and_writes_inside_inspected_tls_with_a_proxy_and_without() {
    for who in EVERYONE {
        for (bare, refused) in [(false, "ProxyError True"), (true, "ConnectionError")] {
            let rule = "methods = ['GET', 'POST']\npaths = ['/open/**']";
            let scene = Scene::new(who, &format!("transparent = {bare}"), rule);
            let (open, closed) = (scene.url("/open/a"), scene.url("/closed"));
            let other = format!("https://other.test:{}/", scene.origin.port());
            let run = scene.python(bare, REQUESTS, &[&open, &closed, &other]);
            says(
                &run,
                &format!(
                    "200 GET\n200 in chunks\n403 path_not_allowed path_not_allowed\n\
                     403 method_not_allowed\n{refused}\n"
                ),
            );
            assert_eq!(
                scene.inspected(),
                [
                    "allow GET /open/a",
                    "allow POST /open/a",
                    "deny GET /closed path_not_allowed",
                    "deny DELETE /open/a method_not_allowed",
                ],
                "{who:?} {bare}"
            );
            assert_eq!(scene.reached(), ["GET /open/a", "POST /open/a"]);
            assert!(scene.names.asked().iter().all(|name| name == NAME));
        }
    }
}

const WEBSOCKETS: &str = "\
import sys, websockets.sync.client, websockets.exceptions
try:
    with websockets.sync.client.connect(sys.argv[1]) as socket:
        for message in 'text', b'bytes', 'x' * 300000:
            socket.send(message)
            assert socket.recv(timeout=30) == message
        print('echoed')
except websockets.exceptions.InvalidStatus as refused:
    print(refused.response.status_code, refused.response.headers.get('x-portcullis-denied'))
except websockets.exceptions.InvalidProxyStatus as refused:
    print('proxy', refused.response.status_code)
except OSError as refused:
    print(type(refused).__name__)
";

const WEBSOCKET_CLIENT: &str = "\
import sys, websocket
try:
    socket = websocket.create_connection(sys.argv[1], timeout=30)
    for message in 'text', 'x' * 300000:
        socket.send(message)
        assert socket.recv() == message
    socket.close()
    print('echoed')
except websocket.WebSocketBadStatusException as refused:
    print(refused.status_code, refused.resp_headers.get('x-portcullis-denied'))
except websocket.WebSocketProxyException as refused:
    print('proxy', 403 if '403' in str(refused) else refused)
except websocket.WebSocketAddressException as refused:
    print(type(refused).__name__)
";

#[test]
fn websockets_of_two_libraries_pass_inspection_with_a_proxy_and_without() {
    for who in EVERYONE {
        for bare in [false, true] {
            for script in [WEBSOCKETS, WEBSOCKET_CLIENT] {
                let network = format!("transparent = {bare}");
                let scene = Scene::new(who, &network, "paths = ['/ws']");
                let open = scene.url("/ws").replace("https:", "wss:");
                says(&scene.python(bare, script, &[&open]), "echoed\n");
                let closed = scene.url("/other").replace("https:", "wss:");
                let run = scene.python(bare, script, &[&closed]);
                says(&run, "403 path_not_allowed\n");
                let judged = ["allow GET /ws", "deny GET /other path_not_allowed"];
                assert_eq!(scene.inspected(), judged, "{who:?} {bare}");
                assert_eq!(scene.reached(), ["GET /ws"]);
                let other = format!("wss://other.test:{}/ws", scene.origin.port());
                let run = scene.python(bare, script, &[&other]);
                let refused = match (bare, script == WEBSOCKETS) {
                    (false, _) => "proxy 403\n",
                    (true, true) => "gaierror\n",
                    (true, false) => "WebSocketAddressException\n",
                };
                assert_eq!(run.stdout, refused, "{run:#?}");
            }
        }
    }
}

#[test]
fn a_websocket_that_the_policy_lets_nobody_open_is_refused_with_the_status_it_names() {
    for (network, expected, reason) in [
        ("mode = 'limited'", 403, "websocket_not_allowed"),
        ("websocket = 'deny'", 403, "websocket_not_allowed"),
        ("websocket = '426'", 426, "websocket_not_allowed"),
    ] {
        let scene = Scene::before(Who::User, OriginSpec::new(NAME), network, "");
        let url = scene.url("/ws").replace("https:", "wss:");
        for script in [WEBSOCKETS, WEBSOCKET_CLIENT] {
            let run = scene.python(false, script, &[&url]);
            says(&run, &format!("{expected} {reason}\n"));
        }
        // The same path without the upgrade is an ordinary request.
        let get = "import requests, sys; print(requests.get(sys.argv[1]).status_code)";
        says(&scene.python(false, get, &[&scene.url("/ws")]), "200\n");
        let refused = format!("deny GET /ws {reason}");
        assert_eq!(
            scene.inspected(),
            [refused.as_str(), &refused, "allow GET /ws"]
        );
        assert_eq!(scene.reached(), ["GET /ws"], "{network}");
    }
}
