//! Finds needles: a credential's placeholder on its way out, a credential's value on its way in. In one
//! text, under the encodings that clients use; and in a stream, however it is cut into chunks.

use std::rc::Rc;

use data_encoding::{BASE64, BASE64_NOPAD};
use hyper::body::Bytes;
use memchr::memmem;
use zeroize::Zeroizing;

use crate::secret::Secret;

/// Percent-encoding of percent-encoding is undone this often.
const ROUNDS: usize = 3;

/// What stands for a credential's value in what is kept.
pub(super) const SCRUBBED: &[u8] = b"[redacted:credential]";

/// Something to look for, and whose it is.
#[derive(Debug, Clone)]
pub(super) struct Needle {
    /// The credential's name.
    pub(super) name: Rc<str>,
    /// Never empty.
    pub(super) bytes: Rc<Secret<Vec<u8>>>,
}

impl Needle {
    pub(super) fn new(name: &Rc<str>, bytes: Vec<u8>) -> Self {
        Self {
            name: Rc::clone(name),
            bytes: Rc::new(Secret::new(bytes)),
        }
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.expose()
    }
}

/// The first needle that stands in these bytes as they are.
pub(super) fn find<'a>(needles: &'a [Needle], hay: &[u8]) -> Option<&'a Needle> {
    needles
        .iter()
        .find(|needle| memmem::find(hay, needle.bytes()).is_some())
}

/// Replaces every needle in these bytes, for what is kept of them; answers how many.
pub(super) fn scrub(needles: &[Needle], mut hay: Vec<u8>) -> (Vec<u8>, u32) {
    let mut count: u32 = 0;
    for needle in needles {
        let mut clean = Vec::new();
        let mut done = 0;
        for at in memmem::find_iter(&hay, needle.bytes()) {
            clean.extend_from_slice(hay.get(done..at).unwrap_or_default());
            clean.extend_from_slice(SCRUBBED);
            done = at + needle.bytes().len();
            count = count.saturating_add(1);
        }
        if done > 0 {
            clean.extend_from_slice(hay.get(done..).unwrap_or_default());
            hay = clean;
        }
    }
    (hay, count)
}

/// As [`find`], and under percent-encoding (RFC 3986 section 2.1).
pub(super) fn find_in_target<'a>(needles: &'a [Needle], target: &[u8]) -> Option<&'a Needle> {
    let mut text = target.to_vec();
    for _ in 0..ROUNDS {
        if let Some(found) = find(needles, &text) {
            return Some(found);
        }
        let decoded = percent_decoded(&text);
        if decoded == text {
            return None;
        }
        text = decoded;
    }
    find(needles, &text)
}

/// As [`find`], and in the user and password of `Basic` (RFC 7617).
pub(super) fn find_in_field<'a>(needles: &'a [Needle], value: &[u8]) -> Option<&'a Needle> {
    find(needles, value).or_else(|| find(needles, &basic(value)?))
}

/// `user:password` of a `Basic` field value.
pub(super) fn basic(value: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (scheme, token) = value.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let token = token.trim_ascii();
    let decoded = BASE64.decode(token).or_else(|_| BASE64_NOPAD.decode(token));
    decoded.ok().map(Zeroizing::new)
}

fn percent_decoded(mut text: &[u8]) -> Vec<u8> {
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|d| u8::try_from(d).ok())
    };
    let mut decoded = Vec::with_capacity(text.len());
    loop {
        match text {
            [] => return decoded,
            [b'%', high, low, rest @ ..]
                if let (Some(high), Some(low)) = (digit(*high), digit(*low)) =>
            {
                decoded.push(high * 16 + low);
                text = rest;
            }
            [byte, rest @ ..] => {
                decoded.push(*byte);
                text = rest;
            }
        }
    }
}

/// Looks for needles in chunks on their way out. The chunk that completes one is not to be sent.
#[derive(Debug)]
pub(super) struct Scan {
    needles: Rc<[Needle]>,
    /// The end of what has gone by, one byte shorter than the longest needle.
    tail: Vec<u8>,
    keep: usize,
}

impl Scan {
    pub(super) fn new(needles: Rc<[Needle]>) -> Self {
        let longest = needles.iter().map(|needle| needle.bytes().len()).max();
        Self {
            needles,
            tail: Vec::new(),
            keep: longest.unwrap_or_default().saturating_sub(1),
        }
    }

    /// The needle that this chunk completes.
    pub(super) fn completes(&mut self, chunk: &[u8]) -> Option<&Needle> {
        let border = chunk.len().min(self.keep);
        self.tail.extend(chunk.iter().take(border));
        let found = find(&self.needles, &self.tail).or_else(|| find(&self.needles, chunk));
        if border < chunk.len() {
            self.tail.clear();
            self.tail
                .extend(chunk.iter().skip(chunk.len().saturating_sub(self.keep)));
        } else {
            let surplus = self.tail.len().saturating_sub(self.keep);
            self.tail.drain(..surplus);
        }
        found
    }
}

/// Looks for needles in chunks on their way in, and holds back what may become one.
#[derive(Debug)]
pub(super) struct Sieve {
    needles: Rc<[Needle]>,
    /// The beginning of a needle that stood at the end of the last chunk.
    held: Bytes,
}

impl Sieve {
    pub(super) fn new(needles: Rc<[Needle]>) -> Self {
        let held = Bytes::new();
        Self { needles, held }
    }

    /// What may go on after this chunk: nothing of a needle.
    pub(super) fn pass(&mut self, chunk: Bytes) -> Result<Bytes, Needle> {
        let mut bytes = if self.held.is_empty() {
            chunk
        } else {
            [std::mem::take(&mut self.held), chunk].concat().into()
        };
        if let Some(found) = find(&self.needles, &bytes) {
            return Err(found.clone());
        }
        let held = self.begun(&bytes);
        self.held = bytes.split_off(bytes.len().saturating_sub(held));
        Ok(bytes)
    }

    /// What is still held when nothing can follow any more.
    pub(super) fn rest(&mut self) -> Bytes {
        std::mem::take(&mut self.held)
    }

    /// How many bytes are held.
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// The length of the longest end that is the beginning of a needle.
    fn begun(&self, bytes: &[u8]) -> usize {
        let begun_of = |needle: &Needle| {
            let longest = needle.bytes().len().saturating_sub(1).min(bytes.len());
            (1..=longest)
                .rev()
                .find(|length| {
                    let begun = needle.bytes().get(..*length);
                    begun.is_some_and(|begun| bytes.ends_with(begun))
                })
                .unwrap_or_default()
        };
        self.needles.iter().map(begun_of).max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn needles(texts: &[&str]) -> Rc<[Needle]> {
        texts
            .iter()
            .map(|text| Needle::new(&Rc::from(*text), text.as_bytes().to_vec()))
            .collect()
    }

    /// A text cut at these places.
    fn chunks<'a>(text: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
        let mut places: Vec<usize> = cuts.iter().map(|cut| cut % (text.len() + 1)).collect();
        places.extend([0, text.len()]);
        places.sort_unstable();
        places
            .windows(2)
            .map(|pair| &text[pair[0]..pair[1]])
            .collect()
    }

    #[test]
    fn a_needle_is_found_under_the_encodings_of_a_target() {
        let needles = needles(&["0123abcd"]);
        for (target, expected) in [
            ("/x?key=0123abcd&y", true),
            ("/%30123abcd", true),
            ("/%30%31%32%33%61%62%63%64", true),
            ("/%2530123abcd", true),
            ("/0123abc", false),
            ("/%3", false),
            ("/%zz0123%", false),
        ] {
            let found = find_in_target(&needles, target.as_bytes()).is_some();
            assert_eq!(found, expected, "{target}");
        }
    }

    #[test]
    fn a_needle_is_found_in_basic_credentials() {
        let needles = needles(&["0123abcd"]);
        for (value, expected) in [
            ("Bearer 0123abcd", true),
            // u:0123abcd
            ("Basic dTowMTIzYWJjZA==", true),
            ("bAsIc  dTowMTIzYWJjZA", true),
            ("Basic dTp4", false),
            ("Basic !", false),
            ("Basic", false),
        ] {
            let found = find_in_field(&needles, value.as_bytes()).is_some();
            assert_eq!(found, expected, "{value}");
        }
    }

    #[test]
    fn a_sieve_holds_only_what_may_become_a_value() {
        let mut sieve = Sieve::new(needles(&["sk-proj-secret"]));
        let mut pass = |text: &'static str| sieve.pass(Bytes::from_static(text.as_bytes()));
        assert_eq!(pass("data: x\n\n").unwrap(), "data: x\n\n");
        assert_eq!(pass("a sk-p").unwrap(), "a ");
        assert_eq!(pass("roject").unwrap(), "sk-project");
        assert_eq!(pass("was").unwrap(), "wa");
        assert_eq!(pass("te").unwrap(), "ste");
        assert_eq!(pass("a sk-proj-secr").unwrap(), "a ");
        assert_eq!(&*pass("et").unwrap_err().name, "sk-proj-secret");
    }

    proptest! {
        #[test]
        fn any_chunking_finds_a_needle_before_it_is_complete(
            before in "[a-d]{0,40}", after in "[a-d]{0,40}",
            cuts in proptest::collection::vec(0_usize..120, 0..12),
        ) {
            let text = format!("{before}dabacabad-1{after}");
            let mut scan = Scan::new(needles(&["none-of-these", "dabacabad-1"]));
            let mut sent: Vec<u8> = Vec::new();
            let mut found = None;
            for chunk in chunks(text.as_bytes(), &cuts) {
                found = scan.completes(chunk).map(|needle| needle.name.to_string());
                if found.is_some() {
                    break;
                }
                sent.extend(chunk);
            }
            prop_assert_eq!(found.as_deref(), Some("dabacabad-1"));
            prop_assert!(sent.len() < before.len() + "dabacabad-1".len());
        }

        #[test]
        fn nothing_else_is_found(
            text in "[a-d-]{0,90}", cuts in proptest::collection::vec(0_usize..120, 0..12),
        ) {
            let mut scan = Scan::new(needles(&["dabacabad-1", "x"]));
            for chunk in chunks(text.as_bytes(), &cuts) {
                prop_assert!(scan.completes(chunk).is_none());
            }
        }

        #[test]
        fn a_sieve_lets_everything_else_through_unchanged(
            text in "[a-d1-]{0,90}", cuts in proptest::collection::vec(0_usize..120, 0..12),
        ) {
            prop_assume!(!text.contains("dabacabad-1"));
            let mut sieve = Sieve::new(needles(&["dabacabad-1", "cabx"]));
            let mut passed: Vec<u8> = Vec::new();
            for chunk in chunks(text.as_bytes(), &cuts) {
                passed.extend(sieve.pass(Bytes::copy_from_slice(chunk)).unwrap());
            }
            passed.extend(sieve.rest());
            prop_assert_eq!(passed, text.into_bytes());
        }

        #[test]
        fn a_sieve_lets_nothing_of_a_value_through(
            before in "[a-d]{0,40}", after in "[a-d]{0,40}",
            cuts in proptest::collection::vec(0_usize..120, 0..12),
        ) {
            let text = format!("{before}dabacabad-1{after}");
            let mut sieve = Sieve::new(needles(&["dabacabad-1"]));
            let mut passed: Vec<u8> = Vec::new();
            let mut found = false;
            for chunk in chunks(text.as_bytes(), &cuts) {
                let Ok(bytes) = sieve.pass(Bytes::copy_from_slice(chunk)) else {
                    found = true;
                    break;
                };
                passed.extend(bytes);
            }
            prop_assert!(found);
            prop_assert!(passed.len() <= before.len(), "{:?}", passed);
        }
    }
}
