//! What the writer takes from itself. Four layers, each enough to keep it from the rest of the host.
//!
//! Afterwards it can read and write what is open, and end. It cannot open, connect, execute, signal
//! or trace; a system call beyond the table ends it at once, and with it the session's traffic.

use std::collections::BTreeMap;
use std::io;

use landlock::{
    ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetError, RulesetStatus, Scope,
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

/// Puts every layer on. Seccomp last, because it forbids what the others are made with.
pub fn confine() -> Result<(), ConfineError> {
    harden::harden()?;
    capability::drop_all()?;
    landlock()?;
    seccomp::install(&seccomp::allow_only(table()?, SeccompAction::KillProcess)?)?;
    Ok(())
}

/// Handles everything Landlock knows and allows none of it. An older kernel enforces the part that it
/// knows; that it enforces anything is checked, because the library says nothing when it does not.
fn landlock() -> Result<(), ConfineError> {
    let abi = ABI::V10;
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?
        .create()?
        .restrict_self()?;
    match status.ruleset {
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
        RulesetStatus::NotEnforced => Err(ConfineError::NoLandlock),
    }
}

/// Every system call that the writer makes from here on, and why.
fn table() -> Result<Table, ConfineError> {
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
        // the ledger: its end, and its key
        libc::SYS_fstat,
        libc::SYS_pread64,
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
    // The lock of the ledger.
    let commands = [libc::F_GETFD, libc::F_OFD_SETLK].map(|command| exactly(1, command));
    let commands: Result<_, ConfineError> = commands.into_iter().collect();
    table.insert(libc::SYS_fcntl, commands?);
    // "Done", said to nobody: what the library of the signatures sets up once (pthread_once(3)).
    let wake = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
    table.insert(libc::SYS_futex, vec![exactly(1, wake)?]);
    // Memory, but none that is executable (mmap(2), third argument).
    table.insert(libc::SYS_mmap, vec![without(2, libc::PROT_EXEC)?]);
    Ok(table)
}

/// A rule for calls whose argument is this number.
pub(in crate::audit) fn exactly(argument: u8, number: libc::c_int) -> Result<SeccompRule, ConfineError> {
    let (length, number) = (SeccompCmpArgLen::Dword, u64::from(number.unsigned_abs()));
    let condition = SeccompCondition::new(argument, length, SeccompCmpOp::Eq, number)?;
    Ok(SeccompRule::new(vec![condition])?)
}

/// A rule for calls whose argument lacks this bit.
pub(in crate::audit) fn without(argument: u8, bit: libc::c_int) -> Result<SeccompRule, ConfineError> {
    let bit = u64::from(bit.unsigned_abs());
    let condition = SeccompCondition::new(
        argument,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::MaskedEq(bit),
        0,
    )?;
    Ok(SeccompRule::new(vec![condition])?)
}
