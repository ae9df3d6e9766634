//! What processes take, summed over all of one kind (proc(5)).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Of the processes of one kind.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Sum {
    pub(crate) processes: u64,
    pub(crate) pss_kib: u64,
    /// What no file has, and nobody shares.
    pub(crate) anonymous_kib: u64,
    pub(crate) cpu_ns: u64,
    pub(crate) switches: u64,
    pub(crate) descriptors: u64,
}

/// By program; the commands themselves left out.
pub(crate) type Sums = BTreeMap<String, Sum>;

/// Of these processes and all below them.
pub(crate) fn of_trees(roots: &[i32]) -> Sums {
    let mut sums = Sums::new();
    for root in roots {
        add_tree(*root, &mut sums);
    }
    sums
}

/// Adds a process and all below it, but commands.
fn add_tree(process: i32, sums: &mut Sums) {
    let folder = folder(process);
    let program = fs::read_link(folder.join("exe")).unwrap();
    let name = program.file_name().unwrap().to_str().unwrap();
    if name == "bwrap" || name.starts_with("portcullis") {
        let arguments = fs::read_to_string(folder.join("cmdline")).unwrap();
        let verb = arguments.split('\0').nth(1).unwrap_or_default();
        let name = match verb {
            "sweep" | "reach" => format!("{name} {verb}"),
            _ => name.to_owned(),
        };
        sums.entry(name).or_default().add(process);
    }
    for child in children(process) {
        add_tree(child, sums);
    }
}

impl Sum {
    /// Of one process.
    pub(crate) fn of(process: i32) -> Self {
        let mut sum = Self::default();
        sum.add(process);
        sum
    }

    fn add(&mut self, process: i32) {
        let folder = folder(process);
        let memory = folder.join("smaps_rollup");
        self.processes += 1;
        self.pss_kib += field(&memory, "Pss:");
        self.anonymous_kib += field(&memory, "Pss_Anon:");
        for task in fs::read_dir(folder.join("task")).unwrap() {
            let task = task.unwrap().path();
            let schedule = fs::read_to_string(task.join("schedstat")).unwrap();
            self.cpu_ns += schedule.split(' ').next().unwrap().parse::<u64>().unwrap();
            self.switches += field(&task.join("status"), "voluntary_ctxt_switches:");
        }
        self.descriptors += fs::read_dir(folder.join("fd")).unwrap().count() as u64;
    }
}

/// The processes that this one has started and not reaped.
pub(crate) fn children(process: i32) -> Vec<i32> {
    let file = folder(process).join(format!("task/{process}/children"));
    let text = fs::read_to_string(file).unwrap();
    text.split_whitespace()
        .map(|child| child.parse().unwrap())
        .collect()
}

fn folder(process: i32) -> PathBuf {
    PathBuf::from(format!("/proc/{process}"))
}

/// The number on a line that begins so.
fn field(file: &Path, name: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
