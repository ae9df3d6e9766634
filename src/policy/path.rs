//! Path patterns: which paths of a host a rule speaks of, where the gate sees them.
//!
//! Servers normalise paths before they route: `/a/../b`, `/%61`, `//a` and `/a;x` may all be served as
//! something else. A pattern therefore never says that such a path matches or does not: it says
//! [`PathMatch::Unclear`], and the caller takes the safe side.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::host::shown;

/// A path pattern: starts with `/`; `*` stands for one whole segment; `**`, only at the end, for any
/// rest, also none. `/repos/acme/**` speaks of `/repos/acme` and everything below it. A slash at the
/// end makes no difference.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PathPattern(String);

/// Why a text is no path pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathPatternError {
    /// It does not start with a slash.
    #[error("path pattern {path} does not start with '/'; write it as \"/repos/acme/**\"")]
    Relative {
        /// The text.
        path: String,
    },
    /// A star that is neither a whole segment nor `**` at the end.
    #[error(
        "path pattern {path} has a star inside a segment, or '**' before the end: '*' stands for one \
         whole segment, '**' for any rest"
    )]
    Star {
        /// The text.
        path: String,
    },
    /// It names a path that servers may read as another one, so it would never match.
    #[error(
        "path pattern {path} is not in normal form: no query, no '.', '..' or empty segments, no ';' \
         or '\\', percent-encoding only where needed and in capitals"
    )]
    NotNormal {
        /// The text.
        path: String,
    },
}

/// Whether a pattern speaks of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathMatch {
    /// It does.
    Yes,
    /// It does not.
    No,
    /// The path has several readings: an allow must not match it, a deny must.
    Unclear,
}

impl PathPattern {
    /// Reads a pattern.
    pub fn parse(text: &str) -> Result<Self, PathPatternError> {
        let path = || shown(text);
        let Some(rest) = text.strip_prefix('/') else {
            return Err(PathPatternError::Relative { path: path() });
        };
        let mut segments = rest.split('/').peekable();
        while let Some(segment) = segments.next() {
            let last = segments.peek().is_none();
            let star = segment.contains('*');
            if star && segment != "*" && !(segment == "**" && last) {
                return Err(PathPatternError::Star { path: path() });
            }
        }
        if is_normal(&text.replace('*', "s")) {
            Ok(Self(text.to_owned()))
        } else {
            Err(PathPatternError::NotNormal { path: path() })
        }
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the pattern speaks of this path (without query).
    pub fn matches(&self, path: &str) -> PathMatch {
        if !is_normal(path) {
            return PathMatch::Unclear;
        }
        let mut wanted = segments(&self.0);
        let mut found = segments(path);
        loop {
            match (wanted.next(), found.next()) {
                (Some("**"), _) | (None, None) => return PathMatch::Yes,
                (Some("*"), Some(_)) => {}
                (Some(want), Some(have)) if want == have => {}
                _ => return PathMatch::No,
            }
        }
    }
}

/// The segments of an absolute path, without the empty one that a final slash makes.
fn segments(path: &str) -> impl Iterator<Item = &str> {
    let path = path.strip_prefix('/').unwrap_or(path);
    path.strip_suffix('/')
        .unwrap_or(path)
        .split('/')
        .filter(|segment| !segment.is_empty())
}

/// Whether every server reads this path alike: absolute, no empty segment but at the end, no dot
/// segments (RFC 3986 section 3.3), no parameters, and percent-encoding in normal form (6.2.2).
fn is_normal(path: &str) -> bool {
    let Some(rest) = path.strip_prefix('/') else {
        return false;
    };
    let inner = rest.strip_suffix('/').unwrap_or(rest);
    let segments_are_plain =
        inner.is_empty() || inner.split('/').all(|s| !matches!(s, "" | "." | ".."));
    rest != "/" && segments_are_plain && characters_are_normal(rest.as_bytes())
}

/// No byte that URLs do not have or that servers treat apart, and no needless or odd percent-encoding.
fn characters_are_normal(mut bytes: &[u8]) -> bool {
    loop {
        match bytes {
            [] => return true,
            [b'%', high, low, rest @ ..] => {
                if !encodes_what_must_be(*high, *low) {
                    return false;
                }
                bytes = rest;
            }
            [b'%' | b'\\' | b';' | b'?' | b'#', ..] => return false,
            [byte, rest @ ..] => {
                if !byte.is_ascii_graphic() {
                    return false;
                }
                bytes = rest;
            }
        }
    }
}

/// Whether `%` and these two digits are the one normal encoding of a byte that needs it and that no
/// server takes for syntax.
fn encodes_what_must_be(high: u8, low: u8) -> bool {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    };
    let (Some(high), Some(low)) = (digit(high), digit(low)) else {
        return false;
    };
    let byte = high * 16 + low;
    let unreserved = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    !unreserved && !byte.is_ascii_control() && !matches!(byte, b'/' | b'\\' | b';' | b'%')
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<String> for PathPattern {
    type Error = PathPatternError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<PathPattern> for String {
    fn from(pattern: PathPattern) -> Self {
        pattern.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_one_segment_and_two_are_any_rest() {
        for (pattern, path, expected) in [
            ("/", "/", PathMatch::Yes),
            ("/", "/a", PathMatch::No),
            ("/**", "/", PathMatch::Yes),
            ("/a", "/a/", PathMatch::Yes),
            ("/a/", "/a", PathMatch::Yes),
            ("/a", "/ab", PathMatch::No),
            ("/a/**", "/a", PathMatch::Yes),
            ("/a/**", "/a/b/c", PathMatch::Yes),
            ("/a/**", "/ab", PathMatch::No),
            ("/a/*/c", "/a/b/c", PathMatch::Yes),
            ("/a/*/c", "/a/b/b/c", PathMatch::No),
            ("/a/*", "/a", PathMatch::No),
            ("/caf%C3%A9", "/caf%C3%A9", PathMatch::Yes),
        ] {
            let pattern = PathPattern::parse(pattern).unwrap();
            assert_eq!(pattern.matches(path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn a_path_with_several_readings_neither_matches_nor_does_not() {
        let any = PathPattern::parse("/**").unwrap();
        for path in [
            "",
            "a",
            "*",
            "//",
            "//a",
            "/a//b",
            "/a/../b",
            "/a/..",
            "/./a",
            "/%2e%2e/a",
            "/%61",
            "/a%2Fb",
            "/a%2fb",
            "/a%5Cb",
            "/a\\b",
            "/a%00",
            "/a%",
            "/a%4",
            "/%C3%a9",
            "/%252e",
            "/a;x=/b",
            "/a?b",
            "/a#b",
            "/a b",
            "/é",
        ] {
            assert_eq!(any.matches(path), PathMatch::Unclear, "{path:?}");
        }
    }

    #[test]
    fn a_pattern_that_could_never_match_is_refused() {
        for odd in [
            "", "a", "/a*", "/**/a", "/a/***", "/a/../b", "/a?b", "/a//b", "/%61",
        ] {
            assert!(PathPattern::parse(odd).is_err(), "{odd:?}");
        }
    }
}
