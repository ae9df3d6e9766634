//! Python's own clients of the network, as people install them: requests, websockets, websocket-client.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;

use crate::cli::{EVERYONE, Run, Who};
use crate::scene::{NAME, Scene, says};
use crate::tls_origin::OriginSpec;

/// Installed once, from the registry of this machine's own pip configuration.
const PACKAGES: [&str; 4] = [
    "requests==2.32.3",
    "websockets==15.0.1",
    "websocket-client==1.8.0",
    "PySocks==1.7.1",
];

/// The folder that has the packages.
fn packages() -> PathBuf {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock();
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("packages");
    if !folder.is_dir() {
        let fresh = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let made = Command::new("/usr/bin/pip")
            .args(["install", "-q", "--target"])
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
                .arg("-a")
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

#[test]
fn requests_reads_inside_inspected_tls_through_socks() {
    const SOCKS: &str = "\
import requests, sys
proxies = {'https': 'socks5h://127.0.0.1:8081'}
print(requests.get(sys.argv[1], proxies=proxies).status_code)
print(requests.get(sys.argv[2], proxies=proxies).status_code)
try: requests.get(sys.argv[3], proxies=proxies, timeout=30)
except requests.exceptions.ConnectionError as refused: print('not allowed' in str(refused))
";
    let scene = Scene::new(Who::User, "", "paths = ['/open']");
    let (open, closed) = (scene.url("/open"), scene.url("/closed"));
    let other = format!("https://other.test:{}/", scene.origin.port());
    let run = scene.python(false, SOCKS, &[&open, &closed, &other]);
    says(&run, "200\n403\nTrue\n");
    let judged = ["allow GET /open", "deny GET /closed path_not_allowed"];
    assert_eq!(scene.inspected(), judged);
    let last = format!(
        "deny socks5 other.test:{} host_not_allowed",
        scene.origin.port()
    );
    assert_eq!(scene.decisions().last(), Some(&last));
}

/// Its other client reads and writes one TLS connection from two threads, which Python's `ssl` does not always
/// survive, whoever the server is.
const WEBSOCKETS: &str = "\
import asyncio, sys, websockets.exceptions
from websockets.asyncio.client import connect
async def main(url):
    try:
        async with connect(url, open_timeout=30) as socket:
            for message in 'text', b'bytes', 'x' * 300000:
                await socket.send(message)
                assert await socket.recv() == message
            print('echoed')
    except websockets.exceptions.InvalidStatus as refused:
        print(refused.response.status_code, refused.response.headers.get('x-portcullis-denied'))
    except websockets.exceptions.InvalidProxyStatus as refused:
        print('proxy', refused.response.status_code)
    except OSError as refused:
        print(type(refused).__name__)
for url in sys.argv[1:]: asyncio.run(main(url))
";

const WEBSOCKET_CLIENT: &str = "\
import sys, websocket
def main(url):
    try:
        socket = websocket.create_connection(url, timeout=30)
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
for url in sys.argv[1:]: main(url)
";

#[test]
fn websockets_of_two_libraries_pass_inspection_with_a_proxy_and_without() {
    for who in EVERYONE {
        for bare in [false, true] {
            for script in [WEBSOCKETS, WEBSOCKET_CLIENT] {
                let network = format!("transparent = {bare}");
                let scene = Scene::new(who, &network, "paths = ['/ws']");
                let open = scene.url("/ws").replace("https:", "wss:");
                let closed = scene.url("/other").replace("https:", "wss:");
                let other = format!("wss://other.test:{}/ws", scene.origin.port());
                let run = scene.python(bare, script, &[&open, &closed, &other]);
                let refused = match (bare, script == WEBSOCKETS) {
                    (false, _) => "proxy 403",
                    (true, true) => "gaierror",
                    (true, false) => "WebSocketAddressException",
                };
                says(&run, &format!("echoed\n403 path_not_allowed\n{refused}\n"));
                let judged = ["allow GET /ws", "deny GET /other path_not_allowed"];
                assert_eq!(scene.inspected(), judged, "{who:?} {bare}");
                assert_eq!(scene.reached(), ["GET /ws"]);
                assert!(scene.names.asked().iter().all(|name| name == NAME));
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
