//! Why a profile was not taken: one line with profile, key path, what is wrong and what is accepted.

use std::fmt;

use super::project::PROJECT_FILE;
use crate::policy::host::shown;
use crate::policy::requirements::REQUIREMENTS_FILE;

/// Why a profile was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// The text is not TOML.
    #[error("{}: line {line}, column {column}: {problem}", named(.profile))]
    Syntax {
        /// The profile.
        profile: String,
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
        /// What the TOML reader says.
        problem: String,
    },
    /// A key or a value is wrong.
    #[error("{}: {key}: {problem}{}", named(.profile), hint(.nearest.as_ref()))]
    Key {
        /// The profile in whose file it stands.
        profile: String,
        /// The path of the key, as `network.rules[2].host`.
        key: String,
        /// What is wrong, and what is accepted.
        problem: String,
        /// The valid spelling next to the one found.
        nearest: Option<String>,
    },
    /// There is no profile of this name.
    #[error(
        "no profile {name:?}{}; there are {}{}",
        .extended_by.as_ref().map(|by| format!(", which {by} extends")).unwrap_or_default(),
        .available.join(", "),
        hint(.nearest.as_ref())
    )]
    Missing {
        /// The name.
        name: String,
        /// The profile that extends it, if it was not asked for itself.
        extended_by: Option<String>,
        /// The names that exist.
        available: Vec<String>,
        /// The name next to the one asked for.
        nearest: Option<String>,
    },
    /// Its text could not be fetched.
    #[error("{}: {problem}", named(.profile))]
    Load {
        /// The profile.
        profile: String,
        /// What the loader says.
        problem: String,
    },
    /// It extends itself, or too many others.
    #[error("profile {chain}: {problem}")]
    Chain {
        /// Who extends whom, as `a → b → a`.
        chain: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A flag of the command line is wrong.
    #[error("{flag}: {problem}")]
    Flag {
        /// The flag and its value.
        flag: String,
        /// What is wrong, and what is accepted.
        problem: String,
    },
}

impl ProfileError {
    /// A name that does not exist, among those that do.
    pub fn missing(name: &str, extended_by: Option<&str>, mut available: Vec<String>) -> Self {
        available.sort_unstable();
        available.dedup();
        Self::Missing {
            name: name.to_owned(),
            extended_by: extended_by.map(ToOwned::to_owned),
            nearest: nearest(name, available.iter().map(String::as_str)),
            available,
        }
    }

    /// A wrong value at a key.
    pub(super) fn key(profile: &str, key: &str, problem: impl fmt::Display) -> Self {
        Self::Key {
            profile: profile.to_owned(),
            key: key.to_owned(),
            problem: problem.to_string(),
            nearest: None,
        }
    }

    /// What the TOML reader says about a text.
    pub(super) fn syntax(profile: &str, text: &str, error: &toml::de::Error) -> Self {
        let offset = error.span().map_or(0, |span| span.start);
        let before = text.get(..offset).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Self::Syntax {
            profile: profile.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before.chars().count()
                - before.get(..line_start).unwrap_or_default().chars().count()
                + 1,
            problem: one_line(error.message()),
        }
    }

    /// What serde says about a table that stands at `prefix`. Its words name the unknown key or value
    /// and those it knows, in backticks; the path follows on a line of its own.
    pub(super) fn shape(profile: &str, prefix: &str, error: &toml::de::Error) -> Self {
        let text = error.to_string();
        let path = text
            .lines()
            .find_map(|line| line.strip_prefix("in `")?.strip_suffix('`'))
            .unwrap_or_default();
        let message = error.message();
        let mut quoted = message.split('`').skip(1).step_by(2);
        let unknown_key = message.starts_with("unknown field");
        let unknown = unknown_key || message.starts_with("unknown variant");
        let wrong = if unknown { quoted.next() } else { None };
        let last = wrong.filter(|_| unknown_key).unwrap_or_default();
        let parts = [prefix, path, last];
        let key: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        Self::Key {
            profile: profile.to_owned(),
            key: if key.is_empty() {
                "the file".to_owned()
            } else {
                key.join(".")
            },
            problem: one_line(message),
            nearest: wrong.and_then(|wrong| nearest(wrong, quoted)),
        }
    }
}

/// The known word most like this one, if any is alike at all.
pub(super) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    known
        .map(|candidate| (strsim::jaro_winkler(word, candidate), candidate))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate.to_owned())
}

/// A profile as it is told; the files beside the profiles speak for themselves.
fn named(profile: &str) -> String {
    let other = [PROJECT_FILE, REQUIREMENTS_FILE];
    if other.iter().any(|file| profile.ends_with(file)) {
        profile.to_owned()
    } else {
        format!("profile {profile}")
    }
}

fn hint(nearest: Option<&String>) -> String {
    nearest
        .map(|word| format!("; did you mean {word:?}?"))
        .unwrap_or_default()
}

/// The words of a foreign message on one line.
fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A value and the accepted ones, with the nearest.
pub(super) fn not_one_of(profile: &str, key: &str, found: &str, accepted: &[&str]) -> ProfileError {
    let listed: Vec<String> = accepted.iter().map(|word| format!("{word:?}")).collect();
    ProfileError::Key {
        profile: profile.to_owned(),
        key: key.to_owned(),
        problem: format!("{} is none of {}", shown(found), listed.join(", ")),
        nearest: nearest(found, accepted.iter().copied()),
    }
}
