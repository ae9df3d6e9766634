//! What processes of the jail may ask of the kernel: a table, default deny, a reason a line.
//!
//! Everything a developer's tools need is here, and nothing that makes or enters namespaces, mounts,
//! reaches other processes' memory from outside of ptrace(2), loads code into the kernel, or speaks
//! a protocol that the gate does not. What is not in the table is answered EPERM; what is too new for
//! the table ENOSYS, so that libraries fall back. Calls of another architecture kill the process.
//!
//! Conditions compare the low 32 bits where the kernel reads an `int`: the upper half of such an
//! argument is not looked at by the kernel, so it must not be looked at here.

use nix::libc;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompRule,
};

use crate::sys::seccomp::{SeccompError, Table, allow_only, answer_enosys, install};

/// Both filters, built and not yet installed.
#[derive(Debug)]
pub struct Filters {
    allow: BpfProgram,
    enosys: BpfProgram,
    /// How many system calls the table lets through.
    pub allowed: u32,
}

/// Builds the filters.
pub fn build() -> Result<Filters, SeccompError> {
    let table = table()?;
    let allowed = u32::try_from(table.len()).unwrap_or(u32::MAX);
    let refuse = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    Ok(Filters {
        allow: allow_only(table, refuse)?,
        enosys: answer_enosys(UNKNOWN, FIRST_UNKNOWN)?,
        allowed,
    })
}

impl Filters {
    /// Installs them. The second comes last, because of two filters that refuse a call the one
    /// installed last names the errno (seccomp(2)).
    pub fn install(&self) -> Result<(), SeccompError> {
        install(&self.allow)?;
        install(&self.enosys)
    }
}

/// Some calls that are let through, and why.
struct Group {
    calls: &'static [libc::c_long],
    #[expect(dead_code, reason = "read by people")]
    why: &'static str,
}

const fn group(why: &'static str, calls: &'static [libc::c_long]) -> Group {
    Group { calls, why }
}

/// Calls that are let through whatever their arguments.
const UNCONDITIONAL: &[Group] = &[
    group(
        "open files; Landlock and the mounts say which",
        &[
            libc::SYS_openat,
            libc::SYS_openat2,
            libc::SYS_close,
            libc::SYS_close_range,
            libc::SYS_dup,
            libc::SYS_dup3,
            libc::SYS_fcntl,
            libc::SYS_flock,
        ],
    ),
    group(
        "read and write what is open",
        &[
            libc::SYS_read,
            libc::SYS_write,
            libc::SYS_readv,
            libc::SYS_writev,
            libc::SYS_pread64,
            libc::SYS_pwrite64,
            libc::SYS_preadv,
            libc::SYS_pwritev,
            libc::SYS_preadv2,
            libc::SYS_pwritev2,
            libc::SYS_lseek,
            libc::SYS_sendfile,
            libc::SYS_copy_file_range,
            libc::SYS_splice,
            libc::SYS_tee,
            libc::SYS_vmsplice,
            libc::SYS_fsync,
            libc::SYS_fdatasync,
            libc::SYS_sync,
            libc::SYS_syncfs,
            libc::SYS_sync_file_range,
            libc::SYS_ftruncate,
            libc::SYS_truncate,
            libc::SYS_fallocate,
            libc::SYS_fadvise64,
            libc::SYS_readahead,
        ],
    ),
    group(
        "look at files",
        &[
            libc::SYS_fstat,
            libc::SYS_newfstatat,
            libc::SYS_statx,
            libc::SYS_statfs,
            libc::SYS_fstatfs,
            libc::SYS_faccessat,
            libc::SYS_faccessat2,
            libc::SYS_readlinkat,
            libc::SYS_getdents64,
            libc::SYS_getcwd,
            libc::SYS_chdir,
            libc::SYS_fchdir,
        ],
    ),
    group(
        "change folders and attributes; device nodes need a capability",
        &[
            libc::SYS_mkdirat,
            libc::SYS_mknodat,
            libc::SYS_unlinkat,
            libc::SYS_renameat2,
            libc::SYS_renameat,
            libc::SYS_linkat,
            libc::SYS_symlinkat,
            libc::SYS_fchmod,
            libc::SYS_fchmodat,
            libc::SYS_fchmodat2,
            libc::SYS_fchown,
            libc::SYS_fchownat,
            libc::SYS_utimensat,
            libc::SYS_umask,
        ],
    ),
    group(
        "extended attributes, as cp and tar copy them",
        &[
            libc::SYS_getxattr,
            libc::SYS_lgetxattr,
            libc::SYS_fgetxattr,
            libc::SYS_listxattr,
            libc::SYS_llistxattr,
            libc::SYS_flistxattr,
            libc::SYS_setxattr,
            libc::SYS_lsetxattr,
            libc::SYS_fsetxattr,
            libc::SYS_removexattr,
            libc::SYS_lremovexattr,
            libc::SYS_fremovexattr,
            number::SETXATTRAT,
            number::GETXATTRAT,
            number::LISTXATTRAT,
            number::REMOVEXATTRAT,
        ],
    ),
    group(
        "watch files, as build tools and editors do",
        &[
            libc::SYS_inotify_init1,
            libc::SYS_inotify_add_watch,
            libc::SYS_inotify_rm_watch,
        ],
    ),
    group(
        "wait for events",
        &[
            libc::SYS_pipe2,
            libc::SYS_ppoll,
            libc::SYS_pselect6,
            libc::SYS_epoll_create1,
            libc::SYS_epoll_ctl,
            libc::SYS_epoll_pwait,
            libc::SYS_epoll_pwait2,
            libc::SYS_eventfd2,
            libc::SYS_signalfd4,
            libc::SYS_timerfd_create,
            libc::SYS_timerfd_settime,
            libc::SYS_timerfd_gettime,
        ],
    ),
    group(
        "asynchronous I/O of databases (not io_uring: its operations pass seccomp unseen)",
        &[
            libc::SYS_io_setup,
            libc::SYS_io_destroy,
            libc::SYS_io_submit,
            libc::SYS_io_cancel,
            libc::SYS_io_getevents,
        ],
    ),
    group(
        "memory of one's own",
        &[
            libc::SYS_mmap,
            libc::SYS_mprotect,
            libc::SYS_munmap,
            libc::SYS_mremap,
            libc::SYS_brk,
            libc::SYS_madvise,
            libc::SYS_msync,
            libc::SYS_mincore,
            libc::SYS_mlock,
            libc::SYS_mlock2,
            libc::SYS_munlock,
            libc::SYS_mlockall,
            libc::SYS_munlockall,
            libc::SYS_memfd_create,
            libc::SYS_membarrier,
            libc::SYS_pkey_alloc,
            libc::SYS_pkey_free,
            libc::SYS_pkey_mprotect,
            libc::SYS_get_mempolicy,
            number::MAP_SHADOW_STACK,
            number::MSEAL,
        ],
    ),
    group(
        "start, await and end processes; ptrace stays within the Landlock domain",
        &[
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_exit,
            libc::SYS_exit_group,
            libc::SYS_wait4,
            libc::SYS_waitid,
            libc::SYS_kill,
            libc::SYS_tkill,
            libc::SYS_tgkill,
            libc::SYS_ptrace,
            libc::SYS_pidfd_open,
            libc::SYS_pidfd_send_signal,
        ],
    ),
    group(
        "threads",
        &[
            libc::SYS_set_tid_address,
            libc::SYS_set_robust_list,
            libc::SYS_get_robust_list,
            libc::SYS_futex,
            libc::SYS_futex_waitv,
            number::FUTEX_WAKE,
            number::FUTEX_WAIT,
            number::FUTEX_REQUEUE,
            libc::SYS_rseq,
            libc::SYS_gettid,
            libc::SYS_restart_syscall,
        ],
    ),
    group(
        "process groups and sessions",
        &[
            libc::SYS_getpid,
            libc::SYS_getppid,
            libc::SYS_getpgid,
            libc::SYS_setpgid,
            libc::SYS_getsid,
            libc::SYS_setsid,
        ],
    ),
    group(
        "signals",
        &[
            libc::SYS_rt_sigaction,
            libc::SYS_rt_sigprocmask,
            libc::SYS_rt_sigreturn,
            libc::SYS_rt_sigpending,
            libc::SYS_rt_sigtimedwait,
            libc::SYS_rt_sigqueueinfo,
            libc::SYS_rt_tgsigqueueinfo,
            libc::SYS_rt_sigsuspend,
            libc::SYS_sigaltstack,
            libc::SYS_getitimer,
            libc::SYS_setitimer,
        ],
    ),
    group(
        "who one is; becoming another needs capabilities",
        &[
            libc::SYS_getuid,
            libc::SYS_geteuid,
            libc::SYS_getgid,
            libc::SYS_getegid,
            libc::SYS_getresuid,
            libc::SYS_getresgid,
            libc::SYS_getgroups,
            libc::SYS_setuid,
            libc::SYS_setgid,
            libc::SYS_setreuid,
            libc::SYS_setregid,
            libc::SYS_setresuid,
            libc::SYS_setresgid,
            libc::SYS_setgroups,
            libc::SYS_setfsuid,
            libc::SYS_setfsgid,
            libc::SYS_capget,
            libc::SYS_capset,
        ],
    ),
    group(
        "confine oneself further: of several filters and domains the strictest counts",
        &[
            libc::SYS_seccomp,
            libc::SYS_landlock_create_ruleset,
            libc::SYS_landlock_add_rule,
            libc::SYS_landlock_restrict_self,
        ],
    ),
    group(
        "read clocks, sleep, timers",
        &[
            libc::SYS_clock_gettime,
            libc::SYS_clock_getres,
            libc::SYS_clock_nanosleep,
            libc::SYS_nanosleep,
            libc::SYS_gettimeofday,
            libc::SYS_times,
            libc::SYS_timer_create,
            libc::SYS_timer_settime,
            libc::SYS_timer_gettime,
            libc::SYS_timer_getoverrun,
            libc::SYS_timer_delete,
        ],
    ),
    group(
        "scheduling of one's own",
        &[
            libc::SYS_sched_yield,
            libc::SYS_sched_getaffinity,
            libc::SYS_sched_setaffinity,
            libc::SYS_sched_getparam,
            libc::SYS_sched_setparam,
            libc::SYS_sched_getscheduler,
            libc::SYS_sched_setscheduler,
            libc::SYS_sched_get_priority_max,
            libc::SYS_sched_get_priority_min,
            libc::SYS_sched_rr_get_interval,
            libc::SYS_sched_getattr,
            libc::SYS_sched_setattr,
            libc::SYS_getpriority,
            libc::SYS_setpriority,
            libc::SYS_ioprio_get,
            libc::SYS_ioprio_set,
            libc::SYS_getcpu,
        ],
    ),
    group(
        "limits and facts",
        &[
            libc::SYS_getrlimit,
            libc::SYS_setrlimit,
            libc::SYS_prlimit64,
            libc::SYS_getrusage,
            libc::SYS_sysinfo,
            libc::SYS_uname,
            libc::SYS_getrandom,
        ],
    ),
    group(
        "shared memory, semaphores and queues of the jail's own IPC namespace",
        &[
            libc::SYS_shmget,
            libc::SYS_shmat,
            libc::SYS_shmctl,
            libc::SYS_shmdt,
            libc::SYS_semget,
            libc::SYS_semop,
            libc::SYS_semctl,
            libc::SYS_semtimedop,
            libc::SYS_msgget,
            libc::SYS_msgsnd,
            libc::SYS_msgrcv,
            libc::SYS_msgctl,
            libc::SYS_mq_open,
            libc::SYS_mq_unlink,
            libc::SYS_mq_timedsend,
            libc::SYS_mq_timedreceive,
            libc::SYS_mq_notify,
            libc::SYS_mq_getsetattr,
        ],
    ),
    group(
        "sockets of the families that socket(2) below lets through",
        &[
            libc::SYS_bind,
            libc::SYS_connect,
            libc::SYS_listen,
            libc::SYS_accept,
            libc::SYS_accept4,
            libc::SYS_getsockname,
            libc::SYS_getpeername,
            libc::SYS_sendto,
            libc::SYS_recvfrom,
            libc::SYS_sendmsg,
            libc::SYS_recvmsg,
            libc::SYS_sendmmsg,
            libc::SYS_recvmmsg,
            libc::SYS_shutdown,
            libc::SYS_getsockopt,
        ],
    ),
];

/// The older spellings that x86_64 still has.
#[cfg(target_arch = "x86_64")]
const LEGACY: &[Group] = &[
    group(
        "files",
        &[
            libc::SYS_open,
            libc::SYS_creat,
            libc::SYS_stat,
            libc::SYS_lstat,
            libc::SYS_access,
            libc::SYS_readlink,
            libc::SYS_getdents,
            libc::SYS_mkdir,
            libc::SYS_rmdir,
            libc::SYS_rename,
            libc::SYS_link,
            libc::SYS_symlink,
            libc::SYS_unlink,
            libc::SYS_mknod,
            libc::SYS_chmod,
            libc::SYS_chown,
            libc::SYS_lchown,
            libc::SYS_utime,
            libc::SYS_utimes,
            libc::SYS_futimesat,
            libc::SYS_dup2,
        ],
    ),
    group(
        "events",
        &[
            libc::SYS_pipe,
            libc::SYS_poll,
            libc::SYS_select,
            libc::SYS_epoll_create,
            libc::SYS_epoll_wait,
            libc::SYS_eventfd,
            libc::SYS_signalfd,
            libc::SYS_inotify_init,
            libc::SYS_alarm,
            libc::SYS_pause,
            libc::SYS_time,
        ],
    ),
    group(
        "processes and threads",
        &[
            libc::SYS_fork,
            libc::SYS_vfork,
            libc::SYS_getpgrp,
            libc::SYS_arch_prctl,
        ],
    ),
];

/// aarch64 never had them.
#[cfg(not(target_arch = "x86_64"))]
const LEGACY: &[Group] = &[];

/// Numbers of calls that libc has no name for yet; from 424 on they are the same everywhere.
mod number {
    use nix::libc::c_long;

    pub(super) const MAP_SHADOW_STACK: c_long = 453;
    pub(super) const FUTEX_WAKE: c_long = 454;
    pub(super) const FUTEX_WAIT: c_long = 455;
    pub(super) const FUTEX_REQUEUE: c_long = 456;
    pub(super) const MSEAL: c_long = 462;
    pub(super) const SETXATTRAT: c_long = 463;
    pub(super) const GETXATTRAT: c_long = 464;
    pub(super) const LISTXATTRAT: c_long = 465;
    pub(super) const REMOVEXATTRAT: c_long = 466;
}

/// Answered ENOSYS although the kernel may have them: clone3(2), whose flags lie in memory where a
/// filter cannot see them (libraries fall back to clone(2)); io_uring, whose operations pass no
/// filter; and young calls without a use here.
const UNKNOWN: &[u32] = &[
    425, // io_uring_setup
    426, // io_uring_enter
    427, // io_uring_register
    435, // clone3
    450, // set_mempolicy_home_node
    451, // cachestat: tells what others read
    457, // statmount
    458, // listmount
    459, // lsm_get_self_attr
    460, // lsm_set_self_attr
    461, // lsm_list_modules
];

/// Everything from here on is newer than this table (467: open_tree_attr, Linux 6.15).
const FIRST_UNKNOWN: u32 = 467;

/// The whole table.
fn table() -> Result<Table, BackendError> {
    let mut table = Table::new();
    for group in UNCONDITIONAL.iter().chain(LEGACY) {
        for call in group.calls {
            table.insert(*call, Vec::new());
        }
    }
    table.insert(libc::SYS_clone, clone_rules()?);
    table.insert(libc::SYS_unshare, unshare_rules()?);
    table.insert(libc::SYS_socket, socket_rules()?);
    table.insert(libc::SYS_socketpair, socketpair_rules()?);
    table.insert(libc::SYS_setsockopt, setsockopt_rules()?);
    table.insert(libc::SYS_ioctl, ioctl_rules()?);
    table.insert(libc::SYS_prctl, prctl_rules()?);
    table.insert(libc::SYS_personality, personality_rules()?);
    Ok(table)
}

/// No new namespaces: a user namespace would give capabilities over the other ones.
/// (`CLONE_NEWTIME` shares its bit with the exit signal and is no flag of clone(2).)
fn clone_rules() -> Result<Vec<SeccompRule>, BackendError> {
    let namespaces = libc::CLONE_NEWNS
        | libc::CLONE_NEWCGROUP
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET;
    let none = SeccompCmpOp::MaskedEq(bits(namespaces));
    Ok(vec![all_of([int(0, none, 0)?])?])
}

/// Only what a thread shares with its siblings; nothing that makes a namespace.
fn unshare_rules() -> Result<Vec<SeccompRule>, BackendError> {
    let harmless = libc::CLONE_FILES | libc::CLONE_FS | libc::CLONE_SYSVSEM;
    let none = SeccompCmpOp::MaskedEq(!bits(harmless));
    let flags = SeccompCondition::new(0, SeccompCmpArgLen::Qword, none, 0)?;
    Ok(vec![all_of([flags])?])
}

/// Unix sockets; TCP and UDP by their own protocols (no MPTCP, SCTP, UDP-Lite, ICMP or raw sockets:
/// other ways past rules that speak of TCP); routing netlink, which getaddrinfo(3) and getifaddrs(3)
/// ask. No other family: each is a driver or a protocol that the gate cannot see.
fn socket_rules() -> Result<Vec<SeccompRule>, BackendError> {
    /// `SOCK_TYPE_MASK` of linux/net.h: below the flags.
    const TYPE: SeccompCmpOp = SeccompCmpOp::MaskedEq(0xf);
    let mut rules = vec![
        all_of([int(0, SeccompCmpOp::Eq, libc::AF_UNIX)?])?,
        all_of([
            int(0, SeccompCmpOp::Eq, libc::AF_NETLINK)?,
            int(2, SeccompCmpOp::Eq, libc::NETLINK_ROUTE)?,
        ])?,
    ];
    for family in [libc::AF_INET, libc::AF_INET6] {
        for (kind, own) in [
            (libc::SOCK_STREAM, libc::IPPROTO_TCP),
            (libc::SOCK_DGRAM, libc::IPPROTO_UDP),
        ] {
            for protocol in [0, own] {
                rules.push(all_of([
                    int(0, SeccompCmpOp::Eq, family)?,
                    int(1, TYPE, kind)?,
                    int(2, SeccompCmpOp::Eq, protocol)?,
                ])?);
            }
        }
    }
    Ok(rules)
}

fn socketpair_rules() -> Result<Vec<SeccompRule>, BackendError> {
    Ok(vec![all_of([int(0, SeccompCmpOp::Eq, libc::AF_UNIX)?])?])
}

/// Every option but `TCP_ULP`, which puts kernel TLS and its like on a socket: much code, no use.
/// What redirects traffic (`IP_TRANSPARENT`, `SO_MARK`) needs capabilities.
fn setsockopt_rules() -> Result<Vec<SeccompRule>, BackendError> {
    Ok(vec![
        all_of([int(1, SeccompCmpOp::Ne, libc::IPPROTO_TCP)?])?,
        all_of([int(2, SeccompCmpOp::Ne, libc::TCP_ULP)?])?,
    ])
}

/// Every request but those that put keystrokes into the caller's terminal, move its console output
/// or change its line discipline: the jail shares the terminal.
fn ioctl_rules() -> Result<Vec<SeccompRule>, BackendError> {
    const REFUSED: [i32; 4] = [
        0x5412, // TIOCSTI
        0x541c, // TIOCLINUX
        0x541d, // TIOCCONS
        0x5423, // TIOCSETD
    ];
    let mut others = Vec::new();
    for request in REFUSED {
        others.push(int(1, SeccompCmpOp::Ne, request)?);
    }
    Ok(vec![SeccompRule::new(others)?])
}

/// Every operation but `PR_SET_MM`, which moves the parts of a process that others read it by.
fn prctl_rules() -> Result<Vec<SeccompRule>, BackendError> {
    Ok(vec![all_of([int(0, SeccompCmpOp::Ne, libc::PR_SET_MM)?])?])
}

/// Asking (-1), the default, and what debuggers switch off for their children.
fn personality_rules() -> Result<Vec<SeccompRule>, BackendError> {
    let values = [-1, 0, libc::ADDR_NO_RANDOMIZE];
    let rule = |value| all_of([int(0, SeccompCmpOp::Eq, value)?]);
    values.into_iter().map(rule).collect()
}

/// One rule whose conditions must all hold.
fn all_of<const N: usize>(conditions: [SeccompCondition; N]) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(conditions.into())
}

/// A condition on an argument that the kernel reads as an `int`: its low 32 bits.
fn int(argument: u8, operator: SeccompCmpOp, value: i32) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, bits(value))
}

/// The low 32 bits, as the filter compares them.
fn bits(value: i32) -> u64 {
    u64::from(value.cast_unsigned())
}
