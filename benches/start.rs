//! Start to exit of `/bin/true`: a whole session (jail, gate, audit) against bubblewrap alone, once with
//! the least that a jail needs and once with the very mounts of the session, interleaved in one run.
//! Prints medians and ratios. Then what idle sessions keep in memory, process by process (as root: nobody
//! else may look into the gate).
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark"
)]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use portcullis::jail::{JailRequest, UserNames, bwrap, prepare};
use portcullis::policy::Profile;
use portcullis::policy::profile::builtin;
use portcullis::wire::init::InitPlan;

const ROUNDS: usize = 60;
/// The first rounds warm the page cache.
const WARM_UP: usize = 5;

fn main() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let workspace = folder.path().join("workspace");
    fs::create_dir(&workspace).unwrap();
    let (mut session, mut least, mut same) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let times = [
            whole_session(&workspace, &state),
            least_jail(),
            same_mounts(&workspace),
        ];
        if round >= WARM_UP {
            session.push(times[0]);
            least.push(times[1]);
            same.push(times[2]);
        }
    }
    let [session, least, same] = [&mut session, &mut least, &mut same].map(|times| median(times));
    println!(
        "start to exit of /bin/true, median of {} interleaved runs",
        ROUNDS - WARM_UP
    );
    println!(
        "  portcullis run                      {:5.1} ms",
        millis(session)
    );
    println!(
        "  bwrap --unshare-all, same mounts    {:5.1} ms   ratio {:.2}",
        millis(same),
        ratio(session, same)
    );
    println!(
        "  bwrap --unshare-all, /usr and /etc  {:5.1} ms   ratio {:.2}",
        millis(least),
        ratio(session, least)
    );
    if nix::unistd::geteuid().is_root() {
        memory(&workspace, &state);
    }
}

/// Idle sessions at once, as pages of programs are shared among them.
const IDLE: u32 = 10;

/// Prints the proportional set size (proc(5), smaps_rollup) of a session's processes but the command.
fn memory(workspace: &Path, state: &Path) {
    let mut sessions: Vec<Child> = (0..IDLE).map(|_| idle_session(workspace, state)).collect();
    let mut sizes = BTreeMap::new();
    for session in &sessions {
        add_tree(session.id(), &mut sizes);
    }
    for session in &mut sessions {
        drop(session.stdin.take());
        assert!(session.wait().unwrap().success());
    }
    println!("memory of an idle session, of {IDLE} (PSS of all its processes but the command)");
    let megabytes = |kib: u64| f64::from(u32::try_from(kib).unwrap()) * 1024.0 / 1e6;
    for (name, size) in &sizes {
        println!("  {name:<34} {:5.2} MB", megabytes(*size) / f64::from(IDLE));
    }
    let all: u64 = sizes.values().sum();
    println!(
        "  {:<34} {:5.2} MB",
        "all of them",
        megabytes(all) / f64::from(IDLE)
    );
}

/// A session that is idle until its input ends.
fn idle_session(workspace: &Path, state: &Path) -> Child {
    let mut session = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["run", "--quiet", "--", "/bin/sh", "-c"])
        .arg("echo ready; exec /bin/cat")
        .current_dir(workspace)
        .env("XDG_STATE_HOME", state)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut output = BufReader::new(session.stdout.as_mut().unwrap());
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    session
}

/// Adds a process and all below it.
fn add_tree(process: u32, sizes: &mut BTreeMap<String, u64>) {
    let folder = format!("/proc/{process}");
    let program = fs::read_link(format!("{folder}/exe")).unwrap();
    let name = program.file_name().unwrap().to_str().unwrap();
    let arguments = fs::read_to_string(format!("{folder}/cmdline")).unwrap();
    if name == "bwrap" || name.starts_with("portcullis") {
        let verb = arguments.split('\0').nth(1).filter(|verb| *verb == "sweep");
        let name = format!("{name} {}", verb.unwrap_or_default());
        let text = fs::read_to_string(format!("{folder}/smaps_rollup")).unwrap();
        let line = text.lines().find(|line| line.starts_with("Pss:")).unwrap();
        let size: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        *sizes.entry(name).or_default() += size;
    }
    let children = fs::read_to_string(format!("{folder}/task/{process}/children")).unwrap();
    for child in children.split_whitespace() {
        add_tree(child.parse().unwrap(), sizes);
    }
}

fn whole_session(workspace: &Path, state: &Path) -> Duration {
    time(
        Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .args(["run", "--quiet", "--", "/bin/true"])
            .current_dir(workspace)
            .env("XDG_STATE_HOME", state),
    )
}

fn least_jail() -> Duration {
    time(Command::new("bwrap").args([
        "--unshare-all",
        "--die-with-parent",
        "--ro-bind",
        "/usr",
        "/usr",
        "--symlink",
        "usr/bin",
        "/bin",
        "--symlink",
        "usr/lib",
        "/lib",
        "--symlink",
        "usr/lib64",
        "/lib64",
        "--ro-bind",
        "/etc",
        "/etc",
        "--proc",
        "/proc",
        "--dev",
        "/dev",
        "--tmpfs",
        "/tmp",
        "--",
        "/bin/true",
    ]))
}

/// The session's own jail with `/bin/true` in the place of init: no plan is read, no gate is there.
/// Read-only, so that no placeholder is needed; timed from the start of bubblewrap.
fn same_mounts(workspace: &Path) -> Duration {
    let mut load = |name: &str| Ok(builtin(name).map(str::to_owned));
    let mut policy = Profile::read("base", &mut load).unwrap().filesystem;
    policy.mode = portcullis::policy::FilesystemMode::ReadOnly;
    let init = File::open("/bin/true").unwrap();
    let user = nix::unistd::getuid();
    let prepared = prepare(&JailRequest {
        footing: portcullis::jail::Footing::Own,
        policy: &policy,
        workspace,
        home: Path::new("/root"),
        user: UserNames {
            uid: user.as_raw(),
            gid: nix::unistd::getgid().as_raw(),
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
    let bubblewrap = bwrap::ask(found).unwrap().answer().unwrap();
    let plan = InitPlan {
        takeover: None,
        listen: Vec::new(),
        network: false,
        datagrams: None,
        readable: Vec::new(),
        sockets: Vec::new(),
        writable: Vec::new(),
        rlimits: portcullis::wire::init::Rlimits::default(),
        landlock_floor: 0,
        bwrap: String::new(),
        argv: Vec::new(),
        env: Vec::new(),
    };
    let nobody = File::open("/dev/null").unwrap();
    let start = Instant::now();
    let running = prepared
        .unwrap()
        .start(&bubblewrap, &plan, nobody.into())
        .unwrap();
    let status = running.finish().unwrap();
    let elapsed = start.elapsed();
    assert!(status.success(), "{status}");
    elapsed
}

fn time(command: &mut Command) -> Duration {
    let start = Instant::now();
    let status = command.stdin(Stdio::null()).status().unwrap();
    let elapsed = start.elapsed();
    assert!(status.success(), "{command:?}: {status}");
    elapsed
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap()
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn ratio(ours: Duration, theirs: Duration) -> f64 {
    ours.as_secs_f64() / theirs.as_secs_f64()
}
