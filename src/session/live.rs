//! A profile that changes while its session runs.
//!
//! Owns: which files the profile was read from, the watch on them ([`Folders`]), reading again.
//! Trusts: files that this session cannot have written, nothing else: else the code in the jail would
//! write its own policy. Never: touches the policy in force unless the new one is valid as a whole.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use super::approvals::remember;
use super::caller::Caller;
use super::folders::Folders;
use super::plan::LaunchRequest;
use super::profiles::{self, Shelf};
use super::registries::{self, Found};
use super::trust::is_outside;
use crate::policy::profile::LayerText;
use crate::policy::{Budgets, Credential, FilesystemMode, Overrides, Profile};
use crate::sys::admin_file;

/// How long after the last change of a file it is read: editors write in several steps.
const SETTLE: Duration = Duration::from_millis(200);

/// The profile of a running session.
#[derive(Debug)]
pub struct Live {
    caller: Caller,
    /// As asked for.
    profile: String,
    /// The file of the project, as it was when the session started: the session could write it since.
    project: Option<LayerText>,
    overrides: Overrides,
    workspace: PathBuf,
    /// What this session can write: nothing below it counts.
    writable: Vec<PathBuf>,
    mode: FilesystemMode,
    /// The folder that no jail shows, links resolved when the session started.
    hidden: PathBuf,
    /// What registries' clients said; each is asked once.
    found: Vec<Found>,
    /// Optional credentials that had no value at launch: the session does without them to its end.
    left_out: Vec<Credential>,
    /// What is in force, as it was read.
    current: Profile,
    folders: Folders,
    due: Option<Instant>,
}

/// What a session is and what it can write, for [`Live::new`].
#[derive(Debug)]
pub struct Launched<'a> {
    /// Who started it.
    pub caller: &'a Caller,
    /// Where.
    pub workspace: &'a Path,
    /// The file of the project.
    pub project: Option<&'a LayerText>,
    /// The files that the profile was read from, or would be.
    pub files: &'a [PathBuf],
    /// What it can write.
    pub writable: &'a [PathBuf],
    /// Its credentials, those that have a value.
    pub credentials: &'a [Credential],
    /// How much of the file system it may change.
    pub mode: FilesystemMode,
}

impl Live {
    /// Begins to watch the files of this profile. Where that is not possible, reading again still is.
    pub fn new(
        request: &LaunchRequest,
        launched: &Launched<'_>,
        current: Profile,
        found: Vec<Found>,
    ) -> Self {
        let without_value = |rule: &&Credential| !launched.credentials.contains(rule);
        let left_out = current.network.credentials.iter().filter(without_value);
        let left_out = left_out.cloned().collect();
        let hidden = launched.caller.config_folder();
        let mut live = Self {
            caller: launched.caller.clone(),
            profile: request.profile.clone(),
            project: launched.project.cloned(),
            overrides: request.overrides.clone(),
            workspace: launched.workspace.to_owned(),
            writable: launched.writable.to_owned(),
            mode: launched.mode,
            hidden: hidden.canonicalize().unwrap_or(hidden),
            found,
            left_out,
            current,
            folders: Folders::new(),
            due: None,
        };
        live.watch(launched.files.to_vec());
        live
    }

    /// What becomes readable when a file changes.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.folders.fd()
    }

    /// When [`Live::is_due`] is to be asked.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Takes what the kernel tells of the folders; answers whether it is time to read again.
    pub fn is_due(&mut self) -> bool {
        if self.folders.have_changed() {
            self.due = Some(Instant::now() + SETTLE);
        }
        let due = self.due.is_some_and(|due| due <= Instant::now());
        if due {
            self.due = None;
        }
        due
    }

    /// Reads the profile again, with the flags of the command line. The error is one line.
    pub fn read(&mut self) -> Result<Profile, String> {
        let environment = &self.caller.environment;
        let profiles = Shelf::new(environment, self.project.as_ref());
        let (loaded, files) = profiles.read_with_files(&self.profile, &self.overrides);
        if let Some(file) = files.iter().find(|file| !self.is_trusted(file)) {
            return Err(format!(
                "{}: the session could have written it; it counts for new sessions only",
                file.display()
            ));
        }
        let profile = loaded.map_err(|error| error.to_string())?.profile;
        let mut profile =
            registries::resolve_known(profile, environment, &self.workspace, &mut self.found);
        let rules = &mut profile.network.credentials;
        rules.retain(|rule| !self.left_out.contains(rule));
        self.watch(files);
        Ok(profile)
    }

    /// Takes a profile as the one in force; answers what of it does not count before a new session.
    pub fn take(&mut self, profile: Profile) -> Vec<&'static str> {
        let (old, new) = (&self.current, &profile);
        let (old_net, new_net) = (&old.network, &new.network);
        let later = [
            ("filesystem", old.filesystem != new.filesystem),
            ("environment", old.environment != new.environment),
            ("limits", old.limits != new.limits),
            ("isolation", old.isolation != new.isolation),
            ("codex", old.codex != new.codex),
            ("audit", old.audit != new.audit),
            ("network.limits", old_net.limits != new_net.limits),
            ("network.dns", old_net.dns != new_net.dns),
            (
                "the proxies' ports",
                (old_net.enable_socks5, old_net.http_port, old_net.socks_port)
                    != (new_net.enable_socks5, new_net.http_port, new_net.socks_port),
            ),
            (
                "network.transparent",
                old_net.transparent != new_net.transparent,
            ),
            (
                "network.enable_socks5_udp",
                old_net.enable_socks5_udp != new_net.enable_socks5_udp,
            ),
            ("network.extra_ca", old_net.extra_ca != new_net.extra_ca),
            (
                "network.unix_sockets",
                old_net.unix_sockets != new_net.unix_sockets,
            ),
            (
                "network.upstream_proxy",
                (old_net.allow_upstream_proxy, &old_net.upstream_proxy)
                    != (new_net.allow_upstream_proxy, &new_net.upstream_proxy),
            ),
            (
                "approvals.wait_seconds",
                old.approvals.wait_seconds != new.approvals.wait_seconds,
            ),
            (
                "approvals.command",
                old.approvals.command != new.approvals.command,
            ),
        ];
        let later = later.into_iter().filter_map(|(key, is)| is.then_some(key));
        let later = later.collect();
        self.current = profile;
        later
    }

    /// The file that an answer is kept in; the error is one line.
    pub fn own_file(&self) -> Result<PathBuf, String> {
        let file = remember::file_of(&self.profile, &self.caller.environment)
            .ok_or("there is no folder for profiles; set HOME or XDG_CONFIG_HOME")?;
        if self.is_trusted(&file) {
            Ok(file)
        } else {
            Err(format!(
                "{}: the session could change it, so no answer is kept there",
                file.display()
            ))
        }
    }

    /// The caller's environment.
    pub fn environment(&self) -> &profiles::Environment {
        &self.caller.environment
    }

    /// The profile, as asked for.
    pub fn profile(&self) -> &str {
        &self.profile
    }

    /// The budgets of the profile in force.
    pub fn budgets(&self) -> &Budgets {
        &self.current.network.budgets
    }

    /// Whether this session cannot have written a file. With full access to the host only what is hidden
    /// from every jail is beyond it.
    fn is_trusted(&self, file: &Path) -> bool {
        let resolved = file.canonicalize().unwrap_or_else(|_| file.to_owned());
        is_outside(file, &self.writable)
            && (self.mode != FilesystemMode::DangerFullAccess
                || self.is_the_admins(file)
                || resolved.starts_with(&self.hidden))
    }

    /// Whether a file is the admin's, whom a session of somebody else's cannot write for.
    fn is_the_admins(&self, file: &Path) -> bool {
        !self.caller.uid.is_root()
            && file.starts_with(profiles::SYSTEM)
            && !file.components().any(|part| part == Component::ParentDir)
            && admin_file::read(file).is_ok()
    }

    /// Watches the folders in which the profile's files stand, or would.
    fn watch(&mut self, mut files: Vec<PathBuf>) {
        files.extend(remember::file_of(&self.profile, &self.caller.environment));
        let linked: Vec<_> = files
            .iter()
            .filter_map(|file| file.canonicalize().ok())
            .collect();
        files.extend(linked);
        for file in files {
            if self.is_trusted(&file) {
                self.folders.watch(&file);
            }
        }
    }
}

/// Whether this process has a terminal whose loss it would be told by SIGHUP.
pub fn has_terminal() -> bool {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open("/dev/tty", flags, Mode::empty())
        .map_err(io::Error::from)
        .is_ok()
}
