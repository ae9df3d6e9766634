//! Which records somebody wants to see. Pure: the index looks for candidates by it, and whatever is shown
//! has been held to it as it stands in the log.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::facts::Facts;
use super::words::{self, Phrase};
use crate::ids::SessionId;

/// What a record must be like. An empty one takes every record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// The host that it is about.
    pub host: Option<HostGlob>,
    /// What it answers: `allow`, `deny`, `ask`; any of these.
    pub verdicts: BTreeSet<&'static str>,
    /// Whose log it stands in; any of these.
    pub sessions: Option<BTreeSet<SessionId>>,
    /// Whose session.
    pub user: Option<String>,
    /// Not older than this.
    pub since: Option<Timestamp>,
    /// Older than this.
    pub until: Option<Timestamp>,
    /// The program in the jail: its name, or its whole path.
    pub process: Option<String>,
    /// The event's name, or the beginning of names: `egress.*`.
    pub event: Option<String>,
    /// The method, in capitals as it is sent.
    pub method: Option<String>,
    /// What stands in the path.
    pub path: Vec<Phrase>,
    /// The status of an HTTP answer: `404`, or `4xx`.
    pub status: Option<String>,
    /// The rule that decided.
    pub rule: Option<String>,
    /// The thread of Codex.
    pub thread: Option<String>,
    /// Words that stand anywhere in its texts, path and host.
    pub text: Vec<Phrase>,
}

/// Which hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostGlob {
    /// This one.
    Exact(String),
    /// `*.x`: every name below x.
    Below(String),
    /// `**.x`: x and every name below it.
    AtOrBelow(String),
    /// Stars that stand for any characters, dots too.
    Wild(String),
}

impl HostGlob {
    /// Reads one, as a policy writes them, or with stars anywhere.
    pub fn parse(text: &str) -> Self {
        let text = text.trim_matches(['[', ']']);
        let text = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let below = |star: &str| {
            text.strip_prefix(star)
                .filter(|rest| !rest.is_empty() && !rest.contains('*'))
                .map(ToOwned::to_owned)
        };
        if let Some(name) = below("**.") {
            Self::AtOrBelow(name)
        } else if let Some(name) = below("*.") {
            Self::Below(name)
        } else if text.contains('*') {
            Self::Wild(text)
        } else {
            Self::Exact(text)
        }
    }

    /// Whether it means this host.
    pub fn covers(&self, host: &str) -> bool {
        let below = |parent: &str| {
            host.strip_suffix(parent)
                .is_some_and(|rest| rest.ends_with('.'))
        };
        match self {
            Self::Exact(own) => host == own,
            Self::Below(parent) => below(parent),
            Self::AtOrBelow(parent) => host == parent || below(parent),
            Self::Wild(pattern) => wild(pattern, host),
        }
    }
}

/// Whether a text matches a pattern whose stars stand for any characters: its parts are found in their order.
fn wild(pattern: &str, text: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut left) = text.strip_prefix(start) else {
        return false;
    };
    let (middle, end) = rest.rsplit_once('*').unwrap_or(("", rest));
    for part in middle.split('*') {
        let Some((_, after)) = left.split_once(part) else {
            return false;
        };
        left = after;
    }
    left.ends_with(end)
}

impl Filter {
    /// What stands in the path must be this, see [`Phrase`].
    pub fn set_path(&mut self, text: &str) {
        self.path = Phrase::parse(text);
    }

    /// What stands anywhere must be this: every word for itself.
    pub fn set_text(&mut self, text: &str) {
        let word = |phrase: Phrase| {
            let last = phrase.words.len().saturating_sub(1);
            let begun = phrase.begun;
            let words = phrase.words.into_iter().enumerate();
            words.map(move |(at, word)| Phrase {
                words: vec![word],
                begun: begun && at == last,
            })
        };
        self.text = Phrase::parse(text).into_iter().flat_map(word).collect();
    }

    /// Whether it takes every record.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it takes this record of this session. The facts are complete, see [`super::facts::Links`].
    pub fn takes(&self, session: SessionId, facts: &Facts<'_>) -> bool {
        let same = |wanted: &Option<String>, found: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| found == Some(wanted))
        };
        let about = &facts.about;
        self.sessions
            .as_ref()
            .is_none_or(|sessions| sessions.contains(&session))
            && self.since.is_none_or(|since| facts.at >= since)
            && self.until.is_none_or(|until| facts.at < until)
            && (self.verdicts.is_empty()
                || facts
                    .verdict
                    .as_deref()
                    .is_some_and(|verdict| self.verdicts.contains(verdict)))
            && same(&self.user, Some(&facts.user))
            && self.takes_event(&facts.event)
            && self.takes_host(about.host.as_deref())
            && same(&self.method, about.method.as_deref())
            && same(&self.rule, about.rule.as_deref())
            && same(&self.thread, about.thread.as_deref())
            && self.takes_process(about.exe.as_deref(), about.program())
            && self.takes_status(facts.status.as_deref())
            && self.takes_path(about.path.as_deref())
            && self.takes_text(facts)
    }

    fn takes_host(&self, host: Option<&str>) -> bool {
        let wanted = self.host.as_ref();
        wanted.is_none_or(|glob| host.is_some_and(|host| glob.covers(host)))
    }

    fn takes_event(&self, event: &str) -> bool {
        self.event
            .as_deref()
            .is_none_or(|wanted| match wanted.strip_suffix('*') {
                Some(start) => event.starts_with(start),
                None => event == wanted,
            })
    }

    fn takes_process(&self, exe: Option<&str>, program: Option<&str>) -> bool {
        self.process.as_deref().is_none_or(|wanted| {
            let found = if wanted.contains('/') { exe } else { program };
            found == Some(wanted)
        })
    }

    fn takes_status(&self, status: Option<&str>) -> bool {
        self.status.as_deref().is_none_or(|wanted| {
            let class = wanted.strip_suffix("xx");
            status.is_some_and(|status| match class {
                Some(class) => status.len() == 3 && status.starts_with(class),
                None => status == wanted,
            })
        })
    }

    fn takes_path(&self, path: Option<&str>) -> bool {
        if self.path.is_empty() {
            return true;
        }
        let words = words::all(path.unwrap_or_default());
        self.path.iter().all(|phrase| phrase.is_in(&words))
    }

    fn takes_text(&self, facts: &Facts<'_>) -> bool {
        if self.text.is_empty() {
            return true;
        }
        let texts = each_text(facts);
        let words: Vec<_> = texts.flat_map(words::all).collect();
        self.text.iter().all(|phrase| phrase.is_in(&words))
    }
}

/// Everything in a record that `--text` looks at, the path aside.
pub(super) fn texts<'a>(facts: &'a Facts<'_>) -> impl Iterator<Item = &'a str> {
    let about = &facts.about;
    let own = [
        about.host.as_deref(),
        about.exe.as_deref(),
        facts.reason.as_deref(),
    ];
    own.into_iter()
        .flatten()
        .chain(facts.texts.iter().map(|text| &**text))
}

fn each_text<'a>(facts: &'a Facts<'_>) -> impl Iterator<Item = &'a str> {
    texts(facts).chain(facts.about.path.as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_match_as_in_policies_and_stars_anywhere() {
        let cases = [
            ("a.test", "a.test", true),
            ("A.Test.", "a.test", true),
            ("a.test", "b.a.test", false),
            ("*.a.test", "x.y.a.test", true),
            ("*.a.test", "a.test", false),
            ("*.a.test", "ba.test", false),
            ("**.a.test", "a.test", true),
            ("**.a.test", "b.a.test", true),
            ("**.a.test", "ba.test", false),
            ("*", "192.0.2.1", true),
            ("api*test", "api.x.test", true),
            ("api*test", "api.x.test.evil", false),
            ("*a*a", "a", false),
            ("*a*a", "ba.a", true),
            ("a*b*c", "abc", true),
            ("a*b*c", "acb", false),
            ("[2001:db8::1]", "2001:db8::1", true),
        ];
        for (glob, host, covered) in cases {
            assert_eq!(HostGlob::parse(glob).covers(host), covered, "{glob} {host}");
        }
    }
}
