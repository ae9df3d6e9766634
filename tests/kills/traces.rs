//! What sessions leave on a host. A namespace lives as long as a process in it, a descriptor of it or a
//! mount of it, so that all three are looked at; so are files, control groups, routes and rules.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::cli::Install;
use crate::fence::Fence;
use crate::tree;

/// How long the last process may take to go after everything was told to end, on a loaded machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// What of the host's own mounts and network would be a session's: whatever has to do with the folders of these
/// installations, namespaces that are kept by a mount, what makes a jail's connections lead to its gate. Others
/// may change the rest meanwhile.
pub(crate) fn of_host(installs: &[&Install]) -> BTreeSet<String> {
    let marks = marks(installs);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounts = mounts
        .lines()
        .filter(|line| line.contains(" - nsfs ") || marks.iter().any(|mark| line.contains(mark)));
    let tables = printed(&["nft", "list", "tables"]);
    let tables = tables.lines().filter(|line| line.contains("portcullis"));
    let routes = printed(&["ip", "route", "show", "table", "all"]);
    let routes = routes
        .lines()
        .filter(|line| line.contains("default dev lo"));
    let found = mounts.chain(tables).chain(routes);
    found.map(ToOwned::to_owned).collect()
}

/// What every path of an installation begins with.
fn marks(installs: &[&Install]) -> Vec<String> {
    let marks = installs
        .iter()
        .map(|install| install.path("").display().to_string());
    marks
        .map(|mark| mark.trim_end_matches('/').to_owned())
        .collect()
}

/// What a command prints; a program that is not there prints nothing.
fn printed(command: &[&str]) -> String {
    let output = Command::new(command[0]).args(&command[1..]).output();
    output.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}

/// How long a process may be left before somebody looks for orphans: much longer than any takes to go by itself.
const LOOK: Duration = Duration::from_secs(5);

/// Waits until no process of these installations is left. A session that was killed in the first moments of
/// its jail leaves an orphan to whoever looks next, as a person does with `ps`.
pub(crate) fn await_no_process(installs: &[&Install], fence: &Fence, context: &str) {
    let since = Instant::now();
    let mut looked = false;
    loop {
        let left: Vec<i32> = fence
            .processes()
            .into_iter()
            .filter(|pid| tree::lives(*pid))
            .collect();
        // The second look costs more: it reads all processes there are.
        let marked = if left.is_empty() {
            marked(installs)
        } else {
            Vec::new()
        };
        if left.is_empty() && marked.is_empty() {
            return;
        }
        if since.elapsed() > LOOK && !looked {
            looked = true;
            let told: Vec<String> = left.iter().map(|pid| described(*pid)).collect();
            eprintln!("{context}: looking for orphans:\n{}", told.join("\n"));
            for install in installs {
                install.portcullis(["ps"]);
            }
        }
        if since.elapsed() > PATIENCE {
            let left: BTreeSet<i32> = left.into_iter().chain(marked).collect();
            let told: Vec<String> = left.iter().map(|pid| described(*pid)).collect();
            panic!("{context}: processes are left:\n{}", told.join("\n"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Processes that have to do with the folder of an installation: their program, folders, arguments,
/// variables, mounts, descriptors.
fn marked(installs: &[&Install]) -> Vec<i32> {
    let own = i32::try_from(std::process::id()).unwrap();
    let marks = marks(installs);
    let has = |text: &[u8]| {
        let mut marks = marks.iter().map(String::as_bytes);
        marks.any(|mark| text.windows(mark.len()).any(|part| part == mark))
    };
    let touches = |pid: &i32| {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let link = |path: PathBuf| {
            use std::os::unix::ffi::OsStrExt;
            fs::read_link(path).is_ok_and(|target| has(target.as_os_str().as_bytes()))
        };
        let file = |name: &str| fs::read(folder.join(name)).is_ok_and(|text| has(&text));
        let descriptors = fs::read_dir(folder.join("fd")).into_iter().flatten();
        ["exe", "cwd", "root"]
            .iter()
            .any(|name| link(folder.join(name)))
            || ["cmdline", "environ", "mountinfo"]
                .iter()
                .any(|name| file(name))
            || descriptors.flatten().any(|entry| link(entry.path()))
    };
    tree::numbers()
        .filter(|pid| *pid != own && tree::lives(*pid))
        .filter(touches)
        // What ended meanwhile is none.
        .filter(|pid| tree::lives(*pid))
        .collect()
}

fn described(pid: i32) -> String {
    let folder = PathBuf::from(format!("/proc/{pid}"));
    let text = |name: &str| fs::read_to_string(folder.join(name)).unwrap_or_default();
    let status = text("status");
    let lines = ["Name", "State", "PPid", "Uid", "SigBlk", "NSpid"];
    let lines = status
        .lines()
        .filter(|line| lines.iter().any(|name| line.starts_with(name)));
    format!(
        "{pid}: {} | {} | at {} | {}",
        text("cmdline").replace('\0', " "),
        lines.collect::<Vec<_>>().join(", ").replace('\t', " "),
        text("wchan"),
        fs::read_link(folder.join("exe"))
            .unwrap_or_default()
            .display(),
    )
}

/// Entries of a workspace; the sessions' commands write none.
pub(crate) fn workspace(install: &Install) -> Vec<PathBuf> {
    listed(&install.work())
}

/// Files of an installation that are neither its programs nor profiles nor what a session keeps: logs, what
/// was printed, what is known of bubblewrap.
pub(crate) fn files(install: &Install) -> Vec<PathBuf> {
    let root = install.path("");
    let mut found = Vec::new();
    for folder in ["", "home"] {
        found.extend(listed(&install.path(folder)).into_iter().filter(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            let profile = path.extension().is_some_and(|ending| ending == "toml");
            !matches!(name, "bin" | "home" | "work" | ".local") && !profile
        }));
    }
    let mut folders = vec![install.path("home/.local")];
    while let Some(folder) = folders.pop() {
        for path in listed(&folder) {
            let below = path.strip_prefix(&root).unwrap().to_str().unwrap();
            if path.is_dir() {
                folders.push(path);
            } else if !is_kept(below) {
                found.push(path);
            }
        }
    }
    found
}

fn is_kept(below: &str) -> bool {
    let state = "home/.local/state/portcullis/";
    let Some(name) = below.strip_prefix(state) else {
        return false;
    };
    let of = |folder: &str, ending: &str| {
        name.strip_prefix(folder)
            .is_some_and(|name| !name.contains('/') && name.ends_with(ending))
    };
    of("audit/", ".jsonl")
        || name.starts_with("audit/ledger/")
        || of("sessions/", ".log")
        || KEPT.contains(&name)
}

/// What is kept of the host, not of a session.
const KEPT: [&str; 2] = ["bubblewrap.json", "run/sessions.lock"];

fn listed(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.map(|entry| entry.unwrap().path()).collect()
}
