//! Landlock rules (landlock(7)): the mounts once more, by a mechanism that does not know mounts. What
//! a mistake in a mount or a mask would show, these do not let be opened.
//!
//! TCP is left to the network namespace, which has a loopback device and nothing else: rules by port
//! could only take away what tests and servers inside need.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, BitFlags, LandlockStatus, PathBeneath, PathFd, PathFdError, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, Scope,
};
use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat};

use crate::audit::event::Shortfall;

/// The newest ABI that we have rules for.
const NEWEST: ABI = ABI::V9;

/// What newer ABIs add to the protection (5 to 8 add more than is listed: what is not used here is
/// not missed).
const PROTECTIONS: &[(u8, &str, &str)] = &[
    (3, "landlock: truncation", "Landlock ABI 3 (Linux 6.2)"),
    (
        5,
        "landlock: device requests",
        "Landlock ABI 5 (Linux 6.10)",
    ),
    (
        6,
        "landlock: scoped signals and abstract sockets",
        "Landlock ABI 6 (Linux 6.12)",
    ),
    (9, "landlock: Unix sockets by path", "Landlock ABI 9"),
];

/// The rules could not be made or are not enough.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LandlockError {
    /// A path of the plan cannot be opened.
    #[error("{0}; this is a bug: the plan names what the jail does not have")]
    Path(#[from] PathFdError),
    /// The kernel refused.
    #[error("landlock: {0}")]
    Ruleset(#[from] RulesetError),
    /// A standard stream cannot be looked at.
    #[error("standard stream: {0}")]
    Stream(#[from] io::Error),
    /// The kernel has less than the profile demands.
    #[error(
        "this kernel has Landlock ABI {achieved}, the profile demands {floor}; boot a newer kernel \
         (with landlock in its lsm= list), or lower isolation.landlock_abi"
    )]
    BelowFloor {
        /// What the kernel has.
        achieved: u8,
        /// `isolation.landlock_abi`.
        floor: u8,
    },
}

/// What was achieved.
#[derive(Debug)]
pub(crate) struct Achieved {
    pub(crate) abi: u8,
    pub(crate) shortfalls: Vec<Shortfall>,
}

/// Confines this thread and all that it starts.
pub(crate) fn confine(
    readable: &[PathBuf],
    writable: &[PathBuf],
    sockets: &[PathBuf],
    floor: u8,
) -> Result<Achieved, LandlockError> {
    let read = AccessFs::from_read(NEWEST);
    let all = AccessFs::from_all(NEWEST);
    let mut rules = Ruleset::default()
        .handle_access(all)?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    // Folders can be listed anywhere: what must not be seen is not mounted.
    rules = allow(rules, Path::new("/"), AccessFs::ReadDir.into())?;
    for path in readable {
        rules = allow(rules, path, read)?;
    }
    for path in writable {
        // A socket that a process outside listens on may lie there; the jail's own need no rule.
        rules = allow(rules, path, all & !AccessFs::ResolveUnix)?;
    }
    for path in sockets {
        // With a right that every kernel knows: a rule cannot be empty.
        rules = allow(rules, path, AccessFs::ResolveUnix | AccessFs::ReadFile)?;
    }
    rules = allow(rules, Path::new("/dev"), read | device_use())?;
    rules = allow_streams(rules)?;
    let abi = match rules.restrict_self()?.landlock {
        LandlockStatus::Available { effective_abi, .. } => number(effective_abi.min(NEWEST)),
        LandlockStatus::NotEnabled | LandlockStatus::NotImplemented => 0,
    };
    if abi < floor {
        return Err(LandlockError::BelowFloor {
            achieved: abi,
            floor,
        });
    }
    Ok(Achieved {
        abi,
        shortfalls: shortfalls(abi),
    })
}

/// Confines the sweeper of placeholders: it can make and remove folders and look into them, and
/// nothing else with files. It may send signals, because it ends a jail that was orphaned while it started.
pub(crate) fn confine_sweeper() -> Result<(), LandlockError> {
    let folders = AccessFs::MakeDir | AccessFs::RemoveDir | AccessFs::ReadDir;
    let rules = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .scope(Scope::AbstractUnixSocket)?
        .create()?;
    allow(rules, Path::new("/"), folders)?.restrict_self()?;
    Ok(())
}

/// Using a device or a file that is there, without making or removing any.
fn device_use() -> BitFlags<AccessFs> {
    AccessFs::WriteFile | AccessFs::Truncate | AccessFs::IoctlDev
}

fn allow(
    rules: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, LandlockError> {
    let fd = PathFd::new(path)?;
    let folder = fstat(&fd).map_err(io::Error::from)?;
    // Rights over entries make no sense for a file (EINVAL).
    let access = match FileType::from_raw_mode(folder.st_mode) {
        FileType::Directory => access,
        _ => access & AccessFs::from_file(NEWEST),
    };
    Ok(rules.add_rule(PathBeneath::new(fd, access))?)
}

/// Lets the standard streams be opened once more, as `/dev/stderr`, in the way they are open now and
/// no other: a file that the caller opened for reading must not become writable. Pipes and sockets
/// need no rule.
fn allow_streams(mut rules: RulesetCreated) -> Result<RulesetCreated, LandlockError> {
    for stream in streams() {
        let kind = FileType::from_raw_mode(fstat(stream).map_err(io::Error::from)?.st_mode);
        if !matches!(kind, FileType::RegularFile | FileType::CharacterDevice) {
            continue;
        }
        let mode = fcntl_getfl(stream).map_err(io::Error::from)? & OFlags::RWMODE;
        let access = match mode {
            OFlags::WRONLY => device_use(),
            OFlags::RDWR => device_use() | AccessFs::ReadFile,
            _ => AccessFs::ReadFile | AccessFs::IoctlDev,
        };
        rules = rules.add_rule(PathBeneath::new(stream, access))?;
    }
    Ok(rules)
}

/// A standard stream that is a folder: through it the command could walk the host's tree past every
/// mount of the jail.
pub(crate) fn folder_among_streams() -> io::Result<Option<&'static str>> {
    for (stream, name) in streams().into_iter().zip(["input", "output", "error"]) {
        if FileType::from_raw_mode(fstat(stream)?.st_mode) == FileType::Directory {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

fn streams() -> [BorrowedFd<'static>; 3] {
    [
        rustix::stdio::stdin(),
        rustix::stdio::stdout(),
        rustix::stdio::stderr(),
    ]
}

fn shortfalls(abi: u8) -> Vec<Shortfall> {
    let missing = PROTECTIONS.iter().filter(|(needs, ..)| abi < *needs);
    missing
        .map(|(_, what, needs)| Shortfall {
            what: (*what).to_owned(),
            needs: (*needs).to_owned(),
        })
        .collect()
}

fn number(abi: ABI) -> u8 {
    u8::try_from(abi as i32).unwrap_or(0)
}
