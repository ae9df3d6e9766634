//! `kill -9` of any process of the service at any time, portcullisd with the rest: no orphan process, mount,
//! control group or file is left, nothing stays in the descriptor store, the next daemon serves, and every log
//! verifies.
//!
//! The moments and the victims are random. The seed is printed; `PORTCULLIS_KILLS_SEED` sets it.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests may panic, print and start programs"
)]

#[path = "../support/cli.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod cli;
mod crowd;
#[path = "../support/fd_store.rs"]
mod fd_store;
#[path = "../support/random.rs"]
mod random;
#[path = "../support/service.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod service;
mod traces;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crowd::{Crowd, Member, Role};
use random::Random;
use rustix::process::Signal;
use service::{ADA, BOB, Service, User};

const KILLS: u64 = 300;

/// Kills after which everything is ended and looked over.
const BATCH: u64 = 50;

/// Sessions at once.
const SESSIONS: usize = 10;

/// Most moments of a start are within this many microseconds.
const START: u64 = 60_000;

/// Asks the gate again and again, among processes that only wait.
const SCRIPT: &str = "while sleep 0.2; do curl -s -m 20 -o /dev/null http://blocked.test/; done & \
                      sleep 1000 & sh -c 'sleep 1000; true' & wait";

#[test]
fn kills_of_anything_of_the_service_at_any_time_leave_nothing_and_every_log_verifies() {
    let seed = Random::seed();
    let mut battle = Battle::new(seed);
    let mut batch = 0;
    while battle.kills < KILLS {
        batch += 1;
        battle.fight(battle.kills + BATCH);
        battle.look_over(&format!("seed {seed}, batch {batch}"));
    }
    battle.verify_logs();
    let told: Vec<String> = battle
        .by_role
        .iter()
        .map(|(role, count)| format!("{role:?} {count}"))
        .collect();
    eprintln!(
        "{} kills ({}) in {} sessions",
        battle.kills,
        told.join(", "),
        battle.sessions
    );
    for role in [
        Role::Daemon,
        Role::Session,
        Role::Gate,
        Role::AuditWriter,
        Role::Bubblewrap,
        Role::Command,
    ] {
        assert!(
            battle.by_role.contains_key(&role),
            "{role:?} was never killed"
        );
    }
}

/// Two users' sessions, and what was done to them.
struct Battle {
    random: Random,
    host: Service,
    crowd: Crowd,
    /// What was there before.
    before: BTreeSet<String>,
    descriptors: usize,
    started: Vec<Child>,
    daemon_lives: bool,
    kills: u64,
    sessions: u64,
    by_role: BTreeMap<Role, u64>,
}

impl Battle {
    fn new(seed: u64) -> Self {
        let host = Service::start("");
        for user in [ADA, BOB] {
            let run = host.run(user, &["run", "-q", "--limit", "tasks=100", "--", "true"]);
            assert_eq!((run.status, run.stderr.as_str()), (Some(0), ""), "{run:#?}");
        }
        host.until("the first sessions are over", || {
            host.store.kept().is_empty()
        });
        let descriptors = traces::descriptors(host.daemon());
        Self {
            random: Random::new(seed),
            crowd: Crowd::new(&host.path("")),
            before: traces::of_host(&host),
            descriptors,
            host,
            started: Vec::new(),
            daemon_lives: true,
            kills: 0,
            sessions: 0,
            by_role: BTreeMap::new(),
        }
    }

    /// Kills until there were so many, with sessions running and starting all the time.
    fn fight(&mut self, until: u64) {
        let deadline = Instant::now() + Duration::from_mins(3);
        while self.kills < until {
            assert!(Instant::now() < deadline, "there is hardly anybody to kill");
            self.started
                .retain_mut(|child| child.try_wait().unwrap().is_none());
            if !self.daemon_lives && self.random.percent(50) {
                self.host.restart_daemon();
                self.daemon_lives = true;
            }
            if self.started.len() < SESSIONS && self.random.percent(70) {
                self.start();
            }
            thread::sleep(Duration::from_micros(self.random.below(START)));
            self.strike();
        }
    }

    fn start(&mut self) {
        self.sessions += 1;
        let name = format!("session-{}", self.sessions);
        let user: User = *self.random.one(&[ADA, BOB]);
        let mut arguments = vec!["run", "-q", "--name", &name];
        if self.random.percent(40) {
            arguments.push("-d");
        }
        if self.random.percent(50) {
            arguments.extend(["--limit", "memory=256M", "--limit", "tasks=100"]);
        }
        arguments.extend(["--", "sh", "-c", SCRIPT]);
        let mut command = self.host.portcullis(user, &arguments);
        let command = command.stdout(Stdio::null()).stderr(Stdio::null());
        self.started.push(command.spawn().unwrap());
    }

    /// One kill or several at once.
    fn strike(&mut self) {
        let count = [1, 1, 1, 2, 2, 3, 5][usize::try_from(self.random.below(7)).unwrap()];
        let members = self.crowd.look();
        for _ in 0..count {
            // Half of the time any process, else any kind of process: there are many commands.
            let victim = if self.random.percent(50) {
                (!members.is_empty()).then(|| *self.random.one(&members))
            } else {
                let roles: BTreeSet<Role> = members.iter().map(|member| member.role).collect();
                let roles: Vec<Role> = roles.into_iter().collect();
                (!roles.is_empty()).then(|| {
                    let role = *self.random.one(&roles);
                    let same: Vec<Member> = members
                        .iter()
                        .filter(|member| member.role == role)
                        .copied()
                        .collect();
                    *self.random.one(&same)
                })
            };
            let Some(victim) = victim else {
                return;
            };
            // The end of one of these is the end of much else: more is left to die by itself.
            let ends_much = matches!(victim.role, Role::Daemon | Role::Caller | Role::Session);
            if ends_much && self.random.percent(70) {
                continue;
            }
            // Children that the daemon has just forked are as it is.
            if victim.pid == i32::try_from(self.host.daemon()).unwrap() {
                if !self.daemon_lives {
                    continue;
                }
                self.host.kill_daemon();
                self.daemon_lives = false;
            } else if !victim.signal(Signal::KILL) {
                continue;
            }
            *self.by_role.entry(victim.role).or_default() += 1;
            self.kills += 1;
        }
    }

    /// Ends what still runs, as a person would, and looks for what is left.
    fn look_over(&mut self, context: &str) {
        if !self.daemon_lives {
            self.host.restart_daemon();
            self.daemon_lives = true;
        }
        let daemon = i32::try_from(self.host.daemon()).unwrap();
        let until = Instant::now() + Duration::from_mins(1);
        loop {
            let left: Vec<Member> = self.crowd.look();
            let left: Vec<&Member> = left.iter().filter(|one| one.pid != daemon).collect();
            if left.is_empty() {
                break;
            }
            for member in &left {
                if member.role == Role::Session {
                    member.signal(Signal::TERM);
                }
            }
            if Instant::now() > until {
                let told: Vec<String> = left.iter().map(|one| one.described()).collect();
                panic!("{context}: processes are left:\n{}", told.join("\n"));
            }
            thread::sleep(Duration::from_millis(50));
            self.started
                .retain_mut(|child| child.try_wait().unwrap().is_none());
        }
        for child in &mut self.started {
            child.wait().unwrap();
        }
        self.started.clear();
        let host = &self.host;
        host.until(&format!("{context}: nothing is kept"), || {
            host.store.kept().is_empty()
        });
        host.until(&format!("{context}: no descriptor is left"), || {
            traces::descriptors(host.daemon()) <= self.descriptors
        });
        for user in [ADA, BOB] {
            // What only a killed session could have removed is removed by whoever looks next.
            let ps = host.run(user, &["ps"]);
            assert_eq!(
                (ps.status, ps.stdout.as_str(), ps.stderr.as_str()),
                (Some(0), "", ""),
                "{context}"
            );
            assert_eq!(
                traces::sockets(host, user),
                Vec::<PathBuf>::new(),
                "{context}"
            );
            let next = host.run(user, &["run", "-q", "--", "true"]);
            assert_eq!(
                (next.status, next.stderr.as_str()),
                (Some(0), ""),
                "{context}"
            );
            assert_eq!(
                traces::entries(&host.work(user)),
                Vec::<PathBuf>::new(),
                "{context}"
            );
        }
        // What is left of control groups the daemon looks for from time to time.
        host.until(&format!("{context}: the host is as it was"), || {
            traces::of_host(host).is_subset(&self.before)
        });
    }

    /// Every log holds. One whose writer was killed may end within a record.
    fn verify_logs(&self) {
        for user in [ADA, BOB] {
            let verified = self.host.run(user, &["audit", "verify", "--json"]);
            // No notary is in this scene.
            let said = "portcullis: audit ledger: the host has none yet; logs that the service keeps were held to \
                        their own chains alone\n";
            assert_eq!(verified.stderr, said);
            assert!(verified.stdout.lines().count() > 5, "{verified:#?}");
            for line in verified.stdout.lines() {
                let report: serde_json::Value = serde_json::from_str(line).unwrap();
                if let Some(flaw) = report["broken"].as_object() {
                    assert_eq!(flaw["flaw"], "truncated", "{line}");
                }
            }
        }
    }
}
