//! More of something than is looked up one by one: blocks, sessions that are gone, hosts.

use super::support::{Book, Folder};

/// Rows of a block of the index.
const BLOCK: u64 = 1 << 16;

#[test]
fn records_beyond_a_block_are_found_counted_and_summed_up() {
    let folder = Folder::new();
    // In the middle of the day, a record each second: two days, and three in the end.
    let mut book = Book::new("alice", "2026-03-01T12:00:00Z");
    let mut number = 0;
    let mut grow = |book: &mut Book, until: u64| {
        while number < until {
            let conn = number / 2;
            if number % 2 == 0 {
                let host = format!("h{}.test", conn % 100);
                let verdict = if conn % 1000 == 7 { "deny" } else { "allow" };
                book.decided(conn, &host, verdict, "");
            } else {
                book.closed(conn, 1, conn);
            }
            number += 1;
        }
        book.save(&folder);
    };
    let count = |filters: &[&str]| {
        let ran = folder.audit(&[&["query", "--count"], filters].concat());
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{filters:?}");
        ran.out.trim().parse::<u64>().unwrap()
    };
    // The second time rows are added to a block that is begun, and to the next one.
    for records in [BLOCK - 1000, BLOCK + 500] {
        grow(&mut book, records);
        let decided = records / 2;
        let denied = decided / 1000 + u64::from(decided % 1000 > 7);
        assert_eq!(count(&[]), records);
        assert_eq!(count(&["--denied"]), denied);
        assert_eq!(count(&["--host", "*"]), records - denied);
        assert_eq!(count(&["--until", "2026-03-01T12:00:05.0000005Z"]), 5);
        let end = book.at;
        assert_eq!(count(&["--since", &end.to_string()]), 1);
        let ran = folder.audit(&["query", "--json", "--limit", "3"]);
        let found: Vec<serde_json::Value> = ran
            .out
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let numbers: Vec<_> = found
            .iter()
            .map(|record| record["seq"].as_u64().unwrap())
            .collect();
        assert_eq!(numbers, [records, records - 1, records - 2]);
        let stats = |by: &str| {
            let ran = folder.audit(&["stats", "--by", by, "--json", "--limit", "1000"]);
            assert_eq!(ran.code, 0, "{}", ran.err);
            serde_json::from_str::<serde_json::Value>(&ran.out).unwrap()
        };
        for (by, groups) in [("host", 100), ("day", 2), ("user", 1)] {
            let stats = stats(by);
            let all = stats["groups"].as_array().unwrap();
            assert_eq!(all.len(), groups, "{by}");
            let sum =
                |what: &str| -> u64 { all.iter().map(|group| group[what].as_u64().unwrap()).sum() };
            let total = &stats["total"];
            assert_eq!(total["records"], records);
            assert_eq!(total["denied"], denied);
            assert_eq!(total["bytes_up"], decided);
            assert_eq!(total["bytes_down"], decided * (decided - 1) / 2);
            for what in ["allowed", "denied", "asked"] {
                assert_eq!(total[what], sum(what), "{by} {what}");
            }
            if by != "host" {
                // The close of a denied connection is not known to be about a host.
                for what in ["records", "bytes_up", "bytes_down"] {
                    assert_eq!(total[what], sum(what), "{by} {what}");
                }
            }
        }
    }
}

#[test]
fn many_sessions_that_are_gone_are_not_found() {
    let folder = Folder::new();
    let books: Vec<Book> = (0..14)
        .map(|number| {
            let start = format!("2026-03-{:02}T10:00:00Z", number + 1);
            let mut book = Book::new("alice", &start);
            book.started()
                .decided(1, "a.test", "allow", "")
                .decided(2, "b.test", "deny", "")
                .ended();
            book
        })
        .collect();
    let files: Vec<_> = books.iter().map(|book| book.save(&folder)).collect();
    let count = |filters: &[&str]| {
        let ran = folder.audit(&[&["query", "--count"], filters].concat());
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{filters:?}");
        ran.out.trim().to_owned()
    };
    assert_eq!(count(&[]), "56");
    assert_eq!(count(&["--denied"]), "14");
    for file in &files[1..12] {
        std::fs::remove_file(file).unwrap();
    }
    assert_eq!(count(&[]), "12");
    assert_eq!(count(&["--denied", "--host", "*.test"]), "3");
    let gone = folder.audit(&["stats", "--by", "session", "--json"]);
    let stats: serde_json::Value = serde_json::from_str(&gone.out).unwrap();
    assert_eq!(stats["sessions"], 3);
    books[5].save(&folder);
    assert_eq!(count(&["--denied"]), "4");
}

#[test]
fn a_star_means_many_hosts_or_few() {
    let folder = Folder::new();
    let mut book = Book::new("alice", "2026-03-01T10:00:00Z");
    for conn in 0..200 {
        book.decided(conn, &format!("h{conn}x.test"), "allow", "");
    }
    book.save(&folder);
    for (glob, found) in [
        ("h*x.test", "200"),
        ("h*.test", "200"),
        ("*9x*", "20"),
        ("h1*x.test", "111"),
        ("h77*t", "1"),
        ("h*y*", "0"),
    ] {
        let ran = folder.audit(&["query", "--count", "--host", glob]);
        assert_eq!((ran.out.trim(), ran.err.as_str()), (found, ""), "{glob}");
    }
}
