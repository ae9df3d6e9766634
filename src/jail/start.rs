//! From a request to a running jail: `prepare` touches the host and builds the [`JailSpec`], `start`
//! hands it to bubblewrap. What is prepared can only be started or dropped.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};

use super::bwrap::{self, Bwrap};
use super::cgroup::{Groups, Meter, Missing, Places};
use super::error::JailError;
use super::footing::Footing;
use super::identity::UserNames;
use super::layout::lay_out;
use super::placeholder::{First, Sweeper};
use super::spec::JailSpec;
use super::stage;
use super::{mask, protect, replace, unix_socket};
use crate::audit::event::ShownSocket;
use crate::policy::{FilesystemPolicy, ResourceLimits, UnixSocket};
use crate::sys::fd::sealed;
use crate::sys::process::{Spawn, kill_with_children};
use crate::wire::init::{InitPlan, Takeover};

/// What the session wants.
#[derive(Debug)]
pub struct JailRequest<'a> {
    /// In whose user namespace.
    pub footing: Footing,
    /// What of the host shows.
    pub policy: &'a FilesystemPolicy,
    /// The project: absolute, free of symbolic links.
    pub workspace: &'a Path,
    /// The caller's home folder, absolute.
    pub home: &'a Path,
    /// Who the caller is.
    pub user: UserNames,
    /// The name of the machine, inside.
    pub hostname: String,
    /// Our own state and audit folders: masked in every mode, wherever they would show.
    pub hidden: Vec<PathBuf>,
    /// Read-only extras: a host path and where it shows.
    pub shown: Vec<(PathBuf, PathBuf)>,
    /// Generated files: read-only, but for those in the private home.
    pub files: Vec<(PathBuf, Vec<u8>)>,
    /// Generated files that stand in for the host's file of that path, wherever that one shows.
    pub replaced: Vec<(PathBuf, Vec<u8>)>,
    /// Unix sockets of the host, and what becomes of each.
    pub sockets: &'a BTreeMap<PathBuf, UnixSocket>,
    /// What the jail's processes may take of the machine; what a control group cannot hold is somebody
    /// else's to set.
    pub limits: &'a ResourceLimits,
    /// A word that no other session has, for the names of control groups.
    pub session: String,
    /// The program `portcullis-init`, opened (O_PATH is enough). It is also the sweeper.
    pub init: &'a File,
}

/// A jail that can be started. Its placeholders stand already.
#[derive(Debug)]
#[must_use = "placeholders on the host stand for nothing"]
pub struct Prepared {
    spec: JailSpec,
    uid: u32,
    sockets: Vec<ShownSocket>,
    socket_paths: Vec<PathBuf>,
    sources: Vec<OwnedFd>,
    init: OwnedFd,
    /// Before the groups, which it removes.
    sweeper: Option<Sweeper>,
    groups: Option<Groups>,
    missing: Vec<Missing>,
}

/// A jail that runs. Dropping it kills it and removes its placeholders and control groups.
#[derive(Debug)]
pub struct Running {
    bwrap: BwrapProcess,
    sweeper: Option<Sweeper>,
    groups: Option<Groups>,
}

/// bubblewrap's outer process; the jail dies with it (`--die-with-parent`).
#[derive(Debug)]
struct BwrapProcess(Child);

/// Control groups that somebody else has made, if there are any, and the limits that none of them holds.
pub type GivenGroups = (Option<Groups>, Vec<Missing>);

/// Opens everything, makes the placeholders and control groups and lists the mounts.
pub fn prepare(request: &JailRequest<'_>) -> Result<Prepared, JailError> {
    prepare_in(request, None, None)
}

/// The same with a sweeper that runs already, and in control groups that somebody else has made, where that is so.
pub(crate) fn prepare_in(
    request: &JailRequest<'_>,
    mut sweeper: Option<Sweeper>,
    given: Option<GivenGroups>,
) -> Result<Prepared, JailError> {
    let places = match given {
        Some(_) => Places::default(),
        None => Places::find(request.limits),
    };
    if sweeper.is_none() && places.folders().count() > 0 {
        sweeper = Some(Sweeper::start(request.init)?);
    }
    let mut layout = lay_out(request)?;
    let sockets = unix_socket::show(&mut layout, request)?;
    protect::apply(&mut layout, request, &mut sweeper)?;
    replace::apply(&mut layout, request)?;
    mask::apply(&mut layout, request)?;
    unix_socket::hide_others(&mut layout, request)?;
    layout.add_parents();
    let (groups, missing) = match given {
        Some(given) => given,
        None => groups(request, places, sweeper.as_ref())?,
    };
    let init = request.init.as_fd().try_clone_to_owned();
    Ok(Prepared {
        uid: request.user.uid,
        spec: JailSpec {
            footing: request.footing,
            hostname: request.hostname.clone(),
            workspace: request.workspace.to_owned(),
            mounts: layout.mounts,
            sealed: layout.sealed,
            reports_pid: sweeper.is_some(),
        },
        sockets,
        socket_paths: layout.sockets,
        sources: layout.sources.into_fds(),
        init: init.map_err(starting("portcullis-init"))?,
        sweeper,
        groups,
        missing,
    })
}

/// Makes the control groups. Each is known to the sweeper before it stands.
fn groups(
    request: &JailRequest<'_>,
    places: Places,
    sweeper: Option<&Sweeper>,
) -> Result<(Option<Groups>, Vec<Missing>), JailError> {
    let name = Groups::name_of(&request.session);
    if let Some(sweeper) = sweeper {
        for folder in places.folders() {
            sweeper.claim_group(folder, &name)?;
        }
    }
    let (groups, missing) = places.make(&name, request.limits);
    if let (Some(groups), Some(sweeper)) = (&groups, sweeper) {
        for killer in groups.killers() {
            sweeper.give_killer(killer)?;
        }
    }
    Ok((groups, missing))
}

impl Prepared {
    /// What the jail will be made of.
    pub fn spec(&self) -> &JailSpec {
        &self.spec
    }

    /// The host's sockets that show, for the record.
    pub fn sockets(&self) -> &[ShownSocket] {
        &self.sockets
    }

    /// Where they show, for the [`InitPlan`].
    pub fn socket_paths(&self) -> &[PathBuf] {
        &self.socket_paths
    }

    /// The limits that no control group holds.
    pub fn missing(&self) -> &[Missing] {
        &self.missing
    }

    /// The readable and the writable paths for the [`InitPlan`].
    pub fn landlock_paths(&self) -> (Vec<PathBuf>, Vec<PathBuf>) {
        self.spec.landlock_paths()
    }

    /// What init does first, for the [`InitPlan`].
    pub fn takeover(&self) -> Option<Takeover> {
        self.spec.footing.takeover(&self.spec, self.uid)
    }

    /// Starts bubblewrap, and in it init, with this plan and the other end of `control`. Must be
    /// called from a thread that lives as long as the jail (prctl(2), PR_SET_PDEATHSIG: the parent is
    /// a thread).
    pub fn start(
        mut self,
        bwrap: &Bwrap,
        plan: &InitPlan,
        control: OwnedFd,
    ) -> Result<Running, JailError> {
        let props = stage::props(&self.spec, &self.sources);
        let props = props.map_err(starting("bubblewrap"))?;
        let mut spawn = Spawn::new(&bwrap.path)
            .inherit_stdio()
            .ignore_keyboard_signals()
            .arg("--args")
            .arg(bwrap::ARGS_FD.to_string())
            .arg("--")
            .arg(format!("/proc/self/fd/{}", bwrap::INIT_FD))
            .fd(control, bwrap::CONTROL_FD)
            .fd(sealed_plan(plan)?, bwrap::PLAN_FD)
            .fd(sealed_argv(&self.spec)?, bwrap::ARGS_FD)
            .fd(self.init, bwrap::INIT_FD);
        if let Some(info) = self.sweeper.as_mut().and_then(Sweeper::take_info) {
            spawn = spawn.fd(info, bwrap::INFO_FD);
        }
        for (place, source) in self.sources.into_iter().enumerate() {
            spawn = spawn.fd(source, bwrap::number(super::spec::SourceId(place)));
        }
        if let Some(groups) = &self.groups {
            let joins = groups.joins().map_err(io::Error::from);
            spawn = spawn.join(joins.map_err(starting("bubblewrap"))?);
        }
        if !props.is_empty() {
            spawn = spawn.on_stage(stage::STAGE, props);
        }
        // After it has joined its groups and set its stage: these are the caller's.
        let spawn = self.spec.footing.raise(spawn);
        let child = spawn.start().map_err(starting("bubblewrap"))?;
        Ok(Running {
            bwrap: BwrapProcess(child),
            sweeper: self.sweeper,
            groups: self.groups,
        })
    }
}

impl Running {
    /// bubblewrap's outer process: its end is the end of the jail, its status the command's own
    /// (128 + n when signal n ended it).
    pub fn child(&mut self) -> &mut Child {
        &mut self.bwrap.0
    }

    /// Learns which process the jail's first is. To be called when init has spoken, which is a child of it:
    /// should the sweeper die, it is we who wait for its end.
    pub fn learn_first(&mut self) {
        if let Some(sweeper) = &mut self.sweeper
            && let Some(first) = only_child(self.bwrap.0.id())
        {
            sweeper.know(First::Known(first));
        }
    }

    /// What tells of limits that the jail reaches, where control groups hold any.
    pub fn meter(&self) -> io::Result<Option<Meter>> {
        let meter = self.groups.as_ref().map(Groups::meter);
        Ok(meter.transpose()?)
    }

    /// Has the placeholders and control groups removed as soon as the jail is dead, without waiting for it.
    pub fn begin_sweep(&mut self) {
        if let Some(sweeper) = &mut self.sweeper {
            sweeper.begin();
        }
    }

    /// Waits for the command, then until the placeholders and control groups are removed.
    pub fn finish(mut self) -> io::Result<ExitStatus> {
        let status = self.bwrap.0.wait()?;
        drop(self.sweeper.take());
        drop(self.groups.take());
        Ok(status)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let first = self.bwrap.end();
        if let Some(sweeper) = &mut self.sweeper {
            sweeper.know(first);
        }
    }
}

impl BwrapProcess {
    /// Ends it, and says who is left to be waited for.
    fn end(&mut self) -> First {
        // Its child waits for it until it has been told who it is, and would do so for ever.
        if let Ok(Some(children)) = kill_with_children(&mut self.0) {
            return children
                .into_iter()
                .next()
                .map_or(First::Nobody, First::Known);
        }
        let Ok(Some(status)) = self.0.try_wait() else {
            return First::Unknown;
        };
        if status.signal() == Some(Signal::KILL.as_raw()) {
            // By somebody else: it may have left its child.
            super::orphan::end_all();
        }
        // One that was not killed has waited for its child, as far as it had one.
        if status.code().is_some() {
            First::Nobody
        } else {
            First::Unknown
        }
    }
}

/// The one child of a process that nobody has reaped. Without `/proc/PID/task/TID/children`
/// (CONFIG_PROC_CHILDREN) it is not known.
fn only_child(parent: u32) -> Option<OwnedFd> {
    let file = format!("/proc/{parent}/task/{parent}/children");
    let listed = || std::fs::read_to_string(&file).ok();
    let before = listed()?;
    let number = Pid::from_raw(before.trim().parse().ok()?)?;
    let process = pidfd_open(number, PidfdFlags::empty()).ok()?;
    // The number was its own when the descriptor was made.
    (listed()? == before).then_some(process)
}

fn sealed_plan(plan: &InitPlan) -> Result<File, JailError> {
    serde_json::to_vec(plan)
        .map_err(io::Error::from)
        .and_then(|bytes| sealed("plan", &bytes))
        .map_err(|source| JailError::Memory {
            what: "the plan for portcullis-init",
            source,
        })
}

fn sealed_argv(spec: &JailSpec) -> Result<File, JailError> {
    let bytes = bwrap::nul_separated(&bwrap::argv(spec));
    let bytes = bytes.ok_or_else(|| io::Error::other("a path has a NUL byte in it"));
    let file = bytes.and_then(|bytes| sealed("argv", &bytes));
    file.map_err(|source| JailError::Memory {
        what: "the arguments for bubblewrap",
        source,
    })
}

fn starting(what: &'static str) -> impl FnOnce(io::Error) -> JailError {
    move |source| JailError::Start { what, source }
}
