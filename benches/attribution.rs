//! What it costs to know who made a connection: requests of a program in a real jail, one connection each, with the
//! witness and with it killed, interleaved in one run. Prints medians, their ratio, and the witness's own time.
//!
//! What is asked for is denied, so that nothing but the gate and the audit writer takes part.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a benchmark"
)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

const ROUNDS: usize = 5;
const CONNECTIONS: u32 = 1000;

/// Connects so often, with so many descriptors open and so many other processes beside it, and prints the median.
const CLIENT: &str = r#"
import os, socket, subprocess, sys, time
count, descriptors, others = map(int, sys.argv[1:4])
kept = [os.dup(0) for _ in range(descriptors)]
beside = [subprocess.Popen(["sleep", "1000"]) for _ in range(others)]
print("ready", flush=True)
while not os.path.exists("go"): time.sleep(0.005)
took = []
for _ in range(count):
    start = time.perf_counter()
    with socket.create_connection(("127.0.0.1", 3128)) as proxy:
        proxy.sendall(b"CONNECT denied.test:443 HTTP/1.1\r\nHost: denied.test:443\r\n\r\n")
        while proxy.recv(4096): pass
    took.append(time.perf_counter() - start)
for one in beside: one.kill()
print(sorted(took)[count // 2] * 1e6, flush=True)
while not os.path.exists("end"): time.sleep(0.005)
"#;

fn main() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("client.py"), CLIENT).unwrap();
    println!(
        "{CONNECTIONS} denied requests of one program, a connection each, medians of {ROUNDS} interleaved runs"
    );
    for (descriptors, others) in [(0, 0), (1000, 0), (0, 50)] {
        let (mut with, mut without, mut busy) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let (latency, time) = run(folder.path(), (descriptors, others), true);
            with.push(latency);
            busy.push(time);
            without.push(run(folder.path(), (descriptors, others), false).0);
        }
        let (with, without) = (median(&mut with), median(&mut without));
        println!("  {descriptors} other descriptors, {others} other processes");
        println!("    with the witness     {with:7.0} µs a connection");
        println!("    without              {without:7.0} µs");
        println!("    ratio                {:7.2}", with / without);
        println!(
            "    the witness's time   {:7.0} µs a connection",
            median(&mut busy)
        );
    }
}

/// The median of a session's connections, and what the witness took for each, in µs.
fn run(folder: &Path, (descriptors, others): (u32, u32), witnessed: bool) -> (f64, f64) {
    for file in ["go", "end"] {
        drop(fs::remove_file(folder.join(file)));
    }
    let mut session = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args([
            "run",
            "--quiet",
            "-p",
            "base",
            "--",
            "/usr/bin/python3",
            "client.py",
        ])
        .args([CONNECTIONS, descriptors, others].map(|number| number.to_string()))
        .current_dir(folder)
        .env("XDG_STATE_HOME", folder.join("state"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(session.stdout.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), "ready");
    let witness = witness_of(session.id());
    if !witnessed {
        let pid = rustix::process::Pid::from_raw(witness.try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
    fs::write(folder.join("go"), "").unwrap();
    let latency = said.next().unwrap().unwrap().parse().unwrap();
    let time = if witnessed { time_of(witness) } else { 0.0 };
    fs::write(folder.join("end"), "").unwrap();
    assert!(session.wait().unwrap().success());
    (latency, time / f64::from(CONNECTIONS))
}

fn witness_of(session: u32) -> u32 {
    let children = fs::read_to_string(format!("/proc/{session}/task/{session}/children")).unwrap();
    let is = |pid: &&str| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.ends_with(b"\0witness\0")
    };
    children
        .split_whitespace()
        .find(is)
        .unwrap()
        .parse()
        .unwrap()
}

/// User and system time so far, in µs.
fn time_of(pid: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
    let nanoseconds: f64 = text.split_whitespace().next().unwrap().parse().unwrap();
    nanoseconds / 1e3
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
