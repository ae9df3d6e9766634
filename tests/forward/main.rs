//! Ports of the jail, reached from the host: real servers inside, real clients outside.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests may panic, start programs and connect"
)]

#[path = "../support/cli.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod cli;
mod scene;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::process::Stdio;

use cli::{EVERYONE, Install, Run, Who};
use scene::{Forwarding, Session, children, descriptors, text_of, until};
use serde_json::{Value, json};

const HTTP: u16 = 3000;
const HALF_CLOSE_V6: u16 = 3001;
const ECHO: u16 = 3002;
const FULL: u16 = 3003;

#[test]
fn a_server_in_the_jail_answers_on_the_hosts_loopback_and_every_connection_is_on_record() {
    for who in EVERYONE {
        let install = Install::new(who);
        let session = Session::start(&install, &["--name", "nightly"]);
        install.write("work/page", "from the jail\n");
        let forwarding = Forwarding::start(&install, "nightly", &["0:3000", "[::1]:0:3000"]);
        for place in &forwarding.places {
            let curl = std::process::Command::new("curl")
                .args(["-sS", "--noproxy", "*", &format!("http://{place}/page")])
                .output()
                .unwrap();
            assert_eq!(
                Run::of(&curl),
                Run {
                    status: Some(0),
                    stdout: "from the jail\n".to_owned(),
                    stderr: String::new()
                },
                "{who:?} {place}"
            );
        }
        let started = &install.events("session.started")[0];
        let records: Vec<Value> = install
            .events("session.forwarded")
            .iter()
            .map(|record| json!([record["session"], record["by"], record["port"]]))
            .collect();
        let by = &started["user"];
        let by = if who == Who::User {
            json!("uid 4001")
        } else {
            by.clone()
        };
        let expected = json!([started["session"], by, HTTP]);
        assert_eq!(records, [expected.clone(), expected]);
        let id = started["session"].as_str().unwrap();
        let story = Run::of(&install.portcullis(["audit", "show", id])).stdout;
        assert!(
            story.contains("\nentered    2 times from outside, by portcullis forward\n"),
            "{story}"
        );
        drop(session);
    }
}

#[test]
fn the_lines_say_where_and_a_port_that_is_taken_is_told() {
    let install = Install::new(Who::Root);
    let _session = Session::start(&install, &["--name", "nightly"]);
    let mut plain = install
        .command(["forward", "nightly", "0:3000"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut output = std::io::BufReader::new(plain.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut output, &mut line).unwrap();
    plain.kill().unwrap();
    plain.wait().unwrap();
    let place = line.strip_suffix(" → nightly 3000\n").unwrap();
    let place: std::net::SocketAddr = place.parse().unwrap();
    assert!(place.ip().is_loopback());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let forward = format!("{port}:3000");
    let refused = Run::of(&install.portcullis(["forward", "nightly", &forward]));
    assert_eq!(
        refused.complaint(),
        (
            Some(69),
            vec![
                format!(
                    "portcullis: listen on 127.0.0.1:{port}: Address already in use (os error 98); choose \
                     another port, or 0 for any"
                )
                .as_str()
            ]
        )
    );
    let everywhere = Run::of(&install.portcullis(["forward", "nightly", "0.0.0.0:0:3000"]));
    assert_eq!(everywhere.status, Some(64), "{everywhere:?}");
    assert!(
        everywhere.stderr.contains("add --bind-any"),
        "{everywhere:?}"
    );
    let twin = Forwarding::start(&install, "nightly", &["--bind-any", "0.0.0.0:0:3002"]);
    assert!(twin.places[0].ip().is_unspecified());
    twin.echo(0);
    let nobody = Run::of(&install.portcullis(["forward", "other", "3000"]));
    assert_eq!(nobody.status, Some(69), "{nobody:?}");
}

#[test]
fn an_end_in_one_direction_leaves_the_other_open_and_ipv6_alone_will_do() {
    for who in EVERYONE {
        let install = Install::new(who);
        let _session = Session::start(&install, &[]);
        let forwarding = Forwarding::start(&install, &only(&install), &["0:3001"]);
        let mut client = forwarding.connect(0);
        client.write_all(b"everything").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "got everything", "{who:?}");
        let recorded = install.events("session.forwarded");
        assert_eq!(recorded[0]["port"], HALF_CLOSE_V6);
    }
}

#[test]
fn sixteen_mebibytes_go_both_ways_at_once() {
    let install = Install::new(Who::User);
    let _session = Session::start(&install, &[]);
    let forwarding = Forwarding::start(&install, &only(&install), &["0:3002"]);
    let sent: Vec<u8> = (0..16_u32 << 20)
        .map(|place| (place % 251).to_le_bytes()[0])
        .collect();
    let mut client = forwarding.connect(0);
    let mut writer = client.try_clone().unwrap();
    let mut got = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            writer.write_all(&sent).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        client.read_to_end(&mut got).unwrap();
    });
    assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
}

#[test]
fn in_a_transparent_jail_the_loopback_is_the_commands_and_no_port_of_the_gates_is_reached() {
    for (who, transparent) in [(Who::Root, true), (Who::User, true), (Who::User, false)] {
        let install = Install::new(who);
        let profile = format!("extends = 'base'\n[network]\ntransparent = {transparent}\n");
        let profile = install.write("profile.toml", &profile);
        let session = Session::start(&install, &["-p", profile.to_str().unwrap()]);
        let gate = session.gate_ports.clone();
        assert!(gate.contains(&3128), "{gate:?}");
        assert_eq!(gate.contains(&53), transparent, "{gate:?}");
        let mut forwards = vec![format!("0:{ECHO}"), format!("0:{HALF_CLOSE_V6}")];
        forwards.extend(gate.iter().map(|port| format!("0:{port}")));
        let forwards: Vec<&str> = forwards.iter().map(String::as_str).collect();
        let forwarding = Forwarding::start(&install, &only(&install), &forwards);
        for place in [0, 1] {
            let mut client = forwarding.connect(place);
            client.write_all(b"mine").unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).unwrap();
            assert_eq!(answer, ["mine", "got mine"][place], "{who:?} {transparent}");
        }
        for (place, port) in gate.iter().enumerate() {
            forwarding.assert_closed(2 + place);
            let why =
                format!("port {port} of the session is the gate's own, not one of the command's");
            until(&why, || forwarding.stderr().contains(&why));
        }
        assert_eq!(install.events("session.forwarded").len(), 2);
        assert_eq!(install.events("egress.decided"), Vec::<Value>::new());
    }
}

#[test]
fn where_nobody_listens_or_answers_the_client_is_closed_and_told_why() {
    let install = Install::new(Who::User);
    let _session = Session::start(&install, &[]);
    let forwarding = Forwarding::start(&install, &only(&install), &["0:3999", "0:3003", "0:3002"]);
    forwarding.assert_closed(0);
    let line = format!(
        "portcullis: {}: nobody listens on port 3999 in the session\n",
        forwarding.places[0]
    );
    until(&line, || forwarding.stderr() == line);
    // Its backlog is soon full: others go on all the same.
    let hanging: Vec<_> = (0..4).map(|_| forwarding.connect(1)).collect();
    let line = format!(
        "{}: port {FULL} of the session takes no connection within 2 s: its program hangs",
        forwarding.places[1]
    );
    until(&line, || forwarding.stderr().contains(&line));
    forwarding.echo(2);
    drop(hanging);
}

#[test]
fn the_sessions_end_ends_it_and_what_was_open() {
    for who in EVERYONE {
        let install = Install::new(who);
        let session = Session::start(&install, &["--name", "nightly"]);
        let mut forwarding = Forwarding::start(&install, "nightly", &["0:3002"]);
        let mut client = forwarding.connect(0);
        client.write_all(b"x").unwrap();
        client.read_exact(&mut [0]).unwrap();
        assert_eq!(Run::of(&install.portcullis(["stop"])).status, Some(0));
        let mut rest = Vec::new();
        // An end or a reset, but an end in any case.
        client.read_to_end(&mut rest).ok();
        assert_eq!(rest, Vec::<u8>::new());
        assert_eq!(forwarding.child.wait().unwrap().code(), Some(0));
        assert!(
            forwarding
                .stderr()
                .ends_with("portcullis: session nightly ended\n"),
            "{}",
            forwarding.stderr()
        );
        drop(session);
    }
}

#[test]
fn no_other_user_gets_in_by_the_session_or_by_the_port() {
    let install = Install::new(Who::User);
    let _session = Session::start(&install, &[]);
    let id = only(&install);
    // The same home, so the same folders, as far as their permissions let another user in.
    std::fs::set_permissions(
        install.path("home"),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let mut other = install.command(["forward", &id, "0:3002"]);
    std::os::unix::process::CommandExt::uid(&mut other, cli::USER + 1);
    let refused = Run::of(&other.output().unwrap());
    assert_eq!(refused.status, Some(69), "{refused:?}");
    let forwarding = Forwarding::start(&install, &id, &["0:3002"]);
    let client = |uid| {
        let place = forwarding.places[0];
        let script = format!(
            "import socket; s = socket.create_connection(('{}', {}))\n\
             try:\n s.sendall(b'mine'); print(s.recv(4))\n\
             except ConnectionError: print(b'')",
            place.ip(),
            place.port()
        );
        let mut python = std::process::Command::new("/usr/bin/python3");
        python.args(["-c", &script]);
        std::os::unix::process::CommandExt::uid(&mut python, uid);
        Run::of(&python.output().unwrap()).stdout
    };
    assert_eq!(client(cli::USER + 1), "b''\n");
    let line = format!("closed a connection of uid {}: not yours", cli::USER + 1);
    until(&line, || forwarding.stderr().contains(&line));
    assert_eq!(install.events("session.forwarded").len(), 0);
    assert_eq!(client(cli::USER), "b'mine'\n", "the twin");
    assert_eq!(client(0), "b'mine'\n", "root");
}

#[test]
fn two_hundred_connections_leave_no_descriptor_behind() {
    let install = Install::new(Who::User);
    let session = Session::start(&install, &[]);
    let forwarding = Forwarding::start(&install, &only(&install), &["0:3002"]);
    forwarding.echo(0);
    let session = session.child.id();
    let helper = session_helper(session);
    let processes = [session, helper, forwarding.child.id()];
    let counts = || processes.map(descriptors);
    // One connection is held meanwhile, which may end late.
    let mut settled = counts();
    until("the first connection is over", || {
        let before = std::mem::replace(&mut settled, counts());
        std::thread::sleep(std::time::Duration::from_millis(200));
        before == settled && settled == counts()
    });
    let before = settled;
    for _ in 0..4 {
        let clients: Vec<_> = (0..50).map(|_| forwarding.connect(0)).collect();
        for mut client in clients {
            client.write_all(b"x").unwrap();
            client.read_exact(&mut [0]).unwrap();
        }
    }
    until("all are closed", || counts() == before);
    assert_eq!(install.events("session.forwarded").len(), 201);
    assert_eq!(session_helper(session), helper, "one for all");
}

#[test]
fn the_helper_holds_a_channel_and_the_network_of_the_jail_and_nothing_else() {
    for who in EVERYONE {
        let install = Install::new(who);
        let session = Session::start(&install, &[]);
        assert_eq!(
            children(session.child.id(), "reach"),
            Vec::<u32>::new(),
            "none before it is needed"
        );
        let forwarding = Forwarding::start(&install, &only(&install), &["0:3002"]);
        forwarding.echo(0);
        let helper = session_helper(session.child.id());
        // It closes what it has just sent.
        until("the standard streams and the channel", || {
            descriptors(helper) == 4
        });
        let status = text_of(format!("/proc/{helper}/status"));
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap().trim().to_owned()
        };
        assert_eq!(
            [
                "CapEff:",
                "CapPrm:",
                "CapInh:",
                "CapAmb:",
                "NoNewPrivs:",
                "Seccomp:"
            ]
            .map(field),
            [
                "0000000000000000",
                "0000000000000000",
                "0000000000000000",
                "0000000000000000",
                "1",
                "2"
            ]
        );
        let network = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
        let listed = Run::of(&install.portcullis(["ps", "--json"])).stdout;
        let listed: Value = serde_json::from_str(&listed).unwrap();
        let command = listed["session"]["pid"].to_string();
        assert_eq!(network(&helper.to_string()), network(&command));
        assert_ne!(network(&helper.to_string()), network("self"));
        // One that is gone is replaced.
        kill(helper);
        until("another one", || {
            let mut client = forwarding.connect(0);
            client.write_all(b"x").is_ok() && client.read_exact(&mut [0]).is_ok()
        });
        assert_ne!(session_helper(session.child.id()), helper);
    }
}

#[test]
fn without_a_record_nobody_is_let_in() {
    let install = Install::new(Who::User);
    let session = Session::start(&install, &[]);
    let forwarding = Forwarding::start(&install, &only(&install), &["0:3002"]);
    forwarding.echo(0);
    let [writer] = children(session.child.id(), "portcullis-audit")[..] else {
        panic!("one audit writer");
    };
    // No other can take its place.
    std::fs::remove_file(install.path("bin/portcullis-audit")).unwrap();
    kill(writer);
    forwarding.assert_closed(0);
    let line = "no record can be kept, so nobody is let in";
    until(line, || forwarding.stderr().contains(line));
}

/// The id of the only session.
fn only(install: &Install) -> String {
    let ids = Run::of(&install.portcullis(["ps", "-q"])).stdout;
    ids.trim().to_owned()
}

fn session_helper(session: u32) -> u32 {
    let [helper] = children(session, "reach")[..] else {
        panic!("one helper: {:?}", children(session, "reach"));
    };
    helper
}

fn kill(pid: u32) {
    let pid = nix::unistd::Pid::from_raw(pid.try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
}
