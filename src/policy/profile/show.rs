//! Valid form → file form: the merged profile as TOML that reads back to the same rules, each rule
//! with a comment that names where it was written.

use super::Profile;
use crate::policy::{Effect, Protocol, Rule};

impl Profile {
    /// The merged profile as TOML.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        let mut table = toml::Table::try_from(self)?;
        table.remove("name");
        if let Some(network) = table.get_mut("network").and_then(toml::Value::as_table_mut) {
            network.remove("rules");
            network.remove("ceiling");
        }
        if let Some(approvals) = table
            .get_mut("approvals")
            .and_then(toml::Value::as_table_mut)
        {
            approvals.remove("rules");
        }
        let mut text = toml::to_string_pretty(&table)?;
        let (domains, entries): (Vec<&Rule>, Vec<&Rule>) =
            self.network.rules.iter().partition(|rule| is_domain(rule));
        // A host may be allowed in one layer and denied in another: one table holds it once.
        let mut written = Vec::new();
        if !domains.is_empty() {
            text.push_str("\n[network.domains]\n");
        }
        let mut again = Vec::new();
        for rule in domains {
            if written.contains(&&rule.host) {
                again.push(rule);
            } else {
                written.push(&rule.host);
                line(
                    &mut text,
                    &format!("\"{}\" = {}", rule.host, action(rule)),
                    rule,
                );
            }
        }
        for rule in again.into_iter().chain(entries) {
            entry(&mut text, rule)?;
        }
        for rule in &self.approvals.rules {
            text.push_str("\n[[approvals.rules]]\n");
            line(&mut text, &format!("host = \"{}\"", rule.host), rule);
            if !rule.ports.is_empty() {
                let ports: Vec<String> = rule.ports.iter().map(ToString::to_string).collect();
                plain(&mut text, &format!("ports = [{}]", ports.join(", ")));
            }
            plain(&mut text, &format!("verdict = {}", action(rule)));
        }
        Ok(text)
    }
}

/// Whether a rule is of the form of `[network.domains]`.
fn is_domain(rule: &Rule) -> bool {
    rule.ports.is_empty() && rule.methods.is_empty() && rule.paths.is_empty()
}

fn entry(text: &mut String, rule: &Rule) -> Result<(), toml::ser::Error> {
    text.push_str("\n[[network.rules]]\n");
    line(text, &format!("host = \"{}\"", rule.host), rule);
    let file = toml::Table::try_from(rule)?;
    for key in ["ports", "methods", "paths"] {
        let list = file
            .get(key)
            .filter(|list| list.as_array().is_some_and(|l| !l.is_empty()));
        if let Some(list) = list {
            plain(text, &format!("{key} = {list}"));
        }
    }
    match rule.protocol {
        Protocol::Web => {}
        Protocol::Tcp => plain(text, "protocol = \"tcp\""),
        Protocol::Udp => plain(text, "protocol = \"udp\""),
    }
    plain(text, &format!("action = {}", action(rule)));
    Ok(())
}

fn action(rule: &Rule) -> &'static str {
    match rule.effect {
        Effect::Allow => "\"allow\"",
        Effect::Ask => "\"ask\"",
        Effect::Deny => "\"deny\"",
    }
}

/// A line with the place where the rule was written. An identifier may hold a file name: a line break
/// in it must not end the comment.
fn line(text: &mut String, content: &str, rule: &Rule) {
    let id = rule.id.as_str().replace(char::is_control, "\u{fffd}");
    plain(text, &format!("{content}  # {id}"));
}

fn plain(text: &mut String, content: &str) {
    text.push_str(content);
    text.push('\n');
}
