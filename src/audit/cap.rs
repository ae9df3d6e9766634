//! Caps on what a record takes from outside, so that no jail can make a record long.
//!
//! Counted in bytes as they stand in the file, escapes included: an argument of control characters
//! takes six times its length there. What was cut ends with `…`.

use super::changes::{FileChanges, MAX_NAMED};
use super::event::{AuditEvent, MAX_SHOWN_SOCKETS, Status};
use crate::ids::PolicyGeneration;
use crate::policy::RuleId;

/// One argument.
const ARGUMENT: usize = 4 << 10;
/// All arguments.
const ARGUMENTS: usize = 64 << 10;
/// A path, a detail, a name.
const TEXT: usize = 1 << 10;
/// A user, a profile, a version, a rule.
const WORD: usize = 256;
/// Addresses of one answer, shortfalls of one kernel.
const ITEMS: usize = 64;

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
    /// The event with every text cut to its cap.
    #[must_use]
    #[expect(clippy::too_many_lines, reason = "an arm an event")]
    pub fn capped(mut self) -> Self {
        match &mut self {
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
                cut_arguments(argv);
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
                path,
                rule,
                generation,
                ..
            } => {
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
                cut(name, TEXT);
                addresses.truncate(ITEMS);
                refused.truncate(ITEMS);
            }
            Self::DnsAsked { name, kind, .. } => {
                cut(name, TEXT);
                cut(kind, WORD);
            }
            Self::EgressRefused { detail, .. } => cut(detail, TEXT),
            Self::CredentialUsed { credential, .. } => cut(credential, WORD),
            Self::EgressDialed { via: Some(via), .. } => cut(via, TEXT),
            Self::ApprovalAsked { path, rule, .. } => {
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
            | Self::GateLost { .. }
            | Self::DnsDropped { .. }
            | Self::EgressDialed { .. }
            | Self::EgressClosed { .. } => {}
        }
        self
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

/// Cuts every argument, and drops those beyond the cap on all of them.
fn cut_arguments(argv: &mut Vec<String>) {
    let mut total = 0;
    let fitting = argv.iter_mut().position(|argument| {
        cut(argument, ARGUMENT);
        // Two quotes and a comma.
        total += written_length(argument) + 3;
        total > ARGUMENTS
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

/// Cuts a text to `cap` bytes as written, at a character border.
fn cut(text: &mut String, cap: usize) {
    const MARK: char = '…';
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
            host: crate::policy::Host::parse("a.test").unwrap(),
            port: crate::policy::Port::HTTP,
            method: None,
            path: Some("/v1/é?key=secret#x".into()),
            verdict: crate::policy::Verdict::Deny,
            reason: None,
            rule: None,
            generation: PolicyGeneration::new(""),
        };
        let AuditEvent::EgressDecided { path, .. } = event.capped() else {
            unreachable!()
        };
        assert_eq!(path.as_deref(), Some("/v1/é"));
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
