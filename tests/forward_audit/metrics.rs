//! What Prometheus gets to read.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use super::scene::{Scene, free_port, wait_for};

fn ask(mut stream: impl Read + Write, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn numbers_are_told_on_a_socket_and_on_the_loopback_and_name_no_host() {
    let scene = Scene::new("");
    let (port, socket) = (free_port(), scene.path("metrics.sock"));
    let nobody = free_port();
    scene.configure(&format!(
        "[metrics]\nsocket = \"{}\"\nlisten = \"127.0.0.1:{port}\"\n\
         [[forward]]\nname = \"siem\"\nkind = \"syslog\"\naddress = \"tcp://127.0.0.1:{nobody}\"\n",
        socket.display()
    ));
    let mut old = scene.session("alice");
    old.denials(50);
    let forward = scene.start();
    let stream = wait_for("the socket", || UnixStream::connect(&socket).ok());
    let first = ask(stream, "/metrics");
    assert!(first.starts_with("HTTP/1.1 200 OK\r\n"), "{first}");
    assert!(first.contains("portcullis_sessions_running 1\n"), "{first}");
    assert!(
        !first.contains("portcullis_records_total{"),
        "what was there before: {first}"
    );
    old.denials(3);
    let mut new = scene.session("bob");
    new.denials(4);
    new.end();
    let text = wait_for("the records", || {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let text = ask(stream, "/metrics");
        text.contains("portcullis_records_total{kind=\"session.ended\"} 1\n")
            .then_some(text)
    });
    for line in [
        "portcullis_decisions_total{verdict=\"deny\",reason=\"host_not_allowed\"} 7\n",
        "portcullis_records_total{kind=\"egress.decided\"} 7\n",
        "portcullis_sessions_running 1\n",
        "portcullis_broken_logs 0\n",
        "portcullis_checkpoint_age_seconds -1\n",
        "portcullis_sink_up{sink=\"siem\"} 0\n",
        "portcullis_sink_sent_total{sink=\"siem\"} 0\n",
    ] {
        assert!(text.contains(line), "{line}{text}");
    }
    let lag = text
        .lines()
        .find_map(|line| line.strip_prefix("portcullis_sink_lag_bytes{sink=\"siem\"} "));
    assert!(lag.unwrap().parse::<u64>().unwrap() > 10_000);
    assert!(!text.contains("evil.test"), "{text}");
    let other = ask(TcpStream::connect(("127.0.0.1", port)).unwrap(), "/");
    assert!(other.starts_with("HTTP/1.1 404"), "{other}");

    let (_, body) = text.split_once("\r\n\r\n").unwrap();
    let mut promtool = Command::new("promtool");
    let promtool = promtool.args(["check", "metrics"]).stdin(Stdio::piped());
    let mut promtool = promtool
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool
        .stdin
        .take()
        .unwrap()
        .write_all(body.as_bytes())
        .unwrap();
    let checked = promtool.wait_with_output().unwrap();
    assert!(checked.status.success(), "{checked:?}\n{body}");
    drop(forward);
}

#[test]
fn only_the_loopback_is_listened_on() {
    let scene = Scene::new("[metrics]\nlisten = \"0.0.0.0:9464\"\n");
    let (code, said) = scene.once();
    assert_eq!(code, 78);
    assert!(
        said.contains("only addresses of the loopback are listened on"),
        "{said}"
    );
    scene.configure("");
    let (code, said) = scene.once();
    assert_eq!(code, 78);
    assert!(said.contains("nothing to do"), "{said}");
}
