//! Caps on what a record takes from outside, so that no jail can make a record long; and the place where every
//! text of every event loses its secrets ([`redact`]), before it is cut.
//!
//! Counted in bytes as they stand in the file, escapes included: an argument of control characters
//! takes six times its length there. What was cut ends with `…`.

use super::changes::{FileChanges, MAX_NAMED};
use super::event::{AuditEvent, MAX_SHOWN_SOCKETS, Status};
use super::http::HttpExchange;
use super::process::{MAX_ARGUMENTS, MAX_PARENTS, Process};
use super::redact;
use crate::ids::PolicyGeneration;
use crate::policy::{Host, RuleId};

/// One argument.
const ARGUMENT: usize = 4 << 10;
/// All arguments.
const ARGUMENTS: usize = 64 << 10;
/// All arguments of a process that made a connection: they stand in many records.
const COMMAND_LINE: usize = 8 << 10;
/// A path, a detail, a name.
const TEXT: usize = 1 << 10;
/// A user, a profile, a version, a rule.
const WORD: usize = 256;
/// Addresses of one answer, shortfalls of one kernel.
const ITEMS: usize = 64;

/// What is looked at of a text beyond its cap, in bytes: a secret that begins before the cap is known by what
/// follows.
const BEYOND: usize = 64 << 10;

/// A user's name as records have it.
pub(super) fn user(name: &str) -> String {
    let mut name = name.to_owned();
    cut(&mut name, WORD);
    name
}

/// How many bytes an event takes in the log, without what every record has.
pub(super) fn length(event: &AuditEvent) -> usize {
    serde_json::to_vec(event).map_or(usize::MAX, |text| text.len())
}

impl AuditEvent {
    /// The event with every text rid of secrets and cut to its cap.
    #[must_use]
    pub fn capped(mut self) -> Self {
        if let Some(process) = self.process_mut() {
            cut_process(process);
        }
        self.cut_texts();
        self
    }

    #[expect(clippy::too_many_lines, reason = "an arm an event")]
    fn cut_texts(&mut self) {
        match self {
            Self::SessionStarted {
                argv,
                // As long as a name may be.
                name: _,
                profile,
                mode,
                workspace,
                generation,
                isolation,
                unix_sockets,
            } => {
                unix_sockets.truncate(MAX_SHOWN_SOCKETS);
                for socket in unix_sockets {
                    cut(&mut socket.path, TEXT);
                    socket
                        .danger
                        .iter_mut()
                        .for_each(|danger| cut(danger, WORD));
                }
                cut_arguments(argv, (ARGUMENT, ARGUMENTS));
                cut(workspace, TEXT);
                isolation.shortfalls.truncate(ITEMS);
                for shortfall in &mut isolation.shortfalls {
                    cut(&mut shortfall.what, WORD);
                    cut(&mut shortfall.needs, WORD);
                }
                for word in [profile, mode, &mut isolation.bwrap] {
                    cut(word, WORD);
                }
                *generation = PolicyGeneration::new(shortened(generation.as_str(), WORD));
            }
            Self::EgressDecided {
                host,
                path,
                rule,
                generation,
                ..
            } => {
                clean_host(host);
                if let Some(path) = path {
                    // The gate leaves the query out; should it ever not, secrets stand there.
                    path.truncate(path.find(['?', '#']).unwrap_or(path.len()));
                    cut(path, TEXT);
                }
                if let Some(rule) = rule {
                    *rule = RuleId::new(shortened(rule.as_str(), WORD + TEXT));
                }
                *generation = PolicyGeneration::new(shortened(generation.as_str(), WORD));
            }
            Self::DnsQuery {
                name,
                addresses,
                refused,
                ..
            } => {
                cut_name(name);
                addresses.truncate(ITEMS);
                refused.truncate(ITEMS);
            }
            Self::DnsAsked { name, kind, .. } => {
                cut_name(name);
                cut(kind, WORD);
            }
            Self::EgressRefused { detail, .. } => cut(detail, TEXT),
            Self::CredentialUsed {
                credential, host, ..
            } => {
                clean_host(host);
                cut(credential, WORD);
            }
            Self::HttpExchanged(exchange) => cut_exchange(exchange),
            Self::BodyKept(body) => {
                cut(&mut body.sha256, WORD);
                body.encoding.iter_mut().for_each(|text| cut(text, WORD));
            }
            Self::EgressDialed { via: Some(via), .. } => cut(via, TEXT),
            Self::ApprovalAsked {
                host, path, rule, ..
            } => {
                clean_host(host);
                if let Some(path) = path {
                    path.truncate(path.find(['?', '#']).unwrap_or(path.len()));
                    cut(path, TEXT);
                }
                if let Some(rule) = rule {
                    *rule = RuleId::new(shortened(rule.as_str(), WORD + TEXT));
                }
            }
            Self::ApprovalAnswered { by, .. } => {
                if let Some(by) = by {
                    cut(by, TEXT);
                }
            }
            Self::PolicyApplied { generation } => {
                *generation = PolicyGeneration::new(shortened(generation.as_str(), WORD));
            }
            Self::PolicyRejected { error } => cut(error, TEXT),
            Self::LedgerLost { why } => cut(why, TEXT),
            Self::RecordsLost { kinds, why, .. } => {
                let all = std::mem::take(kinds).into_iter().take(ITEMS);
                *kinds = all
                    .map(|(kind, count)| (shortened(&kind, WORD), count))
                    .collect();
                cut(why, TEXT);
            }
            Self::SessionStopping { by, .. }
            | Self::SessionAttached { by, .. }
            | Self::SessionDetached { by, .. }
            | Self::SessionForwarded { by, .. } => cut(by, WORD),
            Self::SessionEnded { status, files, .. } => {
                if let Status::NotStarted(why) = status {
                    cut(why, TEXT);
                }
                files.iter_mut().for_each(cut_files);
            }
            Self::LimitHit { .. }
            | Self::GateRestarted { .. }
            | Self::LogResumed { .. }
            | Self::LedgerResumed { .. }
            | Self::GateLost { .. }
            | Self::DnsDropped { .. }
            | Self::BodySkipped(_)
            | Self::EgressDialed { .. }
            | Self::EgressClosed { .. } => {}
        }
    }
}

/// Cuts what a process shows of itself.
fn cut_process(process: &mut Process) {
    cut(&mut process.exe, TEXT);
    // One more says how many there were.
    process.argv.truncate(MAX_ARGUMENTS + 1);
    cut_arguments(&mut process.argv, (TEXT, COMMAND_LINE));
    process.parents.truncate(MAX_PARENTS);
    for parent in &mut process.parents {
        cut(&mut parent.exe, TEXT);
    }
}

/// Cuts every path, and drops the files beyond the cap on them.
fn cut_files(files: &mut FileChanges) {
    let named = &mut files.executed_later;
    let beyond = named.len().saturating_sub(MAX_NAMED) as u64;
    named.truncate(MAX_NAMED);
    for file in named {
        cut(&mut file.path, TEXT);
    }
    files.executed_later_more = files.executed_later_more.saturating_add(beyond);
}

fn cut_exchange(exchange: &mut HttpExchange) {
    let HttpExchange {
        method,
        request_type,
        response_type,
        request_encoding,
        response_encoding,
        thread,
        turn,
        ..
    } = exchange;
    let optional = [
        request_type,
        response_type,
        request_encoding,
        response_encoding,
        thread,
        turn,
    ];
    for text in optional.into_iter().flatten().chain([method]) {
        cut(text, WORD);
    }
}

/// A secret can be a label of a name that was asked for: then the label goes, the rest tells where it went.
fn clean_host(host: &mut Host) {
    if let Host::Name(name) = host
        && let Some(clean) = clean_name(name.as_str())
        && let Ok(clean) = Host::parse(&clean)
    {
        *host = clean;
    }
}

/// A name as it was asked for, which need not be one.
fn cut_name(name: &mut String) {
    if let Some(clean) = clean_name(name) {
        *name = clean;
    }
    cut(name, TEXT);
}

/// A name without its labels that are secrets; `None`: it has none.
fn clean_name(name: &str) -> Option<String> {
    if redact::text(&mut name.to_owned()) == 0 {
        return None;
    }
    let labels = name.split('.').map(|label| {
        if redact::text(&mut label.to_owned()) == 0 {
            label
        } else {
            "redacted"
        }
    });
    let clean = labels.collect::<Vec<_>>().join(".");
    // One that only the whole name shows leaves nothing of it.
    let known = redact::text(&mut clean.clone()) == 0;
    Some(if known {
        clean
    } else {
        "redacted.invalid".to_owned()
    })
}

/// Cuts every argument, and drops those beyond the cap on all of them.
fn cut_arguments(argv: &mut Vec<String>, (one, all): (usize, usize)) {
    redact::arguments(argv);
    let mut total = 0;
    let fitting = argv.iter_mut().position(|argument| {
        cut(argument, one);
        // Two quotes and a comma.
        total += written_length(argument) + 3;
        total > all
    });
    if let Some(fitting) = fitting {
        let dropped = argv.len() - fitting;
        argv.truncate(fitting);
        argv.push(format!("… {dropped} more arguments"));
    }
}

/// A copy that is [`cut`].
fn shortened(text: &str, cap: usize) -> String {
    let mut text = text.to_owned();
    cut(&mut text, cap);
    text
}

/// Takes the secrets out of a text, and cuts it to `cap` bytes as written, at a character border.
fn cut(text: &mut String, cap: usize) {
    const MARK: char = '…';
    text.truncate(text.floor_char_boundary(cap.saturating_add(BEYOND)));
    redact::text(text);
    // No character takes more than six times its own bytes.
    if text.len() <= cap / 6 || written_length(text) <= cap {
        return;
    }
    let mut left = cap.saturating_sub(MARK.len_utf8());
    let end = text.char_indices().find_map(|(at, c)| {
        let rest = left.checked_sub(written(c));
        left = rest.unwrap_or_default();
        rest.is_none().then_some(at)
    });
    text.truncate(end.unwrap_or(text.len()));
    text.push(MARK);
}

fn written_length(text: &str) -> usize {
    text.chars().map(written).sum()
}

/// How many bytes a character takes within a JSON string (RFC 8259 section 7), at most.
fn written(c: char) -> usize {
    match c {
        '"' | '\\' => 2,
        '\0'..='\x1f' => 6,
        _ => c.len_utf8(),
    }
}

#[cfg(test)]
mod tests {
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
            host: Host::parse("a.test").unwrap(),
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
    fn no_text_of_an_event_keeps_a_secret() {
        use crate::audit::http::HttpVersion;
        use crate::ids::ConnId;
        use crate::policy::{Port, Scope, Transport, Verdict};
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
        for event in [
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
        let form = super::super::record::Form::new("0123456789abcdef", session, &user(&noise));
        let mut line = Vec::new();
        let genesis = super::super::ChainHash::genesis(session);
        let now = jiff::Timestamp::now();
        form.unwrap()
            .seal(&mut line, (1, now), &event.capped(), genesis)
            .unwrap();
        assert!(line.len() > ARGUMENTS, "{}", line.len());
    }
}
