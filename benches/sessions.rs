//! Many sessions at once, idle: how fast they start beside the same number of bubblewraps with the very mounts
//! of a session, and what each keeps in memory, processor time, wake-ups, descriptors and processes. What grows
//! faster than the number of sessions shows between the columns. As root: nobody else may look into the gate.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a benchmark"
)]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Barrier, Mutex};
use std::time::{Duration, Instant};

use portcullis::jail::{JailRequest, Running, UserNames, bwrap, prepare};
use portcullis::policy::profile::builtin;
use portcullis::policy::{FilesystemMode, Profile};
use portcullis::wire::init::{InitPlan, Rlimits};

/// Sessions at once, a column each.
const COUNTS: [usize; 2] = [50, 200];

/// Started at once: as many as this benchmark's machine has cores.
const AT_ONCE: usize = 2;

/// How long idle sessions are watched.
const WATCHED: Duration = Duration::from_secs(10);

/// What a session's command is, and in its place the bare bubblewrap's.
const COMMAND: &str = "exec sleep 1000";

fn main() {
    assert!(nix::unistd::geteuid().is_root(), "run this as root");
    let columns: Vec<Column> = COUNTS.iter().map(|count| Column::measure(*count)).collect();
    print(&columns);
}

/// What is known of so many sessions.
struct Column {
    count: usize,
    session_rate: f64,
    bare_rate: f64,
    /// Sums over all sessions, by process; the commands themselves left out.
    before: BTreeMap<String, Sum>,
    after: BTreeMap<String, Sum>,
    seconds: f64,
}

/// Of the processes of one kind.
#[derive(Debug, Default, Clone, Copy)]
struct Sum {
    processes: u64,
    pss_kib: u64,
    cpu_ns: u64,
    switches: u64,
    descriptors: u64,
}

impl Column {
    fn measure(count: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let workspace = folder.path().join("workspace");
        fs::create_dir(&workspace).unwrap();
        let bare_rate = bare(count, &workspace, folder.path());
        let ground = Ground {
            state: folder.path().join("state"),
            workspace,
        };
        let session_rate = ground.start(count);
        // Whatever a start still has to do.
        std::thread::sleep(Duration::from_secs(3));
        let sessions = ground.sessions();
        assert_eq!(sessions.len(), count);
        let before = sums(&sessions);
        let since = Instant::now();
        std::thread::sleep(WATCHED);
        let seconds = since.elapsed().as_secs_f64();
        let after = sums(&sessions);
        let listed = ground.portcullis(&["ps", "-q"]).output().unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        assert_eq!(listed.lines().count(), count, "ps knows all of them");
        Self {
            count,
            session_rate,
            bare_rate,
            before,
            after,
            seconds,
        }
    }

    /// A figure of a session.
    fn each(&self, of: impl Fn(&Sum) -> u64) -> f64 {
        let all: u64 = self.after.values().map(of).sum();
        all as f64 / self.count as f64
    }

    /// What a figure of a session grew by in a second.
    fn growth(&self, of: impl Fn(&Sum) -> u64) -> f64 {
        let all = |sums: &BTreeMap<String, Sum>| sums.values().map(&of).sum::<u64>();
        (all(&self.after) - all(&self.before)) as f64 / self.count as f64 / self.seconds
    }
}

fn print(columns: &[Column]) {
    let row = |name: &str, unit: &str, value: &dyn Fn(&Column) -> f64| {
        let values = columns
            .iter()
            .map(|column| format!("{:9.2}", value(column)));
        println!("  {name:<58}{} {unit}", values.collect::<String>());
    };
    let counts = columns.iter().map(|column| format!("{:9}", column.count));
    println!(
        "{:<60}{}",
        "idle sessions at once (run -d, the command sleeps)",
        counts.collect::<String>()
    );
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
    for name in columns[0].after.keys() {
        let of = |column: &Column| column.after.get(name).copied().unwrap_or_default();
        row(&format!("memory of {name}"), "MB", &|c| {
            of(c).pss_kib as f64 * 1024.0 / 1e6 / c.count as f64
        });
    }
}

/// Where sessions run.
struct Ground {
    state: PathBuf,
    workspace: PathBuf,
}

impl Ground {
    fn portcullis(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command
            .args(arguments)
            .current_dir(&self.workspace)
            .env("XDG_STATE_HOME", &self.state)
            .env_remove("XDG_RUNTIME_DIR")
            .stdin(Stdio::null());
        command
    }

    /// Starts sessions; how many a second. Each is counted once its command runs.
    fn start(&self, count: usize) -> f64 {
        rate(count, || {
            let arguments = ["run", "-d", "-q", "--", "/bin/sh", "-c", COMMAND];
            let output = self.portcullis(&arguments).output().unwrap();
            assert!(output.status.success(), "{output:?}");
        })
    }

    /// The session processes, known by their program and its argument, in this folder.
    fn sessions(&self) -> Vec<i32> {
        let program = Path::new(env!("CARGO_BIN_EXE_portcullis"));
        let numbers = fs::read_dir("/proc").unwrap();
        let numbers = numbers.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
        let ours = |number: &i32| {
            let folder = PathBuf::from(format!("/proc/{number}"));
            let line = fs::read(folder.join("cmdline")).unwrap_or_default();
            fs::read_link(folder.join("exe")).is_ok_and(|exe| exe == program)
                && line.ends_with(b"\0detached-session\0")
                && fs::read_link(folder.join("cwd")).is_ok_and(|cwd| cwd == self.workspace)
        };
        numbers.filter(ours).collect()
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        self.portcullis(&["stop", "--all", "--kill"])
            .output()
            .unwrap();
    }
}

/// Does something so often, some of it at once; how often a second.
fn rate(count: usize, act: impl Fn() + Sync) -> f64 {
    let since = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                for _ in 0..count / AT_ONCE {
                    act();
                }
            });
        }
    });
    count as f64 / since.elapsed().as_secs_f64()
}

/// Sums of the processes below these.
fn sums(sessions: &[i32]) -> BTreeMap<String, Sum> {
    let mut sums = BTreeMap::new();
    for session in sessions {
        add_tree(*session, &mut sums);
    }
    sums
}

/// Adds a process and all below it, but commands.
fn add_tree(process: i32, sums: &mut BTreeMap<String, Sum>) {
    let folder = PathBuf::from(format!("/proc/{process}"));
    let program = fs::read_link(folder.join("exe")).unwrap();
    let name = program.file_name().unwrap().to_str().unwrap();
    if name == "bwrap" || name.starts_with("portcullis") {
        let arguments = fs::read_to_string(folder.join("cmdline")).unwrap();
        let verb = arguments.split('\0').nth(1).filter(|verb| *verb == "sweep");
        let name = format!("{name} {}", verb.unwrap_or_default());
        let sum = sums.entry(name.trim().to_owned()).or_default();
        sum.processes += 1;
        sum.pss_kib += field(&folder.join("smaps_rollup"), "Pss:");
        let schedule = fs::read_to_string(folder.join("schedstat")).unwrap();
        sum.cpu_ns += schedule.split(' ').next().unwrap().parse::<u64>().unwrap();
        for task in fs::read_dir(folder.join("task")).unwrap() {
            let status = task.unwrap().path().join("status");
            sum.switches += field(&status, "voluntary_ctxt_switches:");
        }
        sum.descriptors += fs::read_dir(folder.join("fd")).unwrap().count() as u64;
    }
    let children = fs::read_to_string(folder.join(format!("task/{process}/children"))).unwrap();
    for child in children.split_whitespace() {
        add_tree(child.parse().unwrap(), sums);
    }
}

/// The number on a line that begins so.
fn field(file: &Path, name: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Starts so many bubblewraps alone, with the mounts of a session and a command that sleeps in the place of
/// init, and keeps all of them until the last runs; how many a second.
fn bare(count: usize, workspace: &Path, folder: &Path) -> f64 {
    let script = folder.join("init");
    fs::write(&script, format!("#!/bin/sh\necho >&3\n{COMMAND}\n")).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&script, mode).unwrap();
    // A jail dies with the thread that started it.
    let done = Barrier::new(AT_ONCE);
    let since = Instant::now();
    let longest = Mutex::new(Duration::ZERO);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                let jails: Vec<Running> = (0..count / AT_ONCE)
                    .map(|_| jail(workspace, &script))
                    .collect();
                let elapsed = since.elapsed();
                let mut longest = longest.lock().unwrap();
                *longest = (*longest).max(elapsed);
                drop(longest);
                done.wait();
                drop(jails);
            });
        }
    });
    let longest = longest.lock().unwrap();
    count as f64 / longest.as_secs_f64()
}

/// Read-only, so that no placeholder is needed.
fn jail(workspace: &Path, script: &Path) -> Running {
    let mut load = |name: &str| Ok(builtin(name).map(str::to_owned));
    let mut policy = Profile::read("base", &mut load).unwrap().filesystem;
    policy.mode = FilesystemMode::ReadOnly;
    let init = File::open(script).unwrap();
    let prepared = prepare(&JailRequest {
        footing: portcullis::jail::Footing::Own,
        policy: &policy,
        workspace,
        home: Path::new("/root"),
        user: UserNames {
            uid: 0,
            gid: 0,
            user: "bench".to_owned(),
            group: "bench".to_owned(),
        },
        hostname: "bench".to_owned(),
        hidden: Vec::new(),
        shown: Vec::new(),
        files: Vec::new(),
        replaced: Vec::new(),
        sockets: &BTreeMap::new(),
        limits: &portcullis::policy::ResourceLimits::default(),
        session: "test".to_owned(),
        init: &init,
    });
    let path = std::env::var_os("PATH").unwrap();
    let found = bwrap::find(OsStr::new(&path), |_| true, &[]).unwrap();
    let bubblewrap = bwrap::Bwrap {
        path: found,
        version: String::new(),
    };
    let plan = InitPlan {
        takeover: None,
        listen: Vec::new(),
        network: false,
        datagrams: None,
        readable: Vec::new(),
        sockets: Vec::new(),
        writable: Vec::new(),
        rlimits: Rlimits::default(),
        landlock_floor: 0,
        bwrap: String::new(),
        argv: Vec::new(),
        env: Vec::new(),
    };
    let (mut ready, says) = std::io::pipe().unwrap();
    let running = prepared
        .unwrap()
        .start(&bubblewrap, &plan, says.into())
        .unwrap();
    ready.read_exact(&mut [0]).unwrap();
    running
}
