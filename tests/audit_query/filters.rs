//! Each filter alone and with others, in `query` and in `tail`.

use super::support::{both, numbers};

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn every_filter_takes_what_it_means_and_leaves_its_twin() {
    let (folder, alice, _) = both();
    let session = alice.session.to_string();
    let cases: &[(&[&str], &str)] = &[
        (&[], "a1 a2 a3 a4 a5 a6 a7 a8 a9 a10 a11 b1 b2 b3 b4 b5"),
        (&["--host", "api.example.com"], "a2 a3 a4 a6 b2 b3 b4"),
        (&["--host", "API.example.com."], "a2 a3 a4 a6 b2 b3 b4"),
        (&["--host", "example.com"], "a5"),
        (&["--host", "*.example.com"], "a2 a3 a4 a6 b2 b3 b4"),
        (&["--host", "**.example.com"], "a2 a3 a4 a5 a6 b2 b3 b4"),
        (&["--host", "*.com"], "a2 a3 a4 a5 a6 b2 b3 b4"),
        (&["--host", "e*t"], "a7 a8 a9"),
        (&["--host", "ample.com"], ""),
        (&["--denied"], "a5 a10"),
        (&["--allowed"], "a2 b2"),
        (&["--asked"], "a7"),
        (&["--asked", "--denied"], "a5 a7 a10"),
        (
            &["--session", &session],
            "a1 a2 a3 a4 a5 a6 a7 a8 a9 a10 a11",
        ),
        (&["--user", "bob"], "b1 b2 b3 b4 b5"),
        (&["--user", "bo"], ""),
        (&["--since", "2026-03-02T10:00:03Z"], "b3 b4 b5"),
        (&["--until", "2026-03-01T10:00:03Z"], "a1 a2"),
        (
            &[
                "--since",
                "2026-03-01T10:00:11Z",
                "--until",
                "2026-03-02T10:00:02Z",
            ],
            "a11 b1",
        ),
        (&["--process", "pip"], "a2 a3 a4 a6"),
        (&["--process", "/usr/bin/pip"], "a2 a3 a4 a6"),
        (&["--process", "/bin/pip"], ""),
        (&["--process", "python"], "b2 b3 b4"),
        (&["--event", "egress.closed"], "a6 b4"),
        (&["--event", "egress.*"], "a2 a5 a6 a7 a10 b2 b4"),
        (&["--event", "egress"], ""),
        (&["--method", "post"], "a5"),
        (&["--method", "GET"], "a4 b2 b3 b4"),
        (&["--path", "/repos/acme"], "a4 a5"),
        (&["--path", "acme repos"], "a4 a5 b2 b3 b4"),
        (&["--path", "/acme/repos"], "b2 b3 b4"),
        (&["--path", "secret"], "a5"),
        (&["--path", "secr"], ""),
        (&["--path", "secr*"], "a5"),
        (&["--path", "/repos/acme/iss*"], "a4"),
        (&["--path", "/repos/acme/secret/x"], ""),
        (&["--status", "404"], "a4"),
        (&["--status", "4xx"], "a4"),
        (&["--status", "2XX"], "b3"),
        (&["--status", "500"], ""),
        (&["--rule", "r1"], "a2 a3 a4 a6 b2 b3 b4"),
        (&["--rule", "r2"], "a7"),
        (&["--rule", "r"], ""),
        (&["--thread", "t-1"], "a2 a3 a4 a6"),
        (&["--thread", "t-2"], ""),
        (&["--text", "flask"], "a2"),
        (&["--text", "FLA*"], "a2"),
        (&["--text", "odd bytes"], "a10"),
        (&["--text", "malformed"], "a10"),
        (&["--text", "carol"], "a9"),
        (&["--text", "secret"], "a5"),
        (&["--text", "evil"], "a7 a8 a9"),
        // Together.
        (
            &["--host", "*.example.com", "--allowed", "--user", "bob"],
            "b2",
        ),
        (&["--host", "*.example.com", "--denied"], ""),
        (
            &[
                "--process",
                "pip",
                "--path",
                "acme",
                "--status",
                "4xx",
                "--since",
                "2026-03-01",
            ],
            "a4",
        ),
        (
            &["--event", "egress.decided", "--since", "2026-03-02"],
            "b2",
        ),
    ];
    for (filters, expected) in cases {
        let (found, said) = folder.found(filters);
        assert_eq!(found, *expected, "{filters:?}");
        assert_eq!(said.is_empty(), !expected.is_empty(), "{filters:?}: {said}");
        let count = folder.audit(&[&["query", "--count"], *filters].concat());
        let expected_count = expected.split_whitespace().count();
        assert_eq!(count.out, format!("{expected_count}\n"), "{filters:?}");
        let tail = folder.audit(&[&["tail", "--json", "-n", "99"], *filters].concat());
        assert_eq!(
            numbers(&tail.out),
            *expected,
            "tail {filters:?} {}",
            tail.err
        );
    }
}

#[test]
fn the_latest_come_first_and_no_more_than_asked_for() {
    let (folder, ..) = both();
    let found = |arguments: &[&str]| {
        let ran = folder.audit(&[&["query", "--json"], arguments].concat());
        numbers(&ran.out)
    };
    assert_eq!(found(&["--limit", "3"]), "b5 b4 b3");
    assert_eq!(found(&["--limit", "3", "--oldest-first"]), "a1 a2 a3");
    assert_eq!(found(&["--limit", "2", "--path", "acme"]), "b4 b3");
    assert_eq!(found(&["--limit", "0"]), "");
}

#[test]
fn a_table_tells_who_where_and_why() {
    let (folder, alice, bob) = both();
    let ran = folder.audit(&["query", "--path", "acme", "--event", "egress.decided"]);
    let short = |book: &super::support::Book| book.session.to_string()[..12].to_owned();
    let expected = format!(
        "\
TIME                      SESSION       USER   PROGRAM  EVENT           VERDICT  METHOD  WHERE                               WHY
2026-03-02T10:00:02.000Z  {}  bob    python   egress.decided  allow    GET     api.example.com:443/acme/repos      r1
2026-03-01T10:00:05.000Z  {}  alice  curl     egress.decided  DENY     POST    example.com:443/repos/acme/secret   host_not_allowed
",
        short(&bob),
        short(&alice)
    );
    let squeezed = |text: &str| {
        text.lines()
            .map(|l| l.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect::<Vec<_>>()
    };
    assert_eq!(squeezed(&ran.out), squeezed(&expected));
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
}

#[test]
fn what_was_searched_is_told_when_nothing_is_found() {
    let (folder, ..) = both();
    let ran = folder.audit(&["query", "--host", "no\u{1b}.test", "--denied"]);
    let logs = folder.logs();
    let expected = format!(
        "portcullis: no record; looked for --denied --host no\\u{{1b}}.test in 2 sessions of {}\n",
        logs.display()
    );
    assert_eq!((ran.code, ran.out, ran.err), (0, String::new(), expected));
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let (folder, ..) = both();
    let cases: &[(&[&str], &str)] = &[
        (
            &["--since", "soon"],
            "--since: \"soon\" is no time; write 2h, 3d, yesterday, 2026-11-23 or 2026-11-23T10:00:00Z",
        ),
        (
            &["--since", "2026-03-02", "--until", "2026-03-01"],
            "is not after --since",
        ),
        (
            &["--status", "4x"],
            "--status: \"4x\" is no status; write 404 or 4xx",
        ),
        (&["--path", "///"], "--path: there is no word in it"),
        (&["--session", "zz"], "not a session id"),
    ];
    for (filters, expected) in cases {
        let ran = folder.audit(&[&["query"], *filters].concat());
        assert_eq!((ran.code, ran.out.as_str()), (64, ""), "{filters:?}");
        assert!(ran.err.contains(expected), "{filters:?}: {}", ran.err);
    }
}

#[test]
fn sums_are_those_of_the_records() {
    let (folder, alice, bob) = both();
    let stats = |arguments: &[&str]| {
        let ran = folder.audit(&[&["stats", "--json"], arguments].concat());
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{arguments:?}");
        let stats: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
        let numbers = |group: &serde_json::Value| {
            [
                "records",
                "allowed",
                "denied",
                "asked",
                "bytes_up",
                "bytes_down",
            ]
            .map(|name| group[name].as_u64().unwrap())
        };
        let groups = stats["groups"].as_array().unwrap().iter();
        let groups: Vec<_> = groups
            .map(|group| (group["name"].as_str().unwrap().to_owned(), numbers(group)))
            .collect();
        (
            stats["sessions"].as_u64().unwrap(),
            numbers(&stats["total"]),
            groups,
        )
    };
    let group = |name: &str, numbers| (name.to_owned(), numbers);
    assert_eq!(
        stats(&["--by", "host"]),
        (
            2,
            [16, 2, 2, 1, 1010, 2020],
            vec![
                group("api.example.com", [7, 2, 0, 0, 1010, 2020]),
                group("evil.test", [3, 0, 0, 1, 0, 0]),
                group("example.com", [1, 0, 1, 0, 0, 0]),
            ]
        )
    );
    assert_eq!(
        stats(&["--by", "day"]).2,
        [
            group("2026-03-02", [5, 1, 0, 0, 1000, 2000]),
            group("2026-03-01", [11, 1, 2, 1, 10, 20]),
        ]
    );
    assert_eq!(
        stats(&["--by", "program", "--since", "2026-03-02"]),
        (
            1,
            [5, 1, 0, 0, 1000, 2000],
            vec![group("python", [3, 1, 0, 0, 1000, 2000])]
        )
    );
    assert_eq!(
        stats(&["--by", "user", "--denied"]).2,
        [group("alice", [2, 0, 2, 0, 0, 0])]
    );
    assert_eq!(
        stats(&["--by", "rule"]).2[0],
        group("r1", [7, 2, 0, 0, 1010, 2020])
    );
    let of_sessions = stats(&["--by", "session"]).2;
    assert_eq!(
        of_sessions
            .iter()
            .map(|(name, _)| name.clone())
            .collect::<Vec<_>>(),
        [alice.session.to_string(), bob.session.to_string()]
    );
    let ran = folder.audit(&["stats", "--limit", "1"]);
    assert!(
        ran.out.starts_with(
            "records 16, sessions 2: 2 allowed, 2 denied, 1 asked; 1.0 kB up, 2.0 kB down\n\nHOST"
        ),
        "{}",
        ran.out
    );
    assert!(ran.out.ends_with("\nand 2 more\n"), "{}", ran.out);
}
