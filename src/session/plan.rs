//! Everything that is settled before anything is started.

use std::ffi::OsStr;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use nix::libc::{EACCES, EPERM, EROFS};
use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use crate::audit::event::ShownSocket;
use crate::audit::folder::{self, LogFolder};
use crate::audit::{AuditEvent, Isolation};
use crate::codex::{Loopback, ProxyPorts, names_trust, proxy_environment, trust_environment};
use crate::ids::{SessionId, SessionName};
use crate::jail::cgroup;
use crate::jail::{Bwrap, Footing, JailRequest, UserNames, name_service};
use crate::policy::profile::{LayerText, Reading};
use crate::policy::{Effect, FilesystemMode, Host, HostPattern, Overrides, Profile, Rule, Ruleset};
use crate::wire::audit::AuditBoot;
use crate::wire::gate::UpstreamProxy;
use crate::wire::init::{FailureKind, InitFailure, InitPlan, Rlimits, Takeover};
use crate::wire::session::{Description, Size};

use super::Progress;
use super::approvals::Ask;
use super::caller::Caller;
use super::command::{self, Command};
use super::companions::CompanionError;
use super::credentials::{self, Credentials};
use super::environment::{self, Surroundings};
use super::error::LaunchError;
use super::jail_trust::{self, JailTrust};
use super::profiles::Shelf;
use super::registries::Found;
use super::service::Shared;
use super::trust_store::{self, TrustStore};
use super::{project_file, running, socket, trust, upstream};

/// What a caller asks for, as read from the command line; the whole of what another process needs to run the
/// session in the caller's place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaunchRequest {
    /// What the caller calls the session.
    pub name: Option<SessionName>,
    /// Name or file of the profile.
    pub profile: String,
    /// What the flags change in it.
    pub overrides: Overrides,
    /// The workspace; `None`: the current folder.
    pub folder: Option<PathBuf>,
    /// The command and its arguments.
    pub argv: Vec<String>,
    /// Who is asked; `None`: the profile's program if it has one, else anybody at another terminal.
    pub ask: Option<Ask>,
    /// Gives the session a terminal of its own, of this size at first; `None`: it shares the caller's standard
    /// streams.
    pub terminal: Option<Size>,
}

/// A request whose every name has been looked up.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) session: SessionId,
    /// The service that started the session.
    pub(super) service: Option<Shared>,
    pub(super) footing: Footing,
    pub(super) name: Option<SessionName>,
    pub(super) caller: Caller,
    pub(super) profile: Profile,
    /// The profile as it was read, with flags and registries, before the command had a say.
    pub(super) read: Profile,
    /// The files that it was read from, or would be.
    pub(super) read_from: Vec<PathBuf>,
    /// The file of the project, as it was when the session started.
    pub(super) project: Option<LayerText>,
    /// What registries' clients said.
    pub(super) found: Vec<Found>,
    pub(super) rules: Ruleset,
    pub(super) workspace: PathBuf,
    /// What a session can write: nothing below it is executed outside the jail.
    pub(super) writable: Vec<PathBuf>,
    pub(super) command: Command,
    /// The proxy that leads out; the gate's alone.
    pub(super) upstream: Option<UpstreamProxy>,
    /// The command as given, for the record.
    pub(super) asked: Vec<String>,
    /// The folder of its log; `None`: the service has it.
    pub(super) log: Option<LogFolder>,
    /// What the gate holds inspected origins and `https://` proxies to (PEM); empty where there are none.
    pub(super) roots: String,
    /// The same for the jail's own files; `None`: no TLS is inspected.
    pub(super) trust: Option<TrustStore>,
    /// Secrets that the jail does not get.
    pub(super) credentials: Credentials,
}

impl Plan {
    /// Reads the profile, applies the flags, finds workspace and command, opens the log folder.
    pub(super) fn make(
        request: &LaunchRequest,
        (footing, service): (Footing, Option<Shared>),
        tell: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Self, LaunchError> {
        let caller = Caller::current();
        if let Some(name) = &request.name {
            running::is_free(&caller, name)?;
        }
        let workspace = workspace(request.folder.as_deref())?;
        let project = project_file::find(&workspace, caller.uid)?;
        let shelf = Shelf::new(&caller.environment, project.as_ref());
        let (loaded, read_from) = shelf.read_with_files(&request.profile, &request.overrides);
        let Reading {
            profile,
            cuts,
            authorities,
            upstream_proxies,
            ..
        } = loaded?;
        for cut in cuts {
            tell(Progress::Note(&format!(
                "by the requirements of this host, {cut}"
            )));
        }
        let mut profile = profile;
        if let Some(service) = &service {
            for (resource, most) in profile.limits.hold_to(&service.borrow().limits) {
                tell(Progress::Note(&format!(
                    "by the service of this host, limits.{resource} is {}",
                    resource.amount(most)
                )));
            }
        }
        let (mut profile, found) =
            super::registries::resolve(profile, &caller.environment, &workspace);
        let read = profile.clone();
        for found in found.iter().filter(|found| found.problem.is_some()) {
            tell(Progress::Note(&found.to_string()));
        }
        let writable = trust::writable_roots(&profile, Some(&caller.home), &workspace);
        let credentials = credentials::settle(&mut profile, &caller, &writable, tell)?;
        let upstream = upstream::settle(&profile.network, &caller, &writable, tell)?;
        upstream::hold_to(upstream.as_ref(), upstream_proxies.as_deref())?;
        let mut command = command::prepare(&request.argv, &caller, &profile, &writable);
        credentials.seal_command(&mut command, &caller.home);
        command
            .bundled_bwrap
            .retain(|bwrap| trust::is_outside(bwrap, &writable));
        if let Some(asked) = command
            .asked_mode
            .filter(|asked| *asked < profile.filesystem.mode)
        {
            profile.filesystem.mode = asked;
            tell(Progress::Note(&format!(
                "the jail is Codex's sandbox: it narrows itself to {asked}, Codex's own stays off"
            )));
        }
        let inspects = profile.network.inspects();
        let store = if inspects || upstream::needs_tls(upstream.as_ref()) {
            let extra = &profile.network.extra_ca;
            let mut note = |note: &str| tell(Progress::Note(note));
            let held = trust_store::held_to(&caller, authorities.as_deref(), &mut note);
            Some(trust_store::gather(&held, extra, &writable, &mut note)?)
        } else {
            None
        };
        let roots = store.as_ref().map(TrustStore::pem).unwrap_or_default();
        let trust = store.filter(|_| inspects);
        let variable = |name| caller.environment.get(OsStr::new(name)).cloned();
        let log = match &service {
            // The service keeps it.
            Some(_) => None,
            None => Some(folder::open_or_create(&folder::standalone(variable)?)?),
        };
        keep_profiles_ours(&caller, &profile, &writable)?;
        let rules = Ruleset::compile(&profile.network);
        let asked = request.argv.iter().map(|word| credentials.sealed(word));
        let asked = asked.collect();
        let session = service
            .as_ref()
            .map_or_else(SessionId::generate, |service| service.borrow().session);
        Ok(Self {
            session,
            service,
            footing,
            name: request.name.clone(),
            caller,
            profile,
            read,
            read_from,
            project,
            found,
            rules,
            workspace,
            writable,
            command,
            upstream,
            asked,
            log,
            roots,
            trust,
            credentials,
        })
    }

    /// The folders in which changes are looked for when the session is over, and whether it could write no others.
    /// `None`: nobody wants to know.
    pub(super) fn changeable(&self) -> Option<(Vec<PathBuf>, bool)> {
        let mode = self.profile.filesystem.mode;
        let mut folders = self.writable.clone();
        if mode == FilesystemMode::ReadOnly {
            folders.retain(|folder| *folder != self.workspace);
        }
        let wanted = self.profile.audit.file_changes && !folders.is_empty();
        wanted.then_some((folders, mode != FilesystemMode::DangerFullAccess))
    }

    /// What the audit writer is told.
    pub(super) fn audit_boot(&self) -> AuditBoot {
        AuditBoot {
            session: self.session,
            user: self.caller.user.clone(),
            folder: self
                .log
                .as_ref()
                .map_or_else(PathBuf::new, |log| log.path().to_path_buf()),
            durability: self.profile.audit.durability,
            ledger: true,
            on_failure: self.profile.audit.on_failure,
            segments: None,
        }
    }

    /// What makes the jail trust the session's CA (PEM). `None`: the policy has no TLS inspected.
    pub(super) fn jail_trust(
        &self,
        authority: Option<&str>,
    ) -> Result<Option<JailTrust>, CompanionError> {
        let Some(store) = &self.trust else {
            return Ok(None);
        };
        let cacerts = jail_trust::cacerts(&self.caller, &self.profile.environment);
        authority
            .and_then(|authority| JailTrust::new(store, authority, &cacerts))
            .map(Some)
            .ok_or(CompanionError::Unexpected("gate"))
    }

    /// What the jail is built from.
    pub(super) fn jail_request<'a>(
        &'a self,
        init: &'a File,
        trust: Option<&JailTrust>,
    ) -> JailRequest<'a> {
        let made = trust.map_or(&[][..], |trust| &trust.files);
        JailRequest {
            footing: self.footing,
            policy: &self.profile.filesystem,
            workspace: &self.workspace,
            home: &self.caller.home,
            user: UserNames {
                uid: self.caller.uid.as_raw(),
                gid: self.caller.gid.as_raw(),
                user: self.caller.user.clone(),
                group: self.caller.group.clone(),
            },
            hostname: "portcullis".to_owned(),
            hidden: self.hidden(),
            shown: self.command.shown.clone(),
            files: [self.files().as_slice(), made].concat(),
            replaced: trust.map_or_else(Vec::new, |trust| trust.replaced.clone()),
            sockets: &self.profile.network.unix_sockets,
            limits: &self.profile.limits,
            session: self.session.to_string(),
            init,
        }
    }

    /// The files that the session makes: the command's, and who answers for names where that is the gate.
    fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut files = self.command.files.clone();
        if self.profile.network.transparent {
            let full = self.profile.filesystem.mode == FilesystemMode::DangerFullAccess;
            files.extend(name_service(true).map(|(path, text)| {
                // Where the jail shows the host's own, what it leads to is what has to change.
                let target = std::fs::canonicalize(&path).ok().filter(|_| full);
                (target.unwrap_or(path), text)
            }));
        }
        files
    }

    /// What no jail sees, in whatever mode: the log, the profiles, the session's own socket, the upstream
    /// proxy's password, control groups (of `/sys` no jail has anything).
    fn hidden(&self) -> Vec<PathBuf> {
        let policy = &self.profile.network.upstream_proxy;
        let password = policy
            .password_file
            .iter()
            .map(|path| upstream::in_home(path, &self.caller.home));
        [self.caller.state_folder(), self.caller.config_folder()]
            .into_iter()
            .chain(socket::hidden(&self.caller))
            .chain(password)
            .chain(
                cgroup::mounts()
                    .into_iter()
                    .filter(|mount| !mount.starts_with("/sys")),
            )
            .collect()
    }

    /// What init is told, once it is known what the jail shows.
    pub(super) fn init_plan(
        &self,
        bwrap: &Bwrap,
        takeover: Option<Takeover>,
        (readable, writable): (Vec<PathBuf>, Vec<PathBuf>),
        sockets: &[PathBuf],
        rlimits: Rlimits,
    ) -> InitPlan {
        let visible = [readable.as_slice(), writable.as_slice()].concat();
        InitPlan {
            takeover,
            listen: self.ports().collect(),
            network: true,
            datagrams: self
                .socks_port()
                .filter(|_| self.profile.network.relays_datagrams()),
            env: self.environment(&visible),
            readable,
            writable,
            sockets: sockets.to_vec(),
            rlimits,
            landlock_floor: self.profile.isolation.landlock_abi,
            bwrap: bwrap.version.clone(),
            argv: self.command.argv.clone(),
        }
    }

    /// The proxies' ports, HTTP first: the order in which the gate takes the listeners.
    fn ports(&self) -> impl Iterator<Item = u16> {
        std::iter::once(self.profile.network.http_port).chain(self.socks_port())
    }

    fn socks_port(&self) -> Option<u16> {
        let network = &self.profile.network;
        network.enable_socks5.then_some(network.socks_port)
    }

    fn environment(&self, visible: &[PathBuf]) -> Vec<(String, String)> {
        let ports = ProxyPorts {
            http: self.profile.network.http_port,
            socks: self.socks_port(),
            loopback: self.loopback(),
        };
        let mut session = proxy_environment(ports);
        let mut policy = self.profile.environment.clone();
        if self.trust.is_some() {
            session.extend(trust_environment(jail_trust::FILES));
            policy.pass.retain(|name| !names_trust(name));
        }
        session.extend(self.command.environment.iter().cloned());
        let path_first = &self.command.path_first;
        let mut variables = environment::build(
            &self.caller,
            &policy,
            Surroundings {
                visible,
                path_first,
                session,
            },
        );
        self.credentials.seal_environment(&mut variables);
        variables
    }

    /// `localhost` is the jail's own, unless a rule lets the command reach the host's.
    fn loopback(&self) -> Loopback {
        let host = |rule: &Rule| match &rule.host {
            HostPattern::Exact(Host::Addr(address)) => address.is_loopback(),
            HostPattern::Exact(Host::Name(name)) => name.as_str() == "localhost",
            HostPattern::Below(_) | HostPattern::AtOrBelow(_) | HostPattern::Any => false,
        };
        let allowed = self
            .profile
            .network
            .rules
            .iter()
            .filter(|rule| rule.effect == Effect::Allow);
        if allowed.into_iter().any(host) {
            Loopback::Gate
        } else {
            Loopback::Jail
        }
    }

    /// The session's first record.
    pub(super) fn started(
        &self,
        isolation: Isolation,
        unix_sockets: Vec<ShownSocket>,
    ) -> AuditEvent {
        AuditEvent::SessionStarted {
            argv: self.asked.clone(),
            name: self.name.clone(),
            profile: self.profile.name.clone(),
            mode: self.profile.filesystem.mode.to_string(),
            workspace: self.workspace.to_string_lossy().into_owned(),
            generation: self.rules.generation().clone(),
            isolation,
            unix_sockets,
        }
    }

    /// What the session tells of itself.
    pub(super) fn described(&self, isolation: Isolation, pid: Pid) -> Description {
        Description {
            session: self.session,
            name: self.name.clone(),
            user: self.caller.user.clone(),
            pid: pid.as_raw_nonzero().get().unsigned_abs(),
            started: Timestamp::now(),
            profile: self.profile.name.clone(),
            generation: self.rules.generation().clone(),
            mode: self.profile.filesystem.mode.to_string(),
            workspace: self.workspace.to_string_lossy().into_owned(),
            argv: self.asked.clone(),
            isolation,
            limits: self.profile.limits.iter().collect(),
            audit: None,
        }
    }

    /// Adds to init's report what only the session knows: where the host has the command.
    pub(super) fn explain(&self, failure: InitFailure) -> LaunchError {
        let hint = match (failure.kind, &self.command.on_host) {
            (FailureKind::NotFound, Some(path)) => {
                let folder = path.parent().unwrap_or(Path::new("/"));
                format!(
                    "; the host has {}, which the jail does not show: add --ro {}",
                    path.display(),
                    folder.display()
                )
            }
            _ => String::new(),
        };
        LaunchError::Init { failure, hint }
    }
}

/// Makes the folder of profiles where the session could: what stands is masked, and what does not stand
/// the session would make, with profiles in it that count for the next one.
fn keep_profiles_ours(
    caller: &Caller,
    profile: &Profile,
    writable: &[PathBuf],
) -> Result<(), LaunchError> {
    let folder = caller.config_folder();
    let full = profile.filesystem.mode == FilesystemMode::DangerFullAccess;
    if !full && trust::is_outside(&folder, writable) {
        return Ok(());
    }
    let Err(error) = DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)
    else {
        return Ok(());
    };
    // Where we cannot, the session cannot either, unless a chmod(2) is all that it takes.
    let theirs = folder
        .ancestors()
        .find_map(|above| above.symlink_metadata().ok())
        .is_some_and(|metadata| metadata.uid() != caller.uid.as_raw());
    match error.raw_os_error() {
        Some(EROFS) => Ok(()),
        Some(EACCES | EPERM) if theirs => Ok(()),
        _ => Err(LaunchError::System {
            what: "make the folder of profiles",
            source: error,
        }),
    }
}

/// The workspace as an absolute path without links.
fn workspace(folder: Option<&Path>) -> Result<PathBuf, LaunchError> {
    let path = folder.unwrap_or(Path::new("."));
    let failed = |source| LaunchError::Workspace {
        path: path.to_path_buf(),
        source,
    };
    let canonical = std::fs::canonicalize(path).map_err(failed)?;
    // Also proves that it is a folder and that the caller may read it.
    std::fs::read_dir(&canonical).map_err(failed)?;
    if canonical == Path::new("/") {
        // Everything would lie below a folder that the session can write: nothing could be trusted.
        return Err(failed(io::Error::other("the root folder is no workspace")));
    }
    Ok(canonical)
}
