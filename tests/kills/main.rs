//! `kill -9` of any process at any time leaves no orphan process, mount, namespace, control group, rule or
//! file, and every log verifies.
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
mod fence;
#[path = "../support/random.rs"]
mod random;
mod scene;
mod traces;
mod tree;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use cli::{EVERYONE, Run};
use fence::Fence;
use random::Random;
use rustix::process::Signal;
use scene::{Ground, Origin};
use tree::{Identity, Member, Role, Tree};

const KILLS: u64 = 1000;

/// Kills after which everything is ended and looked over.
const BATCH: u64 = 50;

/// With the sweeper, those whose deaths together leave what nobody is there to remove, but the next session.
const ENDS: [Role; 5] = [
    Role::Session,
    Role::DetachedSession,
    Role::Bubblewrap,
    Role::FirstProcess,
    Role::Init,
];

/// Sessions at once.
const SESSIONS: usize = 12;

/// Most moments of a start are within this many microseconds.
const START: u64 = 50_000;

#[test]
fn a_thousand_kills_of_anything_at_any_time_leave_nothing_and_every_log_verifies() {
    let seed = Random::seed();
    let fence = Fence::enter();
    let origin = Origin::start();
    let mut battle = Battle::new(seed, fence, origin);
    let mut batch = 0;
    while battle.kills < KILLS {
        batch += 1;
        battle.spares_one = batch % 2 == 1;
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
        "{} kills ({}) in {} sessions, {} requests",
        battle.kills,
        told.join(", "),
        battle.sessions,
        battle.origin.requests()
    );
    // Init and intercept live for milliseconds: not every seed hits them.
    for role in [
        Role::Session,
        Role::DetachedSession,
        Role::Bubblewrap,
        Role::FirstProcess,
        Role::Command,
        Role::Gate,
        Role::AuditWriter,
        Role::Sweeper,
        Role::Reach,
    ] {
        assert!(
            battle.by_role.contains_key(&role),
            "{role:?} was never killed"
        );
    }
    assert!(battle.origin.requests() > 100, "nobody did anything");
}

/// Two users' sessions, and what was done to them.
struct Battle {
    random: Random,
    fence: Fence,
    origin: Origin,
    grounds: Vec<Ground>,
    /// What was there before.
    host: BTreeSet<String>,
    trees: Vec<Tree>,
    /// Processes that we started, and have not reaped; with the session's name.
    started: Vec<Started>,
    kills: u64,
    sessions: u64,
    by_role: BTreeMap<Role, u64>,
    /// Which of a session's processes were killed in this batch.
    killed: HashMap<Identity, HashSet<Role>>,
    /// Whether of a session's two processes that clean up one is left alone in this batch.
    spares_one: bool,
    /// Logs whose writer was killed.
    cut: HashSet<PathBuf>,
    /// Writers that were killed before they had a log.
    nameless: u64,
}

struct Started {
    child: Child,
    ground: usize,
    session: Option<String>,
}

impl Battle {
    fn new(seed: u64, fence: Fence, origin: Origin) -> Self {
        let grounds: Vec<Ground> = EVERYONE
            .into_iter()
            .map(|who| Ground::new(who, origin.address))
            .collect();
        let trees = grounds
            .iter()
            .map(|ground| Tree::new(&ground.install.path("bin")));
        Self {
            random: Random::new(seed),
            host: traces::of_host(
                &grounds
                    .iter()
                    .map(|ground| &ground.install)
                    .collect::<Vec<_>>(),
            ),
            trees: trees.collect(),
            fence,
            origin,
            grounds,
            started: Vec::new(),
            kills: 0,
            sessions: 0,
            by_role: BTreeMap::new(),
            killed: HashMap::new(),
            spares_one: false,
            cut: HashSet::new(),
            nameless: 0,
        }
    }

    /// Kills until there were so many, with sessions running and starting all the time.
    fn fight(&mut self, until: u64) {
        let deadline = Instant::now() + Duration::from_mins(3);
        while self.kills < until {
            assert!(Instant::now() < deadline, "there is hardly anybody to kill");
            self.reap();
            let running = self
                .started
                .iter()
                .filter(|one| one.session.is_some())
                .count();
            let starts = running < SESSIONS && self.random.percent(70);
            if starts {
                self.start();
            }
            if self.random.percent(20) {
                self.forward();
            }
            let newest = starts && self.random.percent(30);
            // On a loaded machine a start takes longer.
            let longest = if newest && self.random.percent(40) {
                4 * START
            } else {
                START
            };
            let moment = self.random.below(longest);
            thread::sleep(Duration::from_micros(moment));
            self.strike(newest);
        }
    }

    fn start(&mut self) {
        let place = usize::try_from(self.random.below(2)).unwrap();
        let can_limit = self.fence.can_limit();
        let (child, name) = self.grounds[place].start(&mut self.random, can_limit);
        self.sessions += 1;
        self.started.push(Started {
            child,
            ground: place,
            session: Some(name),
        });
    }

    /// Forwards to a port of a session, and connects: that starts its helper.
    fn forward(&mut self) {
        let named: Vec<_> = self
            .started
            .iter()
            .filter_map(|one| Some((one.ground, one.session.clone()?)))
            .collect();
        // Of the older ones: it has to run.
        let older = &named[..named.len() / 2];
        if older.is_empty() {
            return;
        }
        let (place, session) = self.random.one(older).clone();
        let mut child = self.grounds[place].forward(&session);
        let output = child.stdout.take().unwrap();
        self.started.push(Started {
            child,
            ground: place,
            session: None,
        });
        // It ends when it is killed, with its session.
        thread::spawn(move || {
            let mut line = String::new();
            let mut output = BufReader::new(output);
            output.read_line(&mut line).ok()?;
            let address = line
                .split_whitespace()
                .find(|word| word.starts_with("127."))?;
            let mut stream = TcpStream::connect(address).ok()?;
            stream.read(&mut [0]).ok()
        });
    }

    /// One kill or several at once, of processes of one session.
    fn strike(&mut self, newest: bool) {
        let of_newest = self.started.iter().rfind(|one| one.session.is_some());
        let of_newest = of_newest.filter(|_| newest);
        let child = of_newest.map(|one| i32::try_from(one.child.id()).unwrap());
        let place = of_newest.map_or_else(
            || usize::try_from(self.random.below(2)).unwrap(),
            |one| one.ground,
        );
        let mut members = self.trees[place].look();
        if let Some(child) = child {
            members.retain(|member| member.owner.pid == child);
        } else if self.random.percent(70) {
            // One whose command runs: a session is killed before that more often than it lives to see it.
            let commands = of_role(&members, Role::Command).into_iter();
            let running: HashSet<Identity> = commands.map(|command| command.owner).collect();
            members.retain(|member| running.contains(&member.owner));
        }
        let roles: HashSet<Role> = members.iter().map(|member| member.role).collect();
        let mut roles: Vec<Role> = roles.into_iter().collect();
        roles.sort();
        if roles.is_empty() {
            return;
        }
        // Half of the time any process, else any kind of process: there are many commands.
        let first = if self.random.percent(50) {
            *self.random.one(&members)
        } else {
            let role = *self.random.one(&roles);
            let same: Vec<Member> = of_role(&members, role);
            *self.random.one(&same)
        };
        let count = [1, 1, 1, 2, 2, 3, 5][usize::try_from(self.random.below(7)).unwrap()];
        let mut victims = vec![first];
        members.retain(|one| one.owner == first.owner && one.identity != first.identity);
        while victims.len() < count && !members.is_empty() {
            let next = usize::try_from(self.random.below(members.len() as u64)).unwrap();
            victims.push(members.swap_remove(next));
        }
        for victim in victims {
            self.kill(victim);
        }
    }

    fn kill(&mut self, victim: Member) {
        let killed = self.killed.entry(victim.owner).or_default();
        if self.spares_one {
            let others = killed.iter().any(|role| ENDS.contains(role));
            // Of a session that was never seen it is not known what was killed.
            let stray = victim.owner == victim.identity;
            let spared = match victim.role {
                Role::Sweeper => others || stray,
                role => ENDS.contains(&role) && killed.contains(&Role::Sweeper),
            };
            if spared {
                return;
            }
        }
        // Asked before: then it is gone.
        let log = (victim.role == Role::AuditWriter).then(|| victim.log());
        if !victim.kill() {
            return;
        }
        match log {
            Some(Some(log)) => {
                self.cut.insert(log);
            }
            Some(None) => self.nameless += 1,
            None => {}
        }
        let killed = self.killed.entry(victim.owner).or_default();
        killed.insert(victim.role);
        *self.by_role.entry(victim.role).or_default() += 1;
        self.kills += 1;
    }

    fn reap(&mut self) {
        self.started
            .retain_mut(|one| one.child.try_wait().unwrap().is_none());
    }

    /// Ends what still runs, as a person would, and looks for what is left.
    fn look_over(&mut self, context: &str) {
        for one in &mut self.started {
            if one.session.is_none() {
                // A forward of a session that ended has ended, too; this one may not have.
                one.child.kill().unwrap();
            }
        }
        for tree in &mut self.trees {
            for member in tree.look() {
                if matches!(member.role, Role::Session | Role::DetachedSession) {
                    member.signal(Signal::TERM);
                }
            }
        }
        let mut pending = std::mem::take(&mut self.started);
        let reaper = thread::spawn(move || {
            for one in &mut pending {
                one.child.wait().unwrap();
            }
        });
        let installs: Vec<_> = self.grounds.iter().map(|ground| &ground.install).collect();
        traces::await_no_process(&installs, &self.fence, context);
        reaper.join().unwrap();
        let host = traces::of_host(&installs);
        let new: Vec<_> = host.difference(&self.host).collect();
        assert_eq!(new, Vec::<&String>::new(), "{context}");
        self.killed.clear();
        if self.spares_one {
            // Either of the two cleans up at once.
            assert_eq!(self.fence.groups(), Vec::<PathBuf>::new(), "{context}");
        }
        for ground in &self.grounds {
            let install = &ground.install;
            if self.spares_one {
                assert_eq!(
                    traces::workspace(install),
                    Vec::<PathBuf>::new(),
                    "{context}"
                );
            }
            // What only a killed session could have removed is removed by whoever looks next.
            let ps = Run::of(&install.portcullis(["ps"]));
            let nothing = Run {
                status: Some(0),
                stdout: String::new(),
                stderr: String::new(),
            };
            assert_eq!(ps, nothing, "{context}");
            assert_eq!(traces::files(install), Vec::<PathBuf>::new(), "{context}");
            if !traces::workspace(install).is_empty() {
                // Placeholders belong to a workspace: the next session there takes them over.
                let next = install.run(&[], &["true"]);
                assert_eq!(
                    (next.status, next.stderr.as_str()),
                    (Some(0), ""),
                    "{context}"
                );
                assert_eq!(
                    traces::workspace(install),
                    Vec::<PathBuf>::new(),
                    "{context}"
                );
            }
        }
        assert_eq!(self.fence.groups(), Vec::<PathBuf>::new(), "{context}");
    }

    /// Every log holds, and ends with the session's end unless its writer was killed.
    fn verify_logs(&self) {
        let mut logs = 0;
        let mut open = 0;
        for ground in &self.grounds {
            let verified = Run::of(&ground.install.portcullis(["audit", "verify", "--json"]));
            assert_eq!(verified.stderr, "");
            let mut told = 0;
            for line in verified.stdout.lines() {
                let report: serde_json::Value = serde_json::from_str(line).unwrap();
                let Some(log) = report["log"].as_str() else {
                    // The ledger, which holds whoever was killed.
                    assert!(report["broken"].is_null(), "{line}");
                    continue;
                };
                told += 1;
                assert!(report["ledger"]["flaw"].is_null(), "{line}");
                let log = PathBuf::from(log);
                logs += 1;
                if !self.cut.contains(&log) {
                    let state = &report["state"];
                    let known = state == "complete" || open < self.nameless;
                    open += u64::from(state != "complete");
                    assert!(report["broken"].is_null() && known, "{line}");
                } else if let Some(flaw) = report["broken"].as_object() {
                    // Killed while it wrote: the last record is not whole, all before it hold.
                    assert_eq!(flaw["flaw"], "truncated", "{line}");
                }
            }
            assert_eq!(told, ground.logs().len());
        }
        assert!(logs > 0);
    }
}

fn of_role(members: &[Member], role: Role) -> Vec<Member> {
    members
        .iter()
        .filter(|one| one.role == role)
        .copied()
        .collect()
}
