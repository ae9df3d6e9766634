//! Caps, and that no event keeps a secret.

use super::*;
use crate::ids::{PolicyGeneration, SessionId};

#[test]
fn texts_are_cut_by_what_they_take_in_the_file_and_at_character_borders() {
    let mut short = "x".repeat(TEXT);
    cut(&mut short, TEXT);
    assert_eq!(short, "x".repeat(TEXT));
    let mut long = "é".repeat(TEXT);
    cut(&mut long, TEXT);
    assert_eq!(long, "é".repeat((TEXT - 3) / 2) + "…");
    let mut controls = "\u{1}".repeat(TEXT);
    cut(&mut controls, TEXT);
    assert_eq!(controls, "\u{1}".repeat((TEXT - 3) / 6) + "…");
}

#[test]
fn a_query_is_never_recorded() {
    let event = AuditEvent::EgressDecided {
        conn: crate::ids::ConnId(1),
        transport: crate::policy::Transport::Forward,
        host: crate::policy::Host::parse("a.test").unwrap(),
        port: crate::policy::Port::HTTP,
        method: None,
        path: Some("/v1/é?key=secret#x".into()),
        verdict: crate::policy::Verdict::Deny,
        reason: None,
        rule: None,
        generation: PolicyGeneration::new(""),
        process: None,
        process_unknown: None,
    };
    let AuditEvent::EgressDecided { path, .. } = event.capped() else {
        unreachable!()
    };
    assert_eq!(path.as_deref(), Some("/v1/é"));
}

#[test]
#[expect(clippy::too_many_lines, reason = "an event each")]
fn no_text_of_an_event_keeps_a_secret() {
    use crate::audit::http::HttpVersion;
    use crate::ids::ConnId;
    use crate::policy::{Host, Port, Scope, Transport, Verdict};
    let secret = format!("glpat-{}", "a1b2".repeat(6));
    let text = || format!("kept {secret} too");
    let name = || format!("{secret}.a.test");
    let host = || Host::parse(&name()).unwrap();
    let conn = ConnId(1);
    let exchange = HttpExchange {
        conn,
        method: text(),
        version: HttpVersion::Http2,
        status: None,
        request_type: Some(text()),
        response_type: Some(text()),
        request_encoding: Some(text()),
        response_encoding: Some(text()),
        request_bytes: 0,
        response_bytes: 0,
        first_byte_ms: None,
        ms: 0,
        upgraded: false,
        ended_by: crate::audit::EndedBy::Gate,
        thread: Some(text()),
        turn: Some(text()),
    };
    let started = AuditEvent::SessionStarted {
        name: format!("kept-{secret}").parse().ok(),
        argv: vec![text(), "--token".to_owned(), secret.clone()],
        profile: text(),
        mode: text(),
        workspace: format!("/kept/{secret}"),
        generation: PolicyGeneration::new(text()),
        isolation: crate::audit::Isolation {
            bwrap: text(),
            landlock_abi: 7,
            seccomp_allowed: 300,
            shortfalls: Vec::new(),
        },
        unix_sockets: Vec::new(),
    };
    for event in [
        started,
        AuditEvent::EgressDecided {
            conn,
            transport: Transport::Forward,
            host: host(),
            port: Port::HTTP,
            method: None,
            path: Some(format!("/kept/{secret}/too")),
            verdict: Verdict::Deny,
            reason: None,
            rule: Some(RuleId::new(text())),
            generation: PolicyGeneration::new(text()),
            process: None,
            process_unknown: None,
        },
        AuditEvent::DnsQuery {
            conn,
            name: name(),
            addresses: Vec::new(),
            refused: Vec::new(),
        },
        AuditEvent::DnsAsked {
            name: name(),
            kind: "A".to_owned(),
            answer: crate::audit::DnsAnswer::Refused,
            process: None,
            process_unknown: None,
        },
        AuditEvent::EgressRefused {
            conn,
            transport: Transport::Forward,
            reason: crate::policy::DenyReason::Malformed,
            detail: text(),
            process: None,
            process_unknown: None,
        },
        AuditEvent::CredentialUsed {
            conn,
            credential: text(),
            host: host(),
        },
        AuditEvent::ApprovalAnswered {
            question: crate::ids::QuestionId(1),
            end: crate::policy::QuestionEnd::Allowed,
            scope: Some(Scope::Once),
            by: Some(text()),
        },
        AuditEvent::PolicyRejected { error: text() },
        AuditEvent::SessionStopping {
            by: text(),
            kill: false,
        },
        AuditEvent::SessionEnded {
            status: Status::NotStarted(text()),
            ms: 0,
            files: None,
        },
        AuditEvent::HttpExchanged(Box::new(exchange)),
    ] {
        let name = event.name();
        let written = serde_json::to_string(&event.capped()).unwrap();
        assert!(!written.contains(&secret), "{written}");
        // What stands beside it stays.
        let beside = written.contains("kept") || written.contains("redacted.a.test");
        assert!(written.contains("redacted") && beside, "{name}: {written}");
    }
}

#[test]
fn what_a_process_shows_is_cut_wherever_it_stands() {
    let noise = "\u{1}".repeat(100_000);
    let process = Process {
        pid: 2,
        host_pid: 3,
        exe: noise.clone(),
        argv: vec![noise.clone(); 1000],
        parents: vec![
            crate::audit::process::Parent {
                pid: 1,
                exe: noise.clone(),
            };
            100
        ],
        shared_with: 9,
    };
    let asked = AuditEvent::DnsAsked {
        name: "a.test".to_owned(),
        kind: "A".to_owned(),
        answer: crate::audit::DnsAnswer::Refused,
        process: Some(Box::new(process)),
        process_unknown: None,
    };
    let AuditEvent::DnsAsked { process, .. } = asked.capped() else {
        unreachable!()
    };
    let process = process.unwrap();
    let cut = "\u{1}".repeat((TEXT - 3) / 6) + "…";
    assert_eq!(process.exe, cut);
    assert_eq!(process.parents.len(), MAX_PARENTS);
    assert!(process.parents.iter().all(|parent| parent.exe == cut));
    let mut argv = vec![cut; 7];
    // Of each its quotes and its comma count as well.
    argv.push("… 58 more arguments".to_owned());
    assert_eq!(process.argv, argv);
}

#[test]
fn the_longest_start_of_a_session_fits_a_record() {
    let noise = "\u{1}".repeat(100_000);
    let shortfall = crate::audit::Shortfall {
        what: noise.clone(),
        needs: noise.clone(),
    };
    let socket = crate::audit::event::ShownSocket {
        path: noise.clone(),
        danger: Some(noise.clone()),
    };
    let event = AuditEvent::SessionStarted {
        name: None,
        argv: vec![noise.clone(); 1000],
        profile: noise.clone(),
        mode: noise.clone(),
        workspace: noise.clone(),
        generation: PolicyGeneration::new(noise.clone()),
        isolation: crate::audit::Isolation {
            bwrap: noise.clone(),
            landlock_abi: 7,
            seccomp_allowed: 300,
            shortfalls: vec![shortfall; 1000],
        },
        unix_sockets: vec![socket; 1000],
    };
    let session = SessionId::generate();
    let form = crate::audit::record::Form::new("0123456789abcdef", session, &user(&noise));
    let mut line = Vec::new();
    let genesis = crate::audit::ChainHash::genesis(session);
    let now = jiff::Timestamp::now();
    form.unwrap()
        .seal(&mut line, (1, now), &event.capped(), genesis)
        .unwrap();
    assert!(line.len() > ARGUMENTS, "{}", line.len());
}
