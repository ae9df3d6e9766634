//! The mechanisms, and that each has a test.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Letter by letter: host names, addresses, DNS, TLS, HTTP framing, SOCKS5, the environment.
const LINES: &[&str] = &[
    // How a host is spelled.
    "A01", "A02", "A04", "A05", "A06", "A08", "A09", "A10", "A12", "A13", "A14", "A16", "A17",
    "A18", "A20", "A21", "A22", "A24", "A25", // Where an address leads.
    "B01", "B02", "B04", "B05", "B06", "B08", "B09", "B10", "B12", "B13", "B14", "B16", "B17",
    // Who is asked for a name.
    "C01", "C02", "C04", "C05", "C06", "C08", "C09", "C10", "C12", "C13", "C14",
    // One name outside of TLS, another inside.
    "D01", "D02", "D04", "D05", "D06", "D08", "D09", "D10", "D12", "D13", "D14", "D16", "D17",
    "D18", // Where a request ends, and what it may be.
    "E01", "E02", "E04", "E05", "E06", "E08", "E09", "E10", "E12", "E13", "E14", "E16", "E17",
    "E18", "E20", "E21", "E22", "E24", "E25", "E26", // SOCKS5.
    "F01", "F02", "F04", "F05", "F06", // Programs that go around the gate.
    "G01", "G02", "G04", "G05", "G06", "G08",
];

#[test]
fn every_line_of_the_list_has_a_test() {
    let mut marked = BTreeSet::new();
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    read_markers(&tests, &mut marked);
    let missing: Vec<_> = LINES.iter().filter(|id| !marked.contains(**id)).collect();
    assert!(missing.is_empty(), "no test is marked with {missing:?}");
}

/// The identifiers of comments that consist of nothing else, or begin with them before a colon, and stand
/// above an attribute of a test.
fn read_markers(folder: &Path, marked: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_markers(&path, marked);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let mut above: Vec<String> = Vec::new();
            for line in text.lines().map(str::trim) {
                if let Some(comment) = line.strip_prefix("// ") {
                    let ids = comment.split(':').next().unwrap_or_default();
                    above.extend(ids.split(", ").map(str::to_owned));
                } else if line.starts_with("#[test]") || line.starts_with("#[tokio::test]") {
                    marked.extend(above.drain(..));
                } else {
                    above.clear();
                }
            }
        }
    }
}
