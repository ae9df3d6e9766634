//! Start to exit of `/bin/true`: a whole session (jail, gate, audit) against bare bubblewrap with the
//! namespaces and system mounts that any jail needs, interleaved in one run; prints the ratio of medians.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark"
)]

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const ROUNDS: usize = 60;

fn main() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let workspace = folder.path().join("workspace");
    std::fs::create_dir(&workspace).unwrap();
    let mut ours = Vec::new();
    let mut bare = Vec::new();
    for round in 0..ROUNDS {
        let session = time(
            Command::new(env!("CARGO_BIN_EXE_portcullis"))
                .args(["run", "--quiet", "--", "/bin/true"])
                .current_dir(&workspace)
                .env("XDG_STATE_HOME", &state),
        );
        let jail = time(Command::new("bwrap").args([
            "--unshare-all",
            "--die-with-parent",
            "--ro-bind",
            "/usr",
            "/usr",
            "--symlink",
            "usr/bin",
            "/bin",
            "--symlink",
            "usr/lib",
            "/lib",
            "--symlink",
            "usr/lib64",
            "/lib64",
            "--ro-bind",
            "/etc",
            "/etc",
            "--proc",
            "/proc",
            "--dev",
            "/dev",
            "--tmpfs",
            "/tmp",
            "--",
            "/bin/true",
        ]));
        // The first rounds warm the page cache.
        if round >= 5 {
            ours.push(session);
            bare.push(jail);
        }
    }
    let (ours, bare) = (median(&mut ours), median(&mut bare));
    println!(
        "start to exit of /bin/true, median of {} interleaved runs",
        ROUNDS - 5
    );
    println!("  portcullis run  {:6.1} ms", millis(ours));
    println!("  bare bwrap      {:6.1} ms", millis(bare));
    println!(
        "  ratio           {:6.2}",
        ours.as_secs_f64() / bare.as_secs_f64()
    );
}

fn time(command: &mut Command) -> Duration {
    let start = Instant::now();
    let status = command.stdin(Stdio::null()).status().unwrap();
    let elapsed = start.elapsed();
    assert!(status.success(), "{command:?}: {status}");
    elapsed
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap()
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
