//! The table of system calls: data, a reason a line, denser than rustfmt would write it. What is not
//! here, and has no conditions in [`super::seccomp`], does not reach the kernel.

#[cfg_attr(
    not(test), // where clippy never minds
    expect(clippy::wildcard_imports, reason = "three hundred names of one kind")
)]
use nix::libc::*;

/// Some calls that are let through, and why.
pub(super) struct Group {
    pub(super) calls: &'static [c_long],
    #[expect(dead_code, reason = "read by people")]
    why: &'static str,
}

const fn group(why: &'static str, calls: &'static [c_long]) -> Group {
    Group { calls, why }
}

/// Calls that are let through whatever their arguments.
#[rustfmt::skip]
pub(super) const UNCONDITIONAL: &[Group] = &[
    group("open files; Landlock and the mounts say which", &[
        SYS_openat, SYS_openat2, SYS_close, SYS_close_range, SYS_dup, SYS_dup3, SYS_fcntl,
        SYS_flock,
    ]),
    group("read and write what is open", &[
        SYS_read, SYS_write, SYS_readv, SYS_writev, SYS_pread64, SYS_pwrite64, SYS_preadv,
        SYS_pwritev, SYS_preadv2, SYS_pwritev2, SYS_lseek, SYS_sendfile, SYS_copy_file_range,
        SYS_splice, SYS_tee, SYS_vmsplice, SYS_fsync, SYS_fdatasync, SYS_sync, SYS_syncfs,
        SYS_sync_file_range, SYS_ftruncate, SYS_truncate, SYS_fallocate, SYS_fadvise64,
        SYS_readahead,
    ]),
    group("look at files", &[
        SYS_fstat, SYS_newfstatat, SYS_statx, SYS_statfs, SYS_fstatfs, SYS_faccessat,
        SYS_faccessat2, SYS_readlinkat, SYS_getdents64, SYS_getcwd, SYS_chdir, SYS_fchdir,
    ]),
    group("change folders and attributes; device nodes need a capability", &[
        SYS_mkdirat, SYS_mknodat, SYS_unlinkat, SYS_renameat2, SYS_renameat, SYS_linkat,
        SYS_symlinkat, SYS_fchmod, SYS_fchmodat, number::FCHMODAT2, SYS_fchown, SYS_fchownat,
        SYS_utimensat, SYS_umask,
    ]),
    group("extended attributes, as cp and tar copy them", &[
        SYS_getxattr, SYS_lgetxattr, SYS_fgetxattr, SYS_listxattr, SYS_llistxattr, SYS_flistxattr,
        SYS_setxattr, SYS_lsetxattr, SYS_fsetxattr, SYS_removexattr, SYS_lremovexattr,
        SYS_fremovexattr, number::SETXATTRAT, number::GETXATTRAT, number::LISTXATTRAT,
        number::REMOVEXATTRAT,
    ]),
    group("watch files, as build tools and editors do", &[
        SYS_inotify_init1, SYS_inotify_add_watch, SYS_inotify_rm_watch,
    ]),
    group("wait for events", &[
        SYS_pipe2, SYS_ppoll, SYS_pselect6, SYS_epoll_create1, SYS_epoll_ctl, SYS_epoll_pwait,
        SYS_epoll_pwait2, SYS_eventfd2, SYS_signalfd4, SYS_timerfd_create, SYS_timerfd_settime,
        SYS_timerfd_gettime,
    ]),
    group("asynchronous I/O of databases (not io_uring: its operations pass seccomp unseen)", &[
        SYS_io_setup, SYS_io_destroy, SYS_io_submit, SYS_io_cancel, SYS_io_getevents,
    ]),
    group("memory of one's own", &[
        SYS_mmap, SYS_mprotect, SYS_munmap, SYS_mremap, SYS_brk, SYS_madvise, SYS_msync,
        SYS_mincore, SYS_mlock, SYS_mlock2, SYS_munlock, SYS_mlockall, SYS_munlockall,
        SYS_memfd_create, SYS_membarrier, SYS_pkey_alloc, SYS_pkey_free, SYS_pkey_mprotect,
        SYS_get_mempolicy, number::MAP_SHADOW_STACK, number::MSEAL,
    ]),
    group("start, await and end processes; ptrace stays within the Landlock domain", &[
        SYS_execve, SYS_execveat, SYS_exit, SYS_exit_group, SYS_wait4, SYS_waitid, SYS_kill,
        SYS_tkill, SYS_tgkill, SYS_ptrace, SYS_pidfd_open, SYS_pidfd_send_signal,
    ]),
    group("threads", &[
        SYS_set_tid_address, SYS_set_robust_list, SYS_get_robust_list, SYS_futex, SYS_futex_waitv,
        number::FUTEX_WAKE, number::FUTEX_WAIT, number::FUTEX_REQUEUE, SYS_rseq, SYS_gettid,
        SYS_restart_syscall,
    ]),
    group("process groups and sessions", &[
        SYS_getpid, SYS_getppid, SYS_getpgid, SYS_setpgid, SYS_getsid, SYS_setsid,
    ]),
    group("signals", &[
        SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_rt_sigpending,
        SYS_rt_sigtimedwait, SYS_rt_sigqueueinfo, SYS_rt_tgsigqueueinfo, SYS_rt_sigsuspend,
        SYS_sigaltstack, SYS_getitimer, SYS_setitimer,
    ]),
    group("who one is; becoming another needs capabilities", &[
        SYS_getuid, SYS_geteuid, SYS_getgid, SYS_getegid, SYS_getresuid, SYS_getresgid,
        SYS_getgroups, SYS_setuid, SYS_setgid, SYS_setreuid, SYS_setregid, SYS_setresuid,
        SYS_setresgid, SYS_setgroups, SYS_setfsuid, SYS_setfsgid, SYS_capget, SYS_capset,
    ]),
    group("confine oneself further: of several filters and domains the strictest counts", &[
        SYS_seccomp, SYS_landlock_create_ruleset, SYS_landlock_add_rule, SYS_landlock_restrict_self,
    ]),
    group("read clocks, sleep, timers", &[
        SYS_clock_gettime, SYS_clock_getres, SYS_clock_nanosleep, SYS_nanosleep, SYS_gettimeofday,
        SYS_times, SYS_timer_create, SYS_timer_settime, SYS_timer_gettime, SYS_timer_getoverrun,
        SYS_timer_delete,
    ]),
    group("scheduling of one's own", &[
        SYS_sched_yield, SYS_sched_getaffinity, SYS_sched_setaffinity, SYS_sched_getparam,
        SYS_sched_setparam, SYS_sched_getscheduler, SYS_sched_setscheduler,
        SYS_sched_get_priority_max, SYS_sched_get_priority_min, SYS_sched_rr_get_interval,
        SYS_sched_getattr, SYS_sched_setattr, SYS_getpriority, SYS_setpriority, SYS_ioprio_get,
        SYS_ioprio_set, SYS_getcpu,
    ]),
    group("limits and facts", &[
        SYS_getrlimit, SYS_setrlimit, SYS_prlimit64, SYS_getrusage, SYS_sysinfo, SYS_uname,
        SYS_getrandom,
    ]),
    group("shared memory, semaphores and queues of the jail's own IPC namespace", &[
        SYS_shmget, SYS_shmat, SYS_shmctl, SYS_shmdt, SYS_semget, SYS_semop, SYS_semctl,
        SYS_semtimedop, SYS_msgget, SYS_msgsnd, SYS_msgrcv, SYS_msgctl, SYS_mq_open, SYS_mq_unlink,
        SYS_mq_timedsend, SYS_mq_timedreceive, SYS_mq_notify, SYS_mq_getsetattr,
    ]),
    group("sockets of the families that socket(2) below lets through", &[
        SYS_bind, SYS_connect, SYS_listen, SYS_accept, SYS_accept4, SYS_getsockname,
        SYS_getpeername, SYS_sendto, SYS_recvfrom, SYS_sendmsg, SYS_recvmsg, SYS_sendmmsg,
        SYS_recvmmsg, SYS_shutdown, SYS_getsockopt,
    ]),
];

/// The older spellings that x86_64 still has.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
pub(super) const LEGACY: &[Group] = &[
    group("files", &[
        SYS_open, SYS_creat, SYS_stat, SYS_lstat, SYS_access, SYS_readlink, SYS_getdents, SYS_mkdir,
        SYS_rmdir, SYS_rename, SYS_link, SYS_symlink, SYS_unlink, SYS_mknod, SYS_chmod, SYS_chown,
        SYS_lchown, SYS_utime, SYS_utimes, SYS_futimesat, SYS_dup2,
    ]),
    group("events", &[
        SYS_pipe, SYS_poll, SYS_select, SYS_epoll_create, SYS_epoll_wait, SYS_eventfd, SYS_signalfd,
        SYS_inotify_init, SYS_alarm, SYS_pause, SYS_time,
    ]),
    group("processes and threads", &[
        SYS_fork, SYS_vfork, SYS_getpgrp, SYS_arch_prctl,
    ]),
];

/// aarch64 never had them.
#[cfg(not(target_arch = "x86_64"))]
pub(super) const LEGACY: &[Group] = &[];

/// Numbers of calls that libc has no name for yet; from 424 on they are the same everywhere.
mod number {
    use nix::libc::c_long;

    pub(super) const FCHMODAT2: c_long = 452;
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
pub(super) const UNKNOWN: &[u32] = &[
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
pub(super) const FIRST_UNKNOWN: u32 = 467;
