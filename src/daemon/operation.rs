//! Everything that root does for others, as one closed list: [`Operation`]. Each takes numbers, descriptors
//! and names that the daemon made; none takes a path that anybody named, and none reads what a jail wrote.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{Dir, FileType, Gid, Mode, OFlags, Uid, fchmod, fchown, fstat, mkdirat, openat};
use rustix::io::Errno;
use rustix::process::Pid;

use super::accounts::Accounts;
use super::host_limit;
use super::process::{self, Process};
use crate::audit::bodies::{self, BodyPlace};
use crate::audit::segment::SegmentName;
use crate::ids::SessionId;
use crate::jail::cgroup::{self, Handed, Missing, handed};
use crate::policy::ResourceLimits;
use crate::sys::beside;
use crate::sys::identity::Identity;
use crate::sys::peer::Peer;
use crate::sys::process::Spawn;
use crate::sys::userns::{self, IdMap};
use crate::wire::service;

/// Where the logs are: a folder a user.
pub const LOGS: &str = "/var/log/portcullis";
/// Where sessions have their sockets: a folder a user.
pub const RUNTIME: &str = "/run/portcullis/user";

/// From here on uids and gids are nobody's (systemd's "Users, Groups, UIDs and GIDs"): each session has one of
/// its own for what is root in its namespace, so that none can signal what another has started.
const RESERVED: u32 = 0x7000_0000;

/// Who else there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Others {
    /// Whom gates run as.
    gate: (u32, u32),
    /// Whom audit writers run as.
    audit: (u32, u32),
    /// Who may read all logs.
    auditors: u32,
}

/// One thing that root does.
#[derive(Debug)]
pub enum Operation<'a> {
    /// A user namespace in which the caller is themself and root is nobody. Yields it.
    MakeNamespace {
        /// Who.
        caller: &'a Peer,
        /// What root is inside: a uid and gid that nobody else has.
        reserved: u32,
    },
    /// The session process, as the caller, in such a namespace. Yields it.
    StartSession {
        /// As whom.
        caller: &'a Peer,
        /// In which.
        namespace: OwnedFd,
        /// Its end of the service channel.
        channel: OwnedFd,
    },
    /// A gate. Yields it.
    StartGate {
        /// Its end of the session's control channel.
        control: OwnedFd,
        /// Its end of the supply channel.
        supply: OwnedFd,
    },
    /// An audit writer. Yields it.
    StartWriter {
        /// Its end of the session's lane.
        lane: OwnedFd,
        /// Its end of the supply channel.
        supply: OwnedFd,
        /// The user whose folder the log is in.
        uid: u32,
    },
    /// A witness of a session's jail, as uid 0 of the session's namespace. Yields it.
    StartWitness {
        /// In which.
        namespace: OwnedFd,
        /// Its end of the session's channel.
        channel: OwnedFd,
    },
    /// The folder in which a user's sessions have their sockets, made where it is missing.
    MakeRuntimeFolder(&'a Peer),
    /// The control groups of a session. Yields them.
    MakeGroups {
        /// Whose.
        session: SessionId,
        /// What they hold.
        limits: &'a ResourceLimits,
    },
    /// A process of a session, into a control group of that session. Not done with one that is of no user namespace
    /// but the session's.
    MoveInto {
        /// The group's `cgroup.procs`.
        procs: BorrowedFd<'a>,
        /// Which; the kernel's word.
        process: Pid,
        /// The session's.
        namespace: BorrowedFd<'a>,
    },
    /// The control groups of a session that has ended, with what is still in them.
    RemoveGroups(SessionId),
    /// The control groups of all sessions that have ended. Yields those that have not.
    SweepGroups,
    /// A segment of a session's log, to read. Yields it.
    OpenLog {
        /// In whose folder; `None`: in anybody's.
        uid: Option<u32>,
        /// Which.
        segment: SegmentName,
    },
    /// A body that is kept beside logs, to read. Yields it.
    OpenBody {
        /// In whose folder; `None`: in anybody's.
        uid: Option<u32>,
        /// Which file: a hash and a small number, and so never a path.
        place: &'a BodyPlace,
    },
    /// Which segments the log of a session has. Yields them, in their order.
    ListSegments {
        /// In whose folder; `None`: in anybody's.
        uid: Option<u32>,
        /// Whose.
        session: SessionId,
    },
    /// Which logs there are. Yields them.
    ListLogs {
        /// In whose folder; `None`: in anybody's.
        uid: Option<u32>,
    },
    /// The end of a process that was started by one of the above.
    Kill(&'a Process),
    /// Which of these user namespaces of sessions still have a process in them. Yields their places in the list.
    FindInhabited(&'a [BorrowedFd<'a>]),
    /// The end of all processes in these.
    KillIn(&'a [BorrowedFd<'a>]),
}

/// What an operation gives.
#[derive(Debug)]
pub enum Yield {
    /// Nothing: it is done.
    Done,
    /// A descriptor.
    Fd(OwnedFd),
    /// A process that runs.
    Process(Process),
    /// Control groups, and why there are not more.
    Groups(Vec<Handed>, Vec<Missing>),
    /// Places in the list that was given.
    Places(BTreeSet<usize>),
    /// Sessions, oldest first.
    Sessions(Vec<SessionId>),
    /// Segments of logs.
    Segments(Vec<SegmentName>),
}

/// It was not done: what, and why.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}{limit}")]
pub struct OperationError {
    what: &'static str,
    source: io::Error,
    /// Which limit it was, if any.
    limit: &'static str,
}

// === impl Others ===

impl Others {
    /// Finds them among the host's users. The error is one line.
    pub fn find(accounts: &Accounts) -> Result<Self, String> {
        let user = |name: &str| {
            accounts.user(name).ok_or_else(|| {
                format!("there is no user {name}; install Portcullis's sysusers.d file, or run systemd-sysusers")
            })
        };
        let gate = user("portcullis-gate")?;
        Ok(Self {
            gate,
            audit: user("portcullis-audit")?,
            auditors: accounts.group("portcullis-auditors").unwrap_or(0),
        })
    }
}

/// The lowest reserved number that none of these has.
pub fn free_reserved(taken: impl Iterator<Item = u32>) -> u32 {
    let taken: BTreeSet<u32> = taken.collect();
    let mut free = RESERVED;
    while taken.contains(&free) {
        free += 1;
    }
    free
}

// === impl Operation ===

impl Operation<'_> {
    /// Does it.
    pub fn perform(self, others: &Others) -> Result<Yield, OperationError> {
        let what = self.name();
        let limit = match self {
            Self::MakeNamespace { .. } => host_limit::named_of_namespaces,
            // Other limits than those of starting something.
            Self::MoveInto { .. } => |_: &io::Error| "",
            _ => host_limit::named,
        };
        self.done(others).map_err(|source| OperationError {
            what,
            limit: limit(&source),
            source,
        })
    }

    fn name(&self) -> &'static str {
        match self {
            Self::MakeNamespace { .. } => "make a user namespace",
            Self::StartSession { .. } => "start the session process",
            Self::StartGate { .. } => "start the gate",
            Self::StartWriter { .. } => "start the audit writer",
            Self::StartWitness { .. } => "start the witness",
            Self::MakeRuntimeFolder(_) => "make /run/portcullis/user",
            Self::MakeGroups { .. } => "make control groups",
            Self::MoveInto { .. } => "move a process into a control group",
            Self::RemoveGroups(_) => "remove control groups",
            Self::SweepGroups => "remove the control groups of sessions that ended",
            Self::OpenLog { .. } => "open a log",
            Self::OpenBody { .. } => "open a body",
            Self::ListSegments { .. } => "list the segments of a log",
            Self::ListLogs { .. } => "list logs",
            Self::Kill(_) => "kill a process",
            Self::FindInhabited(_) => "look for what is left of sessions",
            Self::KillIn(_) => "kill what is left of sessions",
        }
    }

    fn done(self, others: &Others) -> io::Result<Yield> {
        match self {
            Self::MakeNamespace { caller, reserved } => namespace(caller, reserved).map(Yield::Fd),
            Self::StartSession {
                caller,
                namespace,
                channel,
            } => start_session(caller, namespace, channel),
            Self::StartGate { control, supply } => {
                start("portcullis-gate", others.gate, [control, supply], None)
            }
            Self::StartWriter { lane, supply, uid } => {
                let folder = log_folder(uid, others)?;
                start(
                    "portcullis-audit",
                    others.audit,
                    [lane, supply],
                    Some(folder),
                )
            }
            Self::StartWitness { namespace, channel } => start_witness(namespace, channel),
            Self::MakeRuntimeFolder(caller) => runtime_folder(caller),
            Self::MakeGroups { session, limits } => {
                let (groups, missing) = handed::make(&session.to_string(), limits);
                Ok(Yield::Groups(groups, missing))
            }
            Self::MoveInto {
                procs,
                process,
                namespace,
            } => {
                if !process::is_within(process, namespace) {
                    return Err(io::ErrorKind::PermissionDenied.into());
                }
                let number = process.as_raw_nonzero().to_string();
                rustix::io::write(procs, number.as_bytes())?;
                Ok(Yield::Done)
            }
            Self::RemoveGroups(session) => {
                handed::remove_all(&session.to_string())?;
                Ok(Yield::Done)
            }
            Self::SweepGroups => {
                let left = cgroup::sweep_leftovers();
                Ok(Yield::Sessions(left.into_iter().collect()))
            }
            Self::OpenLog { uid, segment } => open_log(uid, segment, others).map(Yield::Fd),
            Self::OpenBody { uid, place } => open_body(uid, place, others).map(Yield::Fd),
            Self::ListSegments { uid, session } => {
                let mut all = list_segments(uid)?;
                all.retain(|segment| segment.session == session);
                // Plain and packed for a moment, while it is packed: the plain one.
                all.dedup_by_key(|segment| segment.number);
                Ok(Yield::Segments(all))
            }
            Self::ListLogs { uid } => list_logs(uid).map(Yield::Sessions),
            Self::Kill(process) => process.kill().map(|()| Yield::Done),
            Self::FindInhabited(namespaces) => process::inhabited(namespaces).map(Yield::Places),
            Self::KillIn(namespaces) => process::kill_within(namespaces).map(|()| Yield::Done),
        }
    }
}

fn namespace(caller: &Peer, reserved: u32) -> io::Result<OwnedFd> {
    let reserved = (reserved, reserved);
    let map = IdMap::new(caller.uid, caller.gid, &caller.groups, reserved)?;
    userns::make(&map)
}

fn start_session(caller: &Peer, namespace: OwnedFd, channel: OwnedFd) -> io::Result<Yield> {
    let identity = Identity::new(caller.uid, caller.gid, &caller.groups);
    let child = Spawn::new(&beside::installed("portcullis")?)
        .arg("service-session")
        .inherit_stderr()
        .fd(channel, service::CHANNEL_FD)
        .run_as_in(namespace, identity)
        .start()?;
    running(&child)
}

/// As the session starts its first one, while it still may.
fn start_witness(namespace: OwnedFd, channel: OwnedFd) -> io::Result<Yield> {
    let child = Spawn::new(&beside::installed("portcullis-init")?)
        .arg("witness")
        .fd(channel, 3)
        .own_process_group()
        .run_as_root_in(namespace)
        .start()?;
    running(&child)
}

/// Gate and writer: two channels, and a folder for one of them.
fn start(
    name: &str,
    (uid, gid): (u32, u32),
    channels: [OwnedFd; 2],
    folder: Option<OwnedFd>,
) -> io::Result<Yield> {
    let mut spawn = Spawn::new(&beside::installed(name)?)
        .inherit_stderr()
        .own_process_group()
        .run_as(Identity::new(uid, gid, &[]));
    for (fd, number) in channels.into_iter().chain(folder).zip(3..) {
        spawn = spawn.fd(fd, number);
    }
    running(&spawn.start()?)
}

fn running(child: &std::process::Child) -> io::Result<Yield> {
    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    // Not reaped yet, so the number is its own.
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    Ok(Yield::Process(Process::new(pidfd)))
}

const FOLDER: OFlags = OFlags::DIRECTORY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::RDONLY)
    .union(OFlags::CLOEXEC);

/// A folder of ours. Only root can put something else in its place.
fn ours(path: &str) -> io::Result<OwnedFd> {
    let folder = rustix::fs::open(path, FOLDER, Mode::empty())?;
    let stat = fstat(&folder)?;
    if stat.st_uid != 0 || stat.st_mode & 0o022 != 0 {
        let why = format!("{path}: others than root can write it; chown root and chmod go-w it");
        return Err(io::Error::other(why));
    }
    Ok(folder)
}

/// A folder in one of ours, named by a user's number: made where it is missing, theirs if it is there.
fn of_user(parent: &OwnedFd, uid: u32, owner: (u32, u32), mode: u32) -> io::Result<OwnedFd> {
    let name = uid.to_string();
    let is_new = match mkdirat(parent, name.as_str(), Mode::from_raw_mode(0o700)) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(errno) => return Err(errno.into()),
    };
    let folder = openat(parent, name.as_str(), FOLDER, Mode::empty())?;
    if is_new {
        fchown(
            &folder,
            Some(Uid::from_raw(owner.0)),
            Some(Gid::from_raw(owner.1)),
        )?;
        fchmod(&folder, Mode::from_raw_mode(mode))?;
    } else if fstat(&folder)?.st_uid != owner.0 {
        return Err(io::Error::other(format!("{name} is somebody else's")));
    }
    Ok(folder)
}

/// The files that are made in it are the auditors' to read.
fn log_folder(uid: u32, others: &Others) -> io::Result<OwnedFd> {
    let owner = (others.audit.0, others.auditors);
    of_user(&ours(LOGS)?, uid, owner, 0o2750)
}

fn runtime_folder(caller: &Peer) -> io::Result<Yield> {
    let mode = Mode::from_raw_mode(0o755);
    match rustix::fs::mkdir(RUNTIME, mode) {
        Ok(()) => rustix::fs::chmod(RUNTIME, mode)?,
        Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    let owner = (caller.uid, caller.gid);
    of_user(&ours(RUNTIME)?, caller.uid, owner, 0o700)?;
    Ok(Yield::Done)
}

/// The folders of users, or that of one.
fn user_folders(uid: Option<u32>) -> io::Result<Vec<OwnedFd>> {
    let logs = ours(LOGS)?;
    let open = |name: &str| openat(&logs, name, FOLDER, Mode::empty());
    if let Some(uid) = uid {
        return match open(&uid.to_string()) {
            Ok(folder) => Ok(vec![folder]),
            Err(Errno::NOENT) => Ok(Vec::new()),
            Err(errno) => Err(errno.into()),
        };
    }
    let mut folders = Vec::new();
    for entry in Dir::read_from(&logs)? {
        let name = entry?;
        let Ok(name) = name.file_name().to_str() else {
            continue;
        };
        if name.parse::<u32>().is_ok() {
            folders.push(open(name)?);
        }
    }
    Ok(folders)
}

fn open_log(uid: Option<u32>, segment: SegmentName, others: &Others) -> io::Result<OwnedFd> {
    let name = segment.file_name();
    for folder in user_folders(uid)? {
        if let Some(file) = open_written(&folder, &name, others)? {
            return Ok(file);
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

fn open_body(uid: Option<u32>, place: &BodyPlace, others: &Others) -> io::Result<OwnedFd> {
    if !place.is_one() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let name = place.file_name();
    for folder in user_folders(uid)? {
        let bodies = match openat(&folder, bodies::FOLDER, FOLDER, Mode::empty()) {
            Ok(bodies) => bodies,
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(errno.into()),
        };
        if let Some(file) = open_written(&bodies, &name, others)? {
            return Ok(file);
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

/// A file that an audit writer has made, to read. `None`: there is none of this name.
fn open_written(folder: &OwnedFd, name: &str, others: &Others) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat(folder, name, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let stat = fstat(&file)?;
    let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    if !regular || stat.st_uid != others.audit.0 {
        return Err(io::Error::other("it is not the audit writer's file"));
    }
    Ok(Some(file))
}

fn list_logs(uid: Option<u32>) -> io::Result<Vec<SessionId>> {
    let segments = list_segments(uid)?.into_iter();
    let mut sessions: Vec<_> = segments.map(|segment| segment.session).collect();
    sessions.dedup();
    Ok(sessions)
}

fn list_segments(uid: Option<u32>) -> io::Result<Vec<SegmentName>> {
    let mut segments = Vec::new();
    for folder in user_folders(uid)? {
        for entry in Dir::read_from(&folder)? {
            let name = entry?;
            segments.extend(name.file_name().to_str().ok().and_then(SegmentName::parse));
        }
    }
    segments.sort_unstable();
    Ok(segments)
}
