//! `[approvals]`: who answers where the policy asks.

use super::ApprovalsPolicy;
use super::error::ProfileError;
use super::file::{ApprovalRuleFile, ApprovalsFile, entry};
use super::read::Source;
use super::{rules, value};
use crate::policy::{Port, Rule};

/// The longest wait that a profile can set: a client gives up long before.
const DAY: u32 = 24 * 60 * 60;

/// The most words of a command.
const MAX_WORDS: usize = 64;

/// Lays one file over what it extends: rules add up, the rest is replaced.
pub(super) fn overlay(
    policy: &mut ApprovalsPolicy,
    source: Source<'_>,
    file: ApprovalsFile,
) -> Result<(), ProfileError> {
    if let Some(seconds) = file.wait_seconds {
        policy.wait_seconds = value::within(source, "approvals.wait_seconds", seconds, 0..=DAY)?;
    }
    if let Some(command) = file.command {
        policy.command = checked(source, command)?;
    }
    for (i, found) in file.rules.into_iter().enumerate() {
        policy
            .rules
            .push(rule(source, &format!("approvals.rules[{i}]"), found)?);
    }
    Ok(())
}

/// A program by its absolute path: no shell, no `PATH`, nothing that could mean another program.
fn checked(source: Source<'_>, command: Vec<String>) -> Result<Vec<String>, ProfileError> {
    let key = "approvals.command";
    if let Some(program) = command.first()
        && !program.starts_with('/')
    {
        let problem = "the program must be an absolute path, as [\"/usr/local/bin/decide\"]";
        return Err(source.wrong(key, problem));
    }
    if command.len() > MAX_WORDS || command.iter().any(|word| word.contains('\0')) {
        return Err(source.wrong(key, "at most 64 words, none with a NUL"));
    }
    Ok(command)
}

fn rule(source: Source<'_>, key: &str, found: toml::Value) -> Result<Rule, ProfileError> {
    let file: ApprovalRuleFile = entry(source.profile, key, found)?;
    let effect = rules::effect(source, &format!("{key}.verdict"), &file.verdict)?;
    let host = rules::host(source, &format!("{key}.host"), &file.host, effect)?;
    let ports = rules::list(
        source,
        &format!("{key}.ports"),
        file.ports.as_deref(),
        |&number| Port::new(number).ok_or("0 is no port; accepted are 1 to 65535"),
    )?;
    Ok(Rule {
        ports,
        ..Rule::new(rules::id(source, key), host, effect)
    })
}
