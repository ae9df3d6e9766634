//! One decision with 100,000 domain rules, beside one lookup in a plain hash map of as many names: the
//! least that any table costs. Prints the ratio of the two, medians of interleaved rounds.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints, and stops when its set-up is wrong"
)]

use std::collections::HashMap;
use std::hint::black_box;
use std::time::Instant;

use criterion::{Criterion, criterion_group, criterion_main};
use portcullis::policy::profile::builtin;
use portcullis::policy::{
    Effect, EgressRequest, HostPattern, NetworkPolicy, Profile, Protocol, Rule, RuleId, Ruleset,
    Verdict, decide,
};

const RULES: usize = 100_000;

/// Half exact names, half wildcards.
fn policy() -> NetworkPolicy {
    let base = Profile::read("base", &mut |name| Ok(builtin(name).map(ToOwned::to_owned)));
    let rules = (0..RULES).map(|i| {
        let star = if i % 2 == 0 { "" } else { "**." };
        Rule {
            id: RuleId::new(format!("network.rules[{i}]")),
            host: HostPattern::parse(&format!("{star}service-{i}.example.com")).unwrap(),
            ports: Vec::new(),
            methods: Vec::new(),
            paths: Vec::new(),
            protocol: Protocol::Web,
            effect: Effect::Allow,
        }
    });
    NetworkPolicy {
        rules: rules.collect(),
        ..base.unwrap().network
    }
}

fn requests(prefix: &str) -> Vec<EgressRequest> {
    (0..1024)
        .map(|i| {
            let service = ((i * 7919) % RULES) | 1;
            EgressRequest::parse(&format!("{prefix}service-{service}.example.com")).unwrap()
        })
        .collect()
}

/// Nanoseconds a call, median of interleaved rounds.
fn interleaved(rounds: usize, calls: usize, mut work: [&mut dyn FnMut(usize); 2]) -> [f64; 2] {
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for (work, times) in work.iter_mut().zip(&mut times) {
            let start = Instant::now();
            (0..calls).for_each(&mut *work);
            times.push(start.elapsed());
        }
    }
    times.map(|mut times| {
        times.sort_unstable();
        let median = times.get(rounds / 2).copied().unwrap_or_default();
        median.as_secs_f64() * 1e9 / f64::from(u32::try_from(calls).unwrap())
    })
}

fn benchmark(criterion: &mut Criterion) {
    let policy = policy();
    let rules = Ruleset::compile(&policy);
    let map: HashMap<String, usize> = policy
        .rules
        .iter()
        .enumerate()
        .map(|(i, rule)| (rule.host.to_string(), i))
        .collect();
    let deep = requests("a.b.");
    let names: Vec<String> = policy
        .rules
        .iter()
        .step_by(97)
        .map(|rule| rule.host.to_string())
        .collect();
    assert_eq!(
        decide(&rules, deep.first().unwrap()).verdict,
        Verdict::Allow
    );

    let [decision, lookup] = interleaved(
        101,
        10_000,
        [
            &mut |i| drop(black_box(decide(&rules, deep.get(i % deep.len()).unwrap()))),
            &mut |i| {
                black_box(map.get(names.get(i % names.len()).unwrap()));
            },
        ],
    );
    println!(
        "decide, {RULES} rules, 5 labels: {decision:.0} ns; one hash map lookup: {lookup:.0} ns; ratio {:.2}",
        decision / lookup
    );

    let mut group = criterion.benchmark_group("decide");
    for (name, requests) in [
        ("wildcard", requests("a.b.")),
        ("apex", requests("")),
        ("miss", requests("x-")),
    ] {
        let mut next = requests.iter().cycle();
        group.bench_function(name, |b| b.iter(|| decide(&rules, next.next().unwrap())));
    }
    group.finish();
}

criterion_group!(benches, benchmark);
criterion_main!(benches);
