//! The index over many records: how quickly it is built, how large it is, and how long queries take, each
//! with everything that `portcullis audit query` does but starting the program: is anything new, looking
//! up, reading back and checking.
//!
//! `PORTCULLIS_BENCH_RECORDS` says how many records (default 1 million; 10 million need about 5 GB below
//! the folder for temporary files, which are removed), `PORTCULLIS_BENCH_SESSION` how many each session has
//! (default 5000).
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::too_many_lines,
    reason = "a benchmark may panic and reports"
)]

use std::fs;
use std::io::Write;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use portcullis::audit::facts::Facts;
use portcullis::audit::filter::{Filter, HostGlob};
use portcullis::audit::folder::{file_name, open_or_create};
use portcullis::audit::index::{By, Index, Note, Order};
use portcullis::audit::record::Form;
use portcullis::audit::{AuditEvent, ChainHash, EndedBy, Isolation, Status};
use portcullis::ids::{ConnId, PolicyGeneration, SessionId};
use portcullis::policy::{DenyReason, Host, Method, Port, RuleId, Transport, Verdict};

/// A number from the environment.
fn number(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// How often each query is asked.
const ROUNDS: usize = 21;

/// A small generator (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % limit
    }

    /// Small numbers more often than large ones.
    fn skewed(&mut self, limit: u64) -> u64 {
        let narrower = 1 + self.below(limit);
        self.below(narrower)
    }
}

fn generation() -> PolicyGeneration {
    PolicyGeneration::new("0123456789abcdef")
}

fn host(number: u64) -> Host {
    let name = match number % 5 {
        0 => format!("s{number}.eu.example.com"),
        1 => format!("api{number}.openai.test"),
        2 => format!("cdn{number}.example.net"),
        _ => format!("host{number}.test"),
    };
    Host::parse(&name).unwrap()
}

/// One connection: decided, and if it was let through its query, dial and close.
fn connection(random: &mut Random, conn: u64, events: &mut Vec<AuditEvent>) {
    let id = ConnId(conn);
    let host = host(random.skewed(5000));
    let denied = random.below(10) == 0;
    let path = format!(
        "/repos/org{}/project{}/issues/{}",
        random.skewed(50),
        random.skewed(2000),
        random.below(20_000)
    );
    events.push(AuditEvent::EgressDecided {
        conn: id,
        transport: Transport::Forward,
        host: host.clone(),
        port: Port::HTTPS,
        method: Method::parse(if random.below(4) == 0 { "POST" } else { "GET" }),
        path: Some(path),
        verdict: if denied {
            Verdict::Deny
        } else {
            Verdict::Allow
        },
        reason: denied.then_some(DenyReason::HostNotAllowed),
        rule: (!denied).then(|| {
            RuleId::new(format!(
                "network.domains.\"*.rule{}.test\"",
                random.below(40)
            ))
        }),
        generation: generation(),
        process: None,
        process_unknown: None,
    });
    if denied {
        return;
    }
    events.push(AuditEvent::DnsQuery {
        conn: id,
        name: host.to_string(),
        addresses: vec!["192.0.2.1".parse().unwrap()],
        refused: Vec::new(),
    });
    events.push(AuditEvent::EgressDialed {
        conn: id,
        address: "192.0.2.1:443".parse().unwrap(),
        via: None,
    });
    events.push(AuditEvent::EgressClosed {
        conn: id,
        bytes_up: random.below(10_000),
        bytes_down: random.below(1_000_000),
        ms: random.below(3000),
        ended_by: EndedBy::Client,
    });
}

/// Writes logs of so many records in the writer's own form: sessions of so many, twenty at a time.
fn write_logs(folder: &std::path::Path, (records, length): (u64, u64)) -> u64 {
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let start = Timestamp::now().as_millisecond() - i64::try_from(records * 20).unwrap();
    let mut bytes = 0;
    let mut left = records;
    let mut number = 0_i64;
    while left > 0 {
        let session = SessionId::generate();
        let count = left.min(length);
        let mut events = vec![AuditEvent::SessionStarted {
            argv: ["codex", "exec", "fix the tests"]
                .map(String::from)
                .to_vec(),
            name: None,
            profile: "codex".into(),
            mode: "workspace-write".into(),
            workspace: "/home/u/w".into(),
            generation: generation(),
            isolation: Isolation {
                bwrap: "bubblewrap 0.8.0".into(),
                landlock_abi: 4,
                seccomp_allowed: 301,
                shortfalls: Vec::new(),
            },
            unix_sockets: Vec::new(),
        }];
        let mut conn = 0;
        while (events.len() as u64) < count {
            connection(&mut random, conn, &mut events);
            conn += 1;
        }
        events.truncate(usize::try_from(count).unwrap());
        *events.last_mut().unwrap() = AuditEvent::SessionEnded {
            status: Status::Exited(0),
            ms: 1000,
            files: None,
        };
        let user = format!("user{}", random.skewed(200));
        let form = Form::new("0123456789abcdef", session, &user).unwrap();
        let mut text = Vec::new();
        let mut prev = ChainHash::genesis(session);
        // A record each 400 ms, the next session a twentieth of that length later.
        let first = start + number * i64::try_from(length * 20).unwrap();
        for (seq, event) in (1..).zip(&events) {
            let ms = first + i64::try_from(seq * 400).unwrap();
            let at = Timestamp::from_millisecond(ms).unwrap();
            prev = form.seal(&mut text, (seq, at), event, prev).unwrap();
        }
        let mut file = fs::File::create(folder.join(file_name(session))).unwrap();
        file.write_all(&text).unwrap();
        bytes += text.len() as u64;
        left -= count;
        number += 1;
    }
    bytes
}

fn milliseconds(took: Duration) -> f64 {
    took.as_secs_f64() * 1000.0
}

fn main() {
    let records = number("PORTCULLIS_BENCH_RECORDS", 1_000_000);
    let length = number("PORTCULLIS_BENCH_SESSION", 5000);
    let folder = tempfile::tempdir().unwrap();
    let logs = folder.path().join("logs");
    let source = open_or_create(&logs).unwrap();
    let start = Instant::now();
    let bytes = write_logs(&logs, (records, length));
    println!(
        "logs: {records} records in {} sessions, {} MB, {} bytes a record, written in {:.1} s",
        records.div_ceil(length),
        bytes / 1_000_000,
        bytes / records,
        start.elapsed().as_secs_f64()
    );
    let file = folder.path().join("cache/index.sqlite");
    let index = Index::new(&file, "bench", &source);
    let start = Instant::now();
    let indexed = index.rebuild(&mut |_: Note| {}).unwrap();
    let took = start.elapsed().as_secs_f64();
    let size = file.metadata().unwrap().len();
    println!(
        "index: {indexed} records in {took:.1} s, {:.0} records/s, {:.0} MB/s of logs, {:.1} bytes a record",
        records as f64 / took,
        bytes as f64 / 1e6 / took,
        size as f64 / records as f64
    );
    queries(&index, &source, records);
}

fn queries(
    index: &Index<'_, portcullis::audit::folder::LogFolder>,
    source: &portcullis::audit::folder::LogFolder,
    records: u64,
) {
    let session = source.sessions().unwrap()[0];
    // Whole microseconds, as `--since 2h` has them.
    let now = Timestamp::from_microsecond(Timestamp::now().as_microsecond()).unwrap();
    let hours = |hours: i64| {
        now.checked_sub(jiff::SignedDuration::from_hours(hours))
            .unwrap()
    };
    let span = i64::try_from(records * 20 / 3_600_000).unwrap();
    let base = Filter::default;
    let path = |text: &str| {
        let mut filter = base();
        filter.set_path(text);
        filter
    };
    let text = |text: &str| {
        let mut filter = base();
        filter.set_text(text);
        filter
    };
    let host = |glob: &str| Filter {
        host: Some(HostGlob::parse(glob)),
        ..base()
    };
    let user = |name: &str| Some(name.to_owned());
    let cases: Vec<(&str, Filter)> = vec![
        ("no filter", base()),
        (
            "--denied",
            Filter {
                verdicts: ["deny"].into(),
                ..base()
            },
        ),
        ("--host s100.eu.example.com", host("s100.eu.example.com")),
        ("--host '*.example.com'", host("*.example.com")),
        (
            "--host '**.eu.example.com' --denied",
            Filter {
                verdicts: ["deny"].into(),
                ..host("**.eu.example.com")
            },
        ),
        ("--host '*1*t' (any star)", host("*1*t")),
        ("--host '*1x*' (any star, none)", host("*1x*")),
        ("--host nowhere.test", host("nowhere.test")),
        (
            "--session (the oldest)",
            Filter {
                sessions: Some([session].into()),
                ..base()
            },
        ),
        (
            "--user user199 (rare)",
            Filter {
                user: user("user199"),
                ..base()
            },
        ),
        (
            "--since 2h",
            Filter {
                since: Some(hours(2)),
                ..base()
            },
        ),
        (
            "--since, --until in the middle",
            Filter {
                since: Some(hours(span / 2 + 1)),
                until: Some(hours(span / 2)),
                ..base()
            },
        ),
        (
            "--event egress.closed --user user3",
            Filter {
                event: Some("egress.closed".into()),
                user: user("user3"),
                ..base()
            },
        ),
        (
            "--method POST --rule (one of 40)",
            Filter {
                method: Some("POST".into()),
                rule: Some("network.domains.\"*.rule7.test\"".into()),
                ..base()
            },
        ),
        ("--path project1999 (rare)", path("project1999")),
        ("--path /repos/org3/project7", path("/repos/org3/project7")),
        ("--path 'project19*'", path("project19*")),
        (
            "--path 19999 --user user150 --denied",
            Filter {
                user: user("user150"),
                verdicts: ["deny"].into(),
                ..path("19999")
            },
        ),
        (
            "--path '/repos/org3/project7/issues/*'",
            path("/repos/org3/project7/issues/*"),
        ),
        (
            "--path 'org* project* issues' --user user150",
            Filter {
                user: user("user150"),
                ..path("org* project* issues")
            },
        ),
        (
            "--path '/repos/org0/project0/none'",
            path("/repos/org0/project0/none"),
        ),
        ("--text 'org49 example'", text("org49 example")),
        (
            "--process curl (none)",
            Filter {
                process: Some("curl".into()),
                ..base()
            },
        ),
        (
            "eight filters at once",
            Filter {
                host: Some(HostGlob::parse("*.example.com")),
                verdicts: ["allow"].into(),
                event: Some("egress.*".into()),
                method: Some("GET".into()),
                rule: Some("network.domains.\"*.rule3.test\"".into()),
                since: Some(hours(span)),
                until: Some(hours(span / 4)),
                ..path("project1*")
            },
        ),
        (
            "--denied --event egress.closed (none)",
            Filter {
                verdicts: ["deny"].into(),
                event: Some("egress.closed".into()),
                ..base()
            },
        ),
    ];
    println!(
        "{:<42} {:>8} {:>9} {:>9} {:>9}",
        "query, --limit 100, newest first", "found", "median", "95th", "--count"
    );
    for (name, filter) in &cases {
        let mut times = Vec::new();
        let mut found = 0;
        for _ in 0..ROUNDS {
            let start = Instant::now();
            let answer = index
                .find(filter, (Order::Newest, 100), &mut |_| {})
                .unwrap();
            times.push(start.elapsed());
            assert!(answer.iter().all(|found| {
                found
                    .facts()
                    .is_some_and(|facts: Facts<'_>| filter.takes(found.session, &facts))
            }));
            found = answer.len();
        }
        times.sort_unstable();
        let start = Instant::now();
        let count = index.count(filter, &mut |_| {}).unwrap();
        let counted = start.elapsed();
        assert_eq!(found as u64, count.min(100), "{name}");
        println!(
            "{name:<42} {count:>8} {:>6.1} ms {:>6.1} ms {:>6.1} ms",
            milliseconds(times[ROUNDS / 2]),
            milliseconds(times[ROUNDS * 95 / 100]),
            milliseconds(counted)
        );
    }
    for (name, by) in [
        ("stats --by host", By::Host),
        ("stats --by user", By::User),
        ("stats --by session", By::Session),
        ("stats --by rule", By::Rule),
        ("stats --by day", By::Day),
    ] {
        let start = Instant::now();
        index.stats(&base(), by, &mut |_| {}).unwrap();
        println!("{name:<42} {:>25.1} ms", milliseconds(start.elapsed()));
    }
}
