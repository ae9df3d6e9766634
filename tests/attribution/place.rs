//! A profile with every door, and what the log says of who came through them.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cli::{Run, Who};
use crate::scene::Scene;
use crate::upstream::Origin;

/// Longer than anything here takes on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A session's surroundings, and an origin: `web.test` by HTTP, `bare.test` by anything.
pub(crate) struct Place {
    pub(crate) scene: Scene,
    pub(crate) origin: Origin,
}

impl Place {
    pub(crate) fn new(who: Who) -> Self {
        let origin = Origin::echo();
        let port = origin.port();
        let hosts = [
            ("web.test", LOOPBACK),
            ("bare.test", LOOPBACK),
            ("private.test", IpAddr::V4(Ipv4Addr::new(10, 9, 8, 7))),
        ];
        let allowed = [
            ("web.test", port, ""),
            ("bare.test", port, "tcp"),
            ("private.test", port, ""),
        ];
        let scene = Scene::with(who, &hosts, &allowed, "enable_socks5_udp = true\n");
        scene.install.write("work/ask.py", include_str!("ask.py"));
        Self { scene, origin }
    }

    /// Runs a shell's script in a jail; `PORT` in it is the origin's.
    pub(crate) fn script(&self, script: &str) -> Run {
        let script = script.replace("PORT", &self.origin.port().to_string());
        self.scene.run(&["sh", "-c", &script])
    }

    /// The decisions on requests with this path.
    pub(crate) fn decided_on(&self, path: &str) -> Vec<Value> {
        let mut events = self.scene.install.events("egress.decided");
        events.retain(|event| event["path"] == path);
        events
    }
}

/// Who an event says it was, without the number outside, which must be there.
pub(crate) fn told(event: &Value) -> Value {
    let mut process = event["process"].clone();
    let Some(fields) = process.as_object_mut() else {
        panic!("nobody is named: {event}");
    };
    assert_eq!(event.get("process_unknown"), None, "{event}");
    let outside = fields.remove("host_pid").unwrap();
    assert!(outside.as_u64().unwrap() > 0);
    process
}

/// A process as the log has it.
pub(crate) fn process(pid: &str, exe: &str, argv: &[&str], parents: &[Value]) -> Value {
    let pid: u32 = pid.trim().parse().unwrap();
    json!({ "pid": pid, "exe": exe, "argv": argv, "parents": parents })
}

/// A parent as the log has it.
pub(crate) fn parent(pid: u32, exe: &str) -> Value {
    json!({ "pid": pid, "exe": exe })
}

/// Where a program of the host is, which is where it is in a jail.
pub(crate) fn program(name: &str) -> String {
    let path = fs::canonicalize(Path::new("/usr/bin").join(name)).unwrap();
    path.display().to_string()
}

/// Waits until this is so.
pub(crate) fn until(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The processes that execute this file, with this among their arguments.
pub(crate) fn processes(file: &Path, argument: &str) -> Vec<rustix::process::Pid> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap() {
        let folder = entry.unwrap().path();
        let name = folder.file_name().unwrap().to_str().unwrap().parse::<i32>();
        let runs = fs::read_link(folder.join("exe")).is_ok_and(|exe| exe == file);
        let line = fs::read(folder.join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        if let (Ok(number), true, true) = (name, runs, line.contains(argument)) {
            found.extend(rustix::process::Pid::from_raw(number));
        }
    }
    found
}
