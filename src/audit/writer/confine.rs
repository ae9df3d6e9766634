//! What the writer takes from itself. Four layers, each enough to keep it from the rest of the host.
//!
//! Afterwards it can read and write what is open, make files in the folders it was given for that, and end. It
//! cannot open anything else, connect, execute, signal or trace; a system call beyond the table ends it at once, and with it the session's traffic.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use nix::libc;
use seccompiler::{SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule};

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

/// How a new file is made (open(2)): never one that is there, never through a link.
pub(super) const NEW: u32 =
    (libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .cast_unsigned();

/// How one that is there is opened to be written again.
pub(super) const AGAIN: u32 =
    (libc::O_WRONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC).cast_unsigned();

/// What rustix adds to every open(2).
#[cfg(target_arch = "x86_64")]
const LARGE_FILE: u32 = 0o100_000;
#[cfg(not(target_arch = "x86_64"))]
const LARGE_FILE: u32 = 0o400_000;

/// Puts every layer on. Seccomp last, because it forbids what the others are made with. `folders`: in these, and by
/// these descriptors, files may be made.
pub fn confine<'a>(folders: impl IntoIterator<Item = BorrowedFd<'a>>) -> Result<(), ConfineError> {
    let folders: Vec<_> = folders.into_iter().collect();
    harden::harden()?;
    capability::drop_all()?;
    landlock(&folders)?;
    let table = table(&folders)?;
    seccomp::install(&seccomp::allow_only(table, SeccompAction::KillProcess)?)?;
    Ok(())
}

/// Handles everything Landlock knows and allows none of it but files in these folders. An older kernel enforces the part that it
/// knows; that it enforces anything is checked, because the library says nothing when it does not.
fn landlock(folders: &[BorrowedFd<'_>]) -> Result<(), ConfineError> {
    let abi = ABI::V10;
    let make = AccessFs::MakeReg | AccessFs::WriteFile | AccessFs::Truncate;
    let folders = folders.iter().map(|folder| {
        let rule = PathBeneath::new(folder, make).set_compatibility(CompatLevel::BestEffort);
        Ok::<_, RulesetError>(rule)
    });
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?
        .create()?
        .add_rules(folders)?
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
    // Rust's library makes sure that a descriptor is open before it closes it (debug builds).
    table.insert(libc::SYS_fcntl, vec![exactly(1, libc::F_GETFD)?]);
    // Files in these folders alone, and only in these ways.
    let mut opens = Vec::new();
    for folder in folders {
        for flags in [NEW, AGAIN] {
            opens.push(opening(*folder, flags)?);
        }
    }
    if !opens.is_empty() {
        table.insert(libc::SYS_openat, opens);
    }
    // Memory, but none that is executable (mmap(2), third argument).
    table.insert(libc::SYS_mmap, vec![without(2, libc::PROT_EXEC)?]);
    Ok(table)
}

/// A rule for openat(2) by this descriptor with these flags.
fn opening(folder: BorrowedFd<'_>, flags: u32) -> Result<SeccompRule, ConfineError> {
    let (at, length) = (
        u64::from(folder.as_raw_fd().unsigned_abs()),
        SeccompCmpArgLen::Dword,
    );
    let masked = SeccompCmpOp::MaskedEq(u64::from(!LARGE_FILE));
    Ok(SeccompRule::new(vec![
        SeccompCondition::new(0, length.clone(), SeccompCmpOp::Eq, at)?,
        SeccompCondition::new(2, length, masked, u64::from(flags))?,
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
