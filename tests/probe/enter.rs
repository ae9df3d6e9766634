//! Plays the daemon: `probe enter MODES UID RESERVED GROUPS PROGRAM [ARGUMENT]…` becomes a program of this
//! user's, in a user namespace that was made for them (`given`) or in the host's (`plain`), and before that
//! forbids them to make namespaces of their own (`forbidden`). The user's group has the user's number; uid 0 and
//! gid 0 of the namespace are the reserved number outside.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::libc;
use portcullis::sys::identity::Identity;
use portcullis::sys::userns::{self, IdMap};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

pub(crate) fn enter(arguments: &[String]) {
    let [modes, uid, reserved, groups, program, rest @ ..] = arguments else {
        panic!("probe enter MODES UID RESERVED GROUPS PROGRAM [ARGUMENT]...");
    };
    let number = |text: &str| text.parse::<u32>().unwrap();
    let (uid, reserved) = (number(uid), number(reserved));
    let groups: Vec<u32> = groups
        .split(',')
        .filter(|group| !group.is_empty())
        .map(number)
        .collect();
    let map = IdMap::new(uid, uid, &groups, (reserved, reserved)).unwrap();
    let namespace = userns::make(&map).unwrap();
    let user = Identity::new(uid, uid, &groups);
    for mode in modes.split(',') {
        match mode {
            "forbidden" => forbid_namespaces(),
            "given" => user.assume_in(&namespace).unwrap(),
            "plain" => user.assume().unwrap(),
            other => panic!("{other}"),
        }
    }
    drop(namespace);
    let error = Command::new(program).args(rest).exec();
    panic!("{program}: {error}");
}

/// As `kernel.unprivileged_userns_clone = 0` does: EPERM to whoever asks for a user namespace.
fn forbid_namespaces() {
    let newuser = |place| {
        let flag = u64::from(libc::CLONE_NEWUSER.cast_unsigned());
        let op = SeccompCmpOp::MaskedEq(flag);
        let condition = SeccompCondition::new(place, SeccompCmpArgLen::Dword, op, flag).unwrap();
        vec![SeccompRule::new(vec![condition]).unwrap()]
    };
    let install = |rules: BTreeMap<i64, Vec<SeccompRule>>, errno: i32| {
        let filter = SeccompFilter::new(
            rules,
            SeccompAction::Allow,
            SeccompAction::Errno(errno.cast_unsigned()),
            std::env::consts::ARCH.try_into().unwrap(),
        );
        let program = BpfProgram::try_from(filter.unwrap()).unwrap();
        load(&program);
    };
    install(
        BTreeMap::from([(libc::SYS_clone3, Vec::new())]),
        libc::ENOSYS,
    );
    let rules = [
        (libc::SYS_clone, newuser(0)),
        (libc::SYS_unshare, newuser(0)),
    ];
    install(BTreeMap::from(rules), libc::EPERM);
}

/// Without `no_new_privs`, which takes from a set-user-ID program what it has and from ours what they gain.
fn load(program: &BpfProgram) {
    let program = libc::sock_fprog {
        len: program.len().try_into().unwrap(),
        filter: program.as_ptr().cast_mut().cast(),
    };
    // SAFETY: the program lives until the call returns, and the kernel copies it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const program,
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}
