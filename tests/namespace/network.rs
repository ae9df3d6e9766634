//! The ways in and out: the gate, connections that know no proxy, ports of the jail.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::cli::Run;
use crate::dns::{Answer, DnsStub};
use crate::scene::{Scene, Start, until};
use crate::upstream::{Origin, ok};

/// A profile that allows `good.test` and nothing else.
fn profile(scene: &Scene, names: &DnsStub, port: u16, network: &str) -> String {
    let text = format!(
        "extends = 'base'\n[network]\n{network}\n\
         [[network.rules]]\nhost = 'good.test'\nports = [{port}]\naction = 'allow'\n\
         [network.addresses]\nallow = ['127.0.0.0/8']\n\
         [network.dns]\nservers = ['{}']\n",
        names.address
    );
    scene.write("profile.toml", &text).display().to_string()
}

fn names() -> DnsStub {
    DnsStub::start(|name, _| match name {
        "good.test" => vec![Answer::Address([127, 0, 0, 1].into())],
        _ => Vec::new(),
    })
}

#[test]
fn the_gate_is_the_way_out() {
    let (mut scene, names) = (Scene::new(), names());
    scene.forbidden = true;
    let origin = Origin::http(|_, _| ok("hello"));
    let profile = profile(&scene, &names, origin.port(), "");
    let script = format!(
        "curl -sS http://good.test:{0}; echo; \
         curl -s -o /dev/null -w '%{{http_code}}\\n' http://bad.test:{0}; \
         curl -sS --noproxy '*' --max-time 5 http://127.0.0.1:{0} 2>/dev/null || echo none",
        origin.port()
    );
    let run = scene.run(Start::Given, &["-p", &profile], &["sh", "-c", &script]);
    assert_eq!(
        (run.status, run.stdout.as_str()),
        (Some(0), "hello\n403\nnone\n"),
        "{run:?}"
    );
    let verdicts: Vec<Value> = scene
        .install
        .events("egress.decided")
        .iter()
        .map(|record| json!([record["verdict"], record["host"]]))
        .collect();
    assert_eq!(
        verdicts,
        [json!(["allow", "good.test"]), json!(["deny", "bad.test"])]
    );
}

#[test]
fn programs_that_know_no_proxy_are_led_to_the_gate() {
    let (mut scene, names) = (Scene::new(), names());
    scene.forbidden = true;
    let origin = Origin::echo_bytes();
    let profile = profile(&scene, &names, origin.port(), "transparent = true");
    scene.write("work/actor.py", include_str!("../transparent/actor.py"));
    let acts = json!([
        ["resolve_v4", "good.test"],
        ["tcp", "good.test", origin.port(), "hello"],
        ["tcp", "192.0.2.1", origin.port(), "hello"],
    ]);
    let bare = [
        "env",
        "-i",
        "PATH=/usr/bin:/bin",
        "/usr/bin/python3",
        "actor.py",
    ];
    let acts = acts.to_string();
    let command = [bare.as_slice(), &[&acts]].concat();
    let run = scene.run(Start::Given, &["-p", &profile], &command);
    assert_eq!(run.status, Some(0), "{run:?}");
    let answers: Vec<Value> = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(answers[0]["said"], "198.18.1.0", "{answers:?}");
    assert_eq!(answers[1]["said"], "hello", "{answers:?}");
    assert!(answers[2]["error"].is_string(), "{answers:?}");
}

#[test]
fn ports_of_the_jail_are_reached_from_outside_by_its_user() {
    let scene = Scene::new();
    scene.write("work/page", "from the jail\n");
    let server = "/usr/bin/python3 -m http.server --bind 127.0.0.1 3000 >/dev/null 2>&1 & \
                  while ! curl -s --noproxy '*' -o /dev/null http://127.0.0.1:3000/; do sleep 0.05; done; \
                  echo serves; wait";
    let mut session = scene.ready(Start::Given, &["--name", "nightly"], server);
    let mut line = String::new();
    session.output.read_line(&mut line).unwrap();
    assert_eq!(line, "serves\n");
    let mut forwarding = scene.client(&["forward", "--json", "nightly", "0:3000"]);
    let mut forwarding = forwarding.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let mut lines = BufReader::new(forwarding.stdout.take().unwrap());
    lines.read_line(&mut line).unwrap();
    let place: Value = serde_json::from_str(&line).unwrap();
    let url = format!("http://{}/page", place["listen"].as_str().unwrap());
    for _ in 0..3 {
        let curl = Command::new("curl")
            .args(["-sS", "--noproxy", "*", &url])
            .output();
        let curl = Run::of(&curl.unwrap());
        assert_eq!(
            (curl.status, curl.stdout.as_str()),
            (Some(0), "from the jail\n"),
            "{curl:?}"
        );
    }
    assert_eq!(scene.install.events("session.forwarded").len(), 3);
    forwarding.kill().unwrap();
    forwarding.wait().unwrap();
    drop(session);
    until("everything's end", || scene.processes().is_empty());
}
