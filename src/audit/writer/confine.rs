//! What the writer takes from itself. Four layers, each enough to keep it from the rest of the host.
//!
//! Afterwards it can read and write what is open, make new files in the folders that are named to [`confine`], and
//! end. It cannot open a file that is there, connect, execute, signal or trace; a system call beyond the table ends it at
//! once, and with it the session's traffic.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use landlock::{
    ABI, Access, AccessFs, AccessNet, PathBeneath, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, RulesetStatus, Scope,
};
use nix::libc;
use rustix::fs::OFlags;
use seccompiler::{SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule};

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

/// Puts every layer on. Seccomp last, because it forbids what the others are made with. In these folders, open
/// descriptors that stay open, new files may be made.
pub fn confine(folders: &[BorrowedFd<'_>]) -> Result<(), ConfineError> {
    harden::harden()?;
    capability::drop_all()?;
    landlock(folders)?;
    let table = table(folders)?;
    seccomp::install(&seccomp::allow_only(table, SeccompAction::KillProcess)?)?;
    Ok(())
}

/// Handles everything Landlock knows and allows none of it, but new regular files beneath the folders: to make them, to
/// write them and to cut off what was written in part. An older kernel enforces the part that it
/// knows; that it enforces anything is checked, because the library says nothing when it does not.
fn landlock(folders: &[BorrowedFd<'_>]) -> Result<(), ConfineError> {
    let abi = ABI::V10;
    let new_files = AccessFs::MakeReg | AccessFs::WriteFile | AccessFs::Truncate;
    let rules = folders
        .iter()
        .map(|folder| Ok::<_, RulesetError>(PathBeneath::new(folder, new_files)));
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
fn table(folders: &[BorrowedFd<'_>]) -> Result<Table, ConfineError> {
    let mut table: Table = [
        // the loop
        libc::SYS_ppoll, // wait for requests; restarts by itself after SIGSTOP and SIGCONT
        libc::SYS_recvfrom, // read requests
        libc::SYS_recvmsg, // the channel of a gate (wire::supply)
        libc::SYS_sendto, // answer
        libc::SYS_sendmsg, // answer Ready (wire::Channel)
        // the file
        libc::SYS_write,     // append
        libc::SYS_fdatasync, // durability
        libc::SYS_fsync,     // durability of a new segment's name
        libc::SYS_ftruncate, // cut a partial line off
        // the memory allocator
        libc::SYS_brk,
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
    // Rust's library makes sure that a descriptor is open before it closes it (debug builds). And the lock of a new
    // segment.
    let lock = exactly(1, libc::F_OFD_SETLK)?;
    table.insert(libc::SYS_fcntl, vec![exactly(1, libc::F_GETFD)?, lock]);
    let new_files = folders
        .iter()
        .copied()
        .map(new_file_in)
        .collect::<Result<Vec<_>, _>>()?;
    // No rule would be no condition.
    if !new_files.is_empty() {
        table.insert(libc::SYS_openat, new_files);
    }
    // Memory, but none that is executable (mmap(2), third argument).
    table.insert(libc::SYS_mmap, vec![without(2, libc::PROT_EXEC)?]);
    Ok(table)
}

/// A rule for openat(2) of a file that is not there yet, by a name in this folder. Where the name leads nobody checks
/// here: that it stays beneath the folder is Landlock's.
fn new_file_in(folder: BorrowedFd<'_>) -> Result<SeccompRule, ConfineError> {
    // Which the kernel adds by itself on 64 bits, and libraries on 32.
    let always_set = OFlags::LARGEFILE.bits();
    let flags = SeccompCmpOp::MaskedEq((!always_set).into());
    let is = |argument, how, number: u32| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, how, number.into())
    };
    let folder = folder.as_raw_fd().cast_unsigned();
    Ok(SeccompRule::new(vec![
        is(0, SeccompCmpOp::Eq, folder)?,
        is(2, flags, NEW_SEGMENT.bits() & !always_set)?,
        is(3, SeccompCmpOp::Eq, NEW_SEGMENT_MODE.bits())?,
    ])?)
}

/// A rule for calls whose argument is this number.
fn exactly(argument: u8, number: libc::c_int) -> Result<SeccompRule, ConfineError> {
    let (length, number) = (SeccompCmpArgLen::Dword, u64::from(number.unsigned_abs()));
    let condition = SeccompCondition::new(argument, length, SeccompCmpOp::Eq, number)?;
    Ok(SeccompRule::new(vec![condition])?)
}

/// A rule for calls whose argument lacks this bit.
fn without(argument: u8, bit: libc::c_int) -> Result<SeccompRule, ConfineError> {
    let bit = u64::from(bit.unsigned_abs());
    let condition = SeccompCondition::new(
        argument,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::MaskedEq(bit),
        0,
    )?;
    Ok(SeccompRule::new(vec![condition])?)
}
