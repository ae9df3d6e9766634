//! What the notary takes from itself.
//!
//! Afterwards it can read below the folder of logs, and open and make segments of the ledger. It cannot open
//! anything else to write, connect, execute, signal or trace; a system call beyond the table ends it at once.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};
use nix::libc;
use seccompiler::{SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule};

use crate::audit::ledger::newest;
pub use crate::audit::writer::confine::ConfineError;
use crate::audit::writer::confine::{exactly, opening, without};
use crate::sys::seccomp::{self, Table};
use crate::sys::{capability, harden};

/// Puts every layer on. Seccomp last, because it forbids what the others are made with. `ledger` is the folder in which
/// segments may be opened to write, and made; whoever only reads below `logs` has none.
pub fn confine(logs: impl AsFd, ledger: Option<BorrowedFd<'_>>) -> Result<(), ConfineError> {
    harden::harden()?;
    capability::drop_all()?;
    landlock(logs, ledger)?;
    let table = table(ledger)?;
    seccomp::install(&seccomp::allow_only(table, SeccompAction::KillProcess)?)?;
    Ok(())
}

/// Handles everything Landlock knows, and allows reading below the folder of logs, and writing in that of the ledger.
fn landlock(logs: impl AsFd, ledger: Option<BorrowedFd<'_>>) -> Result<(), ConfineError> {
    let abi = ABI::V10;
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?
        .create()?
        .add_rule(PathBeneath::new(
            logs,
            AccessFs::ReadFile | AccessFs::ReadDir,
        ))?;
    if let Some(ledger) = ledger {
        let appends =
            AccessFs::MakeReg | AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate;
        let appends = PathBeneath::new(ledger, appends);
        rules = rules.add_rule(appends.set_compatibility(CompatLevel::BestEffort))?;
    }
    let status = rules.restrict_self()?;
    match status.ruleset {
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
        RulesetStatus::NotEnforced => Err(ConfineError::NoLandlock),
    }
}

/// Every system call that the notary makes from here on, and why.
fn table(ledger: Option<BorrowedFd<'_>>) -> Result<Table, ConfineError> {
    let mut table: Table = [
        // the loop
        libc::SYS_ppoll,
        libc::SYS_restart_syscall, // ppoll goes on after SIGSTOP and SIGCONT
        libc::SYS_read,            // signals, changes, logs
        libc::SYS_inotify_add_watch, // the folder of another user
        // the logs
        libc::SYS_getdents64,
        libc::SYS_fstat,
        libc::SYS_newfstatat,
        libc::SYS_statx,
        libc::SYS_lseek,
        // the ledger and its key; what is alarming, to standard error
        libc::SYS_pread64,
        libc::SYS_write,
        libc::SYS_fdatasync, // a log before its head is bound, and the ledger
        libc::SYS_fsync,     // the name of a new segment
        libc::SYS_ftruncate, // cut a partial line off
        // the memory allocator, and the seeds of tables
        libc::SYS_brk,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_madvise,
        libc::SYS_getrandom,
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
    // Only to read, but in the folder of the ledger (open(2): O_WRONLY and O_RDWR are the two lowest bits of the flags).
    let (access, length) = (
        u64::from(libc::O_ACCMODE.unsigned_abs()),
        SeccompCmpArgLen::Dword,
    );
    let reads =
        |flags| SeccompCondition::new(flags, length.clone(), SeccompCmpOp::MaskedEq(access), 0);
    let mut opens = vec![SeccompRule::new(vec![reads(2)?])?];
    if let Some(ledger) = ledger {
        opens.push(opening(ledger, newest::THERE, None)?);
        opens.push(opening(ledger, newest::NEW, Some(newest::MODE))?);
    }
    table.insert(libc::SYS_openat, opens);
    #[cfg(target_arch = "x86_64")]
    table.insert(libc::SYS_open, vec![SeccompRule::new(vec![reads(1)?])?]);
    // Libraries make sure what a descriptor is before they close it or list a folder; the lock of the ledger.
    let commands =
        [libc::F_GETFD, libc::F_GETFL, libc::F_OFD_SETLK].map(|command| exactly(1, command));
    let commands: Result<_, ConfineError> = commands.into_iter().collect();
    table.insert(libc::SYS_fcntl, commands?);
    // "Done", said to nobody: what the library of the signatures sets up once (pthread_once(3)).
    let wake = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
    table.insert(libc::SYS_futex, vec![exactly(1, wake)?]);
    // Memory, but none that is executable (mmap(2), third argument).
    table.insert(libc::SYS_mmap, vec![without(2, libc::PROT_EXEC)?]);
    Ok(table)
}
