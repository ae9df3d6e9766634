//! The seccomp table: calls that it refuses, and arguments that it does.

use nix::libc::{self, ENOSYS, EPERM, SIGSYS};

use crate::act::{Act, Answer};
use crate::bench::{Bench, CALLERS, Caller};

/// All bits: no descriptor, no process, no address.
const NONE: u64 = u64::MAX;

/// Calls with arguments that prove that the kernel looked at them: without the table the answer is
/// not EPERM. `vhangup` has none that does no harm outside.
fn refused() -> Vec<Act> {
    let calls: &[(i64, &[u64])] = &[
        (libc::SYS_mount, &[0, 0, 0, 0, 0]),
        (libc::SYS_umount2, &[0, 0]),
        (libc::SYS_pivot_root, &[0, 0]),
        (libc::SYS_chroot, &[0]),
        (libc::SYS_setns, &[NONE, 0]),
        (libc::SYS_open_tree, &[NONE, 0, 0]),
        (libc::SYS_move_mount, &[NONE, 0, NONE, 0, 0]),
        (libc::SYS_fsopen, &[0, 0]),
        (libc::SYS_fsconfig, &[NONE, 0, 0, 0, 0]),
        (libc::SYS_fsmount, &[NONE, 0, 0]),
        (libc::SYS_fspick, &[NONE, 0, 0]),
        (libc::SYS_mount_setattr, &[NONE, 0, 0, 0, 0]),
        (libc::SYS_name_to_handle_at, &[NONE, 0, 0, 0, 0]),
        (libc::SYS_open_by_handle_at, &[NONE, 0, 0]),
        (libc::SYS_bpf, &[NONE, 0, 0]),
        (libc::SYS_perf_event_open, &[0, 0, 0, 0, 0]),
        (libc::SYS_userfaultfd, &[0]),
        (libc::SYS_add_key, &[0, 0, 0, 0, 0]),
        (libc::SYS_request_key, &[0, 0, 0, 0]),
        (libc::SYS_keyctl, &[0, NONE - 3, 0]),
        (libc::SYS_process_vm_readv, &[1, 0, 0, 0, 0, 0]),
        (libc::SYS_process_vm_writev, &[1, 0, 0, 0, 0, 0]),
        (libc::SYS_pidfd_getfd, &[NONE, 0, 0]),
        (libc::SYS_process_madvise, &[NONE, 0, 0, 0, 0]),
        (libc::SYS_kcmp, &[NONE, NONE, 0, 0, 0]),
        (libc::SYS_init_module, &[0, 0, 0]),
        (libc::SYS_finit_module, &[NONE, 0, 0]),
        (libc::SYS_delete_module, &[0, 0]),
        (libc::SYS_kexec_load, &[0, 0, 0, NONE]),
        (libc::SYS_kexec_file_load, &[NONE, NONE, 0, 0, NONE]),
        (libc::SYS_reboot, &[0, 0, 0, 0]),
        (libc::SYS_swapon, &[0, 0]),
        (libc::SYS_swapoff, &[0]),
        (libc::SYS_quotactl, &[NONE, 0, 0, 0]),
        (libc::SYS_quotactl_fd, &[NONE, NONE, 0, 0]),
        (libc::SYS_syslog, &[10, 0, 0]),
        (libc::SYS_fanotify_init, &[0, 0]),
        (libc::SYS_fanotify_mark, &[NONE, 0, 0, 0, 0]),
        (libc::SYS_sethostname, &[0, NONE]),
        (libc::SYS_setdomainname, &[0, NONE]),
        (libc::SYS_clock_settime, &[0, 0]),
        (libc::SYS_clock_adjtime, &[0, 0]),
        (libc::SYS_adjtimex, &[0]),
        (libc::SYS_set_mempolicy, &[NONE, 0, 0]),
        (libc::SYS_mbind, &[0, 0, NONE, 0, 0, 0]),
        (libc::SYS_migrate_pages, &[0, 0, 0, 0]),
        (libc::SYS_move_pages, &[0, 1, 0, 0, 0, 0]),
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_iopl, &[NONE]),
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_ioperm, &[NONE, NONE, 1]),
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_modify_ldt, &[0, 0, 0]),
    ];
    calls
        .iter()
        .map(|(call, args)| Act::call(*call, args))
        .collect()
}

#[test]
fn calls_outside_of_the_table_do_not_reach_the_kernel() {
    let acts = refused();
    for caller in CALLERS {
        for (act, answer) in acts.iter().zip(Bench::new(caller).inside(&acts)) {
            assert_eq!(answer, Answer::Errno(EPERM), "{caller:?} {act:?}");
        }
    }
    let twin = Bench::new(Caller::Root).outside(&acts);
    for (act, answer) in acts.iter().zip(&twin) {
        assert_ne!(*answer, Answer::Errno(EPERM), "outside {act:?}");
    }
    // A kernel can be built without modules, kexec, swap or quota.
    let absent = twin
        .iter()
        .filter(|answer| **answer == Answer::Errno(ENOSYS))
        .count();
    assert!(absent <= 9, "{twin:?}");
}

#[test]
fn calls_that_libraries_can_do_without_do_not_exist() {
    let acts = [
        Act::call(libc::SYS_clone3, &[0, 0]),
        Act::call(libc::SYS_io_uring_setup, &[0, 0]),
        Act::call(libc::SYS_io_uring_enter, &[NONE, 0, 0, 0, 0, 0]),
        Act::call(libc::SYS_io_uring_register, &[NONE, 0, 0, 0]),
        Act::call(451, &[NONE, 0, 0, 0]),
        Act::call(467, &[NONE, 0, 0, 0, 0]),
        Act::call(9_999, &[]),
    ];
    for caller in CALLERS {
        let answers = Bench::new(caller).inside(&acts);
        assert_eq!(
            answers,
            vec![Answer::Errno(ENOSYS); acts.len()],
            "{caller:?}"
        );
    }
    let twin = Bench::new(Caller::Root).outside(&acts[..5]);
    assert!(!twin.contains(&Answer::Errno(ENOSYS)), "{twin:?}");
}

#[test]
fn no_namespace_can_be_made() {
    let flags = [
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWNS,
        libc::CLONE_NEWNET,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWCGROUP,
        libc::CLONE_NEWUSER | libc::CLONE_NEWNET,
        0x80,
    ];
    let word = |flag: i32| u64::from(flag.cast_unsigned());
    let mut acts: Vec<Act> = Vec::new();
    for flag in flags {
        acts.push(Act::call(libc::SYS_unshare, &[word(flag)]));
        if flag != 0x80 {
            let with_signal = word(flag | libc::SIGCHLD);
            acts.push(Act::call(libc::SYS_clone, &[with_signal, 0, 0, 0, 0]));
            // The kernel looks at the low half alone (kernel/fork.c, lower_32_bits).
            acts.push(Act::call(
                libc::SYS_clone,
                &[with_signal | (1 << 40), 0, 0, 0, 0],
            ));
        }
    }
    for caller in CALLERS {
        for (act, answer) in acts.iter().zip(Bench::new(caller).inside(&acts)) {
            assert_eq!(answer, Answer::Errno(EPERM), "{caller:?} {act:?}");
        }
    }
    let twin = Bench::new(Caller::User).outside(&acts[..1]);
    assert_eq!(twin, [Answer::done()]);
    let harmless = Act::call(
        libc::SYS_unshare,
        &[word(libc::CLONE_FS | libc::CLONE_FILES)],
    );
    assert_eq!(
        Bench::new(Caller::User).try_inside(harmless),
        Answer::done()
    );
}

#[test]
fn personality_and_prctl_are_cut_down_to_what_is_harmless() {
    let acts = [
        Act::call(libc::SYS_personality, &[0x0400_0000]),
        Act::call(libc::SYS_personality, &[0x0010_0000]),
        Act::call(libc::SYS_personality, &[(1 << 32) | 0x0400_0000]),
        Act::call(libc::SYS_prctl, &[35, 1, 0, 0, 0]),
        Act::call(libc::SYS_prctl, &[(1 << 32) | 0x23, 1, 0, 0, 0]),
        Act::call(libc::SYS_personality, &[0xffff_ffff]),
        Act::call(libc::SYS_personality, &[0]),
    ];
    let mut expected = vec![Answer::Errno(EPERM); 5];
    expected.extend([Answer::done(), Answer::done()]);
    for caller in CALLERS {
        assert_eq!(Bench::new(caller).inside(&acts), expected, "{caller:?}");
    }
    let twin = Bench::new(Caller::User).outside(&acts[..2]);
    assert_eq!(twin, [Answer::done(), Answer::done()]);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn numbers_of_another_abi_are_refused_and_calls_of_another_architecture_kill() {
    /// `__X32_SYSCALL_BIT`.
    const X32: i64 = 0x4000_0000;
    let acts = [
        Act::call(X32 | libc::SYS_getpid, &[]),
        Act::call(X32 | libc::SYS_mount, &[0, 0, 0, 0, 0]),
        Act::call(X32 | 512, &[]),
        Act::Int80,
    ];
    let mut expected = vec![Answer::Errno(EPERM); 3];
    expected.push(Answer::Killed(SIGSYS));
    for caller in CALLERS {
        assert_eq!(Bench::new(caller).inside(&acts), expected, "{caller:?}");
    }
    let twin = Bench::new(Caller::User).try_outside(Act::Int80);
    assert_ne!(twin, Answer::Killed(SIGSYS));
}

#[test]
fn a_second_filter_can_only_forbid_more() {
    // PR_SET_SECCOMP with a null program is looked at (EFAULT); leaving a filter is no operation.
    let acts = [
        Act::call(libc::SYS_seccomp, &[1, 0, 0]),
        Act::call(libc::SYS_prctl, &[22, 0, 0, 0, 0]),
        Act::call(libc::SYS_mount, &[0, 0, 0, 0, 0]),
    ];
    let answers = Bench::new(Caller::User).inside(&acts);
    assert_eq!(answers[0], Answer::Errno(libc::EFAULT));
    assert_eq!(answers[1], Answer::Errno(libc::EINVAL));
    assert_eq!(answers[2], Answer::Errno(EPERM));
}
