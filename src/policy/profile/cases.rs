//! `[[tests]]`: what a profile's author expects of it; run by `policy check`.

use super::error::{ProfileError, not_one_of};
use super::file::{ProfileFile, TestFile, entry};
use crate::policy::{Question, Verdict};

/// One entry of `[[tests]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyTest {
    /// The request as it was written.
    pub text: String,
    /// What a client would ask of the gate.
    pub question: Question,
    /// What is to become of it.
    pub expect: Verdict,
}

impl PolicyTest {
    /// The tests of one profile's text, without those of what it extends.
    pub fn read_all(profile: &str, text: &str) -> Result<Vec<Self>, ProfileError> {
        ProfileFile::parse(profile, text)?
            .tests
            .into_iter()
            .enumerate()
            .map(|(i, value)| Self::read(profile, &format!("tests[{i}]"), value))
            .collect()
    }

    pub(super) fn read(profile: &str, key: &str, value: toml::Value) -> Result<Self, ProfileError> {
        let file: TestFile = entry(profile, key, value)?;
        let expect = match file.expect.as_str() {
            "allow" => Verdict::Allow,
            "ask" => Verdict::Ask,
            "deny" => Verdict::Deny,
            other => {
                let key = format!("{key}.expect");
                let accepted = ["allow", "ask", "deny"];
                return Err(not_one_of(profile, &key, other, &accepted));
            }
        };
        let question = Question::parse(&file.request)
            .map_err(|problem| ProfileError::key(profile, &format!("{key}.request"), problem))?;
        Ok(Self {
            text: file.request,
            question,
            expect,
        })
    }
}
