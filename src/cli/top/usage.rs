//! What a session's processes take of the host: memory and processor time, from proc(5).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use nix::unistd::{SysconfVar, sysconf};

/// What the whole tree of one process takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// Processes.
    pub(super) processes: usize,
    /// Bytes in memory; pages that several of them share are counted for each.
    pub(super) memory: u64,
    /// Processor time since the last look, in milliseconds.
    pub(super) busy_ms: u64,
}

/// One process: its parent, what it has in memory and what it has used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    parent: u32,
    /// Ticks after boot: with its number it means this process and no later one.
    started: u64,
    ticks: u64,
    pages: u64,
}

/// Every process of the host at one moment.
#[derive(Debug, Default)]
pub(super) struct Processes(BTreeMap<u32, Process>);

impl Processes {
    /// Reads them. One that ends meanwhile is left out.
    pub(super) fn now() -> Self {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let processes = entries.filter_map(|entry| {
            let number: u32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read(entry.path().join("stat")).ok()?;
            Some((number, read(&String::from_utf8_lossy(&stat))?))
        });
        Self(processes.collect())
    }

    /// A process and all below it, against an earlier moment.
    pub(super) fn tree(&self, root: u32, before: &Self) -> Usage {
        let mut tree = BTreeSet::from([root]);
        // A child may have a lower number than its parent, so one walk is not enough.
        loop {
            let known = tree.len();
            let below = self
                .0
                .iter()
                .filter(|(_, process)| tree.contains(&process.parent));
            tree.extend(below.map(|(number, _)| *number).collect::<Vec<_>>());
            if tree.len() == known {
                break;
            }
        }
        let size = |what, otherwise| {
            let found = sysconf(what).ok().flatten();
            found
                .and_then(|found| u64::try_from(found).ok())
                .unwrap_or(otherwise)
        };
        let (page, second) = (
            size(SysconfVar::PAGE_SIZE, 4096),
            size(SysconfVar::CLK_TCK, 100),
        );
        let mut usage = Usage::default();
        for (number, process) in &self.0 {
            if !tree.contains(number) {
                continue;
            }
            let earlier = before.0.get(number);
            let earlier = earlier.filter(|earlier| earlier.started == process.started);
            let ticks = process
                .ticks
                .saturating_sub(earlier.map_or(0, |earlier| earlier.ticks));
            usage.processes += 1;
            usage.memory = usage
                .memory
                .saturating_add(process.pages.saturating_mul(page));
            usage.busy_ms += ticks.saturating_mul(1000) / second.max(1);
        }
        usage
    }
}

/// `/proc/PID/stat`: the name may hold anything, so the fields are counted from its last bracket. There the
/// third is the state, the fourth the parent.
fn read(stat: &str) -> Option<Process> {
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(Process {
        parent: u32::try_from(field(4)?).ok()?,
        ticks: field(14)?.saturating_add(field(15)?),
        started: field(22)?,
        pages: field(24)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name_is() {
        let stat = "7 (a) S 1 (b) R 4 7 7 0 -1 4194304 90 0 0 0 11 22 0 0 20 0 1 0 555 4096 33 1";
        let expected = Process {
            parent: 4,
            started: 555,
            ticks: 33,
            pages: 33,
        };
        assert_eq!(read(stat), Some(expected));
        assert_eq!(read("7 (a) S 1"), None);
    }

    #[test]
    fn a_tree_is_all_below_and_a_number_given_anew_is_another_process() {
        let process = |parent, started, ticks| Process {
            parent,
            started,
            ticks,
            pages: 1,
        };
        let before = Processes([(9, process(1, 5, 100)), (3, process(9, 6, 50))].into());
        let now = Processes(
            [
                (9, process(1, 5, 110)),
                (3, process(9, 7, 20)),
                (2, process(3, 8, 0)),
                (4, process(1, 8, 1000)),
            ]
            .into(),
        );
        let usage = now.tree(9, &before);
        let ticks = u64::try_from(sysconf(SysconfVar::CLK_TCK).unwrap().unwrap()).unwrap();
        assert_eq!((usage.processes, usage.busy_ms), (3, 30 * 1000 / ticks));
    }
}
