//! The processes of a host's service: the daemon, what it starts, and whatever is in a session.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// What a process of the service is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    Daemon,
    Caller,
    Session,
    Gate,
    AuditWriter,
    Bubblewrap,
    Init,
    Command,
}

/// A process that was seen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Member {
    pub(crate) pid: i32,
    /// When it started, in ticks: with the number it is nobody else.
    started: u64,
    pub(crate) role: Role,
}

/// Everybody.
#[derive(Debug)]
pub(crate) struct Crowd {
    /// Where the programs of this host are.
    programs: PathBuf,
    /// What every path of this host begins with.
    mark: String,
}

impl Crowd {
    /// Processes whose programs are in `bin` of this folder, and those of their sessions.
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            programs: root.join("bin"),
            mark: root.display().to_string(),
        }
    }

    /// Those that live now.
    pub(crate) fn look(&self) -> Vec<Member> {
        let entries = fs::read_dir("/proc").unwrap();
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        pids.filter_map(|pid| self.place(pid)).collect()
    }

    fn place(&self, pid: i32) -> Option<Member> {
        let started = started(pid)?;
        let role = match self.ours(pid) {
            Some((role, _)) => role,
            None if self.is_of_a_session(pid)? => {
                let program = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
                if program.file_name()? == "bwrap" {
                    Role::Bubblewrap
                } else {
                    Role::Command
                }
            }
            None => return None,
        };
        Some(Member { pid, started, role })
    }

    /// Whether it is in a user namespace of its own, and this host's folders are among its mounts.
    fn is_of_a_session(&self, pid: i32) -> Option<bool> {
        let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/user")).ok();
        if namespace(&pid.to_string())? == namespace("self")? {
            return Some(false);
        }
        let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).ok()?;
        Some(mounts.contains(&self.mark))
    }

    /// What one of our own programs is.
    fn ours(&self, pid: i32) -> Option<(Role, PathBuf)> {
        let program = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
        if !program.starts_with(&self.programs) {
            return None;
        }
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let argument = line.split(|byte| *byte == 0).nth(1).unwrap_or_default();
        let role = match (program.file_name()?.to_str()?, argument) {
            ("portcullisd", _) => Role::Daemon,
            ("portcullis", b"service-session") => Role::Session,
            ("portcullis", _) => Role::Caller,
            ("portcullis-gate", _) => Role::Gate,
            ("portcullis-audit", _) => Role::AuditWriter,
            ("portcullis-init", _) => Role::Init,
            _ => return None,
        };
        Some((role, program))
    }
}

impl Member {
    /// Sends it a signal; whether it was still there.
    pub(crate) fn signal(&self, signal: Signal) -> bool {
        let pid = Pid::from_raw(self.pid).unwrap();
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else {
            return false;
        };
        // The number was this process's after the descriptor was opened: so the descriptor is its own.
        started(self.pid) == Some(self.started) && pidfd_send_signal(process, signal).is_ok()
    }

    /// For whoever wonders why it is still there.
    pub(crate) fn described(&self) -> String {
        let text = |name: &str| {
            let path = format!("/proc/{}/{name}", self.pid);
            fs::read_to_string(path).unwrap_or_default()
        };
        let status = text("status");
        let parent = status.lines().find(|line| line.starts_with("PPid"));
        format!(
            "{:?} {}: {} {} at {}",
            self.role,
            self.pid,
            text("cmdline").replace('\0', " "),
            parent.unwrap_or_default(),
            text("wchan")
        )
    }
}

/// None: it is gone, or only waits to be reaped.
fn started(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // A name may have spaces and parentheses.
    let (_, rest) = text.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    if matches!(*fields.first()?, "Z" | "X") {
        return None;
    }
    fields.get(19)?.parse().ok()
}
