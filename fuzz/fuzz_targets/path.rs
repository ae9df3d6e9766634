//! An allow matches a path only if every common reading of that path lies where the pattern says: as it
//! stands, decoded once or twice, and normalised as the URL standard does.
#![no_main]

use libfuzzer_sys::fuzz_target;
use percent_encoding::percent_decode_str;
use portcullis::policy::PathPattern;
use portcullis::policy::path::PathMatch;

fuzz_target!(|path: &str| {
    let below = PathPattern::parse("/a/b/**").expect("a pattern");
    let one = PathPattern::parse("/a/*").expect("a pattern");
    let (below, one) = (below.matches(path), one.matches(path));
    assert_eq!(below == PathMatch::Unclear, one == PathMatch::Unclear);
    if let Ok(pattern) = PathPattern::parse(path) {
        assert_eq!(PathPattern::parse(pattern.as_str()), Ok(pattern));
    }
    for reading in readings(path) {
        if below == PathMatch::Yes {
            assert!(is_at_or_below(&reading, "/a/b"), "{path:?} is read as {reading:?}");
        }
        if one == PathMatch::Yes {
            let segments = reading.trim_end_matches('/').matches('/').count();
            assert!(reading.starts_with("/a/") && segments == 2, "{path:?} → {reading:?}");
        }
    }
});

fn is_at_or_below(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// How servers read a path: raw, decoded once and twice, and each of these normalised.
fn readings(path: &str) -> Vec<String> {
    let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let (once, twice) = (decode(path), decode(&decode(path)));
    let mut readings = vec![path.to_owned(), once, twice];
    if let Ok(url) = url::Url::parse("http://h").and_then(|base| base.join(path)) {
        readings.push(url.path().to_owned());
        readings.push(decode(url.path()));
    }
    readings
}
