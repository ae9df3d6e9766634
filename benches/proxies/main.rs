//! The gate beside proxies that people use instead, each doing the same work in the same run: rounds are
//! interleaved, figures are medians. What is compared first is the CPU time of the proxy's own processes
//! (with ours: gate and audit writer, policy enforced, every decision on record, the client in the jail);
//! rates and latencies share two cores with the client and the origin, so read them as ratios.
//!
//! Proxies that are not installed are left out and named; `scripts/bench` installs them first.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::format_push_string,
    clippy::similar_names,
    reason = "a benchmark"
)]

mod load;
mod origin;
mod rivals;
mod table;

use std::path::Path;

use origin::Origin;
use rivals::{Kind, Proxy};
use table::{Job, Sample};

/// Rounds of every row; the median counts.
const ROUNDS: usize = 3;

const JOBS: &[Job] = &[
    Job {
        title: "plain HTTP GET 1 KiB, kept connections",
        kind: Kind::Http,
        way: "plain",
        units: 10_000,
        clients: 8,
        size: 1024,
        per: "10k requests",
    },
    Job {
        title: "CONNECT, then close",
        kind: Kind::Http,
        way: "connect",
        units: 2_000,
        clients: 8,
        size: 0,
        per: "10k tunnels",
    },
    Job {
        title: "new tunnel, TLS 1.3, one GET",
        kind: Kind::Http,
        way: "tunnel",
        units: 2_000,
        clients: 8,
        size: 1024,
        per: "10k tunnels",
    },
    Job {
        title: "new SOCKS5 tunnel, TLS 1.3, one GET",
        kind: Kind::Socks,
        way: "socks",
        units: 2_000,
        clients: 8,
        size: 1024,
        per: "10k tunnels",
    },
    Job {
        title: "1 GiB through one tunnel",
        kind: Kind::Http,
        way: "bulk",
        units: 1,
        clients: 1,
        size: 1 << 30,
        per: "GiB",
    },
    Job {
        title: "8 × 256 MiB through eight tunnels at once",
        kind: Kind::Http,
        way: "bulk",
        units: 8,
        clients: 8,
        size: 256 << 20,
        per: "GiB",
    },
    Job {
        title: "inspected HTTPS GET 1 KiB, kept connections",
        kind: Kind::Inspecting,
        way: "kept",
        units: 10_000,
        clients: 8,
        size: 1024,
        per: "10k requests",
    },
    Job {
        title: "inspected, a new connection for each GET",
        kind: Kind::Inspecting,
        way: "tunnel",
        units: 1_000,
        clients: 8,
        size: 1024,
        per: "10k requests",
    },
    Job {
        title: "inspected, a new name and certificate for each handshake, no request",
        kind: Kind::InspectingNewHosts,
        way: "handshake",
        units: 1_000,
        clients: 8,
        size: 0,
        per: "10k handshakes",
    },
    Job {
        title: "inspected, a new host (and certificate) for each GET",
        kind: Kind::InspectingNewHosts,
        way: "tunnel",
        units: 1_000,
        clients: 8,
        size: 1024,
        per: "10k requests",
    },
];

fn main() {
    if std::env::args().nth(1).as_deref() == Some(load::WORD) {
        return load::main();
    }
    // Names for every proxy alike, without a name server: a hosts file in a mount namespace of our own.
    origin::enter_own_names();
    let origin = Origin::start();
    let folder = tempfile::tempdir().unwrap();
    let mut missing = Vec::new();
    for job in JOBS {
        run(job, &origin, folder.path(), &mut missing);
    }
    table::idle_connections(&origin, folder.path());
    missing.sort_unstable();
    missing.dedup();
    if !missing.is_empty() {
        println!(
            "not installed here, so not measured: {}",
            missing.join(", ")
        );
    }
}

fn run(job: &Job, origin: &Origin, folder: &Path, missing: &mut Vec<&'static str>) {
    let (mut proxies, absent) = Proxy::of(job.kind, origin, folder);
    missing.extend(absent);
    let mut samples: Vec<Vec<Sample>> = proxies.iter().map(|_| Vec::new()).collect();
    let mut upstream: Vec<usize> = vec![0; proxies.len()];
    for _ in 0..ROUNDS {
        for (place, proxy) in proxies.iter_mut().enumerate() {
            let before = origin.connections();
            match proxy.measure(job, origin) {
                Ok(sample) => samples[place].push(sample),
                Err(problem) => panic!("{}: {}: {problem}", job.title, proxy.name()),
            }
            upstream[place] = origin.connections() - before;
        }
    }
    let names: Vec<&str> = proxies.iter().map(Proxy::name).collect();
    table::print(job, &names, &samples, &upstream);
}
