//! The one door to the terminal. A closed pipe (`portcullis audit tail | head`) ends output quietly
//! instead of killing the process.

use std::io::{self, Write};

/// Writes one line to standard output. `Err` means that nobody reads any more: stop.
pub fn line(text: impl std::fmt::Display) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{text}")
}

/// Writes bytes to standard output as they are, at once: for what has passed a filter, or is not to.
pub fn bytes(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}

/// Writes one line to standard error, prefixed with the program's name. Lost if nobody reads.
pub fn error(text: impl std::fmt::Display) {
    // Nothing is left to tell it to when standard error itself is gone.
    drop(writeln!(io::stderr().lock(), "portcullis: {text}"));
}

/// Makes text from a jail or a file safe for a terminal: control characters (C0, DEL, C1) and
/// bidirectional overrides become `\u{…}`.
pub fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        {
            safe.extend(c.escape_unicode());
        } else {
            safe.push(c);
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    #[test]
    fn terminal_escapes_and_bidi_overrides_are_shown_not_obeyed() {
        assert_eq!(
            super::escape("a\u{1b}[2J\u{202e}é"),
            "a\\u{1b}[2J\\u{202e}é"
        );
    }
}
