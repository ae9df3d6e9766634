//! The index is never trusted: deleted, damaged, stale, of another folder or forged, the answers stay right.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use rusqlite::Connection;

use super::support::{Book, Folder, both, numbers, text_of};

const ALL: &str = "a1 a2 a3 a4 a5 a6 a7 a8 a9 a10 a11 b1 b2 b3 b4 b5";

#[test]
fn an_index_is_for_its_owner_alone_and_made_anew_when_it_is_gone() {
    let (folder, ..) = both();
    assert_eq!(folder.found(&[]), (ALL.into(), String::new()));
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o7777;
    let index = folder.index();
    assert_eq!(
        (mode(&index), mode(index.parent().unwrap())),
        (0o600, 0o700)
    );
    fs::remove_file(&index).unwrap();
    assert_eq!(folder.found(&[]), (ALL.into(), String::new()));
    let rebuilt = folder.audit(&["index", "rebuild"]);
    assert_eq!(rebuilt.out, format!("16 records in {}\n", index.display()));
    assert_eq!(folder.found(&["--rebuild"]), (ALL.into(), String::new()));
}

/// Every way in which an index can lie, and that the answers do not.
#[test]
fn a_damaged_or_forged_index_is_dropped_and_the_user_is_told() {
    type Forge = fn(&Folder);
    fn sql(folder: &Folder, statements: &str) {
        let db = Connection::open(folder.index()).unwrap();
        db.execute_batch(statements).unwrap();
    }
    let forged: &[(&str, Forge)] = &[
        ("garbage", |folder| {
            fs::write(folder.index(), "x".repeat(9000)).unwrap();
        }),
        ("empty", |folder| {
            fs::write(folder.index(), "").unwrap();
        }),
        ("cut", |folder| {
            let bytes = fs::read(folder.index()).unwrap();
            fs::write(folder.index(), &bytes[..bytes.len() / 2]).unwrap();
        }),
        ("another version", |folder| {
            sql(folder, "UPDATE about SET value = '0' WHERE key = 'version'");
        }),
        ("another table", |folder| {
            sql(folder, "CREATE TABLE more (x)");
        }),
        ("a trigger", |folder| {
            sql(
                folder,
                "CREATE TRIGGER t AFTER INSERT ON page BEGIN DELETE FROM post; END",
            );
        }),
        ("damaged pages", |folder| {
            sql(folder, "UPDATE page SET rows = x'ff'");
        }),
        ("no pages", |folder| {
            sql(folder, "DELETE FROM page");
        }),
        ("damaged sets", |folder| {
            sql(folder, "UPDATE post SET bits = x'09'");
        }),
        ("a set of all rows for one host", |folder| {
            sql(
                folder,
                "UPDATE post SET bits = x'020010' WHERE dim = 3 AND value = 'api.example.com'",
            );
        }),
        ("sessions exchanged", |folder| {
            sql(
                folder,
                "UPDATE segment SET session = CASE id WHEN 1 THEN (SELECT session FROM segment WHERE id = 2) \
                 ELSE (SELECT session FROM segment WHERE id = 1) END",
            );
        }),
        ("types exchanged", |folder| {
            sql(folder, "UPDATE block SET newest = 'x'");
        }),
    ];
    for (what, forge) in forged {
        let (folder, ..) = both();
        let filters = ["--host", "api.example.com"];
        let right = "a2 a3 a4 a6 b2 b3 b4";
        assert_eq!(
            folder.found(&filters),
            (right.into(), String::new()),
            "{what}"
        );
        forge(&folder);
        let (found, said) = folder.found(&filters);
        assert_eq!(found, right, "{what}");
        assert!(
            said.contains("it was dropped and is built anew"),
            "{what}: {said}"
        );
        assert_eq!(
            folder.found(&filters),
            (right.into(), String::new()),
            "{what}"
        );
    }
}

#[test]
fn an_index_of_another_folder_is_not_taken() {
    let (one, ..) = both();
    let other = Folder::new();
    let mut carol = Book::new("carol", "2026-03-01T10:00:00Z");
    carol
        .started()
        .decided(1, "api.example.com", "deny", "")
        .ended();
    carol.save(&other);
    one.found(&[]);
    other.found(&[]);
    fs::copy(one.index(), other.index()).unwrap();
    let (found, said) = other.found(&["--host", "api.example.com"]);
    assert_eq!(found, "c2");
    assert!(said.contains("it is of another folder"), "{said}");
}

#[test]
fn what_is_new_is_found_and_a_close_by_the_host_that_was_decided_before() {
    let folder = Folder::new();
    let mut book = Book::new("alice", "2026-03-01T10:00:00Z");
    book.started().decided(1, "a.test", "allow", "");
    let path = book.save(&folder);
    assert_eq!(
        folder.found(&["--host", "a.test"]),
        ("a2".into(), String::new())
    );
    book.closed(1, 5, 6);
    // Half of the next record is there already.
    fs::write(&path, format!("{}{{\"v\":1,\"seq\":4", book.text)).unwrap();
    let (found, _) = folder.found(&["--host", "a.test"]);
    assert_eq!(found, "a2 a3");
    // A writer goes on, and cuts it off first.
    book.decided(2, "b.test", "deny", "").ended();
    book.save(&folder);
    assert_eq!(
        folder.found(&["--host", "*.test"]),
        ("a2 a3 a4".into(), String::new())
    );
    assert_eq!(folder.found(&[]), ("a1 a2 a3 a4 a5".into(), String::new()));
}

#[test]
fn logs_that_were_removed_are_not_found_and_new_ones_are() {
    let (folder, alice, _) = both();
    folder.found(&[]);
    let path = alice.save(&folder);
    // Written again in another file: another inode, the same bytes.
    assert_eq!(folder.found(&[]).0, ALL);
    let aside = folder.logs().join("aside");
    fs::rename(&path, &aside).unwrap();
    assert_eq!(folder.found(&[]).0, "b1 b2 b3 b4 b5");
    assert_eq!(folder.audit(&["query", "--count"]).out, "5\n");
    assert_eq!(
        folder.audit(&["stats"]).out.lines().next().unwrap(),
        "records 5, sessions 1: 1 allowed, 0 denied, 0 asked; 1.0 kB up, 2.0 kB down"
    );
    fs::rename(&aside, &path).unwrap();
    assert_eq!(folder.found(&[]).0, ALL);
}

#[test]
fn segments_are_one_log_plain_and_packed() {
    let folder = Folder::new();
    let book = super::support::alice();
    let lines: Vec<&str> = book.text.split_inclusive('\n').collect();
    let segment = |number: u32, text: &str, packed: bool| {
        let name = match number {
            1 => book.session.to_string(),
            _ => format!("{}.{number:04}", book.session),
        };
        let plain = folder.logs().join(format!("{name}.jsonl"));
        if packed {
            let path = folder.logs().join(format!("{name}.jsonl.zst"));
            fs::write(path, zstd::encode_all(text.as_bytes(), 0).unwrap()).unwrap();
            fs::remove_file(plain).ok();
        } else {
            fs::write(plain, text).unwrap();
        }
    };
    segment(1, &lines[..3].concat(), false);
    segment(2, &lines[3..6].concat(), true);
    segment(3, &lines[6..9].concat(), false);
    let host = ["--host", "api.example.com"];
    assert_eq!(folder.found(&host), ("a2 a3 a4 a6".into(), String::new()));
    assert_eq!(folder.found(&[]).0, "a1 a2 a3 a4 a5 a6 a7 a8 a9");
    // The first is packed and the last one grows.
    segment(1, &lines[..3].concat(), true);
    segment(3, &lines[6..].concat(), false);
    assert_eq!(folder.found(&host), ("a2 a3 a4 a6".into(), String::new()));
    assert_eq!(
        folder.found(&[]),
        ("a1 a2 a3 a4 a5 a6 a7 a8 a9 a10 a11".into(), String::new())
    );
    assert_eq!(
        folder.found(&["--rebuild"]).0,
        "a1 a2 a3 a4 a5 a6 a7 a8 a9 a10 a11"
    );
    // The first segment may be dropped by retention: the rest is still found, and the host that was
    // decided there is not.
    fs::remove_file(folder.logs().join(format!("{}.jsonl.zst", book.session))).unwrap();
    assert_eq!(folder.found(&["--rebuild"]).0, "a4 a5 a6 a7 a8 a9 a10 a11");
    assert_eq!(folder.found(&["--event", "egress.closed"]).0, "a6");
}

#[test]
fn of_a_broken_log_the_records_before_the_break_are_answered_with_a_warning() {
    let (folder, alice, _) = both();
    folder.found(&[]);
    let path = alice.save(&folder);
    let text = text_of(&path);
    fs::write(
        &path,
        text.replace("/repos/acme/secret", "/repos/acme/public"),
    )
    .unwrap();
    for _ in 0..2 {
        let (found, said) = folder.found(&["--user", "alice"]);
        assert_eq!(found, "a1 a2 a3 a4");
        assert!(
            said.contains("does not hold: record 5 at byte")
                && said.contains("its hash does not match its content"),
            "{said}"
        );
    }
    assert_eq!(folder.found(&["--user", "bob"]).0, "b1 b2 b3 b4 b5");
    // Put right again.
    alice.save(&folder);
    let (found, _) = folder.found(&["--user", "alice"]);
    assert_eq!(found, "a1 a2 a3 a4 a5 a6 a7 a8 a9 a10 a11");
}

#[test]
fn a_tail_that_was_cut_off_is_not_answered_from_the_index() {
    let (folder, alice, _) = both();
    folder.found(&[]);
    let lines: Vec<&str> = alice.text.split_inclusive('\n').collect();
    let path = folder.logs().join(format!("{}.jsonl", alice.session));
    fs::write(&path, lines[..5].concat()).unwrap();
    let (found, said) = folder.found(&["--user", "alice"]);
    assert_eq!(found, "a1 a2 a3 a4 a5");
    assert!(said.contains("was changed behind it"), "{said}");
}

#[test]
fn many_may_ask_at_once() {
    let (folder, ..) = both();
    let ask = || {
        let mut command = folder.command(&["query", "--json", "--oldest-first"]);
        command.stdout(std::process::Stdio::piped());
        command.stderr(std::process::Stdio::piped());
        command.spawn().unwrap()
    };
    let mut expected = ALL.to_owned();
    for _ in 0..2 {
        let running: Vec<_> = (0..8).map(|_| ask()).collect();
        for child in running {
            let output = child.wait_with_output().unwrap();
            let (out, err) = (
                String::from_utf8(output.stdout).unwrap(),
                String::from_utf8(output.stderr).unwrap(),
            );
            assert_eq!(
                (numbers(&out).as_str(), err.as_str()),
                (expected.as_str(), "")
            );
        }
        // The second time all of them find something new.
        Book::new("carol", "2026-03-03T10:00:00Z")
            .started()
            .save(&folder);
        expected += " c1";
    }
}

#[test]
fn a_cache_that_is_not_ones_own_is_refused() {
    let (folder, ..) = both();
    folder.found(&[]);
    let index = folder.index();
    fs::remove_file(&index).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &index).unwrap();
    let ran = folder.audit(&["query"]);
    assert_eq!((ran.code, ran.out.as_str()), (69, ""), "{}", ran.err);
    assert!(
        ran.err
            .contains("set XDG_CACHE_HOME to a folder that you can write"),
        "{}",
        ran.err
    );
}
