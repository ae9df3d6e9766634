//! Events in words, for a person at a terminal. Every text is safe to print.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::audit::changes::FileChanges;
use crate::audit::http::{BodyKept, HttpExchange};
use crate::audit::{AuditEvent, DnsAnswer, EndedBy, Process, ProcessUnknown, Status};
use crate::cli::print::escape;
use crate::ids::ConnId;
use crate::policy::{Host, Method, Port, Verdict};

/// Which destination each open connection is for, so that later events can name it.
pub(super) type Destinations = HashMap<ConnId, String>;

/// What an event says, without its name.
#[expect(clippy::too_many_lines, reason = "an arm an event")]
pub(super) fn event(event: &AuditEvent, known: &mut Destinations) -> String {
    match event {
        AuditEvent::SessionStarted { .. } => started(event),
        AuditEvent::EgressDecided {
            conn,
            host,
            port,
            verdict,
            ..
        } => {
            if *verdict == Verdict::Allow {
                known.insert(*conn, destination(host, *port));
            }
            decided(event)
        }
        AuditEvent::DnsQuery {
            name,
            addresses,
            refused,
            ..
        } => row("", &escape(name), &resolved(addresses, refused)),
        AuditEvent::DnsAsked { .. } => asked(event),
        AuditEvent::DnsDropped { count } => {
            row("DENY", "", &format!("{count} questions for names dropped"))
        }
        AuditEvent::EgressDialed { conn, address, via } => {
            let by = via.as_ref().map_or_else(String::new, |proxy| {
                format!(", the upstream proxy {}", escape(proxy))
            });
            row("", &named(known, *conn), &format!("{address}{by}"))
        }
        AuditEvent::CredentialUsed { conn, .. } => row("", &named(known, *conn), &used(event)),
        AuditEvent::EgressRefused { conn, .. } => {
            let about = named(known, *conn);
            known.remove(conn);
            row("DENY", &about, &refused(event))
        }
        AuditEvent::HttpExchanged(exchange) => {
            row("", &named(known, exchange.conn), &exchanged(exchange))
        }
        AuditEvent::BodyKept(body) => row("", &named(known, body.conn), &kept(body)),
        AuditEvent::BodySkipped(body) => {
            let (whose, why) = (body.direction.word(), body.reason.word());
            let what = format!("body of the {whose} not kept: {why}");
            row("", &named(known, body.conn), &what)
        }
        AuditEvent::EgressClosed { conn, .. } => {
            let about = named(known, *conn);
            known.remove(conn);
            row("", &about, &closed(event))
        }
        AuditEvent::LimitHit { .. } => limit(event),
        AuditEvent::ApprovalAsked {
            question,
            host,
            port,
            method,
            path,
            rule,
            ..
        } => {
            let mut what = format!("question {question}");
            for part in [method.as_ref().map(Method::as_str), path.as_deref()] {
                what.extend(part.map(|part| format!(" {}", escape(part))));
            }
            what.extend(
                rule.as_ref()
                    .map(|rule| format!(", by {}", escape(rule.as_str()))),
            );
            row("ask", &destination(host, *port), &what)
        }
        AuditEvent::ApprovalAnswered {
            question,
            end,
            scope,
            by,
        } => {
            let mut what = end.to_string();
            what.extend(scope.map(|scope| format!(" ({scope})")));
            what.extend(by.as_ref().map(|by| format!(" by {}", escape(by))));
            row("", &format!("question {question}"), &what)
        }
        AuditEvent::PolicyApplied { generation } => {
            format!("generation {}", escape(generation.as_str()))
        }
        AuditEvent::PolicyRejected { error } => escape(error),
        AuditEvent::GateRestarted { ms } => format!("there was none for {}", duration(*ms)),
        AuditEvent::LogResumed { lost_bytes } => resumed(*lost_bytes),
        AuditEvent::LogSyncFailed {
            segment,
            records,
            why,
        } => format!(
            "segment {segment} is given up after record {records}: {}",
            escape(why)
        ),
        AuditEvent::RecordsLost {
            count,
            kinds,
            from,
            to,
            why,
            by: _,
        } => {
            let kinds = kinds
                .iter()
                .map(|(kind, count)| format!("{count} {}", escape(kind)));
            let kinds = kinds.collect::<Vec<_>>().join(", ");
            format!(
                "{count} from {from:.3} to {to:.3} ({kinds}): {}",
                escape(why)
            )
        }
        AuditEvent::WitnessRestarted { ms } => {
            format!(
                "there was none for {}: no process is named meanwhile",
                duration(*ms)
            )
        }
        AuditEvent::WitnessLost { .. } => "no process is named from here on".to_owned(),
        AuditEvent::LedgerLost { why } => format!("not signed: {}", escape(why)),
        AuditEvent::LedgerResumed { ms } => format!("signed again, after {}", duration(*ms)),
        AuditEvent::GateLost { ms } => format!("found out after {}", duration(*ms)),
        AuditEvent::SessionStopping { by, kill } => {
            let how = if *kill { "killed" } else { "stopped" };
            format!("{how} by {}", escape(by))
        }
        AuditEvent::SessionForwarded { by, port } => {
            format!("port {} of the session, for {}", port.number(), escape(by))
        }
        AuditEvent::SessionAttached { by, read_only }
        | AuditEvent::SessionDetached { by, read_only } => {
            let how = if *read_only { ", read-only" } else { "" };
            format!("by {}{how}", escape(by))
        }
        AuditEvent::SessionEnded { status, ms, files } => ended(status, *ms, files.as_ref()),
    }
}

fn ended(how: &Status, ms: u64, files: Option<&FileChanges>) -> String {
    let files = files.map(|files| format!("; {}", changes(files)));
    let files = files.unwrap_or_default();
    format!("{} after {}{files}", status(how), duration(ms))
}

/// How many files changed.
pub(super) fn changes(files: &FileChanges) -> String {
    let later = files.executed_later.len() as u64 + files.executed_later_more;
    let later = match later {
        0 => String::new(),
        some => format!(", {some} of them executed later by others"),
    };
    let partly = if files.complete {
        ""
    } else {
        ", of those that were looked at"
    };
    let files_created = match files.created {
        1 => "1 file created".to_owned(),
        count => format!("{count} files created"),
    };
    format!(
        "{files_created}, {} modified{later}{partly}",
        files.modified
    )
}

fn resumed(lost_bytes: u64) -> String {
    match lost_bytes {
        0 => "by another writer".to_owned(),
        lost => format!("by another writer; {lost} bytes of an incomplete record were cut off"),
    }
}

fn asked(event: &AuditEvent) -> String {
    let AuditEvent::DnsAsked {
        name,
        kind,
        answer,
        process,
        process_unknown,
    } = event
    else {
        return String::new();
    };
    let verdict = match answer {
        DnsAnswer::Address | DnsAnswer::NoAddress => "",
        DnsAnswer::Refused | DnsAnswer::Malformed | DnsAnswer::Full | DnsAnswer::Nothing => "DENY",
    };
    let about = format!("{} {}", escape(name), escape(kind));
    let from = from(process.as_deref(), *process_unknown);
    row(verdict, &about, &format!("name asked for, {answer}{from}"))
}

fn refused(event: &AuditEvent) -> String {
    let AuditEvent::EgressRefused {
        reason,
        detail,
        process,
        process_unknown,
        ..
    } = event
    else {
        return String::new();
    };
    let from = from(process.as_deref(), *process_unknown);
    format!("{reason}: {}{from}", escape(detail))
}

fn resolved(addresses: &[IpAddr], refused: &[IpAddr]) -> String {
    match refused {
        [] => list(addresses),
        refused => format!("{} (refused: {})", list(addresses), list(refused)),
    }
}

fn used(event: &AuditEvent) -> String {
    let AuditEvent::CredentialUsed { credential, .. } = event else {
        return String::new();
    };
    format!("credential {}", escape(credential))
}

fn started(event: &AuditEvent) -> String {
    let AuditEvent::SessionStarted {
        argv,
        name,
        profile,
        mode,
        unix_sockets,
        ..
    } = event
    else {
        return String::new();
    };
    let mut how = format!("profile {}, {}", escape(profile), escape(mode));
    how.extend(name.iter().map(|name| format!(", named {name}")));
    for socket in unix_sockets {
        how.extend([", socket ", &escape(&socket.path)]);
    }
    format!("{} ({how})", command(argv))
}

fn decided(event: &AuditEvent) -> String {
    let AuditEvent::EgressDecided {
        transport,
        host,
        port,
        method,
        path,
        verdict,
        reason,
        rule,
        process,
        process_unknown,
        ..
    } = event
    else {
        return String::new();
    };
    let mut why = transport.to_string();
    for part in [method.as_ref().map(Method::as_str), path.as_deref()] {
        why.extend(part.map(|part| format!(" {}", escape(part))));
    }
    why.extend(reason.map(|reason| format!(", {reason}")));
    why.extend(
        rule.as_ref()
            .map(|rule| format!(", by {}", escape(rule.as_str()))),
    );
    why.push_str(&from(process.as_deref(), *process_unknown));
    let verdict = match verdict {
        Verdict::Allow => "allow",
        Verdict::Ask => "ask",
        Verdict::Deny => "DENY",
    };
    row(verdict, &destination(host, *port), &why)
}

/// Whose it is, as `, from curl[12]`; nothing of a log that does not say.
fn from(process: Option<&Process>, unknown: Option<ProcessUnknown>) -> String {
    match (process, unknown) {
        (Some(process), _) => {
            let others = match process.shared_with {
                0 => String::new(),
                1 => " and 1 other".to_owned(),
                more => format!(" and {more} others"),
            };
            format!(", from {}[{}]{others}", escape(process.name()), process.pid)
        }
        (None, Some(why)) => format!(", from an unknown process ({why})"),
        (None, None) => String::new(),
    }
}

fn closed(event: &AuditEvent) -> String {
    let AuditEvent::EgressClosed {
        bytes_up,
        bytes_down,
        ms,
        ended_by,
        ..
    } = event
    else {
        return String::new();
    };
    let (up, down, time) = (bytes(*bytes_up), bytes(*bytes_down), duration(*ms));
    format!("{up} up, {down} down, {time}, by {}", ender(*ended_by))
}

fn exchanged(exchange: &HttpExchange) -> String {
    let status = exchange.status.map_or_else(
        || "without an answer".to_owned(),
        |status| status.to_string(),
    );
    let mut what = format!("{} {status}", escape(&exchange.method));
    what.extend([", ", exchange.version.word()]);
    if exchange.upgraded {
        what += ", a WebSocket";
    }
    for (text, way) in [
        (&exchange.request_type, "up"),
        (&exchange.response_type, "down"),
    ] {
        what.extend(text.iter().map(|text| format!(", {} {way}", escape(text))));
    }
    let waited = exchange.first_byte_ms.map(duration);
    what.extend(waited.map(|waited| format!(", answered after {waited}")));
    for (text, of) in [(&exchange.thread, "thread"), (&exchange.turn, "turn")] {
        what.extend(text.iter().map(|text| format!(", {of} {}", escape(text))));
    }
    what
}

fn kept(body: &BodyKept) -> String {
    let (whose, size) = (body.direction.word(), bytes(body.bytes));
    let mut what = format!("body of the {whose} kept, {size}");
    if body.truncated {
        what += " of more";
    }
    match body.redactions {
        0 => {}
        1 => what += ", a secret replaced",
        more => what.extend([", ", &more.to_string(), " secrets replaced"]),
    }
    what.extend([", sha256 ", &escape(&body.sha256)]);
    what
}

fn limit(event: &AuditEvent) -> String {
    let AuditEvent::LimitHit {
        what,
        host,
        used,
        max,
        action,
    } = event
    else {
        return String::new();
    };
    let about = host.as_ref().map_or_else(String::new, ToString::to_string);
    let (used, max) = (what.amount(*used), what.amount(*max));
    row(
        "LIMIT",
        &about,
        &format!("{what}: {used} of {max}, {action}"),
    )
}

/// The columns of a line about the network.
fn row(verdict: &str, about: &str, rest: &str) -> String {
    format!("{verdict:<5}  {about:<32}  {rest}")
}

fn named(known: &Destinations, conn: ConnId) -> String {
    known
        .get(&conn)
        .cloned()
        .unwrap_or_else(|| format!("connection {conn}"))
}

/// `host:port`, brackets round an IPv6 address (RFC 3986 section 3.2.2).
pub(in crate::cli) fn destination(host: &Host, port: Port) -> String {
    match host {
        Host::Addr(IpAddr::V6(address)) => format!("[{address}]:{port}"),
        Host::Addr(IpAddr::V4(address)) => format!("{address}:{port}"),
        Host::Name(name) => format!("{}:{port}", escape(name.as_str())),
    }
}

/// A command line, quoted where a shell would need it.
pub(in crate::cli) fn command(argv: &[String]) -> String {
    let quote = |argument: &String| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@,+%".contains(c);
        if !argument.is_empty() && argument.chars().all(plain) {
            argument.clone()
        } else {
            format!("'{}'", escape(argument).replace('\'', r"'\''"))
        }
    };
    argv.iter().map(quote).collect::<Vec<_>>().join(" ")
}

/// How a command ended.
pub(super) fn status(status: &Status) -> String {
    match status {
        Status::Exited(code) => format!("exited with {code}"),
        Status::Signaled(signal) => format!("ended by signal {signal}"),
        Status::NotStarted(why) => format!("not started: {}", escape(why)),
        Status::SessionLost => "session process lost".into(),
    }
}

fn ender(by: EndedBy) -> &'static str {
    match by {
        EndedBy::Client => "client",
        EndedBy::Upstream => "upstream",
        EndedBy::Gate => "gate",
        EndedBy::Error => "error",
        EndedBy::Budget => "budget",
        EndedBy::Policy => "new policy",
    }
}

fn list(addresses: &[IpAddr]) -> String {
    let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    if texts.is_empty() {
        "no address".into()
    } else {
        texts.join(", ")
    }
}

/// Bytes, in powers of 1000.
pub(in crate::cli) fn bytes(count: u64) -> String {
    if count < 1000 {
        return format!("{count} B");
    }
    let units = ["kB", "MB", "GB", "TB", "PB", "EB"];
    let mut unit = 1_u64;
    let mut name = "B";
    for larger in units {
        if count / unit < 1000 {
            break;
        }
        unit *= 1000;
        name = larger;
    }
    format!("{}.{} {name}", count / unit, count % unit * 10 / unit)
}

/// Milliseconds, to the precision a person reads.
pub(in crate::cli) fn duration(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0 => format!("{ms} ms"),
        1..=59 => format!("{seconds}.{} s", ms % 1000 / 100),
        60..=3599 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_named_with_its_number_in_the_jail_and_one_that_is_not_known_with_why() {
        let mut process = Process {
            pid: 12,
            host_pid: 4711,
            exe: "/opt/a\u{1b}[2J (deleted)".to_owned(),
            argv: Vec::new(),
            parents: Vec::new(),
            shared_with: 0,
        };
        assert_eq!(from(Some(&process), None), ", from a\\u{1b}[2J[12]");
        process.exe = "/usr/bin/curl".to_owned();
        process.shared_with = 2;
        assert_eq!(from(Some(&process), None), ", from curl[12] and 2 others");
        let gone = from(None, Some(ProcessUnknown::Gone));
        assert_eq!(gone, ", from an unknown process (gone)");
        assert_eq!(from(None, None), "");
    }

    #[test]
    fn sizes_and_times_are_short() {
        let cases = [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (1_299_999, "1.2 MB"),
        ];
        for (count, text) in cases {
            assert_eq!(bytes(count), text);
        }
        assert_eq!(bytes(u64::MAX), "18.4 EB");
        let cases = [
            (7, "7 ms"),
            (12_345, "12.3 s"),
            (61_000, "1 min 1 s"),
            (7_260_000, "2 h 1 min"),
        ];
        for (ms, text) in cases {
            assert_eq!(duration(ms), text);
        }
    }

    #[test]
    fn commands_show_what_a_terminal_would_obey() {
        let argv = ["codex", "it's", "", "a\u{1b}[2Jb"].map(String::from);
        assert_eq!(command(&argv), r"codex 'it'\''s' '' 'a\u{1b}[2Jb'");
    }
}
