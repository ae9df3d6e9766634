//! Codex's own variables.

/// Codex takes its key from `CODEX_API_KEY`; with `OPENAI_API_KEY` alone it sends no Authorization header
/// at all (0.118 to 0.169), so the one stands in for the other.
pub fn credentials(codex: Option<&str>, openai: Option<&str>) -> Vec<(String, String)> {
    match (codex, openai) {
        (None, Some(key)) => vec![("CODEX_API_KEY".to_owned(), key.to_owned())],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_openai_key_stands_in_where_codex_has_none() {
        let key = |value: &str| vec![("CODEX_API_KEY".to_owned(), value.to_owned())];
        assert_eq!(credentials(None, Some("o")), key("o"));
        assert_eq!(credentials(Some("c"), Some("o")), vec![]);
        assert_eq!(credentials(None, None), vec![]);
    }
}
