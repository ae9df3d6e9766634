//! What Codex finds in its environment beside what every command does.

/// Variables to add to `given`, the command's environment so far.
///
/// `codex_home` is a folder in the jail that Codex can write: 0.169 does not start with a read-only
/// one. It must not be below `/tmp`, where Codex refuses to keep its tools.
pub fn environment(codex_home: &str, given: &[(String, String)]) -> Vec<(String, String)> {
    let value = |name: &str| {
        given
            .iter()
            .rev()
            .find(|(key, value)| key == name && !value.is_empty())
            .map(|(_, value)| value.clone())
    };
    let mut added = vec![("CODEX_HOME".to_owned(), codex_home.to_owned())];
    // With OPENAI_API_KEY alone Codex sends no Authorization header at all (0.118 and 0.169).
    if value("CODEX_API_KEY").is_none() {
        added.extend(value("OPENAI_API_KEY").map(|key| ("CODEX_API_KEY".to_owned(), key)));
    }
    added
}

#[cfg(test)]
mod tests {
    use super::environment;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn the_one_key_that_is_set_is_the_one_that_codex_uses() {
        assert_eq!(
            environment("/home/u/.codex", &pairs(&[("OPENAI_API_KEY", "k")])),
            pairs(&[("CODEX_HOME", "/home/u/.codex"), ("CODEX_API_KEY", "k")])
        );
    }

    #[test]
    fn a_key_for_codex_is_left_alone() {
        let given = pairs(&[("OPENAI_API_KEY", "other"), ("CODEX_API_KEY", "k")]);
        assert_eq!(environment("/h", &given), pairs(&[("CODEX_HOME", "/h")]));
    }
}
