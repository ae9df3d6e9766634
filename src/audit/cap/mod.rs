//! Caps on what a record takes from outside, so that no jail can make a record long; and the place where every
//! text of every event loses its secrets ([`mod@redact`]), before it is cut.
//!
//! Counted in bytes as they stand in the file, escapes included: an argument of control characters
//! takes six times its length there. What was cut ends with `…`.

use super::changes::{FileChanges, MAX_NAMED};
use super::event::{AuditEvent, MAX_SHOWN_SOCKETS, Status};
use super::http::HttpExchange;
use super::process::{MAX_ARGUMENTS, MAX_PARENTS, Process};
use super::redact::{self, names};
use crate::ids::PolicyGeneration;
use crate::policy::RuleId;

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
                name,
                profile,
                mode,
                workspace,
                generation,
                isolation,
                unix_sockets,
            } => {
                // It is never longer than a name may be.
                name.iter_mut().for_each(names::session);
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
                names::host(host);
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
                names::domain(name);
                cut(name, TEXT);
                addresses.truncate(ITEMS);
                refused.truncate(ITEMS);
            }
            Self::DnsAsked { name, kind, .. } => {
                names::domain(name);
                cut(name, TEXT);
                cut(kind, WORD);
            }
            Self::EgressRefused { detail, .. } => cut(detail, TEXT),
            Self::CredentialUsed {
                credential, host, ..
            } => {
                names::host(host);
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
                names::host(host);
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
            Self::LogSyncFailed { why, .. } | Self::LedgerLost { why } => cut(why, TEXT),
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
            | Self::WitnessRestarted { .. }
            | Self::WitnessLost { .. }
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
mod tests;
