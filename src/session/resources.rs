//! `[limits]`: what sets each, what is missing, and what is said when one is reached.
//!
//! Control groups hold memory, tasks and processor time ([`jail::cgroup`]); setrlimit(2), in the jail, holds open
//! files and the size of a file. Where no group can be made for tasks, setrlimit(2) holds them as well, but for
//! the host's uid 0, whom the kernel does not count.
//!
//! [`jail::cgroup`]: crate::jail::cgroup

use std::os::fd::{AsFd, BorrowedFd};

use super::error::LaunchError;
use crate::audit::{AuditEvent, LimitAction, Shortfall};
use crate::jail::Footing;
use crate::jail::cgroup::{Meter, Missing};
use crate::policy::{LimitsFloor, Profile, Resource, ResourceLimits};
use crate::wire::init::Rlimits;

/// Since this version `RLIMIT_NPROC` counts by user namespace: a jail's processes are counted alone.
const COUNTS_BY_NAMESPACE: (u32, u32) = (5, 14);

/// Which processes are counted with the command's: in a namespace of the jail's own its first one, which is
/// bubblewrap's; in one that root made for the session that is uid 0's, but the session and its sweeper are not.
fn our_processes(footing: Footing) -> u64 {
    match footing {
        Footing::Own => 1,
        Footing::Given => 2,
    }
}

/// Exit status of what SIGXFSZ ended: 128 + 25.
const FILE_TOO_LARGE: u8 = 153;

/// Exit status of what SIGKILL ended: 128 + 9.
const KILLED: u8 = 137;

/// How the limits of a session are set.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// What init sets.
    pub rlimits: Rlimits,
    /// What nobody sets.
    pub shortfalls: Vec<Shortfall>,
    /// The same in one line for a person.
    pub note: Option<String>,
}

/// Settles who sets what, once it is known what no control group holds. What the profile requires and nobody
/// can set is an error.
pub fn settle(
    profile: &Profile,
    missing: &[Missing],
    footing: Footing,
) -> Result<Settled, LaunchError> {
    let root = rustix::process::geteuid().is_root();
    let release = rustix::system::uname();
    let release = release.release().to_string_lossy();
    let counted = !root && version(&release).is_some_and(|found| found >= COUNTS_BY_NAMESPACE);
    let counted = counted.then(|| our_processes(footing));
    settle_with(profile, missing, root, counted)
}

fn settle_with(
    profile: &Profile,
    missing: &[Missing],
    root: bool,
    counted: Option<u64>,
) -> Result<Settled, LaunchError> {
    let limits = &profile.limits;
    let mut settled = Settled {
        rlimits: Rlimits {
            open_files: limits.get(Resource::OpenFiles),
            file_size: limits.get(Resource::FileSize),
            processes: None,
        },
        ..Settled::default()
    };
    let mut unset = Vec::new();
    for Missing { resource, cause } in missing {
        let amount = limits.get(*resource).unwrap_or_default();
        if let (Resource::Tasks, Some(ours)) = (*resource, counted) {
            settled.rlimits.processes = Some(amount.saturating_add(ours));
            continue;
        }
        settled.shortfalls.push(Shortfall {
            what: format!("limits.{resource}"),
            needs: format!("a control group; {cause}"),
        });
        unset.push(format!("{resource} ({})", resource.amount(amount)));
    }
    let Some(first) = missing.iter().find(|missing| {
        let key = format!("limits.{}", missing.resource);
        settled
            .shortfalls
            .iter()
            .any(|shortfall| shortfall.what == key)
    }) else {
        return Ok(settled);
    };
    let scope = if root { "" } else { " --user" };
    let problem = format!(
        "not limited: {}: {}; start it with `systemd-run{scope} --scope -p Delegate=yes portcullis run …`",
        unset.join(", "),
        first.cause
    );
    match profile.isolation.limits {
        LimitsFloor::Required => Err(LaunchError::Limits { problem }),
        LimitsFloor::BestEffort => {
            settled.note = Some(problem);
            Ok(settled)
        }
    }
}

/// Major and minor number of `6.1.0-50-cloud-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// A limit that a session has reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResourceHit {
    /// Which.
    pub what: Resource,
    /// How much the session could have.
    pub max: u64,
}

impl ResourceHit {
    /// Its record.
    pub fn record(self) -> AuditEvent {
        AuditEvent::LimitHit {
            what: self.what.into(),
            host: None,
            used: self.max,
            max: self.max,
            action: LimitAction::of(self.what),
        }
    }
}

impl std::fmt::Display for ResourceHit {
    /// As `limits.memory of 4G reached`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let amount = self.what.amount(self.max);
        write!(f, "limits.{} of {amount} reached", self.what)
    }
}

/// What is watched while the command runs.
#[derive(Debug)]
pub struct Resources {
    limits: ResourceLimits,
    meter: Option<Meter>,
    /// Those that were reached.
    hits: Vec<ResourceHit>,
}

impl Resources {
    /// Watches what the meter of a jail tells.
    pub fn new(limits: &ResourceLimits, meter: Option<Meter>) -> Self {
        Self {
            limits: limits.clone(),
            meter,
            hits: Vec::new(),
        }
    }

    /// Becomes readable when a limit may have been reached.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.meter.as_ref().map(AsFd::as_fd)
    }

    /// The limits that were reached since the last call, each of them once a session; with the command's
    /// status once it has ended.
    pub fn reached(&mut self, status: Option<u8>) -> Vec<ResourceHit> {
        let at_the_end = status.is_some();
        let meter = self.meter.as_mut();
        let mut reached = meter.map_or_else(Vec::new, |meter| meter.reached(at_the_end));
        // The kernel counts no files: this one is known by how the command ended.
        if status == Some(FILE_TOO_LARGE) {
            reached.push(Resource::FileSize);
        }
        let limits = &self.limits;
        let hits = reached.into_iter().filter_map(|what| {
            let max = limits.get(what)?;
            Some(ResourceHit { what, max })
        });
        let hits: Vec<_> = hits.collect();
        self.hits.extend(&hits);
        hits
    }

    /// The limit that the command has ended by.
    pub fn ended(&self, status: u8) -> Option<ResourceHit> {
        let what = match status {
            KILLED => Resource::Memory,
            FILE_TOO_LARGE => Resource::FileSize,
            _ => return None,
        };
        self.hits.iter().find(|hit| hit.what == what).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Overrides;
    use crate::policy::profile::builtin;

    fn profile(floor: LimitsFloor) -> Profile {
        let overrides = Overrides {
            limits: vec!["memory=64M".to_owned(), "tasks=20".to_owned()],
            ..Overrides::default()
        };
        let mut load = |name: &str| Ok(builtin(name).map(ToOwned::to_owned));
        let mut profile = Profile::read_with("base", &mut load, &overrides).unwrap();
        profile.isolation.limits = floor;
        profile
    }

    fn missing(resource: Resource) -> Missing {
        Missing {
            resource,
            cause: "no".to_owned(),
        }
    }

    #[test]
    fn tasks_are_counted_by_setrlimit_where_that_counts_the_jail_alone() {
        let profile = profile(LimitsFloor::Required);
        let missing = [missing(Resource::Tasks)];
        let settled = settle_with(&profile, &missing, false, Some(1)).unwrap();
        assert_eq!(settled.rlimits.processes, Some(21));
        assert_eq!((settled.shortfalls, settled.note), (Vec::new(), None));
        assert!(settle_with(&profile, &missing, true, None).is_err());
    }

    #[test]
    fn what_is_missing_refuses_the_start_or_is_told() {
        let missing = [missing(Resource::Memory)];
        let line = "not limited: memory (64M): no; start it with `systemd-run --user --scope -p \
                    Delegate=yes portcullis run …`";
        let required = profile(LimitsFloor::Required);
        let error = settle_with(&required, &missing, false, Some(1)).unwrap_err();
        assert!(error.to_string().starts_with(line), "{error}");
        let settled = settle_with(&profile(LimitsFloor::BestEffort), &missing, false, Some(1));
        let settled = settled.unwrap();
        assert_eq!(settled.note.as_deref(), Some(line));
        assert_eq!(settled.shortfalls[0].what, "limits.memory");
    }

    #[test]
    fn versions_of_kernels_are_read() {
        assert_eq!(version("6.1.0-50-cloud-amd64"), Some((6, 1)));
        assert_eq!(version("5.14"), Some((5, 14)));
        assert_eq!(version("unknown"), None);
    }
}
