//! The helper that connects to the jail's own ports: `portcullis-init reach`, outside of the jail but in its
//! network.
//!
//! Owns: each socket that it makes, until it is sent to the session. Trusts: its session. Never: reads or
//! writes a byte of a connection, connects anywhere but to the jail's loopback, enters another network than
//! the one it was given, least of all the host's ([`namespace::enter_network`]); runs longer than its
//! session.
//!
//! A process of its own because the session is not to change its namespaces, and a new socket belongs to
//! the network of the process that makes it (network_namespaces(7)). One serves the whole session: entering
//! costs a process, connecting does not.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Child, ExitCode};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::sockopt::SendTimeout;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, connect, setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use seccompiler::{
    BackendError, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Is,
    SeccompCondition as Argument, SeccompRule,
};

use super::error::JailError;
use super::footing::Footing;
use crate::exit::Exit;
use crate::policy::Port;
use crate::sys::fd::proc_path;
use crate::sys::process::Spawn;
use crate::sys::seccomp::{Table, allow_only, install};
use crate::sys::{capability, fd, harden, namespace, signal};
use crate::wire::frame::Received;
use crate::wire::reach::{Reach, Reached};
use crate::wire::{Channel, WireError};

/// How long one connect may take: on a loopback it waits only where the listener's backlog is full.
const SECONDS: i64 = 2;

/// Nothing that the helper is asked for takes this long.
const ANSWER: Duration = Duration::from_secs(10);

/// Where programs of the jail listen: the first that does not refuse.
const LOOPBACKS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];

/// The session's side. Dropping it kills the helper.
#[derive(Debug)]
pub struct Reacher {
    channel: Channel,
    process: Child,
}

impl Reacher {
    /// Starts the process: the program of init with one argument. It enters this network namespace.
    pub fn start(init: &File, network: &OwnedFd, footing: Footing) -> Result<Self, JailError> {
        let failed = |source| JailError::Start {
            what: "portcullis-init reach",
            source,
        };
        let (channel, theirs) = Channel::pair().map_err(failed)?;
        // A helper that hangs must not stop the session as well.
        for kind in [Timeout::Recv, Timeout::Send] {
            set_socket_timeout(&channel, kind, Some(ANSWER))
                .map_err(|errno| failed(errno.into()))?;
        }
        let network = network.try_clone().map_err(failed)?;
        let spawn = Spawn::new(Path::new(&proc_path(init)))
            .arg("reach")
            .fd(theirs, 3)
            .fd(network, 4)
            .own_process_group();
        let process = footing.raise(spawn).start().map_err(failed)?;
        Ok(Self { channel, process })
    }

    /// Orders a connection; the answer comes on [`Reacher::as_fd`].
    pub fn order(&self, port: Port) -> Result<(), WireError> {
        self.channel.send(&Reach { port })
    }

    /// Takes an answer; waits for it if there is none.
    pub fn answer(&self) -> Result<Received<Reached>, WireError> {
        self.channel.recv_with()
    }
}

impl AsFd for Reacher {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

impl Drop for Reacher {
    fn drop(&mut self) {
        // It holds nothing that needs an end of its own. An error means that it is gone.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// Entry of `portcullis-init reach`.
pub(super) fn main() -> ExitCode {
    match serve() {
        Ok(()) | Err(WireError::Closed) => Exit::Success.into(),
        Err(_) => Exit::Internal.into(),
    }
}

fn serve() -> Result<(), WireError> {
    let channel = Channel::from(fd::inherit(3)?);
    let network = fd::inherit(4)?;
    if let Err(why) = enter(network) {
        return channel.send(&Reached::Unable(why));
    }
    loop {
        let Reach { port } = channel.recv()?;
        match reach(port) {
            Ok(socket) => channel.send_with(&Reached::Connected, &[socket.as_fd()])?,
            Err(errno) => channel.send(&Reached::Refused(errno as i32))?,
        }
    }
}

/// The list: the jail's network, and nothing else any more.
fn enter(network: OwnedFd) -> Result<(), String> {
    fn at<E: std::fmt::Display>(step: &'static str) -> impl FnOnce(E) -> String {
        move |error| format!("{step}: {error}")
    }
    signal::ignore_all().map_err(at("ignore signals"))?;
    // 1. The network, while we may join the user namespace that owns it.
    namespace::enter_network(&network).map_err(at("enter the jail's network"))?;
    drop(network);
    // 2. Joining gave us every capability over the jail: none is needed.
    capability::drop_all().map_err(at("drop capabilities"))?;
    // 3. No new privileges, no core dump, no ptrace by the same user.
    harden::harden().map_err(at("harden"))?;
    // 4. Seccomp last: sockets, connects, and the channel.
    let table = table().map_err(at("seccomp table"))?;
    let refuse = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    let program = allow_only(table, refuse).map_err(at("seccomp"))?;
    install(&program).map_err(at("seccomp"))
}

/// A connection to the first loopback address whose port does not refuse.
fn reach(port: Port) -> nix::Result<OwnedFd> {
    let mut refused = Errno::ECONNREFUSED;
    for loopback in LOOPBACKS {
        match connected(SocketAddr::new(loopback, port.number())) {
            // The latter three: half of the jail's network is not there, which is as good as nobody listening.
            Err(
                Errno::ECONNREFUSED
                | Errno::EAFNOSUPPORT
                | Errno::EADDRNOTAVAIL
                | Errno::ENETUNREACH,
            ) => {}
            Ok(socket) => return Ok(socket),
            Err(errno) => refused = errno,
        }
    }
    Err(refused)
}

fn connected(to: SocketAddr) -> nix::Result<OwnedFd> {
    let family = match to {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, SendTimeout, &TimeVal::seconds(SECONDS))?;
    connect(socket.as_raw_fd(), &SockaddrStorage::from(to))?;
    setsockopt(&socket, SendTimeout, &TimeVal::zero())?;
    Ok(socket)
}

/// What is left to the helper.
fn table() -> Result<Table, BackendError> {
    let is = |place, value: i32| {
        Argument::new(place, Len::Dword, Is::Eq, u64::from(value.cast_unsigned()))
    };
    let mut sockets = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
        sockets.push(SeccompRule::new(vec![
            is(0, family)?,
            is(1, kind)?,
            is(2, 0)?,
        ])?);
    }
    let time_out = SeccompRule::new(vec![is(1, libc::SOL_SOCKET)?, is(2, libc::SO_SNDTIMEO)?])?;
    let mut table: Table = [
        // The channel, and what is made for it.
        libc::SYS_recvmsg,
        libc::SYS_sendmsg,
        libc::SYS_connect,
        libc::SYS_close,
        // Memory.
        libc::SYS_brk,
        libc::SYS_mmap,
        libc::SYS_mremap,
        libc::SYS_munmap,
        libc::SYS_madvise,
        // The end.
        libc::SYS_exit,
        libc::SYS_exit_group,
        libc::SYS_sigaltstack,
        libc::SYS_rt_sigreturn,
        libc::SYS_restart_syscall,
    ]
    .into_iter()
    .map(|call| (call, Vec::new()))
    .collect();
    table.insert(libc::SYS_socket, sockets);
    table.insert(libc::SYS_setsockopt, vec![time_out]);
    Ok(table)
}

/// What a refusal means to whoever asked.
pub fn explain(port: Port, errno: i32) -> String {
    match Errno::from_raw(errno) {
        Errno::ECONNREFUSED => format!("nobody listens on port {} in the session", port.number()),
        Errno::EINPROGRESS | Errno::EAGAIN => format!(
            "port {} of the session takes no connection within {SECONDS} s: its program hangs",
            port.number()
        ),
        _ => format!(
            "port {} of the session: {}",
            port.number(),
            io::Error::from_raw_os_error(errno)
        ),
    }
}
