//! Random logs and random filters: the index answers what reading every record answers.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use portcullis::audit::facts::{Facts, Links, Place};
use portcullis::audit::filter::{Filter, HostGlob};
use portcullis::audit::folder::LogFolder;
use portcullis::audit::index::{Index, Order};
use portcullis::ids::SessionId;

use super::support::{Book, Folder};

/// A small generator, so that a failure is the same each time (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % limit
    }

    fn of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.below(all.len())]
    }
}

const HOSTS: [&str; 7] = [
    "a.test",
    "b.a.test",
    "c.b.a.test",
    "z.y.x.w.v.u.test",
    "w.v.u.test",
    "192.0.2.7",
    "evil.example",
];
const WORDS: [&str; 8] = ["repos", "acme", "issues", "7", "blob", "x-y", "Secret", "é"];

fn log(random: &mut Random, user: &str, start: &str) -> Book {
    let mut book = Book::new(user, start);
    book.started();
    for conn in 0..40_u64 {
        let host = random.of(&HOSTS);
        let verdict = random.of(&["allow", "deny", "ask"]);
        let mut path = String::new();
        for _ in 0..random.below(5) {
            path.extend(["/", random.of(&WORDS)]);
        }
        let exe = random.of(&["/usr/bin/pip", "/usr/bin/curl", "/opt/pip"]);
        let method = random.of(&["GET", "POST"]);
        let rule = random.of(&["r1", "r2"]);
        let rest = format!(
            r#""method":"{method}","path":"{path}","rule":"{rule}","process":{{"pid":7,"host_pid":107,"parents":[],"exe":"{exe}"}},"#
        );
        book.decided(conn % 9, host, verdict, &rest);
        match random.below(4) {
            0 => book.closed(conn % 9, conn, 2 * conn),
            1 => book.put(
                "http.exchanged",
                &format!(
                    r#""conn":{},"status":{}"#,
                    conn % 9,
                    200 + 101 * random.below(4)
                ),
            ),
            2 => book.put(
                "egress.refused",
                r#""conn":99,"transport":"socks5","reason":"malformed","detail":"repos odd""#,
            ),
            _ => book.put("new.event", r#""odd":{"host":[1]},"port":"x""#),
        };
    }
    book
}

#[expect(clippy::semicolon_if_nothing_returned, reason = "a table of filters")]
fn filter(random: &mut Random, sessions: &[SessionId]) -> Filter {
    let mut filter = Filter::default();
    for _ in 0..=random.below(3) {
        match random.below(12) {
            0 => {
                filter.host = Some(HostGlob::parse(random.of(&[
                    "a.test",
                    "*.a.test",
                    "**.a.test",
                    "*.u.test",
                    "*.v.u.test",
                    "*.w.v.u.test",
                    "*.x.w.v.u.test",
                    "**.y.x.w.v.u.test",
                    "*",
                    "*a*",
                    "*.2.7",
                    "x.test",
                ])))
            }
            1 => {
                filter.verdicts.insert(random.of(&["allow", "deny", "ask"]));
            }
            2 => filter.user = Some(random.of(&["alice", "bob", "eve"]).into()),
            3 => filter.process = Some(random.of(&["pip", "/opt/pip", "curl", "wget"]).into()),
            4 => {
                filter.event = Some(
                    random
                        .of(&["egress.decided", "egress.*", "*", "new.event", "none"])
                        .into(),
                )
            }
            5 => filter.method = Some(random.of(&["GET", "PUT"]).into()),
            6 => filter.set_path(random.of(&[
                "repos",
                "/repos/acme",
                "repos acme",
                "/acme/issues/7",
                "x-y",
                "iss*",
                "/repos/a*",
                "secret",
                "é",
                "/x-y/*",
            ])),
            7 => filter.set_text(random.of(&["repos", "evil", "odd repos", "mal*", "pip", "192"])),
            8 => filter.status = Some(random.of(&["200", "301", "4xx", "5xx"]).into()),
            9 => filter.sessions = Some([sessions[random.below(sessions.len())]].into()),
            10 => {
                filter.since = Some(
                    format!("2026-03-01T10:00:{:02}.5Z", random.below(60))
                        .parse()
                        .unwrap(),
                )
            }
            _ => {
                filter.until = Some(
                    format!("2026-03-01T10:01:{:02}Z", random.below(60))
                        .parse()
                        .unwrap(),
                )
            }
        }
    }
    filter
}

#[test]
fn the_index_answers_what_reading_every_record_answers() {
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let folder = Folder::new();
    let starts = [
        "2026-03-01T10:00:00Z",
        "2026-03-01T10:00:30.25Z",
        "2026-03-01T10:01:00Z",
    ];
    let mut books: Vec<Book> = ["alice", "bob", "alice"]
        .iter()
        .zip(starts)
        .map(|(user, start)| log(&mut random, user, start))
        .collect();
    let logs = {
        for book in &books {
            book.save(&folder);
        }
        LogFolder::open(&folder.logs()).unwrap()
    };
    let sessions: Vec<SessionId> = books.iter().map(|book| book.session).collect();
    fs::create_dir_all(folder.cache()).unwrap();
    fs::set_permissions(folder.cache(), PermissionsExt::from_mode(0o700)).unwrap();
    let file = folder.cache().join("index");
    let index = Index::new(&file, "here", &logs);
    let mut found_something = 0;
    for round in 0..300 {
        if round % 100 == 99 {
            // The logs grow: what was decided before is closed now.
            for book in &mut books {
                book.closed(8, 1, 2).decided(3, "late.a.test", "deny", "");
                book.save(&folder);
            }
        }
        let filter = filter(&mut random, &sessions);
        let mut expected = Vec::new();
        for book in &books {
            let mut links = Links::default();
            for line in book.text.lines() {
                let mut facts = Facts::read(line.as_bytes()).unwrap();
                links.follow(&mut facts, Place::default());
                if filter.takes(book.session, &facts) {
                    expected.push((facts.at, book.session, facts.seq));
                }
            }
        }
        expected.sort_unstable();
        let mut notes = Vec::new();
        let found = index
            .find(&filter, (Order::Oldest, 10_000), &mut |note| {
                notes.push(note);
            })
            .unwrap();
        let mut answered: Vec<_> = found
            .iter()
            .map(|found| {
                let facts = found.facts().unwrap();
                (facts.at, found.session, facts.seq)
            })
            .collect();
        assert!(answered.is_sorted_by_key(|(at, ..)| *at));
        answered.sort_unstable();
        assert_eq!(answered, expected, "{filter:?}");
        let count = index.count(&filter, &mut |note| notes.push(note)).unwrap();
        assert_eq!(count, expected.len() as u64, "{filter:?}");
        assert_eq!(notes, []);
        let newest = index
            .find(&filter, (Order::Newest, 5), &mut |_| {})
            .unwrap();
        let times: Vec<_> = newest
            .iter()
            .map(|found| found.facts().unwrap().at)
            .collect();
        let latest: Vec<_> = expected.iter().rev().take(5).map(|(at, ..)| *at).collect();
        assert_eq!(times, latest, "{filter:?}");
        found_something += usize::from(!expected.is_empty());
    }
    assert!(found_something > 100, "{found_something}");
}
