//! The processes of an installation's sessions: which there are, what each is, whose it is, and how one of
//! them is killed and no other.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// What a process of a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Role {
    Session,
    DetachedSession,
    Bubblewrap,
    FirstProcess,
    Init,
    Command,
    Gate,
    AuditWriter,
    Sweeper,
    Intercept,
    Reach,
}

/// A process, known by its number and the moment when it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Identity {
    pub(crate) pid: i32,
    started: u64,
}

/// A process of a session.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Member {
    pub(crate) identity: Identity,
    pub(crate) role: Role,
    /// The session process, or who stands for one that was never seen.
    pub(crate) owner: Identity,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} {} of {}",
            self.role, self.identity.pid, self.owner.pid
        )
    }
}

/// `/proc/PID/stat`, what of it matters.
struct Stat {
    identity: Identity,
    parent: i32,
}

/// Everything that was ever seen.
#[derive(Debug)]
pub(crate) struct Tree {
    programs: PathBuf,
    known: HashMap<Identity, Member>,
}

impl Tree {
    /// Processes whose programs are in this folder, and their descendants.
    pub(crate) fn new(programs: &Path) -> Self {
        Self {
            programs: programs.to_owned(),
            known: HashMap::new(),
        }
    }

    /// Those that live now.
    pub(crate) fn look(&mut self) -> Vec<Member> {
        let all: BTreeMap<i32, Stat> = numbers()
            .filter_map(|pid| Some((pid, stat(pid)?)))
            .collect();
        let mut members = Vec::new();
        for one in all.values() {
            if let Some(member) = self.place(one, &all) {
                members.push(member);
            }
        }
        members
    }

    fn place(&mut self, one: &Stat, all: &BTreeMap<i32, Stat>) -> Option<Member> {
        let above = self.owner_above(one, all);
        let known = self.known.get(&one.identity).map(|member| member.owner);
        let folder = PathBuf::from(format!("/proc/{}", one.identity.pid));
        let program = fs::read_link(folder.join("exe")).ok()?;
        let name = program.file_name()?.to_str()?;
        let ours = program.starts_with(&self.programs);
        let line = fs::read(folder.join("cmdline")).ok()?;
        let argument = line.split(|byte| *byte == 0).nth(1).unwrap_or_default();
        let parent = all.get(&one.parent);
        let parents_role = parent.and_then(|parent| self.known.get(&parent.identity));
        let role = match (name, argument) {
            ("portcullis", b"run") if ours => Role::Session,
            ("portcullis", b"detached-session") if ours => Role::DetachedSession,
            // ps, forward and the like are no part of a session.
            ("portcullis", _) if ours => return None,
            ("portcullis-gate", _) if ours => Role::Gate,
            ("portcullis-audit", _) if ours => Role::AuditWriter,
            ("portcullis-init", b"sweep") if ours => Role::Sweeper,
            ("portcullis-init", b"intercept") if ours => Role::Intercept,
            ("portcullis-init", b"reach") if ours => Role::Reach,
            ("portcullis-init", _) if ours => Role::Init,
            ("bwrap", _)
                if parents_role.is_some_and(|parent| {
                    matches!(parent.role, Role::Bubblewrap | Role::FirstProcess)
                }) =>
            {
                Role::FirstProcess
            }
            ("bwrap", _) if above.is_some() || known.is_some() => Role::Bubblewrap,
            _ if above.is_some() || known.is_some() => Role::Command,
            _ => return None,
        };
        let member = Member {
            identity: one.identity,
            role,
            owner: known.or(above).unwrap_or(one.identity),
        };
        self.known.insert(one.identity, member);
        Some(member)
    }

    /// Whose this process is by its ancestors.
    fn owner_above(&self, one: &Stat, all: &BTreeMap<i32, Stat>) -> Option<Identity> {
        let mut next = all.get(&one.parent);
        // Numbers may change hands while they are read: no loop.
        for _ in 0..64 {
            let parent = next?;
            if let Some(member) = self.known.get(&parent.identity) {
                return Some(member.owner);
            }
            next = all.get(&parent.parent);
        }
        None
    }
}

impl Member {
    /// Kills it (SIGKILL) if it is still the process that was seen.
    pub(crate) fn kill(&self) -> bool {
        self.signal(Signal::KILL)
    }

    /// Sends it a signal; whether it was still there.
    pub(crate) fn signal(&self, signal: Signal) -> bool {
        let pid = Pid::from_raw(self.identity.pid).unwrap();
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else {
            return false;
        };
        // The number was this process's after the descriptor was opened: so the descriptor is its own.
        stat(self.identity.pid).is_some_and(|now| now.identity == self.identity)
            && pidfd_send_signal(process, signal).is_ok()
    }

    /// The log that an audit writer writes, if it has opened it.
    pub(crate) fn log(&self) -> Option<PathBuf> {
        let files = fs::read_dir(format!("/proc/{}/fd", self.identity.pid)).ok()?;
        let mut targets = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
        targets.find(|target| target.extension().is_some_and(|ending| ending == "jsonl"))
    }
}

/// The numbers of all processes.
pub(crate) fn numbers() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").unwrap();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// None: it is gone, or only waits to be reaped.
fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // A name may have spaces and parentheses.
    let (_, rest) = text.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    if matches!(*fields.first()?, "Z" | "X") {
        return None;
    }
    Some(Stat {
        identity: Identity {
            pid,
            started: fields.get(19)?.parse().ok()?,
        },
        parent: fields.get(1)?.parse().ok()?,
    })
}

/// Whether a process lives, one that nobody has reaped not counted.
pub(crate) fn lives(pid: i32) -> bool {
    stat(pid).is_some()
}
