//! What can be looked up: values of a record, each in a dimension of its own.

use super::super::facts::Facts;
use super::super::{filter, words};

/// The most words of one record that are looked up; behind them [`OVERFLOW`] stands for the rest, so that
/// no jail can make the index many times longer than the log.
const MAX_WORDS: usize = 256;

/// The most labels of a suffix that is looked up at once.
pub(super) const SUFFIX_LABELS: usize = 4;

/// The longest value; what is longer is cut, and whoever looks for it looks for its beginning.
pub(super) const MAX_VALUE: usize = 256;

/// The word of records that have more words than are kept.
pub(super) const OVERFLOW: &str = "";

/// A dimension. The numbers stand in the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Dim {
    Event = 1,
    Verdict = 2,
    Host = 3,
    /// Suffixes of names, of up to four labels: `test` and `a.test` of `b.a.test`.
    Below = 4,
    Method = 5,
    User = 6,
    Program = 7,
    Rule = 8,
    Status = 9,
    Thread = 10,
    /// Words of paths, and pairs of words that follow one another, with a space between.
    Path = 11,
    Text = 12,
    /// The segment that a row is of, by the index's number.
    Segment = 13,
    /// The whole path of a program.
    Exe = 14,
}

/// A value as it is looked up: no longer than its cap.
pub(super) fn value(text: &str) -> &str {
    text.get(..text.floor_char_boundary(MAX_VALUE))
        .unwrap_or(text)
}

/// Calls `put` with everything that a record is found by. `segment` aside.
pub(super) fn each(facts: &Facts<'_>, put: &mut impl FnMut(Dim, &str)) {
    let about = &facts.about;
    put(Dim::Event, value(&facts.event));
    put(Dim::User, value(&facts.user));
    let optional = [
        (Dim::Verdict, facts.verdict.as_deref()),
        (Dim::Method, about.method.as_deref()),
        (Dim::Program, about.program()),
        (Dim::Exe, about.exe.as_deref()),
        (Dim::Rule, about.rule.as_deref()),
        (Dim::Thread, about.thread.as_deref()),
    ];
    for (dim, text) in optional {
        if let Some(text) = text {
            put(dim, value(text));
        }
    }
    if let Some(status) = facts.status.as_deref() {
        put(Dim::Status, status);
        if let Some(class) = status.get(..1).filter(|_| status.len() == 3) {
            put(Dim::Status, &format!("{class}xx"));
        }
    }
    if let Some(host) = about.host.as_deref() {
        put(Dim::Host, value(host));
        each_suffix(host, |suffix| put(Dim::Below, value(suffix)));
    }
    if let Some(path) = about.path.as_deref() {
        each_path_word(path, |word| put(Dim::Path, word));
    }
    let mut room = MAX_WORDS;
    for text in filter::texts(facts) {
        words::each(text, |word| {
            let fits = room > 0;
            put(Dim::Text, if fits { word } else { OVERFLOW });
            room = room.saturating_sub(1);
            fits
        });
    }
}

/// The names above this one, of up to [`SUFFIX_LABELS`] labels.
fn each_suffix(host: &str, mut visit: impl FnMut(&str)) {
    for (at, _) in host.rmatch_indices('.').take(SUFFIX_LABELS) {
        visit(host.get(at + 1..).unwrap_or_default());
    }
}

fn each_path_word(path: &str, mut visit: impl FnMut(&str)) {
    let mut room = MAX_WORDS;
    let mut pair = String::new();
    words::each(path, |word| {
        if room == 0 {
            visit(OVERFLOW);
            return false;
        }
        room -= 1;
        visit(word);
        if !pair.is_empty() {
            pair.push(' ');
            pair.push_str(word);
            visit(&pair);
            pair.clear();
        }
        pair.push_str(word);
        true
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_by_their_suffixes_and_paths_by_words_and_pairs() {
        let mut found = Vec::new();
        each_suffix("a.b.c.d.e.test", |suffix| found.push(suffix.to_owned()));
        assert_eq!(found, ["test", "e.test", "d.e.test", "c.d.e.test"]);
        found.clear();
        each_path_word("/Repos/acme/x", |word| found.push(word.to_owned()));
        assert_eq!(found, ["repos", "acme", "repos acme", "x", "acme x"]);
        found.clear();
        each_path_word(&"/x".repeat(999), |word| found.push(word.to_owned()));
        assert_eq!(found.len(), 2 * MAX_WORDS);
        assert_eq!(found.last().unwrap(), OVERFLOW);
    }
}
