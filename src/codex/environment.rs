//! Codex's own variables.

/// The variable that Codex takes its key from.
pub const KEY_VARIABLE: &str = "CODEX_API_KEY";

/// Every variable that holds a key of Codex's, as it looks for them.
pub const KEY_VARIABLES: [&str; 2] = [KEY_VARIABLE, "OPENAI_API_KEY"];

/// Codex takes its key from `CODEX_API_KEY`; with `OPENAI_API_KEY` alone it sends no Authorization header
/// at all (0.118 to 0.169), so the one stands in for the other. Not where a ChatGPT account is signed in:
/// Codex goes by that and passes over `OPENAI_API_KEY`, which the caller may have for something else.
pub fn credentials(
    codex: Option<&str>,
    openai: Option<&str>,
    account: bool,
) -> Vec<(String, String)> {
    match (codex, openai) {
        (None, Some(key)) if !account => vec![(KEY_VARIABLE.to_owned(), key.to_owned())],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_openai_key_stands_in_where_codex_has_none() {
        let key = |value: &str| vec![("CODEX_API_KEY".to_owned(), value.to_owned())];
        assert_eq!(credentials(None, Some("o"), false), key("o"));
        assert_eq!(credentials(Some("c"), Some("o"), false), vec![]);
        assert_eq!(credentials(None, None, false), vec![]);
        assert_eq!(credentials(None, Some("o"), true), vec![]);
    }
}
