//! Sessions that may connect to a Unix socket of the host.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests may panic and start programs"
)]

#[path = "support/cli.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod cli;

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use cli::{EVERYONE, Install};
use serde_json::json;

const CLIENT: &str = "import socket, sys\ns = socket.socket(socket.AF_UNIX)\n\
    s.connect(sys.argv[1])\nprint(s.recv(9).decode())";

fn service(path: &Path) {
    let listener = UnixListener::bind(path).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o666)).unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            drop(stream.write_all(b"hello"));
        }
    });
}

#[test]
fn a_socket_that_a_flag_allows_answers_and_is_on_record() {
    for who in EVERYONE {
        let install = Install::new(who);
        let path = install.path("some.sock");
        service(&path);
        let path = path.to_str().unwrap();
        let client = ["python3", "-c", CLIENT, path];
        let run = install.run(&["--socket", path], &client);
        assert_eq!(
            (run.status, run.stdout.as_str(), run.stderr.as_str()),
            (Some(0), "hello\n", ""),
            "{who:?}"
        );
        let started = install.events("session.started");
        assert_eq!(started[0]["unix_sockets"], json!([{ "path": path }]));
        let run = install.run(&[], &client);
        assert!(run.stderr.contains("FileNotFoundError"), "{}", run.stderr);
    }
}

#[test]
fn a_dangerous_socket_needs_the_profile_and_a_line_says_what_it_gives_away() {
    for who in EVERYONE {
        let install = Install::new(who);
        let path = install.path("docker.sock");
        service(&path);
        let path = path.to_str().unwrap();
        let client = ["python3", "-c", CLIENT, path];
        let run = install.run(&["--socket", path], &client);
        assert_eq!(run.status, Some(125));
        assert!(run.stderr.contains("allow-dangerous"), "{}", run.stderr);
        let profile = format!("[network.unix_sockets]\n\"{path}\" = \"allow-dangerous\"\n");
        let profile = install.write("profile.toml", &profile);
        let run = install.run(&["-p", profile.to_str().unwrap()], &client);
        assert_eq!((run.status, run.stdout.as_str()), (Some(0), "hello\n"));
        let line = format!("can connect to {path} (Docker: root on the host)");
        assert!(run.stderr.contains(&line), "{}", run.stderr);
        let started = install.events("session.started");
        let expected = json!([{ "path": path, "danger": "Docker: root on the host" }]);
        assert_eq!(started[0]["unix_sockets"], expected);
    }
}
