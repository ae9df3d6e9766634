//! Many sessions at once, idle: how fast they start beside the same number of bubblewraps with the very mounts
//! of a session, and what each keeps in memory, processor time, wake-ups, descriptors and processes. What grows
//! faster than the number of sessions shows between the columns. Once standalone, once for two users of the
//! service, with what the daemon takes. As root: nobody else may look into the gate.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "a benchmark"
)]

mod bare;
#[path = "../../tests/support/cli.rs"]
#[expect(dead_code, reason = "shared with the tests")]
mod cli;
#[path = "../../tests/support/fd_store.rs"]
mod fd_store;
mod ground;
#[path = "../../tests/support/service.rs"]
#[expect(dead_code, reason = "shared with the tests")]
mod service;
mod sum;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use ground::Ground;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use sum::{Sum, Sums};

/// Sessions at once, a column each.
const COUNTS: [usize; 2] = [50, 200];

/// Started at once: as many as this benchmark's machine has cores.
const AT_ONCE: usize = 2;

/// How long idle processes are watched.
const WATCHED: Duration = Duration::from_secs(10);

/// For whatever a start still has to do.
const SETTLED: Duration = Duration::from_secs(3);

/// What a session's command is, and in its place the bare bubblewrap's.
const COMMAND: &str = "exec sleep 1000";

fn main() {
    assert!(nix::unistd::geteuid().is_root(), "run this as root");
    // This process plays the service manager, which keeps nine descriptors for each session of the service.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let measure = |ground: fn(&Path) -> Ground| COUNTS.map(|count| Column::measure(count, ground));
    print("standalone", &measure(Ground::standalone));
    let columns = measure(|_| Ground::service());
    print("under the service", &columns);
    print_daemon(&columns);
}

/// What is known of so many sessions.
struct Column {
    count: usize,
    session_rate: f64,
    bare_rate: f64,
    watched: Watched<Sums>,
    /// The daemon with these sessions, and before the first.
    daemon: Option<(Watched<Sum>, Watched<Sum>)>,
}

/// Something before and after it was watched.
struct Watched<T> {
    before: T,
    after: T,
    seconds: f64,
}

impl<T> Watched<T> {
    fn new(look: impl Fn() -> T) -> Self {
        let before = look();
        let since = Instant::now();
        std::thread::sleep(WATCHED);
        Self {
            before,
            seconds: since.elapsed().as_secs_f64(),
            after: look(),
        }
    }
}

impl Watched<Sum> {
    /// What a figure grew by in a second.
    fn growth(&self, of: impl Fn(&Sum) -> u64) -> f64 {
        (of(&self.after) - of(&self.before)) as f64 / self.seconds
    }
}

impl Column {
    fn measure(count: usize, ground: fn(&Path) -> Ground) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let workspace = folder.path().join("workspace");
        std::fs::create_dir(&workspace).unwrap();
        let bare_rate = bare::bare(count, &workspace, folder.path());
        let ground = ground(folder.path());
        let alone = ground.daemon().map(|_| {
            std::thread::sleep(SETTLED);
            Watched::new(|| ground.daemon().unwrap())
        });
        let session_rate = ground.start(count);
        std::thread::sleep(SETTLED);
        let both = Watched::new(|| (ground.sums(), ground.daemon()));
        let (before, after) = (both.before, both.after);
        let seconds = both.seconds;
        let sessions = |sums: &Sums| sums.get("portcullis").map(|sum| sum.processes);
        assert_eq!(sessions(&after.0), Some(count as u64));
        assert_eq!(ground.listed(), count, "ps knows all of them");
        let daemon = before.1.zip(after.1).map(|(before, after)| Watched {
            before,
            after,
            seconds,
        });
        Self {
            count,
            session_rate,
            bare_rate,
            watched: Watched {
                before: before.0,
                after: after.0,
                seconds,
            },
            daemon: daemon.zip(alone),
        }
    }

    /// A figure of a session.
    fn each(&self, of: impl Fn(&Sum) -> u64) -> f64 {
        let all: u64 = self.watched.after.values().map(of).sum();
        all as f64 / self.count as f64
    }

    /// What a figure of a session grew by in a second.
    fn growth(&self, of: impl Fn(&Sum) -> u64) -> f64 {
        let all = |sums: &Sums| sums.values().map(&of).sum::<u64>();
        let Watched {
            before,
            after,
            seconds,
        } = &self.watched;
        (all(after) - all(before)) as f64 / self.count as f64 / seconds
    }
}

fn row(columns: &[Column], name: &str, unit: &str, value: &dyn Fn(&Column) -> f64) {
    let values = columns
        .iter()
        .map(|column| format!("{:9.2}", value(column)));
    println!("  {name:<58}{} {unit}", values.collect::<String>());
}

fn megabytes(kib: u64) -> f64 {
    kib as f64 * 1024.0 / 1e6
}

fn print(how: &str, columns: &[Column]) {
    let row = |name: &str, unit, value: &dyn Fn(&Column) -> f64| row(columns, name, unit, value);
    let counts = columns.iter().map(|column| format!("{:9}", column.count));
    let title = format!("idle sessions at once, {how} (run -d, the command sleeps)");
    println!("{title:<60}{}", counts.collect::<String>());
    row("started, two at a time", "/s", &|c| c.session_rate);
    row(
        "bwrap --unshare-all, same mounts, two at a time",
        "/s",
        &|c| c.bare_rate,
    );
    row("time of a start, ratio to that bwrap's", "×", &|c| {
        c.bare_rate / c.session_rate
    });
    println!("  of a session, all its processes but the command:");
    row("memory (PSS)", "MB", &|c| {
        c.each(|sum| sum.pss_kib) * 1024.0 / 1e6
    });
    row("processor time", "ms/s", &|c| {
        c.growth(|sum| sum.cpu_ns) / 1e6
    });
    row("wake-ups", "/s", &|c| c.growth(|sum| sum.switches));
    row("processes", "", &|c| c.each(|sum| sum.processes));
    row("descriptors", "", &|c| c.each(|sum| sum.descriptors));
    let names = columns
        .iter()
        .flat_map(|column| column.watched.after.keys())
        .collect::<BTreeSet<_>>();
    for name in names {
        let of = |column: &Column| column.watched.after.get(name).copied().unwrap_or_default();
        row(&format!("memory of {name}"), "MB", &|c| {
            megabytes(of(c).pss_kib) / c.count as f64
        });
    }
}

/// Of the daemon with so many sessions, and before the first.
type DaemonFigure<'a> = &'a dyn Fn(&Watched<Sum>, &Watched<Sum>, f64) -> f64;

/// What the daemon takes by itself.
fn print_daemon(columns: &[Column]) {
    let row = |name: &str, unit, value: DaemonFigure<'_>| {
        row(columns, name, unit, &|column| {
            let (with, alone) = column.daemon.as_ref().unwrap();
            value(with, alone, column.count as f64)
        });
    };
    println!("  of portcullisd:");
    row("memory (PSS)", "MB", &|with, _, _| {
        megabytes(with.after.pss_kib)
    });
    row("the same before the first session", "MB", &|_, alone, _| {
        megabytes(alone.after.pss_kib)
    });
    row(
        "memory of its own (anonymous), a session more",
        "kB",
        &|with, alone, count| {
            let more = megabytes(with.after.anonymous_kib) - megabytes(alone.after.anonymous_kib);
            more * 1000.0 / count
        },
    );
    row("processor time", "ms/s", &|with, _, _| {
        with.growth(|sum| sum.cpu_ns) / 1e6
    });
    row("processor time of a start", "ms", &|with, alone, count| {
        (with.before.cpu_ns - alone.after.cpu_ns) as f64 / 1e6 / count
    });
    row("wake-ups", "/s", &|with, _, _| {
        with.growth(|sum| sum.switches)
    });
    row("the same before the first session", "/s", &|_, alone, _| {
        alone.growth(|sum| sum.switches)
    });
    row("descriptors, a session more", "", &|with, alone, count| {
        (with.after.descriptors - alone.after.descriptors) as f64 / count
    });
}
