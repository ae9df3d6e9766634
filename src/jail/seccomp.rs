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

use super::syscalls::{FIRST_UNKNOWN, LEGACY, UNCONDITIONAL, UNKNOWN};
use crate::sys::seccomp::{SeccompError, Table, allow_only_known, install};

/// The filter, built and not yet installed.
#[derive(Debug)]
pub struct Filter {
    program: BpfProgram,
    /// How many system calls the table lets through.
    pub allowed: u32,
}

/// Builds the filter.
pub fn build() -> Result<Filter, SeccompError> {
    let table = table()?;
    let allowed = u32::try_from(table.len()).unwrap_or(u32::MAX);
    let refuse = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    Ok(Filter {
        program: allow_only_known(table, refuse, UNKNOWN, FIRST_UNKNOWN)?,
        allowed,
    })
}

impl Filter {
    /// Installs it.
    pub fn install(&self) -> Result<(), SeccompError> {
        install(&self.program)
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::seccomp::tests::{answer, as_a_list, native};

    #[test]
    fn every_call_is_answered_as_the_table_says() {
        let refuse = SeccompAction::Errno(libc::EPERM.unsigned_abs());
        let (list, searched) = (as_a_list(table().unwrap(), refuse), build().unwrap());
        let enosys = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs();
        // Values that some rule has an opinion on, in every argument.
        let values = [
            0,
            1,
            2,
            3,
            6,
            10,
            16,
            17,
            31,
            35,
            0x5412,
            0x0002_0000,
            0x1000_0000,
            u64::MAX,
        ];
        let numbers = (0..1_000).chain([0x4000_0000, 0x4000_0010, u32::MAX]);
        for number in numbers {
            let unknown =
                UNKNOWN.contains(&number) || (FIRST_UNKNOWN..0x4000_0000).contains(&number);
            for arch in [native(), 0x4000_0003] {
                for a in values {
                    for b in values {
                        for c in [0, 6, 17, 31] {
                            let arguments = [a, b, c, a, b, c];
                            let expected = if unknown && arch == native() {
                                enosys
                            } else {
                                answer(&list, number, arch, arguments)
                            };
                            let found = answer(&searched.program, number, arch, arguments);
                            assert_eq!(found, expected, "{number} {arguments:x?}");
                        }
                    }
                }
            }
        }
    }
}
