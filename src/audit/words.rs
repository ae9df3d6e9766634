//! Words of a text, as searches compare them: runs of letters and digits, in small letters.

/// The most characters of a word that count: two words that differ behind them are one.
const LONGEST: usize = 32;

/// Calls `visit` with each word of a text, until it answers `false`.
pub(super) fn each(text: &str, mut visit: impl FnMut(&str) -> bool) {
    let mut word = String::new();
    for part in text.split(|c: char| !c.is_alphanumeric()) {
        if part.is_empty() {
            continue;
        }
        word.clear();
        if part.is_ascii() {
            word.push_str(part.get(..part.len().min(LONGEST)).unwrap_or_default());
            word.make_ascii_lowercase();
        } else {
            word.extend(part.chars().take(LONGEST).flat_map(char::to_lowercase));
        }
        if !visit(&word) {
            return;
        }
    }
}

/// The words of a text.
pub(super) fn all(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    each(text, |word| {
        words.push(word.to_owned());
        true
    });
    words
}

/// What somebody looks for: words that follow one another, the last one perhaps only begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Phrase {
    /// The words; never empty.
    pub(super) words: Vec<String>,
    /// Whether the last one may go on: it was written with a star.
    pub(super) begun: bool,
}

impl Phrase {
    /// Reads what somebody looks for: phrases, between spaces. `/repos/acme` is one of two words.
    pub(super) fn parse(text: &str) -> Vec<Self> {
        let phrases = text.split_whitespace().map(|part| Self {
            words: all(part),
            begun: part.ends_with('*'),
        });
        phrases.filter(|phrase| !phrase.words.is_empty()).collect()
    }

    /// Whether the words stand somewhere in these, one after the other.
    pub(super) fn is_in(&self, words: &[String]) -> bool {
        words.windows(self.words.len()).any(|part| {
            let mut pairs = part.iter().zip(&self.words).rev();
            let last = pairs.next().is_some_and(|(word, wanted)| {
                word == wanted || (self.begun && word.starts_with(wanted.as_str()))
            });
            last && pairs.all(|(word, wanted)| word == wanted)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_letters_and_digits_in_small_letters() {
        assert_eq!(
            all("/Repos/acme-Corp/x.git"),
            ["repos", "acme", "corp", "x", "git"]
        );
        assert_eq!(all("//é\u{1b}[2J"), ["é", "2j"]);
        assert_eq!(all("-/ "), Vec::<String>::new());
        assert_eq!(all(&"x".repeat(99)), ["x".repeat(LONGEST)]);
    }

    #[test]
    fn a_phrase_is_found_where_its_words_follow_one_another() {
        let is_in = |wanted: &str, text: &str| {
            let words = all(text);
            Phrase::parse(wanted)
                .iter()
                .all(|phrase| phrase.is_in(&words))
        };
        for found in ["/repos/acme", "acme", "x repos", "acm*", "/repos/ac*", "X"] {
            assert!(is_in(found, "/repos/acme/x"), "{found}");
        }
        for missing in [
            "/acme/repos",
            "acm",
            "repos/x",
            "rep*/acme",
            "x*/acme",
            "y*",
        ] {
            assert!(!is_in(missing, "/repos/acme/x"), "{missing}");
        }
    }
}
