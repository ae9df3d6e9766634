//! What is linked into the program of root, as its symbols say: no HTTP, no TLS, no DNS, no asynchronous
//! runtime, no SQLite, and nothing that asks the network for names.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests may panic and start programs"
)]

use std::process::Command;

/// The names of everything in a program, as a linker knows them.
fn symbols(program: &str) -> String {
    let mut all = String::new();
    for table in [&["-C"][..], &["-C", "-D"]] {
        let output = Command::new("nm")
            .args(table)
            .arg(program)
            .output()
            .unwrap();
        all += &String::from_utf8(output.stdout).unwrap();
    }
    all
}

/// How code of these begins, between the other words of a symbol. (What the cryptographic library does when any
/// program that was built with it starts and ends is linked everywhere: it looks at the processor, and wipes
/// random numbers that nobody has asked for.)
const FOREIGN: [&str; 16] = [
    "hyper::",
    "hyper_util::",
    "h2::",
    "http::",
    "rustls::",
    "tokio_rustls::",
    "aws_lc_rs::",
    "EVP_",
    "X509_",
    "hickory_",
    "tokio::",
    "rcgen::",
    "ratatui::",
    "clap_builder::",
    "sqlite3",
    "rusqlite::",
];

/// Our own that root does not run.
const OURS: [&str; 6] = [
    "portcullis::gate::",
    "portcullis::session::",
    "portcullis::cli::",
    "portcullis::codex::",
    "portcullis::policy::ruleset::",
    "portcullis::policy::judgement::",
];

/// Functions of the C library that load whatever nsswitch.conf(5) names, or ask the network.
const LOOKUPS: [&str; 6] = [
    "getaddrinfo",
    "gethostby",
    "getpwuid",
    "getpwnam",
    "getgrgid",
    "getgrnam",
];

#[test]
fn root_links_nothing_that_speaks_with_the_network() {
    let daemon = symbols(env!("CARGO_BIN_EXE_portcullisd"));
    let gate = symbols(env!("CARGO_BIN_EXE_portcullis-gate"));
    // The test can fail: the gate has all of it.
    for word in [
        "hyper::",
        "rustls::",
        "hickory_",
        "tokio::",
        "portcullis::gate::",
    ] {
        assert!(gate.contains(word), "{word}");
    }
    let portcullis = symbols(env!("CARGO_BIN_EXE_portcullis"));
    assert!(portcullis.contains("sqlite3") && portcullis.contains("rusqlite::"));
    assert!(daemon.contains("portcullis::daemon::"));
    for word in FOREIGN.iter().chain(&OURS).chain(&LOOKUPS) {
        let found: Vec<&str> = daemon
            .lines()
            .filter(|line| line.contains(word))
            .take(5)
            .collect();
        assert_eq!(found, Vec::<&str>::new(), "{word}");
    }
}
