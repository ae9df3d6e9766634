//! A control group of our own in each hierarchy, which this process goes into: whatever it starts is born in
//! it, stays in it or in groups below it, and is found there, however it was orphaned.

use std::fs;
use std::path::{Path, PathBuf};

/// The groups. Without any (a container may have none) nothing is found this way.
#[derive(Debug)]
pub(crate) struct Fence(Vec<PathBuf>);

impl Fence {
    pub(crate) fn enter() -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let points = mounts.lines().filter(|line| {
            let named = ["memory", "pids", "cpu"]
                .iter()
                .any(|name| line.ends_with(name));
            line.contains(" - cgroup2 ") || (line.contains(" - cgroup ") && named)
        });
        let entered = points.filter_map(|line| {
            let point = Path::new(line.split(' ').nth(4)?);
            let group = point.join(format!("kills-test-{}", std::process::id()));
            fs::create_dir(&group).ok()?;
            if fs::write(group.join("cgroup.procs"), "0").is_ok() {
                return Some(group);
            }
            fs::remove_dir(&group).ok();
            None
        });
        Self(entered.collect())
    }

    /// Whether groups with limits can be made here.
    pub(crate) fn can_limit(&self) -> bool {
        self.0
            .iter()
            .any(|group| group.join("memory.limit_in_bytes").exists())
    }

    /// Who is inside, but for us.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let mut found = Vec::new();
        for group in &self.0 {
            members(group, &mut found);
        }
        found.sort_unstable();
        found.dedup();
        found.retain(|pid| u32::try_from(*pid) != Ok(std::process::id()));
        found
    }

    /// Groups of sessions that stand.
    pub(crate) fn groups(&self) -> Vec<PathBuf> {
        self.0.iter().flat_map(|group| below(group)).collect()
    }
}

impl Drop for Fence {
    fn drop(&mut self) {
        for group in &self.0 {
            let top = group.parent().unwrap();
            fs::write(top.join("cgroup.procs"), "0").ok();
            // It stays where somebody is left in it: then the test has failed.
            fs::remove_dir(group).ok();
        }
    }
}

fn below(group: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(group).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn members(group: &Path, found: &mut Vec<i32>) {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    for group in below(group) {
        members(&group, found);
    }
}
