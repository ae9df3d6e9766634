//! Flags of the command line: the last layer.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::error::ProfileError;
use super::read::append;
use super::{FilesystemMode, Profile, bodies, credentials, rules, value, visible};
use crate::policy::host::shown;
use crate::policy::unix_socket::parse_path;
use crate::policy::{Effect, Host, HostPattern, Port, Rule, RuleId, UnixSocket};

/// What the command line adds to a profile, as it was typed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Overrides {
    /// `--allow HOST[:PORT]`; an IPv6 address with a port stands in brackets.
    pub allow: Vec<String>,
    /// `--deny HOST[:PORT]`.
    pub deny: Vec<String>,
    /// `--rw PATH`.
    pub writable: Vec<PathBuf>,
    /// `--ro PATH`.
    pub readable: Vec<PathBuf>,
    /// `--socket PATH`.
    pub sockets: Vec<String>,
    /// `--env K=V`, or `--env K` to pass the caller's own.
    pub env: Vec<String>,
    /// `--mode`.
    pub mode: Option<FilesystemMode>,
    /// `--mitm` and `--no-mitm`.
    pub mitm: Option<bool>,
    /// `--budget KEY=AMOUNT[:ACTION]`.
    pub budgets: Vec<String>,
    /// `--limit KEY=AMOUNT`.
    pub limits: Vec<String>,
    /// `--timeout TIME`.
    pub timeout: Option<String>,
}

impl Profile {
    /// Lays the flags over the profile and checks the whole. A deny of the profile stays a deny
    /// whatever `--allow` says.
    pub fn apply(mut self, overrides: &Overrides) -> Result<Self, ProfileError> {
        self.lay(overrides)?;
        self.check()?;
        Ok(self)
    }

    /// Lays the flags over the profile, not yet checked as a whole.
    pub(super) fn lay(&mut self, overrides: &Overrides) -> Result<(), ProfileError> {
        for (flag, texts, effect) in [
            ("--allow", &overrides.allow, Effect::Allow),
            ("--deny", &overrides.deny, Effect::Deny),
        ] {
            for text in texts {
                self.network.rules.push(rule(flag, text, effect)?);
            }
        }
        for (flag, key, paths, list) in [
            (
                "--rw",
                "filesystem.writable",
                &overrides.writable,
                &mut self.filesystem.writable,
            ),
            (
                "--ro",
                "filesystem.readable",
                &overrides.readable,
                &mut self.filesystem.readable,
            ),
        ] {
            for path in paths {
                value::path(key, path).map_err(|p| wrong(flag, &path.to_string_lossy(), p))?;
                append(list, path.clone());
            }
        }
        for text in &overrides.sockets {
            let path = parse_path(text).map_err(|problem| wrong("--socket", text, problem))?;
            // What the profile says of a socket is more than the flag can say.
            let sockets = &mut self.network.unix_sockets;
            if sockets.get(&path) != Some(&UnixSocket::AllowDangerous) {
                sockets.insert(path, UnixSocket::Allow);
            }
        }
        for text in &overrides.env {
            self.variable(text)
                .map_err(|problem| wrong("--env", text, problem))?;
        }
        let budgets = &mut self.network.budgets;
        for text in &overrides.budgets {
            budgets
                .set_flag(text)
                .map_err(|problem| wrong("--budget", text, problem))?;
        }
        if let Some(text) = &overrides.timeout {
            budgets
                .set_timeout(text)
                .map_err(|problem| wrong("--timeout", text, problem))?;
        }
        for text in &overrides.limits {
            self.limits
                .set_flag(text)
                .map_err(|problem| wrong("--limit", text, problem))?;
        }
        self.filesystem.mode = overrides.mode.unwrap_or(self.filesystem.mode);
        self.network.mitm = overrides.mitm.unwrap_or(self.network.mitm);
        Ok(())
    }

    /// What only the whole can be checked for.
    pub(super) fn check(&self) -> Result<(), ProfileError> {
        visible::check(self)?;
        credentials::check(self)?;
        bodies::check(self)?;
        self.check_datagrams()
    }

    /// Datagrams are asked for over a SOCKS5 connection: without that door the key would do nothing.
    fn check_datagrams(&self) -> Result<(), ProfileError> {
        if self.network.enable_socks5_udp && !self.network.enable_socks5 {
            let problem = "datagrams need the SOCKS5 proxy; set network.enable_socks5 = true, or leave this out";
            return Err(ProfileError::key(
                &self.name,
                "network.enable_socks5_udp",
                problem,
            ));
        }
        Ok(())
    }

    /// One `--env`.
    fn variable(&mut self, text: &str) -> Result<(), String> {
        let (name, assigned) = match text.split_once('=') {
            Some((name, assigned)) => (name, Some(assigned)),
            None => (text, None),
        };
        value::variable(name)?;
        if let Some(assigned) = assigned {
            value::variable_text(assigned)?;
            self.environment
                .set
                .insert(name.to_owned(), assigned.to_owned());
        } else {
            // The later wins: what the caller has, not what the profile sets.
            self.environment.set.remove(name);
            append(&mut self.environment.pass, name.to_owned());
        }
        Ok(())
    }
}

/// `HOST[:PORT]` as a rule.
fn rule(flag: &str, text: &str, effect: Effect) -> Result<Rule, ProfileError> {
    let (host, port) = split_port(text).map_err(|problem| wrong(flag, text, problem))?;
    let host = host_of(host).map_err(|problem| wrong(flag, text, problem))?;
    if host == HostPattern::Any && effect == Effect::Deny {
        return Err(wrong(flag, text, rules::DENY_ALL));
    }
    Ok(Rule {
        ports: port.into_iter().collect(),
        ..Rule::new(RuleId::new(format!("{flag} {text}")), host, effect)
    })
}

fn host_of(text: &str) -> Result<HostPattern, String> {
    let pattern = if text.starts_with('[') {
        Host::parse_bracketed(text)
            .map(HostPattern::Exact)
            .map_err(|problem| problem.to_string())
    } else {
        HostPattern::parse(text).map_err(|problem| problem.to_string())
    };
    pattern.map_err(|problem| {
        problem
            + "; accepted are \"api.example.com\", \"*.example.com:8443\" and \"[2001:db8::1]:443\""
    })
}

/// Splits the port off, if there is one: `h:1`, `[::1]:1`; in `::1` there is none.
fn split_port(text: &str) -> Result<(&str, Option<Port>), String> {
    let Some((host, port)) = text.rsplit_once(':') else {
        return Ok((text, None));
    };
    let bare_ipv6 = !text.starts_with('[') && host.contains(':');
    if bare_ipv6 || text.contains("//") || text.ends_with(']') {
        return Ok((text, None));
    }
    let port = Port::parse(port)
        .ok_or_else(|| format!("{} is no port; accepted are 1 to 65535", shown(port)))?;
    Ok((host, Some(port)))
}

fn wrong(flag: &str, text: &str, problem: impl fmt::Display) -> ProfileError {
    ProfileError::Flag {
        flag: format!("{flag} {text}").escape_debug().take(200).collect(),
        problem: problem.to_string(),
    }
}
