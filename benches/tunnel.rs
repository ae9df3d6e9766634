//! Bulk through one CONNECT tunnel, curl in the jail, against the same curl on the host without a proxy,
//! interleaved in one run; prints bytes per second and the ratio of medians.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark"
)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;

/// Long enough that the start of curl and the tunnel's set-up do not show.
const BYTES: usize = 1 << 30;
const ROUNDS: usize = 7;

fn main() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || serve(stream.unwrap()));
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let profile = folder.path().join("bulk.toml");
    let text = format!(
        "extends = \"base\"\n[[network.rules]]\nhost = \"127.0.0.1\"\nports = [{port}]\naction = \"allow\"\n\
         [network.addresses]\nallow = [\"127.0.0.1/32\"]\n"
    );
    std::fs::write(&profile, text).unwrap();
    let url = format!("http://127.0.0.1:{port}/");
    let curl = [
        "curl",
        "--silent",
        "--output",
        "/dev/null",
        "--write-out",
        "%{speed_download}",
    ];
    let mut tunnelled = Vec::new();
    let mut direct = Vec::new();
    for _ in 0..ROUNDS {
        let mut jailed = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        jailed
            .args(["run", "--quiet", "-p"])
            .arg(&profile)
            .arg("--")
            .args(curl);
        jailed
            .args(["--proxytunnel", &url])
            .current_dir(folder.path());
        jailed.env("XDG_STATE_HOME", folder.path().join("state"));
        tunnelled.push(speed(&mut jailed));
        direct.push(speed(Command::new("curl").args(&curl[1..]).args([
            "--noproxy",
            "*",
            &url,
        ])));
    }
    let (tunnelled, direct) = (median(&mut tunnelled), median(&mut direct));
    println!("1 GiB through one CONNECT tunnel, median of {ROUNDS} interleaved runs");
    println!(
        "  in the jail, through the gate  {:7.0} MB/s",
        tunnelled / 1e6
    );
    println!("  on the host, direct            {:7.0} MB/s", direct / 1e6);
    println!(
        "  ratio                          {:7.2}",
        tunnelled / direct
    );
}

fn speed(command: &mut Command) -> f64 {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().parse().unwrap()
}

/// Answers any request with [`BYTES`] zeros.
fn serve(mut stream: TcpStream) {
    let mut head = [0; 4096];
    let mut seen: Vec<u8> = Vec::new();
    while !seen.windows(4).any(|window| window == b"\r\n\r\n") {
        let read = stream.read(&mut head).unwrap();
        seen.extend(head.iter().take(read));
    }
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {BYTES}\r\nconnection: close\r\n\r\n");
    stream.write_all(answer.as_bytes()).unwrap();
    let chunk = vec![0; 1 << 18];
    for _ in 0..BYTES / chunk.len() {
        stream.write_all(&chunk).unwrap();
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap()
}
