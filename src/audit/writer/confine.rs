//! What the writer takes from itself. Four layers, each enough to keep it from the rest of the host.
//!
//! Afterwards it can read and write what is open, make new files in the folders that are named to [`confine`], read those in
//! the folder of bodies, append in that of the ledger, whose key it has open, and end. It cannot open another file that is
//! there, connect, execute, signal or trace; a system call beyond the table ends it at once, and with it the session's
//! traffic.
//!
//! What keeps logs from being opened through the folder of the ledger: there files are opened to be read and written at
//! once (seccomp knows flags, not names), and Landlock lets none of the logs be read. Bodies can be read, and so nobody may
//! write them, their owner included ([`BODY_MODE`]).

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use nix::libc;
use rustix::fs::{Mode, OFlags};
use seccompiler::{SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule};

use crate::audit::ledger::newest;
use crate::audit::log::{NEW_SEGMENT, NEW_SEGMENT_MODE};
use crate::sys::seccomp::{self, SeccompError, Table};
use crate::sys::{capability, harden};

/// A layer could not be put on.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// `no_new_privs`, core dumps, memory.
    #[error("hardening: {0}")]
    Harden(#[from] io::Error),
    /// Capabilities.
    #[error("capabilities: {0}")]
    Capabilities(#[from] caps::errors::CapsError),
    /// Landlock.
    #[error("landlock: {0}")]
    Landlock(#[from] RulesetError),
    /// This kernel has no Landlock.
    #[error("landlock is not enforced; it needs Linux 5.13 with `landlock` in the `lsm=` list")]
    NoLandlock,
    /// Seccomp.
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
    /// A condition of the table is not valid (a bug).
    #[error("seccomp table: {0}")]
    Table(#[from] seccompiler::BackendError),
}

/// The folders that stay open, and what may be done in them.
#[derive(Debug)]
pub struct Folders<'a> {
    /// Segments of the log may be made in it.
    pub logs: Option<BorrowedFd<'a>>,
    /// Bodies may be made in it, and read.
    pub bodies: Option<BorrowedFd<'a>>,
    /// Segments of the ledger may be made in it, and opened. `None`: somebody else has the ledger.
    pub ledger: Option<BorrowedFd<'a>>,
}

/// Who may do what with a body: nobody writes it once it is made.
pub const BODY_MODE: Mode = Mode::RUSR.union(Mode::RGRP);

/// How a body is opened that is there.
pub(super) const READ: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::CLOEXEC);

/// Puts every layer on. Seccomp last, because it forbids what the others are made with.
pub fn confine(folders: &Folders<'_>) -> Result<(), ConfineError> {
    harden::harden()?;
    capability::drop_all()?;
    landlock(folders)?;
    let table = table(folders)?;
    seccomp::install(&seccomp::allow_only(table, SeccompAction::KillProcess)?)?;
    Ok(())
}

/// Handles everything Landlock knows and allows none of it, but new regular files beneath the folders: to make them, to
/// write them and to cut off what was written in part; and to read beneath those of bodies and of the ledger. An older kernel enforces the part that it
/// knows; that it enforces anything is checked, because the library says nothing when it does not.
fn landlock(folders: &Folders<'_>) -> Result<(), ConfineError> {
    let abi = ABI::V10;
    let make = AccessFs::MakeReg | AccessFs::WriteFile | AccessFs::Truncate;
    let named = [
        (folders.logs, make),
        (folders.bodies, make | AccessFs::ReadFile),
        (folders.ledger, make | AccessFs::ReadFile),
    ];
    let named = named
        .into_iter()
        .filter_map(|(folder, access)| Some((folder?, access)));
    let rules = named.map(|(folder, access)| {
        let rule = PathBeneath::new(folder, access).set_compatibility(CompatLevel::BestEffort);
        Ok::<_, RulesetError>(rule)
    });
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?
        .create()?
        .add_rules(rules)?
        .restrict_self()?;
    match status.ruleset {
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
        RulesetStatus::NotEnforced => Err(ConfineError::NoLandlock),
    }
}

/// Every system call that the writer makes from here on, and why.
fn table(folders: &Folders<'_>) -> Result<Table, ConfineError> {
    let mut table: Table = [
        // the loop
        libc::SYS_ppoll, // wait for requests; restarts by itself after SIGSTOP and SIGCONT
        libc::SYS_recvfrom, // read requests
        libc::SYS_recvmsg, // the channel of a gate (wire::supply)
        libc::SYS_sendto, // answer
        libc::SYS_sendmsg, // answer Ready (wire::Channel)
        // the file
        libc::SYS_write,     // append
        libc::SYS_read,      // a body that is there already
        libc::SYS_fdatasync, // durability
        libc::SYS_fsync,     // durability of a new segment's name
        libc::SYS_ftruncate, // cut a partial line off
        // the ledger: its end, and its key; whether a segment is a file
        libc::SYS_fstat,
        libc::SYS_pread64,
        // the memory allocator
        libc::SYS_brk,
        libc::SYS_madvise, // give_back
        libc::SYS_munmap,
        libc::SYS_mremap,
        // time, where the vDSO has no clock it can read
        libc::SYS_clock_gettime,
        // the end
        libc::SYS_close,
        libc::SYS_sigaltstack, // Rust's runtime takes its overflow guard down
        libc::SYS_exit_group,
    ]
    .into_iter()
    .map(|call| (call, Vec::new()))
    .collect::<BTreeMap<_, _>>();
    // Rust's library makes sure that a descriptor is open before it closes it (debug builds). And the locks of a new
    // segment and of the ledger.
    let lock = exactly(1, libc::F_OFD_SETLK)?;
    table.insert(libc::SYS_fcntl, vec![exactly(1, libc::F_GETFD)?, lock]);
    let ways = [
        (folders.logs, NEW_SEGMENT, Some(NEW_SEGMENT_MODE)),
        (folders.bodies, NEW_SEGMENT, Some(BODY_MODE)),
        (folders.bodies, READ, None),
        (folders.ledger, newest::THERE, None),
        (folders.ledger, newest::NEW, Some(newest::MODE)),
    ];
    let opens = ways
        .into_iter()
        .filter_map(|(folder, flags, mode)| Some(opening(folder?, flags, mode)))
        .collect::<Result<Vec<_>, _>>()?;
    // No rule would be no condition.
    if !opens.is_empty() {
        table.insert(libc::SYS_openat, opens);
    }
    // "Done", said to nobody: what the library of the signatures sets up once (pthread_once(3)).
    let wake = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
    table.insert(libc::SYS_futex, vec![exactly(1, wake)?]);
    // Memory, but none that is executable (mmap(2), third argument).
    table.insert(libc::SYS_mmap, vec![without(2, libc::PROT_EXEC)?]);
    Ok(table)
}

/// A rule for openat(2) by a name in this folder, in one way alone. Where the name leads nobody checks here: that it stays
/// beneath the folder is Landlock's.
pub(in crate::audit) fn opening(
    folder: BorrowedFd<'_>,
    flags: OFlags,
    mode: Option<Mode>,
) -> Result<SeccompRule, ConfineError> {
    // Which the kernel adds by itself on 64 bits, and libraries on 32.
    let always_set = OFlags::LARGEFILE.bits();
    let masked = SeccompCmpOp::MaskedEq((!always_set).into());
    let is = |argument, how, number: u32| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, how, number.into())
    };
    let by = folder.as_raw_fd().cast_unsigned();
    let mut conditions = vec![
        is(0, SeccompCmpOp::Eq, by)?,
        is(2, masked, flags.bits() & !always_set)?,
    ];
    if let Some(mode) = mode {
        conditions.push(is(3, SeccompCmpOp::Eq, mode.bits())?);
    }
    Ok(SeccompRule::new(conditions)?)
}

/// A rule for calls whose argument is this number.
pub(in crate::audit) fn exactly(
    argument: u8,
    number: libc::c_int,
) -> Result<SeccompRule, ConfineError> {
    let (length, number) = (SeccompCmpArgLen::Dword, u64::from(number.unsigned_abs()));
    let condition = SeccompCondition::new(argument, length, SeccompCmpOp::Eq, number)?;
    Ok(SeccompRule::new(vec![condition])?)
}

/// A rule for calls whose argument lacks this bit.
pub(in crate::audit) fn without(
    argument: u8,
    bit: libc::c_int,
) -> Result<SeccompRule, ConfineError> {
    let bit = u64::from(bit.unsigned_abs());
    let condition = SeccompCondition::new(
        argument,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::MaskedEq(bit),
        0,
    )?;
    Ok(SeccompRule::new(vec![condition])?)
}
