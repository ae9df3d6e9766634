//! Node: its `fetch` and its `WebSocket`, without a proxy, and by the proxy variables where it knows them.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;

use crate::cli::{EVERYONE, Who};
use crate::scene::{NAME, Scene, says};

const FETCH: &str = "\
(async () => {
    const [open, closed, other] = process.argv.slice(1);
    const ask = async (url, options) => {
        try {
            const answer = await fetch(url, options);
            const body = await answer.json();
            console.log(answer.status, body.code ?? body.body);
        } catch (error) {
            console.log(error.cause?.code ?? error.cause?.message ?? error.message);
        }
    };
    await ask(open, { method: 'POST', body: 'word' });
    await ask(open, { method: 'DELETE' });
    await ask(closed);
    await ask(other);
})();
";

const WEBSOCKET: &str = "\
const socket = new WebSocket(process.argv[1]);
const long = 'x'.repeat(300000);
socket.addEventListener('open', () => socket.send(long));
socket.addEventListener('message', ({ data }) => {
    console.log(data === long ? 'echoed' : 'changed');
    socket.close();
});
socket.addEventListener('error', () => console.log('error'));
socket.addEventListener('close', () => process.exit(0));
";

#[test]
fn fetch_without_a_proxy_is_judged_inside_tls() {
    for who in EVERYONE {
        let rule = "methods = ['POST', 'GET']\npaths = ['/open/**']";
        let scene = Scene::new(who, "transparent = true", rule);
        let (open, closed) = (scene.url("/open/a"), scene.url("/closed"));
        let other = format!("https://other.test:{}/", scene.origin.port());
        let run = scene.run_bare(&["/usr/bin/node", "-e", FETCH, &open, &closed, &other]);
        assert_eq!(run.status, Some(0), "{run:#?}");
        let told: Vec<&str> = run.stdout.lines().collect();
        let judged = ["200 word", "403 method_not_allowed", "403 path_not_allowed"];
        assert_eq!(told[..3], judged, "{who:?} {run:#?}");
        assert!(["EAI_AGAIN", "ENOTFOUND"].contains(&told[3]), "{run:#?}");
        assert_eq!(
            scene.inspected(),
            [
                "allow POST /open/a",
                "deny DELETE /open/a method_not_allowed",
                "deny GET /closed path_not_allowed",
            ]
        );
        assert_eq!(scene.reached(), ["POST /open/a"]);
        assert!(scene.names.asked().iter().all(|name| name == NAME));
    }
}

/// A Node that goes by the proxy variables; fetched once, from the registry of this machine's npm.
fn newer_node() -> PathBuf {
    static ONE: Mutex<()> = Mutex::new(());
    let arch = match std::env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => panic!("Node is not published for {other}"),
    };
    let package = format!("node-linux-{arch}");
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("node");
    let program = folder.join(format!("node_modules/{package}/bin/node"));
    let _one = ONE.lock();
    if !program.is_file() {
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("package.json"), "{}").unwrap();
        let fetched = Command::new("npm")
            .args([
                "install",
                "--no-audit",
                "--no-fund",
                "--ignore-scripts",
                "--prefix",
            ])
            .arg(&folder)
            .arg(format!("{package}@24.21.0"))
            .output()
            .unwrap();
        assert!(fetched.status.success(), "{fetched:?}");
    }
    program
}

/// Node goes by the proxy variables from version 24 (22.21) on, if `NODE_USE_ENV_PROXY` is set, as the
/// session does. One that does not know it finds no other way.
#[test]
fn fetch_goes_by_the_proxy_variables_where_node_knows_them_and_nowhere_else() {
    const KNOWS: &str = "console.log(process.allowedNodeEnvironmentFlags.has('--use-env-proxy'))";
    for newer in [false, true] {
        let rule = "methods = ['POST', 'GET']\npaths = ['/open/**']";
        let scene = Scene::new(Who::User, "", rule);
        let node = if newer {
            let copy = scene.install.work().join("node");
            std::fs::copy(newer_node(), copy).unwrap();
            "./node"
        } else {
            "/usr/bin/node"
        };
        let knows = scene.run(&[node, "-e", KNOWS]).stdout == "true\n";
        assert!(knows || !newer);
        let (open, closed) = (scene.url("/open/a"), scene.url("/closed"));
        let other = format!("https://other.test:{}/", scene.origin.port());
        let run = scene.run(&[node, "-e", FETCH, &open, &closed, &other]);
        assert_eq!(run.status, Some(0), "{run:#?}");
        let told: Vec<&str> = run.stdout.lines().collect();
        assert_eq!(told.len(), 4, "{run:#?}");
        if knows {
            let judged = ["200 word", "403 method_not_allowed", "403 path_not_allowed"];
            assert_eq!(told[..3], judged, "{run:#?}");
            // It has no word for a proxy that refuses.
            assert!(!told[3].starts_with("200"), "{run:#?}");
            let last = format!(
                "deny connect other.test:{} host_not_allowed",
                scene.origin.port()
            );
            assert_eq!(scene.decisions().last(), Some(&last));
            assert_eq!(scene.reached(), ["POST /open/a"]);
        } else {
            let unresolved = |word: &&str| ["EAI_AGAIN", "ENOTFOUND"].contains(word);
            assert!(told.iter().all(unresolved), "{run:#?}");
            assert_eq!(scene.origin.connections(), 0);
        }
    }
}

/// The newer Node has the proxy variables hold for its `WebSocket` too.
#[test]
fn its_websocket_goes_by_the_proxy_variables_where_node_knows_them() {
    for (rule, expected) in [
        ("paths = ['/ws']", "echoed\n"),
        ("paths = ['/other']", "error\n"),
    ] {
        let scene = Scene::new(Who::User, "", rule);
        std::fs::copy(newer_node(), scene.install.work().join("node")).unwrap();
        let url = scene.url("/ws").replace("https:", "wss:");
        says(&scene.run(&["./node", "-e", WEBSOCKET, &url]), expected);
        assert_eq!(scene.inspected().len(), 1);
    }
}

#[test]
fn its_websocket_passes_inspection_without_a_proxy_and_is_refused_what_is_not_allowed() {
    for (network, rule, expected) in [
        ("transparent = true", "paths = ['/ws']", "echoed\n"),
        ("transparent = true", "paths = ['/other']", "error\n"),
        ("transparent = true\nmode = 'limited'", "", "error\n"),
        ("transparent = true\nwebsocket = '426'", "", "error\n"),
    ] {
        let scene = Scene::new(Who::User, network, rule);
        let url = scene.url("/ws").replace("https:", "wss:");
        let node = ["/usr/bin/node", "--no-warnings", "--experimental-websocket"];
        let run = scene.run_bare(&[node.as_slice(), &["-e", WEBSOCKET, &url]].concat());
        says(&run, expected);
        let judged = match (expected, rule) {
            ("echoed\n", _) => "allow GET /ws",
            (_, "") => "deny GET /ws websocket_not_allowed",
            _ => "deny GET /ws path_not_allowed",
        };
        assert_eq!(scene.inspected(), [judged], "{network}");
        assert_eq!(scene.reached().len(), usize::from(expected == "echoed\n"));
    }
}
