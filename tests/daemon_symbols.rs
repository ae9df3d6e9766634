//! What is linked into the programs of root, as their symbols say: no HTTP, no TLS, no DNS, no asynchronous
//! runtime, no SQLite, and nothing that asks the network for names. And into the one that every session is.
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
    let auditor = symbols(env!("CARGO_BIN_EXE_portcullis-auditor"));
    assert!(auditor.contains("sqlite3") && auditor.contains("rusqlite::"));
    assert!(daemon.contains("portcullis::daemon::"));
    for word in FOREIGN.iter().chain(&OURS).chain(&LOOKUPS) {
        assert_eq!(found(&daemon, word), Vec::<&str>::new(), "{word}");
    }
    // It signs, and speaks no protocol.
    let prune = symbols(env!("CARGO_BIN_EXE_portcullis-prune"));
    assert!(prune.contains("portcullis::audit::retention::"));
    let signs = ["aws_lc_rs::", "EVP_", "X509_"];
    for word in FOREIGN.iter().filter(|word| !signs.contains(word)) {
        assert_eq!(found(&prune, word), Vec::<&str>::new(), "{word}");
    }
}

#[test]
fn what_reads_logs_is_in_no_sessions_process() {
    let session = symbols(env!("CARGO_BIN_EXE_portcullis"));
    assert!(session.contains("portcullis::session::"));
    for word in [
        "sqlite3",
        "rusqlite::",
        "parquet::",
        "ZSTD_",
        "regex_automata::",
        "aws_lc_rs::",
        "hyper::",
        "tokio::",
        "portcullis::audit::forward::",
        "portcullis::audit::retention::",
    ] {
        assert_eq!(found(&session, word), Vec::<&str>::new(), "{word}");
    }
}

fn found<'s>(symbols: &'s str, word: &str) -> Vec<&'s str> {
    // `audit::http` is a module of ours: what is told of a request.
    let ours = |line: &&str| !line.contains("portcullis::audit::http::");
    let lines = symbols
        .lines()
        .filter(|line| line.contains(word))
        .filter(ours);
    lines.take(5).collect()
}
