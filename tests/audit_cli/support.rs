//! A session's events, its log, and the program that reads it.

use std::fs;
use std::path::Path;
use std::process::Command;

use portcullis::audit::folder::{LogFolder, file_name};
use portcullis::audit::log::Log;
use portcullis::audit::{AuditEvent, EndedBy, Isolation, Shortfall, Status};
use portcullis::ids::{ConnId, PolicyGeneration, SessionId};
use portcullis::policy::{DenyReason, Durability, Host, Method, Port, RuleId, Transport, Verdict};

/// What a jail could hope to do to a terminal.
pub(crate) const HOSTILE: &str = "\u{1b}[2J\u{202e}\u{9b}31m";

pub(crate) fn generation() -> PolicyGeneration {
    PolicyGeneration::new("0123456789abcdef")
}

pub(crate) fn started() -> AuditEvent {
    AuditEvent::SessionStarted {
        name: None,
        argv: ["codex", "exec", "fix the tests", HOSTILE]
            .map(String::from)
            .to_vec(),
        profile: "codex".into(),
        mode: "workspace-write".into(),
        workspace: "/home/u/w".into(),
        generation: generation(),
        isolation: Isolation {
            bwrap: "bubblewrap 0.8.0".into(),
            landlock_abi: 4,
            seccomp_allowed: 301,
            shortfalls: vec![Shortfall {
                what: "landlock: scoped signals".into(),
                needs: "Landlock ABI 6 (Linux 6.12)".into(),
            }],
        },
        unix_sockets: Vec::new(),
    }
}

pub(crate) fn decided(
    conn: u64,
    (host, port): (&str, u16),
    reason: Option<DenyReason>,
) -> AuditEvent {
    AuditEvent::EgressDecided {
        process: None,
        process_unknown: None,
        conn: ConnId(conn),
        transport: Transport::Connect,
        host: Host::parse(host).unwrap(),
        port: Port::new(port).unwrap(),
        method: None,
        path: None,
        verdict: if reason.is_some() {
            Verdict::Deny
        } else {
            Verdict::Allow
        },
        reason,
        rule: reason.is_none().then(|| RuleId::new("--allow api.test")),
        generation: generation(),
    }
}

pub(crate) fn story() -> Vec<AuditEvent> {
    let api = ("api.test", 443);
    let closed = |conn, bytes_up, bytes_down| {
        let (ms, ended_by) = (1234, EndedBy::Client);
        AuditEvent::EgressClosed {
            conn: ConnId(conn),
            bytes_up,
            bytes_down,
            ms,
            ended_by,
        }
    };
    let forward = AuditEvent::EgressDecided {
        process: None,
        process_unknown: None,
        conn: ConnId(6),
        transport: Transport::Forward,
        host: Host::parse("evil.test").unwrap(),
        port: Port::HTTP,
        method: Method::parse("POST"),
        path: Some(format!("/{HOSTILE}")),
        verdict: Verdict::Deny,
        reason: Some(DenyReason::HostDenied),
        rule: Some(RuleId::new("network.domains.\"evil.test\"")),
        generation: generation(),
    };
    let refused = |conn, reason, detail: &str| {
        let (transport, detail) = (Transport::Connect, detail.to_owned());
        AuditEvent::EgressRefused {
            process: None,
            process_unknown: None,
            conn: ConnId(conn),
            transport,
            reason,
            detail,
        }
    };
    vec![
        started(),
        decided(1, api, None),
        AuditEvent::DnsQuery {
            conn: ConnId(1),
            name: "api.test".into(),
            addresses: vec!["192.0.2.1".parse().unwrap()],
            refused: vec!["10.0.0.1".parse().unwrap()],
        },
        AuditEvent::EgressDialed {
            conn: ConnId(1),
            address: "192.0.2.1:443".parse().unwrap(),
            via: None,
        },
        closed(1, 1500, 2_500_000),
        decided(2, api, None),
        closed(2, 500, 500_000),
        decided(3, ("other.test", 443), Some(DenyReason::HostNotAllowed)),
        decided(4, ("other.test", 443), Some(DenyReason::HostNotAllowed)),
        decided(5, ("api.test", 8443), Some(DenyReason::PortNotAllowed)),
        forward,
        decided(7, api, None),
        refused(7, DenyReason::SniMismatch, "server name is other.test"),
        refused(8, DenyReason::Malformed, HOSTILE),
        AuditEvent::SessionEnded {
            status: Status::Exited(2),
            ms: 65_000,
            files: None,
        },
    ]
}

/// Writes a log of these events and lets go of it.
pub(crate) fn record(folder: &Path, events: Vec<AuditEvent>) -> SessionId {
    let session = SessionId::generate();
    record_as(folder, session, events);
    session
}

pub(crate) fn record_as(folder: &Path, session: SessionId, events: Vec<AuditEvent>) -> Log {
    let opened = LogFolder::open(folder).unwrap();
    let whose = (session, "alice");
    let host = "00112233aabbccdd";
    let mut log = Log::create(&opened, folder, whose, Durability::Batch, host).unwrap();
    for event in events {
        log.stage(event).unwrap();
    }
    log.commit().unwrap();
    log
}

#[derive(Debug, PartialEq)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

pub(crate) fn audit(folder: &Path, arguments: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command
        .arg("audit")
        .args(arguments)
        .arg("--dir")
        .arg(folder);
    let output = command.output().unwrap();
    Ran {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

pub(crate) fn says(code: i32, out: &str, err: &str) -> Ran {
    Ran {
        code,
        out: out.into(),
        err: err.into(),
    }
}

/// The hash of the last record, and the time of the first.
pub(crate) fn head_and_start(folder: &Path, session: SessionId) -> (String, String) {
    let text = fs::read_to_string(folder.join(file_name(session))).unwrap();
    let json = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
    let head = json(text.lines().last().unwrap())["hash"]
        .as_str()
        .unwrap()
        .to_owned();
    let ts = json(text.lines().next().unwrap())["ts"]
        .as_str()
        .unwrap()
        .to_owned();
    (head, format!("{}Z", &ts[..23]))
}
