//! Takes secrets out of texts: passwords and keys by their formats ([`mod@formats`]), wherever a record or a body
//! holds words of a jail, of an origin or of a command line.
//!
//! Owns: the table, the search, and what stands in a secret's place. Pure; linear in the text. Never: knows a
//! secret (what the session's own credentials are is the gate's to know), decides what is recorded.
//!
//! It is no fence: a jail that wants to write a secret into the log can spell it in a way that nobody
//! recognises. It keeps what happens to come along from being kept.
//!
//! Applied by the writer's cap step ([`super::cap`]) to every free text of every event, so that no gate and
//! no session can forget it; to bodies by the gate and by the writer again.

mod formats;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::sync::{LazyLock, OnceLock};

use aho_corasick::{AhoCorasick, AhoCorasickKind};
use regex::bytes::{Captures, Regex, RegexBuilder};

use formats::{Check, FORMATS, Format, Trigger};

/// What a replaced secret begins with.
const MARK: &str = "[redacted:";

/// A replaced secret may make another visible; more rounds than this no text needs.
const ROUNDS: usize = 8;

/// What stands for a text that cannot be looked through.
const UNREADABLE: &[u8] = b"[redacted:all]";

/// What compiled formats are found with.
struct Redactor {
    /// The words of all triggers: where none of a format's is, the format is not.
    triggers: AhoCorasick,
    /// Of each word: its format, and whether it must be as it is written.
    words: Vec<(usize, Option<&'static [u8]>)>,
    /// Compiled when its trigger is first found. `None` in it: it does not compile (a bug).
    patterns: Vec<OnceLock<Option<Regex>>>,
}

/// `None`: the triggers do not compile (a bug).
static REDACTOR: LazyLock<Option<Redactor>> = LazyLock::new(|| {
    let mut texts = Vec::new();
    let mut words = Vec::new();
    for (at, format) in FORMATS.iter().enumerate() {
        let (list, exact) = match format.trigger {
            Trigger::Exact(list) => (list, true),
            Trigger::AnyCase(list) => (list, false),
        };
        for word in list {
            texts.push(*word);
            words.push((at, exact.then_some(word.as_bytes())));
        }
    }
    let triggers = AhoCorasick::builder()
        .ascii_case_insensitive(true)
        .kind(Some(AhoCorasickKind::ContiguousNFA))
        .prefilter(false)
        .build(texts)
        .ok()?;
    Some(Redactor {
        triggers,
        words,
        patterns: FORMATS.iter().map(|_| OnceLock::new()).collect(),
    })
});

/// Makes ready what every text is looked through with. Of the patterns each is compiled when it is needed first.
pub fn prepare() {
    LazyLock::force(&REDACTOR);
}

/// The formats that are looked for: name and source.
pub fn formats() -> impl Iterator<Item = (&'static str, &'static str)> {
    FORMATS.iter().map(|format| (format.name, format.source))
}

/// Replaces every secret in a text; answers how many.
pub fn text(text: &mut String) -> u32 {
    match bytes(text.as_bytes()) {
        (Cow::Borrowed(_), _) => 0,
        (Cow::Owned(clean), count) => {
            *text = String::from_utf8_lossy(&clean).into_owned();
            count
        }
    }
}

/// Replaces every secret in bytes; answers how many.
pub fn bytes(hay: &[u8]) -> (Cow<'_, [u8]>, u32) {
    let Some(redactor) = LazyLock::force(&REDACTOR) else {
        return (Cow::Borrowed(UNREADABLE), 1);
    };
    let mut text = Cow::Borrowed(hay);
    let mut count: u32 = 0;
    for _ in 0..ROUNDS {
        let Some((clean, found)) = redactor.round(&text) else {
            break;
        };
        text = Cow::Owned(clean);
        count = count.saturating_add(found);
    }
    (text, count)
}

/// Replaces every secret in the words of a command line, also where only the word before tells that it is one;
/// answers how many.
pub fn arguments(words: &mut [String]) -> u32 {
    let mut count: u32 = 0;
    let mut kind = Next::Plain;
    for word in words {
        match kind {
            Next::Secret if is_value(word.as_bytes()) => {
                *word = format!("{MARK}flag]");
                count = count.saturating_add(1);
            }
            Next::Login if word.contains(':') && !is_marker(word.as_bytes()) => {
                *word = format!("{MARK}login]");
                count = count.saturating_add(1);
            }
            Next::Plain | Next::Secret | Next::Login => {}
        }
        kind = Next::after(word);
        count = count.saturating_add(text(word));
    }
    count
}

/// What a word of a command line says of the next.
enum Next {
    Plain,
    Secret,
    /// `user:password`.
    Login,
}

impl Next {
    fn after(word: &str) -> Self {
        if matches!(word, "-u" | "--user" | "--proxy-user") {
            return Self::Login;
        }
        let flag = word.strip_prefix('-').filter(|rest| !rest.contains('='));
        let flag = flag.map(|rest| rest.trim_start_matches('-').to_ascii_lowercase());
        let named = |flag: &String| {
            [
                "password",
                "passwd",
                "passphrase",
                "secret",
                "token",
                "bearer",
            ]
            .iter()
            .any(|end| flag.ends_with(end))
                || [
                    "api-key",
                    "apikey",
                    "api_key",
                    "access-key",
                    "secret-key",
                    "private-key",
                ]
                .iter()
                .any(|end| flag.ends_with(end))
        };
        if flag.as_ref().is_some_and(named) {
            Self::Secret
        } else {
            Self::Plain
        }
    }
}

impl Redactor {
    fn triggered(&self, hay: &[u8]) -> Triggered {
        let mut triggered = [false; FORMATS.len()];
        for found in self.triggers.find_overlapping_iter(hay) {
            let Some((format, exact)) = self.words.get(found.pattern().as_usize()) else {
                continue;
            };
            let here = hay.get(found.range());
            if let Some(triggered) = triggered.get_mut(*format) {
                *triggered |= exact.is_none_or(|word| here == Some(word));
            }
        }
        triggered
    }

    /// Replaces what is found by one look at every format; `None`: nothing is.
    fn round(&self, hay: &[u8]) -> Option<(Vec<u8>, u32)> {
        let triggered = self.triggered(hay);
        let mut text = Cow::Borrowed(hay);
        let mut count: u32 = 0;
        for ((format, pattern), triggered) in FORMATS.iter().zip(&self.patterns).zip(triggered) {
            if !triggered {
                continue;
            }
            let pattern = pattern.get_or_init(|| compile(format.pattern));
            let Some(pattern) = pattern else {
                return Some((UNREADABLE.to_vec(), 1)).filter(|_| hay != UNREADABLE);
            };
            if let Some((clean, found)) = replace(format, pattern, &text) {
                text = Cow::Owned(clean);
                count = count.saturating_add(found);
            }
        }
        match text {
            Cow::Borrowed(_) => None,
            Cow::Owned(text) => Some((text, count)),
        }
    }
}

/// Whether one of a format's triggers is there, of each format.
type Triggered = [bool; FORMATS.len()];

fn compile(pattern: &str) -> Option<Regex> {
    RegexBuilder::new(pattern).unicode(false).build().ok()
}

/// Replaces the secrets of one format; `None`: there are none.
fn replace(format: &Format, pattern: &Regex, hay: &[u8]) -> Option<(Vec<u8>, u32)> {
    let mut clean = Vec::new();
    let mut count: u32 = 0;
    let mut done = 0;
    for found in pattern.captures_iter(hay) {
        let Some(range) = secret(&found) else {
            continue;
        };
        let secret = hay.get(range.clone()).unwrap_or_default();
        if is_marker(secret) || !format.check.holds(secret) {
            continue;
        }
        clean.extend_from_slice(hay.get(done..range.start).unwrap_or_default());
        clean.extend_from_slice(MARK.as_bytes());
        clean.extend_from_slice(format.name.as_bytes());
        clean.push(b']');
        done = range.end;
        count = count.saturating_add(1);
    }
    clean.extend_from_slice(hay.get(done..).unwrap_or_default());
    (count > 0).then_some((clean, count))
}

/// Where the secret is in a match: its first group that took part, or all of it.
fn secret(found: &Captures<'_>) -> Option<std::ops::Range<usize>> {
    let group = found.iter().skip(1).flatten().next();
    group.or_else(|| found.get(0)).map(|part| part.range())
}

impl Check {
    fn holds(self, secret: &[u8]) -> bool {
        match self {
            Self::Any => true,
            Self::Mixed => {
                secret.iter().any(u8::is_ascii_digit) && secret.iter().any(u8::is_ascii_alphabetic)
            }
            Self::NoWord => {
                let rest = secret.get(1..).unwrap_or_default();
                rest.iter()
                    .any(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase() || *byte == b'=')
                    || secret.len() >= 20
            }
            Self::Value => is_value(secret),
            Self::Userinfo => secret.contains(&b':') || secret.len() >= 16,
        }
    }
}

/// Whether an assigned value may be a secret: not a constant, not the name of a variable.
fn is_value(secret: &[u8]) -> bool {
    let constant = [&b"true"[..], b"false", b"null", b"none", b"undefined"];
    let variable = || {
        let name = secret.strip_prefix(b"$")?;
        let name = name
            .strip_prefix(b"{")
            .map_or(Some(name), |name| name.strip_suffix(b"}"))?;
        let plain = |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'_';
        (!name.is_empty() && name.iter().all(plain)).then_some(())
    };
    let shown = |byte: &u8| byte.is_ascii_alphanumeric() || !byte.is_ascii();
    let says_something = secret.iter().any(shown) || secret.len() > 2;
    !is_marker(secret)
        && says_something
        && !constant
            .iter()
            .any(|word| secret.eq_ignore_ascii_case(word))
        && variable().is_none()
}

/// Whether this is what stands in a secret's place, and nothing else.
fn is_marker(secret: &[u8]) -> bool {
    let inner = secret
        .strip_prefix(MARK.as_bytes())
        .and_then(|rest| rest.strip_suffix(b"]"));
    inner.is_some_and(|name| {
        name.iter()
            .all(|byte| byte.is_ascii_lowercase() || matches!(byte, b'-' | b'0'..=b'9'))
    })
}
