//! What the gate takes from itself before it meets a byte from the jail: privileges, the file system,
//! every system call that relaying does not need. Whatever runs later must be created before this or
//! stand in the table. A kernel that lacks Landlock or seccomp ends the start.

use std::io;
use std::net::SocketAddr;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, LandlockStatus, NetPort, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};
use nix::libc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use seccompiler::{
    SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Is, SeccompCondition as Argument,
    SeccompRule,
};

use crate::policy;
use crate::sys::{capability, harden, seccomp};

use super::live::Reachable;
use super::state::Gate;

/// The newest Landlock interface whose rights are asked for; TCP needs 4 (Linux 6.7), scopes 6 (6.12).
const NEWEST_ABI: ABI = ABI::V6;

/// Descriptors of one connection: client, origin, two pipes.
const FDS_PER_CONNECTION: u64 = 6;

/// Descriptors beside connections: channels, listeners, epoll, DNS, idle origins, those turned away.
const FDS_BESIDE: u64 = 192;

/// Why the gate could not confine itself.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConfineError {
    /// prctl(2) and friends.
    #[error("harden: {0}")]
    Harden(#[source] io::Error),
    /// capset(2).
    #[error("drop capabilities: {0}")]
    Capabilities(#[from] caps::errors::CapsError),
    /// The kernel's list of ours was not empty afterwards.
    #[error("capabilities are left after dropping them: {0}")]
    CapabilitiesLeft(String),
    /// setrlimit(2).
    #[error("descriptor limit: {0}")]
    Descriptors(#[source] io::Error),
    /// The kernel refused the ruleset.
    #[error("landlock: {0}")]
    Landlock(#[from] landlock::RulesetError),
    /// It did nothing.
    #[error(
        "landlock is not in force: it needs Linux 5.13 and `landlock` in the kernel's lsm= list"
    )]
    NoLandlock,
    /// The kernel has more than is in force.
    #[error("landlock is only partly in force, although this kernel has all of it")]
    PartialLandlock,
    /// The table or the kernel.
    #[error(transparent)]
    Seccomp(#[from] seccomp::SeccompError),
}

/// Gives everything up, in an order in which each step is still permitted.
pub(super) fn confine(gate: &Gate, name_servers: &[SocketAddr]) -> Result<(), ConfineError> {
    // 1. Descriptors first: raising the hard limit may need CAP_SYS_RESOURCE.
    raise_descriptors(gate.limits.connections)?;
    // 2. No new privileges, no core dump, no ptrace by the same user.
    harden::harden().map_err(ConfineError::Harden)?;
    // 3. Capabilities, while capset(2) is still allowed.
    capability::drop_all()?;
    let left = capability::left()?;
    if let Some(one) = left.iter().find(|name| !name.starts_with("Bounding")) {
        return Err(ConfineError::CapabilitiesLeft(one.clone()));
    }
    // 4. Landlock, while its system calls are still allowed.
    let reachable = gate
        .reachable
        .get_or_init(|| reachable_ports(&gate.rules(), name_servers));
    no_files_and_few_ports(reachable)?;
    // 5. Seccomp last.
    let program = seccomp::allow_only(table()?, SeccompAction::Errno(libc::EPERM.cast_unsigned()))?;
    seccomp::install(&program)?;
    Ok(())
}

/// Lets the limit of connections fit, or as much of it as we may: accept(2) backs off at the rest.
fn raise_descriptors(connections: usize) -> Result<(), ConfineError> {
    let wanted = connections as u64 * FDS_PER_CONNECTION + FDS_BESIDE;
    let failed = |errno: nix::Error| ConfineError::Descriptors(errno.into());
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(failed)?;
    if soft >= wanted {
        return Ok(());
    }
    if setrlimit(Resource::RLIMIT_NOFILE, wanted, hard.max(wanted)).is_ok() {
        return Ok(());
    }
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(wanted), hard).map_err(failed)
}

/// Ports that some rule allows, those of the web, which a later policy may allow, and those of the name
/// servers. Every port, where any may be asked for: Landlock cannot be widened once there is an answer.
fn reachable_ports(rules: &policy::Ruleset, name_servers: &[SocketAddr]) -> Reachable {
    if rules.asks_for_unlisted() {
        return Reachable::All;
    }
    let servers = name_servers.iter().map(SocketAddr::port);
    let web = [policy::Port::HTTP, policy::Port::HTTPS];
    let allowed = rules.ports().into_iter().chain(web);
    let allowed = allowed.map(policy::Port::number);
    Reachable::Only(allowed.chain(servers).collect())
}

/// No file at all, no TCP port to bind, TCP connections to these ports alone, no signal and no abstract
/// socket beyond ourselves.
fn no_files_and_few_ports(reachable: &Reachable) -> Result<(), ConfineError> {
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST_ABI))?
        .handle_access(AccessNet::BindTcp)?
        .scope(Scope::AbstractUnixSocket | Scope::Signal)?;
    if matches!(reachable, Reachable::Only(_)) {
        ruleset = ruleset.handle_access(AccessNet::ConnectTcp)?;
    }
    let mut ruleset = ruleset.create()?;
    for port in reachable.listed() {
        ruleset = ruleset.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
    }
    let status = ruleset.restrict_self()?;
    let complete = matches!(
        status.landlock,
        LandlockStatus::Available { effective_abi, .. } if effective_abi >= NEWEST_ABI
    );
    match status.ruleset {
        RulesetStatus::FullyEnforced => Ok(()),
        // An older kernel: seccomp forbids opening and binding on its own.
        RulesetStatus::PartiallyEnforced if !complete => Ok(()),
        RulesetStatus::PartiallyEnforced => Err(ConfineError::PartialLandlock),
        RulesetStatus::NotEnforced => Err(ConfineError::NoLandlock),
    }
}

/// Calls that are let through whatever their arguments, each with who needs it.
const ALWAYS: &[(libc::c_long, &str)] = &[
    // sockets that exist: relays, hyper, hickory, the audit channel
    (libc::SYS_read, "tokio"),
    (libc::SYS_write, "tokio"),
    (libc::SYS_writev, "hyper"),
    (libc::SYS_recvfrom, "tokio, std"),
    (libc::SYS_recvmsg, "frames on the control channel"),
    (libc::SYS_shutdown, "half-closed tunnels"),
    (libc::SYS_getsockopt, "SO_ERROR after connect"),
    (
        libc::SYS_getsockname,
        "where a program that knows no proxy connected to",
    ),
    (libc::SYS_close, "everything"),
    // new sockets; their families are bounded by socket(2) below
    (libc::SYS_accept4, "listeners"),
    (
        libc::SYS_connect,
        "dial, hickory; Landlock bounds the TCP ports",
    ),
    (
        libc::SYS_bind,
        "hickory's random UDP source port; Landlock forbids TCP",
    ),
    // splice relays
    (libc::SYS_pipe2, "splice"),
    (libc::SYS_splice, "splice"),
    // waiting
    (libc::SYS_epoll_ctl, "mio"),
    (libc::SYS_epoll_pwait, "mio"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_epoll_wait, "mio"),
    (libc::SYS_futex, "std, tokio"),
    (libc::SYS_clock_gettime, "clocks, where the vDSO has none"),
    (libc::SYS_restart_syscall, "the kernel, after a stop signal"),
    // memory; executable memory is refused below
    (libc::SYS_brk, "malloc"),
    (libc::SYS_munmap, "malloc"),
    (libc::SYS_mremap, "malloc"),
    (libc::SYS_madvise, "malloc"),
    (libc::SYS_getrandom, "hickory's ids and ports, hash seeds"),
    // signals and the end
    (libc::SYS_rt_sigprocmask, "abort"),
    (libc::SYS_rt_sigaction, "abort"),
    (libc::SYS_rt_sigreturn, "signal handlers of std"),
    (libc::SYS_sigaltstack, "std's stack guard, at exit"),
    (libc::SYS_getpid, "abort"),
    (libc::SYS_gettid, "abort"),
    (libc::SYS_exit, "end"),
    (libc::SYS_exit_group, "end"),
];

/// Who may be let through only with certain arguments is built here; everything else is EPERM, as
/// execve, open, clone, ptrace, mount, unlink, io_uring.
fn table() -> Result<seccomp::Table, seccomp::SeccompError> {
    let mut table: seccomp::Table = ALWAYS
        .iter()
        .map(|(number, _)| (*number, Vec::new()))
        .collect();
    table.insert(libc::SYS_socket, internet_sockets()?);
    // A connection that a first segment of data opens (TCP Fast Open) is not seen by Landlock everywhere.
    let fast_open = libc::MSG_FASTOPEN.cast_unsigned().into();
    let no_fast_open = |argument| rule(&[(argument, Is::MaskedEq(fast_open), 0)]);
    table.insert(libc::SYS_sendto, vec![no_fast_open(3)?]);
    table.insert(libc::SYS_sendmsg, vec![no_fast_open(2)?]);
    table.insert(libc::SYS_setsockopt, socket_options()?);
    table.insert(libc::SYS_fcntl, descriptor_flags()?);
    table.insert(libc::SYS_ioctl, vec![rule(&[(1, Is::Eq, libc::FIONBIO)])?]);
    // No executable memory, and nothing becomes executable.
    let executable = libc::PROT_EXEC.cast_unsigned().into();
    let not_executable = vec![rule(&[(2, Is::MaskedEq(executable), 0)])?];
    table.insert(libc::SYS_mmap, not_executable.clone());
    table.insert(libc::SYS_mprotect, not_executable);
    // abort(3) signals itself; Landlock's scope and the pid namespace bound the rest.
    let abort = libc::SIGABRT.cast_unsigned().into();
    table.insert(libc::SYS_tgkill, vec![rule(&[(2, Is::Eq, abort)])?]);
    Ok(table)
}

/// socket(2): TCP and UDP over IPv4 and IPv6, by their default protocols. No MPTCP, which Landlock's
/// TCP rules would not see, no raw, no Unix.
fn internet_sockets() -> Result<Vec<SeccompRule>, seccomp::SeccompError> {
    let flags = (libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK).cast_unsigned();
    let kind = Is::MaskedEq(u64::from(!flags));
    let mut rules = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        for (socket, protocols) in [
            (libc::SOCK_STREAM, [0, libc::IPPROTO_TCP]),
            (libc::SOCK_DGRAM, [0, libc::IPPROTO_UDP]),
        ] {
            for protocol in protocols {
                rules.push(rule(&[
                    (0, Is::Eq, family.cast_unsigned().into()),
                    (1, kind.clone(), socket.cast_unsigned().into()),
                    (2, Is::Eq, protocol.cast_unsigned().into()),
                ])?);
            }
        }
    }
    Ok(rules)
}

/// setsockopt(2): no delay for small writes, and SO_LINGER to reset a transparent connection that is refused.
/// No source routing, no marks, no devices.
fn socket_options() -> Result<Vec<SeccompRule>, seccomp::SeccompError> {
    [
        (libc::IPPROTO_TCP, libc::TCP_NODELAY),
        (libc::SOL_SOCKET, libc::SO_LINGER),
    ]
    .into_iter()
    .map(|(level, option)| {
        let (level, option) = (level.cast_unsigned().into(), option.cast_unsigned().into());
        rule(&[(1, Is::Eq, level), (2, Is::Eq, option)])
    })
    .collect()
}

/// fcntl(2): flags, no locks, no owners, no signals.
fn descriptor_flags() -> Result<Vec<SeccompRule>, seccomp::SeccompError> {
    [
        libc::F_GETFD,
        libc::F_GETFL,
        libc::F_SETFL,
        libc::F_DUPFD_CLOEXEC,
    ]
    .into_iter()
    .map(|command| rule(&[(1, Is::Eq, command.cast_unsigned().into())]))
    .collect()
}

/// All of these arguments (number, comparison, value; the lower 32 bits) together.
fn rule(arguments: &[(u8, Is, u64)]) -> Result<SeccompRule, seccomp::SeccompError> {
    let conditions = arguments
        .iter()
        .map(|(number, is, value)| Argument::new(*number, Len::Dword, is.clone(), *value))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(SeccompRule::new(conditions)?)
}
