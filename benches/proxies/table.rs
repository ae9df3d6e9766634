//! What a row is, and how it is printed.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::origin::Origin;
use crate::rivals::{Kind, Load, Outcome, Proxy, Root};

/// One row of the comparison.
pub(crate) struct Job {
    pub(crate) title: &'static str,
    pub(crate) kind: Kind,
    /// The load generator's word for it.
    pub(crate) way: &'static str,
    /// Units of work in a round.
    pub(crate) units: u64,
    /// At once.
    pub(crate) clients: u64,
    /// Bytes of an answer.
    pub(crate) size: u64,
    /// What CPU time is told for.
    pub(crate) per: &'static str,
}

/// One round of one proxy.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    /// CPU seconds of the proxy's processes.
    pub(crate) cpu: f64,
    pub(crate) outcome: Outcome,
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
pub(crate) fn print(job: &Job, names: &[&str], samples: &[Vec<Sample>], upstream: &[usize]) {
    let bulk = job.way == "bulk";
    let volume = (job.units * job.size) as f64;
    println!("{}", job.title);
    let mut first = None;
    for ((name, samples), upstream) in names.iter().zip(samples).zip(upstream) {
        let of = |value: &dyn Fn(&Sample) -> f64| median(samples.iter().map(value).collect());
        let share = if bulk {
            volume / f64::from(1 << 30)
        } else {
            job.units as f64 / 10_000.0
        };
        let cpu = of(&|sample| sample.cpu) / share;
        let ratio = cpu / *first.get_or_insert(cpu);
        let rate = if bulk {
            format!("{:7.0} MB/s", of(&|s| volume / s.outcome.seconds) / 1e6)
        } else {
            let rate = of(&|s| s.outcome.done as f64 / s.outcome.seconds);
            let p50 = of(&|s| s.outcome.p50_ms);
            let p99 = of(&|s| s.outcome.p99_ms);
            format!(
                "{rate:7.0} /s   p50 {p50:6.2} ms   p99 {p99:6.2} ms   {upstream} connections to the origin"
            )
        };
        println!(
            "  {name:<11} {cpu:7.2} CPU s per {}  {ratio:6.2} ×   {rate}",
            job.per
        );
    }
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Memory: idle sessions, and what 1,000 open tunnels add to one.
pub(crate) fn idle_connections(origin: &Origin, folder: &Path) {
    const SESSIONS: u64 = 10;
    const TUNNELS: u64 = 1_000;
    let job = Job {
        title: "",
        kind: Kind::Http,
        way: "idle",
        units: TUNNELS,
        clients: 8,
        size: 0,
        per: "",
    };
    let Proxy::Ours {
        folder: workspace,
        profile,
        ..
    } = &Proxy::ours(Kind::Http, origin, folder)
    else {
        return;
    };
    let start = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command
            .args(["run", "--quiet", "-p"])
            .arg(profile)
            .arg("-C")
            .arg(workspace);
        command.env("XDG_STATE_HOME", folder.join("state"));
        command.args(["--", "./load", crate::load::WORD, job.way, "3128"]);
        command.arg(format!("{}:{}", crate::origin::HOST, origin.http));
        command.args([job.units.to_string(), job.clients.to_string()]);
        Load::start(command).unwrap()
    };
    let mut sessions: Vec<Load> = (0..SESSIONS).map(|_| start()).collect();
    // The load generator in the jail is the user's program, not ours.
    let whole: u64 = sessions
        .iter()
        .map(|load| pss_without_load(load.child.id()))
        .sum();
    println!("memory (PSS of all its processes but the command)");
    println!(
        "  an idle session, of {SESSIONS}          {:8.2} MB",
        megabytes(whole / SESSIONS)
    );
    let root = Root::Companions(sessions[0].child.id());
    let before: u64 = root.processes().into_iter().map(pss).sum();
    let outcome = sessions[0].go().unwrap();
    let after: u64 = root.processes().into_iter().map(pss).sum();
    println!(
        "  {} open tunnels, with ours          {:8.2} MB",
        outcome.done,
        megabytes(after.saturating_sub(before))
    );
    for session in sessions {
        session.end().unwrap();
    }
}

fn pss_without_load(session: u32) -> u64 {
    let all = Root::Whole(session).processes();
    let ours = all.into_iter().filter(|pid| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        name.trim() != "load"
    });
    ours.map(pss).sum()
}

/// KiB (proc(5), smaps_rollup).
fn pss(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("Pss:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
        .unwrap_or(0)
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn megabytes(kib: u64) -> f64 {
    kib as f64 * 1024.0 / 1e6
}
