//! A destination by address. It must not be one of loopback, which stays the jail's own: the whole session
//! runs in a network namespace with an address that no machine has.

use std::process::Command;

use serde_json::json;

use crate::cli::{EVERYONE, Run, USER, Who};
use crate::scene::{Scene, assert_failed, read_answers};

/// Brings an origin up that sends back what it gets, then becomes the command.
const PLACE: &str = "ip link set lo up && ip addr add 203.0.113.7/32 dev lo && \
    python3 -c \"$SERVER\" & read ready < \"$FIFO\" && cd \"$WORK\" && exec \"$@\"";

const SERVER: &str = "\
import os, socket, threading
server = socket.create_server(('203.0.113.7', 7007))
open(os.environ['FIFO'], 'w').write('ready\\n')
os.close(1), os.close(2)
for _ in range(1):
    connection, _ = server.accept()
    while data := connection.recv(65536):
        connection.sendall(data)
    connection.close()
";

// C14
#[test]
fn an_allowed_address_is_reached_and_no_other() {
    for who in EVERYONE {
        let scene = Scene::new(who, &[], &[("203.0.113.7", 7007, "")]);
        let acts = json!([
            ["tcp", "203.0.113.7", 7007, "hello"],
            ["tcp", "203.0.113.7", 7008, "hello"],
            ["tcp", "203.0.113.8", 7007, "hello"],
        ]);
        let fifo = scene.install.path("ready");
        let made = Command::new("mkfifo").arg(&fifo).status().unwrap();
        assert!(made.success());
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", PLACE, "sh"]);
        if who == Who::User {
            let id = USER.to_string();
            command.args(["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups"]);
        }
        command
            .arg(scene.install.path("bin/portcullis"))
            .args(["run", "-p", &scene.profile, "--"])
            .args(["/usr/bin/python3", "actor.py", &acts.to_string()])
            .env_clear()
            .env("SERVER", SERVER)
            .env("FIFO", &fifo)
            .env("WORK", scene.install.work())
            .env("HOME", scene.install.path("home"))
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        let answers = read_answers(&Run::of(&command.output().unwrap()));
        assert_eq!(answers[0]["said"], "hello", "{who:?}");
        assert_failed(&answers[1], "ECONNRESET");
        assert_failed(&answers[2], "ECONNRESET");
        assert_eq!(
            scene.decisions(),
            [
                "allow transparent 203.0.113.7:7007",
                "deny transparent 203.0.113.7:7008 port_not_allowed",
                "deny transparent 203.0.113.8:7007 host_not_allowed",
            ]
        );
    }
}
